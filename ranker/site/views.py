"""What each template sees. Every field that a template reads is a field here; templates decide nothing but looks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ranker.board import Board, Cell, Interval, Row, TaskColumn
from ranker.site import charts, text
from ranker.site.pages import Sample, SubmissionPage, TrackRun
from ranker.types import Group, SubmissionState


@dataclass(frozen=True, kw_only=True)
class CellView:
    """One cell of the table. `value` sorts; `heat` is a shade 0 to 8, None where the column tells nothing."""

    value: float | None
    text: str
    tip: str = ""
    heat: int | None = None
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class RowView:
    """One row of the table. `href` is empty where no page of the submission exists.

    `tied_to_next`: the difference to the next row is not statistically significant.
    """

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
    tied_to_next: bool


@dataclass(frozen=True, kw_only=True)
class HeadView:
    """A task's column head and foot. `plain` hides that the column carries no signal where that is unknown."""

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
class Span:
    """A heading over several neighbouring task columns."""

    title: str
    columns: int


@dataclass(frozen=True, kw_only=True)
class TrackView:
    """One track's section. `groups` and `spans` are empty where all tasks belong to one group."""

    slug: str
    board: Board
    heads: tuple[HeadView, ...]
    groups: tuple[Group, ...]
    spans: tuple[Span, ...]
    ranked: tuple[RowView, ...]
    incomplete: tuple[RowView, ...]
    has_intervals: bool
    has_ties: bool
    dense: bool
    domains: str
    leader: str
    condition: text.FactGroup
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


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task on a submission's page; `bar` is None where the submission has no score."""

    head: HeadView
    score: str
    range_text: str
    bar: charts.TaskBar | None
    place: str
    field_text: str


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """Items of one public task."""

    title: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class DurationView:
    """One timed part of a run, with its share of the longest, 0 to 100."""

    label: str
    text: str
    share: float


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One track on a submission's page."""

    slug: str
    title: str
    place: str
    score: str
    range_text: str
    groups: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    curve: charts.Curve | None
    durations: tuple[DurationView, ...]
    facts: tuple[text.FactGroup, ...]
    samples: tuple[SampleView, ...]


@dataclass(frozen=True, kw_only=True)
class SubmissionView:
    """A submission's page."""

    page: SubmissionPage
    name: str
    plain_name: str
    state: str
    refused: bool
    received_at: str
    encoder: tuple[text.Fact, ...]
    runs: tuple[RunView, ...]


def slug(track: str) -> str:
    """A track's name as a file name and an anchor: `track-a`."""
    return "track-" + (re.sub(r"[^a-z0-9]+", "-", track.lower()).strip("-") or "0")


def page_path(submission_id: str) -> str:
    """A submission's page, relative to the folder."""
    return f"submission/{submission_id}.html"


def range_text(interval: Interval | None, digits: int = 3) -> str:
    """An interval as `0.812 - 0.853`, empty where there is none."""
    if interval is None:
        return ""
    return f"{text.number(interval.low, digits)}\N{EN DASH}{text.number(interval.high, digits)}"


def demonstrations(boards: Sequence[Board]) -> tuple[Demonstration, ...]:
    """The reasons of all boards, once where all boards share them."""
    if len({board.demonstration for board in boards}) == 1:
        reasons = boards[0].demonstration
        return (Demonstration(scope="", reasons=reasons),) if reasons else ()
    return tuple(
        Demonstration(scope=f"Track {board.track}", reasons=board.demonstration) for board in boards if board.demonstration
    )


def track_view(board: Board, pages: Mapping[str, SubmissionPage]) -> TrackView:
    """A board as its section shows it; `pages` are the submissions that have a page, by id."""
    ranked = [row for row in board.rows if row.rank is not None]
    kinds = [group for group in Group if any(column.group is group for column in board.columns)]
    groups = tuple(kinds) if len(kinds) > 1 else ()
    digits = 3 if _told_apart(ranked, 3) else 4
    ends = [end for row in ranked if row.score is not None for end in _ends(row.score, row.interval)]
    axis = charts.axis_of(ends) if ends else None
    fields = {
        column.name: [row.cells[column.name].normalized for row in ranked if column.name in row.cells]
        for column in board.columns
    }

    def row_view(row: Row) -> RowView:
        return RowView(
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
            tied_to_next=row.distinct_from_next is False,
        )

    return TrackView(
        slug=slug(board.track),
        board=board,
        heads=tuple(map(_head, board.columns)),
        groups=groups,
        spans=_spans(board.columns) if groups else (),
        ranked=tuple(map(row_view, ranked)),
        incomplete=tuple(row_view(row) for row in board.rows if row.rank is None),
        has_intervals=any(row.interval for row in ranked),
        has_ties=any(row.distinct_from_next is False for row in ranked),
        dense=len(board.columns) > 9,
        domains=" \N{MIDDLE DOT} ".join(dict.fromkeys(column.domain.value for column in board.columns)),
        leader=_leader(ranked),
        condition=_condition(board),
        made_at=text.moment(board.made_at),
    )


def submission_view(page: SubmissionPage, boards: Sequence[Board]) -> SubmissionView:
    """A submission's page, with its rows and cells taken from the boards."""
    runs = {run.track: run for run in page.runs}
    name = text.team_name(page.team, page.id)
    views = [_run(page, board, runs.get(board.track)) for board in boards]
    return SubmissionView(
        page=page,
        name=name,
        plain_name=text.plain(name),
        state=page.state.value,
        refused=page.state in {SubmissionState.REFUSED, SubmissionState.FAILED},
        received_at=text.moment(page.received_at),
        encoder=tuple(f for group in text.fact_groups(page.encoder or {}, "Encoder") for f in group.facts),
        runs=tuple(view for view in views if view is not None),
    )


