"""What the method page's template sees: this board's own numbers in the formulas that made it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from markupsafe import Markup

from ranker.board import Board, Row, TaskColumn
from ranker.site import text
from ranker.site.pages import SubmissionPage
from ranker.site.submission_view import Standings, basis_text, choice_text, p_text
from ranker.site.track_view import HeadView, head_view, range_text, slug
from ranker.types import MetricName, Part, Resampling
from ranker.uncertainty import ALPHA, LEVEL, Alternative, t_quantile, tail_of

_MOVES = 6
_STEP_DIGITS = 6
_SAME = 1e-9


@dataclass(frozen=True, kw_only=True)
class TaskStep:
    """One task of the worked example. Every figure is shown to six decimals, or whole."""

    title: str
    raw: str
    worst: str
    best: str
    normalized: str
    weight: str
    product: str


@dataclass(frozen=True, kw_only=True)
class GroupStep:
    """The weighted mean of one group's tasks, or of all: `total` / `weights` = `mean`. `name` is empty for all."""

    name: str
    steps: tuple[TaskStep, ...]
    total: str
    weights: str
    mean: str
    weight: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """The leader's score, step by step: `score` is what the steps give, `shown` that figure as the board shows it.

    `official` is what the board shows; `agrees`, whether the two are the same number.
    """

    team: str
    groups: tuple[GroupStep, ...]
    score: str
    shown: str
    official: str
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """One task in the table: its head, and what it counts in the track's score."""

    head: HeadView
    share: str
    unit: str
    quantile: str
    tail: str


@dataclass(frozen=True, kw_only=True)
class MetricView:
    """One metric that the board has: its name as computed, whose formula it has, and the models it was made with."""

    name: str
    base: MetricName | None
    instead: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PairView:
    """The leader and the next: their difference, its interval, and how likely it is by chance."""

    second: str
    difference: str
    deviation: str
    range_text: str
    p_value: str
    corrected: str
    told_apart: bool


@dataclass(frozen=True, kw_only=True)
class TierView:
    """One significance group and who is in it."""

    number: int
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AlternativeView:
    """One line of the table of other choices. `moves`: who stands elsewhere, as (name, official rank, other rank)."""

    choice: str
    changed: int
    tau: str
    without: str
    moves: tuple[tuple[str, int, int], ...]
    more: int


@dataclass(frozen=True, kw_only=True)
class TrackMethod:
    """One track's section of the page. `shown`: the columns of the tasks' table that are not empty.

    `hanging`: how many ranks change under some other choice. `leader_firsts`: the draws in which nobody is ahead.
    `agreement`: tau, its interval, and the number of teams.
    """

    slug: str
    board: Board
    title: str
    basis: str
    ranked: int
    over_tasks: bool
    example: Example | None
    tasks: tuple[TaskView, ...]
    shown: frozenset[str]
    metrics: tuple[MetricView, ...]
    leader: Row | None
    leader_name: str
    leader_range: str
    leader_firsts: int | None
    pair: PairView | None
    tiers: tuple[TierView, ...]
    alternatives: tuple[AlternativeView, ...]
    hanging: int
    agreement: tuple[str, str, str] | None
    forest: Markup | None
    scatter: Markup | None
    condition: tuple[text.Fact, ...]
    recipe: tuple[text.Fact, ...]
    commands: tuple[str, ...]
    repeated: bool


@dataclass(frozen=True, kw_only=True)
class MethodView:
    """The page. `level` and `alpha` as the sections' sentences name them."""

    tracks: tuple[TrackMethod, ...]
    level: str
    alpha: str


def method_view(standings: Sequence[Standings], pages: Sequence[SubmissionPage]) -> MethodView:
    """The method page of these boards; what the runs of `pages` recorded says with which recipe they were made."""
    return MethodView(
        tracks=tuple(_track(each, _recipe(each.board, pages)) for each in standings),
        level=f"{LEVEL:.0%}",
        alpha=text.compact(ALPHA),
    )


def worked_example(board: Board, digits: int) -> Example | None:
    """The score of the board's first row from its raw scores; None without a ranked row or where a weight is unknown.

    Nothing is taken from the row but raw scores: formulas (1) and (2) of docs/protocol.md, section 4.
    """
    leader = next((row for row in board.rows if row.rank == 1), None)
    if leader is None or leader.score is None or any(column.weight is None for column in board.columns):
        return None
    shares = board.group_weights
    names = list(dict.fromkeys(column.group.value for column in board.columns)) if shares else [""]
    groups, means = [], []
    for name in names:
        members = [column for column in board.columns if name in {"", column.group.value}]
        step, mean = _group(name, members, leader, "" if shares is None else text.compact(shares[name]))
        groups.append(step)
        means.append((1.0 if shares is None else shares[name], mean))
    score = math.fsum(weight * mean for weight, mean in means) / math.fsum(weight for weight, _ in means)
    return Example(
        team=text.team_name(leader.team, leader.submission_id),
        groups=tuple(groups),
        score=text.number(score, _STEP_DIGITS),
        shown=text.number(score, digits),
        official=text.number(leader.score, digits),
        agrees=math.isclose(score, leader.score, abs_tol=_SAME),
    )


