"""What the front page's template sees of each board. Templates decide nothing but looks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from ranker.board import Board, Interval, RankInterval, Row, TaskColumn
from ranker.calibration import Calibration
from ranker.site import charts, text
from ranker.site.calibration_view import CalibrationView, calibration_view
from ranker.site.pages import SubmissionPage, page_path
from ranker.types import Group, Resampling, Standing

_SPAN_WIDTHS = 40
"""static/site.css knows the width of a heading over so many columns."""


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell of the table. `heat` is a shade 0 to 8, None where the column tells nothing."""

    value: float | None
    text: str
    heat: int | None = None
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class RowView:
    """One row of the table: that of the board's row `index`. `href` is empty where no page of the submission exists.

    `pending`: what the rules still ask of it. `standing`: why it would not be shown if it had not been asked for.
    `ranks`: the interval of the rank; `first`: P(nobody is ahead), empty below half a per cent. `tier`: the
    significance group, and `bracket` where the row stands in it: `first`, `in`, `last`; empty where it stands alone.
    """

    index: int
    rank: int | None
    name: str
    href: str
    submission_id: str
    score: CellView
    range_text: str
    mark: charts.Mark | None
    groups: tuple[CellView, ...]
    cells: tuple[CellView, ...]
    missing: tuple[str, ...]
    pending: tuple[str, ...]
    standing: str
    ranks: str
    first: str
    tier: int | None
    bracket: str


@dataclass(frozen=True, kw_only=True)
class HeadView:
    """A task's column head and foot."""

    column: TaskColumn
    tip: str
    no_signal: bool
    weight: str
    items: str
    blind: str
    bounds: str
    domain: str
    group: str


@dataclass(frozen=True, kw_only=True)
class FootView:
    """A line under the table, one value per task."""

    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A heading over several neighbouring task columns, by their names."""

    title: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrackView:
    """One track's section. `groups` and `spans` are empty where all tasks belong to one group.

    `has_ranks`: how sure ranks are is known. `over_tasks`: intervals let the choice of tasks vary, not of test items.
    `dense`: so many tasks that their heads stand upright. `tall`: so many rows that the table scrolls in itself.
    `swift`: both, so that rows out of sight are better left out (static/site.css).
    `agreement`: Kendall's tau of public and hidden means; empty where it is not known. `width`: the table's columns.
    `kinds`: the tasks' domains.
    """

    slug: str
    board: Board
    heads: tuple[HeadView, ...]
    feet: tuple[FootView, ...]
    groups: tuple[Group, ...]
    spans: tuple[Span, ...]
    ranked: tuple[RowView, ...]
    incomplete: tuple[RowView, ...]
    pending: tuple[RowView, ...]
    has_intervals: bool
    has_ranks: bool
    over_tasks: bool
    has_blind: bool
    dense: bool
    tall: bool
    swift: bool
    width: int
    kinds: tuple[str, ...]
    domains: str
    leader: str
    agreement: str
    condition: text.FactGroup
    calibration: CalibrationView | None
    made_at: str


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """Why a page is no result of the challenge; `scope` names the track where tracks differ."""

    scope: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class OtherView:
    """A submission that stands on no board."""

    name: str
    href: str
    state: str


def slug(track: str) -> str:
    """A track's name as a file name and an anchor: `track-a`."""
    return "track-" + (re.sub(r"[^a-z0-9]+", "-", track.lower()).strip("-") or "0")


def range_text(interval: Interval | None, digits: int = 3) -> str:
    """An interval as `0.812 - 0.853`, empty where there is none."""
    if interval is None:
        return ""
    return f"{text.number(interval.low, digits)}\N{EN DASH}{text.number(interval.high, digits)}"


def demonstrations(boards: Sequence[Board]) -> tuple[Demonstration, ...]:
    """What all boards share, said once, then what is one track's own."""
    every = list(dict.fromkeys(reason for board in boards for reason in board.demonstration))
    shared = tuple(reason for reason in every if all(reason in board.demonstration for board in boards))
    found = [Demonstration(scope="", reasons=shared)]
    for board in boards:
        own = tuple(reason for reason in board.demonstration if reason not in shared)
        found.append(Demonstration(scope=f"Track {board.track}", reasons=own))
    return tuple(each for each in found if each.reasons)


