"""The method page: its worked example computed again from what it shows, and what it says of a board."""

from __future__ import annotations

import html
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from boards import HOSTILE, SMALL_REASONS, column, small_board, submission

from ranker import scoring
from ranker.board import Board, Cell, IntervalBasis, Origin, Row
from ranker.config import RankedTrack
from ranker.site import render
from ranker.site.method_view import method_view, worked_example
from ranker.site.submission_view import standings
from ranker.types import Group, Resampling

WEIGHTS = {"public": 0.7, "hidden": 0.3}
BOUNDS = {"one": (0.0, 1.0, 3.0), "two": (-0.5, 1.0, 1.0), "three": (2.0, 0.25, 0.3), "four": (0.0, 100.0, 7.0)}


def of_groups(**changes: Any) -> Board:
    """Three teams on four tasks of odd bounds and weights in two groups, ranked by `ranker.scoring`."""
    columns = tuple(
        column(name, worst=worst, best=best, weight=weight, units=80, unit="clip",
               group=Group.HIDDEN if name in {"three", "four"} else Group.PUBLIC)
        for name, (worst, best, weight) in BOUNDS.items()
    )  # fmt: skip
    raw = pd.DataFrame(
        {
            "one": [0.912345678, 0.5, 0.3],
            "two": [-0.1, 0.7, 0.2],
            "three": [0.61, 1.9, 1.0],
            "four": [71.5, 55.25, 3.0],
        },
        index=["a1", "b2", "c3"],
    )
    track = RankedTrack.model_validate(
        {
            "title": "T",
            "group_weights": WEIGHTS,
            "tasks": [
                {
                    "name": c.name,
                    "title": c.title,
                    "worst": c.worst,
                    "best": c.best,
                    "weight": c.weight,
                    "group": c.group,
                }
                for c in columns
            ],
        }
    )
    table, normalized = scoring.rank(raw, track), scoring.normalize(raw, track)
    model = small_board()
    rows = tuple(
        Row(
            rank=int(entry["rank"]),
            team=f"team {key}",
            submission_id=str(key),
            score=float(entry["score"]),
            interval=None,
            groups={name: float(entry[name]) for name in WEIGHTS},
            cells={
                name: Cell(raw=float(raw.loc[key, name]), normalized=float(normalized.loc[key, name]), interval=None)
                for name in BOUNDS
            },
            missing=(),
        )
        for key, entry in table.iterrows()
    )
    fields = {"columns": columns, "rows": rows, "group_weights": WEIGHTS, "pairs": None, "alternatives": ()}
    return replace(model, **(fields | changes))


def page(board: Board, folder: Path) -> str:
    return (render([board], [], folder / "site").parent / "method.html").read_text(encoding="utf-8")


def words(source: str) -> str:
    """The page's text, without its elements."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).replace("\N{MINUS SIGN}", "-").split())


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(of_groups(), tmp_path_factory.mktemp("grouped"))


def steps(source: str) -> list[list[float]]:
    """The worked example's figures, a list per task: raw, worst, best, normalised, weight, product."""
    found = re.findall(r'<tr class="step">.*?</tr>', source)
    cells = [re.findall(r'<td class="n">(.*?)</td>', row) for row in found]
    return [[float(cell.replace("\N{MINUS SIGN}", "-")) for cell in row] for row in cells]


def test_the_worked_example_can_be_computed_from_what_the_page_shows(grouped: str) -> None:
    """Each step follows from the figures before it, the last one is the leader's score, to the digit shown."""
    rows = steps(grouped)
    assert len(rows) == len(BOUNDS)
    for raw, worst, best, normalized, weight, product in rows:
        assert normalized == pytest.approx((raw - worst) / (best - worst), abs=1e-6)
        assert product == pytest.approx(weight * normalized, abs=1e-5)
    means = [
        math.fsum(row[4] * row[3] for row in part) / math.fsum(row[4] for row in part) for part in (rows[:2], rows[2:])
    ]
    score = 0.7 * means[0] + 0.3 * means[1]
    leader = of_groups().rows[0]
    shown = re.search(r'<span class="exact">(.*?)</span>.*?<b class="shown">(.*?)</b>', grouped)
    assert shown is not None
    assert leader.score == pytest.approx(score, abs=1e-6)
    assert [float(shown[1]), float(shown[2])] == pytest.approx([score, leader.score], abs=5e-4)
    assert shown[1] == f"{leader.score:.6f}"
    assert shown[2] == f"{leader.score:.3f}"
    for mean, said in zip(means, re.findall(r"= <b>(.*?)</b>", grouped), strict=True):
        assert float(said) == pytest.approx(mean, abs=1e-6)
    assert "the board says" not in grouped


