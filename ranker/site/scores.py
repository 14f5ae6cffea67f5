"""scores.js: the boards as the pages' scripts read them. A page opened as a file may load a script, but no JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ranker.board import Board, Interval, Row, TaskColumn
from ranker.site.pages import SubmissionPage, page_path
from ranker.site.text import team_name
from ranker.site.track_view import score_digits, slug
from ranker.types import Resampling

_SHOWN_DIGITS = 5


def to_script(boards: Sequence[Board], pages: Mapping[str, SubmissionPage]) -> str:
    """`const SCORES = [...]`, one entry per board; `pages` are the submissions that have a page, by id.

    Raw scores, weights and bounds are whole, since rankings are computed from them; what is only shown is rounded to
    five decimals. All of it stands in data.json too.
    """
    value = [_board(board, pages) for board in boards]
    said = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'"use strict";\nconst SCORES = {said};\n'


def _board(board: Board, pages: Mapping[str, SubmissionPage]) -> dict[str, Any]:
    return {
        "slug": slug(board.track),
        "benchmark": board.benchmark,
        "track": board.track,
        "title": board.track_title,
        "digits": score_digits([row for row in board.rows if row.score is not None]),
        "overTasks": board.intervals.resampling is Resampling.TASKS,
        "pairs": None if board.pairs is None else asdict(board.pairs),
        "imported": board.origin is not None,
        "groupWeights": board.group_weights,
        "tasks": [_task(column) for column in board.columns],
        "rows": [_row(board, row, pages) for row in board.rows],
    }


def _task(column: TaskColumn) -> dict[str, Any]:
    return {
        "name": column.name,
        "title": column.title,
        "domain": column.domain.value,
        "group": column.group.value,
        "metric": column.metric,
        "worst": column.worst,
        "best": column.best,
        "weight": column.weight,
        "signal": column.signal,
    }


def _row(board: Board, row: Row, pages: Mapping[str, SubmissionPage]) -> dict[str, Any]:
    cells = [row.cells.get(column.name) for column in board.columns]
    ranks = row.rank_interval
    return {
        "id": row.submission_id,
        "team": team_name(row.team, row.submission_id),
        "href": page_path(row.submission_id) if row.submission_id in pages else None,
        "baseline": row.is_baseline,
        "pending": bool(row.pending),
        "rank": row.rank,
        "score": row.score,
        "interval": _interval(row.interval),
        "ranks": None if ranks is None else [ranks.best, ranks.worst],
        "first": row.p_first,
        "next": row.p_next,
        "distinct": row.distinct_from_next,
        "tier": row.tier,
        "groups": row.groups,
        "raw": [None if cell is None else cell.raw for cell in cells],
        "intervals": [None if cell is None else _interval(cell.interval) for cell in cells],
    }


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(interval.low, _SHOWN_DIGITS), round(interval.high, _SHOWN_DIGITS)]
