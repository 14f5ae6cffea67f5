"""Worker processes on this machine: on its GPUs, or on its CPU, several side by side. Placement only, no state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ranker.errors import InfraError
from ranker.executors.base import run_processes
from ranker.executors.gpus import Gpu, Memory, gpus, memory
from ranker.home import Home
from ranker.settings import Service

WORKER_COMMAND = (sys.executable, "-m", "ranker.worker")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Local:
    """The executor of this machine. `workers`: None for as many as its GPUs have room for, or `service.cpu_workers`."""

    workers: int | None = None
    command: Sequence[str] = WORKER_COMMAND

    def devices(self, service: Service) -> tuple[str, ...]:
        """See `Executor`."""
        del service
        return tuple(sorted({gpu.name for gpu in gpus()}))

    def run(
        self,
        home: Home,
        service: Service,
        job_ids: Collection[int],
        *,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """See `Executor`. Raises InfraError, too, where no GPU has room for a job."""
        if job_ids:
            environments = self._environments(service, len(job_ids))
            run_processes(home, service, job_ids, command=self.command, environments=environments, on_tick=on_tick)

    def work(
        self, home: Home, service: Service, *, until_empty: bool, on_tick: Callable[[], None] = lambda: None
    ) -> None:
        """Do whatever is queued, also what comes in meanwhile; for ever, or `until_empty`.

        A job that fails ends nothing: by the organizer's fault it pauses the queue, and this waits. On
        KeyboardInterrupt the jobs that run are given back first. Raises InfraError if processes cannot be kept alive.
        """
        run_processes(
            home,
            service,
            None,
            command=self.command,
            environments=self._environments(service, len(os.sched_getaffinity(0))),
            on_tick=on_tick,
            until_empty=until_empty,
        )

    def _environments(self, service: Service, jobs: int) -> list[dict[str, str]]:
        devices = gpus()
        free = memory(devices) if devices and service.workers_per_gpu is None else {}
        return environments_of(places(devices, service, free), service, self.workers, jobs)


def places(devices: Sequence[Gpu], service: Service, free: Mapping[str, Memory]) -> list[Gpu]:
    """A GPU for each job that can run at the same time: every card once before any is there twice.

    `free`: what the driver tells of their memory, by UUID; a card of which it tells nothing has room for one. So has a
    card that is smaller than what a job is said to need: it was chosen knowingly. Raises InfraError if every card is
    taken by others.
    """
    rooms = {gpu.uuid: _room(free.get(gpu.uuid), service) for gpu in devices}
    if devices and not any(rooms.values()):
        told = "; ".join(
            f"{gpu.uuid} has {free[gpu.uuid].free / GIB:.1f} of {free[gpu.uuid].total / GIB:.1f} GiB free"
            for gpu in devices
        )
        raise InfraError(
            f"no GPU has the {service.gpu_job_memory_gb:.1f} GiB free that a job needs ({told}); end what runs there "
            "(`nvidia-smi` names it), or set gpu_job_memory_gb or workers_per_gpu in configs/service.yaml"
        )
    return [gpu for turn in range(max(rooms.values(), default=0)) for gpu in devices if rooms[gpu.uuid] > turn]


def _room(told: Memory | None, service: Service) -> int:
    """How many jobs a card has room for."""
    if service.workers_per_gpu is not None:
        return service.workers_per_gpu
    need = service.gpu_job_memory_gb * GIB
    if told is None or told.total < need:
        return 1
    return int(told.free // need)


def environments_of(devices: Sequence[Gpu], service: Service, workers: int | None, jobs: int) -> list[dict[str, str]]:
    """One environment per worker: its place among `devices` (none: the CPU), and threads such that all workers together
    use no more than the cores.
    """
    cores = len(os.sched_getaffinity(0))
    number = workers if workers is not None else len(devices) or service.cpu_workers
    number = max(1, min(number, jobs, cores, len(devices) or cores))
    environments = []
    for index in range(number):
        environment = dict(os.environ) | thread_limits(cores // number)
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[index].uuid
        environments.append(environment)
    return environments


def thread_limits(threads: int) -> dict[str, str]:
    """Variables that hold the libraries of a process to so many threads, or to what they were held to already."""
    asked = {variable: os.environ.get(variable, "") for variable in THREAD_VARIABLES}
    return {name: str(min(threads, int(value) if value.isdecimal() else threads)) for name, value in asked.items()}
