"""From evidence to a Board: who stands where, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker import lineup, scoring, uncertainty
from ranker.board import repeats
from ranker.board.evidence import Evidence, Scores, evidence
from ranker.board.values import Board, Cell, Interval, RankInterval, Row, TaskColumn
from ranker.config import Benchmark, Task
from ranker.db.models import Job, Submission
from ranker.home import Home
from ranker.reweighing import Weights
from ranker.rules import SHOWN, missing, shown_name, standing
from ranker.types import Group, JobKind, Standing, Status, Weighting


def conditions(
    session: Session, benchmark: Benchmark, track: str, *, including: Collection[Standing] = ()
) -> list[lineup.Choice]:
    """The boards that `assemble` could make of what has finished, its own choice first. Raises ConfigError."""
    return [choice for choice, _ in lineup.finished(session, benchmark, track, including=including)]


def assemble(
    session: Session,
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    condition: str | None = None,
    seed: int | None = None,
    including: Collection[Standing] = (),
    weights: Weights | None = None,
    names: Mapping[str, str] | None = None,
    now: datetime,
) -> Board:
    """Rank every accepted submission on one track, by the finished evaluations under one condition and one seed.

    Every one, that is, that the rules rank: pending ones stand below, and others are left out, except for the standings
    of `including`, which are taken as if they were ranked. The benchmark's baselines stand among the others without
    taking a rank; the rules hold for them too. `names`: other names for teams; these
    decide among ties then.
    `condition` is the start of a condition's digest and `seed` a training seed; without them it is the first of
    `conditions`. `weights`: other ones than the benchmark's, see `Weights`, also for what it raises.
    Raises ConfigError for an unknown track, UsageError where the choice fits no board or several,
    MissingError where nothing has finished yet or a file of predictions is gone, OrganizerError where one contradicts
    its score or another submission's.
    """
    found = evidence(session, home, benchmark, track, condition=condition, seed=seed, including=including)
    if weights is not None:
        found = replace(found, track=weights.applied(found.track))
    active, choice = found.track, found.choice
    names = names or {}
    accepted = [
        each for each in _accepted(session, found.scores, names) if standing(each.verdicts) in {*SHOWN, *including}
    ]
    field = _field(benchmark, found, accepted, including)
    rows = _rows(field, accepted, names)
    columns = tuple(_column(found, task, rows) for task in active.active_tasks)
    ranked = [row.submission_id for row in rows if row.rank is not None]
    return Board(
        benchmark=benchmark.name,
        benchmark_title=benchmark.title,
        track=track,
        track_title=active.title,
        seed=choice.seed,
        condition=choice.condition,
        others=choice.others,
        group_weights=None
        if active.group_weights is None
        else {group.value: share for group, share in active.group_weights.items()},
        demonstration=choice.demonstration,
        columns=columns,
        rows=rows,
        made_at=now,
        alternatives=uncertainty.alternatives(
            field.raw.loc[ranked], active, {column.name: column.blind for column in columns}
        ),
        agreement=_agreement([row for row in rows if row.rank is not None], field.means),
        pairs=_pairs([row for row in rows if row.rank is not None], field.means),
    )


@dataclass(frozen=True, kw_only=True)
class _Field:
    """All that takes part, before it is ordered. Keys are ids of submissions, in the order of teams.

    `raw` (submissions, active tasks): NaN where there is no score. `means`: draws of those that are complete, and
    `units`: how many units their track scores have.
    """

    found: Evidence
    raw: pd.DataFrame
    standings: Mapping[str, Standing]
    pending: Mapping[str, tuple[str, ...]]
    baselines: frozenset[str]
    means: Mapping[str, scoring.Means]
    units: Mapping[str, float | None]


def _accepted(session: Session, scores: Scores, names: Mapping[str, str]) -> list[Submission]:
    """Submissions that were evaluated or at least passed their check, by team."""
    checked = select(Job.submission_id).where(Job.kind == JobKind.CHECK, Job.status == Status.SUCCEEDED)
    ids = set(scores) | set(session.scalars(checked))
    query = select(Submission).where(Submission.id.in_(ids)).options(selectinload(Submission.verdicts))
    # Sorted here: each server has its own order of words.
    return sorted(session.scalars(query), key=lambda each: (names.get(each.team, each.team), each.id))


def _field(
    benchmark: Benchmark, found: Evidence, submissions: list[Submission], including: Collection[Standing]
) -> _Field:
    standings = {submission.id: standing(submission.verdicts) for submission in submissions}
    pending = {
        submission.id: missing(submission.verdicts)
        for submission in submissions
        if standings[submission.id] is Standing.PENDING and Standing.PENDING not in including
    }
    unranked = [baseline for baseline in benchmark.baselines if not baseline.ranked]
    baselines = frozenset(each.id for each in submissions if any(b.fits(each.team, each.digest) for b in unranked))
    names = [task.name for task in found.track.active_tasks]
    raw = pd.DataFrame(math.nan, index=[submission.id for submission in submissions], columns=names)
    for key in raw.index:
        for name, score in found.scores.get(key, {}).items():
            if name in names:
                raw.loc[key, name] = score.value
    complete = [key for key in raw.index[~raw.isna().any(axis=1)] if key not in pending]
    return _Field(
        found=found,
        raw=raw,
        standings=standings,
        pending=pending,
        baselines=baselines,
        means={key: uncertainty.track_means(found.draws[key], found.track) for key in complete},
        units={key: _track_units(found, key) for key in complete},
    )


def _track_units(found: Evidence, key: str) -> float | None:
    """How many units a submission's track score has, by its own tasks' variances; None where nothing varies.

    By its own, so that no interval hangs on who else is on the board, or on what they are called there.
    """
    tasks = found.track.active_tasks
    shares = scoring.combine(np.eye(len(tasks)), found.track).track  # a track score is a weighted sum of task scores
    own = found.draws[key]
    variances = [
        float(np.var(own[task.name])) * (share / (task.best - task.worst)) ** 2
        for task, share in zip(tasks, shares, strict=True)
    ]
    return uncertainty.effective_units(variances, [found.units[task.name].count for task in tasks])


def _rows(field: _Field, submissions: list[Submission], names: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows in the board's order; `submissions` come sorted by team, which decides among ties and the incomplete."""
    track = field.found.track
    teams = {each.id: shown_name(names.get(each.team, each.team), each.verdicts) for each in submissions}
    competing = field.raw.index[[key not in field.baselines and key not in field.pending for key in field.raw.index]]
    beside = field.raw.index[[key in field.baselines and key not in field.pending for key in field.raw.index]]
    ranking = [scoring.rank(field.raw.loc[keys], track) for keys in (competing, beside)]
    cells = _cells(field)
    seeded = repeats.of_track(field.found)
    unsure = [_row(field, str(key), table.loc[key], cells[str(key)]) for table in ranking for key in table.index]
    rows = [
        replace(
            row,
            team=teams[row.submission_id],
            standing=field.standings[row.submission_id],
            is_baseline=row.submission_id in field.baselines,
            repeats=repeats.repeats(seeded, row.submission_id, row.interval),
        )
        for row in (*unsure, *(_pending_row(field, key, cells[key]) for key in field.pending))
    ]
    ranked = _certain([row for row in rows if row.rank is not None], field.means)
    scored = [*ranked, *(row for row in rows if row.rank is None and row.score is not None)]
    scored.sort(key=lambda row: -(row.score or 0.0))  # stable: ties stay by team, and a baseline below its equals
    unscored = [row for row in rows if row.score is None]
    unscored.sort(key=lambda row: (bool(row.submission_id in field.pending), row.team, row.submission_id))
    return (*scored, *unscored)


