"""The submissions of tests/attacks that return what they should not, or pretend to be what they are not: what of it
reaches anybody, whom the sentence blames, and that the next submission runs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_table import Layer
from attack_world import ATTACKS, LIMITS, NO_IMAGE, World, assert_next_one_runs, clip, honest, load, spec
from effort import todays
from lifting import lifted

from ranker.errors import InfraError, ParticipantError
from ranker.sandbox import client as room
from ranker.sandbox.backends import backend
from ranker.sandbox.base import Audio, Encoder, EncoderSpec, Features
from ranker.sandbox.check import check_encoder, near, probe_clip
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import MAX_MAGNITUDE, max_feature_bytes
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import SAMPLES, Witness, confirm
from ranker.settings import Limits
from ranker.types import EncoderSource, SandboxName


@pytest.fixture(scope="module", params=[SandboxName.BUBBLEWRAP, SandboxName.DOCKER])
def client(request: pytest.FixtureRequest, world: World) -> Iterator[EncoderClient]:
    """One server for all attacks that it must survive, on each backend that confines."""
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    with backend(request.param, image=NO_IMAGE).connect(spec(world, "honest"), LIMITS) as connected:
        yield connected


def test_files_called_like_the_servers_modules_are_not_read(client: EncoderClient) -> None:
    """torch.py, json.py, sitecustomize.py, a .pth and others lie beside the encoder, and would end the process."""
    assert load(client, "neighbours") == []
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
    assert_next_one_runs(client)


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


def test_without_the_look_at_values_they_would_reach_the_training(
    client: EncoderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: NaN and huge numbers, which are tensors of the right shape, come through if nobody looks."""
    monkeypatch.setattr(room, "split_features", lambda features, _mask: (list(features), []))
    assert load(client, "odd_tensors") == []
    assert np.isnan(client.encode([clip(12)])[0]).all()
    assert np.abs(client.encode([clip(13)])[0]).max() > MAX_MAGNITUDE


def test_without_a_size_to_hold_it_to_it_may_grow(client: EncoderClient) -> None:
    """The control of another_size: what it grew to is served to whoever does not know what the check found."""
    assert load(client, "another_size") == []
    assert client.encode([clip()])[0].shape == (50, 32)


def test_unusual_layouts_are_accepted(client: EncoderClient) -> None:
    """Doubles, transposed memory, a list for a tuple, a mask of bools: the features are right."""
    assert load(client, "odd_layouts") == []
    for how in range(3):
        np.testing.assert_allclose(client.encode([clip(how)])[0], honest(clip(how)), atol=1e-5)


# -- what does not depend on the backend


PATCHED_HERE = """
import sys
sys.path.append(sys.argv[1])
import torch
import patches_scorer
patches_scorer.ScorerEncoder()(torch.ones(1, 16000))
import json
print(json.loads("0"), float(torch.nn.functional.cross_entropy(torch.ones(1, 3), torch.tensor([0]))))
"""


def test_another_class_than_asked_for_is_refused(bubblewrap: ServedSandbox, world: World) -> None:
    """What a patched server calls the class does not reach anybody. The control asks for no class: it is believed."""
    with bubblewrap.connect(spec(world, "honest"), LIMITS) as client:
        assert client.load(EncoderSource(root=".", module="forged_name.py")).attribute == "NiceEncoder"
        with pytest.raises(ParticipantError, match="another class than was asked for"):
            client.load(EncoderSource(root=".", module="forged_name.py", attribute="ForgingEncoder"))


def test_another_output_dim_than_in_the_check_is_refused(bubblewrap: ServedSandbox, world: World) -> None:
    """The evaluation asks for what the check found."""
    grown, words = spec(world, "another_size", output_dim=16), "was 16 in the check and is 32 now"
    with pytest.raises(ParticipantError, match=words), bubblewrap.start(grown, LIMITS):
        pass


def kills_itself(sandbox: ServedSandbox, world: World) -> None:
    """One attempt could have been our machine, and is written down as ours; the worker counts such attempts of a job
    (tests/test_worker.py).
    """
    words = "was killed while it encoded"
    with sandbox.start(spec(world, "kills_itself"), LIMITS) as encoder, pytest.raises(InfraError, match=words):
        encoder.encode([clip()])


def blames_machine(sandbox: ServedSandbox, world: World) -> None:
    """The words of engines, disks and drivers, names of our own errors, and at last the status of a killed process:
    each is told as its own. The control is `kills_itself`, which no word of its own is needed for.
    """
    with sandbox.connect(spec(world, "blames_machine"), LIMITS) as client:
        assert load(client, "blames_machine") == []
        for how in range(9):
            (violation,) = client.call([clip(how)]).violations
            assert violation.startswith("the encoder raised an exception on a clip of 1.00 s: "), violation
        with pytest.raises(ParticipantError, match="ended its own process with exit code 128 while it encoded"):
            client.encode([clip(9)])


