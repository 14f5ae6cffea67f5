"""data.csv: every number of every board, one per line, so that a spreadsheet or a data frame can pick what it wants.

`track`, then whose it is (`submission` and `team`, empty for what is the board's own), then of which `task` (empty for
what is of the whole track), then what it is (`quantity`) and its `value`. Pure: returns text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from ranker.board import Board, Cell, Interval, Repeats, Row, TaskColumn
from ranker.calibration import Calibration
from ranker.types import Choice

COLUMNS = ("track", "submission", "team", "task", "quantity", "value")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

QUANTITIES = {
    "basis": "SHA-256 of what the scores hang on: the condition, or the imported table",
    "seed": "the training seed; none of an imported table",
    "resampling": "what the intervals let vary: test items, or tasks",
    "resamples": "how many draws they are made from",
    "level": "their level, 0 to 1",
    "agreement.tau": "Kendall's tau-b between the two groups' orders; `agreement.low` and `.high` bound its interval",
    "group_weight.GROUP": "what a group's own mean counts in the score, where groups are weighed",
    "metric": "of a task: the raw score's name; also `title`, `domain`, `group`, `unit` (what was drawn), `confound`",
    "worst": "of a task: the raw score that counts 0; `best`: the one that counts 1",
    "weight": "of a task: its weight in its group, or in the track",
    "items": "of a task: scored test pairs; `units`: of how many things they were drawn",
    "blind": "of a task: the score of answering without listening",
    "signal": "of a task: whether the best interval lies above `blind`",
    "standing": "of a submission: whether it is ranked, or why not; `baseline`: whether it takes no rank as a baseline",
    "missing": "of a submission: tasks without a score, separated by spaces; `pending`: what rules still ask, by `; `",
    "rank": "competition rank; `rank.low` and `rank.high`: its 95% interval, the best rank first",
    "score": "track score, or with a task the raw score; `.low` and `.high` bound its 95% interval",
    "normalized": "of a submission and a task: the score between `worst` and `best`",
    "mean.GROUP": "mean of a group's normalised scores",
    "p_first": "share of draws in which nobody is ahead",
    "p_next": "p-value that the next ranked one's score is as good; `distinct_from_next`: whether it is below 0.05",
    "tier": "significance group, from 1",
    "score.seed.N": "the score with training seed N, where it was repeated",
    "repeats.deviation": "standard deviation of one training; `repeats.low`, `.high`: the interval with seeds varying",
    "rank.if.CHOICE": "rank under another choice of the committee; with a task where the choice is about one",
    "tau.if.CHOICE": "Kendall's tau-b of that ranking with the official scores; `changed.if.CHOICE`: ranks that differ",
    "ahead.of.ID": "share of draws in which the submission is ahead of another; also `p.of.ID`, and the interval of "
    "the score minus the other's, `difference.low.of.ID` and `difference.high.of.ID`",
    "calibration.published": "of a baseline and a task: what was published; also `calibration.measured`, `.tolerance`, "
    "`.within`",
}  # fmt: skip
"""What a reader of docs/data.md learns; words in capitals stand for others."""

_Line = tuple[str, str, str, str, str, object]


def to_csv(boards: Sequence[Board], calibrations: Sequence[Calibration] = ()) -> str:
    """The whole file; lines whose value would be empty are left out."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for board in boards:
        writer.writerows(_written(line) for line in lines(board) if line[-1] not in (None, ""))
    for calibration in calibrations:
        writer.writerows(_written(line) for line in _calibrated(calibration) if line[-1] is not None)
    return file.getvalue()


def inert(value: str) -> str:
    """A spreadsheet runs a text that begins like a formula; an apostrophe makes it text. data.json has it unchanged."""
    return f"'{value}" if value.startswith(FORMULA_STARTS) else value


def lines(board: Board) -> Iterator[_Line]:
    """The lines of one board: its own, its tasks', its rows', and what compares rows."""
    for quantity, value in _of_board(board):
        yield board.track, "", "", "", quantity, value
    for column in board.columns:
        for quantity, value in _of_task(column):
            yield board.track, "", "", column.name, quantity, value
    for row in board.rows:
        own = (board.track, row.submission_id, row.team)
        for quantity, value in _of_row(row):
            yield *own, "", quantity, value
        for task, cell in row.cells.items():
            for quantity, value in _of_cell(cell):
                yield *own, task, quantity, value
    yield from _alternatives(board)
    yield from _pairs(board)