def _cells(field: _Field) -> dict[str, dict[str, Cell]]:
    """The cells of each submission, by task."""
    found = field.found
    normalized = scoring.normalize(field.raw, found.track)
    cells: dict[str, dict[str, Cell]] = {key: {} for key in field.raw.index}
    for task in found.track.active_tasks:
        seeded = repeats.of_task(found, task.name)
        for key in field.raw.index:
            if task.name in found.draws.get(key, {}):
                interval = _interval(found.draws[key][task.name], found.units[task.name].count)
                cells[key][task.name] = Cell(
                    raw=float(field.raw[task.name][key]),
                    normalized=float(normalized[task.name][key]),
                    interval=interval,
                    repeats=repeats.repeats(seeded, key, interval),
                )
    return cells


def _pending_row(field: _Field, key: str, cells: dict[str, Cell]) -> Row:
    tasks = field.found.track.active_tasks
    return Row(
        rank=None,
        team="",
        submission_id=key,
        score=None,
        interval=None,
        groups={task.group.value: None for task in tasks},
        cells=cells,
        missing=tuple(task.name for task in tasks if task.name not in cells),
        pending=field.pending[key],
    )


def _row(field: _Field, key: str, entry: pd.Series[Any], cells: dict[str, Cell]) -> Row:
    """`entry` is the submission's row of `scoring.rank`; a baseline's own rank is not looked at."""
    means = field.means.get(key)
    return Row(
        rank=None if means is None or key in field.baselines else int(entry["rank"]),
        team="",
        submission_id=key,
        score=None if means is None else float(entry["score"]),
        interval=None if means is None else _interval(means.track, field.units[key]),
        groups={group.value: _present(entry[group.value]) for group in Group if group.value in entry.index},
        cells=cells,
        missing=entry["missing"],
    )