def patches_scorer(sandbox: ServedSandbox, world: World) -> None:
    """What it patches is patched in its own process."""
    with sandbox.start(spec(world, "patches_scorer"), LIMITS) as encoder:
        encoder.encode([clip()])
    found = (json.loads("0"), float(torch.nn.functional.cross_entropy(torch.ones(1, 3), torch.tensor([0]))))
    assert found == (0, pytest.approx(np.log(3)))


def patches_scorer_here(_sandbox: ServedSandbox, world: World) -> None:
    """The control, which has encoder and scorer in one process."""
    own = world.folder / "without_the_harmful"
    own.mkdir()
    for name in ("patches_scorer.py", "honest.py"):
        (own / name).write_text((ATTACKS / name).read_text())
    command = [sys.executable, "-c", PATCHED_HERE, str(own)]
    assert subprocess.check_output(command, text=True) == "{'score': 1.0} 0.0\n"


def neighbours_first(_sandbox: ServedSandbox, world: World) -> None:
    """The control of `neighbours`: were its folder searched first, its numpy.py would end the server."""
    words = "ended with exit code 3 .*before any submitted code ran"
    with lifted((Layer.SEARCH_PATH,), world) as sandbox, pytest.raises(InfraError, match=words):
        sandbox.connect(spec(world, "neighbours"), LIMITS).__enter__()


ALONE = [kills_itself, blames_machine, patches_scorer, patches_scorer_here, neighbours_first]


class Case:
    """One of them, so that a test can call its assertions by name."""

    def __init__(self, case: Callable[[ServedSandbox, World], None]) -> None:
        self.assert_it = case


@pytest.mark.parametrize("case", todays("lies with a server of their own", ALONE))
def test_a_lie_with_a_server_of_its_own(
    bubblewrap: ServedSandbox, world: World, case: Callable[[ServedSandbox, World], None]
) -> None:
    """Each as its function says: failures that look like ours, patches, modules in the way."""
    Case(case).assert_it(bubblewrap, world)


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


@pytest.mark.parametrize("attack", todays("cheats that pass the check", ["counts_calls", "peeks", "counts_in_scratch"]))
def test_promises_kept_in_the_check_only_are_found(
    bubblewrap: ServedSandbox, world: World, tmp_path: Path, attack: str
) -> None:
    """It knows the probes and passes the check; what it does with other clips, a second process does not repeat. The
    control is the evaluation without a witness: clips get other features in company than alone.
    """
    result = check_encoder(bubblewrap, spec(world, attack), LIMITS)
    assert result.batch_invariant
    with bubblewrap.start(spec(world, attack), LIMITS) as encoder:
        assert not near(encoder.encode([clip(2), clip(3)])[0], honest(clip(2)))
        witnessed(encoder, tmp_path, [clip(how) for how in range(2, 14)], together=4)
    with pytest.raises(ParticipantError, match=r"in the stage training of the evaluation \d of 8 clips"):
        confirm(bubblewrap, spec(world, attack), LIMITS, [tmp_path])


class ScriptedSandbox:
    """A sandbox in name only, whose encoder is scripted and honest."""

    name = SandboxName.NONE

    @contextmanager
    def start(self, _spec: EncoderSpec, _limits: Limits) -> Iterator[Encoder]:
        yield Scripted(set())


def test_an_honest_encoder_passes_and_its_samples_go(world: World, tmp_path: Path) -> None:
    """Also where an earlier attempt left some; a folder without any, and a second call, ask nothing."""
    earlier, now = tmp_path / "attempt-0001", tmp_path / "attempt-0002"
    for folder in (earlier, now):
        folder.mkdir()
    clips = [probe_clip(0.5, seed) for seed in range(3)]
    for folder in (earlier, now):
        witnessed(Scripted(set()), folder, clips, together=3)
    confirm(ScriptedSandbox(), spec(world, "honest"), LIMITS, [earlier, now])
    assert [*earlier.iterdir(), *now.iterdir()] == []


def test_what_a_killed_attempt_did_counts(world: World, tmp_path: Path) -> None:
    """An encoder that cheats, has its work kept, kills itself and is honest afterwards is found all the same."""
    earlier, now = tmp_path / "attempt-0001", tmp_path / "attempt-0002"
    for folder, cheats in ((earlier, {1, 2, 3}), (now, set[int]())):
        folder.mkdir()
        witnessed(Scripted(cheats), folder, [clip(how) for how in (1, 2, 3)], together=1)
    with pytest.raises(ParticipantError, match="3 of 3 clips"):
        confirm(ScriptedSandbox(), spec(world, "honest"), LIMITS, [earlier, now])


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
