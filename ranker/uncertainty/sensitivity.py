"""Where would everybody stand if the committee had chosen otherwise? (docs/statistics.md, section 8)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ranker.config import RankedTask, RankedTrack
from ranker.scoring import combine, normalize
from ranker.types import Choice, Weighting
from ranker.uncertainty.agreement import tau_b


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """The ranking under another choice: `choice`, and of which `task` it is, if it is one task's.

    `ranks`: competition ranks of the board's ranked rows, in the board's order. `changed`: how many of them differ from
    the official ones. `tau`: Kendall's tau-b with the official scores; None where it is not defined. `without`: tasks
    for which the choice could not be made, and which are taken as they are.
    """

    choice: Choice
    task: str | None
    ranks: tuple[int, ...]
    changed: int
    tau: float | None
    without: tuple[str, ...] = ()


def alternatives(raw: pd.DataFrame, track: RankedTrack, blind: Mapping[str, float | None]) -> tuple[Alternative, ...]:
    """Every alternative, for complete rows of raw scores (R, active tasks) in the board's order; none without rows.

    blind: each task's floor, the score of answering without listening; None where it is not known.
    """
    if not len(raw):
        return ()
    official = _scores(raw, track)
    return tuple(_alternative(official, *each) for each in _scored(raw, _given(track), blind))


def _alternative(
    official: pd.Series[float], choice: Choice, task: str | None, scores: pd.Series[float], without: tuple[str, ...]
) -> Alternative:
    ranks = scores.rank(method="min", ascending=False).astype(int)
    own = official.rank(method="min", ascending=False).astype(int)
    tau = float(tau_b(np.array(official, dtype=np.float64), np.array(scores, dtype=np.float64)))
    return Alternative(
        choice=choice,
        task=task,
        ranks=tuple(ranks.tolist()),
        changed=int((ranks != own).sum()),
        tau=None if math.isnan(tau) else tau,
        without=without,
    )


def _scored(
    raw: pd.DataFrame, track: RankedTrack, blind: Mapping[str, float | None]
) -> Iterator[tuple[Choice, str | None, pd.Series[float], tuple[str, ...]]]:
    tasks = track.active_tasks
    flat = track.model_copy(
        update={"group_weights": None, "tasks": tuple(each.model_copy(update={"weight": 1.0}) for each in tasks)}
    )
    yield Choice.FLAT_MEAN, None, _scores(raw, flat), ()
    normalized = normalize(raw, track)
    yield Choice.MEAN_RANK, None, -normalized.rank(ascending=False).mean(axis=1), ()
    floors = {each.name: blind.get(each.name) for each in tasks}
    floored = tuple(_from_floor(each, floors[each.name]) for each in tasks)
    unknown = tuple(each.name for each, other in zip(tasks, floored, strict=True) if other is each)
    if len(unknown) < len(tasks):
        yield Choice.CHANCE_CORRECTED, None, _scores(raw, track.model_copy(update={"tasks": floored})), unknown
    for each in tasks if len(tasks) > 1 else ():
        others = tuple(other for other in tasks if other is not each)
        yield Choice.LEFT_OUT, each.name, _scores(raw, track.model_copy(update={"tasks": others})), ()
    for choice, factor in ((Choice.HALVED, 0.5), (Choice.DOUBLED, 2.0)):
        for each in tasks if len(tasks) > 1 else ():
            weighed = each.model_copy(update={"weight": each.weight * factor})
            changed = tuple(weighed if other is each else other for other in tasks)
            yield choice, each.name, _scores(raw, track.model_copy(update={"tasks": changed})), ()


def _scores(raw: pd.DataFrame, track: RankedTrack) -> pd.Series[float]:
    names = [task.name for task in track.active_tasks]
    return pd.Series(combine(normalize(raw[names], track).to_numpy(), track).track, index=raw.index)


def _given(track: RankedTrack) -> RankedTrack:
    """The same track with every weight written down, so that single ones can be changed."""
    tasks = tuple(each.model_copy(update={"weight": track.weight_of(each)}) for each in track.active_tasks)
    return track.model_copy(update={"tasks": tasks, "weights": Weighting.GIVEN})


def _from_floor(task: RankedTask, blind: float | None) -> RankedTask:
    """The task with 0 at its blind floor; itself where the floor is unknown, or leaves no room up to the best score."""
    if blind is None or np.isclose(blind, task.best):
        return task
    return task.model_copy(update={"worst": blind})