def track_view(board: Board, pages: Mapping[str, SubmissionPage], calibration: Calibration | None = None) -> TrackView:
    """A board as its section shows it; `pages` are the submissions that have a page, by id."""
    ranked = [row for row in board.rows if row.score is not None]  # baselines among them
    kinds = [group for group in Group if any(column.group is group for column in board.columns)]
    groups = tuple(kinds) if len(kinds) > 1 else ()
    digits = score_digits(ranked)
    ends = [end for row in ranked if row.score is not None for end in _ends(row.score, row.interval)]
    axis = charts.axis_of(ends) if ends else None
    fields = {column.name: _extremes(column, ranked) for column in board.columns}

    heads = tuple(map(head_view, board.columns))
    spans = _spans(board.columns) if groups else ()
    dense, tall = len(board.columns) > 9, len(board.rows) > 40
    brackets = _brackets(ranked)
    has_ranks = any(row.rank_interval for row in ranked)
    places = {row.submission_id: index for index, row in enumerate(board.rows)}

    def row_view(row: Row) -> RowView:
        return RowView(
            index=places[row.submission_id],
            rank=row.rank,
            name=text.team_name(row.team, row.submission_id),
            href=page_path(row.submission_id) if row.submission_id in pages else "",
            submission_id=row.submission_id,
            score=CellView(value=row.score, text=text.number(row.score, digits)),
            range_text=range_text(row.interval),
            mark=axis.mark(row.score, row.interval) if axis and row.score is not None else None,
            groups=tuple(CellView(value=row.groups[g], text=text.number(row.groups[g], digits)) for g in groups),
            cells=tuple(_cell(column, row, fields[column.name]) for column in board.columns),
            missing=row.missing,
            pending=row.pending,
            standing=_mark(row),
            ranks=_ranks(row.rank_interval),
            first=_first(row.p_first),
            tier=row.tier,
            bracket=brackets.get(row.submission_id, ""),
        )

    return TrackView(
        slug=slug(board.track),
        board=board,
        heads=heads,
        feet=_feet(heads),
        groups=groups,
        spans=spans,
        ranked=tuple(map(row_view, ranked)),
        incomplete=tuple(row_view(row) for row in board.rows if row.score is None and not row.pending),
        pending=tuple(row_view(row) for row in board.rows if row.pending),
        has_intervals=any(row.interval for row in ranked),
        has_ranks=has_ranks,
        over_tasks=board.intervals.resampling is Resampling.TASKS,
        has_blind=any(column.blind is not None for column in board.columns),
        dense=dense,
        tall=tall,
        swift=dense and tall and all(len(span.tasks) <= _SPAN_WIDTHS for span in spans),
        width=3 + 3 * has_ranks + len(groups) + len(board.columns),
        kinds=tuple(dict.fromkeys(column.domain.value for column in board.columns)),
        domains=" \N{MIDDLE DOT} ".join(dict.fromkeys(column.domain.value for column in board.columns)),
        leader=_leader(ranked),
        agreement="" if board.agreement is None else text.number(board.agreement.tau, 2),
        condition=_condition(board),
        calibration=None if calibration is None else calibration_view(calibration),
        made_at=text.moment(board.made_at),
    )


def _mark(row: Row) -> str:
    """What stands beside a name: a baseline, or why it would not be shown if it had not been asked for."""
    if row.is_baseline:
        return "baseline, not ranked"
    return "" if row.standing in {Standing.RANKED, Standing.PENDING} else row.standing.value


def _ranks(interval: RankInterval | None) -> str:
    if interval is None:
        return ""
    return str(interval.best) if interval.best == interval.worst else f"{interval.best}\N{EN DASH}{interval.worst}"


def _first(probability: float | None) -> str:
    if probability is None or probability < 0.005:
        return ""
    return ">99%" if 0.995 <= probability < 1 else f"{probability:.0%}"


