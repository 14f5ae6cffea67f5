"""What organizers do with jobs: ask for them, take them out, try them again, let them go first."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ranker.db.models import Job
from ranker.queue import moves
from ranker.queue.identity import job_key
from ranker.types import Condition, Ending, Fault, JobKind, Status

EVIDENCE_PRIORITY = -100
"""Of further seeds: what somebody waits for goes first."""


def enqueue(
    session: Session,
    *,
    submission_id: str,
    kind: JobKind,
    condition: Condition | None,
    seed: int,
    now: datetime,
    again: bool = False,
    priority: int = 0,
) -> Job:
    """The job for this question, queued unless it is queued, running or answered already; a new one gets `priority`.

    A job that failed by infra or organizer, or was cancelled, is queued again with a fresh count of retries; one that
    failed by the participant's fault, or a check that succeeded, only with `again`. Flushes, so that the job has an id;
    the caller commits.
    """
    digest = None if condition is None else condition.digest
    key = job_key(submission_id, kind, digest, seed)
    job = session.scalar(select(Job).where(Job.key == key).with_for_update())
    if job is None:
        job = Job(
            key=key,
            submission_id=submission_id,
            kind=kind,
            benchmark=None if condition is None else condition.benchmark,
            track=None if condition is None else condition.track,
            condition_digest=digest,
            condition=None if condition is None else condition.to_json(),
            seed=seed,
            priority=priority,
            status=Status.QUEUED,
            reasons=[],
            created_at=now,
        )
        session.add(job)
    elif job.status == Status.SUCCEEDED:
        if again and kind is JobKind.CHECK:
            moves.requeue(job)
    else:
        retry(job, again=again)
    session.flush()
    return job


def retry(job: Job, *, again: bool = False) -> bool:
    """Queue a job again that was cancelled or has failed; by the participant's fault, only with `again`.

    False, and nothing changed, in every other case. The caller commits.
    """
    ended = job.status in {Status.CANCELLED, Status.FAILED}
    if not ended or (job.fault == Fault.PARTICIPANT and not again):
        return False
    moves.requeue(job)
    return True


def cancel(session: Session, *, job_id: int, now: datetime) -> bool:
    """Take a job out that is queued or running, or has failed by no fault of its team; the worker of a running one
    learns it within about a second, and its next write is refused.

    False if there is no such job, or it ended otherwise. The caller commits.
    """
    job = session.get(Job, job_id, with_for_update=True)
    if job is None or Status.CANCELLED not in moves.MOVES[Status(job.status)] or job.fault == Fault.PARTICIPANT:
        return False
    if job.status == Status.RUNNING:
        moves.end(session, job, Status.CANCELLED, Ending.CANCELLED, now=now)
    else:
        moves.move(job, Status.CANCELLED)
        job.finished_at = now
    return True


def prioritize(job: Job, to: int) -> int:
    """Give a job another priority; returns the one that it had. The highest goes first; a running job runs on."""
    before, job.priority = job.priority, to
    return before


def first_priority(session: Session) -> int:
    """A priority above those of all jobs that wait."""
    highest = session.scalar(select(func.max(Job.priority)).where(Job.status == Status.QUEUED))
    return 1 + max(0, highest or 0)
