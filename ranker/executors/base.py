"""What an executor is, and what all of them share: the watch over processes until every job has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

from sqlalchemy import Engine, select

from ranker import queue
from ranker.db.models import Job
from ranker.db.session import open_database, session
from ranker.errors import InfraError, OrganizerError
from ranker.executors.pool import Pool
from ranker.home import Home
from ranker.settings import Service
from ranker.types import Fault, Status

TICK_S = 0.2
REAP_EVERY_TICKS = 5


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
    job_ids: Collection[int],
    *,
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    on_tick: Callable[[], None],
) -> None:
    """Keep a process for each of these environments while jobs wait; `command` gets the arguments of `ranker.worker`.

    Returns and raises as `Executor.run`.
    """
    engine = open_database(home)
    arguments = [*command, "--home", str(home.root), "--jobs", ",".join(map(str, sorted(job_ids)))]
    if home.hidden is not None:
        arguments += ["--hidden", str(home.hidden)]
    arguments += ["--service", service.model_dump_json(), "--parent", str(os.getpid())]
    try:
        with Pool(arguments, environments) as pool:
            _supervise(engine, service, job_ids, pool, on_tick)
        on_tick()
        _raise_infra_faults(_jobs(engine, job_ids))
    finally:
        engine.dispose()


def _supervise(
    engine: Engine, service: Service, job_ids: Collection[int], pool: Pool, on_tick: Callable[[], None]
) -> None:
    """Keep enough workers alive until no job is queued or running any more."""
    for tick in count():
        jobs = _jobs(engine, job_ids)
        attempts = sum(job.attempt for job in jobs)
        deaths = pool.bury(attempts)
        if deaths or tick % REAP_EVERY_TICKS == 0:
            pool.kill_overdue(jobs, _now())
            queue.reap(engine, now=_now(), is_dead=queue.is_dead_here, max_infra_attempts=service.infra_attempts)
            jobs = _jobs(engine, job_ids)
        _raise_organizer_fault(jobs)
        queued = sum(job.status == Status.QUEUED for job in jobs)
        running = sum(job.status == Status.RUNNING for job in jobs)
        if not queued and not running:
            return
        if queued:
            pool.fill(queued + running)
        on_tick()
        time.sleep(TICK_S)


def _jobs(engine: Engine, job_ids: Collection[int]) -> Sequence[Job]:
    with session(engine, read_only=True) as reading:
        return reading.scalars(select(Job).where(Job.id.in_(job_ids)).order_by(Job.id)).all()


def _raise_organizer_fault(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.fault == Fault.ORGANIZER:
            raise OrganizerError(
                f"job {job.id} ({job.kind} of submission {job.submission_id}) stopped the queue: "
                f"{'; '.join(job.reasons)}"
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
