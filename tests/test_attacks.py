"""The submissions of tests/attacks, run in real sandboxes: what each gets, whom the sentence blames, and that the next
submission runs. Its module's docstring says what each tries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ranker.errors import InfraError, ParticipantError
from ranker.sandbox.backends import backend
from ranker.sandbox.base import Audio, Encoder, EncoderSpec, Features
from ranker.sandbox.check import check_encoder, probe_clip
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import MAX_MAGNITUDE, max_feature_bytes
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import SAMPLES, Witness, confirm
from ranker.settings import Limits
from ranker.types import EncoderSource, SandboxName

ATTACKS = Path(__file__).parent / "attacks"
LIMITS = Limits(memory_gb=1.5, cpus=1.0, pids=48, scratch_mb=16, log_kb=64, load_timeout_s=60, call_timeout_s=60)
BRIEF = LIMITS.model_copy(update={"call_timeout_s": 1.0})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All attacks as one submission, and beside them files called like the server's own modules, which do harm."""
    folder = tmp_path_factory.mktemp("attacks")
    for above in (folder, *folder.parents):
        if above.owner() == "root" and "pytest-" in str(above):
            above.chmod(0o755)
    for file in ATTACKS.glob("*.py"):
        shutil.copy(file, folder)
    harm = "import os\nos._exit(3)\n"
    for name in ("torch", "numpy", "json", "struct", "socket", "encoder_server", "sitecustomize", "conftest", "ranker"):
        (folder / f"{name}.py").write_text(harm)
    (folder / "evil.pth").write_text(f"{harm.splitlines()[0]}; os._exit(3)\n")
    return folder


@pytest.fixture(scope="module", params=[SandboxName.BUBBLEWRAP, SandboxName.DOCKER])
def sandbox(request: pytest.FixtureRequest) -> ServedSandbox:
    """Each backend that confines."""
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    return backend(request.param, image="ranker-encoder:none-such")


@pytest.fixture(scope="module")
def client(sandbox: ServedSandbox, tree: Path) -> Iterator[EncoderClient]:
    """One server for all attacks that it must survive."""
    with sandbox.connect(spec(tree, "honest"), LIMITS) as connected:
        yield connected


def spec(tree: Path, attack: str, output_dim: int | None = None) -> EncoderSpec:
    return EncoderSpec(tree=tree, source=EncoderSource(root=".", module=f"{attack}.py"), output_dim=output_dim)


def clip(how: int = 0, seconds: float = 1.0) -> Audio:
    wave = np.random.default_rng(how).standard_normal(round(16_000 * seconds)).astype(np.float32)
    wave[0] = how
    return wave


def honest(wave: Audio) -> Features:
    """What the honest encoder computes, without torch."""
    count = len(wave) // 320
    return wave[: count * 320].reshape(count, 16, 20).mean(-1)


def load(client: EncoderClient, attack: str) -> list[str]:
    return client.load(EncoderSource(root=".", module=f"{attack}.py")).violations()


def assert_next_one_runs(client: EncoderClient) -> None:
    assert load(client, "honest") == []
    np.testing.assert_allclose(client.encode([clip()])[0], honest(clip()), atol=1e-5)


def test_files_called_like_the_servers_modules_are_not_read(client: EncoderClient) -> None:
    """torch.py, json.py, sitecustomize.py, a .pth and others lie beside the encoder, and would end the process."""
    assert_next_one_runs(client)


def test_odd_names_are_no_candidates(client: EncoderClient) -> None:
    """A class is known by a Python name, or not at all: nothing else reaches the database, a terminal or the page."""
    found = client.inspect("odd_names.py", 30)
    assert (found.candidates, found.error) == ({}, None)


def test_leaving_while_being_imported_is_no_success(client: EncoderClient) -> None:
    """Status 0 without a report is told as such, and the server goes on."""
    error = client.inspect("leaves_at_import.py", 30).error
    assert error is not None
    assert "ended its process with status 0" in error.message
    assert_next_one_runs(client)


def test_a_metaclass_cannot_end_the_server(client: EncoderClient) -> None:
    """Whatever raises SystemExit while the class is only looked at becomes a violation."""
    assert any("SystemExit" in violation for violation in load(client, "metaclass"))
    assert_next_one_runs(client)


