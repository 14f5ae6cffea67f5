"""What dead processes of one home left behind on this machine: containers, processes, control groups, folders.

Only what bears a mark of ours counts, and only if the process that it names is known to be dead: another home's things,
another machine's, and those of a process namespace that is not ours are nobody's business here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ranker.errors import MissingError
from ranker.sandbox.cgroup import dead_cgroups, remove_groups
from ranker.sandbox.environment import PROXY, SOCKET, server_file
from ranker.sandbox.owner import SOCKET_PREFIX, dead_folders, is_dead, is_of, owner_of
from ranker.sandbox.processes import PROC

_MARK = re.compile(rf"/{SOCKET_PREFIX}([^/]+)/")


class OrphanKind(StrEnum):
    """What is left. In this order they are removed: a control group is empty only when its processes are gone."""

    CONTAINER = "container"
    PROCESS = "process"
    GROUP = "control group"
    FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """One thing that is left; `name` is a container's id, a process's number, or a path."""

    kind: OrphanKind
    name: str


def find(home: Path) -> list[Orphan]:
    """All that dead processes of this home left. Without an engine there are no containers to be told of."""
    containers = _containers(home)
    processes = [str(pid) for pid in _processes(home) if not _is_contained(pid, containers)]
    groups = [str(folder) for folder in dead_cgroups() if is_of(folder.name, home)]
    folders = [str(folder) for folder in dead_folders() if is_of(owner_of(folder), home)]
    names = zip(OrphanKind, (containers, processes, groups, folders), strict=True)
    return [Orphan(kind=kind, name=name) for kind, found in names for name in found]


def remove(home: Path, orphan: Orphan) -> bool:
    """Remove one of them; False if, looked at again, it is none (any more). Raises InfraError, OSError."""
    from ranker.sandbox.docker import remove_container

    match orphan.kind:
        case OrphanKind.CONTAINER:
            return remove_container(home, orphan.name)
        case OrphanKind.PROCESS:
            return _kill(home, int(orphan.name))
        case OrphanKind.GROUP:
            return _remove_group(home, Path(orphan.name))
        case OrphanKind.FOLDER:
            return _remove_folder(home, Path(orphan.name))


def _containers(home: Path) -> list[str]:
    from ranker.sandbox.docker import dead_containers

    with contextlib.suppress(MissingError):
        return dead_containers(home)
    return []


def _processes(home: Path) -> Iterator[int]:
    """Processes that see a socket of ours whose owner is dead: by what is mounted for them, which they cannot change,
    and, without confinement, by the command that we gave them.
    """
    own = _namespace("self")
    for path in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mark = _mounted(path) if _namespace(path.name) != own else _commanded(path)
            if mark is not None and is_dead(mark) and is_of(mark, home):
                yield int(path.name)


def _namespace(pid: str) -> str:
    return str((PROC / pid / "ns/mnt").readlink())


def _mounted(process: Path) -> str | None:
    """Whose socket is bound into the process's world; the fields are root, then place (proc_pid_mountinfo(5))."""
    for line in (process / "mountinfo").read_text(errors="replace").splitlines():
        root, place = line.split()[3:5]
        if place in {SOCKET, PROXY} and (match := _MARK.search(root)):
            return match[1]
    return None


def _commanded(process: Path) -> str | None:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    if str(server_file()) not in words:
        return None
    return next((match[1] for word in words if (match := _MARK.search(word))), None)


def _is_contained(pid: int, containers: list[str]) -> bool:
    with contextlib.suppress(OSError):
        group = (PROC / str(pid) / "cgroup").read_text()
        return any(container in group for container in containers)
    return True


def _kill(home: Path, pid: int) -> bool:
    """By a descriptor that stays with the very process, should its number be given to another meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if pid in set(_processes(home)):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def _remove_group(home: Path, folder: Path) -> bool:
    if folder not in dead_cgroups() or not is_of(folder.name, home):
        return False
    remove_groups([folder])
    return not folder.exists()


def _remove_folder(home: Path, folder: Path) -> bool:
    if folder not in dead_folders() or not is_of(owner_of(folder), home):
        return False
    shutil.rmtree(folder)
    return True
