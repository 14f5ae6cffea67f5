"""A control group for one sandbox: memory, processes and CPU time, on cgroup v1 or v2, where this process may make
one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranker.sandbox.owner import is_dead, owned_name
from ranker.settings import Limits

ROOT = Path("/sys/fs/cgroup")
PARENT = "ranker"
PERIOD_US = 100_000
SHARES_OF_A_PROCESS = 1024


@dataclass(frozen=True, kw_only=True)
class Cgroup:
    """The group's folders: one under v2, one per controller under v1."""

    folders: tuple[Path, ...]

    def entry_command(self) -> str:
        """Shell words that move the shell itself into the group."""
        return "".join(f"echo $$ > '{folder}/cgroup.procs' && " for folder in self.folders)

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something in the group for its memory limit."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text().splitlines():
                        key, _, value = line.partition(" ")
                        if key == "oom_kill" and int(value) > 0:
                            return True
        return False


def _values_v2(limits: Limits) -> dict[str, str]:
    return {
        "memory.max": str(int(limits.memory_gb * 2**30)),
        "memory.swap.max": "0",
        "pids.max": str(limits.pids),
        "cpu.max": f"{int(limits.cpus * PERIOD_US)} {PERIOD_US}",
    }


def _values_v1(limits: Limits) -> dict[str, dict[str, str]]:
    memory = str(int(limits.memory_gb * 2**30))
    return {
        "memory": {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory},
        "pids": {"pids.max": str(limits.pids)},
        "cpu": {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(int(limits.cpus * PERIOD_US))},
    }


# Without these the group would not limit what it is for; swap accounting and CPU quota are not in every kernel.
_REQUIRED = {"memory.max", "pids.max", "memory.limit_in_bytes"}


@contextmanager
def cgroup(limits: Limits, home: Path | None = None) -> Iterator[Cgroup | None]:
    """A new group with these limits, removed at the end with all that is in it; None where none can be made."""
    name = f"{PARENT}/{owned_name(home)}{uuid.uuid4().hex[:12]}"
    made: list[Path] = []
    try:
        try:
            _make(name, limits, made)
            group = Cgroup(folders=tuple(made))
        except OSError:
            remove_groups(made)
            made.clear()
            yield None
            return
        yield group
    finally:
        remove_groups(made)


def dead_cgroups() -> list[Path]:
    """The folders of groups whose owner is dead."""
    parents = [ROOT / PARENT, *(ROOT / controller / PARENT for controller in ("memory", "pids", "cpu"))]
    return [folder for parent in parents if parent.is_dir() for folder in parent.iterdir() if is_dead(folder.name)]


def reap_cgroups() -> int:
    """Remove them; how many there were."""
    left = dead_cgroups()
    remove_groups(left)
    return len(left)


def _make(name: str, limits: Limits, made: list[Path]) -> None:
    if os.geteuid() != 0:
        raise PermissionError("only root may make control groups")
    if (ROOT / "cgroup.controllers").exists():
        parent = ROOT / PARENT
        parent.mkdir(exist_ok=True)
        for folder in (ROOT, parent):
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        _fill(ROOT / name, _values_v2(limits), made)
        return
    for controller, values in _values_v1(limits).items():
        if not (ROOT / controller / "cgroup.procs").exists():
            raise FileNotFoundError(f"there is no controller {controller}")
        _fill(ROOT / controller / name, values, made)
    # Beside the machine's other processes all our sandboxes together would count as one; they count as one each core.
    with contextlib.suppress(OSError):
        (ROOT / "cpu" / PARENT / "cpu.shares").write_text(str(SHARES_OF_A_PROCESS * (os.cpu_count() or 1)))


def _fill(folder: Path, values: dict[str, str], made: list[Path]) -> None:
    folder.mkdir(parents=True)
    made.append(folder)
    for file, value in values.items():
        try:
            (folder / file).write_text(value)
        except OSError:
            if file in _REQUIRED:
                raise


def kill_all(folders: Iterable[Path]) -> None:
    """Send SIGKILL to every process of the groups, also to those that left their session or outlived bwrap."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def remove_groups(folders: list[Path]) -> None:
    """Kill what is still in the group and remove it. A folder is busy until the last process is quite gone."""
    for folder in folders:
        for _ in range(200):
            kill_all([folder])
            try:
                folder.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.01)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # the last one leaves nothing of ours behind
