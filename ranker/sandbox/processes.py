"""Processes of this machine, as the kernel lists them."""

from __future__ import annotations

import contextlib
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
