"""Processes of this machine, as the kernel lists them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

PROC = Path("/proc")


def parent_of(pid: int) -> int | None:
    """A process's parent; None if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name, in parentheses, may hold anything; the parent is the second field after it.
        return int((PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return None


def is_below(pid: int, ancestor: int) -> bool:
    """Whether a process is another one, or descends from it."""
    one: int | None = pid
    while one is not None and one > 1 and one != ancestor:
        one = parent_of(one)
    return one == ancestor


def kill_below(ancestor: int) -> None:
    """SIGKILL to every process that descends from this one, whatever session it is in."""
    pids = [int(path.name) for path in PROC.glob("[0-9]*")]
    for pid in [each for each in pids if each != ancestor and is_below(each, ancestor)]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def kernel_kills() -> int:
    """How many processes the kernel has killed on this machine for lack of memory, in a group's limit or at large."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
