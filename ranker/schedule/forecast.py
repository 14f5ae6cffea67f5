"""When the queue will be empty, what will not be done before a date, and how many workers would do it all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from ranker.schedule.durations import Estimates, Measured, known
from ranker.schedule.line import Question, Task
from ranker.schedule.play import Entry, Floats, draw, ends
from ranker.types import Basis

LOW, LIKELY, HIGH = 0.05, 0.5, 0.95
SAFE = 0.9
"""Share of the plays in which a job must be done in time to be called safe; below LIKELY it is called lost."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is asked: by `workers` at a time, and another number of them, and before when all shall be done."""

    now: datetime
    workers: int
    others: int | None = None
    until: datetime | None = None
    own_seed: Mapping[str, int] | None = None  # by benchmark; other seeds are evidence


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A moment, early, likely and late: quantiles 0.05, 0.5 and 0.95 of the plays."""

    low: datetime
    likely: datetime
    high: datetime

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {name: value.isoformat(timespec="seconds") for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Finish:
    """When so many workers have emptied the queue; `ranking`: when all but further seeds are done, where some wait."""

    workers: int
    empty: Moments
    ranking: Moments | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ranking = None if self.ranking is None else self.ranking.to_json()
        return {"workers": self.workers, "empty": self.empty.to_json(), "ranking": ranking}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One question of those that wait or run: how many jobs, what one takes (seconds, None: unknown), and how that is
    known, of how many finished jobs.
    """

    question: Question
    waiting: int
    running: int
    basis: Basis
    finished: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Late:
    """A job that may not be done before the date: with what chance it is, and when it is likely to end."""

    task: Task
    chance: float
    likely: datetime

    @property
    def is_lost(self) -> bool:
        """Whether it is more likely not to be done than to be."""
        return self.chance < LIKELY

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        task = self.task
        return {
            "job": task.job,
            "submission": task.submission,
            "team": task.team,
            "what": task.question.words,
            "seed": task.seed,
            "chance": self.chance,
            "likely": self.likely.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, kw_only=True)
