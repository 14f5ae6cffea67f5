"""What a worker does with jobs: claim, keep alive, end, give back; and what is done for workers that died."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Engine, Row, Select, Table, bindparam, exists, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from ranker.db.models import Job, JobAttempt, Pause, Score
from ranker.db.session import session as open_session
from ranker.errors import LeaseLostError
from ranker.queue import moves
from ranker.queue.identity import is_coordinator
from ranker.queue.pausing import PAUSE_POLL_S, pause_for
from ranker.types import Condition, Ending, Fault, JobKind, Progress, Status

MAX_RETRY_DELAY_S = 600.0
MAX_COORDINATORS = 20
"""So many coordinators may be lost with a job before that counts against it: it might be what takes them along."""
_JOB = cast("Table", Job.__table__)  # without the ORM, which takes longer than the database, where it is asked often
_IS_PAUSED = select(Pause.give_back).where(Pause.id == 1)
# Asked once a second for each job that runs: built once, and one question.
_HOLDER_AND_PAUSE = select(
    _JOB.c.status, _JOB.c.worker, _JOB.c.attempt, _IS_PAUSED.scalar_subquery().label("give_back")
).where(_JOB.c.id == bindparam("job_id"))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold on a job. `attempt` rises with every claim of the job; with `worker` it is the fencing token."""

    job_id: int
    key: str
    attempt: int
    worker: str
    submission_id: str
    kind: JobKind
    benchmark: str | None
    track: str | None
    condition: Condition | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class NewScore:
    """One task's score as a handler returns it; the fields are those of `ranker.db.models.Score`."""

    task: str
    metric: str
    value: float
    items: int
    predictions: str
    blind: float | None = None


def claim(
    engine: Engine, *, worker: str, now: datetime, lease_s: float, job_ids: Collection[int] | None = None
) -> Claim | None:
    """Take the job that is due, of the highest priority and then the oldest, for `lease_s` seconds.

    `job_ids`: only one of these (a set, if they are many). None if there is none, or while the queue is paused. Workers
    that ask in vain take no lock.
    """
    with _reading(engine) as looking, _due(looking, now, job_ids) as waiting:
        if next(waiting, None) is None:
            return None
    with engine.begin() as connection, _due(connection, now, job_ids) as waiting:
        for job_id in waiting:
            row = moves.begin(connection, job_id, worker=worker, now=now, lease_s=lease_s)
            if row is not None:
                return _claim(row, worker)
    return None


def next_due(engine: Engine, *, now: datetime, job_ids: Collection[int] | None = None) -> datetime | None:
    """When to ask for a job again: `now` if one is due, later while jobs wait or the queue is paused; None if no job is
    queued.
    """
    with _reading(engine) as connection:
        with _due(connection, now, job_ids) as due:
            if next(due, None) is not None:
                return now
        waiting = select(_JOB.c.id, _JOB.c.not_before).where(_JOB.c.status == Status.QUEUED)
        times = [at for job_id, at in connection.execute(waiting) if job_ids is None or job_id in job_ids]
        if not times:
            return None
        if connection.execute(_IS_PAUSED).one_or_none() is not None:
            return now + timedelta(seconds=PAUSE_POLL_S)
        soonest: datetime = min(at for at in times if at is not None)
        return soonest


def heartbeat(engine: Engine, claim: Claim, *, now: datetime, lease_s: float, progress: Progress | None) -> None:
    """Prolong the lease, and record progress unless it is None. Raises LeaseLostError if the job is another's now."""
    lease = {"lease_expires_at": now + timedelta(seconds=lease_s), "lease_s": lease_s}
    values = lease if progress is None else lease | {"progress": progress.to_json()}
    with engine.begin() as connection:
        if connection.execute(update(_JOB).where(*_owner(claim)).values(values)).rowcount != 1:
            _check_owner(claim, connection.execute(_holder(claim)).one_or_none())


def is_asked_back(engine: Engine, claim: Claim) -> bool:
    """Whether the worker shall give its job back as soon as that loses nothing (`ranker pause --now`). Takes no lock.

    Raises LeaseLostError if the job is another's now.
    """
    with _reading(engine) as connection:
        found = connection.execute(_HOLDER_AND_PAUSE, {"job_id": claim.job_id}).one_or_none()
        _check_owner(claim, None if found is None else (found.status, found.worker, found.attempt))
        return found is not None and bool(found.give_back)


