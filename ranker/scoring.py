"""From raw scores to a ranking: the challenge's formulas (docs/protocol.md, section 4), as functions of tables.

(1) A task's normalised score is (M - worst) / (best - worst).
(2) A mean over tasks is sum(n_i * M_i) / sum(n_i), with the tasks' weights n_i (`RankedTrack.weight_of`).
A track's score is (2) over all its tasks or, with `group_weights`, the groups' own means (2) weighted by these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranker.config import RankedTrack
from ranker.errors import OrganizerError
from ranker.types import Group


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means of many rows of normalised scores: the track's (R,) and each group's (R,). NaN where a task is missing."""

    track: npt.NDArray[np.float64]
    groups: dict[Group, npt.NDArray[np.float64]]


def rank(scores: pd.DataFrame, track: RankedTrack) -> pd.DataFrame:
    """Rank submissions on one track.

    scores: one row per submission (any index without doubles), one column per task, raw values, NaN where there is
    none; columns that are not active tasks of the track are ignored, tasks without a column are missing for all.
    Returns, on the same index, best first and the incomplete last: `rank` (Int64, competition ranks "1224": ties share
    the best, <NA> for the incomplete), `score` (NaN for the incomplete), one column per group with its own mean (NaN
    unless the group is complete) and `missing` (tuple of task names). Raises OrganizerError on infinite scores.
    """
    raw = scores.reindex(columns=[task.name for task in track.active_tasks]).astype(float)
    infinite = [str(name) for name in raw.columns if np.isinf(raw[name].to_numpy()).any()]
    if infinite:
        raise OrganizerError(f"a raw score is infinite in {', '.join(infinite)}; a score is a finite number or absent")
    means = combine(normalize(raw, track).to_numpy(), track)
    table = pd.DataFrame({"score": means.track}, index=raw.index)
    table.insert(0, "rank", table["score"].rank(method="min", ascending=False).astype("Int64"))
    for group, values in means.groups.items():
        table[group.value] = values
    absent = raw.isna()
    table["missing"] = pd.Series(
        [tuple(name for name in raw.columns if row[name]) for _, row in absent.iterrows()],
        index=raw.index,
        dtype=object,
    )
    return table.sort_values("rank", kind="stable", na_position="last")


def normalize(scores: pd.DataFrame, track: RankedTrack) -> pd.DataFrame:
    """Formula (1) on every column: 0 at the task's worst value, 1 at its best. Columns must be active tasks' names."""
    tasks = {task.name: task for task in track.active_tasks}
    worst = pd.Series({name: tasks[name].worst for name in scores.columns}, dtype=float)
    best = pd.Series({name: tasks[name].best for name in scores.columns}, dtype=float)
    return (scores - worst) / (best - worst)


def combine(normalized: npt.NDArray[np.float64], track: RankedTrack) -> Means:
    """Formula (2) and the groups' weights on rows (R, tasks in the order of `track.active_tasks`) of normalised scores.

    Sums are exact before they are rounded once (`math.fsum`), so rows that should tie do tie, in whatever order their
    tasks stand. Raises ConfigError where a weight that is needed is not known.
    """
    tasks = track.active_tasks
    groups = list(dict.fromkeys(task.group for task in tasks))
    members = {group: [i for i, task in enumerate(tasks) if task.group is group] for group in groups}
    # A column of nothing but gaps makes every mean over it a gap: its weight, which may be unknown yet, is not needed.
    absent: npt.NDArray[np.bool_] = np.all(np.isnan(normalized), axis=0)
    shares = [1.0 if absent[i] else track.weight_of(task) for i, task in enumerate(tasks)]
    by_group = {group: _weighted(normalized[:, own], [shares[i] for i in own]) for group, own in members.items()}
    if track.group_weights is None:
        return Means(track=_weighted(normalized, shares), groups=by_group)
    weights = [track.group_weights[group] for group in groups]
    stacked = np.stack([by_group[group] for group in groups], axis=1)  # (R, groups)
    return Means(track=_weighted(stacked, weights), groups=by_group)


def _weighted(rows: npt.NDArray[np.float64], weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """sum(w * x) / sum(w) along each row of (R, C); returns (R,). A NaN in a row makes its result NaN."""
    total = math.fsum(weights)
    products = (rows * np.asarray(weights)).tolist()
    return np.array([math.fsum(row) / total for row in products], dtype=np.float64)
