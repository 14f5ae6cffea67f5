"""The queue of jobs in the database: leases, fencing and retries. The only writer of `Job.status`.

A worker owns a job as long as the row names its worker and attempt. Every later write matches both, so whatever a
worker does after its job was given to another is refused with LeaseLostError. Time comes in as `now`; a clock that
jumps can cost repeated work, never two results.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from ranker.db.models import Job, Score
from ranker.db.session import session as open_session
from ranker.errors import LeaseLostError, OrganizerError
from ranker.types import Condition, Fault, JobKind, Progress, Status, digest_json

MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset({Status.QUEUED}),  # a check only, whose question has changed
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}
"""Every move that a job's state may make."""

MAX_RETRY_DELAY_S = 600.0


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


def job_key(submission_id: str, kind: JobKind, condition_digest: str | None, seed: int) -> str:
    """A job's identity (SHA-256, hex): the same question is asked once."""
    return digest_json({"submission": submission_id, "kind": kind, "condition": condition_digest, "seed": seed})


def enqueue(
    session: Session,
    *,
    submission_id: str,
    kind: JobKind,
    condition: Condition | None,
    seed: int,
    now: datetime,
    again: bool = False,
) -> Job:
    """The job for this question, queued unless it is queued, running or answered already.

    A job that failed by infra or organizer, or was cancelled, is queued again with a fresh count of retries; one that
    failed by the participant's fault, or a check that succeeded, only with `again`. Flushes, so that the job has an id;
    the caller commits.
    """
    digest = None if condition is None else condition.digest
    key = job_key(submission_id, kind, digest, seed)
    job = session.scalar(select(Job).where(Job.key == key))
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
            status=Status.QUEUED,
            reasons=[],
            created_at=now,
        )
        session.add(job)
    elif (
        job.status == Status.CANCELLED
        or (job.status == Status.FAILED and (again or job.fault != Fault.PARTICIPANT))
        or (job.status == Status.SUCCEEDED and again and kind is JobKind.CHECK)
    ):
        _move(job, Status.QUEUED)
        job.reasons, job.result, job.progress = [], None, None
        job.infra_failures, job.not_before, job.finished_at = 0, None, None
    session.flush()
    return job


def claim(
    engine: Engine, *, worker: str, now: datetime, lease_s: float, job_ids: Collection[int] | None = None
) -> Claim | None:
    """Take the oldest job that is due, among `job_ids` if given, for `lease_s` seconds; None if there is none."""
    with open_session(engine) as session:
        job = session.scalar(select(Job).where(_due(now), _among(job_ids)).order_by(Job.id).limit(1))
        if job is None:
            return None
        _move(job, Status.RUNNING)
        job.attempt += 1
        job.worker, job.lease_expires_at = worker, now + timedelta(seconds=lease_s)
        job.not_before, job.progress, job.started_at = None, None, now
        return Claim(
            job_id=job.id,
            key=job.key,
            attempt=job.attempt,
            worker=worker,
            submission_id=job.submission_id,
            kind=JobKind(job.kind),
            benchmark=job.benchmark,
            track=job.track,
            condition=None if job.condition is None else Condition.from_json(job.condition),
            seed=job.seed,
        )


def next_due(engine: Engine, *, now: datetime, job_ids: Collection[int] | None = None) -> datetime | None:
    """When the next queued job may be claimed (`now` if one may be already); None if no job is queued."""
    with open_session(engine, read_only=True) as session:
        if session.scalar(select(Job.id).where(_due(now), _among(job_ids)).limit(1)) is not None:
            return now
        waiting = select(Job.not_before).where(Job.status == Status.QUEUED, _among(job_ids))
        return session.scalar(waiting.order_by(Job.not_before).limit(1))


def heartbeat(engine: Engine, claim: Claim, *, now: datetime, lease_s: float, progress: Progress | None) -> None:
    """Prolong the lease, and record progress unless it is None. Raises LeaseLostError if the job is another's now."""
    with open_session(engine) as session:
        job = _owned(session, claim)
        job.lease_expires_at = now + timedelta(seconds=lease_s)
        if progress is not None:
            job.progress = progress.to_json()


