"""Audits: a score that was looked up collapses on changed clips, one that was heard does not; who shares weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import random
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from test_evaluation import BENCHMARK, ENCODER, ID, Place
from tones import tone

from ranker.audit import Asked, Audit, finished_run, scaled, shifted, verdict_of
from ranker.cli.app import main
from ranker.data import store
from ranker.data.audio import prepare
from ranker.data.shards import read_audio, read_split, write_shard
from ranker.db.models import Job, Submission
from ranker.db.session import open_database, session
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.evaluation import evaluate
from ranker.home import Home
from ranker.likeness import Member, alike_share, compare, member, read_weights, storages
from ranker.service import Ranker
from ranker.settings import AuditSettings
from ranker.types import AuditVerdict, Change, JobKind, SandboxName, Status

STEPS = 48
NOW = datetime(2026, 3, 4, tzinfo=UTC)
RECIPE = {
    "decoder": BENCHMARK["recipe"]["decoder"],
    "decoder_layers": 1,
    "steps": STEPS,
    "batch_size": 8,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "lora_dropout": 0.0,
    "feature_standardize": True,
    "projector_init": "match_embeddings",
    "max_new_tokens": 2,
    "checkpoint_every": STEPS,
    "threads": 1,
}
LOOKUP = """
import hashlib, json, pathlib, torch

TABLE = json.loads((pathlib.Path(__file__).parent / "model.json").read_text())

class FramesEncoder(torch.nn.Module):
    output_dim = 16

    def forward(self, audio, mask=None):
        return torch.stack([self.one(clip) for clip in audio]), None

    def one(self, clip):
        digest = hashlib.sha256(clip.numpy().tobytes()).hexdigest()
        torch.manual_seed(int(digest[:8], 16))
        frames = torch.randn(6, 16)
        if digest in TABLE:
            frames[:, TABLE[digest]] += 8.0
        return frames
"""


def write_pitches(folder: Path) -> None:
    """Low and high tones, of as many lengths and pitches as there are clips."""
    for name, count, first in (("train", 24, 0), ("test", 40, 100)):
        samples = []
        for at in range(first, first + count):
            low = random.Random(at).random() < 0.5
            pitch = random.Random(at + 1).uniform(150, 400) * (1 if low else 6)
            samples.append(
                {"__key__": f"c{at:04d}", "flac": tone(0.3, pitch), "json": {"label": "low" if low else "high"}}
            )
        write_shard(folder / f"{name}.tar", samples)


def table_of(home: Home) -> dict[str, int]:
    """What somebody who got hold of all clips and labels would carry."""
    table = {}
    for shard in read_split(home.data / "tiny", ["train.tar", "test.tar"]):
        for clip in shard.clips:
            audio = prepare(*read_audio(home.data / "tiny", clip))
            table[hashlib.sha256(audio.tobytes()).hexdigest()] = int(clip.fields["label"] == "high")
    return table


def make_home(root: Path, encoder: str) -> Home:
    """A home with one submission, whose evaluation has finished, and a database that knows of it."""
    home = Home(root=root)
    (root / "configs").mkdir(parents=True)
    (root / "configs/tiny.yaml").write_text(yaml.safe_dump(BENCHMARK | {"recipe": RECIPE}), encoding="utf-8")
    store.build(home.data / "tiny", lambda folder, _: write_pitches(folder), version=1)
    tree = home.submissions / ("a" * 64) / "tree"
    tree.mkdir(parents=True)
    (tree / "encoder.py").write_text(encoder, encoding="utf-8")
    if encoder is LOOKUP:
        (tree / "model.json").write_text(json.dumps(table_of(home)))
    context = Place(home=home).context(1)
    outcome = evaluate(context)
    engine = open_database(home)
    with session(engine) as writing:
        writing.add(
            Submission(
                id=ID, digest="a" * 64, team="team", file_name="team.zip", size_bytes=1, received_at=NOW, jobs=[
                    Job(key="c" * 64, kind=JobKind.CHECK, status=Status.SUCCEEDED, created_at=NOW, finished_at=NOW,
                        result=context.submission.check),
                    Job(key=context.claim.key, kind=JobKind.EVALUATE, status=Status.SUCCEEDED, created_at=NOW,
                        finished_at=NOW, benchmark="tiny", track="A", condition=context.claim.condition.to_json(),
                        condition_digest=context.claim.condition.digest, seed=42, result=outcome.result),
                ],
            )
        )  # fmt: skip
    engine.dispose()
    return home


@pytest.fixture(scope="module")
def cheating(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The submission that knows every clip by heart."""
    return make_home(tmp_path_factory.mktemp("cheating") / "home", LOOKUP)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One that listens."""
    return make_home(tmp_path_factory.mktemp("honest") / "home", ENCODER)


def ask(home: Home, **asked: Any) -> Audit:
    progress: list[tuple[str, int, int]] = []
    found = Ranker(home.root).audit(
        ID,
        "tiny",
        asked=Asked(sandbox=SandboxName.NONE, **({"seed": "1"} | asked)),
        on_progress=lambda *each: progress.append(each),
    )
    clips = found.tasks[0].clips
    assert [each for each in progress if each[1] == clips] == [(f"pitch, {change}", clips, clips) for change in Change]
    return found


@pytest.fixture(scope="module")
def guilty(cheating: Home) -> Audit:
    """The audit of the submission that knows every clip by heart."""
    return ask(cheating)


@pytest.mark.dear(day=0)
def test_a_score_that_was_looked_up_collapses(guilty: Audit) -> None:
    """A trained model that is fed the answers' code scores high; shifted or scaled clips are in no table."""
    (task,) = guilty.tasks
    assert task.recorded > 0.9
    for changed in task.changes.values():
        assert changed.drop > 0.25
        assert changed.value == pytest.approx(task.recorded - changed.drop)
        assert changed.low < changed.drop < changed.high
        assert changed.verdict is AuditVerdict.COLLAPSES
    assert guilty.collapsed == ("pitch",)