def test_a_shout_is_one_short_printable_line(client: EncoderClient) -> None:
    """Ten megabytes and control codes become a sentence of a bounded length without either."""
    assert load(client, "shouts") == []
    (violation,) = client.call([clip()]).violations
    assert violation.isprintable()
    assert len(violation) < 1000


ODD_TENSORS = [
    *("layout sparse_coo", "float type", "mask must be None or", "mask must be None or", "0 and 1 only"),
    *("torch.Tensor, but are a list", "exception .* SystemExit", "returned a ndarray", "returned a dict"),
    *("a tuple of 3", "returned None", "NaN or infinite", "NaN or infinite", re.escape(f"{MAX_MAGNITUDE:g}")),
    *("float type", "device meta", "have the shape", "at least one frame", "one row for each"),
    *("at most 4000 frames", "but have 16000"),
]


def test_what_is_no_pair_of_tensors_is_refused(client: EncoderClient) -> None:
    """Types, layouts, shapes, values: each kind is one call, and its sentence names what is wrong."""
    assert load(client, "odd_tensors") == []
    for how, words in enumerate(ODD_TENSORS):
        violations = client.call([clip(how)]).violations
        assert violations, (how, words)
        assert re.search(words, violations[0]), (how, violations)
    assert_next_one_runs(client)


def test_unusual_layouts_are_accepted(client: EncoderClient) -> None:
    """Doubles, transposed memory, a list for a tuple, a mask of bools: the features are right."""
    assert load(client, "odd_layouts") == []
    for how in range(3):
        np.testing.assert_allclose(client.encode([clip(how)])[0], honest(clip(how)), atol=1e-5)


def test_only_the_scratch_folder_can_be_filled_and_only_so_far(client: EncoderClient) -> None:
    """/tmp takes its 16 MiB; no other place takes a byte."""
    assert load(client, "fills") == []
    tmp, *others = client.encode([clip()])[0][0]
    assert 0 < tmp <= LIMITS.scratch_mb
    assert others == [0.0] * len(others)


def test_forks_end_with_the_sandbox(sandbox: ServedSandbox, tree: Path) -> None:
    """All processes taken, all signals ignored: the call's limit is told, and leaving the sandbox ends them all."""
    seed = os.getpid()  # stands in the command lines of the server and of all that it forks
    forking = dataclasses.replace(spec(tree, "forks"), seed=seed)
    with sandbox.start(forking, BRIEF) as encoder:
        assert processes_with(f"--seed\0{seed}\0")
        with pytest.raises(ParticipantError, match="no answer within 1 s"):
            encoder.encode([clip()])
    assert processes_with(f"--seed\0{seed}\0") == []