def _brackets(ranked: Sequence[Row]) -> dict[str, str]:
    """Where rows stand in their tiers, by id. A baseline between two members of a tier is passed by its bracket."""
    found: dict[str, str] = {}
    for tier in dict.fromkeys(row.tier for row in ranked if row.tier is not None):
        places = [place for place, row in enumerate(ranked) if row.tier == tier]
        members = [row.submission_id for row in ranked[places[0] : places[-1] + 1]]
        if len(members) > 1:
            found |= dict.fromkeys(members, "in") | {members[0]: "first", members[-1]: "last"}
    return found


def _ends(score: float, interval: Interval | None) -> tuple[float, ...]:
    return (score, interval.low, interval.high) if interval else (score,)


def score_digits(rows: Sequence[Row]) -> int:
    """Three decimals for track scores, four where different ones would look the same."""
    scores = {row.score for row in rows}
    return 3 if len({text.number(score) for score in scores}) == len(scores) else 4


def _extremes(column: TaskColumn, ranked: Sequence[Row]) -> tuple[float, ...]:
    """The lowest and the highest normalised score on a task; nothing where nobody has one."""
    field = [row.cells[column.name].normalized for row in ranked if column.name in row.cells]
    return (min(field), max(field)) if field else ()


def _cell(column: TaskColumn, row: Row, field: Sequence[float]) -> CellView:
    if column.name not in row.cells:
        return CellView(value=None, text=text.NONE)
    cell = row.cells[column.name]
    told = column.signal is not False and row.score is not None
    return CellView(
        value=cell.raw,
        text=text.number(cell.raw),
        heat=charts.heat(cell.normalized, field) if told else None,
        best=told and cell.normalized == max(field) > min(field),
    )


def head_view(column: TaskColumn) -> HeadView:
    """A task's head, the same on the board and on a submission's page."""
    tip = f"{column.title} ({column.domain.value}, {column.group.value}), {column.metric}"
    if column.confound:
        tip += f". Confounded with: {column.confound}"
    return HeadView(
        column=column,
        tip=tip,
        no_signal=column.signal is False,
        weight=text.NONE if column.weight is None else text.compact(column.weight),
        items=text.NONE if column.items is None else f"{column.items:,}",
        blind=text.number(column.blind),
        bounds=f"{text.compact(column.worst)} to {text.compact(column.best)}",
        domain=column.domain.value,
        group=column.group.value,
    )


_SIGNAL = {True: "yes", False: "no", None: text.NONE}


def _feet(heads: Sequence[HeadView]) -> tuple[FootView, ...]:
    """Weights, numbers of items, blind floors, signal; a line that would be empty is left out."""
    lines = (
        FootView(label="Weight", values=tuple(head.weight for head in heads)),
        FootView(label="Test items", values=tuple(head.items for head in heads)),
        FootView(label="Blind floor", values=tuple(head.blind for head in heads)),
        FootView(label="Signal", values=tuple(_SIGNAL[head.column.signal] for head in heads)),
    )
    return tuple(line for line in lines if set(line.values) != {text.NONE})


def _spans(columns: Sequence[TaskColumn]) -> tuple[Span, ...]:
    return tuple(
        Span(title=f"{group.value} tasks", tasks=tuple(column.name for column in members))
        for group, members in groupby(columns, key=lambda column: column.group)
    )


def _leader(ranked: Sequence[Row]) -> str:
    names = [text.team_name(row.team, row.submission_id) for row in ranked if row.rank == 1]
    return names[0] if len(names) == 1 else f"{len(names)} teams" if names else ""


def _condition(board: Board) -> text.FactGroup:
    """Under what the scores were made: a condition and a seed, or where an imported table comes from."""
    if board.condition is None:
        values: dict[str, Any] = {} if board.origin is None else asdict(board.origin)
        values = {name: value for name, value in values.items() if value is not None}
        values |= {name: value.isoformat() for name, value in values.items() if isinstance(value, datetime)}
        title = "Imported table"
    else:
        values = board.condition.to_json() | {"seed": board.seed, "digest": board.condition.digest}
        values |= {f"{each.part}_part": each.digest for each in board.others}
        del values["demonstration"], values["part"]
        title = "Condition"
    return text.FactGroup(title=title, facts=tuple(text.fact(key, value) for key, value in values.items()))
