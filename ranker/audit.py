"""Whether a score hangs on knowing the test clips: the same clips, slightly changed, are asked again.

An encoder hears a clip that is shifted by some milliseconds, or a decibel softer, as it heard it before. A table from
clips to answers does not find it, and the score collapses. The trained model of the finished run answers, so nothing is
trained. What was measured on honest encoders, and where the allowed drop comes from: docs/results/audit.md.

Not covered: a table that is looked up by what survives such changes (a fingerprint as music services make them). Only
tasks that nobody could know, and a reader of the report, answer that one.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import uncertainty
from ranker.conditions import data_of, models_of
from ranker.config import Benchmark, Task, TrackPart
from ranker.data.shards import Clip, scored_clips
from ranker.db.models import Job
from ranker.digest import file_digest
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.evaluation import encoder_spec
from ranker.executors.gpus import own_gpu
from ranker.home import Home
from ranker.job import SubmissionSnapshot
from ranker.lalm import decoder as decoders
from ranker.lalm.answers import answer
from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import AudioLanguageModel
from ranker.manifest import read_manifest
from ranker.metrics import MetricResult, Pair
from ranker.metrics import evaluate as compute_metric
from ranker.overview import find
from ranker.sandbox.backends import open_configured
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, Encoder, Features
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import AuditSettings, Limits, Service
from ranker.types import AuditVerdict, Change, Condition, JobKind, SandboxName, Status, digest_json
from ranker.uncertainty import Draws

OnProgress = Callable[[str, int, int], None]

RESAMPLES = 10_000
_DITHER = 1e-4  # of the clip's peak: silence is never digital where sound was recorded


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run whose manifest and weights are those that were recorded."""

    folder: Path
    manifest: Mapping[str, Any]
    condition: Condition
    part: TrackPart

    @property
    def weights(self) -> Path:
        """The trained adapter."""
        return self.folder / f"step-{self.condition.steps:08d}" / "trained.safetensors"


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A task's value on changed clips. `drop`: recorded minus this, with its 95% interval (`low`, `high`)."""

    value: float
    drop: float
    low: float
    high: float
    verdict: AuditVerdict


@dataclass(frozen=True, kw_only=True)
class AuditedTask:
    """One task: the recorded value on the clips that were asked again, and what became of it by each kind of change.

    `blind` is what one constant answer would get on the whole task, None where that is not known.
    """

    track: str
    task: str
    metric: str
    clips: int
    blind: float | None
    recorded: float
    changes: Mapping[Change, Changed]

    @property
    def verdict(self) -> AuditVerdict:
        """The worst of its changes'."""
        return max((change.verdict for change in self.changes.values()), key=list(AuditVerdict).index)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit of one submission found. With the same `seed` it draws the same clips and changes again."""

    submission: str
    team: str
    benchmark: str
    seed: str
    settings: AuditSettings
    tasks: tuple[AuditedTask, ...]

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the tasks whose score does not survive."""
        return tuple(each.task for each in self.tasks if each.verdict is AuditVerdict.COLLAPSES)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        tasks = [{**asdict(each), "verdict": each.verdict} for each in self.tasks]
        return {
            "submission": self.submission,
            "team": self.team,
            "benchmark": self.benchmark,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
            "collapsed": list(self.collapsed),
            "tasks": tasks,
        }


# -- what is changed


def shifted(clip: Audio, draw: random.Random, shift_ms: tuple[float, float]) -> Audio:
    """(T,) to (T',): near silence put before it, or its beginning cut off, and all moved by a part of a sample.

    The part of a sample makes every number another one, so that no stretch of the clip is what it was.
    """
    count = round(draw.uniform(*shift_ms) * SAMPLE_RATE_HZ / 1000)
    part = draw.uniform(0.2, 0.8)
    guard = 64
    padded = np.concatenate([np.zeros(guard), clip.astype(np.float64), np.zeros(guard)])
    spectrum = np.fft.rfft(padded) * np.exp(-2j * np.pi * np.fft.rfftfreq(len(padded)) * part)
    moved = np.fft.irfft(spectrum, len(padded))[guard : guard + len(clip)]
    if draw.random() < 0.5 and len(clip) > 4 * count:
        moved = moved[count:]
    else:
        noise = np.random.default_rng(draw.getrandbits(64)).standard_normal(count)
        moved = np.concatenate([noise * _DITHER * np.abs(clip).max(), moved])
    return np.ascontiguousarray(moved, dtype=np.float32)


