"""One look at the queue: what runs and how fast, what waits, what failed. Reads only, and as cheap with ten thousand
jobs as with ten.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from ranker import queue
from ranker.db.models import Job
from ranker.types import Status

TROUBLES = 5
QUIET_S = 60.0
"""A job whose count has not moved for longer is worth a remark; loading a model takes less."""
LATE = 3 / 8
"""Of a lease: a worker is heard of each quarter of it, and then it may be busy for a moment."""


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """A job at work. Times in seconds, memory in 10^9 bytes; None is what its worker has not told (yet).

    `rate` counts units of the stage per second (steps, clips), `eta_s` is when the stage ends at that rate. `beat_s`:
    how long ago its worker was last heard of, `is_late`: longer than it should be; `quiet_s`: since when nothing moved.
    """

    job: int
    submission: str
    team: str
    kind: str
    track: str | None
    attempt: int
    worker: str | None
    running_s: float
    beat_s: float
    is_late: bool
    stage: str | None = None
    task: str | None = None
    done: int = 0
    total: int = 0
    loss: float | None = None
    rate: float | None = None
    eta_s: float | None = None
    quiet_s: float | None = None
    device: str | None = None
    memory_gb: float | None = None
    encoder_memory_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A job that failed lately, or waits to be tried again."""

    job: int
    submission: str
    team: str
    track: str | None
    status: str
    fault: str | None
    attempt: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Standstill:
    """Why no job is handed out."""

    since: str
    by: str
    why: str
    give_back: bool


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look saw. `counts`: jobs by status; `oldest_queued_s`: how long the first of them has been waiting."""

    at: str
    counts: dict[str, int]
    paused: Standstill | None = None
    oldest_queued_s: float | None = None
    running: tuple[RunningJob, ...] = ()
    troubles: tuple[Trouble, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def look(session: Session, *, now: datetime, lease_s: float) -> Look:
    """What is seen at `now`; the last heartbeat follows from the length of a lease, or `lease_s` if it tells none."""
    counts = dict.fromkeys(map(str, Status), 0)
    for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status)):
        counts[status] = count
    whole = select(Job).options(joinedload(Job.submission))
    running = session.scalars(whole.where(Job.status == Status.RUNNING).order_by(Job.id)).all()
    oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == Status.QUEUED))
    pause = queue.paused(session)
    return Look(
        at=_iso(now),
        counts=counts,
        paused=None
        if pause is None
        else Standstill(since=_iso(pause.paused_at), by=pause.paused_by, why=pause.why, give_back=pause.give_back),
        oldest_queued_s=None if oldest is None else _since(oldest, now),
        running=tuple(_running(job, now, lease_s) for job in running),
        troubles=tuple(_trouble(job) for job in _troubled(session)),
    )


def nothing(now: datetime) -> Look:
    """What is seen where there is no database yet."""
    return Look(at=_iso(now), counts=dict.fromkeys(map(str, Status), 0))


def _troubled(session: Session) -> list[Job]:
    """The last to fail, and first of the waiting the last that failed an attempt."""
    whole = select(Job).options(joinedload(Job.submission))
    again = whole.where(Job.status == Status.QUEUED, Job.infra_failures > 0)
    again = again.order_by(Job.not_before.desc().nulls_last(), Job.id)
    failed = whole.where(Job.status == Status.FAILED, Job.fault.is_not(None))
    failed = failed.order_by(Job.finished_at.desc().nulls_last(), Job.id)
    found = [*session.scalars(again.limit(TROUBLES)), *session.scalars(failed.limit(TROUBLES))]
    return found[:TROUBLES]


def _running(job: Job, now: datetime, lease_s: float) -> RunningJob:
    told = job.progress or {}
    assert job.lease_expires_at is not None
    moved, rate = told.get("moved_at"), told.get("rate")
    left = told.get("total", 0) - told.get("done", 0)
    lease_s = lease_s if job.lease_s is None else job.lease_s
    beat_s = _since(job.lease_expires_at - timedelta(seconds=lease_s), now)
    return RunningJob(
        job=job.id,
        submission=job.submission_id,
        team=job.submission.team,
        kind=job.kind,
        track=job.track if job.track is None else job.where,
        attempt=job.attempt,
        worker=job.worker,
        running_s=0.0 if job.started_at is None else _since(job.started_at, now),
        beat_s=beat_s,
        is_late=beat_s > lease_s * LATE,
        eta_s=round(left / rate, 1) if rate and left > 0 and told.get("total") else None,
        quiet_s=None if moved is None else _since(datetime.fromisoformat(moved), now),
        **{name: told[name] for name in _TOLD if told.get(name) is not None},
    )


_TOLD = ("stage", "task", "done", "total", "loss", "rate", "device", "memory_gb", "encoder_memory_gb")


def _trouble(job: Job) -> Trouble:
    return Trouble(
        job=job.id,
        submission=job.submission_id,
        team=job.submission.team,
        track=job.track if job.track is None else job.where,
        status=job.status,
        fault=job.fault,
        attempt=job.attempt,
        reasons=tuple(job.reasons),
    )


def _since(then: datetime, now: datetime) -> float:
    """Seconds, none below 0: clocks of two machines differ a little."""
    return round(max((now - then).total_seconds(), 0.0), 1)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
