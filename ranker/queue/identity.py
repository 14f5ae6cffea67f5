"""What a job is known by, and what a process is known by."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ranker.types import JobKind, digest_json


def job_key(submission_id: str, kind: JobKind, condition_digest: str | None, seed: int) -> str:
    """A job's identity (SHA-256, hex): the same question is asked once."""
    return digest_json({"submission": submission_id, "kind": kind, "condition": condition_digest, "seed": seed})


_COORDINATOR = "coordinator@"


def worker_id(pid: int | None = None) -> str:
    """Name of a process of this machine (None: this one), `host:pid:start`. The start tells it from a later one."""
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}:{pid}:{_process_start(pid)}"


def coordinator_id(pid: int | None = None) -> str:
    """The same for a process that holds jobs which others do, so that its end is not taken for theirs."""
    return f"{_COORDINATOR}{worker_id(pid)}"


def is_coordinator(worker: str) -> bool:
    """Whether that is a name of `coordinator_id`."""
    return worker.startswith(_COORDINATOR)


def is_dead_here(worker: str) -> bool:
    """Whether `worker` (either kind of name) ran on this machine and runs no longer; False where that cannot be known.

    A machine is told by its boot and its pid namespace, since host names change while a process runs. A worker of this
    host name and an earlier boot died with it.
    """
    host, pid, start = worker.removeprefix(_COORDINATOR).rsplit(":", 2)
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