def test_a_score_that_the_raw_scores_do_not_give_is_told() -> None:
    """A page that recomputes a score must not pass over that it came out otherwise."""
    board = of_groups()
    first = replace(board.rows[0], score=0.5)
    example = worked_example(replace(board, rows=(first, *board.rows[1:])), 3)
    assert example is not None
    assert (example.agrees, example.official) == (False, "0.500")
    assert example.shown == f"{board.rows[0].score:.3f}"


def test_shares_of_the_score_add_up_and_are_derivatives(grouped: str) -> None:
    """A task's share is its weight within its group times the group's: 3/4 of 0.7 for the first."""
    shares = [float(each) for each in re.findall(r">([\d.]+)%</td>", grouped)][: len(BOUNDS)]
    assert shares == pytest.approx([52.5, 17.5, 100 * 0.3 * 0.3 / 7.3, 100 * 0.3 * 7 / 7.3], abs=0.006)


def test_percentiles_are_those_of_the_units(grouped: str) -> None:
    """80 clips: Student's t for 79 degrees of freedom is 1.990, and the percentile 2.26%, not 2.5%."""
    row = re.search(r"80 . clip</td><td class=\"n\">([\d.]+)</td><td class=\"n\">([\d.]+)%", grouped)
    assert row is not None
    assert (row[1], row[2]) == ("1.990", "2.26")


def test_what_differs_from_the_challenge_and_how_to_compute_it_again(grouped: str) -> None:
    """The reasons, the condition's digest and commands with it: from the board, none written into the template."""
    board = of_groups()
    said = words(grouped)
    assert all(reason in said for reason in SMALL_REASONS)
    assert board.condition is not None
    assert f"ranker rank --benchmark mini --track A --condition {board.condition.digest[:12]} --sensitivity" in said
    assert "weighs 0.7" in said
    assert "weighs 0.3" in said


def test_an_imported_table_is_told_as_one(tmp_path: Path) -> None:
    """Where tasks were drawn and nothing was trained here, no sentence speaks of test items, conditions or recipes."""
    origin = Origin(digest="ab" * 32, source="the committee", imported_at=datetime(2026, 3, 1, tzinfo=UTC))
    basis = IntervalBasis(resampling=Resampling.TASKS, given="given each task's score")
    columns = tuple(replace(each, metric="", units=None, unit=None) for each in of_groups().columns)
    board = of_groups(
        condition=None, seed=None, origin=origin, intervals=basis, columns=columns, demonstration=(), group_weights=None
    )
    said = words(page(board, tmp_path))
    assert "which tasks there are" in said
    assert "the committee" in said
    for word in (
        "A test set stands for",
        "The recipe of the training",
        "The organizers, from their home",
        "--condition",
    ):
        assert word not in said


def test_names_are_text_and_nothing_has_a_style_of_its_own(tmp_path: Path) -> None:
    """Hostile names and every kind of section: no element of a name's, no style attribute, every id once."""
    board = small_board()
    index = render([board], [submission(board.rows[0], board)], tmp_path / "site")
    source = (index.parent / "method.html").read_text(encoding="utf-8")
    assert html.escape(HOSTILE[0], quote=False)[:40] in source.replace("&#34;", '"')
    assert "<img" not in source
    assert " style=" not in source
    ids = re.findall(r' id="([^"]+)"', source)
    assert len(ids) == len(set(ids)) > 12
    links = set(re.findall(r'href="#([^"]+)"', source)) - {"main"}
    assert {link for link in links if not re.search(r"-\d+$", link)} <= set(ids)


def test_a_board_without_ranks_has_no_example() -> None:
    """Before the first complete submission there is nothing to compute, and no error either."""
    board = of_groups(rows=())
    (track,) = method_view([standings(board)], []).tracks
    assert (track.example, track.leader, track.forest, track.tiers) == (None, None, None, ())