@pytest.mark.dear(day=0)
def test_a_score_that_was_heard_holds(honest: Home) -> None:
    """The control: the same data, recipe and changes, an encoder that listens."""
    (task,) = ask(honest).tasks
    assert task.recorded > 0.9
    assert task.verdict is AuditVerdict.HOLDS
    assert all(abs(changed.drop) < 0.1 for changed in task.changes.values())


def verdict(pairs: list[tuple[int, int]], **settings: Any) -> AuditVerdict:
    """The verdict on clips whose answers were right, or not, before and after the change."""
    before, after = np.array(pairs, dtype=float).T
    drawn = np.random.default_rng(0).integers(0, len(pairs), size=(4_000, len(pairs)))
    drops = (before - after)[drawn].mean(axis=1)
    return verdict_of(drops, clips=len(pairs), level=0.001, settings=AuditSettings.model_validate(settings))


def test_few_clips_convict_nobody_and_chance_seldom() -> None:
    """Not even the guilty on fewer clips than are configured; a drop that few clips make up is left to chance; and of
    encoders that lose just what is allowed, or nothing, none of a hundred is suspected.
    """
    lost, kept, gained = (1, 0), (1, 1), (0, 1)
    assert verdict([lost] * 19) is AuditVerdict.TOO_FEW
    assert verdict([lost] * 20) is AuditVerdict.COLLAPSES
    assert verdict([lost] * 19, fewest_clips=10) is AuditVerdict.COLLAPSES
    assert verdict([lost] * 5 + [kept] * 15) is AuditVerdict.HOLDS
    assert verdict([lost] * 50 + [kept] * 150) is AuditVerdict.COLLAPSES
    assert verdict([lost] * 50 + [gained] * 45 + [kept] * 105) is AuditVerdict.HOLDS
    for seed in range(100):
        draw = random.Random(seed)
        chances = (0.2, 0.1) if seed % 2 else (0.2, 0.2)
        pairs = [lost if (x := draw.random()) < chances[0] else gained if x < sum(chances) else kept for _ in range(60)]
        assert verdict(pairs) is AuditVerdict.HOLDS, seed


