"""How long jobs have held a worker in this home: by the history of attempts, with manifests for what each stage takes.

A job's duration is that of all its attempts together: what an attempt lost and the next did again is part of what jobs
cost here. An attempt whose worker died ended when that was noticed, which may be days later; it is taken to have worked
until it last wrote something down (the training log, the worker's log). Where its folder is gone, the job measures
nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import fsum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker.db.models import Job, JobAttempt
from ranker.home import Home
from ranker.job import job_folder
from ranker.manifest import read_manifest
from ranker.schedule.line import Question, Task
from ranker.types import Basis, Condition, Ending, JobKind, Stage, Status

STAGES = (Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE, Stage.CHECK)
"""Of an evaluation, in their order; answering and scoring take turns, task by task."""
MANIFESTS = 20
_SIGNS = ("train.jsonl", "worker.jsonl", "worker.log")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One finished job: its submission, seed, and the seconds that it held a worker."""

    submission: str
    seed: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All finished jobs of one question. `shares`: of the duration, by stage (they sum to 1); empty if not known.
    `items`: pairs that each task asks for, in the order of answering.
    """

    jobs: tuple[Sample, ...]
    shares: Mapping[Stage, float] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Durations:
    """What is known of one task's duration: measured `seconds`, or a span (low, likely, high) that was estimated."""

    basis: Basis
    seconds: tuple[float, ...] = ()
    span: tuple[float, float, float] | None = None
    shares: Mapping[Stage, float] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)

    @property
    def typical(self) -> float | None:
        """Seconds to expect: the mean of what was measured."""
        if self.seconds:
            return fsum(self.seconds) / len(self.seconds)
        return None if self.span is None else self.span[1]


UNKNOWN = Durations(basis=Basis.UNKNOWN)
Measured = Mapping[Question, Samples]
Estimates = Mapping[Question, tuple[float, float, float]]


def measured(session: Session, home: Home) -> dict[Question, Samples]:
    """What this home's finished jobs took, by question."""
    query = (
        select(Job)
        .where(Job.status == Status.SUCCEEDED)
        .order_by(Job.finished_at, Job.id)
        .options(selectinload(Job.attempts), selectinload(Job.scores))
    )
    groups: defaultdict[Question, list[tuple[Job, float]]] = defaultdict(list)
    for job in session.scalars(query):
        condition = None if job.condition is None else Condition.from_json(job.condition)
        seconds = _held(home, job)
        if seconds is not None:
            groups[Question.of(JobKind(job.kind), condition)].append((job, seconds))
    return {question: _samples(home, found) for question, found in groups.items()}


def known(task: Task, found: Measured, estimates: Estimates) -> Durations:
    """What the best basis says of a task's duration."""
    question = task.question
    same = found.get(question)
    if same is not None:
        own = tuple(each.seconds for each in same.jobs if each.submission == task.submission)
        seconds = own or tuple(each.seconds for each in same.jobs)
        basis = Basis.OWN if own else Basis.MEASURED
        return Durations(basis=basis, seconds=seconds, shares=same.shares, items=same.items)
    kin = [samples for other, samples in found.items() if question.kin and other.kin == question.kin]
    if kin:
        jobs = tuple(each.seconds for samples in kin for each in samples.jobs)
        return Durations(basis=Basis.KIN, seconds=jobs, shares=kin[-1].shares, items=kin[-1].items)
    span = estimates.get(question)
    return UNKNOWN if span is None else Durations(basis=Basis.ESTIMATED, span=span)


def _held(home: Home, job: Job) -> float | None:
    """Seconds that a job's attempts held a worker; None where that cannot be known."""
    folder = job_folder(home, job.submission_id, job.key)
    attempts = list(job.attempts)
    earlier = [place for place, each in enumerate(attempts[:-1]) if each.ending == Ending.SUCCEEDED]
    attempts = attempts[earlier[-1] + 1 :] if earlier else attempts  # a check that was asked for once more
    seconds = [_worked(folder / f"attempt-{attempt.number:04d}", attempt) for attempt in attempts]
    told = [each for each in seconds if each is not None]
    return fsum(told) if told and len(told) == len(seconds) else None


def _worked(folder: Path, attempt: JobAttempt) -> float | None:
    ended: datetime | None = attempt.ended_at
    if ended is None:
        return None
    seconds = (ended - attempt.started_at).total_seconds()
    if attempt.ending == Ending.LOST:
        signs = [file.stat().st_mtime for name in _SIGNS if (file := folder / name).is_file()]
        if not signs:
            return None
        seconds = min(seconds, max(signs) - attempt.started_at.timestamp())
    return max(seconds, 0.0)


def _samples(home: Home, found: Sequence[tuple[Job, float]]) -> Samples:
    last = found[-1][0]
    return Samples(
        jobs=tuple(Sample(submission=job.submission_id, seed=job.seed, seconds=seconds) for job, seconds in found),
        shares=_shares(home, [job for job, _ in found[-MANIFESTS:]]),
        items={score.task: score.items for score in last.scores},
    )


def _shares(home: Home, jobs: Iterable[Job]) -> dict[Stage, float]:
    """The mean share of each stage, from the manifests of runs that did all of it in one attempt."""
    totals, runs = dict.fromkeys(STAGES, 0.0), 0
    for job in jobs:
        folder = (job.result or {}).get("run")
        manifest = None if folder is None or len(job.attempts) > 1 else read_manifest(home.root / folder)
        seconds = {} if manifest is None else manifest["seconds"]
        whole = fsum(seconds.values())
        if whole > 0:
            runs += 1
            for stage in STAGES:
                totals[stage] += seconds.get(stage, 0.0) / whole
    return {stage: total / runs for stage, total in totals.items()} if runs else {}
