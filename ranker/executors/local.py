"""Worker processes on this machine: one per GPU, or as many as configured without one. Placement only, no state."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import IO

from sqlalchemy import Engine, select

from ranker import queue
from ranker.db.models import Job
from ranker.db.session import open_database, session
from ranker.errors import InfraError, OrganizerError
from ranker.home import Home
from ranker.settings import Service
from ranker.types import Fault, Status

WORKER_COMMAND = (sys.executable, "-m", "ranker.worker")
TICK_S = 0.2
REAP_EVERY_TICKS = 5
STOP_GRACE_S = 30.0
MAX_IDLE_DEATHS = 3
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as the driver names it. `uuid` is what CUDA_VISIBLE_DEVICES takes."""

    uuid: str
    name: str


@dataclass(kw_only=True)
class _Slot:
    """A place for one worker process at a time. `errors` is where that process's stderr goes outside of jobs."""

    environment: Mapping[str, str]
    errors: IO[bytes]
    process: subprocess.Popen[bytes] | None = None


def run(
    home: Home,
    service: Service,
    job_ids: Collection[int],
    *,
    workers: int | None = None,
    on_tick: Callable[[], None] = lambda: None,
    command: Sequence[str] = WORKER_COMMAND,
) -> None:
    """Do the given jobs in worker processes, and return when each of them has ended, however.

    `workers`: None for one per GPU, or `service.cpu_workers` without a GPU. `on_tick` is called about five times a
    second. Workers that die are replaced. On KeyboardInterrupt the workers give their jobs back first.

    Raises InfraError if workers cannot be kept alive, or a job has failed by our own fault, and OrganizerError, after
    stopping every worker, as soon as one failed by the organizer's.
    """
    if not job_ids:
        return
    engine = open_database(home)
    arguments = [*command, "--home", str(home.root), "--jobs", ",".join(map(str, sorted(job_ids)))]
    if home.hidden is not None:
        arguments += ["--hidden", str(home.hidden)]
    arguments += ["--service", service.model_dump_json(), "--parent", str(os.getpid())]
    try:
        with _Pool(arguments, _environments(gpus(), service, workers, len(job_ids))) as pool:
            _supervise(engine, service, job_ids, pool, on_tick)
        on_tick()
        _raise_infra_faults(_jobs(engine, job_ids))
    finally:
        engine.dispose()


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that jobs of this process can use: `driver_gpus`, if the installed torch can use any."""
    return driver_gpus() if torch_has_cuda() else ()


def own_gpu() -> str | None:
    """The UUID of the GPU that this process's encoders are handed: the first that it can use itself."""
    return next((gpu.uuid for gpu in gpus()), None)


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build with CUDA, judged by its libraries; torch is not loaded."""
    found = importlib.util.find_spec("torch")
    folders = found.submodule_search_locations if found is not None else None
    return any((Path(folder) / "lib" / "libtorch_cuda.so").is_file() for folder in folders or ())


def driver_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order; empty without a driver.

    Raises InfraError if the driver is there and does not answer.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ()
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            "nvidia-smi did not answer within 30 s; look at the driver, or set CUDA_VISIBLE_DEVICES=''"
        ) from error
    if answer.returncode != 0:
        return ()
    found = [Gpu(uuid=uuid, name=name) for uuid, name in (line.split(", ", 1) for line in answer.stdout.splitlines())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(found)
    # CUDA reads the list up to the first entry that names no device.
    chosen = []
    for entry in (word.strip() for word in visible.split(",")):
        match = [
            gpu for index, gpu in enumerate(found) if entry == str(index) or (entry and gpu.uuid.startswith(entry))
        ]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return tuple(chosen)


def _environments(devices: Sequence[Gpu], service: Service, workers: int | None, jobs: int) -> list[dict[str, str]]:
    """One environment per worker: its GPU, and threads such that all workers together use no more than the cores."""
    cores = len(os.sched_getaffinity(0))
    number = workers if workers is not None else len(devices) or service.cpu_workers
    number = max(1, min(number, jobs, cores, len(devices) or cores))
    environments = []
    for index in range(number):
        environment = dict(os.environ)
        for variable in THREAD_VARIABLES:
            asked = os.environ.get(variable, "")
            environment[variable] = str(min(cores // number, int(asked) if asked.isdecimal() else cores))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[index].uuid
        environments.append(environment)
    return environments


def _supervise(
    engine: Engine, service: Service, job_ids: Collection[int], pool: _Pool, on_tick: Callable[[], None]
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


class _Pool:
    """The worker processes. Leaving the context ends them: gently first, so that they give their jobs back."""

    def __init__(self, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._arguments = arguments
        self._environments = environments
        self._slots: list[_Slot] = []
        self._files = ExitStack()
        self._idle_deaths = 0
        self._attempts_at_death: int | None = None

    def __enter__(self) -> _Pool:
        for environment in self._environments:
            errors = self._files.enter_context(tempfile.TemporaryFile())
            self._slots.append(_Slot(environment=environment, errors=errors))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in self._living():
                process.terminate()
            deadline = time.monotonic() + STOP_GRACE_S
            for process in self._living():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.0))
        finally:  # also on a second Ctrl-C
            for process in self._living():
                process.kill()
                process.wait()
            self._files.close()

    def fill(self, wanted: int) -> None:
        """Start processes in free places until `wanted` run, or no place is free."""
        missing = wanted - len(self._living())
        for slot in [slot for slot in self._slots if slot.process is None][: max(missing, 0)]:
            slot.errors.seek(0)
            slot.errors.truncate()
            # A session of its own: a Ctrl-C in the terminal reaches us alone, and we stop the workers in order.
            slot.process = subprocess.Popen(
                self._arguments,
                env=dict(slot.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=slot.errors,
                start_new_session=True,
            )

    def bury(self, attempts: int) -> int:
        """Free the places of processes that ended; returns how many ended badly.

        `attempts`: the jobs' attempts so far, all together. Raises InfraError when processes die again and again
        without having begun one.
        """
        bad = 0
        for slot in self._slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            code, slot.process = slot.process.returncode, None
            if code == 0:
                continue
            bad += 1
            self._idle_deaths = self._idle_deaths + 1 if attempts == self._attempts_at_death else 1
            self._attempts_at_death = attempts
            if self._idle_deaths >= MAX_IDLE_DEATHS:
                raise InfraError(
                    f"{self._idle_deaths} workers in a row ended before they began a job, the last with exit status "
                    f"{code}: {_last_line(slot.errors)}; run `ranker doctor`, then the same command again"
                )
        return bad

    def kill_overdue(self, jobs: Sequence[Job], now: datetime) -> None:
        """Kill our own workers whose lease ran out: they hang, and would keep their place for nothing."""
        overdue = {
            job.worker
            for job in jobs
            if job.worker is not None and job.lease_expires_at is not None and job.lease_expires_at <= now
        }
        for process in self._living():
            if queue.worker_id(process.pid) in overdue:
                process.kill()
                process.wait()

    def _living(self) -> list[subprocess.Popen[bytes]]:
        return [slot.process for slot in self._slots if slot.process is not None and slot.process.poll() is None]


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


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(size - 4096, 0))
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _now() -> datetime:
    return datetime.now(UTC)