def scaled(clip: Audio, draw: random.Random, gain_db: tuple[float, float]) -> Audio:
    """(T,) to (T,): louder, or softer; softer where it would pass full scale."""
    gain = 10 ** (draw.uniform(*gain_db) / 20)
    louder = draw.random() < 0.5 and float(np.abs(clip).max()) * gain <= 1.0
    return clip * np.float32(gain if louder else 1 / gain)


class Altered:
    """An encoder that is given changed clips. Implements `base.Encoder`. The same clip is always changed alike."""

    def __init__(self, encoder: Encoder, change: Change, settings: AuditSettings, seed: str) -> None:
        self._encoder = encoder
        self._change = change
        self._settings = settings
        self._seed = seed

    @property
    def output_dim(self) -> int:
        """See `base.Encoder`."""
        return self._encoder.output_dim

    @property
    def attribute(self) -> str:
        """See `base.Encoder`."""
        return self._encoder.attribute

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """See `base.Encoder`."""
        return self._encoder.encode([self.alter(clip) for clip in clips], seed=seed)

    def alter(self, clip: Audio) -> Audio:
        """The clip as the encoder hears it."""
        digest = hashlib.sha256(np.ascontiguousarray(clip, dtype="<f4").tobytes()).hexdigest()
        draw = random.Random(f"{self._seed}/{self._change}/{digest}")
        if self._change is Change.SHIFTED:
            return shifted(clip, draw, self._settings.shift_ms)
        return scaled(clip, draw, self._settings.gain_db)


# -- which runs


def finished_runs(
    session: Session, home: Home, benchmark: Benchmark, submission: str, tracks: Sequence[str]
) -> list[FinishedRun]:
    """The submission's latest finished run of each part of these tracks, for the configuration as it is now.

    Raises UsageError where there is none, else as `finished_run`.
    """
    jobs = session.scalars(
        select(Job)
        .where(Job.submission_id == submission, Job.kind == JobKind.EVALUATE, Job.status == Status.SUCCEEDED)
        .where(Job.benchmark == benchmark.name)
        .order_by(Job.finished_at.desc())
    )
    found: dict[tuple[str, str], FinishedRun] = {}
    for job in jobs:
        if job.condition is None or job.result is None:
            continue
        condition = Condition.from_json(job.condition)
        place = (condition.track, condition.part)
        if condition.track not in tracks or place in found:
            continue
        part = benchmark.part(*place)
        fits = condition.measurement == benchmark.measurement_digest(*place)
        if part.tasks and fits and condition.data == data_of(home, benchmark, part):
            found[place] = finished_run(home, condition, part, job.result)
    if not found:
        raise UsageError(
            f"submission {submission} has no finished evaluation on benchmark {benchmark.name} for the configuration "
            f"and data as they are now; run `ranker evaluate {submission}` first"
        )
    return [found[place] for place in sorted(found)]


def finished_run(home: Home, condition: Condition, part: TrackPart, result: Mapping[str, Any]) -> FinishedRun:
    """A job's run, provided that manifest and weights are those that were recorded when it finished.

    Raises OrganizerError if they are not, MissingError if the weights have been deleted.
    """
    folder = home.root / result["run"]
    manifest = read_manifest(folder)
    if manifest is None or digest_json(manifest) != result["manifest_digest"]:
        raise OrganizerError(f"{folder}/manifest.json is not the one that was recorded; restore it from a backup")
    run = FinishedRun(folder=folder, manifest=manifest, condition=condition, part=part)
    if not run.weights.is_file():
        raise MissingError(
            f"the trained weights of {folder} are not there any more ({run.weights.name} in {run.weights.parent.name}, "
            "a checkpoint that may be deleted); an audit needs them, so restore them from a backup"
        )
    if file_digest(run.weights) != manifest["weights"]:
        raise OrganizerError(f"{run.weights} is not the file that the run's manifest names; restore it from a backup")
    return run