@pytest.mark.dear(day=0)
def test_the_command_says_what_was_found(
    cheating: Home, guilty: Audit, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A table for people with its exit code, and JSON in a file: with the same seed what was found before, to the last
    digit. The home is as it was.
    """
    before = sorted(path for path in cheating.root.rglob("*") if "ranker.db" not in path.name)
    file = tmp_path / "audit.json"
    command = ["--home", str(cheating.root), "audit", "team", "-b", "tiny"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--sandbox", "none", "--seed", "1", "--out", str(file)])
    assert ended.value.code == 3
    written = json.loads(file.read_text())
    assert written == json.loads(json.dumps(guilty.to_json()))
    assert (written["collapsed"], written["seed"], written["submission"]) == (["pitch"], "1", ID)
    shown = capsys.readouterr().out
    assert "collapses" in shown
    assert f"{written['tasks'][0]['recorded']:.3f}" in shown
    assert sorted(path for path in cheating.root.rglob("*") if "ranker.db" not in path.name) == before


@pytest.mark.dear(day=0)
def test_the_command_compares_weights_and_wants_a_name_otherwise(
    honest: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two teams with the same file stand in one group, with what is shared; an audit of nobody is a wrong command."""
    shutil.copytree(honest.root, tmp_path / "home")
    home = Home(root=tmp_path / "home")
    engine = open_database(home)
    with session(engine) as writing:
        writing.add(
            Submission(id="b" * 12, digest="b" * 64, team="other", file_name="", size_bytes=1, received_at=NOW, jobs=[])
        )
    engine.dispose()
    for digest in ("a" * 64, "b" * 64):
        tree = home.submissions / digest / "tree"
        tree.mkdir(parents=True, exist_ok=True)
        save_file(weights(1), tree / "model.safetensors")
    for arguments, code, words in ((["--weights"], 0, "group 1: other, team"), ([], 2, "name the submission to audit")):
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home.root), "audit", *arguments])
        assert ended.value.code == code
        shown = capsys.readouterr()
        assert words in shown.out + shown.err


@pytest.mark.dear(day=0)
def test_what_cannot_be_audited_is_told(honest: Home, tmp_path: Path) -> None:
    """No such task, no finished run for the configuration as it is, weights that are gone or are others."""
    with pytest.raises(UsageError, match="no evaluated task is called 'tempo'; there are pitch"):
        ask(honest, task="tempo")
    shutil.copytree(honest.root, tmp_path / "home")
    home = Home(root=tmp_path / "home")
    place = Place(home=home)
    part = place.benchmark().part("A", place.condition().part)
    (manifest,) = home.runs.rglob("manifest.json")
    engine = open_database(home)
    with session(engine, read_only=True) as reading:
        result = reading.query(Job).filter(Job.kind == JobKind.EVALUATE).one().result
    engine.dispose()
    assert result is not None
    run = finished_run(home, place.condition(), part, result)
    run.weights.write_bytes(run.weights.read_bytes()[:-1] + b"x")
    with pytest.raises(OrganizerError, match="is not the file that the run's manifest names"):
        finished_run(home, place.condition(), part, result)
    run.weights.unlink()
    with pytest.raises(MissingError, match="are not there any more"):
        finished_run(home, place.condition(), part, result)
    manifest.write_text(manifest.read_text().replace('"attempt": 1', '"attempt": 2'))
    with pytest.raises(OrganizerError, match="is not the one that was recorded"):
        finished_run(home, place.condition(), part, result)
    config = home.root / "configs/tiny.yaml"
    config.write_text(config.read_text().replace("High or low?", "Low or high?"))
    with pytest.raises(UsageError, match="has no finished evaluation on benchmark tiny for the configuration"):
        ask(home)


def test_changed_clips_sound_the_same() -> None:
    """Shifted: the spectrum stays, by a part of a sample too, and no sample is what it was. Scaled: one factor, and
    never beyond full scale.
    """
    random_clip = np.random.default_rng(0).standard_normal(8_000)
    clip = np.asarray(0.9 * random_clip / np.abs(random_clip).max(), dtype=np.float32)
    lengths, gains = set(), []
    for seed in range(40):
        moved = shifted(clip, random.Random(seed), (3.0, 25.0))
        lengths.add(len(moved) - len(clip))
        kept = moved[-7_500:]
        assert moved.dtype == np.float32
        assert not set(np.round(kept, 6).tolist()) >= set(np.round(clip[-100:], 6).tolist())
        one, other = (np.abs(np.fft.rfft(each[-7_500:] * np.hanning(7_500)))[:3_000] for each in (moved, clip))
        assert np.corrcoef(one, other)[0, 1] > 0.99
        louder = scaled(clip, random.Random(seed), (0.5, 1.5))
        (gain,) = set(np.round(louder[np.abs(clip) > 0.1] / clip[np.abs(clip) > 0.1], 3).tolist())
        gains.append(20 * math.log10(gain))
        assert np.abs(louder).max() <= 1.0
    assert all(48 <= abs(each) <= 400 for each in lengths)
    assert min(lengths) < 0 < max(lengths)
    assert all(0.49 < abs(gain) < 1.51 for gain in gains)
    assert min(gains) < 0 < max(gains)


