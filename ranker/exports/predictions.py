"""The scored pairs behind a board, in one long table."""

from __future__ import annotations

import pandas as pd

from ranker.board import Board, Evidence
from ranker.errors import MissingError
from ranker.home import Home
from ranker.types import Group

_FIRST = ("track", "submission", "team", "task", "clip", "reference", "candidate", "item")


def prediction_frame(board: Board, found: Evidence, home: Home, *, with_hidden: bool) -> pd.DataFrame:
    """One line per scored pair, rows and tasks in the board's order, then by clip and reference.

    `item` is the pair's own part of the metric; what else a metric counts of a pair stands behind. Those of hidden
    tasks only `with_hidden`. Raises MissingError where a file of predictions is gone.
    """
    parts = []
    for row in board.rows:
        for column in board.columns:
            if column.name not in row.cells or (column.group is Group.HIDDEN and not with_hidden):
                continue
            path = home.root / found.scores[row.submission_id][column.name].predictions
            if not path.is_file():
                raise MissingError(f"{path}: these predictions are gone; restore the file from a backup of the home")
            own = pd.read_parquet(path).sort_values(["clip", "reference"], kind="stable")
            who = {"track": board.track, "submission": row.submission_id, "team": row.team, "task": column.name}
            parts.append(own.assign(**who))
    if not parts:
        return pd.DataFrame(columns=list(_FIRST))
    whole = pd.concat(parts, ignore_index=True)
    further = sorted(set(map(str, whole)) - set(_FIRST))
    return whole[[*_FIRST, *further]]
