"""data.json, which holds all that the HTML shows, and each track's table as CSV. Pure: they return text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ranker.board import Board
from ranker.calibration import Calibration
from ranker.site.charts import thinned
from ranker.site.pages import SubmissionPage
from ranker.site.submission_view import public_runs
from ranker.site.tidy import inert

FORMAT = 2
"""Counted up when a field changes its meaning or goes; docs/data.md describes each."""


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


def track_csv(board: Board) -> str:
    """One board as its table stands (`Board.to_frame`): one line per submission, one column per task."""
    frame = board.to_frame()
    frame["team"] = frame["team"].map(inert)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _submission(page: SubmissionPage, boards: Sequence[Board]) -> dict[str, Any]:
    return {
        "id": page.id,
        "team": page.team,
        "digest": page.digest,
        "received_at": None if page.received_at is None else page.received_at.isoformat(),
        "state": page.state.value,
        "reasons": list(page.reasons),
        "standing": page.standing,
        "encoder": page.encoder,
        "runs": [
            {
                "track": run.track,
                "part": run.part,
                "manifest": run.manifest,
                "curve": thinned(run.curve),
                "gradient_norms": thinned(run.gradient_norms),
                "samples": {
                    task: [
                        {
                            "item": s.item,
                            "reference": s.reference,
                            "candidate": s.candidate,
                            "score": s.score,
                            "pick": s.pick,
                        }
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
