"""A board's table as people read it: cells of rounded text, the best of each column marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranker.board import Board, Interval, Row
from ranker.types import Export

_DIGITS = 3


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One cell. `is_text`: it stands on the left; numbers stand on the right. `best`: of its column's ranked rows."""

    text: str
    is_text: bool = False
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """`heads` of columns, and rows of as many cells; `caption` and `note` are sentences for below or above."""

    caption: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]


def shown(board: Board, what: Export) -> ShownTable:
    """Ranks with their certainty, scores of each task, or scores with intervals; rows without a rank have a dash."""
    makers = {Export.RANKS: _ranks, Export.SCORES: _scores, Export.INTERVALS: _intervals}
    heads, rows = makers[what](board)
    demonstration = f" Demonstration: {'; '.join(board.demonstration)}." if board.demonstration else ""
    basis = board.intervals
    return ShownTable(
        caption=f"{board.benchmark_title}, track {board.track}: {board.track_title}",
        note=f"Intervals: {basis.level:.0%}, {basis.resamples:,} resamples of {basis.resampling}, {basis.given}. "
        f"Board {board.basis[:12]}.{demonstration}",
        heads=heads,
        rows=rows,
    )


_Made = tuple[tuple[str, ...], tuple[tuple[Shown, ...], ...]]


def _ranks(board: Board) -> _Made:
    groups = list(dict.fromkeys(column.group.value for column in board.columns))
    groups = groups if len(groups) > 1 else []
    heads = ("#", "Team", "Score", "95%", *(group.capitalize() for group in groups), "Ranks", "P(first)", "Group")
    best_score = _best(board, [row.score for row in board.rows])
    best_groups = {group: _best(board, [row.groups.get(group) for row in board.rows]) for group in groups}
    rows = tuple(
        (
            *_who(row),
            _number(row.score, best_score),
            Shown(text=_range(row.interval)),
            *(_number(row.groups.get(group), best_groups[group]) for group in groups),
            Shown(text="" if row.rank_interval is None else _span(row.rank_interval.best, row.rank_interval.worst)),
            Shown(text="" if row.p_first is None else f"{row.p_first:.2f}"),
            Shown(text="" if row.tier is None else str(row.tier)),
        )
        for row in board.rows
    )
    return heads, rows


def _scores(board: Board) -> _Made:
    return _by_task(board, with_intervals=False)


def _intervals(board: Board) -> _Made:
    return _by_task(board, with_intervals=True)


def _by_task(board: Board, *, with_intervals: bool) -> _Made:
    best_score = _best(board, [row.score for row in board.rows])
    best = {
        column.name: _best(
            board,
            [row.cells[column.name].raw if column.name in row.cells else None for row in board.rows],
            falls=column.worst > column.best,
        )
        for column in board.columns
    }

    def cell(row: Row, task: str) -> Shown:
        if task not in row.cells:
            return Shown(text="\N{EN DASH}")
        made = _number(row.cells[task].raw, best[task])
        return _with(made, row.cells[task].interval) if with_intervals else made

    rows = tuple(
        (
            *_who(row),
            _with(_number(row.score, best_score), row.interval) if with_intervals else _number(row.score, best_score),
            *(cell(row, column.name) for column in board.columns),
        )
        for row in board.rows
    )
    return ("#", "Team", "Score", *(column.name for column in board.columns)), rows


def _who(row: Row) -> tuple[Shown, Shown]:
    rank = "\N{EN DASH}" if row.rank is None else str(row.rank)
    state = " (baseline)" if row.is_baseline else ""
    return Shown(text=rank), Shown(text=row.team + state, is_text=True)


def _best(board: Board, values: Sequence[float | None], *, falls: bool = False) -> float | None:
    """The best value of ranked rows; None where all are the same: then none stands out."""
    ranked = [
        value for row, value in zip(board.rows, values, strict=True) if row.rank is not None and value is not None
    ]
    if not ranked or min(ranked) == max(ranked):
        return None
    return min(ranked) if falls else max(ranked)


def _number(value: float | None, best: float | None) -> Shown:
    if value is None:
        return Shown(text="\N{EN DASH}")
    return Shown(text=f"{value:.{_DIGITS}f}", best=value == best)


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.{_DIGITS}f}\N{EN DASH}{interval.high:.{_DIGITS}f}"


def _with(made: Shown, interval: Interval | None) -> Shown:
    return made if interval is None else Shown(text=f"{made.text} ({_range(interval)})", best=made.best)


def _span(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}\N{EN DASH}{worst}"
