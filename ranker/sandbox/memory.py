"""How much memory a sandboxed encoder took at most, asked of the kernel from outside: it cannot be argued with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ranker.sandbox.processes import PROC, parent_of

# cgroup v2 (from Linux 5.19), and v1.
PEAK_FILES = ("memory.peak", "memory.max_usage_in_bytes")


class MemorySource(StrEnum):
    """What was read.

    GROUP: the control group's highest charge, which is what the limit counts: all processes, with the files that they
    were the first to read and their scratch space. PROCESSES: the highest resident size of each process that still
    lives, added up; pages that two of them share count twice, and those that have ended are missing.
    """

    GROUP = "control group"
    PROCESSES = "resident size of its processes"


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The most memory that was taken since the sandbox was started."""

    size_bytes: int
    source: MemorySource


def group_peak(folders: Iterable[Path]) -> PeakMemory | None:
    """Of a control group, given its folders; None where this kernel does not keep it."""
    for folder in folders:
        for name in PEAK_FILES:
            with contextlib.suppress(OSError, ValueError):
                return PeakMemory(size_bytes=int((folder / name).read_text()), source=MemorySource.GROUP)
    return None


def process_peak(pid: int) -> PeakMemory | None:
    """Of a process of ours and all below it; None if they are gone."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*"):
        parent = parent_of(int(path.name))
        if parent is not None:
            children.setdefault(parent, []).append(int(path.name))
    total, left = 0, [pid]
    while left:
        one = left.pop()
        left += children.get(one, [])
        total += _resident_peak(one)
    return PeakMemory(size_bytes=total, source=MemorySource.PROCESSES) if total else None


def _resident_peak(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
