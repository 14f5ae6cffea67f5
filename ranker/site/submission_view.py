"""What the template of a submission's page sees: its rows and cells are taken from the boards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from markupsafe import Markup

from ranker.board import Board, Interval, Row, TaskColumn
from ranker.sandbox import usage
from ranker.sandbox.probes import Probe, identity, rows
from ranker.site import charts, figures, text
from ranker.site.figures import BoardFigures
from ranker.site.pages import Sample, SubmissionPage, TrackRun, predictions_path
from ranker.site.track_view import HeadView, head_view, range_text, score_digits, slug
from ranker.types import Choice, Group, Part, Stage, SubmissionState
from ranker.uncertainty import Alternative

Items = TypeVar("Items")
_OF_SANDBOX = {"sandbox", "memory_limit_gb", "threads", "peak_memory_source"}


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task on a submission's page."""

    head: HeadView
    score: str
    range_text: str
    missing: bool
    place: str
    field_text: str


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """Items of one public task. `href`: the file with all of them, None where it is not published."""

    name: str
    title: str
    metric: str
    samples: tuple[Sample, ...]
    href: str | None


@dataclass(frozen=True, kw_only=True)
class ChangeView:
    """Other choices that give the submission another rank: what they are, and that rank."""

    choice: str
    rank: int


@dataclass(frozen=True, kw_only=True)
class RepeatView:
    """One score with several training seeds, as text; `what` is a task's title or the track score."""

    what: str
    values: tuple[tuple[int, str], ...]
    deviation: str
    range_text: str


@dataclass(frozen=True, kw_only=True)
class Charts:
    """A run's figures as <svg> elements, None where there is nothing to draw."""

    scores: Markup | None
    ranks: Markup | None
    loss: Markup | None
    gradient: Markup | None
    durations: Markup | None


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One track on a submission's page. `took`: what the run and its encoder took, each with a name.

    `sure`: how sure the rank is, likewise. `changes`: where other choices give another rank, out of `choices` in all.
    `basis`: what the intervals let vary and hold fixed.
    """

    slug: str
    title: str
    place: str
    score: str
    range_text: str
    basis: str
    groups: tuple[tuple[str, str], ...]
    sure: tuple[tuple[str, str], ...]
    changes: tuple[ChangeView, ...]
    choices: int
    repeats: tuple[RepeatView, ...]
    missing: tuple[str, ...]
    tasks: tuple[TaskView, ...]
    charts: Charts
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
    sandbox: tuple[text.Fact, ...]
    probes: tuple[Probe, ...]
    runs: tuple[RunView, ...]


@dataclass(frozen=True, kw_only=True)
class Field:
    """All submissions' scores on one task: normalised ones in rising order, and the extremes of the raw ones."""

    normalized: tuple[float, ...]
    raw: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Standings:
    """A board looked up by submission and by task, and its figures, made once for all pages."""

    board: Board
    figures: BoardFigures
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
        figures=BoardFigures(board, name=slug(board.track)),
        rows={row.submission_id: row for row in board.rows},
        fields=fields,
        ranked=len(ranked),
        digits=score_digits(ranked),
    )


def submission_view(page: SubmissionPage, boards: Sequence[Standings]) -> SubmissionView:
    """A submission's page, with its rows and cells taken from the boards."""
    runs = {run.track: run for run in public_runs(page, [each.board for each in boards])}
    name = text.team_name(page.team, page.id)
    known = identity(page.encoder or {})
    views = [_run(page, each, runs.get(each.board.track)) for each in boards]
    return SubmissionView(
        page=page,
        name=name,
        plain_name=text.plain(name),
        state=page.state.value,
        refused=page.state in {SubmissionState.REFUSED, SubmissionState.FAILED},
        received_at="" if page.received_at is None else text.moment(page.received_at),
        encoder=_facts({key: value for key, value in known.items() if key not in _OF_SANDBOX}),
        sandbox=_facts({key: value for key, value in known.items() if key in _OF_SANDBOX}),
        probes=rows(page.encoder or {}),
        runs=tuple(view for view in views if view is not None),
    )