def public_samples(page: SubmissionPage, boards: Sequence[Board]) -> dict[str, dict[str, tuple[Sample, ...]]]:
    """Samples by track and task, of those tasks alone that a board of the track shows as public."""
    public = {
        board.track: {column.name for column in board.columns if column.group is Group.PUBLIC} for board in boards
    }
    return {
        run.track: {task: items for task, items in run.samples.items() if task in public.get(run.track, set())}
        for run in page.runs
    }


def _ends(score: float, interval: Interval | None) -> tuple[float, ...]:
    return (score, interval.low, interval.high) if interval else (score,)


def _told_apart(rows: Sequence[Row], digits: int) -> bool:
    """Whether different scores print differently."""
    scores = {row.score for row in rows}
    return len({text.number(score, digits) for score in scores}) == len(scores)


def _cell(column: TaskColumn, row: Row, field: Sequence[float]) -> CellView:
    if column.name not in row.cells:
        return CellView(value=None, text=text.NONE)
    cell = row.cells[column.name]
    told = column.signal is not False and row.rank is not None
    tip = f"{column.title}: {text.number(cell.raw, 4)}"
    if cell.interval:
        tip += f", 95% interval {range_text(cell.interval)}"
    return CellView(
        value=cell.raw,
        text=text.number(cell.raw),
        tip=tip,
        heat=charts.heat(cell.normalized, field) if told else None,
        best=told and cell.normalized == max(field) > min(field),
    )


def _head(column: TaskColumn) -> HeadView:
    tip = f"{column.title} ({column.domain.value}, {column.group.value}), {column.metric}"
    if column.confound:
        tip += f". Confounded with: {column.confound}"
    return HeadView(
        column=column,
        tip=tip,
        no_signal=column.signal is False,
        weight=text.compact(column.weight),
        items=text.NONE if column.items is None else f"{column.items:,}",
        blind=text.number(column.blind),
        bounds=f"{text.compact(column.worst)} to {text.compact(column.best)}",
        domain=column.domain.value,
        group=column.group.value,
    )


def _spans(columns: Sequence[TaskColumn]) -> tuple[Span, ...]:
    return tuple(
        Span(title=f"{group.value} tasks", columns=len(list(members)))
        for group, members in groupby(columns, key=lambda column: column.group)
    )


def _leader(ranked: Sequence[Row]) -> str:
    names = [text.team_name(row.team, row.submission_id) for row in ranked if row.rank == 1]
    return names[0] if len(names) == 1 else f"{len(names)} teams" if names else ""


def _condition(board: Board) -> text.FactGroup:
    values = board.condition.to_json() | {"seed": board.seed, "digest": board.condition.digest}
    del values["demonstration"]
    return text.FactGroup(title="Condition", facts=tuple(text.fact(key, value) for key, value in values.items()))


def _run(page: SubmissionPage, board: Board, run: TrackRun | None) -> RunView | None:
    """One track of a submission's page; None where it has neither a row nor a run in the track."""
    row = next((row for row in board.rows if row.submission_id == page.id), None)
    if row is None and run is None:
        return None
    ranked = sum(other.rank is not None for other in board.rows)
    manifest = dict(run.manifest) if run else {}
    samples = public_samples(page, [board])[board.track] if run else {}
    titles = {column.name: column.title for column in board.columns}
    complete = row is not None and row.rank is not None
    return RunView(
        slug=slug(board.track),
        title=f"Track {board.track}: {board.track_title}",
        place=f"Rank {row.rank} of {ranked}" if row and complete else "Not ranked",
        score=text.number(row.score if row else None),
        range_text=range_text(row.interval if row else None),
        groups=tuple((name, text.number(value)) for name, value in row.groups.items()) if row and len(row.groups) > 1 else (),
        missing=row.missing if row else (),
        tasks=tuple(_task(board, column, row) for column in board.columns) if row else (),
        curve=charts.training_curve(run.curve) if run else None,
        durations=_durations(manifest.pop("durations", None)),
        facts=text.fact_groups(manifest, "Run"),
        samples=tuple(SampleView(title=titles[task], samples=items) for task, items in samples.items() if items),
    )


def _task(board: Board, column: TaskColumn, row: Row) -> TaskView:
    head = _head(column)
    cells = {other.submission_id: other.cells[column.name] for other in board.rows if column.name in other.cells}
    field: list[Cell] = list(cells.values())
    lowest, highest = (min(c.raw for c in field), max(c.raw for c in field)) if field else (None, None)
    field_text = f"{text.number(lowest)}\N{EN DASH}{text.number(highest)}" if field else text.NONE
    if column.name not in row.cells:
        return TaskView(head=head, score=text.NONE, range_text="", bar=None, place=text.NONE, field_text=field_text)
    cell = row.cells[column.name]
    place = 1 + sum(other.normalized > cell.normalized for other in field)
    return TaskView(
        head=head,
        score=text.number(cell.raw),
        range_text=range_text(cell.interval),
        bar=charts.task_bar(column, cell, field),
        place=f"{place} of {len(field)}",
        field_text=field_text,
    )


def _durations(values: object) -> tuple[DurationView, ...]:
    """The manifest's `durations` (seconds by part) as bars; nothing for any other shape."""
    if not isinstance(values, Mapping):
        return ()
    parts = {key: value for key, value in values.items() if isinstance(value, int | float)}
    longest = max(parts.values(), default=0) or 1
    return tuple(
        DurationView(
            label=key.removesuffix("_s").replace("_", " "),
            text=text.duration(value),
            share=round(100 * value / longest, 1),
        )
        for key, value in parts.items()
    )
