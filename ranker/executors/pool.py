"""Processes of this machine that are kept running: placed, replaced when they die, ended in order."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import IO

from ranker import queue
from ranker.errors import InfraError

STOP_GRACE_S = 30.0
MAX_IDLE_DEATHS = 3
EXIT_HOPELESS = 75
"""Of a process that would end in the same way if it were started again; its last line says why."""


@dataclass(kw_only=True)
class _Slot:
    """A place for one worker process at a time. `errors` is where that process's stderr goes outside of jobs."""

    environment: Mapping[str, str]
    errors: IO[bytes]
    process: subprocess.Popen[bytes] | None = None


class Pool:
    """The worker processes. Leaving the context ends them: gently first, so that they give their jobs back."""

    def __init__(self, arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._arguments = arguments
        self._environments = environments
        self._slots: list[_Slot] = []
        self._files = ExitStack()
        self._idle_deaths = 0
        self._attempts_at_death: int | None = None

    def __enter__(self) -> Pool:
        for environment in self._environments:
            errors = self._files.enter_context(tempfile.TemporaryFile())
            self._slots.append(_Slot(environment=environment, errors=errors))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in self._living():
                process.terminate()
            deadline = time.monotonic() + STOP_GRACE_S
            for process in self._living():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.0))
        finally:  # also on a second Ctrl-C
            for process in self._living():
                process.kill()
                process.wait()
            self._files.close()

    def fill(self, wanted: int) -> None:
        """Start processes in free places until `wanted` run, or no place is free."""
        missing = wanted - len(self._living())
        for slot in [slot for slot in self._slots if slot.process is None][: max(missing, 0)]:
            slot.errors.seek(0)
            slot.errors.truncate()
            # A session of its own: a Ctrl-C in the terminal reaches us alone, and we stop the workers in order.
            slot.process = subprocess.Popen(
                self._arguments,
                env=dict(slot.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=slot.errors,
                start_new_session=True,
            )

    def bury(self, attempts: int) -> int:
        """Free the places of processes that ended; returns how many ended badly.

        `attempts`: the jobs' attempts so far, all together. Raises InfraError when processes die again and again
        without having begun one.
        """
        bad = 0
        for slot in self._slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            code, slot.process = slot.process.returncode, None
            if code == 0:
                continue
            if code == EXIT_HOPELESS:
                raise InfraError(last_line(slot.errors))
            bad += 1
            self._idle_deaths = self._idle_deaths + 1 if attempts == self._attempts_at_death else 1
            self._attempts_at_death = attempts
            if self._idle_deaths >= MAX_IDLE_DEATHS:
                raise InfraError(
                    f"{self._idle_deaths} workers in a row ended before they began a job, the last with exit status "
                    f"{code}: {last_line(slot.errors)}; run `ranker doctor`, then the same command again"
                )
        return bad

    def workers(self) -> dict[str, int]:
        """The names under which our living processes hold jobs, and their process ids."""
        names = (queue.worker_id, queue.coordinator_id)
        return {name(process.pid): process.pid for process in self._living() for name in names}

    def kill(self, pids: Collection[int]) -> None:
        """Kill those of our processes: they hang, and would keep their place for nothing."""
        for process in self._living():
            if process.pid in pids:
                process.kill()
                process.wait()

    @property
    def places(self) -> int:
        """How many processes can run at the same time."""
        return len(self._slots)

    def _living(self) -> list[subprocess.Popen[bytes]]:
        return [slot.process for slot in self._slots if slot.process is not None and slot.process.poll() is None]


def last_line(errors: IO[bytes]) -> str:
    """The last thing that a process wrote to this file."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(size - 4096, 0))
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