def _certain(rows: list[Row], means: Mapping[str, scoring.Means]) -> list[Row]:
    """Ranked rows, in their order, with all that is said of their ranks."""
    if not rows:
        return []
    scores = np.array([row.score for row in rows], dtype=np.float64)
    found = uncertainty.certainties(scores, np.stack([means[row.submission_id].track for row in rows]))
    return [
        replace(
            row,
            rank_interval=RankInterval(best=sure.best, worst=sure.worst),
            p_first=sure.first,
            p_next=sure.p_next,
            distinct_from_next=sure.distinct_from_next,
            tier=sure.tier,
        )
        for row, sure in zip(rows, found, strict=True)
    ]


def _agreement(rows: list[Row], means: Mapping[str, scoring.Means]) -> uncertainty.Agreement | None:
    """Of the groups' means of ranked rows; None where there are not both groups, or fewer than two rows."""
    if len(rows) < 2 or set(means[rows[0].submission_id].groups) != set(Group):
        return None
    scores = tuple(np.array([row.groups[group.value] for row in rows], dtype=np.float64) for group in Group)
    draws = tuple(np.stack([means[row.submission_id].groups[group] for row in rows]) for group in Group)
    first, second = Group
    return uncertainty.agreement((first.value, second.value), (scores[0], scores[1]), (draws[0], draws[1]))


def _pairs(rows: list[Row], means: Mapping[str, scoring.Means]) -> uncertainty.Pairs | None:
    best = rows[: uncertainty.MOST_PAIRED]
    if not best:
        return None
    scores = np.array([row.score for row in best], dtype=np.float64)
    return uncertainty.pairs(scores, np.stack([means[row.submission_id].track for row in best]))


def _column(found: Evidence, task: Task, rows: tuple[Row, ...]) -> TaskColumn:
    scores = [by_task[task.name] for by_task in found.scores.values() if task.name in by_task]
    blind = next((score.blind for score in scores if score.blind is not None), None)
    units = found.units.get(task.name)
    return TaskColumn(
        name=task.name,
        title=task.title,
        domain=task.domain,
        group=task.group,
        metric=scores[0].metric if scores else task.metric,
        worst=task.worst,
        best=task.best,
        weight=found.track.weight_of(task) if scores or found.track.weights is Weighting.GIVEN else task.test_items,
        items=scores[0].items if scores else None,
        blind=blind,
        signal=_signal(task, [row.cells[task.name] for row in rows if task.name in row.cells], blind),
        confound=task.confound,
        unit=None if units is None else units.kind,
        units=None if units is None else units.count,
    )


def _signal(task: Task, cells: list[Cell], blind: float | None) -> bool | None:
    """Whether the best cell's whole interval is better than answering blindly; lower is better where worst > best."""
    if blind is None or not cells:
        return None
    interval = max(cells, key=lambda cell: cell.normalized).interval
    if interval is None:
        return None
    return interval.low > blind if task.best > task.worst else interval.high < blind


def _interval(draws: uncertainty.Draws, units: float | None) -> Interval:
    low, high = uncertainty.interval(draws, units=units)
    return Interval(low=low, high=high)


def _present(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
