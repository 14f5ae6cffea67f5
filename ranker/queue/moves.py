"""Which state of a job follows which, and the record of its attempts: both change in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker.db.models import Job, JobAttempt
from ranker.errors import OrganizerError
from ranker.types import Ending, Fault, Status

MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset({Status.QUEUED}),  # a check only, whose question has changed
    Status.FAILED: frozenset({Status.QUEUED, Status.CANCELLED}),  # cancelled: given up, if it was no fault of the team
    Status.CANCELLED: frozenset({Status.QUEUED}),
}
"""Every move that a job's state may make. The database refuses all others, too (a trigger of migration 0004)."""


def move(job: Job, to: Status) -> None:
    """Change a job's state; whatever belonged to the old one goes. Raises OrganizerError for a move not in MOVES."""
    if to not in MOVES[Status(job.status)]:
        raise OrganizerError(
            f"job {job.id} cannot go from {job.status} to {to}; this is a mistake in ranker, please report it"
        )
    job.status = to
    job.worker, job.lease_expires_at, job.fault = None, None, None


def begin(session: Session, job: Job, *, worker: str, now: datetime, lease_s: float) -> None:
    """Hand a queued job to a worker: a new attempt, whose number was never given before."""
    move(job, Status.RUNNING)
    job.attempt += 1
    job.worker, job.lease_expires_at = worker, now + timedelta(seconds=lease_s)
    job.not_before, job.progress, job.started_at = None, None, now
    session.add(JobAttempt(job_id=job.id, number=job.attempt, worker=worker, started_at=now, reasons=[]))


def end(
    session: Session,
    job: Job,
    to: Status,
    ending: Ending,
    *,
    now: datetime,
    fault: Fault | None = None,
    reasons: Sequence[str] = (),
) -> None:
    """Take a running job from its attempt, and write down how that ended."""
    live = select(JobAttempt).where(JobAttempt.job_id == job.id, JobAttempt.ending.is_(None))
    attempt = session.scalars(live).one()
    attempt.ended_at, attempt.ending, attempt.fault, attempt.reasons = now, ending, fault, list(reasons)
    move(job, to)
    if to is not Status.QUEUED:
        job.finished_at = now


def requeue(job: Job) -> None:
    """Queue a job that has ended once more: due at once, with a fresh count of failures."""
    move(job, Status.QUEUED)
    job.reasons, job.result, job.progress = [], None, None
    job.infra_failures, job.not_before, job.finished_at = 0, None, None
