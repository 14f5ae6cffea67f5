"""The queue played through: jobs in their order, each to the worker that is free first, many times over.

Durations are drawn anew for each play. Of what was measured, a bootstrap (Efron 1979): first the measured jobs
themselves, with replacement, which tells how far their mean is known, then a duration for each job from these. Few jobs
say little of others, and nothing of another day: a common factor with a relative spread of SPREAD / sqrt(n) is put on
top, so that one measured job is not taken for certainty (`ranker estimate` grants itself no less).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from ranker.schedule.durations import STAGES, Durations
from ranker.schedule.line import Task
from ranker.types import Progress, Stage

PLAYS = 200
SPREAD = 0.15
LEAST_LEFT = 0.02
"""Of its duration, what a running job still needs that has run for longer than all others."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A task, and what is known of its duration. One of unknown duration takes no time."""

    task: Task
    durations: Durations


def draw(entries: Sequence[Entry], *, now: datetime, plays: int = PLAYS, seed: int = 0) -> Floats:
    """Seconds that each job still needs from `now` on: (plays, jobs)."""
    rng = np.random.default_rng(seed)
    left = np.zeros((plays, len(entries)))
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, entry in enumerate(entries):
        known = entry.durations
        groups.setdefault((entry.task.question, known.basis, known.seconds, known.span), []).append(place)
    for places in groups.values():
        left[:, places] = _whole(entries[places[0]].durations, plays, len(places), rng)
    for place, entry in enumerate(entries):
        if entry.task.is_running:
            left[:, place] = _rest(entry, left[:, place], now, rng)
    return left


def ends(left: Floats, due: Floats, workers: int) -> Floats:
    """When each job ends, in seconds from now: (plays, jobs). `due`: (jobs,), none begins before."""
    plays, jobs = left.shape
    free = np.zeros((plays, max(1, min(workers, jobs))))
    rows = np.arange(plays)
    found = np.zeros_like(left)
    for job in range(jobs):
        first = free.argmin(axis=1)
        end = np.maximum(free[rows, first], due[job]) + left[:, job]
        free[rows, first] = end
        found[:, job] = end
    return found


def _whole(known: Durations, plays: int, jobs: int, rng: np.random.Generator) -> Floats:
    """Durations from the beginning: (plays, jobs)."""
    if known.span is not None:
        # What an estimate is wrong by, it is wrong by for every job of the question.
        low, likely, high = known.span
        common = rng.triangular(low, likely, max(high, low + 1e-9), size=(plays, 1)) if high > low else likely
        return np.broadcast_to(common, (plays, jobs)).astype(np.float64)
    if not known.seconds:
        return np.zeros((plays, jobs))
    values = np.array(known.seconds)
    again = rng.integers(len(values), size=(plays, len(values)))
    chosen = np.take_along_axis(again, rng.integers(len(values), size=(plays, jobs)), axis=1)
    factor = np.exp(rng.normal(0.0, SPREAD / np.sqrt(len(values)), size=(plays, 1)))
    drawn: Floats = values[chosen] * factor
    return drawn


def _rest(entry: Entry, whole: Floats, now: datetime, rng: np.random.Generator) -> Floats:
    """Of a running job: what is left, by its progress where stages are known, else by the time that it has run."""
    task, known = entry.task, entry.durations
    told = task.progress
    if told is not None and told.stage in known.shares:
        present, later = _shares_left(told, known)
        if told.task is None and told.rate and told.total:
            return (told.total - told.done) / told.rate + whole * later
        return whole * (present + later)
    assert task.begun_at is not None
    run_s = max((now - task.begun_at).total_seconds(), 0.0)
    longer = np.array([seconds for seconds in known.seconds if seconds > run_s])
    if len(longer):
        return rng.choice(longer, size=len(whole)) - run_s
    return np.maximum(whole - run_s, LEAST_LEFT * whole)


def _shares_left(told: Progress, known: Durations) -> tuple[float, float]:
    """What is left of the present stage (while answering: of the present task), and what comes after, as shares of the
    whole duration.
    """
    shares, items = known.shares, known.items
    done = told.done / told.total if told.total else 0.0
    if told.task is None:
        after = STAGES[STAGES.index(told.stage) + 1 :]
        return shares[told.stage] * (1 - done), math.fsum(shares[stage] for stage in after)
    answering = shares[Stage.GENERATE] + shares[Stage.SCORE]
    if told.task not in items:
        return answering / 2, shares[Stage.CHECK]
    names, total = list(items), sum(items.values())
    behind = sum(items[name] for name in names[names.index(told.task) + 1 :]) / total
    # A task's clips are encoded, answered and scored, with a count for each: before and after answering, half is left.
    own = items[told.task] / total * (1 - done if told.stage is Stage.GENERATE else 0.5)
    return answering * own, shares[Stage.CHECK] + answering * behind
