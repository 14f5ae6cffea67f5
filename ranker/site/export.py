"""data.json and the CSV files: all that the HTML shows, for programs. Pure: they return text."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from ranker.board import Board, Cell, Row, TaskColumn
from ranker.calibration import Calibration
from ranker.site.charts import thinned
from ranker.site.pages import SubmissionPage
from ranker.site.submission_view import public_runs

FORMAT = 1
_COLUMNS = (
    "track", "rank", "team", "submission", "track_score", "task", "group", "metric",
    "score", "score_low", "score_high", "normalized", "worst", "best", "weight", "items", "blind",
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def to_json(boards: Sequence[Board], pages: Sequence[SubmissionPage], calibrations: Sequence[Calibration] = ()) -> str:
    """`{"format", "boards": [Board.to_json()], "calibrations": [Calibration.to_json()], "submissions": [...]}`.

    What is not a finite number becomes null.
    """
    value = {
        "format": FORMAT,
        "boards": [board.to_json() for board in boards],
        "calibrations": [calibration.to_json() for calibration in calibrations],
        "submissions": [_submission(page, boards) for page in pages],
    }
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def to_csv(boards: Sequence[Board]) -> str:
    """Every score of every board, one per line."""
    lines = [
        _line(board, row, task, row.cells[task.name])
        for board in boards
        for row in board.rows
        for task in board.columns
        if task.name in row.cells
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def track_csv(board: Board) -> str:
    """One board as its table stands (`Board.to_frame`): one line per submission, one column per task."""
    frame = board.to_frame()
    frame["team"] = frame["team"].map(_inert)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _line(board: Board, row: Row, task: TaskColumn, cell: Cell) -> dict[str, object]:
    low, high = (cell.interval.low, cell.interval.high) if cell.interval else (None, None)
    return {
        "track": board.track, "rank": row.rank, "team": _inert(row.team), "submission": row.submission_id,
        "track_score": row.score, "task": task.name, "group": task.group.value, "metric": task.metric,
        "score": cell.raw, "score_low": low, "score_high": high, "normalized": cell.normalized,
        "worst": task.worst, "best": task.best, "weight": task.weight, "items": task.items, "blind": task.blind,
    }  # fmt: skip


def _inert(value: str) -> str:
    """A spreadsheet runs a text that begins like a formula; an apostrophe makes it text. data.json has it unchanged."""
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def _submission(page: SubmissionPage, boards: Sequence[Board]) -> dict[str, Any]:
    return {
        "id": page.id,
        "team": page.team,
        "digest": page.digest,
        "received_at": page.received_at.isoformat(),
        "state": page.state.value,
        "reasons": list(page.reasons),
        "standing": page.standing,
        "encoder": page.encoder,
        "runs": [
            {
                "track": run.track,
                "manifest": run.manifest,
                "curve": thinned(run.curve),
                "samples": {
                    task: [
                        {"item": s.item, "reference": s.reference, "candidate": s.candidate, "score": s.score}
                        for s in items
                    ]
                    for task, items in run.samples.items()
                },
            }
            for run in public_runs(page, boards)
        ],
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