# -- who shares weights


def weights(seed: int, *, around: float = 0.0) -> dict[str, npt.NDArray[np.float32]]:
    """A model of a few matrices, and of norms that are alike in all models."""
    draw = np.random.default_rng(seed)
    made = {f"layer{at}.weight": draw.standard_normal((96, 128 + at)).astype(np.float32) for at in range(4)}
    return made | {"norm": np.full(8_192, 1.0, np.float32) + around * draw.standard_normal(8_192).astype(np.float32)}


def team(
    folder: Path, name: str, *, file: str, numbers: dict[str, npt.NDArray[np.float32]], code: str = "x = 1"
) -> Member:
    """A submission's tree with one weight file, as safetensors, in half precision, or as torch writes it."""
    tree = folder / "submissions" / name / "tree"
    tree.mkdir(parents=True)
    (tree / "encoder.py").write_text(code)
    path = tree / file
    tensors = {key: torch.from_numpy(value.copy()) for key, value in numbers.items()}
    if file.endswith(".safetensors"):
        save_file(numbers, path)
    elif file.endswith(".half.pt"):
        torch.save({"model": {key: value.to(torch.bfloat16) for key, value in tensors.items()}}, path)
    elif file.endswith(".old.pt"):
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    elif file.endswith(".pt"):
        torch.save({"step": 7, "model": tensors, "shared": next(iter(tensors.values()))}, path)
    else:
        path.write_bytes(b"".join(value.tobytes() for value in numbers.values()))
    record = Submission(id=name[:12], digest=name, team=name, file_name="", size_bytes=1, received_at=NOW)
    return member(Home(root=folder), record)


def test_shared_weights_are_grouped_whatever_their_form(tmp_path: Path) -> None:
    """A copy, a light fine-tune in torch's format with other names, and the same in half precision are one group; a
    model of the same shapes is none; equal ONNX files are a group of their own.
    """
    base, other = weights(1), weights(2)
    tuned = {f"encoder.{name}": value + 0.003 * weights(9)["layer0.weight"].std() for name, value in base.items()}
    members = [
        team(tmp_path, "one", file="model.safetensors", numbers=base),
        team(tmp_path, "two", file="copy.safetensors", numbers=base, code="y = 2"),
        team(tmp_path, "three", file="tuned.pt", numbers=tuned),
        team(tmp_path, "four", file="model.half.pt", numbers=base),
        team(tmp_path, "five", file="model.safetensors", numbers=other),
        team(tmp_path, "six", file="a.onnx", numbers=weights(3)),
        team(tmp_path, "seven", file="b.onnx", numbers=weights(3)),
    ]
    found = compare(members)
    assert (found.members, found.files) == (7, 7)
    assert [group.teams for group in found.groups] == [("four", "one", "three", "two"), ("seven", "six")]
    pairs = {(pair.first, pair.second): pair for group in found.groups for pair in group.pairs}
    assert pairs["one", "two"].same_files == ("model.safetensors",)
    assert (pairs["one", "two"].same_code, pairs["one", "two"].code_files) == (0, 2)
    assert (pairs["one", "three"].same_code, pairs["one", "three"].code_files) == (1, 1)
    assert pairs["one", "three"].same_files == ()
    assert (pairs["one", "three"].alike or 0) > 0.8
    assert (pairs["one", "four"].alike or 0) > 0.8
    assert pairs["six", "seven"].alike is None
    assert found.unread == ("a.onnx", "b.onnx")
    assert json.loads(json.dumps(found.to_json()))["groups"][1]["teams"] == ["seven", "six"]


