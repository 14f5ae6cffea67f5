"""How fast a job goes, and what it takes: read beside the work, in the process that does it."""

from __future__ import annotations

import os
import resource
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from statistics import median

from ranker.types import Progress

SAMPLES = 31
LEAST_INTERVAL_S = 0.5
MEMORY_EVERY_S = 10.0


class Pulse:
    """When this process last got on with its one job; marked by the thread that works, read by those that watch it.

    What is marked: each report (a step, a clip, an answer, a wait that is meant), and each answer of an encoder.
    """

    def __init__(self) -> None:
        self._at = time.monotonic()

    def mark(self) -> None:
        """Something was done just now."""
        self._at = time.monotonic()

    def still_s(self) -> float:
        """Seconds since the last mark, by a clock that stands while the machine sleeps."""
        return time.monotonic() - self._at


PULSE = Pulse()
"""This process's: whatever it does, it does one job at a time."""


class Pace:
    """Units per second of the present stage: the median over its recent intervals, so that no pause and no burst (a
    checkpoint that is written, an answer from a cache) moves it.

    An interval ends when something was done, and not before LEAST_INTERVAL_S. Another stage or task begins anew.
    """

    def __init__(self) -> None:
        self._of: tuple[str, str | None] | None = None
        self._last: tuple[float, int] = (0.0, 0)
        self._rates: deque[float] = deque(maxlen=SAMPLES)

    def note(self, progress: Progress, at: float) -> float | None:
        """The rate after this report, made at `at` (seconds of any steady clock); None before the first interval."""
        of, done = (progress.stage, progress.task), progress.done
        if of != self._of or done < self._last[1]:
            self._of, self._last = of, (at, done)
            self._rates.clear()
        elif done > self._last[1] and at - self._last[0] >= LEAST_INTERVAL_S:
            self._rates.append((done - self._last[1]) / (at - self._last[0]))
            self._last = (at, done)
        return median(self._rates) if self._rates else None


class Gauges:
    """Completes what a handler reports by rate, memory, device, and the time of the last move."""

    def __init__(self, *, device: str) -> None:
        self._device = device
        self._pace = Pace()
        self._encoder_bytes: Callable[[], int | None] = lambda: None
        self._memory: tuple[float | None, float | None] = (None, None)
        self._read_at: float | None = None
        self._moved: tuple[tuple[object, ...], str] | None = None

    def watch(self, encoder_bytes: Callable[[], int | None]) -> None:
        """Ask this for the encoder's highest memory, from now on; it is asked by the thread that reports."""
        self._encoder_bytes, self._read_at = encoder_bytes, None

    def complete(self, progress: Progress, *, at: float, now: datetime) -> Progress:
        """`at`: seconds of a steady clock, as often as is convenient; memory is looked at now and then only."""
        if self._read_at is None or at - self._read_at >= MEMORY_EVERY_S:
            encoder = self._encoder_bytes()
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self._memory = (round(own / 1e9, 3), None if encoder is None else round(encoder / 1e9, 3))
            self._read_at = at
        position = (progress.stage, progress.task, progress.done)
        if self._moved is None or self._moved[0] != position:
            self._moved = (position, now.isoformat(timespec="seconds"))
        rate = self._pace.note(progress, at)
        return replace(
            progress,
            rate=None if rate is None else round(rate, 4),
            memory_gb=self._memory[0],
            encoder_memory_gb=self._memory[1],
            device=self._device,
            moved_at=self._moved[1],
        )


def device_of(condition_device: str | None) -> str:
    """Where this process's job runs: `cpu`, or what CUDA_VISIBLE_DEVICES names (a worker's one GPU, by its UUID)."""
    return "cpu" if condition_device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES") or "cpu"
