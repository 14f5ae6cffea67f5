"""ranker.comparison on a real SQLite file and real Parquet files."""

from __future__ import annotations

import pytest
from test_board import Place, benchmark, condition
from test_board import place as place  # noqa: PLC0414  a fixture, found by its name

from ranker.comparison import compare
from ranker.errors import UsageError


def test_difference_is_first_minus_second_and_far_ones_are_distinct(place: Place) -> None:
    """Track score and every task, with the sign that the words say; what differs by one item is within chance."""
    bench = benchmark()
    under = condition(bench)
    better, worse = place.submit("better"), place.submit("worse")
    place.evaluate(better, under, {"keyword": 55, "pitch": 21})
    place.evaluate(worse, under, {"keyword": 10, "pitch": 20})
    found = compare(place.session, place.home, bench, "A", first=better, second=worse)
    assert [each.task for each in found] == [None, "keyword", "pitch"]
    whole, keyword, pitch = found
    assert keyword.difference == pytest.approx(45 / 60)
    assert whole.difference == pytest.approx((45 / 60 + 1 / 40) / 2)
    assert (whole.distinct, keyword.distinct, pitch.distinct) == (True, True, False)
    assert all(each.interval.low <= each.difference <= each.interval.high for each in found)


def test_turning_the_two_round_turns_the_signs(place: Place) -> None:
    """Both ways use the same resamples."""
    bench = benchmark()
    under = condition(bench)
    one, other = place.submit("one"), place.submit("other")
    place.evaluate(one, under, {"keyword": 40, "pitch": 5})
    place.evaluate(other, under, {"keyword": 30, "pitch": 35})
    forth = compare(place.session, place.home, bench, "A", first=one, second=other)
    back = compare(place.session, place.home, bench, "A", first=other, second=one)
    for there, here in zip(forth, back, strict=True):
        assert there.difference == -here.difference
        assert there.interval.low == pytest.approx(-here.interval.high)


def test_what_was_not_evaluated_is_not_compared(place: Place) -> None:
    """A submission without scores on this board is named, with what to do."""
    bench = benchmark()
    done, missing = place.submit("done"), place.submit("missing")
    place.evaluate(done, condition(bench), {"keyword": 40, "pitch": 5})
    with pytest.raises(UsageError, match=f"submission {missing} was not evaluated on keyword, pitch"):
        compare(place.session, place.home, bench, "A", first=done, second=missing)