def _group(name: str, columns: Sequence[TaskColumn], row: Row, weight: str) -> tuple[GroupStep, float]:
    steps, products, weights = [], [], []
    for column in columns:
        raw = row.cells[column.name].raw
        share = column.weight or 0.0
        normalized = (raw - column.worst) / (column.best - column.worst)
        products.append(share * normalized)
        weights.append(share)
        steps.append(
            TaskStep(
                title=column.title,
                raw=text.number(raw, _STEP_DIGITS),
                worst=text.compact(column.worst),
                best=text.compact(column.best),
                normalized=text.number(normalized, _STEP_DIGITS),
                weight=text.compact(share),
                product=text.number(share * normalized, _STEP_DIGITS),
            )
        )
    mean = math.fsum(products) / math.fsum(weights)
    step = GroupStep(
        name=name,
        steps=tuple(steps),
        total=text.number(math.fsum(products), _STEP_DIGITS),
        weights=text.compact(math.fsum(weights)),
        mean=text.number(mean, _STEP_DIGITS),
        weight=weight,
    )
    return step, mean


def _track(standing: Standings, recipe: Mapping[str, Any]) -> TrackMethod:
    board, figures = standing.board, standing.figures
    ranked = figures.ranked
    leader = ranked[0] if ranked else None
    alternatives = tuple(_alternative(each, ranked) for each in board.alternatives)
    drawn = board.intervals.resampling is not Resampling.TASKS
    return TrackMethod(
        slug=slug(board.track),
        board=board,
        title=f"Track {board.track}: {board.track_title}",
        basis=basis_text(board),
        ranked=len(ranked),
        over_tasks=not drawn,
        example=worked_example(board, standing.digits),
        tasks=tuple(_task(column, board) for column in board.columns),
        shown=frozenset(
            name
            for name in ("items", "unit", "blind", "confound")
            if any(getattr(c, name) is not None for c in board.columns)
        ),
        metrics=_metrics(board),
        leader=leader,
        leader_name=_name(leader) if leader else "",
        leader_range="" if leader is None else range_text(leader.interval, standing.digits),
        leader_firsts=None
        if leader is None or leader.p_first is None
        else round(leader.p_first * board.intervals.resamples),
        pair=_pair(board, ranked),
        tiers=_tiers(ranked),
        alternatives=alternatives,
        hanging=sum(
            1 for place, row in enumerate(ranked) if any(a.ranks[place] != row.rank for a in board.alternatives)
        ),
        agreement=_agreement(board),
        forest=_markup(figures.forest()),
        scatter=_markup(figures.agreement()),
        condition=_condition(board),
        recipe=tuple(fact for group in text.fact_groups(recipe, "Recipe") for fact in group.facts),
        commands=_commands(board),
        repeated=any(row.repeats or any(cell.repeats for cell in row.cells.values()) for row in board.rows),
    )


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)  # noqa: S704  drawn here, its words escaped


def _name(row: Row) -> str:
    return text.team_name(row.team, row.submission_id)


def _task(column: TaskColumn, board: Board) -> TaskView:
    units = column.units
    drawn = units is not None and units > 1
    return TaskView(
        head=head_view(column),
        share=text.NONE if (share := _share(column, board)) is None else f"{share:.2%}",
        unit=text.NONE if units is None else f"{units:,} \N{MULTIPLICATION SIGN} {column.unit}",
        quantile=text.number(t_quantile((1 + LEVEL) / 2, units - 1), 3) if drawn and units else text.NONE,
        tail=f"{tail_of(units):.2%}" if drawn else text.NONE,
    )


def _share(column: TaskColumn, board: Board) -> float | None:
    """What the track's score changes by where the task's normalised score changes by 1."""
    members = [each for each in board.columns if board.group_weights is None or each.group is column.group]
    if column.weight is None or any(each.weight is None for each in members):
        return None
    within = column.weight / math.fsum(each.weight or 0.0 for each in members)
    if board.group_weights is None:
        return within
    return within * board.group_weights[column.group.value] / math.fsum(board.group_weights.values())