class Before:
    """What becomes of the queue before a date. `late`: in the order of the queue. `likely`, `safe`: the least number of
    workers by which all is done in half of the plays, and in 9 of 10; None where none is enough, since single jobs
    take longer.
    """

    until: datetime
    fitting: int
    late: tuple[Late, ...]
    likely: int | None
    safe: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "until": self.until.isoformat(),
            "fitting": self.fitting,
            "late": [each.to_json() for each in self.late],
            "workers_likely": self.likely,
            "workers_safe": self.safe,
        }


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The answer. `unknown`: jobs of which nothing is known; they are taken to need no time, so that all moments are
    the earliest possible. `overtaken`: jobs of the ranking that wait behind further seeds.
    """

    waiting: int
    running: int
    lines: tuple[Line, ...]
    finish: Finish
    other: Finish | None
    before: Before | None
    unknown: int
    further: int
    overtaken: int

    def to_json(self) -> dict[str, Any]:
        """Plain values; seconds, and moments in ISO 8601."""
        return {
            "waiting": self.waiting,
            "running": self.running,
            "finish": self.finish.to_json(),
            "with": None if self.other is None else self.other.to_json(),
            "before": None if self.before is None else self.before.to_json(),
            "questions": [_line_json(line) for line in self.lines],
            "unknown": self.unknown,
            "further_seeds": self.further,
            "behind_further_seeds": self.overtaken,
        }


def _line_json(line: Line) -> dict[str, Any]:
    question = line.question
    return {
        "what": question.words,
        "device": question.device or None,
        "steps": question.steps or None,
        "condition": question.condition,
        "waiting": line.waiting,
        "running": line.running,
        "seconds": line.seconds,
        "basis": line.basis,
        "finished": line.finished,
    }


def unmeasured(tasks: Sequence[Task], found: Measured) -> tuple[Task, ...]:
    """The first task of each question of which no job has finished here."""
    first: dict[Question, Task] = {}
    for task in tasks:
        if known(task, found, {}).basis is Basis.UNKNOWN:
            first.setdefault(task.question, task)
    return tuple(first.values())


def foresee(tasks: Sequence[Task], found: Measured, estimates: Estimates, ask: Ask) -> Forecast:
    """Play the queue through. `tasks`: as `ranker.schedule.line.tasks` orders them."""
    entries = [Entry(task=task, durations=known(task, found, estimates)) for task in _in_play(tasks, ask)]
    left = draw(entries, now=ask.now)
    due = np.array([_seconds(entry.task.due_at, ask.now) for entry in entries])
    further = np.array([_is_further(entry.task, ask) for entry in entries], dtype=bool)
    before = None if ask.until is None else _before(entries, left, due, ask.until, ask)
    return Forecast(
        waiting=sum(not task.is_running for task in tasks),
        running=sum(task.is_running for task in tasks),
        lines=_lines(entries),
        finish=_finish(left, due, further, ask.workers, ask.now),
        other=None if ask.others is None else _finish(left, due, further, ask.others, ask.now),
        before=before,
        unknown=sum(entry.durations.basis is Basis.UNKNOWN for entry in entries),
        further=int(further.sum()),
        overtaken=_overtaken(entries, further),
    )


def _in_play(tasks: Sequence[Task], ask: Ask) -> list[Task]:
    """Those that wait for a retry come after as many others as are begun at once: no worker stands still for them."""
    running = [task for task in tasks if task.is_running]
    due = [task for task in tasks if not task.is_running and _seconds(task.due_at, ask.now) == 0]
    later = [task for task in tasks if not task.is_running and _seconds(task.due_at, ask.now) > 0]
    room = max(ask.workers - len(running), 0)
    rest = sorted([*due[room:], *later], key=lambda task: (-task.priority, task.job))
    return [*running, *due[:room], *rest]


def _seconds(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max((moment - now).total_seconds(), 0.0)


def _is_further(task: Task, ask: Ask) -> bool:
    own = (ask.own_seed or {}).get(task.question.benchmark)
    return own is not None and task.seed != own


def _overtaken(entries: Sequence[Entry], further: np.ndarray[Any, Any]) -> int:
    """How many jobs of the ranking stand behind the first further seed that waits."""
    waits = [not entry.task.is_running for entry in entries]
    first = next((place for place, wait in enumerate(waits) if wait and further[place]), len(entries))
    return sum(waits[place] and not further[place] for place in range(first, len(entries)))


def _finish(left: Floats, due: Floats, further: np.ndarray[Any, Any], workers: int, now: datetime) -> Finish:
    times = ends(left, due, workers)
    ranking = None
    if further.any() and not further.all():
        ranking = _moments(times[:, ~further].max(axis=1), now)
    whole = times.max(axis=1) if times.shape[1] else np.zeros(len(times))
    return Finish(workers=workers, empty=_moments(whole, now), ranking=ranking)


def _moments(seconds: Floats, now: datetime) -> Moments:
    low, likely, high = (
        now + timedelta(seconds=round(float(each))) for each in np.quantile(seconds, (LOW, LIKELY, HIGH))
    )
    return Moments(low=low, likely=likely, high=high)


def _before(entries: Sequence[Entry], left: Floats, due: Floats, until: datetime, ask: Ask) -> Before:
    limit = (until - ask.now).total_seconds()
    times = ends(left, due, ask.workers)
    chances = (times < limit).mean(axis=0)
    # No claim is made of what nothing is known of, but what waits behind known work can only be later still.
    late = [
        Late(
            task=entry.task,
            chance=round(float(chance), 3),
            likely=ask.now + timedelta(seconds=round(float(np.median(times[:, place])))),
        )
        for place, (entry, chance) in enumerate(zip(entries, chances, strict=True))
        if chance < SAFE
    ]
    return Before(
        until=until,
        fitting=len(entries) - len(late),
        late=tuple(late),
        likely=_needed(left, due, limit, LIKELY),
        safe=_needed(left, due, limit, SAFE),
    )


def _needed(left: Floats, due: Floats, limit: float, share: float) -> int | None:
    """The least number of workers that are done before `limit` seconds in `share` of the plays; None if none is.

    Jobs are independent and their order is fixed, so more workers end no job later: halving finds it.
    """

    def enough(workers: int) -> bool:
        return bool((ends(left, due, workers).max(axis=1) < limit).mean() >= share)

    jobs: int = left.shape[1]
    if not jobs:
        return 1
    if limit <= 0 or not enough(jobs):
        return None
    # So many at least, or the work alone of that share of the plays takes longer.
    high = jobs
    at_least = math.ceil(float(np.quantile(left.sum(axis=1), share, method="lower")) / limit)
    low = min(max(1, at_least - 1), jobs)
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _lines(entries: Sequence[Entry]) -> tuple[Line, ...]:
    groups: dict[tuple[Question, Basis], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.task.question, entry.durations.basis), []).append(entry)
    return tuple(
        Line(
            question=question,
            waiting=sum(not each.task.is_running for each in members),
            running=sum(each.task.is_running for each in members),
            basis=basis,
            finished=max(len(each.durations.seconds) for each in members),
            seconds=_mean([each.durations.typical for each in members]),
        )
        for (question, basis), members in groups.items()
    )


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None
