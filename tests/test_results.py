"""The Markdown report: what the figures of boards and manifests become."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from boards import HOSTILE, small_board, submission

from ranker.board import Board
from ranker.results import markdown
from ranker.site import SubmissionPage

MANIFEST: dict[str, Any] = {
    "seconds": {"encode": 41.2, "generate": 38.4, "load": 1.9, "score": 0.42, "train": 222.7},
    "peak_memory_gb": 1.82,
    "hardware": {"cpu": "EPYC 7B13", "cores": 2},
    "threads": 1,
    "sandbox": "bubblewrap",
    "attempt": 2,
}


def pages(board: Board, **changes: object) -> list[SubmissionPage]:
    made = [submission(row, board) for row in board.rows]
    return [replace(page, runs=(replace(page.runs[0], manifest=MANIFEST | changes),)) for page in made]


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table whose head begins with `heading`; no cell may hold an unescaped bar."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table


def test_the_ranking_is_the_boards() -> None:
    """Attacks the first table: places, scores and intervals are the board's, and incomplete rows have dashes."""
    board = small_board()
    head, _, *table = rows(markdown([board], pages(board), None), "rank")
    assert head[:4] == ["rank", "team", "score", "95% interval"]
    assert len(table) == len(board.rows) == 9
    assert table[0] == ["1", "moonshine", "0.742", "0.721 to 0.761", "yes"]
    assert [row[0] for row in table] == ["1", "2", "3", "4", "4", "6", "7", "-", "-"]
    assert [row[2] for row in table][-2:] == ["-", "-"]


def test_tasks_stand_with_what_a_deaf_model_would_get() -> None:
    """Attacks a bare number: each task has its floor, its pairs, whether it carries a signal, and every ranked team."""
    board = small_board()
    head, _, *table = rows(markdown([board], pages(board), None), "task")
    assert head[:5] == ["task", "metric", "pairs", "without listening", "signal"]
    assert len(head) == 5 + 7
    assert [row[0] for row in table] == [column.name for column in board.columns]
    assert table[2][:5] == ["speaker_count", "Accuracy", "160", "0.340", "no"]
    assert "(" in table[0][5]


def test_durations_are_summed_in_the_order_of_the_stages() -> None:
    """Attacks the times: load, encode, train, generate, score, check, then all of them, then memory."""
    board = small_board()
    text = markdown([board], pages(board), None)
    head, _, *table = rows(text, "team")
    assert head == ["team", "load", "encode", "train", "generate", "score", "check", "all", "memory"]
    assert table[0] == ["moonshine", "2", "41", "223", "38", "0", "0", "305", "1.8 GB"]
    assert "EPYC 7B13, 2 cores" in text
    assert "sandbox: bubblewrap; attempts: 2." in text


def test_a_demonstration_is_called_one_before_any_figure() -> None:
    """Attacks a reader in a hurry: the reasons stand above the first table; a whole board has none."""
    board = small_board()
    text = markdown([board, small_board("B")], pages(board), None)
    assert text.index("**A demonstration") < text.index("| rank |")
    assert all(text.count(f"- {reason}") == 1 for reason in board.demonstration)
    assert "demonstration" not in markdown([replace(board, demonstration=())], pages(board), None).lower()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_no_table(name: str) -> None:
    """Attacks Markdown by names with bars and markup: a row keeps its number of cells."""
    board = small_board()
    row = replace(board.rows[0], team=f"a|b {name}")
    table = rows(markdown([replace(board, rows=(row,))], [], None), "rank")
    assert {len(cells) for cells in table} == {5}


def test_remarks_stand_below_and_unchanged() -> None:
    """Attacks the words of people: they come last, as they were written."""
    board = small_board()
    text = markdown([board], [], "\n## What is surprising\n\nNothing | much.\n\n")
    assert text.endswith("\n\n## What is surprising\n\nNothing | much.\n")


def test_confounds_are_named() -> None:
    """Attacks a score that measures something else: what a label goes with is listed."""
    board = small_board()
    confounds = [column.confound for column in board.columns if column.confound]
    assert len(confounds) == 1
    assert f"- language: {confounds[0]}" in markdown([board], [], None)
