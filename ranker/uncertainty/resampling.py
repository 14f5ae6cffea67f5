"""Draws: what a score would have been on other test items, or on other tasks (docs/statistics.md, sections 1 and 2).

The nonparametric bootstrap (Efron, Tibshirani 1993, chapters 6 and 13). Whole clips are drawn with replacement, or
whole clusters of clips where the benchmark names them, and all pairs of a clip go together. All submissions of a task
see the same draws, so differences between them are paired. What another training run would change is not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranker.config import RankedTrack, Task, Track
from ranker.errors import OrganizerError
from ranker.metrics import left_out_average_precisions, reweighted_all
from ranker.scoring import Means, combine, normalize
from ranker.types import MetricName, digest_json

Draws = npt.NDArray[np.float64]  # (B,) one value per resample

RESAMPLES = 2000
CLIP = "clip"
CLUSTER = "cluster"
"""Column of a table of predictions that says from which speaker, recording, ... a clip is."""
_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB of float64


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is drawn with replacement: `labels` (N,) says to which of `count` units each pair belongs; `kind` is
    `clip`, or the name of the field of a clip's JSON that the benchmark names as cluster.
    """

    kind: str
    labels: npt.NDArray[np.int64]
    count: int


def seed_of(*identity: str | int) -> int:
    """A seed that depends on nothing but the identity of what is drawn for."""
    return int(digest_json(identity)[:16], 16)


def units_of(task: Task, tables: Sequence[pd.DataFrame]) -> Units:
    """The units of a task's pairs, in the order of the first table's rows; all tables are of the same pairs.

    Clusters, if the task names a field and any of the tables has the column `cluster` (those of evaluations that were
    made before the field was named have none); else clips.
    """
    clips = tables[0]["clip"]
    known = next((table for table in tables if CLUSTER in table), None) if task.test.cluster else None
    if task.test.cluster is None or known is None:
        labels, names = pd.factorize(clips)
        return Units(kind=CLIP, labels=labels.astype(np.int64), count=len(names))
    cluster_of = dict(zip(known["clip"], known[CLUSTER], strict=True))
    labels, names = pd.factorize(clips.map(cluster_of))
    return Units(kind=task.test.cluster, labels=labels.astype(np.int64), count=len(names))


def task_draws(
    task: Task, items: Mapping[str, pd.DataFrame], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Draws]:
    """The task's raw value in each of B resamples, per submission.

    items: per submission the table of `MetricResult.items`, in any order of rows. Every submission must have been
    scored on the same pairs of clip and reference; raises OrganizerError, naming the first that was not.
    """
    tables = {key: table.sort_values(["clip", "reference"], kind="stable") for key, table in items.items()}
    if not tables:
        return {}
    _refuse_other_pairs(task, tables)
    units = units_of(task, list(tables.values()))
    listed = list(tables.values())
    parts = [
        reweighted_all(task.metric, listed, weights, num_classes=task.num_classes)
        for weights in _weights(units, seed, resamples)
    ]
    draws = np.concatenate(parts, axis=1)
    if task.metric is MetricName.MAP:
        draws = _recentred(task, listed, units, draws)
    return dict(zip(tables, draws, strict=True))


def track_means(draws: Mapping[str, Draws], track: Track) -> Means:
    """One submission's track score and means of groups in each resample: `Means` of (B,) values.

    draws: (B,) of every active task of the track.
    """
    raw = pd.DataFrame({task.name: draws[task.name] for task in track.active_tasks})  # (B, tasks)
    return combine(normalize(raw, track).to_numpy(), track)


def track_draws(draws: Mapping[str, Draws], track: Track) -> Draws:
    """One submission's track score in each resample, from the draws (B,) of every active task of the track."""
    return track_means(draws, track).track


