"""A server that runs as our own child process: how it ended, and the end of what it printed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ranker.errors import InfraError
from ranker.sandbox.cgroup import kill_all
from ranker.sandbox.faults import Ending
from ranker.sandbox.logfile import BoundedLog
from ranker.sandbox.memory import PeakMemory, group_peak, process_peak
from ranker.sandbox.processes import is_below
from ranker.sandbox.wire import Peer

NATURAL_DEATH_S = 5.0


class Child:
    """A process in a session of its own. Implements `client.Confined`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log_bytes: int,
        out_of_memory: Callable[[], bool],
        groups: Sequence[Path],
        kept: BoundedLog,
    ) -> None:
        self._process = process
        self._groups = groups
        self._kept = kept
        self._log = b""
        self._log_bytes = log_bytes
        self._out_of_memory = out_of_memory
        self._outermost = os.pidfd_open(process.pid)
        self._server: int | None = None  # a descriptor, too: of whoever connected
        self._ended, self._end = os.pipe()
        self._reader = threading.Thread(target=self._drain, name="sandbox-log", daemon=True)
        self._reader.start()

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def end(self, *, kill: bool) -> Ending:
        """Let it finish dying, or kill its whole session, and say how it ended."""
        killed = False
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(NATURAL_DEATH_S)
        if self.alive():
            killed = True
            self._kill()
        code = self._process.wait()
        self._reader.join(1.0)
        return Ending(
            exit_code=128 - code if code < 0 else code,
            killed_by_us=killed,
            out_of_memory=self._out_of_memory(),
            log=self._log.decode("utf-8", "replace"),
        )

    def owns(self, peer: Peer) -> bool:
        """Whether it is a process of ours below this one, of the user that all of them still are when they connect."""
        found = peer.uid == os.geteuid() and is_below(peer.pid, self._process.pid)
        if found and self._server is None:
            with contextlib.suppress(ProcessLookupError):
                self._server = os.pidfd_open(peer.pid)
        return found

    def peak_memory(self) -> PeakMemory | None:
        """Of its control group if it has one, else of its processes."""
        return group_peak(self._groups) or process_peak(self._process.pid)

    def gpu_peak(self) -> int | None:
        """None: it is given no GPU."""
        return None

    def close(self) -> None:
        """End it, whatever it does, and leave no thread or pipe behind."""
        self.end(kill=True)
        os.close(self._end)  # wakes the reader, should a process that got away still hold the pipe open
        self._reader.join()
        for descriptor in (self._ended, self._outermost, self._server):
            if descriptor is not None:
                os.close(descriptor)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._kill_inside()

    def _kill_inside(self) -> None:
        """What outlives the process that we started: as root, bubblewrap's has no right to have the server, which has
        changed its user by then, die with it.
        """
        kill_all(self._groups)
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._server, signal.SIGKILL)

    def _drain(self) -> None:
        """Keep reading, so that it never blocks on a full pipe, and keep the end only, so that it fills no disk of
        ours. If the process that we started ends, however, let nothing of it go on.
        """
        stream = self._process.stdout
        assert stream is not None
        sources = [stream.fileno(), self._ended, self._outermost]
        while self._ended not in (ready := select.select(sources, [], [])[0]) or stream.fileno() in ready:
            if self._outermost in ready:
                self._kill_inside()
                sources.remove(self._outermost)
            if stream.fileno() not in ready:
                continue
            part = os.read(stream.fileno(), 65536)
            if not part:
                break
            self._log = (self._log + part)[-self._log_bytes :]
            self._kept.write(part)


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: dict[str, str],
    folder: Path,
    log_bytes: int,
    pass_fds: Sequence[int] = (),
    out_of_memory: Callable[[], bool] = lambda: False,
    groups: Sequence[Path] = (),
    log_file: Path | None = None,
) -> Iterator[Child]:
    """Start `command` with exactly this environment; `groups` are the folders of its control group. What it prints goes
    to `log_file`, which holds as much as `log_bytes`. Raises InfraError if it cannot be started.
    """
    try:
        process = subprocess.Popen(
            list(command),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise InfraError(f"{command[0]} cannot be started: {error}") from error
    child = Child(process, log_bytes, out_of_memory, groups, BoundedLog(log_file, log_bytes))
    try:
        yield child
    finally:
        child.close()
