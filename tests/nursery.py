"""Worker processes that have their imports done, for `chaos`: forked, where `executors.pool` would start commands."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, if the process is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


class NurseryChild:
    """A process that the nursery made, and that is ours: what `executors.pool` uses of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        kill(self.pid)


class Nursery:
    """A process, forked before ours has opened any database, that forks worker processes which then are ours.

    (A process must not carry a connection of SQLite across a fork.) They are the nursery's grandchildren, whose parent
    ends at once; then they fall to us, the nearest subreaper (prctl(2)).
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        """`prepare` is called in each new process, before it works."""
        self._prepare = prepare
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            self._ours.close()
            end_with(lambda: self._serve(theirs, parent))
        theirs.close()

    def start(
        self, arguments: Sequence[str], *, env: Mapping[str, str], stderr: Any, **_detached: object
    ) -> NurseryChild:
        """Stands in for `subprocess.Popen`."""
        order = json.dumps({"arguments": list(arguments), "env": dict(env)}).encode()
        socket.send_fds(self._ours, [order], [stderr.fileno()])
        return NurseryChild(int(self._ours.recv(64)))

    def _serve(self, orders: socket.socket, parent: int) -> int:
        while True:
            message, descriptors, _, _ = socket.recv_fds(orders, 1_000_000, 1)
            if not message:  # our coordinator has ended
                return 0
            (stderr,) = descriptors
            order = json.loads(message)
            reading, writing = os.pipe()
            middle = os.fork()
            if middle == 0:
                pid = os.fork()
                if pid:
                    os.write(writing, str(pid).encode())
                    os._exit(0)
                orders.close()
                end_with(lambda: self._work(order, stderr, parent))  # noqa: B023  it never returns
            os.waitpid(middle, 0)
            orders.send(os.read(reading, 64))
            for descriptor in (stderr, reading, writing):
                os.close(descriptor)

    def _work(self, order: dict[str, Any], stderr: int, parent: int) -> int:
        while os.getppid() != parent:  # it falls to our coordinator in a moment
            if not Path(f"/proc/{parent}").exists():
                return 1
            time.sleep(0.001)
        os.setsid()
        speak_to(stderr)
        os.environ.clear()
        os.environ.update(order["env"])
        from ranker import worker

        self._prepare()
        return worker.main(order["arguments"][order["arguments"].index("ranker.worker") + 1 :])


def prctl(option: int, value: int) -> None:
    """Set an option of this process, as the kernel numbers them."""
    ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)


def speak_to(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for place in (0, 1):
        os.dup2(nothing, place)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def end_with(action: Callable[[], int]) -> None:
    """In a forked child: do this, and nothing that the parent would have done afterwards."""
    code = 1
    try:
        code = action()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  nothing may return into the parent's code
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