def draws_over_tasks(
    normalized: npt.NDArray[np.float64], track: RankedTrack, *, seed: int, resamples: int = RESAMPLES
) -> Means:
    """Track scores and means of groups on other tasks, where nothing but task scores is known: `Means` of (R, B).

    normalized: (R, T), complete rows, tasks in the order of `track.active_tasks`. Tasks are drawn with replacement:
    each group's own among themselves where the track has `group_weights`, since a track score then is a mean of means
    over groups; else all together. A task drawn twice counts twice with its weight. A group of one task does not vary.
    """
    tasks = track.active_tasks
    shares = np.array([track.weight_of(task) for task in tasks])
    groups = {group: [i for i, task in enumerate(tasks) if task.group is group] for group in {t.group for t in tasks}}
    generator = np.random.default_rng(seed)
    strata = list(groups.values()) if track.group_weights is not None else [list(range(len(tasks)))]
    counts = np.zeros((resamples, len(tasks)))
    for own in sorted(strata):
        counts[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
    weights = counts * shares  # (B, T)
    by_group = {group: _mean_over(normalized[:, own], weights[:, own]) for group, own in groups.items()}
    if track.group_weights is None:
        return Means(track=_mean_over(normalized, weights), groups=by_group)
    whole = sum(share * by_group[group] for group, share in track.group_weights.items())
    return Means(track=np.asarray(whole / sum(track.group_weights.values())), groups=by_group)


def _mean_over(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(R, T) under (B, T); NaN in a draw that holds none of these tasks. Equal rows give equal results, to the bit."""
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.stack([(row * weights).sum(axis=1) / total for row in values])


def _refuse_other_pairs(task: Task, tables: Mapping[str, pd.DataFrame]) -> None:
    first, reference = next(iter(tables.items()))
    for key, table in tables.items():
        same = len(table) == len(reference) and all(
            np.array_equal(table[column].to_numpy(), reference[column].to_numpy()) for column in ("clip", "reference")
        )
        if not same:
            raise OrganizerError(
                f"task {task.name}: {key} was scored on {len(table)} pairs that are not the {len(reference)} pairs of "
                f"{first}; their scores cannot be compared, so evaluate both again on the same data"
            )


def _recentred(
    task: Task, tables: Sequence[pd.DataFrame], units: Units, draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Draws of mAP (S, B), moved and stretched: their mean is the value itself, their variance the jackknife's times
    (n - 1) / n, since `tail_of` makes up for that factor in every metric's draws. Within 0 and 1.

    The average precision of a class is quadratic in its few true positives. A resample has too many of some of them, so
    that its value is too high on average and varies too little; the jackknife's variance (Efron, Tibshirani 1993,
    chapter 11) is not too small. The other metrics are ratios of sums and need none of it.
    """
    ones = np.ones((1, len(units.labels)))
    values = reweighted_all(task.metric, tables, ones, num_classes=task.num_classes)  # (S, 1)
    left_out = left_out_average_precisions(tables, units.labels, units.count, task.num_classes or 0)
    spread, wanted = draws.std(axis=1, keepdims=True), np.zeros_like(values)
    if units.count > 1:
        wanted = (units.count - 1) / np.sqrt(units.count) * left_out.std(axis=1, keepdims=True)
    stretch = np.divide(wanted, spread, out=np.ones_like(spread), where=(spread > 0) & (wanted > 0))
    found: npt.NDArray[np.float64] = np.clip(values + stretch * (draws - draws.mean(axis=1, keepdims=True)), 0.0, 1.0)
    return found


def _weights(units: Units, seed: int, resamples: int) -> Iterator[npt.NDArray[np.float64]]:
    """How often each of N pairs is drawn, (b, N) at a time until `resamples` rows are given."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // max(len(units.labels), units.count))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(0, units.count, size=(rows, units.count))
        flat = drawn + np.arange(rows)[:, None] * units.count
        counts = np.bincount(flat.ravel(), minlength=rows * units.count).reshape(rows, units.count)
        yield counts[:, units.labels].astype(np.float64)