def _facts(values: Mapping[str, Any]) -> tuple[text.Fact, ...]:
    return tuple(fact for group in text.fact_groups(values, "") for fact in group.facts)


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
    groups = row.groups if row else {}
    complete = row is not None and row.rank is not None
    seconds = _seconds(manifest.pop("seconds", None))
    return RunView(
        slug=slug(board.track),
        title=f"Track {board.track}: {board.track_title}",
        place=f"Rank {row.rank} of {standing.ranked}" if row and complete else "Not ranked",
        score=text.number(row.score if row else None, digits),
        range_text=range_text(row.interval if row else None),
        basis=basis_text(board),
        groups=tuple((name, text.number(value, digits)) for name, value in groups.items()) if len(groups) > 1 else (),
        sure=_sure(row, standing.ranked) if row else (),
        changes=_changes(standing, row) if row else (),
        choices=len(board.alternatives),
        repeats=_repeats(board, row, digits) if row else (),
        missing=row.missing if row else (),
        tasks=tuple(_task(column, row, standing.fields) for column in board.columns) if row else (),
        charts=_charts(standing, row, run, seconds),
        took=(*_took(manifest, seconds), *usage.words(manifest.get("encoder") or {})),
        facts=text.fact_groups(manifest, "Run"),
        samples=_samples(page, board, run) if run else (),
    )


def basis_text(board: Board) -> str:
    """What a board's intervals are, for their label."""
    basis = board.intervals
    return f"{basis.level:.0%} intervals from {basis.resamples:,} resamples of {basis.resampling}, {basis.given}"


def _charts(standing: Standings, row: Row | None, run: TrackRun | None, seconds: Mapping[str, float]) -> Charts:
    name = slug(standing.board.track)
    recipe = run.manifest.get("recipe") if run else None
    clip = recipe.get("gradient_clip") if isinstance(recipe, Mapping) else None
    norms = charts.thinned(run.gradient_norms) if run else ()
    drawn = {
        "scores": standing.figures.scores(row) if row else None,
        "ranks": standing.figures.ranks(row) if row else None,
        "loss": figures.loss(charts.thinned(run.curve), name=f"{name}-loss") if run else None,
        "gradient": figures.gradient_norm(norms, clip=clip, name=f"{name}-gradient"),
        "durations": figures.durations(list(seconds.items()), name=f"{name}-durations"),
    }
    return Charts(**{key: None if svg is None else Markup(svg) for key, svg in drawn.items()})  # noqa: S704  ours


def _sure(row: Row, ranked: int) -> tuple[tuple[str, str], ...]:
    """How sure a ranked row's place is, in words."""
    found = []
    if row.rank_interval:
        low, high = row.rank_interval.best, row.rank_interval.worst
        found.append(("Rank interval", f"{low}" if low == high else f"{low}\N{EN DASH}{high}"))
    if row.p_first is not None:
        found.append(("First in", f"{row.p_first:.1%} of the draws"))
    if row.tier is not None:
        found.append(("Significance group", str(row.tier)))
    if row.distinct_from_next is not None and row.rank is not None and row.rank < ranked:
        told = "told apart" if row.distinct_from_next else "not told apart"
        p_value = "" if row.p_next is None else f" ({p_text(row.p_next)})"
        found.append(("From the next", told + p_value))
    return tuple(found)