def finish(engine: Engine, claim: Claim, *, now: datetime, result: dict[str, Any], scores: Sequence[NewScore]) -> None:
    """Record the result and every score, and that the job succeeded, in one transaction. Raises LeaseLostError."""
    with open_session(engine) as session:
        job = _owned(session, claim)
        _move(job, Status.SUCCEEDED)
        job.result, job.reasons, job.finished_at = result, [], now
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

    Participant and organizer: FAILED at once. Infra: QUEUED again, due after `retry_delay_s` doubled with every failure
    (at most MAX_RETRY_DELAY_S), until `max_infra_attempts` attempts have failed.
    """
    with open_session(engine) as session:
        job = _owned(session, claim)
        job.reasons = list(reasons)
        if fault is Fault.INFRA:
            _infra_failure(job, now, max_infra_attempts, retry_delay_s)
        else:
            _give_up(job, now, fault)
        return Status(job.status)


def release(engine: Engine, claim: Claim, now: datetime) -> None:
    """Give an unfinished job back, due at once and without a penalty (Ctrl-C). Raises LeaseLostError."""
    with open_session(engine) as session:
        job = _owned(session, claim)
        _move(job, Status.QUEUED)
        job.not_before = now


def cancel(session: Session, *, job_id: int, now: datetime) -> bool:
    """Take a queued or running job out; its worker learns it at its next write. False if it had ended already."""
    job = session.get(Job, job_id)
    if job is None or Status.CANCELLED not in MOVES[Status(job.status)]:
        return False
    _move(job, Status.CANCELLED)
    job.finished_at = now
    return True


def reap(engine: Engine, *, now: datetime, is_dead: Callable[[str], bool], max_infra_attempts: int) -> int:
    """Take running jobs from workers that died or let their lease expire; returns how many jobs there were.

    They are due again at once. A job that took `max_infra_attempts` workers with it fails: it would take the next too.
    """
    with open_session(engine) as session:
        lost = [
            job
            for job in session.scalars(select(Job).where(Job.status == Status.RUNNING))
            if job.worker is not None and job.lease_expires_at is not None
            if job.lease_expires_at <= now or is_dead(job.worker)
        ]
        for job in lost:
            job.reasons = [f"attempt {job.attempt} ended without a word: its worker {job.worker} died or was cut off"]
            _infra_failure(job, now, max_infra_attempts, retry_delay_s=0.0)
        return len(lost)


def worker_id(pid: int | None = None) -> str:
    """Name of a process of this machine (None: this one), `host:pid:start`. The start tells it from a later one."""
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}:{pid}:{_process_start(pid)}"


def is_dead_here(worker: str) -> bool:
    """Whether `worker` (from `worker_id`) ran on this machine and runs no longer; False where that cannot be known.

    A machine is told by its boot and its pid namespace, since host names change while a process runs. A worker of this
    host name and an earlier boot died with it.
    """
    host, pid, start = worker.rsplit(":", 2)
    boot, namespace, _ = start.split("-")
    if boot != _boot():
        return host == socket.gethostname()
    return namespace == _pid_namespace() and _process_start(int(pid)) != start


def _process_start(pid: int) -> str | None:
    """Boot, pid namespace and clock tick at which a process began (proc_pid_stat(5), field 22); None if it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else f"{_boot()}-{_pid_namespace()}-{fields[18]}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _due(now: datetime) -> ColumnElement[bool]:
    # A time to wait for that lies further ahead than any delay we give was written before the clock was set back.
    horizon = now + timedelta(seconds=MAX_RETRY_DELAY_S)
    return and_(
        Job.status == Status.QUEUED, or_(Job.not_before.is_(None), Job.not_before <= now, Job.not_before > horizon)
    )


def _among(job_ids: Collection[int] | None) -> ColumnElement[bool]:
    return Job.id.in_(job_ids) if job_ids is not None else Job.id.is_not(None)


def _owned(session: Session, claim: Claim) -> Job:
    job = session.get(Job, claim.job_id)
    if job is None:
        raise LeaseLostError(f"job {claim.job_id} is no longer in the database; attempt {claim.attempt} stops here")
    if (job.status, job.worker, job.attempt) != (Status.RUNNING, claim.worker, claim.attempt):
        raise LeaseLostError(
            f"job {claim.job_id} is {job.status} in attempt {job.attempt}, not running in attempt {claim.attempt} of "
            f"{claim.worker}: this attempt stops and writes nothing more"
        )
    return job


def _move(job: Job, to: Status) -> None:
    if to not in MOVES[Status(job.status)]:
        raise OrganizerError(
            f"job {job.id} cannot go from {job.status} to {to}; this is a mistake in ranker, please report it"
        )
    job.status = to
    job.worker, job.lease_expires_at, job.fault = None, None, None


def _give_up(job: Job, now: datetime, fault: Fault) -> None:
    _move(job, Status.FAILED)
    job.fault, job.finished_at = fault, now


def _infra_failure(job: Job, now: datetime, max_infra_attempts: int, retry_delay_s: float) -> None:
    job.infra_failures += 1
    if job.infra_failures >= max_infra_attempts:
        _give_up(job, now, Fault.INFRA)
        return
    delay_s = min(retry_delay_s * 2.0 ** (job.infra_failures - 1), MAX_RETRY_DELAY_S)
    _move(job, Status.QUEUED)
    job.not_before = now + timedelta(seconds=delay_s)
