"""Which state of a job follows which, and the record of its attempts: both change in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Row, Table, bindparam, insert, select, update
from sqlalchemy.orm import Session

from ranker.db.models import Job, JobAttempt
from ranker.errors import OrganizerError
from ranker.types import Ending, Fault, Status

_JOB, _ATTEMPT = cast("Table", Job.__table__), cast("Table", JobAttempt.__table__)

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
    job.worker, job.lease_expires_at, job.lease_s, job.fault = None, None, None, None


_BEGIN = (
    update(_JOB)
    .where(_JOB.c.id == bindparam("job_id"), _JOB.c.status == Status.QUEUED)
    .values(
        status=Status.RUNNING,
        attempt=_JOB.c.attempt + 1,
        worker=bindparam("by"),
        lease_expires_at=bindparam("until"),
        lease_s=bindparam("long"),
        started_at=bindparam("now"),
        not_before=None,
        progress=None,
    )
    .returning(_JOB)
)


def begin(connection: Connection, job_id: int, *, worker: str, now: datetime, lease_s: float) -> Row[Any] | None:
    """Hand a queued job to a worker: a new attempt, whose number was never given before.

    Returns the job's row; None, and nothing changed, if it is not queued any more.
    """
    until = now + timedelta(seconds=lease_s)
    values = {"job_id": job_id, "by": worker, "until": until, "long": lease_s, "now": now}
    row = connection.execute(_BEGIN, values).one_or_none()
    if row is not None:
        attempt = {"job_id": job_id, "number": row.attempt, "worker": worker, "started_at": now, "reasons": []}
        connection.execute(insert(_ATTEMPT), attempt)
    return row


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
