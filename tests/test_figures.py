"""The charts: what is drawn where, in the page's colours alone, and nothing of a stranger's name but its text."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from boards import HOSTILE, official_board, small_board

from ranker.board import Board, RankInterval
from ranker.site import figures
from ranker.site.figures import BoardFigures
from ranker.site.svg import Frame, Ink, background
from ranker.types import Choice
from ranker.uncertainty import Agreement, Alternative

CSS = (Path(__file__).parent.parent / "leaderboard" / "static" / "figures.css").read_text(encoding="utf-8")
LOSS = [(step, 5 * math.exp(-step / 80) + 0.6 + 0.1 * math.sin(step)) for step in range(1, 301)]
MOST_BYTES = 30_000


def sure(board: Board) -> Board:
    """The board with rank intervals, two other choices and an agreement; in the second choice all ranks turn round."""
    ranks = [row.rank for row in board.rows if row.rank]
    alternatives = tuple(
        Alternative(choice=choice, task=None, ranks=tuple(own), changed=0, tau=None)
        for choice, own in ((Choice.FLAT_MEAN, ranks), (Choice.MEAN_RANK, ranks[::-1]))
    )
    rows = tuple(
        replace(row, rank_interval=RankInterval(best=max(1, row.rank - 1), worst=row.rank + 1)) if row.rank else row
        for row in board.rows
    )
    agreement = Agreement(first="public", second="hidden", tau=0.5, low=0.1, high=0.7, teams=len(ranks))
    return replace(board, rows=rows, alternatives=alternatives, agreement=agreement)


def all_of(board: Board, name: str = "t") -> dict[str, str]:
    """Every chart that there is, of one board and its second row."""
    made = BoardFigures(board, name=name)
    row = board.rows[1]
    found = {
        "scores": made.scores(row),
        "ranks": made.ranks(row),
        "forest": made.forest(),
        "agreement": made.agreement(),
        "loss": figures.loss(LOSS, name=f"{name}-loss"),
        "gradient": figures.gradient_norm(LOSS, clip=1.0, name=f"{name}-gradient"),
        "durations": figures.durations([("encode", 4.0), ("train", 400.2)], name=f"{name}-durations"),
    }
    assert all(found.values())
    return {key: svg or "" for key, svg in found.items()}


@pytest.fixture(scope="module")
def drawings() -> dict[str, str]:
    return all_of(sure(small_board()))


def test_the_same_values_give_the_same_bytes(drawings: dict[str, str]) -> None:
    """A page that is made twice is the same page: no time, no random id."""
    assert all_of(sure(small_board())) == drawings


def test_nothing_but_what_the_policy_allows_and_the_style_sheet_knows(drawings: dict[str, str]) -> None:
    """No style attribute, no colour of its own, every class known to figures.css, and ids that differ on one page."""
    ids: list[str] = []
    for svg in drawings.values():
        root = ET.fromstring(svg)
        for element in root.iter():
            assert "style" not in element.attrib
            assert {element.get("fill", "none"), element.get("stroke", "none")} == {"none"}
            for name in (element.get("class") or "figure").split():
                assert f".{name} " in CSS
            ids += [element.attrib["id"]] if "id" in element.attrib else []
            assert element.get("href", "#")[1:] in {"", *(each.get("id") for each in root.iter())}
        assert root.get("role") == "img"
        assert "#" not in re.sub(r'href="#[^"]*"', "", svg)
    assert len(ids) == len(set(ids)) == 2 * len(drawings)


def test_charts_of_a_large_field_stay_small() -> None:
    """23 teams on 21 tasks, and 200 teams: each chart below 30 KB, or pages of hundreds of teams grow heavy."""
    official = sure(official_board())
    many = replace(
        official,
        rows=tuple(
            replace(official.rows[n % 23], rank=n + 1, submission_id=f"{n:012x}", rank_interval=None)
            for n in range(200)
        ),
    )
    sizes = []
    for board in (official, sure(many)):
        made = BoardFigures(board, name="t")
        sizes += [len(made.scores(board.rows[1]) or ""), len(made.forest() or ""), len(made.ranks(board.rows[1]) or "")]
    assert min(sizes) > 1_000
    assert max(sizes) < MOST_BYTES


def test_a_score_stands_where_its_value_lies() -> None:
    """Worst at the axis' start, best at its end, and the other way round where lower is better."""
    board = small_board()
    columns = [replace(board.columns[0], worst=2.0, best=0.0, blind=None), *board.columns[1:3]]
    raws = (0.5, 0.0, 1.0)
    cells = {c.name: replace(board.rows[0].cells[c.name], raw=raw) for c, raw in zip(columns, raws, strict=True)}
    row = replace(board.rows[0], cells=cells)
    svg = BoardFigures(replace(board, columns=tuple(columns), rows=(row,)), name="t").scores(row)
    root = ET.fromstring(svg or "")
    labels = {text.text: float(text.attrib["x"]) for text in root.iter("text")}
    places = [float(dot.attrib["cx"]) for dot in root.iter("circle")]
    start, end = labels["worst"], labels["best"]
    assert places == pytest.approx([start + 0.75 * (end - start), start, end], abs=0.2)


def test_names_of_any_kind_are_text() -> None:
    """Markup, mathematics, right-to-left marks and scripts that the drawing's font lacks come out as they went in."""
    board = sure(small_board())
    names = (*HOSTILE, "$\\frac{", "\u5317\u4eac \u0639\u0631\u0628\u064a \U0001f600")
    rows = tuple(replace(row, team=name) for row, name in zip(board.rows, names, strict=False))
    root = ET.fromstring(BoardFigures(replace(board, rows=rows), name="t").forest() or "")
    shown = {text.text for text in root.iter("text")}
    assert {figures.shortened(name) for name in names} - shown == set()
    assert {each.tag for each in root.iter()} <= {"svg", "title", "desc", "path", "text", "g", "circle"}


def test_ranks_under_other_choices_are_counted(drawings: dict[str, str]) -> None:
    """The second of seven has its own rank in one of two choices and that of the sixth in the other."""
    description = ET.fromstring(drawings["ranks"]).findtext("desc")
    assert description == "Rank 2; under 2 other choices it has rank 2 in 1, rank 6 in 1"


def test_curves_without_two_finite_points_are_not_drawn() -> None:
    """A run that broke at its first step, or gave nothing but NaN, has no chart instead of a broken one."""
    assert figures.loss([(1, 2.0)], name="t") is None
    assert figures.loss([(1, math.nan), (2, math.inf), (3, 1.0)], name="t") is None
    assert figures.gradient_norm([(1, 0.0), (2, 0.0)], clip=1.0, name="t") is None
    assert figures.loss([(5, 1.0), (5, 1.0)], name="t") is None
    assert figures.loss([(1, 2.0), (2, 2.0)], name="t") is not None
    assert figures.durations([], name="t") is None


def test_a_colour_that_the_page_does_not_know_is_refused() -> None:
    """A chart drawn in its own colours would be black on black in the dark."""
    with pytest.raises(ValueError, match="colours of Ink, and this has fill #ff0000"):
        background(Frame(width=100, height=50, left=9), lambda axes: axes.text(0, 0, "red", color="#ff0000") and None)
    assert len({ink.colour for ink in Ink}) == len(Ink)