def _of_board(board: Board) -> Iterator[tuple[str, object]]:
    yield "basis", board.basis
    yield "seed", board.seed
    yield "resampling", board.intervals.resampling
    yield "resamples", board.intervals.resamples
    yield "level", board.intervals.level
    if board.agreement is not None:
        yield "agreement.tau", board.agreement.tau
        yield "agreement.low", board.agreement.low
        yield "agreement.high", board.agreement.high
    for group, weight in (board.group_weights or {}).items():
        yield f"group_weight.{group}", weight


def _of_task(column: TaskColumn) -> Iterator[tuple[str, object]]:
    for name in ("title", "domain", "group", "metric", "worst", "best", "weight", "items", "unit", "units", "blind"):
        yield name, getattr(column, name)
    yield "signal", column.signal
    yield "confound", column.confound


def _of_row(row: Row) -> Iterator[tuple[str, object]]:
    yield "standing", row.standing
    yield "baseline", row.is_baseline
    yield "missing", " ".join(row.missing)
    yield "pending", "; ".join(row.pending)
    yield "rank", row.rank
    if row.rank_interval is not None:
        yield "rank.low", row.rank_interval.best
        yield "rank.high", row.rank_interval.worst
    yield from _of_score(row.score, row.interval, row.repeats)
    for group, mean in row.groups.items():
        yield f"mean.{group}", mean
    for name in ("p_first", "p_next", "distinct_from_next", "tier"):
        yield name, getattr(row, name)


def _of_cell(cell: Cell) -> Iterator[tuple[str, object]]:
    yield from _of_score(cell.raw, cell.interval, cell.repeats)
    yield "normalized", cell.normalized


def _of_score(score: float | None, interval: Interval | None, repeats: Repeats | None) -> Iterator[tuple[str, object]]:
    yield "score", score
    if interval is not None:
        yield "score.low", interval.low
        yield "score.high", interval.high
    if repeats is not None:
        for seed, value in zip(repeats.seeds, repeats.values, strict=True):
            yield f"score.seed.{seed}", value
        yield "repeats.deviation", repeats.deviation
        yield "repeats.low", repeats.interval.low
        yield "repeats.high", repeats.interval.high


def _alternatives(board: Board) -> Iterator[_Line]:
    ranked = [row for row in board.rows if row.rank is not None]
    for each in board.alternatives:
        choice, task = Choice(each.choice).replace(" ", "_"), each.task or ""
        yield board.track, "", "", task, f"tau.if.{choice}", each.tau
        yield board.track, "", "", task, f"changed.if.{choice}", each.changed
        for row, rank in zip(ranked, each.ranks, strict=True):
            yield board.track, row.submission_id, row.team, task, f"rank.if.{choice}", rank


def _pairs(board: Board) -> Iterator[_Line]:
    if board.pairs is None:
        return
    ranked = [row for row in board.rows if row.rank is not None][: board.pairs.rows]
    found = board.pairs
    for i, row in enumerate(ranked[:-1]):
        for k, other in enumerate(ranked[i + 1 :]):
            own = (board.track, row.submission_id, row.team, "")
            yield *own, f"ahead.of.{other.submission_id}", found.ahead[i][k]
            yield *own, f"p.of.{other.submission_id}", found.p[i][k]
            yield *own, f"difference.low.of.{other.submission_id}", found.low[i][k]
            yield *own, f"difference.high.of.{other.submission_id}", found.high[i][k]


def _calibrated(calibration: Calibration) -> Iterator[_Line]:
    for figure in calibration.figures:
        own = (calibration.track, "", figure.baseline, figure.task)
        yield *own, "calibration.published", figure.published
        yield *own, "calibration.measured", figure.measured
        yield *own, "calibration.tolerance", figure.tolerance
        yield *own, "calibration.within", figure.within


def _written(line: _Line) -> tuple[object, ...]:
    track, submission, team, task, quantity, value = line
    if isinstance(value, bool):
        value = "true" if value else "false"
    return track, submission, inert(team), task, quantity, inert(str(value)) if isinstance(value, str) else value
