"""The Board: one ranking of one track, with all that a page or an export shows. What comes after only formats it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker import lineup, scoring, uncertainty
from ranker.config import Benchmark, Task, Track
from ranker.db.models import Job, Score, Submission
from ranker.errors import MissingError, OrganizerError
from ranker.home import Home
from ranker.metrics import reweighted
from ranker.rules import SHOWN, missing, shown_name, standing
from ranker.types import Condition, Domain, Group, JobKind, Standing, Status, Weighting

Scores = dict[str, dict[str, Score]]  # submission id -> task -> score
TaskDraws = dict[str, dict[str, uncertainty.Draws]]  # submission id -> task -> (B,)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% percentile bootstrap interval over test items, given one training run."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """One task as the board ranks it. `items` counts the scored test pairs, `blind` is the floor (see db.models.Score).

    `weight` is None where it is the number of test items and nobody was scored yet.
    `signal`: whether the best submission's interval lies above `blind`; None where there is nothing to judge by.
    """

    name: str
    title: str
    domain: Domain
    group: Group
    metric: str
    worst: float
    best: float
    weight: float | None
    items: int | None
    blind: float | None
    signal: bool | None
    confound: str | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One submission's score on one task: raw, normalised by the task's bounds, and the raw score's interval."""

    raw: float
    normalized: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One submission. An incomplete one has no rank and no score, and lists what is missing.

    Nor has one whose `standing` is pending: `pending` says, in words for everybody, what the rules still ask of it.
    `groups` holds the means of the groups (public, hidden). `distinct_from_next`: whether the paired bootstrap
    interval of the difference to the next ranked row lies above zero; None for the last one.
    """

    rank: int | None
    team: str
    submission_id: str
    score: float | None
    interval: Interval | None
    groups: dict[str, float | None]
    cells: dict[str, Cell]
    missing: tuple[str, ...]
    distinct_from_next: bool | None = None
    standing: Standing = Standing.RANKED
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Board:
    """Rows are ordered best first, then the incomplete ones by team name, then the pending ones likewise.

    `condition` is that of the track's public part, `others` are those of its other parts (see `lineup.Choice`).
    """

    benchmark: str
    benchmark_title: str
    track: str
    track_title: str
    seed: int
    condition: Condition
    demonstration: tuple[str, ...]
    columns: tuple[TaskColumn, ...]
    rows: tuple[Row, ...]
    made_at: datetime
    others: tuple[Condition, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of the board as plain values; times in ISO 8601 with their zone."""
        value = asdict(self)
        value["made_at"] = self.made_at.isoformat()
        return value

    def to_frame(self) -> pd.DataFrame:
        """The flat table of the CSV export: one row per submission; task columns hold raw scores.

        `.low` and `.high` bound the 95% intervals. Task names hold no dot, so they meet no derived column. Tasks in
        `missing` are separated by spaces.
        """
        columns: dict[str, list[Any]] = {
            "rank": [row.rank for row in self.rows],
            "team": [row.team for row in self.rows],
            "submission": [row.submission_id for row in self.rows],
            **_spread("score", [row.score for row in self.rows], [row.interval for row in self.rows]),
        }
        for group in dict.fromkeys(column.group for column in self.columns):
            columns[f"mean.{group}"] = [row.groups[group] for row in self.rows]
        for column in self.columns:
            cells = [row.cells.get(column.name) for row in self.rows]
            raw = [cell.raw if cell else None for cell in cells]
            columns |= _spread(column.name, raw, [cell.interval if cell else None for cell in cells])
        columns["missing"] = [" ".join(row.missing) for row in self.rows]
        columns["standing"] = [row.standing for row in self.rows]
        return pd.DataFrame(columns).astype({"rank": "Int64"})


def _spread(name: str, values: list[float | None], intervals: list[Interval | None]) -> dict[str, list[Any]]:
    return {
        name: values,
        f"{name}.low": [interval.low if interval else None for interval in intervals],
        f"{name}.high": [interval.high if interval else None for interval in intervals],
    }