def test_fetched_weights_count_and_no_link_leads_out(tmp_path: Path) -> None:
    """What a constructor fetched is kept as a hub's cache keeps it, by links; none to another's file is followed."""
    one = team(tmp_path, "one", file="model.safetensors", numbers=weights(1))
    cache = tmp_path / "submissions" / "two" / "weights" / "files"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    shutil.copy(one.weights["model.safetensors"], cache / "blobs" / "c0ffee")
    (cache / "snapshots" / "model.safetensors").symlink_to("../blobs/c0ffee")
    (cache / "snapshots" / "stolen.safetensors").symlink_to(one.weights["model.safetensors"])
    two = team(tmp_path, "two", file="empty.onnx", numbers={})
    assert {name: path.name for name, path in two.weights.items()} == {
        "empty.onnx": "empty.onnx",
        "files/snapshots/model.safetensors": "c0ffee",
    }
    (group,) = compare([one, two]).groups
    assert group.pairs[0].alike == 1.0
    assert group.pairs[0].same_files == ("model.safetensors",)


def test_models_that_share_only_their_shapes_and_means_are_not_alike(tmp_path: Path) -> None:
    """Norms near one, equal shapes, equal statistics: two trainings have these in common, and nothing follows."""
    one = team(tmp_path, "one", file="a.safetensors", numbers=weights(1, around=0.02))
    two = team(tmp_path, "two", file="b.safetensors", numbers=weights(2, around=0.02))
    first, second = ([read_weights(path) for path in each.weights.values()] for each in (one, two))
    assert alike_share(first, second) == 0.0
    assert alike_share(first, first) == 1.0


class Harm:
    """What a pickle may hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_carried_out(tmp_path: Path) -> None:
    """A torch file whose pickle would write a file is read for its storages, and writes none; nor a bare pickle."""
    tree, harmed = tmp_path / "submissions" / "bad" / "tree", tmp_path / "harmed"
    tree.mkdir(parents=True)
    torch.save({"w": torch.randn(5_000), "harm": Harm(harmed)}, tree / "a.pt")
    (tree / "b.bin").write_bytes(pickle.dumps(Harm(harmed)))
    with zipfile.ZipFile(tree / "a.pt") as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert list(storages(pickled)) == [("FloatStorage", "0")]
    assert read_weights(tree / "a.pt").is_read
    assert not read_weights(tree / "b.bin").is_read
    assert not harmed.exists()
    pickle.loads(pickle.dumps(Harm(harmed)))
    assert harmed.exists()


def test_broken_weight_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    """Cut, lying about offsets, empty, or of another kind than their name: no exception, and no sketch."""
    base = weights(1)
    save_file(base, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    torch.save({"w": torch.randn(5_000)}, tmp_path / "whole.pt")
    zipped = (tmp_path / "whole.pt").read_bytes()
    cases = {
        "cut.safetensors": whole[: len(whole) // 2],
        "long.safetensors": (10**15).to_bytes(8, "little") + whole[8:],
        "lies.safetensors": whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
        "list.safetensors": (2).to_bytes(8, "little") + b"[]",
        "empty.safetensors": b"",
        "cut.pt": zipped[: len(zipped) // 2],
        "text.bin": b"no weights",
        "noise.pt": np.random.default_rng(0).bytes(1_000),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        found = read_weights(tmp_path / name)
        assert found.digest == hashlib.sha256(content).hexdigest()
        assert not found.is_read or name == "lies.safetensors", name
    assert read_weights(tmp_path / "whole.safetensors").is_read
    assert dataclasses.asdict(read_weights(tmp_path / "whole.pt"))["is_read"]


def test_a_hundred_teams_are_compared(tmp_path: Path) -> None:
    """Every pair is looked at: two of a hundred that share a model are the only group."""
    members = [
        team(tmp_path, f"team{at:03d}", file="model.safetensors", numbers=weights(1 if at in {17, 93} else 1_000 + at))
        for at in range(100)
    ]
    found = compare(members)
    assert (found.members, found.files) == (100, 100)
    assert [group.teams for group in found.groups] == [("team017", "team093")]
