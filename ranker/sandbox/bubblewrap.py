"""Confinement by bubblewrap: own namespaces, a read-only world of a few folders, a seccomp filter, a control group.

As root, the server keeps the right to change its user for as long as it takes to become user 10001; as anyone else it
lives in a user namespace. Memory and processes are limited by a control group where one can be made, else by rlimits,
which hold for each process alone and are weaker: Docker is the first choice.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ranker.errors import MissingError
from ranker.sandbox import seccomp
from ranker.sandbox.base import Availability
from ranker.sandbox.cgroup import Cgroup, cgroup, reap_cgroups
from ranker.sandbox.child import running
from ranker.sandbox.client import Confined
from ranker.sandbox.environment import (
    CERTIFICATES,
    OPEN_FILES,
    UID,
    Launch,
    covered,
    python_folders,
)
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits
from ranker.types import SandboxName

TRIES = 3
PATIENCE_S = (10.0, 30.0, 90.0)
KILLED = {-signal.SIGKILL, 128 + signal.SIGKILL}  # bwrap itself, or what it started
TMP = Path("/tmp")  # noqa: S108  inside the sandbox


class Bubblewrap(ServedSandbox):
    """The backend for machines without Docker."""

    name = SandboxName.BUBBLEWRAP

    def available(self) -> Availability:
        """Confine /bin/true; never raises."""
        if shutil.which("bwrap") is None:
            return Availability(ok=False, reason="bubblewrap is not installed; install the system's package bubblewrap")
        try:
            version = patiently(lambda timeout_s: _run(["bwrap", "--version"], timeout_s)).stdout.split()[-1]
            tried = patiently(_confine_true)
        except MissingError as error:
            return Availability(ok=False, reason=str(error))
        except subprocess.TimeoutExpired as error:
            return Availability(ok=False, busy=True, reason=f"bubblewrap did not start in time, {error.timeout:.0f} s")
        except (OSError, IndexError) as error:
            return Availability(ok=False, reason=f"bubblewrap cannot be run: {error}")
        if tried.returncode != 0:
            reason = (
                f"bubblewrap cannot make namespaces here ({tried.stderr.strip()}); allow unprivileged user namespaces"
            )
            return Availability(ok=False, reason=reason)
        return Availability(ok=True, version=version)

    def gaps(self) -> tuple[str, ...]:
        """See `ServedSandbox.gaps`. Programs can be kept in its /tmp, since bubblewrap has no noexec; and no GPU is
        handed in.
        """
        found = []
        with cgroup(Limits()) as group:
            if group is None:
                found = [
                    "memory_gb holds for each process alone, not for all together",
                    "pids counts all processes of the user",
                    "cpus does not hold",
                ]
                if os.geteuid() != 0:
                    found.append("only root may make control groups")
        return (*found, "no GPU can be used inside", "programs may be run from its /tmp")

    def reap(self) -> int:
        """See `ServedSandbox.reap`."""
        return super().reap() + reap_cgroups()

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Confined]:
        """Start the server. bwrap itself starts under an empty environment, since /proc/1/environ would show ours.

        The kernel ends it with the thread that started it: call this from a thread that stays for as long.
        """
        with cgroup(launch.limits, launch.hidden) as group:
            file = seccomp.compiled_filter(internet=launch.network is not None)
            try:
                inner = shlex.join(_command(launch, group, file))
                with running(
                    ["/bin/sh", "-c", f"{group.entry_command() if group else ''}exec {inner}"],
                    environment={},
                    folder=Path("/"),
                    log_bytes=launch.limits.log_kb * 1024,
                    pass_fds=(file,),
                    out_of_memory=group.out_of_memory if group else lambda: False,
                    groups=group.folders if group else (),
                    log_file=launch.log_file,
                ) as child:
                    yield child
            finally:
                os.close(file)


def patiently(run: Callable[[float], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """How a trial ended that is given more time if it took too long, since a busy machine is no broken one.

    Raises subprocess.TimeoutExpired if it never ended.
    """
    for timeout_s in PATIENCE_S[:-1]:
        with suppress(subprocess.TimeoutExpired):
            return unkilled(partial(run, timeout_s))
    return unkilled(partial(run, PATIENCE_S[-1]))


def unkilled(run: Callable[[], subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    """How a trial ended; it is tried again if somebody killed it (the kernel, where memory is short): that says nothing
    of what works here, and would stop the whole queue.
    """
    for _ in range(TRIES - 1):
        tried = run()
        if tried.returncode not in KILLED:
            return tried
    return run()


def _confine_true(timeout_s: float) -> subprocess.CompletedProcess[str]:
    file = seccomp.compiled_filter()
    try:
        world = ["--ro-bind", "/usr", "/usr", *system_links(), "--seccomp", str(file)]
        return _run([*namespaces(), *world, "/usr/bin/true"], timeout_s, file)
    finally:
        os.close(file)


def _run(command: list[str], timeout_s: float, *files: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath}
    # Every word of the command is ours.
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment, pass_fds=files
    )


def namespaces() -> list[str]:
    """The command of bwrap with namespaces of its own: no network, no environment, no privilege but to leave root."""
    bwrap = shutil.which("bwrap") or "bwrap"
    flags = [bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    flags += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "encoder"]
    if os.geteuid() == 0:
        return [*flags, "--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*flags, "--unshare-user", "--uid", str(UID), "--gid", str(UID), "--cap-drop", "ALL"]


def system_links() -> list[str]:
    """/bin, /lib and so on as this system has them: links into /usr, or folders of their own."""
    flags: list[str] = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/") / name
        if path.is_symlink():
            flags += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            flags += ["--ro-bind", str(path), str(path)]
    return flags


def _command(launch: Launch, group: Cgroup | None, seccomp_file: int) -> list[str]:
    folders = python_folders()
    flags = [*namespaces(), *system_links()]
    flags += ["--perms", "1777", "--size", str(launch.limits.scratch_mb * 2**20), "--tmpfs", str(TMP)]
    binds = launch.binds()
    flags += folders_above([*folders, Path("/etc"), *(Path(bind.target).parent for bind in binds)])
    shown = [(folder, ["--ro-bind", str(folder), str(folder)]) for folder in folders]
    shown += [(folder, ["--tmpfs", str(folder)]) for folder in covered(folders, launch.hidden)]
    for _, mount in sorted(shown, key=lambda pair: len(pair[0].parts)):
        flags += mount
    flags += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--proc", "/proc", "--dev", "/dev"]
    if launch.network is not None:
        flags += ["--ro-bind-try", CERTIFICATES, CERTIFICATES]
    for bind in binds:
        flags += ["--bind" if bind.writable else "--ro-bind", str(bind.source), bind.target]
    flags += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in launch.environment().items():
        flags += ["--setenv", name, value]
    flags += ["--seccomp", str(seccomp_file), "--chdir", launch.folder()]
    step_down = ["--uid", str(UID)]
    for limit in _rlimits(launch.limits, group):
        step_down += ["--rlimit", limit]
    return [*flags, *launch.command(sys.executable, step_down=step_down)]


def folders_above(folders: list[Path]) -> list[str]:
    """The folders above the mounts, for all to pass: bwrap itself would make them for root alone where root's own are
    so.
    """
    wanted = {folder for folder in folders for folder in (folder, *folder.parents)} - {Path("/"), Path("/usr"), TMP}
    return [word for folder in sorted(wanted) for word in ("--perms", "0755", "--dir", str(folder))]


def _rlimits(limits: Limits, group: Cgroup | None) -> list[str]:
    found = [f"NOFILE={OPEN_FILES}", "CORE=0"]
    if group is None:
        found += [f"NPROC={limits.pids}", f"DATA={int(limits.memory_gb * 2**30)}"]
    return found
