"""Other weights than the committee's, against the mean written out, and what is refused."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ranker.config import RankedTask, RankedTrack
from ranker.errors import UsageError
from ranker.reweighing import Weights
from ranker.scoring import rank
from ranker.types import Group, Weighting

TRACK = RankedTrack(
    title="Classification",
    group_weights={Group.PUBLIC: 0.5, Group.HIDDEN: 0.5},
    tasks=(
        RankedTask(name="a", title="A"),
        RankedTask(name="b", title="B", worst=2.0, best=0.0),
        RankedTask(name="c", title="C", group=Group.HIDDEN),
    ),
)
SCORES = pd.DataFrame({"a": [0.9, 0.5], "b": [1.0, 0.5], "c": [0.2, math.nan]}, index=["one", "two"])


def score(weights: Weights, team: str = "one") -> float:
    return float(rank(SCORES, weights.applied(TRACK))["score"].to_dict()[team])


def test_weights_of_tasks_and_groups_count_as_written() -> None:
    """A task's weight counts within its group, a group's between the groups; the bounds stay as they are."""
    weights = Weights(tasks={"a": 3.0}, groups={Group.HIDDEN: 1.5})
    assert score(weights) == pytest.approx((0.5 * (3 * 0.9 + 0.5) / 4 + 1.5 * 0.2) / 2, abs=1e-15)
    assert score(Weights()) == pytest.approx((0.7 + 0.2) / 2, abs=1e-15)


def test_a_weight_of_zero_leaves_a_task_out_for_all() -> None:
    """What misses only that task is complete; a group without tasks, or of weight zero, goes with them."""
    assert score(Weights(tasks={"c": 0.0}), "two") == pytest.approx((0.5 + 0.75) / 2, abs=1e-15)
    assert score(Weights(groups={Group.HIDDEN: 0.0}), "two") == score(Weights(tasks={"c": 0.0}), "two")
    assert score(Weights(groups={Group.PUBLIC: 0.0})) == 0.2


def test_numbers_of_test_items_stay_where_nothing_else_is_said() -> None:
    """On a track weighed by its test items, one weight changes and the others are still their numbers of items."""
    tasks = (RankedTask(name="a", title="A", test_items=30), RankedTask(name="b", title="B", test_items=10))
    track = RankedTrack(title="T", weights=Weighting.TEST_ITEMS, tasks=tasks)
    applied = Weights(tasks={"b": 60.0}).applied(track)
    assert [applied.weight_of(task) for task in applied.active_tasks] == [30.0, 60.0]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (Weights(tasks={"d": 1.0}), "no task d; there is a, b, c"),
        (Weights(tasks={"a": -1.0}), "found a=-1"),
        (Weights(tasks={"a": math.inf}), "found a=inf"),
        (Weights(tasks=dict.fromkeys("abc", 0.0)), "no task of Classification counts"),
    ],
)
def test_what_cannot_be_weighed_is_refused(weights: Weights, said: str) -> None:
    """Unknown names, weights that are no weights, and a ranking of nothing."""
    with pytest.raises(UsageError, match=said):
        weights.applied(TRACK)


def test_groups_have_weights_only_where_the_track_weighs_groups() -> None:
    """One mean over all tasks has no group's weight that could be another."""
    flat = TRACK.model_copy(update={"group_weights": None})
    with pytest.raises(UsageError, match="no weighted group public; there is none"):
        Weights(groups={Group.PUBLIC: 1.0}).applied(flat)
