"""What an executor is, and what all of them share: the watch over processes until every job has ended."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Protocol

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from ranker import queue
from ranker.db.models import Job, JobAttempt
from ranker.db.session import open_database, session
from ranker.errors import InfraError, OrganizerError
from ranker.executors.pool import Pool
from ranker.home import Home
from ranker.settings import Service
from ranker.types import Ending, Fault, Status

log = logging.getLogger("ranker.executors")

TICK_S = 0.2
REAP_EVERY_TICKS = 5
JUMP_S = 1.0
_LISTED = 500  # ids that one question names


class Executor(Protocol):
    """Where jobs are done. Placement only: which jobs there are, and how they ended, the queue alone knows."""

    def devices(self, service: Service) -> tuple[str, ...]:
        """Model names of the GPUs that jobs run on, each once; empty where they run on CPUs."""
        ...

    def run(
        self,
        home: Home,
        service: Service,
        job_ids: Collection[int],
        *,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Do the given jobs, and return when each of them has ended, however.

        `on_tick` is called about five times a second. On KeyboardInterrupt the jobs that run are given back first.
        Raises InfraError if processes cannot be kept alive, or a job has failed by our own fault, and OrganizerError,
        after everything was stopped, as soon as one failed by the organizer's.
        """
        ...


def run_processes(
    home: Home,
    service: Service,
    job_ids: Collection[int] | None,
    *,
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    on_tick: Callable[[], None],
    until_empty: bool = True,
) -> None:
    """Keep a process for each of these environments while jobs wait; `command` gets the arguments of `ranker.worker`.

    Returns and raises as `Executor.run`. `job_ids` None: all of the queue, also what comes in meanwhile; whose fault a
    failure is then ends nothing, and without `until_empty` nothing but an interruption does.
    """
    engine = open_database(home)
    arguments = [*command, "--home", str(home.root)]
    if job_ids is not None:
        arguments += ["--jobs", ",".join(map(str, sorted(job_ids)))]
    if home.hidden is not None:
        arguments += ["--hidden", str(home.hidden)]
    arguments += ["--service", service.model_dump_json(), "--parent", str(os.getpid())]
    try:
        with Pool(arguments, environments) as pool:
            watch = _Watch(engine=engine, service=service, job_ids=None if job_ids is None else frozenset(job_ids))
            watch.supervise(pool, on_tick, until_empty=until_empty)
        on_tick()
        if job_ids is not None:
            _raise_infra_faults(_jobs(engine, job_ids))
    finally:
        engine.dispose()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The queue at one moment. `queued` is counted up to the number of places; `begun` rises with every attempt."""

    queued: int
    running: Sequence[Job]
    broken: Sequence[Job]
    begun: int
    is_paused: bool


class Patience:
    """The time by which leases are judged, by someone who looks about once a second.

    When the clock leaps ahead (a laptop that slept, a clock that was set), every lease seems to have run out, though
    nobody fell silent: until living workers had the time for two heartbeats (each a quarter of a lease), the leap is
    not counted.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._offset: float | None = None
        self._refused_at: float | None = None
        self._leap = timedelta()
        self._until = 0.0

    @property
    def _grace_s(self) -> float:
        return self._lease_s / 2

    def cover(self, leases_s: Iterable[float | None]) -> None:
        """Have as much patience as leases of these lengths need, too: other terminals may give longer ones."""
        self._lease_s = max([self._lease_s, *(each for each in leases_s if each is not None)])

    def judged(self, now: datetime, monotonic: float) -> datetime:
        """`now`, less the leap while that is not counted; `monotonic`: seconds by a clock that nobody sets, and that
        stands while the machine sleeps (CLOCK_MONOTONIC).
        """
        if monotonic >= self._until:
            self._refused_at = self._refused_at if self._leap else None
            self._leap = timedelta()
        offset = now.timestamp() - monotonic
        leap_s = 0.0 if self._offset is None else offset - self._offset
        self._offset = offset
        if leap_s > JUMP_S:
            self._leap += timedelta(seconds=leap_s)
            self._until = monotonic + self._grace_s
        return now - self._leap

    def refused(self, monotonic: float) -> None:
        """The database took nothing from us, so it takes no heartbeat either: who lives gets time for one, again."""
        self._refused_at = monotonic if self._refused_at is None else self._refused_at
        self._leap = max(self._leap, timedelta(seconds=monotonic - self._refused_at + self._lease_s))
        self._until = monotonic + self._grace_s


