"""One track of one submission, from features to scores: what a later attempt takes over, and what the manifest says."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import full_disk
import kills
import numpy as np
import pandas as pd
import pytest
import yaml
from tones import tone, write_tones

from ranker.conditions import condition_for
from ranker.config import Benchmark
from ranker.data import store
from ranker.data.shards import write_shard
from ranker.digest import file_digest
from ranker.errors import InfraError, OrganizerError, ParticipantError
from ranker.evaluation import _begin, _fixed_threads, adopt_predictions, earlier_note, evaluate
from ranker.home import Home
from ranker.intake.archive import describe
from ranker.job import JobContext, Outcome, SubmissionSnapshot, run_folder
from ranker.lalm.decoder import STAND_IN_DECODER
from ranker.metrics import reweighted
from ranker.queue import Claim, job_key
from ranker.settings import Service
from ranker.types import Condition, JobKind, MetricName, Progress, SandboxName, Stage, digest_json

STEPS = 4
ID = "a" * 12
ENCODER = """
import torch

class FramesEncoder(torch.nn.Module):
    output_dim = 16

    def forward(self, audio, mask=None):
        frames = audio[:, : audio.shape[1] // 800 * 800].unflatten(1, (-1, 800))
        return torch.fft.rfft(frames).abs()[..., :64].unflatten(-1, (16, 4)).mean(-1), None
"""


def split(name: str) -> dict[str, Any]:
    return {"shards": [f"{name}.tar"], "key": ["label"], "prompt": "High or low?"}


BENCHMARK: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "description": "Two tones.",
    "whole_protocol": False,
    "recipe": {
        "decoder": STAND_IN_DECODER,
        "decoder_layers": 1,
        "steps": STEPS,
        "batch_size": 2,
        "warmup_steps": 1,
        "sort_window": 4,
        "shuffle_window": 4,
        "checkpoint_every": 3,
        "max_new_tokens": 3,
    },
    "tracks": {
        "A": {
            "title": "Tones",
            "tasks": [
                {
                    "name": "pitch",
                    "title": "Pitch",
                    "domain": "music",
                    "metric": "Accuracy",
                    "train": split("train"),
                    "test": split("test"),
                }
            ],
        }
    },
}


@dataclass(frozen=True)
class Place:
    """A home with one benchmark and one submission, and a way to make attempts of its evaluation."""

    home: Home

    def benchmark(self) -> Benchmark:
        return Benchmark.model_validate(yaml.safe_load(self.home.config_path("tiny").read_text()))

    def condition(self) -> Condition:
        return condition_for(self.home, self.benchmark(), "A", limit_steps=None, sandboxed=False, device="cpu")

    def context(
        self,
        attempt: int,
        *,
        condition: Condition | None = None,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> JobContext:
        condition = condition or self.condition()
        tree = self.home.submissions / ("a" * 64) / "tree"
        check = {
            "source": {"root": ".", "module": "encoder.py", "attribute": "FramesEncoder"},
            "encoder": {"batch_invariant": True, "output_dim": 16},
            "tree": {"digest": describe(tree).digest},
        }
        claim = Claim(
            job_id=1,
            key=job_key(ID, JobKind.EVALUATE, condition.digest, 42),
            attempt=attempt,
            worker="here:1:1",
            submission_id=ID,
            kind=JobKind.EVALUATE,
            benchmark="tiny",
            track="A",
            condition=condition,
            seed=42,
        )
        folder = run_folder(self.home, claim)
        folder.mkdir(parents=True, exist_ok=True)
        return JobContext(
            home=self.home,
            service=Service(sandbox=SandboxName.NONE, cpu_workers=1),
            claim=claim,
            submission=SubmissionSnapshot(id=ID, digest="a" * 64, team="team", encoder_override=None, check=check),
            run_folder=folder,
            report=report,
        )


def write_tiny(folder: Path, *, broken: str) -> None:
    """Eight training clips and four test clips, and one more whose audio breaks off, in the split `broken`."""
    for name, count in (("train", 8), ("test", 4)):
        samples = [
            {
                "__key__": f"c{at:04d}",
                "flac": tone(0.5, 200.0 + 40.0 * at),
                "json": {"label": ("low", "high")[at % 2], "voice": at // 2},
            }
            for at in range(count + (name == broken))
        ]
        if name == broken:
            samples[-1]["flac"] = samples[-1]["flac"][:-500]
        write_shard(folder / f"{name}.tar", samples)


def make_place(root: Path, **recipe: object) -> Place:
    home = Home(root=root)
    (root / "configs").mkdir(parents=True)
    written: dict[str, Any] = copy.deepcopy(BENCHMARK) | {"recipe": BENCHMARK["recipe"] | recipe}
    written["tracks"]["A"]["tasks"][0]["test"]["cluster"] = "voice"
    (root / "configs/tiny.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")

    store.build(home.data / "tiny", lambda folder, _: write_tiny(folder, broken="train"), version=1)
    tree = home.submissions / ("a" * 64) / "tree"
    tree.mkdir(parents=True)
    (tree / "encoder.py").write_text(ENCODER, encoding="utf-8")
    return Place(home=home)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, JobContext, Outcome]:
    """A whole evaluation; tests that change its folder copy its home first."""
    place = make_place(tmp_path_factory.mktemp("first"))
    context = place.context(1)
    return place, context, evaluate(context)


def test_manifest_says_what_was_run_on_what(first: tuple[Place, JobContext, Outcome]) -> None:
    """Whoever contests a number finds everything that it depends on, and the digest that the database holds fits."""
    place, context, outcome = first
    manifest = json.loads((context.run_folder / "manifest.json").read_text(encoding="utf-8"))
    assert outcome.result["manifest_digest"] == digest_json(manifest)
    assert outcome.result["run"] == str(context.run_folder.relative_to(place.home.root))
    assert Condition.from_json(manifest["condition"]) == place.condition()
    assert manifest["condition_digest"] == place.condition().digest
    assert manifest["recipe"] == place.benchmark().recipe.model_dump(mode="json")
    assert (manifest["seed"], manifest["attempt"], manifest["steps_taken_over"]) == (42, 1, 0)
    assert manifest["submission"]["check"]["encoder"]["batch_invariant"] is True
    assert manifest["scores"]["pitch"]["value"] == outcome.scores[0].value
    assert {"torch", "transformers", "tokenizers", "peft", "revision", "python"} <= manifest["software"].keys()
    assert {Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE} <= manifest["seconds"].keys()
    assert re.fullmatch("[0-9a-f]{64}", manifest["weights"])
    times = [datetime.fromisoformat(manifest[name]) for name in ("started_at", "finished_at")]
    assert [each.utcoffset() for each in times] == [timedelta(0)] * 2
    assert times[0] <= times[1] <= datetime.now(UTC)


def test_predictions_give_the_score_again(first: tuple[Place, JobContext, Outcome]) -> None:
    """The value is that of the pairs on disk; each test clip is there once, and the floor is that of one answer."""
    place, _, outcome = first
    (score,) = outcome.scores
    items = pd.read_parquet(place.home.root / score.predictions)
    assert sorted(items["clip"]) == [f"test.tar:c{index:04d}" for index in range(4)]
    assert reweighted(MetricName.ACCURACY, items, np.ones((1, 4)))[0] == pytest.approx(score.value)
    assert (score.items, score.blind) == (4, 0.5)


def test_predictions_say_which_clips_belong_together(first: tuple[Place, JobContext, Outcome]) -> None:
    """The field that the task names as cluster stands beside each pair, as text, for the intervals."""
    place, _, outcome = first
    items = pd.read_parquet(place.home.root / outcome.scores[0].predictions).sort_values("clip")
    assert items["cluster"].tolist() == ["0", "0", "1", "1"]


def test_attempt_leaves_nothing_half_or_temporary(first: tuple[Place, JobContext, Outcome]) -> None:
    """Features, temporary files and folders are gone; what stays is what a later attempt or a reader needs."""
    _, context, _ = first
    left = sorted(str(path.relative_to(context.run_folder)) for path in context.run_folder.rglob("*") if path.is_file())
    checkpoint = ("optimizer.safetensors", "state.json", "trained.safetensors")
    assert left == [
        "manifest.json",
        "predictions/pitch.json",
        "predictions/pitch.parquet",
        *(f"step-{step:08d}/{name}" for step in (3, STEPS) for name in checkpoint),
        "train.jsonl",
    ]


def test_later_attempt_takes_over_what_is_whole(first: tuple[Place, JobContext, Outcome], tmp_path: Path) -> None:
    """A third attempt after one that was killed before its manifest, and one that was killed while it copied.

    It trains nothing and answers nothing again, and its scores, weights and log are the first attempt's.
    """
    place, done, outcome = first
    shutil.copytree(place.home.root, tmp_path, dirs_exist_ok=True)
    copy = Place(home=Home(root=tmp_path))
    whole = tmp_path / done.run_folder.relative_to(place.home.root)
    (whole / "manifest.json").unlink()
    half = copy.context(2).run_folder / "predictions"
    half.mkdir()
    (half / "pitch.json").write_text('{"weights": "', encoding="utf-8")
    (half.parent / ".step-killed").mkdir()
    shutil.copy(whole / "step-00000003/state.json", half.parent / ".step-killed")
    stages: list[Stage] = []
    context = copy.context(3, report=lambda progress: stages.append(progress.stage))
    again = evaluate(context)
    assert not {Stage.ENCODE, Stage.TRAIN, Stage.GENERATE} & set(stages)
    assert [score.value for score in again.scores] == [score.value for score in outcome.scores]
    assert {Path(score.predictions).parts[3] for score in again.scores} == {"attempt-0003"}
    for name in ("train.jsonl", f"step-{STEPS:08d}/trained.safetensors", "predictions/pitch.parquet"):
        assert (context.run_folder / name).read_bytes() == (whole / name).read_bytes()
    manifest = json.loads((context.run_folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["attempt"], manifest["steps_taken_over"]) == (3, STEPS)


def test_a_resumed_log_has_each_step_once_as_if_nothing_had_been(
    first: tuple[Place, JobContext, Outcome], tmp_path: Path
) -> None:
    """After a kill past a checkpoint, in the middle of a line: the lines after it are cut, and apart from times the log
    is that of the undisturbed run, to the bit.
    """
    place, done, _ = first
    shutil.copytree(place.home.root, tmp_path, dirs_exist_ok=True)
    killed = tmp_path / done.run_folder.relative_to(place.home.root)
    (killed / "manifest.json").unlink()
    shutil.rmtree(killed / f"step-{STEPS:08d}")
    log = (killed / "train.jsonl").read_bytes().splitlines(keepends=True)
    (killed / "train.jsonl").write_bytes(b"".join(log) + b'{"step": 5, "lo')
    context = Place(home=Home(root=tmp_path)).context(2)
    evaluate(context)

    def steps(path: Path) -> list[dict[str, object]]:
        times = {"seconds", "examples_per_s", "waited_s"}
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert all(times <= line.keys() for line in lines)
        return [{name: value for name, value in line.items() if name not in times} for line in lines]

    again = steps(context.run_folder / "train.jsonl")
    assert [line["step"] for line in again] == list(range(1, STEPS + 1))
    assert again == steps(done.run_folder / "train.jsonl")
    assert all(line["examples"] == 2 for line in again)


@pytest.mark.parametrize("shared_gb", [1.0, pytest.param(0.0, marks=pytest.mark.dear(day=0))])
def test_another_job_takes_over_features_and_comes_to_the_same_bits(
    first: tuple[Place, JobContext, Outcome], tmp_path: Path, shared_gb: float
) -> None:
    """The same job as if it had never been, once beside what it had encoded and once where nothing may be shared: the
    encoder is asked by the probes alone, or for all, and weights, answers and samples of the witness are the same.
    """
    place, done, _ = first
    shutil.copytree(place.home.root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs")
    context = Place(home=Home(root=tmp_path)).context(1)
    evaluate(replace(context, service=context.service.model_copy(update={"shared_features_gb": shared_gb})))
    before, after = (
        json.loads((each.run_folder / "manifest.json").read_text(encoding="utf-8")) for each in (done, context)
    )
    for name in (f"step-{STEPS:08d}/trained.safetensors", "predictions/pitch.parquet"):
        assert (context.run_folder / name).read_bytes() == (done.run_folder / name).read_bytes()
    assert before["features_taken_over"] == {}
    assert after["probes"]["made"] == before["probes"]["made"] == 6
    if shared_gb:
        assert after["features_taken_over"] == {"track A, public part, seed 42, attempt 1": 12}
        assert after["encoder"]["calls"] == 6
    else:
        assert after["features_taken_over"] == {}
        assert after["encoder"]["calls"] == before["encoder"]["calls"] > 6


def test_more_frames_than_the_recipe_allows_are_a_violation(tmp_path: Path) -> None:
    """The bound is part of the measurement, so it must be the recipe's own, not a default."""
    with pytest.raises(ParticipantError, match=r"frames"):
        evaluate(make_place(tmp_path, max_frames=9).context(1))


def test_changed_configuration_is_no_longer_what_was_queued(tmp_path: Path) -> None:
    """A job queued before an edit of tasks or recipe must not be measured by the new ones under the old digest."""
    place = make_place(tmp_path)
    context = place.context(1)
    path = tmp_path / "configs/tiny.yaml"
    path.write_text(path.read_text().replace("High or low?", "Low or high?"))
    with pytest.raises(OrganizerError, match="configuration of benchmark tiny, track A, changed"):
        evaluate(context)


def test_a_machine_with_another_decoder_measures_nothing(tmp_path: Path) -> None:
    """A node of a cluster on which other packages are installed would give scores of its own under a common name."""
    place = make_place(tmp_path)
    other = replace(place.condition(), decoder="0" * 64)
    with pytest.raises(OrganizerError, match="the decoder of this machine is not the one that job 1 was queued for"):
        evaluate(place.context(1, condition=other))


def test_a_job_keeps_to_the_threads_that_its_executor_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of jobs side by side would be more than the cores: what the executor says bounds the recipe's number, and
    the first attempt's number stays the job's.
    """
    place = make_place(tmp_path, threads=64)
    for given in ("1", "7"):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        run = _begin(place.context(1))
        assert _fixed_threads(run) == 1


def test_changed_data_and_files_are_no_longer_what_was_queued(tmp_path: Path) -> None:
    """Nor other shards, nor a submission's tree that was touched after its check."""
    place = make_place(tmp_path)
    context = place.context(1)
    (tmp_path / "submissions" / ("a" * 64) / "tree/encoder.py").write_text(ENCODER + "# touched\n")
    with pytest.raises(InfraError, match="no longer those that were checked"):
        evaluate(context)

    def shards(folder: Path, _: store.ProgressHook) -> None:
        for name in ("train", "test"):
            write_tones(folder / f"{name}.tar", [0.25] * 4)

    store.build(place.home.data / "tiny", shards, version=2)
    with pytest.raises(OrganizerError, match="data of benchmark tiny changed"):
        evaluate(context)


def test_a_broken_training_clip_is_skipped_and_named_in_the_manifest(first: tuple[Place, JobContext, Outcome]) -> None:
    """Whoever reads the run sees which clips nobody was trained on, and why."""
    _, context, _ = first
    manifest = json.loads((context.run_folder / "manifest.json").read_text(encoding="utf-8"))
    ((clip, why),) = manifest["skipped"]["pitch"].items()
    assert clip == "train.tar:c0008"
    assert "c0008.flac cannot be decoded" in why


def test_a_broken_test_clip_stops_the_evaluation_before_it_trains(tmp_path: Path) -> None:
    """A score of a smaller test set would be compared with others; it is our fault, and costs nobody hours."""
    place = make_place(tmp_path)
    store.build(place.home.data / "tiny", lambda folder, _: write_tiny(folder, broken="test"), version=2)
    stages: list[Stage] = []
    context = place.context(1, report=lambda progress: stages.append(progress.stage))
    with pytest.raises(OrganizerError, match=r"1 test clips cannot be used: clip test\.tar:c0004: .*cannot be decoded"):
        evaluate(context)
    assert stages == []
    assert list(context.run_folder.iterdir()) == []


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """An earlier attempt's pairs and their note."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "pitch.parquet").write_bytes(b"pairs" * 10_000)
    (folder / "pitch.json").write_text('{"weights": "w", "score": {}}')
    return folder / "pitch.json"


@pytest.mark.parametrize(
    ("spoil", "is_taken"),
    [
        (lambda _note: None, True),
        (lambda note: note.with_suffix(".parquet").write_bytes(b"other pairs"), False),
        (lambda note: note.with_suffix(".parquet").unlink(), False),
        (lambda note: note.write_text(note.read_text()[:20]), False),
        (lambda note: note.write_text('{"weights": "w", "score": {}}'), False),
        (lambda note: note.write_text(note.read_text().replace('"w"', '"x"')), False),
    ],
)
def test_only_what_was_answered_by_these_weights_is_taken_over(
    tmp_path: Path, spoil: Callable[[Path], object], *, is_taken: bool
) -> None:
    """Attacks a resumed evaluation with predictions that changed or went, a note that was cut or is of an earlier
    version, and other weights: the task is answered again. Else it is not.
    """
    note = tmp_path / "attempt-0001/predictions/pitch.json"
    note.parent.mkdir(parents=True)
    note.with_suffix(".parquet").write_bytes(b"pairs")
    digest = file_digest(note.with_suffix(".parquet"))
    note.write_text(json.dumps({"weights": "w", "predictions": digest, "score": {}}))
    spoil(note)
    assert earlier_note([tmp_path / "attempt-0001"], "pitch", "w") == (note if is_taken else None)


def test_predictions_are_taken_over_whole_or_not_at_all(note: Path, tmp_path: Path) -> None:
    """A kill at any moment of the copying leaves no note without its pairs, and nothing half under a final name."""
    folder = tmp_path / "later"
    step, was_killed = 0, True
    while was_killed:
        step += 1
        folder.mkdir()
        was_killed = kills.is_killed_at(step, folder, lambda _touch: adopt_predictions(note, folder))
        found = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
        assert all(content == (note.parent / name).read_bytes() for name, content in found.items())
        assert "pitch.json" not in found or "pitch.parquet" in found
        if was_killed:
            shutil.rmtree(folder)
    assert len(found) == 2
    assert step > 4


def test_predictions_taken_over_on_a_full_disk_leave_nothing(note: Path, tmp_path: Path) -> None:
    """Half a table of pairs must not stand where a whole one is looked for."""
    folder = tmp_path / "later"
    folder.mkdir()
    with full_disk.after(1_000), pytest.raises(OSError, match="File too large"):
        adopt_predictions(note, folder)
    assert list(folder.iterdir()) == []