def processes_with(words: str) -> list[str]:
    """Names of the folders in /proc of processes whose command line holds the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


# -- what does not depend on the backend


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("floods", "7864320000 bytes of numbers, more than"),
        ("deep_json", "header is not JSON"),
    ],
)
def test_forged_answers_are_refused_before_they_cost_anything(
    bubblewrap: ServedSandbox, tree: Path, attack: str, words: str
) -> None:
    """The bound of one answer follows the audio, not what the encoder claims to be."""
    with bubblewrap.start(spec(tree, attack), LIMITS) as encoder, pytest.raises(ParticipantError, match=words):
        encoder.encode([clip()])


def test_another_class_than_asked_for_is_refused(bubblewrap: ServedSandbox, tree: Path) -> None:
    """What a patched server calls the class does not reach anybody."""
    source = EncoderSource(root=".", module="forged_name.py", attribute="ForgingEncoder")
    words = "another class than was asked for"
    with bubblewrap.connect(spec(tree, "honest"), LIMITS) as client, pytest.raises(ParticipantError, match=words):
        client.load(source)


def test_a_process_that_kills_itself_is_not_told_from_our_failure(bubblewrap: ServedSandbox, tree: Path) -> None:
    """Known and accepted: it could have been our machine. The attempts of a job are bounded, so it wins nothing."""
    words = "was killed while it encoded"
    with bubblewrap.start(spec(tree, "kills_itself"), LIMITS) as encoder, pytest.raises(InfraError, match=words):
        encoder.encode([clip()])


def test_another_output_dim_than_in_the_check_is_refused(bubblewrap: ServedSandbox, tree: Path) -> None:
    """The evaluation asks for what the check found."""
    grown, words = spec(tree, "another_size", output_dim=16), "was 16 in the check and is 32 now"
    with pytest.raises(ParticipantError, match=words), bubblewrap.start(grown, LIMITS):
        pass


def test_the_room_for_features_is_generous() -> None:
    """A clip of 0.1 s padded to 30 s by a large encoder fits, 1500 frames of 5120; what fills memory does not."""
    assert max_feature_bytes([1_600]) > 1500 * 5120 * 4
    assert max_feature_bytes([480_000]) > 100 * 30 * 8192 * 4
    assert max_feature_bytes([16_000] * 16) < 2**31


class Scripted:
    """An encoder without a sandbox: honest, but for clips that `cheats` names by their first sample."""

    output_dim = 16
    attribute = "ScriptedEncoder"

    def __init__(self, cheats: set[int]) -> None:
        self.cheats = cheats

    def encode(self, clips: list[Audio], *, seed: int | None = None) -> list[Features]:
        return [honest(one) + (int(one[0]) in self.cheats) for one in clips]


def witnessed(encoder: Encoder, folder: Path, clips: list[Audio], *, together: int) -> None:
    witness = Witness(encoder)
    for start in range(0, len(clips), together):
        witness.encode(clips[start : start + together])
    witness.end_stage(folder, "training")


@pytest.mark.parametrize("attack", ["counts_calls", "peeks"])
def test_promises_kept_in_the_check_only_are_found(
    bubblewrap: ServedSandbox, tree: Path, tmp_path: Path, attack: str
) -> None:
    """It knows the probes and passes the check; what it does with other clips, a second process does not repeat."""
    result = check_encoder(bubblewrap, spec(tree, attack), LIMITS)
    assert result.batch_invariant
    with bubblewrap.start(spec(tree, attack), LIMITS) as encoder:
        witnessed(encoder, tmp_path, [clip(how) for how in range(2, 14)], together=4)
    with pytest.raises(ParticipantError, match=r"in the stage training of the evaluation \d of 8 clips"):
        confirm(bubblewrap, spec(tree, attack), LIMITS, [tmp_path])


def test_an_honest_encoder_passes_and_its_samples_go(bubblewrap: ServedSandbox, tree: Path, tmp_path: Path) -> None:
    """Also where an earlier attempt left some; a folder without any, and a second call, ask nothing."""
    earlier, now = tmp_path / "attempt-0001", tmp_path / "attempt-0002"
    for folder in (earlier, now):
        folder.mkdir()
    clips = [probe_clip(0.5, seed) for seed in range(3)]
    for folder in (earlier, now):
        witnessed(Scripted(set()), folder, clips, together=3)
    confirm(bubblewrap, spec(tree, "honest"), LIMITS, [earlier, now])
    assert [*earlier.iterdir(), *now.iterdir()] == []


def test_what_a_killed_attempt_did_counts(bubblewrap: ServedSandbox, tree: Path, tmp_path: Path) -> None:
    """An encoder that cheats, has its work kept, kills itself and is honest afterwards is found all the same."""
    earlier, now = tmp_path / "attempt-0001", tmp_path / "attempt-0002"
    for folder, cheats in ((earlier, {1, 2, 3}), (now, set[int]())):
        folder.mkdir()
        witnessed(Scripted(cheats), folder, [clip(how) for how in (1, 2, 3)], together=1)
    with pytest.raises(ParticipantError, match="3 of 3 clips"):
        confirm(bubblewrap, spec(tree, "honest"), LIMITS, [earlier, now])


def test_every_clip_of_a_stage_can_be_drawn(tmp_path: Path) -> None:
    """Over many stages of 40 clips each position is kept sometimes, and each sample has its size."""
    kept: set[int] = set()
    for stage in range(200):
        witnessed(Scripted(set()), tmp_path, [clip(how, 0.02) for how in range(40)], together=5)
        with np.load(tmp_path / "training.witness.npz") as arrays:
            found = {int(arrays[f"c{i}"][0]) for i in range(len(arrays) // 2)}
        assert len(found) == SAMPLES, stage
        kept |= found
    assert kept == set(range(40))
