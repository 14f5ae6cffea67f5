"""Tries to raise its own limits and to change the machine, in the kernel's own files: control groups, /proc/sys."""

import contextlib
from pathlib import Path

import spy


def control_groups():
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        for folder in (f"/sys/fs/cgroup/{controllers}{place}", f"/sys/fs/cgroup/{controllers}"):
            with contextlib.suppress(OSError):
                return (Path(folder) / "pids.max").write_text("max")
    return 0


class TuningEncoder(spy.Spy):
    attempts = (control_groups,)
