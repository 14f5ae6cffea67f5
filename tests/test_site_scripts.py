"""The scripts' pure functions, in a real Chromium: rankings as Python computes them, addresses that are read back."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from boards import official_board, small_board
from selenium.webdriver import Chrome

from ranker.board import Board
from ranker.config import RankedTask, RankedTrack
from ranker.reweighing import Weights
from ranker.scoring import rank
from ranker.site import render, scores
from ranker.types import Group

pytest_plugins = ["browser"]

SHARES = {"public": 0.5, "hidden": 0.5}


@pytest.fixture(scope="module")
def scripts(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser that has the scripts of both pages loaded."""
    folder = render([small_board()], [], tmp_path_factory.mktemp("scripts") / "site").parent
    browser.get((folder / "compare.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []


def script_board(board: Board) -> dict[str, Any]:
    """A board as scores.js hands it to the scripts."""
    (value,) = json.loads(scores.to_script([board], {}).partition("const SCORES = ")[2].removesuffix(";\n"))
    return dict(value)


def python_ranking(board: Board, tasks: dict[str, float], groups: dict[str, float]) -> pd.DataFrame:
    """The ranking that `ranker rank --weight` computes; baselines aside."""
    shares = board.group_weights and {Group(name): share for name, share in board.group_weights.items()}
    columns = [
        RankedTask(name=each.name, title=each.title, worst=each.worst, best=each.best, weight=each.weight or 1.0,
                   group=each.group)
        for each in board.columns
    ]  # fmt: skip
    track = RankedTrack(title=board.track_title, group_weights=shares or None, tasks=tuple(columns))
    raw = {
        row.submission_id: [row.cells[each.name].raw if each.name in row.cells else math.nan for each in board.columns]
        for row in board.rows
        if not row.is_baseline
    }
    frame = pd.DataFrame.from_dict(raw, orient="index", columns=[each.name for each in columns])
    weights = Weights(tasks=tasks, groups={Group(name): share for name, share in groups.items()})
    return rank(frame, weights.applied(track))


def lowered(board: Board) -> Board:
    """Task names as a benchmark may write them."""
    rows = tuple(replace(row, cells={name.lower(): cell for name, cell in row.cells.items()}) for row in board.rows)
    return replace(board, columns=tuple(replace(each, name=each.name.lower()) for each in board.columns), rows=rows)


def cases() -> list[tuple[Board, dict[str, float], dict[str, float]]]:
    """Boards with and without groups' shares, a baseline, gaps, ties and metrics where less is better; any weights."""
    rng = random.Random(20261120)
    official = lowered(official_board())
    small = small_board()
    small = replace(small, columns=tuple(replace(each, worst=2.0, best=0.0) if each.name == "effects" else each
                                         for each in small.columns))  # fmt: skip
    beside = replace(small, rows=(replace(small.rows[0], is_baseline=True, rank=None), *small.rows[1:]))
    found = []
    for board in (official, replace(official, group_weights=SHARES), small, replace(beside, group_weights=SHARES)):
        names = [each.name for each in board.columns]
        for _ in range(12):
            chosen = rng.sample(names, rng.randrange(len(names)))
            tasks = {name: rng.choice([0.0, 0.1, 2 / 3, 1.0, 3.0, rng.random() * 4]) for name in chosen}
            groups = {"hidden": rng.choice([0.0, 0.3, 1.0])} if board.group_weights and rng.random() < 0.7 else {}
            found.append((board, tasks, groups))
        found.append((board, {name: 0.0 for name in names if name not in {"effects", "gtzan"}}, {}))
    return found


def test_ranks_and_scores_are_those_of_python(scripts: Chrome) -> None:
    """For any weights: the same ranks, ties among them, scores and means within 1e-9, gaps where Python has gaps."""
    looked_at = 0
    for board, tasks, groups in cases():
        expected = python_ranking(board, tasks, groups)
        found = scripts.execute_script(
            "return ranking.rank(arguments[0], arguments[1]).map(e => [e.row.id, e.rank, e.score, e.groups])",
            script_board(board),
            {"tasks": tasks, "groups": groups},
        )
        baselines = {row.submission_id for row in board.rows if row.is_baseline}
        for identity, place, score, means in found:
            if identity in baselines:
                assert place is None
                continue
            row = expected.loc[identity]
            assert place == (None if pd.isna(row["rank"]) else int(row["rank"]))
            assert score == (None if pd.isna(row["score"]) else pytest.approx(row["score"], abs=1e-9, rel=0))
            for group, value in means.items():
                assert value == (None if pd.isna(row[group]) else pytest.approx(row[group], abs=1e-9, rel=0))
            looked_at += 1
    assert looked_at > 600


def test_sums_are_exact(scripts: Chrome) -> None:
    """As math.fsum, bit for bit: also where plain addition loses small numbers, or a tie is to be rounded."""
    rng = random.Random(7)
    lists = [
        [0.1] * 10,
        [1e16, 1.0, 1e-16],
        [1e100, 1.0, -1e100],
        [],
        [2.0**53, 1.0, 2.0**-30],
        [2.0**53, -1.0, -(2.0**-60)],
    ]
    lists += [
        [rng.uniform(-1, 1) * 10.0 ** rng.randint(-12, 12) for _ in range(rng.randrange(1, 40))] for _ in range(60)
    ]
    assert scripts.execute_script("return arguments[0].map(ranking.sum)", lists) == list(map(math.fsum, lists))


def test_shares_of_the_score_add_up(scripts: Chrome) -> None:
    """What each task decides of the score: the change of the mean when the task goes from 0 to 1."""
    board = script_board(replace(lowered(official_board()), group_weights=SHARES))
    weights = {"tasks": {"gtzan": 3, "esc-50": 0}, "groups": {"hidden": 0.25}}
    shares = scripts.execute_script("return ranking.shares(arguments[0], arguments[1])", board, weights)
    tasks = [task["name"] for task in board["tasks"]]
    assert math.fsum(shares) == pytest.approx(1.0, abs=1e-12)
    assert shares[tasks.index("gtzan")] == pytest.approx(3 / 16 * 0.5 / 0.75, abs=1e-12)
    assert shares[tasks.index("esc-50")] == 0
    assert shares[tasks.index("fingersnap")] == pytest.approx(1 / 6 * 0.25 / 0.75, abs=1e-12)


def test_presets_are_what_they_are_called(scripts: Chrome) -> None:
    """All tasks alike is one flat mean also where groups have shares; only one domain counts only its tasks."""
    board = replace(lowered(official_board()), group_weights=SHARES)
    first = board.rows[0]
    flat, speech = scripts.execute_script(
        """const b = arguments[0]; return [ranking.flat(b), ranking.only(b, t => t.domain === "speech")]
             .map(w => ranking.means(b, b.rows[0], w).score)""",
        script_board(board),
    )
    raw = {each.name: first.cells[each.name].raw for each in board.columns}
    assert flat == pytest.approx(math.fsum(raw.values()) / 21, abs=1e-12)
    groups = [
        [raw[each.name] for each in board.columns if each.domain == "speech" and each.group == group]
        for group in ("public", "hidden")
    ]
    assert speech == pytest.approx(sum(sum(own) / len(own) for own in groups) / 2, abs=1e-12)


def test_the_command_gives_what_was_chosen(scripts: Chrome) -> None:
    """Only what differs from the official weights is said, with every digit."""
    board = script_board(replace(lowered(official_board()), group_weights=SHARES))
    weights = {"tasks": {"gtzan": 1, "esc-50": 0.1 + 0.2}, "groups": {"public": 0.5, "hidden": 0.3}}
    script = "return ranking.command(arguments[0], ranking.differing(arguments[0], arguments[1]))"
    assert scripts.execute_script(script, board, weights) == (
        "ranker rank --benchmark challenge --track A --weight esc-50=0.30000000000000004 --group-weight hidden=0.3"
    )


STATE = {
    "track": "track-a",
    "sort": {"key": "gtzan", "descending": True},
    "query": "lab & söhne, #1: 100% ?=,",
    "hidden": [".tier", "esc-50"],
    "picked": ["000000000001", "000000000002"],
    "weights": {"tasks": {"fsd50k": 0, "gtzan": 0.1}, "groups": {"hidden": 0.25}},
}


def test_an_address_says_a_state_and_back(scripts: Chrome) -> None:
    """Whatever a reader chose is read back from its address, any text among it; what is as usual is not said."""
    boards = [script_board(replace(lowered(official_board()), group_weights=SHARES))]
    script = "return address.parse(address.format(arguments[1]), arguments[0], table.columns)"
    assert scripts.execute_script(script, boards, STATE) == STATE
    plain = "return address.format(address.parse('', arguments[0], table.columns))"
    assert scripts.execute_script(plain, boards) == "#track-a"


@pytest.mark.parametrize(
    "said",
    [
        "#nowhere", "#track-a?sort=nothing", "#track-a?w=gtzan:-1,esc-50:,fsd50k:x,nix:2,cremad:Infinity&g=hidden:NaN",
        "#track-a?pick=deadbeef&hide=nix", "#track-a?sort&q&w&=&%", "#track-a?w=constructor:1&g=__proto__:2",
    ],
)  # fmt: skip
def test_an_address_that_makes_no_sense_is_no_error(scripts: Chrome, said: str) -> None:
    """What is not understood is as if it were not there."""
    boards = [script_board(replace(lowered(official_board()), group_weights=SHARES))]
    state = scripts.execute_script("return address.parse(arguments[1], arguments[0], table.columns)", boards, said)
    assert state == {
        "track": "track-a", "sort": None, "query": "", "hidden": [], "picked": [],
        "weights": {"tasks": {}, "groups": {}},
    }  # fmt: skip


def test_what_is_known_of_two(scripts: Chrome) -> None:
    """Pairs among the best have interval and p, whichever way they are named; others and the unranked have none."""
    board = small_board()
    assert board.pairs is not None
    value = script_board(board)
    script = """const b = arguments[0], c = pairs.certainty(b, b.rows[arguments[1]], b.rows[arguments[2]]);
                return [c.kind, c.first.id, c.by, c.low ?? null, c.p ?? null, c.next, c.sameTier]"""
    low, p = board.pairs.low[1][0], board.pairs.p[1][0]
    by = pytest.approx(0.006, abs=1e-12)
    for one, other in ((1, 2), (2, 1)):
        found = scripts.execute_script(script, value, one, other)
        assert found == ["paired", "000000000002", by, low, p, 0.41, True]
    assert scripts.execute_script(script, value, 6, 0)[:2] == ["unknown", "000000000001"]
    assert scripts.execute_script(script, value, 7, 0)[:3] == ["unranked", "000000000008", None]


def test_who_is_ahead_on_how_many_tasks(scripts: Chrome) -> None:
    """Counted over the tasks that all have, and shared leads are nobody's alone."""
    board = small_board()
    tied = replace(board.rows[1], cells=board.rows[1].cells | {"keyword": board.rows[0].cells["keyword"]})
    value = script_board(replace(board, rows=(board.rows[0], tied, *board.rows[2:])))
    script = "const b = arguments[0]; return pairs.leads(b, arguments[1].map(i => b.rows[i]))"
    names = [each.name for each in board.columns]
    first, second = board.rows[0].cells, tied.cells
    alone = [sum(first[n].raw > second[n].raw for n in names), sum(first[n].raw < second[n].raw for n in names)]
    assert scripts.execute_script(script, value, [0, 1]) == {"alone": alone, "shared": 1, "tasks": 6}
    assert scripts.execute_script(script, value, [0, 8])["tasks"] == 5


def test_nobody_is_asked_where_nothing_is(browser: Chrome, tmp_path: Path) -> None:
    """Both pages without a board, or with an empty one, say so and log no error."""
    for name, boards in (("none", []), ("empty", [replace(small_board(), rows=(), pairs=None)])):
        folder = render(boards, [], tmp_path / name).parent
        for page in ("index.html", "compare.html"):
            browser.get((folder / page).as_uri())
            assert browser.get_log("browser") == []
        assert "no two submissions" in browser.find_element("css selector", ".hint").text
