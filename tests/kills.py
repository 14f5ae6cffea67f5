"""SIGKILL at every step: an action runs in a forked child, which kills itself just before its n-th touch of a file."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def is_killed_at(step: int, folder: Path, action: Callable[[Callable[[], None]], None]) -> bool:
    """Whether the child was killed (True), or had ended before its `step`-th touch of anything under `folder`.

    Touches are Python's own audit events (open, mkdir, rename, chmod, remove ...); `action` is given a function that
    counts as one more, for steps that raise none, such as a commit. Nothing in the code under test knows of this.
    """
    child = os.fork()
    if child == 0:
        try:
            touches = 0

            def touch() -> None:
                nonlocal touches
                touches += 1
                if touches == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            def hook(_event: str, arguments: tuple[object, ...]) -> None:
                if any(isinstance(item, str | Path) and str(item).startswith(str(folder)) for item in arguments):
                    touch()

            sys.addaudithook(hook)
            action(touch)
            os._exit(0)
        except BaseException:  # noqa: BLE001  nothing of the child may return into the test
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"the child failed by itself ({code})"
    return code != 0
