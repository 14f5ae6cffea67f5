"""When no job is handed out: because an organizer wants it, or because something of ours is broken."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import events
from ranker.db.models import Job, Pause
from ranker.queue import moves
from ranker.types import Action, Fault, Status

PAUSE_POLL_S = 1.0
_WHY_LENGTH = 2000


def paused(session: Session) -> Pause | None:
    """Why no job is handed out at present; None while the queue runs."""
    return session.get(Pause, 1)


def pause(session: Session, *, by: str, why: str, now: datetime, give_back: bool = False) -> Pause:
    """Hand out no job from now on; with `give_back`, running ones come back as soon as that loses nothing.

    A second reason is added to the first. The caller commits.
    """
    found = session.get(Pause, 1, with_for_update=True)
    if found is None:
        found = Pause(id=1, paused_at=now, paused_by=by, why=why[:_WHY_LENGTH], give_back=give_back)
        session.add(found)
    else:
        if why not in found.why:
            found.why = f"{found.why}; and: {why}"[:_WHY_LENGTH]
        found.give_back = found.give_back or give_back
    session.flush()
    return found


def pause_for(session: Session, job: Job, now: datetime) -> None:
    """Pause for a job that has failed by the organizer's fault: every further one would fail as well."""
    where = f", {job.where} of {job.benchmark}" if job.track else ""
    why = f"job {job.id} ({job.kind} of submission {job.submission_id}{where}) failed: {'; '.join(job.reasons)}"
    pause(session, by=events.RANKER, why=why, now=now)
    events.record(
        session,
        actor=events.RANKER,
        action=Action.PAUSE,
        submission_id=job.submission_id,
        job_id=job.id,
        now=now,
        why=why[:_WHY_LENGTH],
    )


def resume(session: Session, *, leave: Collection[int] = ()) -> list[Job]:
    """Hand out jobs again, and queue those that have failed by the organizer's fault, but for the ids in `leave`.

    Returns the jobs that were queued. The caller commits.
    """
    found = session.get(Pause, 1, with_for_update=True)
    if found is not None:
        session.delete(found)
    failed = select(Job).where(Job.status == Status.FAILED, Job.fault == Fault.ORGANIZER).order_by(Job.id)
    again = [job for job in session.scalars(failed.with_for_update()) if job.id not in leave]
    for job in again:
        moves.requeue(job)
    session.flush()
    return again
