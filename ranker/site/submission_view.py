"""What the template of a submission's page sees: its rows and cells are taken from the boards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ranker.board import Board, Interval, Row, TaskColumn
from ranker.sandbox import usage
from ranker.sandbox.probes import Probe, identity, rows
from ranker.site import charts, text
from ranker.site.pages import Sample, SubmissionPage, TrackRun, predictions_path
from ranker.site.track_view import HeadView, head_view, range_text, score_digits, slug
from ranker.types import Group, Part, Stage, SubmissionState

Items = TypeVar("Items")


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
    """Items of one public task. `href`: the file with all of them, None where it is not published."""

    title: str
    samples: tuple[Sample, ...]
    href: str | None


@dataclass(frozen=True, kw_only=True)
class DurationView:
    """One timed part of a run, with its share of the longest, 0 to 100."""

    label: str
    text: str
    share: float


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One track on a submission's page. `took`: what its encoder took in the run, each with a name."""

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
    took: tuple[tuple[str, str], ...]
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
    probes: tuple[Probe, ...]
    runs: tuple[RunView, ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """All submissions' scores on one task: normalised ones in rising order, and the extremes of the raw ones."""

    normalized: tuple[float, ...]
    raw: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Standings:
    """A board looked up by submission and by task, made once for all pages."""

    board: Board
    rows: Mapping[str, Row]
    fields: Mapping[str, Field]
    ranked: int
    digits: int


def standings(board: Board) -> Standings:
    """Prepare a board for `submission_view`. A task that nobody has a score on has no field."""
    fields = {}
    for column in board.columns:
        cells = [row.cells[column.name] for row in board.rows if column.name in row.cells]
        if cells:
            raw = [cell.raw for cell in cells]
            fields[column.name] = Field(
                normalized=tuple(sorted(cell.normalized for cell in cells)), raw=(min(raw), max(raw))
            )
    ranked = [row for row in board.rows if row.rank is not None]
    return Standings(
        board=board,
        rows={row.submission_id: row for row in board.rows},
        fields=fields,
        ranked=len(ranked),
        digits=score_digits(ranked),
    )


def submission_view(page: SubmissionPage, boards: Sequence[Standings]) -> SubmissionView:
    """A submission's page, with its rows and cells taken from the boards."""
    runs = {run.track: run for run in public_runs(page, [each.board for each in boards])}
    name = text.team_name(page.team, page.id)
    views = [_run(page, each, runs.get(each.board.track)) for each in boards]
    return SubmissionView(
        page=page,
        name=name,
        plain_name=text.plain(name),
        state=page.state.value,
        refused=page.state in {SubmissionState.REFUSED, SubmissionState.FAILED},
        received_at=text.moment(page.received_at),
        encoder=tuple(f for group in text.fact_groups(identity(page.encoder or {}), "Encoder") for f in group.facts),
        probes=rows(page.encoder or {}),
        runs=tuple(view for view in views if view is not None),
    )


def public_runs(page: SubmissionPage, boards: Sequence[Board]) -> list[TrackRun]:
    """The runs of public parts, with nothing on the clips of tasks but of those that a board shows as public.

    What a manifest says of clips stands in `skipped`, by task.
    """
    public = {
        board.track: {column.name for column in board.columns if column.group is Group.PUBLIC} for board in boards
    }

    def of_public(run: TrackRun, by_task: Mapping[str, Items]) -> dict[str, Items]:
        return {task: items for task, items in by_task.items() if task in public.get(run.track, set())}

    return [
        replace(
            run,
            samples=of_public(run, run.samples),
            predictions=of_public(run, run.predictions),
            manifest={key: of_public(run, value) if key == "skipped" else value for key, value in run.manifest.items()},
        )
        for run in page.runs
        if run.part is Part.PUBLIC
    ]


def _run(page: SubmissionPage, standing: Standings, run: TrackRun | None) -> RunView | None:
    """One track of a submission's page; None where it has neither a row nor a run in the track."""
    board, digits = standing.board, standing.digits
    row = standing.rows.get(page.id)
    if row is None and run is None:
        return None
    manifest = dict(run.manifest) if run else {}
    samples = run.samples if run else {}
    files = {task: predictions_path(page.id, slug(board.track), task) for task in (run.predictions if run else {})}
    titles = {column.name: column.title for column in board.columns}
    groups = row.groups if row else {}
    complete = row is not None and row.rank is not None
    return RunView(
        slug=slug(board.track),
        title=f"Track {board.track}: {board.track_title}",
        place=f"Rank {row.rank} of {standing.ranked}" if row and complete else "Not ranked",
        score=text.number(row.score if row else None, digits),
        range_text=range_text(row.interval if row else None),
        groups=tuple((name, text.number(value, digits)) for name, value in groups.items()) if len(groups) > 1 else (),
        missing=row.missing if row else (),
        tasks=tuple(_task(column, row, standing.fields) for column in board.columns) if row else (),
        curve=charts.training_curve(run.curve) if run else None,
        durations=_durations(manifest.pop("seconds", None)),
        took=usage.words(manifest.get("encoder") or {}),
        facts=text.fact_groups(manifest, "Run"),
        samples=tuple(
            SampleView(title=titles[task], samples=items, href=files.get(task))
            for task, items in samples.items()
            if items
        ),
    )


def _task(column: TaskColumn, row: Row, fields: Mapping[str, Field]) -> TaskView:
    head = head_view(column)
    field_text = text.NONE
    if column.name in fields:
        field_text = range_text(Interval(low=fields[column.name].raw[0], high=fields[column.name].raw[1]))
    if column.name not in row.cells:
        return TaskView(head=head, score=text.NONE, range_text="", bar=None, place=text.NONE, field_text=field_text)
    cell, field = row.cells[column.name], fields[column.name]
    better = len(field.normalized) - bisect_right(field.normalized, cell.normalized)
    return TaskView(
        head=head,
        score=text.number(cell.raw),
        range_text=range_text(cell.interval),
        bar=charts.task_bar(column, cell, field.raw),
        place=f"{1 + better} of {len(field.normalized)}",
        field_text=field_text,
    )


def _durations(values: object) -> tuple[DurationView, ...]:
    """The manifest's `seconds` of each stage as bars, in the order of the stages; nothing for any other shape."""
    if not isinstance(values, Mapping):
        return ()
    parts = {stage: values[stage] for stage in Stage if isinstance(values.get(stage), int | float)}
    longest = max(parts.values(), default=0) or 1
    return tuple(
        DurationView(label=stage, text=text.duration(value), share=round(100 * value / longest, 1))
        for stage, value in parts.items()
    )
