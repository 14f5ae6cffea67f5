"""data.json and the CSV files: all that the HTML shows, for programs. Pure: they return text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from ranker.board import Board
from ranker.site.charts import thinned
from ranker.site.pages import SubmissionPage
from ranker.site.views import public_samples

FORMAT = 1
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def to_json(boards: Sequence[Board], pages: Sequence[SubmissionPage]) -> str:
    """`{"format", "boards": [Board.to_json()], "submissions": [...]}`; what is not a finite number becomes null."""
    value = {
        "format": FORMAT,
        "boards": [board.to_json() for board in boards],
        "submissions": [_submission(page, boards) for page in pages],
    }
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def to_csv(boards: Sequence[Board]) -> str:
    """Every score of every board, one per line."""
    head = [
        "track", "rank", "team", "submission", "track_score", "task", "group", "metric", "score", "score_low", "score_high",
        "normalized", "worst", "best", "weight", "items", "blind",
    ]  # fmt: skip
    lines: list[list[object]] = []
    for board in boards:
        for row in board.rows:
            for task in board.columns:
                if task.name not in row.cells:
                    continue
                cell = row.cells[task.name]
                low, high = (cell.interval.low, cell.interval.high) if cell.interval else (None, None)
                lines.append(
                    [board.track, row.rank, row.team, row.submission_id, row.score, task.name, task.group.value, task.metric]
                    + [cell.raw, low, high, cell.normalized, task.worst, task.best, task.weight, task.items, task.blind]
                )
    return _csv(head, lines)


def track_csv(board: Board) -> str:
    """One board as its table stands: one line per submission, one column per task."""
    groups = list(dict.fromkeys(column.group for column in board.columns))
    shown = groups if len(groups) > 1 else []
    names = [column.name for column in board.columns]
    head = ["rank", "team", "submission", "score", "score_low", "score_high", *shown, *names, "missing"]
    lines: list[list[object]] = []
    for row in board.rows:
        low, high = (row.interval.low, row.interval.high) if row.interval else (None, None)
        cells = [row.cells[name].raw if name in row.cells else None for name in names]
        means = [row.groups[group] for group in shown]
        lines.append([row.rank, row.team, row.submission_id, row.score, low, high, *means, *cells, " ".join(row.missing)])
    return _csv(head, lines)


def _csv(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_inert(value) for value in line] for line in lines)
    return file.getvalue()


def _inert(value: object) -> object:
    """A spreadsheet runs a text that begins like a formula; an apostrophe makes it text. data.json has it unchanged."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _submission(page: SubmissionPage, boards: Sequence[Board]) -> dict[str, Any]:
    samples = public_samples(page, boards)
    return {
        "id": page.id,
        "team": page.team,
        "digest": page.digest,
        "received_at": page.received_at.isoformat(),
        "state": page.state.value,
        "reasons": list(page.reasons),
        "encoder": page.encoder,
        "runs": [
            {
                "track": run.track,
                "manifest": run.manifest,
                "curve": thinned(run.curve),
                "samples": {
                    task: [
                        {"item": s.item, "reference": s.reference, "candidate": s.candidate, "score": s.score} for s in items
                    ]
                    for task, items in samples[run.track].items()
                },
            }
            for run in page.runs
        ],
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