@dataclass(frozen=True, kw_only=True)
class _Watch:
    """Looks at jobs (None: all) until none of them is queued or running any more."""

    engine: Engine
    service: Service
    job_ids: frozenset[int] | None

    def supervise(self, pool: Pool, on_tick: Callable[[], None], *, until_empty: bool) -> None:
        """Keep enough workers alive; take jobs from the dead."""
        patience = Patience(self.service.lease_s)
        for tick in count():
            seen = self._look(pool.places)
            deaths = pool.bury(seen.begun)
            if deaths or tick % REAP_EVERY_TICKS == 0:
                try:
                    patience.cover(job.lease_s for job in seen.running)
                    self._take_back(pool, patience)
                except OperationalError as error:  # a lock that is held, a disk that is full: there is another tick
                    patience.refused(time.monotonic())
                    log.warning("the database did not take back what dead workers did: %s", error)
                seen = self._look(pool.places)
            if self.job_ids is not None:
                _raise_organizer_fault(seen.broken)
            if until_empty and not seen.queued and not seen.running:
                return
            if seen.queued and not seen.is_paused:
                pool.fill(seen.queued + len(seen.running))
            on_tick()
            time.sleep(TICK_S)

    def _take_back(self, pool: Pool, patience: Patience) -> None:
        """Queue what the dead, and workers that hang, were doing; then end those of them that are ours, whoever took
        their jobs: this terminal or another.
        """
        now = _now()
        judged = patience.judged(now, time.monotonic())
        queue.reap(
            self.engine,
            now=judged,
            is_dead=queue.is_dead_here,
            max_infra_attempts=self.service.infra_attempts,
            is_clock_sure=judged == now,  # new leases reach beyond the judged time
        )
        pool.kill(self._overdue(pool.workers()))

    def _overdue(self, workers: Mapping[str, int]) -> set[int]:
        """Those of our processes from whom everything was taken that they held, and who have done nothing since."""
        of_ours = select(JobAttempt).where(JobAttempt.worker.in_(workers)).order_by(JobAttempt.ended_at)
        last: dict[int, str | None] = {}
        with session(self.engine, read_only=True) as reading:
            for attempt in reading.scalars(of_ours.where(JobAttempt.ending.is_not(None))):
                last[workers[attempt.worker]] = attempt.ending
            for attempt in reading.scalars(of_ours.where(JobAttempt.ending.is_(None))):
                last[workers[attempt.worker]] = None
        return {pid for pid, ending in last.items() if ending == Ending.LOST}

    def _waiting(self, reading: Session, most: int) -> int:
        """How many of our jobs wait, counted up to so many. Of ten thousand others that wait, few are read."""
        waiting = select(Job.id).where(Job.status == Status.QUEUED)
        if self.job_ids is None:
            return len(reading.scalars(waiting.limit(most)).all())
        if len(self.job_ids) <= _LISTED:
            return len(reading.scalars(waiting.where(Job.id.in_(self.job_ids)).limit(most)).all())
        ours = waiting.where(Job.id.between(min(self.job_ids), max(self.job_ids)))
        with reading.scalars(ours, execution_options={"yield_per": 100}) as found:
            return sum(1 for _ in islice((number for number in found if self._is_ours(number)), most))

    def _look(self, places: int) -> _Seen:
        """Light enough for several times a second, however many jobs wait."""
        with session(self.engine, read_only=True) as reading:
            running = reading.scalars(select(Job).where(Job.status == Status.RUNNING).order_by(Job.id))
            broken = reading.scalars(select(Job).where(Job.status == Status.FAILED, Job.fault == Fault.ORGANIZER))
            return _Seen(
                queued=self._waiting(reading, max(places, 1)),
                running=[job for job in running if self._is_ours(job.id)],
                broken=[job for job in broken if self._is_ours(job.id)],
                begun=reading.scalar(select(func.max(JobAttempt.id))) or 0,
                is_paused=queue.paused(reading) is not None,
            )

    def _is_ours(self, number: int) -> bool:
        return self.job_ids is None or number in self.job_ids


def _jobs(engine: Engine, job_ids: Collection[int]) -> Sequence[Job]:
    with session(engine, read_only=True) as reading:
        return reading.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id)).all()


def _raise_organizer_fault(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.fault == Fault.ORGANIZER:
            raise OrganizerError(
                f"job {job.id} ({job.kind} of submission {job.submission_id}) stopped the queue: "
                f"{'; '.join(job.reasons)}; mend it, then `ranker resume`"
            )


def _raise_infra_faults(jobs: Sequence[Job]) -> None:
    failed = [job for job in jobs if job.fault == Fault.INFRA]
    if failed:
        listed = "; ".join(
            f"job {job.id} of submission {job.submission_id}: {', '.join(job.reasons)}" for job in failed
        )
        raise InfraError(
            f"{len(failed)} of {len(jobs)} jobs failed by no fault of their team, after every retry: {listed}; "
            "the same command tries again"
        )


def _now() -> datetime:
    return datetime.now(UTC)
