"""`ranker` as its own process, forked from the test: what it said, and how it ended; killed at a step if asked."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ranker.intake.ingest
import ranker.overview  # noqa: F401  both are loaded once, here, and not by each of hundreds of processes
from ranker.cli import main

# What a process does to the disk, as Python calls it; `execute` is SQLite's, with its COMMIT.
STEPS = frozenset({
    "chmod", "close", "execute", "fchmod", "flock", "fsync", "mkdir", "mkdtemp", "open", "remove", "rename", "replace",
    "rmdir", "unlink", "utime", "write",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`code`: the exit code, or minus the signal; `steps`: how many there were, if they were counted to the end."""

    code: int
    said: str
    steps: int


def start(*arguments: str, log: Path, kill_at: int | None = None) -> int:
    """Begin `ranker ARGUMENTS` and return its process id; it kills itself before its `kill_at`-th step (0: counts)."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        sys.stdout, sys.stderr = (os.fdopen(each, "w", buffering=1) for each in (1, 2))
        seen = 0

        def hook(_frame: FrameType, event: str, called: Any) -> None:
            nonlocal seen
            if event == "c_call" and called.__name__ in STEPS:
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kill_at is not None:
            sys.setprofile(hook)
        try:
            main(arguments)
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            sys.setprofile(None)
        sys.stdout.flush()
        log.with_suffix(".steps").write_text(str(seen))
    except BaseException:  # noqa: BLE001  nothing of the child may return into the test
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int, log: Path) -> Ended:
    """Until the process has ended."""
    _, status = os.waitpid(child, 0)
    counted = log.with_suffix(".steps")
    steps = int(counted.read_text()) if counted.is_file() else 0
    counted.unlink(missing_ok=True)
    return Ended(code=os.waitstatus_to_exitcode(status), said=log.read_text(errors="replace"), steps=steps)


def typed(*arguments: str, log: Path, kill_at: int | None = None) -> Ended:
    """`ranker ARGUMENTS`, from its beginning to its end."""
    return wait(start(*arguments, log=log, kill_at=kill_at), log)
