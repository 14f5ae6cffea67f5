"""ranker.comparison on a real SQLite file and real Parquet files, and on an imported table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats
from test_board import Place, benchmark, condition
from test_board import place as place  # noqa: PLC0414  a fixture, found by its name

from ranker.cli import main
from ranker.comparison import Comparison, compare
from ranker.config import Benchmark
from ranker.errors import UsageError
from ranker.uncertainty import holm

TABLE = "team,keyword,words\nÜber,0.9,0.5\nB,0.7,0.6\nC,0.7,0.6\nD,0.2,\n"
TWO = (
    "name: two\ntitle: Two\ndescription: x\nranking_only: true\ntracks:\n  A:\n    title: T\n    tasks:\n"
    "      - {name: keyword, title: K, domain: speech}\n      - {name: words, title: W, domain: speech}\n"
)


def compared(place: Place, bench: Benchmark, *ids: str) -> Comparison:
    names = {each: f"team {place}" for place, each in enumerate(ids)}
    return compare(place.session, place.home, bench, "A", submissions=names)


def test_difference_is_first_minus_second_and_far_ones_are_distinct(place: Place) -> None:
    """Track score and every task, with the sign that the words say; what differs by one item is within chance."""
    bench = benchmark()
    under = condition(bench)
    better, worse = place.submit("better"), place.submit("worse")
    place.evaluate(better, under, {"keyword": 55, "pitch": 21})
    place.evaluate(worse, under, {"keyword": 10, "pitch": 20})
    (pair,) = compared(place, bench, better, worse).pairs
    assert (pair.first, pair.second, pair.ahead) == ("team 0", "team 1", 1.0)
    assert pair.p == pair.p_holm < 1e-6
    assert [each.task for each in pair.differences] == [None, "keyword", "pitch"]
    whole, keyword, pitch = pair.differences
    assert keyword.difference == pytest.approx(45 / 60)
    assert whole.difference == pytest.approx((45 / 60 + 1 / 40) / 2)
    assert (whole.distinct, keyword.distinct, pitch.distinct) == (True, True, False)
    assert all(
        each.interval and each.interval.low <= each.difference <= each.interval.high for each in (whole, keyword)
    )


def test_three_are_compared_pair_by_pair_as_the_board_has_them(place: Place) -> None:
    """Every pair once, Holm over these three; turning two round turns signs and P(ahead); the board's pairs agree."""
    bench = benchmark()
    under = condition(bench)
    counts = ({"keyword": 40, "pitch": 25}, {"keyword": 36, "pitch": 22}, {"keyword": 28, "pitch": 20})
    ids = [place.submit(name) for name in ("one", "two", "three")]
    for each, right in zip(ids, counts, strict=True):
        place.evaluate(each, under, right)
    found = compared(place, bench, *ids).pairs
    assert [(each.first, each.second) for each in found] == [
        ("team 0", "team 1"), ("team 0", "team 2"), ("team 1", "team 2"),
    ]  # fmt: skip
    assert [each.p_holm for each in found] == holm([each.p for each in found])
    assert sum(each.p_holm for each in found) > sum(each.p for each in found)
    (back,) = compared(place, bench, ids[1], ids[0]).pairs
    for there, here in zip(found[0].differences, back.differences, strict=True):
        assert there.difference == -here.difference
        assert there.interval is not None
        assert here.interval is not None
        assert there.interval.low == pytest.approx(-here.interval.high)
    assert 0.5 < found[0].ahead <= 1 - back.ahead
    on_board = place.board(bench).pairs
    assert on_board is not None
    for place_of, (i, k) in enumerate([(0, 0), (0, 1), (1, 0)]):
        whole = found[place_of].differences[0].interval
        assert whole is not None
        assert on_board.ahead[i][k] == pytest.approx(found[place_of].ahead, abs=5.1e-4)
        assert on_board.p[i][k] == pytest.approx(found[place_of].p, rel=1e-2)
        assert (on_board.low[i][k], on_board.high[i][k]) == pytest.approx((whole.low, whole.high), abs=1e-5)


def test_what_was_not_evaluated_is_not_compared(place: Place) -> None:
    """A submission without scores on this board is named, with what to do; so are too few and too many."""
    bench = benchmark()
    done, missing = place.submit("done"), place.submit("missing")
    place.evaluate(done, condition(bench), {"keyword": 40, "pitch": 5})
    with pytest.raises(UsageError, match=f"submission {missing} was not evaluated on keyword, pitch"):
        compared(place, bench, done, missing)
    with pytest.raises(UsageError, match="two to 4 are compared at a time, found 1"):
        compared(place, bench, done)
    with pytest.raises(UsageError, match="two to 4 are compared at a time, found 5"):
        compared(place, bench, done, missing, "a", "b", "c")


@pytest.mark.parametrize(
    ("asked", "words"),
    [(["Über", "Ü"], "'Ü' names no teams of track A's table; it has Über, B, C, D"),
     (["B", "b"], "'B' is named twice"), (["B", "D"], "D has no score of words in the table")],
)  # fmt: skip
def test_teams_of_a_table_are_compared_over_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str], words: str
) -> None:
    """Differences without intervals, since a task's score is all there is; named as over tasks; mistakes are told."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "two.yaml").write_text(TWO, encoding="utf-8")
    (tmp_path / "table.csv").write_text(TABLE, encoding="utf-8")

    def typed(*arguments: str) -> int | str | None:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), *arguments, "--benchmark", "two"])
        return left.value.code

    assert not typed("import-scores", str(tmp_path / "table.csv"))
    capsys.readouterr()
    assert not typed("compare", "über", "B", "C", "--json")
    found = json.loads(capsys.readouterr().out)["A"]
    assert found["resampling"] == "tasks"
    first, _, ties = found["pairs"]
    assert (first["first"], first["second"]) == ("Über", "B")
    assert first["differences"][1] == {
        "task": "keyword", "first": 0.9, "second": 0.7, "difference": pytest.approx(0.2), "interval": None,
        "distinct": None,
    }  # fmt: skip
    assert first["differences"][0]["interval"]["low"] == pytest.approx(-0.1)
    assert first["ahead"] == pytest.approx(0.75, abs=0.04), "two tasks of two: only both times `words` turns it round"
    assert first["p"] == pytest.approx(2 * stats.norm.sf(0.05 / (0.15 / 2**0.5)), rel=0.1)
    assert (ties["ahead"], ties["p"], ties["differences"][0]["difference"]) == (0.0, 1.0, 0.0)
    assert typed("compare", *asked) == UsageError.exit_code
    assert words in capsys.readouterr().err
