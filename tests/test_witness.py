"""Encoders that keep their promises in the check and break them later: what finds them, how surely, and in which order
clips come.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import socket
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from effort import count
from test_evaluation import ENCODER, Place, make_place
from tones import write_tones

from ranker.data.shards import index_shard
from ranker.errors import ParticipantError
from ranker.evaluation import evaluate
from ranker.home import Home
from ranker.job import JobContext
from ranker.lalm.features import Excerpt, FeatureStore, calls, encode_calls, encode_secretly, shuffled
from ranker.lalm.order import FILE_NAME, SecretOrder
from ranker.sandbox import wire
from ranker.sandbox.base import Audio, Encoder, EncoderSpec, Features
from ranker.sandbox.check import check_encoder
from ranker.sandbox.client import EncoderClient, clip_seed
from ranker.sandbox.faults import Ending
from ranker.sandbox.memory import PeakMemory
from ranker.sandbox.none import NoSandbox
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import HONEST_CHANCE, HONEST_SHARE, SAMPLES, Witness, allowed, confirm, tail, unseen
from ranker.settings import Limits, Probes
from ranker.types import EncoderSource

ATTACKS = Path(__file__).parent / "attacks"
SECURITY = Path(__file__).parent.parent / "docs" / "security.md"
LIMITS = Limits(memory_gb=1.5, cpus=1.0, pids=48, scratch_mb=16, log_kb=64, load_timeout_s=60, call_timeout_s=60)
OFTEN = Probes(one_in=500, at_least=30)
CLIPS = 60


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacks as one submission."""
    folder = tmp_path_factory.mktemp("late")
    for above in (folder, *folder.parents):
        if above.owner() == "root" and "pytest-" in str(above):
            above.chmod(0o755)
    for file in ATTACKS.glob("*.py"):
        shutil.copy(file, folder)
    return folder


def spec(tree: Path, file: str) -> EncoderSpec:
    return EncoderSpec(tree=tree, source=EncoderSource(root=".", module=f"{file}.py"))


def clip(how: int, seconds: float = 0.1) -> Audio:
    return np.random.default_rng(how).standard_normal(round(16_000 * seconds)).astype(np.float32)


def run_stage(
    encoder: Encoder, folder: Path, *, clips: int = CLIPS, together: int = 1, probes: Probes = OFTEN
) -> Witness:
    """A stage as an evaluation does it."""
    witness = Witness(encoder, probes)
    witness.begin_stage("training", clips)
    for start in range(0, clips, together):
        witness.encode([clip(how) for how in range(start, min(start + together, clips))])
    witness.end_stage(folder, "training")
    return witness


# -- probes in the running process


@pytest.mark.parametrize(("attack", "together"), [("late_counts", 1), ("late_clock", 1), ("late_neighbours", 4)])
def test_what_changes_after_the_check_is_found_while_it_runs(
    bubblewrap: ServedSandbox, tree: Path, tmp_path: Path, attack: str, together: int
) -> None:
    """The probes end its stage with the evidence: which clip, when, by how much. The first passes a whole check."""
    if attack == "late_counts":
        assert check_encoder(bubblewrap, spec(tree, attack), LIMITS).batch_invariant
    words = (
        r"\d+ of \d+ clips got other features when the same process was asked for them again, alone \(clip \d+ of the "
        r"stage training, 0\.10 s long, asked again after clip \d+ at 20\d\d-.* UTC: a difference of [\d.e+-]+ of the"
    )
    with bubblewrap.start(spec(tree, attack), LIMITS) as encoder, pytest.raises(ParticipantError, match=words):
        run_stage(encoder, tmp_path, together=together)
    assert list(tmp_path.iterdir()) == []


def test_what_the_process_remembers_is_found_by_another(bubblewrap: ServedSandbox, tree: Path, tmp_path: Path) -> None:
    """Asked again, it repeats what it said: the probes see nothing, and the fresh process in the end does."""
    with bubblewrap.start(spec(tree, "late_remembers"), LIMITS) as encoder:
        witness = run_stage(encoder, tmp_path)
    assert witness.probed.to_json()["differing"] == 0
    assert witness.probed.made == OFTEN.at_least
    with pytest.raises(ParticipantError, match=r"in the stage training of the evaluation \d of 8 clips"):
        confirm(bubblewrap, spec(tree, "late_remembers"), LIMITS, [tmp_path])