# -- the audit


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be audited, and how; None means all, or what the configuration says. `seed` None: a new one."""

    track: str | None = None
    task: str | None = None
    clips: int | None = None
    sandbox: SandboxName | None = None
    seed: str | None = None


def prepare(
    session: Session, home: Home, service: Service, benchmark: Benchmark, submission: str, *, asked: Asked
) -> Auditor:
    """All that an audit needs of the database. Raises UsageError for what is not known here, else as `finished_runs`
    and `open_configured`.
    """
    tracks = [asked.track] if asked.track else list(benchmark.tracks)
    for each in tracks:
        benchmark.track(each)
    (view,) = find(session, [submission])
    runs = finished_runs(session, home, benchmark, view.submission.id, tracks)
    chosen = {id(run): [task for task in run.part.tasks if asked.task in {None, task.name}] for run in runs}
    if not any(chosen.values()):
        known = ", ".join(task.name for run in runs for task in run.part.tasks)
        raise UsageError(f"no evaluated task is called {asked.task!r}; there are {known}")
    return Auditor(
        home=home,
        sandbox=open_configured(service, home.root, gpu=own_gpu()),
        limits=service.limits,
        settings=service.audit if asked.clips is None else service.audit.model_copy(update={"clips": asked.clips}),
        seed=asked.seed or secrets.token_hex(8),
        submission=SubmissionSnapshot(
            id=view.submission.id,
            digest=view.submission.digest,
            team=view.submission.team,
            encoder_override=view.submission.encoder_override,
            check=None if view.check is None else view.check.result,
        ),
        tasks=tuple((run, chosen[id(run)]) for run in runs if chosen[id(run)]),
    )


@dataclass(frozen=True, kw_only=True)
class Auditor:
    """All that is needed to ask again. `seed` names the draw of clips and changes; `tasks`: of each run, some."""

    home: Home
    sandbox: ServedSandbox
    limits: Limits
    settings: AuditSettings
    seed: str
    submission: SubmissionSnapshot
    tasks: tuple[tuple[FinishedRun, Sequence[Task]], ...]

    def ask(self, on_progress: OnProgress) -> Audit:
        """Ask again for changed test clips. `on_progress(what, done, total)` counts clips of one task and change.

        Raises as `encoder_spec`, `Sandbox.start` and `Encoder.encode`.
        """
        level = self.settings.false_alarms / (sum(len(tasks) for _, tasks in self.tasks) * len(Change))
        found = [each for run, tasks in self.tasks for each in self._run(run, tasks, level, on_progress)]
        return Audit(
            submission=self.submission.id,
            team=self.submission.team,
            benchmark=self.tasks[0][0].condition.benchmark,
            seed=self.seed,
            settings=self.settings,
            tasks=tuple(found),
        )

    def _run(
        self, run: FinishedRun, tasks: Sequence[Task], level: float, on_progress: OnProgress
    ) -> Iterator[AuditedTask]:
        """Tasks that the same trained model answered."""
        threads = int(run.manifest["threads"])
        torch.set_num_threads(threads)
        spec = encoder_spec(self.home, self.submission, run.part.recipe, threads)
        with self.sandbox.start(spec, self.limits) as encoder:
            model, graphs = _trained_model(run, encoder.output_dim), run.condition.cuda_graphs
            decoder = MergedDecoder(model, run.part.recipe, graphs=graphs)
            for task in tasks:
                yield self._task(run, task, decoder, encoder, level=level, on_progress=on_progress)

    def _task(
        self,
        run: FinishedRun,
        task: Task,
        decoder: MergedDecoder,
        encoder: Encoder,
        *,
        level: float,
        on_progress: OnProgress,
    ) -> AuditedTask:
        recorded = pd.read_parquet(run.folder / "predictions" / f"{task.name}.parquet")
        note = json.loads((run.folder / "predictions" / f"{task.name}.json").read_text(encoding="utf-8"))
        recipe, clips = run.part.recipe, self._drawn(run, task, recorded)
        names = {clip.id for clip in clips}
        rows = recorded[recorded["clip"].isin(names)]
        pairs = [Pair(clip=c, reference=r, candidate=a) for c, r, a in zip(*(rows[n] for n in _COLUMNS), strict=True)]
        results = {"recorded": self._value(run, task, pairs)}
        for change in Change:
            what = f"{task.name}, {change}"
            answers = answer(
                decoder,
                Altered(encoder, change, self.settings, self.seed),
                clips,
                data=self.home.data / run.condition.benchmark,
                prompt=task.test.prompt,
                max_new_tokens=min(task.test.max_new_tokens or recipe.max_new_tokens, recipe.max_new_tokens),
                recipe=recipe,
                batch_invariant=False,  # shifted clips of one length are of many
                on_progress=partial(_report, on_progress, what, len(clips)),
            )
            again = [Pair(clip=pair.clip, reference=pair.reference, candidate=answers[pair.clip]) for pair in pairs]
            results[change] = self._value(run, task, again)
        return AuditedTask(
            track=run.condition.track,
            task=task.name,
            metric=results["recorded"].name,
            clips=len(clips),
            blind=note["score"]["blind"],
            recorded=results["recorded"].value,
            changes=self._changes(task, results, clips=len(clips), level=level),
        )

    def _drawn(self, run: FinishedRun, task: Task, recorded: pd.DataFrame) -> list[Clip]:
        """Some of the clips that were scored. Raises OrganizerError if they are not those of the data."""
        data = self.home.data / run.condition.benchmark
        known = {clip.id: clip for clip in scored_clips(data, task.test.shards, task.test.key)}
        scored = sorted(set(recorded["clip"]))
        if unknown := [name for name in scored if name not in known]:
            raise OrganizerError(
                f"task {task.name}: {unknown[0]} was scored, but is not among the test clips in {data}"
            )
        draw = random.Random(f"{self.seed}/clips/{task.name}")
        return [known[name] for name in sorted(draw.sample(scored, min(self.settings.clips, len(scored))))]

    def _value(self, run: FinishedRun, task: Task, pairs: Sequence[Pair]) -> MetricResult:
        return compute_metric(task.metric, pairs, num_classes=task.num_classes, models=models_of(run.part))

    def _changes(
        self, task: Task, results: Mapping[str, MetricResult], *, clips: int, level: float
    ) -> dict[Change, Changed]:
        """Paired bootstrap over clips: of each draw, recorded minus changed."""
        items = {name: result.items for name, result in results.items()}
        draws = uncertainty.task_draws(task, items, seed=uncertainty.seed_of(self.seed, task.name), resamples=RESAMPLES)
        found = {}
        for change in Change:
            drops = draws["recorded"] - draws[change]
            low, high = uncertainty.interval(drops)
            found[change] = Changed(
                value=results[change].value,
                drop=results["recorded"].value - results[change].value,
                low=low,
                high=high,
                verdict=verdict_of(drops, clips=clips, level=level, settings=self.settings),
            )
        return found


def verdict_of(drops: Draws, *, clips: int, level: float, settings: AuditSettings) -> AuditVerdict:
    """What the drops (B,) of the bootstrap's draws say of a score.

    It collapses if the drop is above what is allowed in all but the share `level` of the draws, so that a drop which
    hangs on few clips convicts nobody.
    """
    if clips < settings.fewest_clips:
        return AuditVerdict.TOO_FEW
    surely = float(np.quantile(drops, level, method="lower"))
    return AuditVerdict.HOLDS if surely <= settings.allowed_drop else AuditVerdict.COLLAPSES


def _report(on_progress: OnProgress, what: str, total: int, done: int) -> None:
    on_progress(what, done, total)


_COLUMNS = ("clip", "reference", "candidate")


def _trained_model(run: FinishedRun, feature_dim: int) -> AudioLanguageModel:
    """The audio language model as the run left it, where the run had it."""
    recipe, condition = run.part.recipe, run.condition
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries to one another
        network, tokenizer = decoders.load(decoders.locate(recipe.decoder), condition.decoder_layers)
        model = AudioLanguageModel(network, tokenizer, feature_dim=feature_dim, recipe=recipe, init_key="audit")
    model.load_trained(run.weights)
    model.to("cuda" if condition.device != "cpu" and torch.cuda.is_available() else "cpu")
    return model.eval()