def finish(
    engine: Engine,
    claim: Claim,
    *,
    now: datetime,
    result: dict[str, Any],
    scores: Sequence[NewScore],
    also: Callable[[Session], object] | None = None,
) -> None:
    """Record the result and every score, and that the job succeeded, in one transaction; in it, last, do what `also`
    does: what follows from the result. Raises LeaseLostError.
    """
    with open_session(engine) as session:
        job = _owned(session, claim)
        moves.end(session, job, Status.SUCCEEDED, Ending.SUCCEEDED, now=now)
        job.result, job.reasons = result, []
        session.add_all(
            Score(
                job_id=job.id,
                task=score.task,
                metric=score.metric,
                value=score.value,
                blind=score.blind,
                items=score.items,
                predictions=score.predictions,
            )
            for score in scores
        )
        if also is not None:
            session.flush()
            also(session)


def fail(
    engine: Engine,
    claim: Claim,
    *,
    now: datetime,
    fault: Fault,
    reasons: Sequence[str],
    max_infra_attempts: int,
    retry_delay_s: float,
) -> Status:
    """Record a failure; returns the job's new state. Raises LeaseLostError.

    Participant and organizer: FAILED at once; organizer: the queue is paused in the same transaction. Infra: QUEUED
    again, due after `retry_delay_s` doubled with every failure (at most MAX_RETRY_DELAY_S), until `max_infra_attempts`
    attempts have failed.
    """
    with open_session(engine) as session:
        job = _owned(session, claim)
        how = _Failure(ending=Ending.FAILED, reasons=reasons, now=now)
        if fault is Fault.INFRA:
            _infra_failure(session, job, how, max_infra_attempts=max_infra_attempts, retry_delay_s=retry_delay_s)
        else:
            _give_up(session, job, how, fault)
        if fault is Fault.ORGANIZER:
            pause_for(session, job, now)
        return Status(job.status)


def release(engine: Engine, claim: Claim, now: datetime) -> None:
    """Give an unfinished job back, due at once and without a penalty (Ctrl-C). Raises LeaseLostError."""
    with open_session(engine) as session:
        job = _owned(session, claim)
        moves.end(session, job, Status.QUEUED, Ending.RELEASED, now=now)
        job.not_before = now


def reap(
    engine: Engine,
    *,
    now: datetime,
    is_dead: Callable[[str], bool],
    max_infra_attempts: int,
    is_clock_sure: bool = True,
    job_ids: Collection[int] | None = None,
) -> int:
    """Take running jobs (of `job_ids`, or all) from workers that died or let their lease expire; returns how many jobs
    there were.

    They are due again at once. A job that took `max_infra_attempts` workers with it fails: it would take the next too.
    What is lost with a coordinator, which holds many jobs and does none of them, counts only after MAX_COORDINATORS.
    A lease that ends later than its length allows was given before the clock was set back, and is shortened to that
    length, if `is_clock_sure`; its worker, if it lives, prolongs it.
    """
    with open_session(engine, read_only=True) as reading:
        suspects = [
            job.id
            for job in _running(reading)
            if (job_ids is None or job.id in job_ids)
            and (job.lease_expires_at <= now or (is_clock_sure and _is_from_later(job, now)) or is_dead(job.worker))
        ]
    if not suspects:
        return 0
    taken = 0
    with open_session(engine) as session:
        for job in _running(session, suspects):
            if job.lease_expires_at <= now or is_dead(job.worker):
                word = f"attempt {job.attempt} ended without a word: its worker {job.worker} died or was cut off"
                how = _Failure(ending=Ending.LOST, reasons=[word], now=now)
                if is_coordinator(job.worker) and _lost_coordinators(session, job) < MAX_COORDINATORS:
                    _again(session, job, how)
                else:
                    _infra_failure(session, job, how, max_infra_attempts=max_infra_attempts)
                taken += 1
            elif is_clock_sure and _is_from_later(job, now):
                job.lease_expires_at = now + timedelta(seconds=job.lease_s)
    return taken


def _is_from_later(job: Any, now: datetime) -> bool:
    """Whether a lease ends later than one that is given now. Those from before revision 0005 do not tell."""
    return job.lease_s is not None and job.lease_expires_at > now + timedelta(seconds=job.lease_s)


def _lost_coordinators(session: Session, job: Job) -> int:
    """How many coordinators have died, or fallen silent, while they held this job."""
    endings = select(JobAttempt.worker).where(JobAttempt.job_id == job.id, JobAttempt.ending == Ending.LOST)
    return sum(map(is_coordinator, session.scalars(endings)))