def test_an_honest_encoder_is_asked_again_and_passes(bubblewrap: ServedSandbox, tree: Path, tmp_path: Path) -> None:
    """The control: the same stage, the same probes, batches too, and no difference but rounding."""
    with bubblewrap.start(spec(tree, "honest"), LIMITS) as encoder:
        witness = run_stage(encoder, tmp_path, together=4)
    found = witness.probed.to_json()
    assert (found["made"], found["differing"]) == (OFTEN.at_least, 0)
    assert found["largest_difference"] < 1e-3
    confirm(bubblewrap, spec(tree, "honest"), LIMITS, [tmp_path])


NOISY = """
import os, torch

class NoisyEncoder(torch.nn.Module):
    output_dim = 4

    def __init__(self):
        super().__init__()
        self.salt = int.from_bytes(os.urandom(2), "big")

    def forward(self, audio, mask=None):
        salt = {salt}
        return torch.full((len(audio), 5, 4), float(salt)) + torch.arange(5)[:, None], None
"""


@pytest.mark.parametrize(
    ("salt", "words"),
    [
        ('int.from_bytes(os.urandom(2), "big")', "the same clip got other features after other clips had been"),
        ("self.salt", "two fresh processes gave different ones"),
    ],
)
def test_who_is_merely_random_is_told_at_intake(tmp_path: Path, salt: str, words: str) -> None:
    """Randomness of each call, or of each process, is refused by the check, which says what to do; no more."""
    (tmp_path / "noisy_encoder.py").write_text(NOISY.replace("{salt}", salt))
    with pytest.raises(ParticipantError, match=words):
        check_encoder(NoSandbox(), spec(tmp_path, "noisy_encoder"), LIMITS)


class Scripted:
    """An encoder in this process: honest about a clip, or about a call, as `cheats` decides."""

    output_dim = 2
    attribute = "ScriptedEncoder"

    def __init__(self, share: float = 0.0, seed: int = 0) -> None:
        self.asked: list[int] = []
        self._share = share
        self._random = random.Random(seed)
        self._cheated: dict[bytes, bool] = {}

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """A share of the clips gets other features at each call."""
        found = []
        for one in clips:
            self.asked.append(round(float(one[0])))
            cheats = self._cheated.setdefault(one.tobytes(), self._random.random() < self._share)
            lie = self._random.random() + 1 if cheats else 0.0
            found.append(np.full((2, 2), 1.0 + lie, dtype=np.float32))
        return found


def numbered(how: int) -> Audio:
    return np.full(20, how, dtype=np.float32)


def stage_of(encoder: Encoder, clips: int, probes: Probes) -> bool:
    """Whether a stage of so many clips ends well."""
    witness = Witness(encoder, probes)
    witness.begin_stage("training", clips)
    try:
        for how in range(clips):
            witness.encode([numbered(how)])
    except ParticipantError:
        return False
    return True


def test_how_many_probes_a_stage_has_and_that_any_moment_may_be_one(tmp_path: Path) -> None:
    """One in 500, three at least, all where there are fewer clips; over many stages each clip is followed by one."""
    for clips, expected in ((5_000, 10), (600, 3), (40, 3), (2, 2), (0, 0)):
        encoder = Scripted()
        witness = Witness(encoder, Probes())
        witness.begin_stage("training", clips)
        for how in range(clips):
            witness.encode([numbered(how)])
        witness.end_stage(tmp_path, "training")
        assert len(encoder.asked) - clips == witness.probed.made == expected
    moments: set[int] = set()
    clips_asked: set[int] = set()
    for _ in range(300):
        encoder = Scripted()
        assert stage_of(encoder, 40, Probes())
        places = [at for at, how in enumerate(encoder.asked) if how in encoder.asked[:at]]
        moments |= {at - before for before, at in enumerate(places)}
        clips_asked |= {encoder.asked[at] for at in places}
    assert len(moments) > 30
    assert clips_asked == set(range(40))