def p_text(value: float) -> str:
    """A p-value as people write it."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


CHOICE_WORDS: Mapping[Choice, str] = {
    Choice.FLAT_MEAN: "all tasks weigh the same",
    Choice.MEAN_RANK: "mean of the ranks on each task",
    Choice.CHANCE_CORRECTED: "a task's 0 is its blind floor",
    Choice.LEFT_OUT: "without {}",
    Choice.HALVED: "half the weight of {}",
    Choice.DOUBLED: "twice the weight of {}",
}


def choice_text(alternative: Alternative) -> str:
    """A choice that the committee could have made, in words."""
    return CHOICE_WORDS[alternative.choice].format(alternative.task)


def _changes(standing: Standings, row: Row) -> tuple[ChangeView, ...]:
    """The choices under which a ranked row's rank is another."""
    if row.rank is None:
        return ()
    place = standing.figures.places[row.submission_id]
    return tuple(
        ChangeView(choice=choice_text(each), rank=each.ranks[place])
        for each in standing.board.alternatives
        if each.ranks[place] != row.rank
    )


def _repeats(board: Board, row: Row, digits: int) -> tuple[RepeatView, ...]:
    found = [("Track score", row.repeats, digits)]
    found += [(c.title, row.cells[c.name].repeats, 3) for c in board.columns if c.name in row.cells]
    return tuple(
        RepeatView(
            what=what,
            values=tuple((seed, text.number(value, shown)) for seed, value in zip(own.seeds, own.values, strict=True)),
            deviation=f"{text.number(own.deviation, 4)} ({own.freedom} degree{'s' * (own.freedom != 1)} of freedom)",
            range_text=range_text(own.interval),
        )
        for what, own, shown in found
        if own is not None
    )


def _samples(page: SubmissionPage, board: Board, run: TrackRun) -> tuple[SampleView, ...]:
    columns = {column.name: column for column in board.columns}
    files = {task: predictions_path(page.id, slug(board.track), task) for task in run.predictions}
    return tuple(
        SampleView(
            name=task,
            title=columns[task].title,
            metric=columns[task].metric or "",
            samples=items,
            href=files.get(task),
        )
        for task, items in run.samples.items()
        if items
    )


def _seconds(values: object) -> dict[str, float]:
    """The manifest's `seconds` of each stage, in the order of the stages; nothing for any other shape."""
    if not isinstance(values, Mapping):
        return {}
    return {stage.value: float(values[stage]) for stage in Stage if isinstance(values.get(stage), int | float)}


def _took(manifest: Mapping[str, Any], seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    """What a run took beside its encoder: time, memory, and how fast it trained and answered."""
    found = [("all stages", text.duration(sum(seconds.values())))] if seconds else []
    peak = manifest.get("peak_memory_gb")
    if isinstance(peak, int | float):
        found.append(("peak memory of the trainer", f"{peak:.3g} GB"))
    recipe, scores = manifest.get("recipe"), manifest.get("scores")
    train, generate = seconds.get(Stage.TRAIN), seconds.get(Stage.GENERATE)
    if isinstance(recipe, Mapping) and train and manifest.get("steps_taken_over") == 0:
        found.append(("training", f"{recipe['steps'] * recipe['batch_size'] / train:,.1f} pairs per second"))
    if isinstance(scores, Mapping) and generate:
        answers = sum(score["items"] for score in scores.values())
        found.append(("answering", f"{answers / generate:,.1f} pairs per second"))
    return found


def _task(column: TaskColumn, row: Row, fields: Mapping[str, Field]) -> TaskView:
    head = head_view(column)
    field_text = text.NONE
    if column.name in fields:
        field_text = range_text(Interval(low=fields[column.name].raw[0], high=fields[column.name].raw[1]))
    if column.name not in row.cells:
        return TaskView(head=head, score=text.NONE, range_text="", missing=True, place=text.NONE, field_text=field_text)
    cell, field = row.cells[column.name], fields[column.name]
    better = len(field.normalized) - bisect_right(field.normalized, cell.normalized)
    return TaskView(
        head=head,
        score=text.number(cell.raw),
        range_text=range_text(cell.interval),
        missing=False,
        place=f"{1 + better} of {len(field.normalized)}",
        field_text=field_text,
    )
