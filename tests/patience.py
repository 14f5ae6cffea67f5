"""Waiting for what other processes and threads do: a loop that only looks would take one of the cores from them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from threading import Event
from typing import Any


def until(is_so: Callable[[], object], *, process: subprocess.Popen[Any] | None = None) -> None:
    """Return once it is so; fail if `process`, which is to bring it about, ended before."""
    while not is_so():
        assert process is None or process.poll() is None, "the process ended before it was so"
        Event().wait(0.01)