def ranking_json(board: Board) -> dict[str, Any]:
    """What `ranker rank --json` prints: raw scores per task, best first, None where there is no value.

    It names its benchmark and condition, and says in `demonstration` why it is no result of the challenge, if so.
    """
    names = [column.name for column in board.columns]
    return {
        "benchmark": board.benchmark,
        "track": board.track,
        "condition": board.condition.digest,
        "seed": board.seed,
        "demonstration": list(board.demonstration),
        "rows": [
            {
                "team": row.team,
                "submission": row.submission_id,
                "standing": row.standing,
                "rank": row.rank,
                "score": row.score,
                "groups": dict(row.groups),
                "tasks": {name: row.cells[name].raw if name in row.cells else None for name in names},
                "missing": list(row.missing),
                "pending": list(row.pending),
            }
            for row in board.rows
        ],
    }


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
    now: datetime,
) -> Board:
    """Rank every accepted submission on one track, by the finished evaluations under one condition and one seed.

    Every one, that is, that the rules rank: pending ones stand below, and others are left out, except for the standings
    of `including`, which are taken as if they were ranked.
    `condition` is the start of a condition's digest and `seed` a training seed; without them it is the first of
    `conditions`. Raises ConfigError for an unknown track, UsageError where the choice fits no board or several,
    MissingError where nothing has finished yet or a file of predictions is gone, OrganizerError where one contradicts
    its score or another submission's.
    """
    found = evidence(session, home, benchmark, track, condition=condition, seed=seed, including=including)
    active, choice, scores = found.track, found.choice, found.scores
    accepted = [each for each in _accepted(session, scores) if standing(each.verdicts) in {*SHOWN, *including}]
    rows = _rows(active, accepted, scores, found.draws, including)
    return Board(
        benchmark=benchmark.name,
        benchmark_title=benchmark.title,
        track=track,
        track_title=active.title,
        seed=choice.seed,
        condition=choice.condition,
        others=choice.others,
        demonstration=choice.demonstration,
        columns=tuple(_column(active, task, rows, scores) for task in active.active_tasks),
        rows=rows,
        made_at=now,
    )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a board is made of: the evaluations chosen, their scores and each score's bootstrap draws, by submission.

    `track` has the sizes of the test sets filled in, as they were scored.
    """

    track: Track
    choice: lineup.Choice
    scores: Scores
    draws: TaskDraws


def evidence(
    session: Session,
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    condition: str | None,
    seed: int | None,
    including: Collection[Standing] = (),
) -> Evidence:
    """The evidence of one board. Arguments and errors as for `assemble`."""
    active = benchmark.track(track)
    found = lineup.finished(session, benchmark, track, including=including)
    choice, jobs = lineup.choose(found, f"track {track} of benchmark {benchmark.name}", condition, seed)
    scores: Scores = {}
    for job in jobs:
        scores.setdefault(job.submission_id, {}).update({score.task: score for score in job.scores})
    digests = {each.part: each.digest for each in choice.conditions}
    identities = {
        task.name: (benchmark.name, track, digests.get(task.part, ""), choice.seed) for task in active.active_tasks
    }
    return Evidence(
        track=_sized(active, scores), choice=choice, scores=scores, draws=_draws(home, active, scores, identities)
    )


def _sized(track: Track, scores: Scores) -> Track:
    """The track with the number of scored pairs of each task that was scored; all were scored on the same."""
    sizes = {score.task: score.items for by_task in scores.values() for score in by_task.values()}
    tasks = tuple(
        task.model_copy(update={"test_items": sizes[task.name]}) if task.name in sizes else task for task in track.tasks
    )
    return track.model_copy(update={"tasks": tasks})


def _accepted(session: Session, scores: Scores) -> list[Submission]:
    """Submissions that were evaluated or at least passed their check, by team."""
    checked = select(Job.submission_id).where(Job.kind == JobKind.CHECK, Job.status == Status.SUCCEEDED)
    ids = set(scores) | set(session.scalars(checked))
    query = select(Submission).where(Submission.id.in_(ids)).order_by(Submission.team, Submission.id)
    query = query.options(selectinload(Submission.verdicts))
    return list(session.scalars(query))


def _draws(home: Home, track: Track, scores: Scores, identities: Mapping[str, tuple[str | int, ...]]) -> TaskDraws:
    """`identities` say, per task, of what the random draws are a function."""
    draws: TaskDraws = {submission: {} for submission in scores}
    for task in track.active_tasks:
        items = {key: _items(home, task, scores[key][task.name]) for key in sorted(scores) if task.name in scores[key]}
        seed = uncertainty.seed_of(*identities[task.name], task.name)
        for key, values in uncertainty.task_draws(task, items, seed=seed).items():
            draws[key][task.name] = values
    return draws


def _items(home: Home, task: Task, score: Score) -> pd.DataFrame:
    """The per-item table behind a score; refused unless it gives the value that the database holds."""
    path = home.root / score.predictions
    if not path.is_file():
        raise MissingError(
            f"{path}: the predictions behind the {task.name} score of job {score.job_id} are gone; "
            "restore the file from a backup of the home folder"
        )
    try:
        items = pd.read_parquet(path)
        value = float(reweighted(task.metric, items, np.ones((1, len(items))), num_classes=task.num_classes)[0])
    except (OSError, ValueError, KeyError) as error:
        raise OrganizerError(
            f"{path}: is no readable table of predictions ({error}); restore it from a backup"
        ) from error
    if not math.isclose(value, score.value, abs_tol=1e-6):
        raise OrganizerError(
            f"{path}: these predictions give {value:.6f} on {task.name}, but job {score.job_id} recorded "
            f"{score.value:.6f}: one of them was changed after the run, so restore both from one backup"
        )
    return items


def _rows(
    track: Track,
    submissions: list[Submission],
    scores: Scores,
    draws: TaskDraws,
    including: Collection[Standing],
) -> tuple[Row, ...]:
    """Rows in the board's order; `submissions` come sorted by team, which decides among ties and the incomplete."""
    standings = {submission.id: standing(submission.verdicts) for submission in submissions}
    pending = {
        submission.id: missing(submission.verdicts)
        for submission in submissions
        if standings[submission.id] is Standing.PENDING and Standing.PENDING not in including
    }
    names = [task.name for task in track.active_tasks]
    raw = pd.DataFrame(math.nan, index=[submission.id for submission in submissions], columns=names)
    for key, by_task in scores.items():
        for score in by_task.values():
            if score.task in names:
                raw.loc[key, score.task] = score.value
    ranking = scoring.rank(raw.drop(index=list(pending)), track)
    normalized = scoring.normalize(raw, track)
    teams = {submission.id: shown_name(submission.team, submission.verdicts) for submission in submissions}
    cells: dict[str, dict[str, Cell]] = {
        key: {
            name: Cell(raw=float(value), normalized=float(normalized[name][key]), interval=_interval(draws[key][name]))
            for name, value in raw.loc[key].items()
            if name in draws.get(key, {})
        }
        for key in raw.index
    }
    whole = {key: uncertainty.track_draws(draws[key], track) for key in ranking.index if not ranking["missing"][key]}
    rows = [_row(key, teams[key], ranking.loc[key], cells[key], whole.get(key)) for key in ranking.index]
    below = [_pending_row(key, teams[key], track, cells[key], words) for key, words in pending.items()]
    return tuple(replace(row, standing=standings[row.submission_id]) for row in (*_compared(rows, whole), *below))