def _metrics(board: Board) -> tuple[MetricView, ...]:
    found = []
    for name in dict.fromkeys(column.metric for column in board.columns):
        base, _, rest = (name or "").partition("[")
        remarks = [each for each in rest.removesuffix("]").split(",") if each]
        own = f"{base}[clip]" if "clip" in remarks else base
        found.append(
            MetricView(
                name=name or "as the table's maker gives it",
                base=MetricName(own) if own in set(MetricName) else None,
                instead=", ".join(each for each in remarks if each != "clip"),
                tasks=tuple(column.title for column in board.columns if column.metric == name),
            )
        )
    return tuple(found)


def _pair(board: Board, ranked: Sequence[Row]) -> PairView | None:
    """The first two ranked rows, as `Board.pairs` has them."""
    if board.pairs is None or len(ranked) < 2 or ranked[0].score is None or ranked[1].score is None:
        return None
    first, second = ranked[:2]
    own, p_value = ranked[0].score - ranked[1].score, board.pairs.p[0][0]
    return PairView(
        second=_name(second),
        difference=text.number(own, 4),
        deviation=_deviation(own, p_value),
        range_text=f"{text.number(board.pairs.low[0][0], 4)} to {text.number(board.pairs.high[0][0], 4)}",
        p_value=p_text(p_value),
        corrected=text.NONE if first.p_next is None else p_text(first.p_next),
        told_apart=bool(first.distinct_from_next),
    )


def _deviation(difference: float, p_value: float) -> str:
    """The standard deviation that a two-sided normal p-value implies; a dash where it says nothing."""
    if not 1e-12 < p_value < 1:
        return text.NONE
    return text.number(abs(difference) / NormalDist().inv_cdf(1 - p_value / 2), 4)


def _tiers(ranked: Sequence[Row]) -> tuple[TierView, ...]:
    numbers = dict.fromkeys(row.tier for row in ranked if row.tier is not None)
    return tuple(
        TierView(number=number, names=tuple(_name(row) for row in ranked if row.tier == number)) for number in numbers
    )


def _alternative(each: Alternative, ranked: Sequence[Row]) -> AlternativeView:
    moved = [
        (_name(row), row.rank or 0, rank) for row, rank in zip(ranked, each.ranks, strict=True) if rank != row.rank
    ]
    moved.sort(key=lambda move: -abs(move[1] - move[2]))
    return AlternativeView(
        choice=choice_text(each),
        changed=each.changed,
        tau=text.number(each.tau),
        without=", ".join(each.without),
        moves=tuple(moved[:_MOVES]),
        more=max(len(moved) - _MOVES, 0),
    )


def _agreement(board: Board) -> tuple[str, str, str] | None:
    found = board.agreement
    if found is None or math.isnan(found.tau):
        return None
    return text.number(found.tau), f"{text.number(found.low)} to {text.number(found.high)}", str(found.teams)


def _condition(board: Board) -> tuple[text.Fact, ...]:
    facts = []
    for each in board.conditions:
        values = each.to_json() | {"digest": each.digest}
        del values["demonstration"]
        if each.part is Part.PUBLIC:
            del values["part"]
        facts += [text.fact(key, value) for key, value in values.items()]
    if board.seed is not None:
        facts.append(text.fact("seed", board.seed))
    if board.origin is not None:
        facts += [text.fact("source", board.origin.source), text.fact("digest", board.origin.digest)]
    return tuple(facts)


def _recipe(board: Board, pages: Sequence[SubmissionPage]) -> Mapping[str, Any]:
    """The recipe that the first ranked submission's public run recorded; nothing of an imported table."""
    order = {row.submission_id: place for place, row in enumerate(board.rows)}
    known = sorted((page for page in pages if page.id in order), key=lambda page: order[page.id])
    runs = [run for page in known for run in page.runs if run.track == board.track and run.part is Part.PUBLIC]
    found = [run.manifest["recipe"] for run in runs if isinstance(run.manifest.get("recipe"), Mapping)]
    return found[0] if found else {}


_PLAIN = re.compile(r"[\w.-]+")


def _commands(board: Board) -> tuple[str, ...]:
    """How the organizers print again what stands here. A track whose name a shell would read otherwise is quoted."""
    track = board.track if _PLAIN.fullmatch(board.track) else f"'{board.track}'"
    base = f"ranker rank --benchmark {board.benchmark} --track {track}"
    condition = "" if board.condition is None else f" --condition {board.condition.digest[:12]}"
    return (base + condition, base + condition + " --sensitivity", base + condition + " --json")