def test_a_stage_that_ends_early_has_its_probes_all_the_same(tmp_path: Path) -> None:
    """Where the cache is full after a few clips, the stage still has three; what comes later counts to the next one."""
    encoder = Scripted()
    witness = Witness(encoder, Probes())
    witness.begin_stage("training", 1_000)
    for how in range(5):
        witness.encode([numbered(how)])
    witness.end_stage(tmp_path, "training")
    assert witness.probed.made >= 3
    for how in range(5, 20):
        witness.encode([numbered(how)])
    witness.begin_stage("task-a", 10)
    for how in range(20, 30):
        witness.encode([numbered(how)])
    witness.end_stage(tmp_path, "task-a")
    assert witness.probed.made >= 6
    kept: set[int] = set()
    with np.load(tmp_path / "task-a.witness.npz") as arrays:
        kept |= {int(arrays[f"c{i}"][0]) for i in range(len(arrays) // 2)}
    assert len(kept) == SAMPLES
    assert kept <= set(range(5, 30))


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_the_chance_to_stay_unseen_is_what_the_formula_says(share: float) -> None:
    """Encoders that lie about a share of the clips pass as often as `unseen` says, within four standard errors.

    A verdict is given after each probe, so a few more are found than by one look at the end: the formula is a bound.
    """
    runs, probes = count("stages of encoders that cheat on some clips", short=400, long=4_000), 20
    passed = sum(stage_of(Scripted(share, seed), 100, Probes(at_least=probes)) for seed in range(runs))
    chance = unseen(share, probes)
    error = (chance * (1 - chance) / runs) ** 0.5
    assert passed / runs <= chance + 4 * error
    assert passed / runs >= 0.6 * chance - 4 * error


def test_an_honest_quantiser_is_not_convicted() -> None:
    """Where 2 of 100 clips flip a code by rounding, at most one look in 500 convicts, for any number of clips; and one
    clip alone never does.
    """
    for asked in (*range(1, 60), 100, 230, 400):
        assert tail(asked, allowed(asked) + 1, HONEST_SHARE) < HONEST_CHANCE
    assert [allowed(asked) for asked in (0, 1, 2, 4, 8, 100)] == [0, 1, 1, 2, 2, 7]


def test_the_table_of_the_security_document_is_the_formula() -> None:
    """Who decides how often to probe reads these figures."""
    seen = 0
    for line in SECURITY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].endswith("%") and cells[0][:-1].isdigit():
            share = int(cells[0][:-1]) / 100
            assert cells[1:] == [f"{unseen(share, asked):.2g}" for asked in (8, 30, 72, 230)], line
            seen += 1
    assert seen >= 4


# -- the secret order


def test_the_order_is_a_function_of_the_secret_and_of_the_set(tmp_path: Path) -> None:
    """Kept with the job, readable by us alone, drawn anew for another job; in what order calls came is no matter."""
    (tmp_path / "other").mkdir()
    first, again, other = (SecretOrder.of_job(folder) for folder in (tmp_path, tmp_path, tmp_path / "other"))
    assert first == again != other
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert "secret=" not in repr(first)
    names = [f"clip {at}" for at in range(200)]
    found = first.shuffled(names, names)
    assert sorted(found) == sorted(names)
    assert found not in (names, other.shuffled(names, names))
    assert found == first.shuffled(names[::-1], names[::-1])
    neighbours = sum(abs(names.index(one) - names.index(two)) == 1 for one, two in pairwise(found))
    assert neighbours < 12  # two are expected


@pytest.mark.parametrize("max_bytes", [0, 1_000, 10**6])
def test_features_come_in_the_plans_order_whatever_order_they_were_made_in(tmp_path: Path, max_bytes: int) -> None:
    """With room for none, some or all of them: the same calls with the same members, the same features."""
    write_tones(tmp_path / "tones.tar", [0.1 + 0.01 * (at % 15) for at in range(30)])
    plan = calls((Excerpt(clip=each) for each in index_shard(tmp_path / "tones.tar").clips), batch_invariant=True)

    class Levels:
        output_dim, attribute = 3, "Levels"

        def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
            orders[-1].append(round(sum(float(np.abs(each).sum()) for each in clips)))
            return [np.full((4, 3), [len(each), each.std(), len(clips)], np.float32) for each in clips]

    orders: list[list[int]] = [[]]
    expected = list(encode_calls(tmp_path, Levels(), plan))
    for secret in (b"one", b"two"):
        orders.append([])
        found = list(
            encode_secretly(
                tmp_path, Levels(), plan, order=SecretOrder(secret=secret), path=tmp_path / "f", max_bytes=max_bytes,
                on_progress=lambda *_: None,
            )
        )  # fmt: skip
        assert [call for call, _ in found] == [call for call, _ in expected]
        for (_, one), (_, other) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    if max_bytes == 10**6:
        assert len({tuple(order) for order in orders}) == 3
        assert len({tuple(sorted(order)) for order in orders}) == 1


SEEING = ENCODER.replace(
    "        frames =",
    "        open({path!r}, 'a').write(''.join(f'{{clip.abs().sum():.6f}}\\n' for clip in audio))\n        frames =",
)


def run_with(place: Place, root: Path, secret: bytes, attempts: Sequence[int] = (1,)) -> tuple[list[str], Path]:
    """Evaluate a copy of a home under a given secret: what the encoder was sent, line by line, and the run's folder."""
    shutil.copytree(place.home.root, root)
    copy, seen = Place(home=Home(root=root)), root / "seen"
    tree = copy.home.submissions / ("a" * 64) / "tree"
    (tree / "encoder.py").write_text(SEEING.replace("{path!r}", repr(str(seen))).replace("{{", "{").replace("}}", "}"))
    context = alone(copy, attempts[0])
    (context.run_folder.parent / FILE_NAME).write_bytes(secret)
    for attempt in attempts:
        context = alone(copy, attempt)
        if attempt != attempts[-1]:
            with pytest.raises(KeyboardInterrupt):
                evaluate(dataclasses.replace(context, report=stop_in_training))
        else:
            evaluate(context)
    assert (context.run_folder.parent / FILE_NAME).read_bytes() == secret
    return seen.read_text().splitlines(), context.run_folder


def alone(place: Place, attempt: int) -> JobContext:
    """An attempt whose encoder gets one clip at a time, so that there is an order to be seen."""
    context = place.context(attempt)
    check = dict(context.submission.check or {})
    check["encoder"] = {**check["encoder"], "batch_invariant": False}
    return dataclasses.replace(context, submission=dataclasses.replace(context.submission, check=check))


def stop_in_training(progress: Any) -> None:
    """What a kill does, after a checkpoint."""
    if progress.stage == "train" and progress.done == 4:
        raise KeyboardInterrupt


@pytest.mark.dear(day=1)
def test_results_do_not_depend_on_the_secret(tmp_path: Path) -> None:
    """A run, and one with another secret that was stopped and resumed: another order at the encoder, the same bits of
    weights and answers.
    """
    place = make_place(tmp_path / "first", threads=1)
    orders, weights, answers, probes = [], [], [], []
    for name, secret, attempts in (("a", b"1" * 32, (1,)), ("b", b"2" * 32, (1, 2))):
        seen, folder = run_with(place, tmp_path / name, secret, attempts)
        orders.append(tuple(dict.fromkeys(seen)))
        weights.append((folder / "step-00000004" / "trained.safetensors").read_bytes())
        answers.append((folder / "predictions" / "pitch.parquet").read_bytes())
        probes.append(json.loads((folder / "manifest.json").read_text())["probes"])
    assert len(set(orders)) == 2
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len(set(weights)) == len(set(answers)) == 1
    assert all(each["differing"] == 0 and each["made"] >= 3 for each in probes)


# -- what crosses the wire


class Nobody:
    """A process that does not matter."""

    def alive(self) -> bool:
        return True

    def end(self, *, kill: bool) -> Ending:
        return Ending(exit_code=0, killed_by_us=kill, out_of_memory=False, log="")

    def peak_memory(self) -> PeakMemory | None:
        return None


def test_only_audio_crosses_the_wire() -> None:
    """A request for features holds samples, how many, and numbers that are functions of these: no name, no number of
    the clip, no task, no benchmark.
    """
    ours, theirs = socket.socketpair()
    clips = [clip(1), clip(2)]
    sent: list[tuple[dict[str, Any], Any]] = []

    def serve() -> None:
        sent.append(wire.receive(theirs, max_payload=10**6, deadline=time.monotonic() + 60))
        theirs.close()

    thread = Thread(target=serve)
    thread.start()
    client = EncoderClient(ours, Nobody(), LIMITS)
    with pytest.raises(Exception, match="encoded"):
        client.call(clips)
    thread.join()
    ours.close()
    ((header, numbers),) = sent
    np.testing.assert_array_equal(numbers, np.concatenate(clips))
    known = {"op": "encode", "lengths": [1_600, 1_600], "mask": True, "seed": clip_seed(clips[0])}
    assert {name: header[name] for name in known} == known
    assert set(header) == {*known, "max_frames"}
    assert isinstance(header["max_frames"], int)


def test_training_and_test_clips_go_through_the_same_order(tmp_path: Path) -> None:
    """The store encodes the plan that it is given: shuffled calls in, shuffled calls at the encoder."""
    write_tones(tmp_path / "tones.tar", [0.1] * 40)
    plan = calls((Excerpt(clip=each) for each in index_shard(tmp_path / "tones.tar").clips), batch_invariant=False)
    secret = shuffled(plan, SecretOrder(secret=b"x"))
    assert secret != plan
    assert sorted(call[0].key for call in secret) == sorted(call[0].key for call in plan)
    encoder = Scripted()
    with FeatureStore(data=tmp_path, encoder=encoder, plan=secret, path=tmp_path / "f", max_bytes=10**6) as store:
        store.fill(lambda *_: None)
        assert list(store._places) == [call[0].key for call in secret]