def _pending_row(key: str, team: str, track: Track, cells: dict[str, Cell], words: tuple[str, ...]) -> Row:
    return Row(
        rank=None,
        team=team,
        submission_id=key,
        score=None,
        interval=None,
        groups={task.group.value: None for task in track.active_tasks},
        cells=cells,
        missing=tuple(task.name for task in track.active_tasks if task.name not in cells),
        pending=words,
    )


def _row(key: str, team: str, entry: pd.Series[Any], cells: dict[str, Cell], whole: uncertainty.Draws | None) -> Row:
    """`entry` is the submission's row of `scoring.rank`; `whole` its track score's draws, None if it is incomplete."""
    return Row(
        rank=None if whole is None else int(entry["rank"]),
        team=team,
        submission_id=key,
        score=None if whole is None else float(entry["score"]),
        interval=None if whole is None else _interval(whole),
        groups={group.value: _present(entry[group.value]) for group in Group if group.value in entry.index},
        cells=cells,
        missing=entry["missing"],
    )


def _compared(rows: list[Row], whole: dict[str, uncertainty.Draws]) -> tuple[Row, ...]:
    """Fill in `distinct_from_next` of each row that has a ranked one below it."""
    compared = list(rows)
    for place, (upper, lower) in enumerate(pairwise(rows)):
        if lower.rank is not None:
            low, _ = uncertainty.difference(whole[upper.submission_id], whole[lower.submission_id])
            compared[place] = replace(upper, distinct_from_next=low > 0)
    return tuple(compared)


def _column(track: Track, task: Task, rows: tuple[Row, ...], scores: Scores) -> TaskColumn:
    found = [by_task[task.name] for by_task in scores.values() if task.name in by_task]
    blind = next((score.blind for score in found if score.blind is not None), None)
    return TaskColumn(
        name=task.name,
        title=task.title,
        domain=task.domain,
        group=task.group,
        metric=found[0].metric if found else task.metric,
        worst=task.worst,
        best=task.best,
        weight=track.weight_of(task) if found or track.weights is Weighting.GIVEN else task.test_items,
        items=found[0].items if found else None,
        blind=blind,
        signal=_signal(task, [row.cells[task.name] for row in rows if task.name in row.cells], blind),
        confound=task.confound,
    )


def _signal(task: Task, cells: list[Cell], blind: float | None) -> bool | None:
    """Whether the best cell's whole interval is better than answering blindly; lower is better where worst > best."""
    if blind is None or not cells:
        return None
    interval = max(cells, key=lambda cell: cell.normalized).interval
    if interval is None:
        return None
    return interval.low > blind if task.best > task.worst else interval.high < blind


def _interval(draws: uncertainty.Draws) -> Interval:
    low, high = uncertainty.interval(draws)
    return Interval(low=low, high=high)


def _present(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
