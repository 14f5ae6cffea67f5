"""What waits and what runs, in the order in which it is done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, select
from sqlalchemy.orm import Session

from ranker.db.models import Job, Submission
from ranker.types import Condition, JobKind, Part, Progress, Status


@dataclass(frozen=True, kw_only=True)
class Question:
    """What jobs of about the same duration have in common. A check has no condition: None, and empty words."""

    kind: JobKind
    condition: str | None = None
    benchmark: str = ""
    track: str = ""
    part: Part = Part.PUBLIC
    device: str = ""
    steps: int = 0
    kin: tuple[object, ...] = ()

    @classmethod
    def of(cls, kind: JobKind, condition: Condition | None) -> Question:
        """`kin` is what must be equal for durations of another condition to say something."""
        if condition is None:
            return cls(kind=kind)
        like = (condition.steps, condition.precision, condition.decoder_layers, condition.device, condition.sandboxed)
        return cls(
            kind=kind,
            condition=condition.digest,
            benchmark=condition.benchmark,
            track=condition.track,
            part=condition.part,
            device=condition.device,
            steps=condition.steps,
            kin=(condition.benchmark, condition.track, condition.part, *like),
        )

    @property
    def words(self) -> str:
        """For people: `mini, track A, hidden part`."""
        if self.kind is JobKind.CHECK:
            return str(self.kind)
        return f"{self.benchmark}, track {self.track}" + ("" if self.part is Part.PUBLIC else f", {self.part} part")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job that waits (`begun_at` None) or runs. `due_at`: it is not handed out before."""

    job: int
    submission: str
    team: str
    question: Question
    seed: int
    priority: int
    due_at: datetime | None = None
    begun_at: datetime | None = None
    progress: Progress | None = None

    @property
    def is_running(self) -> bool:
        """Whether a worker has it."""
        return self.begun_at is not None


def tasks(session: Session) -> tuple[Task, ...]:
    """Running jobs, then those that wait, in the order of claims: of the highest priority, then the oldest."""
    running_first = case((Job.status == Status.RUNNING, 0), else_=1)
    query = (
        select(
            Job.id, Job.submission_id, Submission.team, Job.kind, Job.condition, Job.seed, Job.priority, Job.status,
            Job.not_before, Job.started_at, Job.progress,
        )
        .join(Submission, Submission.id == Job.submission_id)
        .where(Job.status.in_([Status.RUNNING, Status.QUEUED]))
        .order_by(running_first, Job.priority.desc(), Job.id)
    )  # fmt: skip
    return tuple(_task(row) for row in session.execute(query))


def _task(row: Row[Any]) -> Task:
    is_running = row.status == Status.RUNNING
    told = row.progress if is_running else None
    return Task(
        job=row.id,
        submission=row.submission_id,
        team=row.team,
        question=Question.of(JobKind(row.kind), None if row.condition is None else Condition.from_json(row.condition)),
        seed=row.seed,
        priority=row.priority,
        due_at=row.not_before,
        begun_at=row.started_at if is_running else None,
        progress=None if told is None else Progress.from_json(told),
    )
