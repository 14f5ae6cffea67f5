"""ranker.scoring: formulas (1) and (2), competition ranks, incomplete rows, and the official 2026 table."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker import config
from ranker.config import Task, Track
from ranker.errors import OrganizerError
from ranker.scoring import normalize, rank
from ranker.types import Domain, Group, MetricName, Weighting

OFFICIAL = Path(__file__).parent / "golden" / "interspeech2026_track_a.csv"

steady = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def task(name: str, **fields: object) -> Task:
    return Task(
        name=name,
        title=name,
        domain=Domain.SPEECH,
        metric=MetricName.ACCURACY,
        test=config.TestSplit(shards=("test.tar",), key=("label",), prompt="?"),
        **fields,
    )


def track(*tasks: Task, **fields: object) -> Track:
    return Track(title="a track", tasks=tasks, **fields)


def table(rows: dict[str, list[float]], *names: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(names), dtype=float)


def official_rows() -> list[dict[str, str]]:
    with OFFICIAL.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_official_table_recomputes() -> None:
    """All 23 teams: public, hidden and final score within 6e-5 of what was published, and in the published order."""
    published = official_rows()
    columns = list(published[0])[6:]
    names = {column: column.rstrip("*").lower() for column in columns}
    tasks = [task(names[c], group=Group.HIDDEN if c.endswith("*") else Group.PUBLIC) for c in columns]
    assert (len(published), sum(t.group is Group.PUBLIC for t in tasks), len(tasks)) == (23, 15, 21)
    raw = pd.DataFrame(
        [[float(row[column]) for column in columns] for row in published],
        index=[row["Team"] for row in published],
        columns=list(names.values()),
    )
    ranked = rank(raw, track(*tasks, group_weights={Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}))
    for row in published:
        mine = ranked.loc[row["Team"]]
        assert mine["public"] == pytest.approx(float(row["Public test result"]), abs=6e-5)
        assert mine["hidden"] == pytest.approx(float(row["Hidden test result"]), abs=6e-5)
        assert mine["score"] == pytest.approx(float(row["(Public + Hidden) / 2"]), abs=6e-5)
    printed = [float(row["(Public + Hidden) / 2"]) for row in published]
    order = dict(zip(raw.index, printed, strict=True))
    assert [order[team] for team in ranked.index] == sorted(printed, reverse=True)
    assert ranked.index[0] == "THUVoice"
    assert list(ranked["rank"]) == list(range(1, 24))


def test_bounds_and_weights_by_hand() -> None:
    """Formula (1) with bounds other than 0 and 1, one of them reversed; formula (2) with unequal weights."""
    tested = track(task("a", worst=0.5), task("b", worst=40.0, best=10.0, weight=3.0))
    raw = table({"x": [0.75, 25.0], "y": [0.4, 10.0]}, "a", "b")
    assert normalize(raw, tested).loc["x"].tolist() == [0.5, 0.5]
    ranked = rank(raw, tested)
    assert ranked["score"].to_dict() == {"x": 0.5, "y": pytest.approx((-0.2 + 3 * 1.0) / 4)}
    assert list(ranked.index) == ["y", "x"]


def test_group_weights_weigh_means_of_groups() -> None:
    """Three public tasks of 1 and one hidden of 0 give 1/2 at equal weights, not 3/4; weights need not add up to 1."""
    tasks = [task("a"), task("b"), task("c"), task("d", group=Group.HIDDEN)]
    raw = table({"x": [1, 1, 1, 0]}, "a", "b", "c", "d")
    assert rank(raw, track(*tasks))["score"]["x"] == 0.75
    for weight in (0.5, 7.0):
        halves = rank(raw, track(*tasks, group_weights={Group.PUBLIC: weight, Group.HIDDEN: weight}))
        assert halves.loc["x", ["score", "public", "hidden"]].tolist() == [0.5, 1.0, 0.0]
    uneven = rank(raw, track(*tasks, group_weights={Group.PUBLIC: 3.0, Group.HIDDEN: 1.0}))
    assert uneven["score"]["x"] == 0.75


def test_sizes_as_weights_are_weights() -> None:
    """`weights: test_items` ranks as the same numbers given as weights do, in a flat mean and inside groups."""
    raw = table({"x": [0.3, 0.9, 0.1], "y": [0.5, 0.2, 0.8]}, "a", "b", "c")
    sizes = {"a": 1200, "b": 40, "c": 310}
    groups = {"a": Group.PUBLIC, "b": Group.PUBLIC, "c": Group.HIDDEN}
    sized = [task(name, test_items=size, group=groups[name]) for name, size in sizes.items()]
    given = [task(name, weight=float(size), group=groups[name]) for name, size in sizes.items()]
    for group_weights in (None, {Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}):
        one = rank(raw, track(*sized, weights=Weighting.TEST_ITEMS, group_weights=group_weights))
        other = rank(raw, track(*given, group_weights=group_weights))
        pd.testing.assert_frame_equal(one, other)
        assert one["public"]["x"] == pytest.approx((1200 * 0.3 + 40 * 0.9) / 1240)
    assert rank(raw, track(*sized))["score"]["x"] == pytest.approx(1.3 / 3)  # sizes alone change nothing


def test_ties_share_a_rank_and_the_next_is_skipped() -> None:
    """Competition ranking `1224`."""
    ranked = rank(table({"d": [0.1], "b": [0.5], "a": [0.9], "c": [0.5]}, "t"), track(task("t")))
    assert ranked["rank"].to_dict() == {"a": 1, "b": 2, "c": 2, "d": 4}


def test_ranks_use_full_precision() -> None:
    """A difference in the last bit decides; equal printed figures do not tie."""
    ranked = rank(table({"a": [0.5], "b": [math.nextafter(0.5, 1)]}, "t"), track(task("t")))
    assert ranked["rank"].to_dict() == {"b": 1, "a": 2}


@steady
@given(st.permutations([0.1, 0.2, 0.3, 0.7, 1e-9, 0.9]))
def test_the_same_scores_on_other_tasks_tie(values: list[float]) -> None:
    """Rounding in the order of summation must not break a tie."""
    names = [f"t{i}" for i in range(6)]
    ranked = rank(table({"a": [0.1, 0.2, 0.3, 0.7, 1e-9, 0.9], "b": values}, *names), track(*map(task, names)))
    assert list(ranked["rank"]) == [1, 1]


def test_an_incomplete_submission_has_no_rank_and_no_mean() -> None:
    """However good what is there: no rank, no score, what is missing by name; a whole group still has its mean."""
    tasks = [task("a"), task("b"), task("c", group=Group.HIDDEN)]
    raw = table({"x": [1.0, math.nan, 1.0], "y": [0.2, 0.2, 0.2], "z": [math.nan] * 3}, "a", "b", "c")
    ranked = rank(raw, track(*tasks))
    assert list(ranked.index) == ["y", "x", "z"]
    assert ranked["missing"].to_dict() == {"x": ("b",), "y": (), "z": ("a", "b", "c")}
    assert ranked["rank"].isna().to_dict() == {"x": True, "y": False, "z": True}
    assert ranked["score"].isna().to_dict() == {"x": True, "y": False, "z": True}
    assert math.isnan(ranked["public"]["x"])
    assert ranked["hidden"]["x"] == 1.0
    assert ranked["rank"]["y"] == 1


def test_tasks_without_column_are_missing_and_columns_without_task_do_not_count() -> None:
    """A task that was switched off, or belongs to another track, changes nothing; one that nobody has, much."""
    tested = track(task("a"), task("off", enabled=False, note="no data"))
    assert rank(table({"x": [0.5, 0.9, 0.9]}, "a", "off", "other"), tested)["score"]["x"] == 0.5
    assert rank(table({"x": [0.5]}, "a"), track(task("a"), task("b")))["missing"]["x"] == ("b",)


def test_infinite_scores_are_refused() -> None:
    """An infinity would win the track; it names its task."""
    with pytest.raises(OrganizerError, match=r"infinite in b;"):
        rank(table({"x": [0.5, math.inf]}, "a", "b"), track(task("a"), task("b")))


def test_nobody_to_rank() -> None:
    """An empty table ranks nobody and does not fail."""
    assert len(rank(table({}, "a"), track(task("a")))) == 0


@steady
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8),
    st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
)
def test_more_on_one_task_never_ranks_lower(scores: list[tuple[float, float]], weights: tuple[float, float]) -> None:
    """Whoever is at least as good on every task does not rank below; scores stay within the bounds of their parts."""
    tested = track(task("a", weight=weights[0]), task("b", weight=weights[1]))
    ranked = rank(table({str(i): list(row) for i, row in enumerate(scores)}, "a", "b"), tested)
    for i, one in enumerate(scores):
        assert min(one) - 1e-12 <= ranked["score"][str(i)] <= max(one) + 1e-12
        for j, other in enumerate(scores):
            if one[0] >= other[0] and one[1] >= other[1]:
                assert ranked["rank"][str(i)] <= ranked["rank"][str(j)]
