"""Scores that exist with several seeds: how much a single training moves them, and what that does to an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import variance

import pandas as pd

from ranker import scoring, uncertainty
from ranker.board.evidence import Evidence, Scores
from ranker.board.values import Interval, Repeats
from ranker.config import Track

Seeded = dict[str, dict[int, float]]  # submission id -> seed -> value, the seed that counts first


def of_task(found: Evidence, task: str) -> Seeded:
    """Raw scores of the submissions that were evaluated on the task with more than one seed."""
    return _repeated(
        {seed: {key: own[task].value for key, own in scores.items() if task in own} for seed, scores in _by_seed(found)}
    )


def of_track(found: Evidence) -> Seeded:
    """Track scores of the submissions that were evaluated on the whole track with more than one seed."""
    return _repeated({seed: _track_scores(found.track, scores) for seed, scores in _by_seed(found)})


def pooled(values: Mapping[str, Sequence[float]]) -> tuple[float, int]:
    """Standard deviation of one training over several submissions, and its degrees of freedom; each has two or more.

    sqrt(sum((n - 1) * s^2) / sum(n - 1)): the seeds of every submission spread around its own mean.
    """
    freedom = sum(len(each) - 1 for each in values.values())
    return math.sqrt(sum((len(each) - 1) * variance(each) for each in values.values()) / freedom), freedom


def repeats(seeded: Seeded, key: str, interval: Interval | None) -> Repeats | None:
    """What the seeds say of submission `key`, whose score has `interval` with its seed held fixed; None without any."""
    if key not in seeded or interval is None:
        return None
    deviation, freedom = pooled({other: list(values.values()) for other, values in seeded.items()})
    seeds, values = zip(*seeded[key].items(), strict=True)
    low, high = uncertainty.with_seeds(values[0], interval.low, interval.high, deviation=deviation, freedom=freedom)
    return Repeats(
        seeds=seeds, values=values, deviation=deviation, freedom=freedom, interval=Interval(low=low, high=high)
    )


def _by_seed(found: Evidence) -> list[tuple[int, Scores]]:
    return [(found.choice.seed, found.scores), *sorted(found.further.items())]


def _repeated(values: Mapping[int, Mapping[str, float]]) -> Seeded:
    """By submission what is there by seed, where the first seed and another one are."""
    first, *_ = values
    seeded = {
        key: {seed: there[key] for seed, there in values.items() if key in there and not math.isnan(there[key])}
        for key in values[first]
    }
    return {key: own for key, own in seeded.items() if first in own and len(own) > 1}


def _track_scores(track: Track, scores: Scores) -> dict[str, float]:
    names = [task.name for task in track.active_tasks]
    raw = pd.DataFrame(math.nan, index=list(scores), columns=names)
    for key, own in scores.items():
        for name in names:
            if name in own:
                raw.loc[key, name] = own[name].value
    return {str(key): float(score) for key, score in scoring.rank(raw, track)["score"].items()}