@contextmanager
def _reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that blocks nobody."""
    with engine.connect().execution_options(read_only=True) as connection, connection.begin():
        yield connection


def _claim(row: Row[Any], worker: str) -> Claim:
    return Claim(
        job_id=row.id,
        key=row.key,
        attempt=row.attempt,
        worker=worker,
        submission_id=row.submission_id,
        kind=JobKind(row.kind),
        benchmark=row.benchmark,
        track=row.track,
        condition=None if row.condition is None else Condition.from_json(row.condition),
        seed=row.seed,
    )


# Workers ask this all the time, so it is built once; ids come one by one from the index `job_claim`, first of all the
# first to be. A time to wait for that lies further ahead than any delay we give was written before the clock was set
# back.
_DUE = (
    select(_JOB.c.id)
    .where(
        _JOB.c.status == Status.QUEUED,
        or_(
            _JOB.c.not_before.is_(None), _JOB.c.not_before <= bindparam("now"), _JOB.c.not_before > bindparam("horizon")
        ),
        ~exists(Pause.__table__.select()),
    )
    .order_by(_JOB.c.priority.desc(), _JOB.c.id)
)
_FIRST_DUE = _DUE.limit(1)  # a writer is alone, so what it finds it gets


@contextmanager
def _due(connection: Connection, now: datetime, job_ids: Collection[int] | None) -> Iterator[Iterator[int]]:
    """Ids of jobs that may be claimed, in the order of claims; none while the queue is paused."""
    times = {"now": now, "horizon": now + timedelta(seconds=MAX_RETRY_DELAY_S)}
    if job_ids is None:
        yield iter(connection.scalars(_FIRST_DUE, times).all())
        return
    with connection.scalars(_DUE, times, execution_options={"yield_per": 100}) as found:
        yield (job_id for job_id in found if job_id in job_ids)


def _running(session: Session, ids: Collection[int] | None = None) -> Iterator[Any]:
    """Running jobs, locked where they are to be changed (`ids`)."""
    query = select(Job).where(Job.status == Status.RUNNING).order_by(Job.id)
    if ids is not None:
        query = query.where(Job.id.in_(ids)).with_for_update()
    return iter(session.scalars(query).all())


def _holder(claim: Claim) -> Select[Any]:
    return select(_JOB.c.status, _JOB.c.worker, _JOB.c.attempt).where(_JOB.c.id == claim.job_id)


def _owner(claim: Claim) -> list[ColumnElement[bool]]:
    """What is true of the job's row as long as it is this claim's."""
    return [
        _JOB.c.id == claim.job_id,
        _JOB.c.status == Status.RUNNING,
        _JOB.c.worker == claim.worker,
        _JOB.c.attempt == claim.attempt,
    ]


def _owned(session: Session, claim: Claim) -> Job:
    job = session.get(Job, claim.job_id, with_for_update=True)
    _check_owner(claim, None if job is None else (job.status, job.worker, job.attempt))
    assert job is not None
    return job


def _check_owner(claim: Claim, found: Any) -> None:
    """Whether what the database says (status, worker, attempt) is still this claim. Raises LeaseLostError."""
    if found is None:
        raise LeaseLostError(f"job {claim.job_id} is no longer in the database; attempt {claim.attempt} stops here")
    status, _, attempt = found
    if tuple(found) != (Status.RUNNING, claim.worker, claim.attempt):
        raise LeaseLostError(
            f"job {claim.job_id} is {status} in attempt {attempt}, not running in attempt {claim.attempt} of "
            f"{claim.worker}: this attempt stops and writes nothing more"
        )


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """How an attempt ended badly, by nobody's act."""

    ending: Ending
    reasons: Sequence[str]
    now: datetime


def _give_up(session: Session, job: Job, how: _Failure, fault: Fault) -> None:
    moves.end(session, job, Status.FAILED, how.ending, now=how.now, fault=fault, reasons=how.reasons)
    job.fault, job.reasons = fault, list(how.reasons)


def _infra_failure(
    session: Session, job: Job, how: _Failure, *, max_infra_attempts: int, retry_delay_s: float = 0.0
) -> None:
    job.infra_failures += 1
    if job.infra_failures >= max_infra_attempts:
        _give_up(session, job, how, Fault.INFRA)
        return
    _again(session, job, how, delay_s=min(retry_delay_s * 2.0 ** (job.infra_failures - 1), MAX_RETRY_DELAY_S))


def _again(session: Session, job: Job, how: _Failure, *, delay_s: float = 0.0) -> None:
    moves.end(session, job, Status.QUEUED, how.ending, now=how.now, fault=Fault.INFRA, reasons=how.reasons)
    job.reasons, job.not_before = list(how.reasons), how.now + timedelta(seconds=delay_s)
