"""The Board as a value: every field that a page or an export may show, and what it means."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from ranker.types import Condition, Domain, Group, Resampling, Standing
from ranker.uncertainty import LEVEL, RESAMPLES, Agreement, Alternative, Pairs

GIVEN_ONE_RUN = "given one training run"
GIVEN_SCORES = "given each task's score"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% interval. What varies in it and what is held fixed stands in `Board.intervals`, unless the field says."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RankInterval:
    """A 95% interval of a rank, from the `best` (a small number) to the `worst`; it always holds the official rank."""

    best: int
    worst: int


@dataclass(frozen=True, kw_only=True)
class IntervalBasis:
    """How a board's intervals were made, for their label: `level` in 0 to 1, from so many `resamples`.

    `resampling`: what was drawn with replacement, so what the intervals let vary. `given`: what they hold fixed.
    """

    level: float = LEVEL
    resamples: int = RESAMPLES
    resampling: Resampling = Resampling.TEST_ITEMS
    given: str = GIVEN_ONE_RUN


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """One score with several training seeds: on one task (raw) or of the track. The first is the one that counts.

    `values` go with `seeds`. `deviation`: the standard deviation of a single training (n - 1 below the root), from all
    repeated submissions of the board together, with `freedom` degrees of freedom. `interval`: of the score that counts,
    with test items and seed both varying (docs/statistics.md, section 7); wider than the cell's or row's own.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    deviation: float
    freedom: int
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the scores of a board come from that were not measured here: a table somebody imported.

    `digest`: SHA-256 of the file as it came. `source`: who made it, in the words of whoever imported it. `supersedes`:
    the digest of the table that stood here before; None for the first one.
    """

    digest: str
    source: str
    imported_at: datetime
    supersedes: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """One task as the board ranks it. `items` counts the scored test pairs, `blind` is the floor (see db.models.Score).

    `weight` is None where it is the number of test items and nobody was scored yet.
    `signal`: whether the best submission's interval lies above `blind`; None where there is nothing to judge by.
    `metric` is the raw score's name, empty where a table's maker does not say.
    `unit` and `units`: what was drawn with replacement for the task's intervals, and how many of it there are: `clip`,
    or the field of a clip's JSON that the benchmark names as cluster, such as `speaker`; None where nothing was drawn.
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
    unit: str | None = None
    units: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One submission's score on one task: raw, normalised by the task's bounds, and the raw score's interval.

    `interval` is None where nothing but the score is known. `repeats`: with other seeds, where it was repeated.
    """

    raw: float
    normalized: float
    interval: Interval | None
    repeats: Repeats | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One submission. An incomplete one has no rank and no score, and lists what is missing.

    Nor has one whose `standing` is pending: `pending` says, in words for everybody, what the rules still ask of it.
    A baseline (`is_baseline`) has no rank either, and nobody's rank counts it: it stands where its score belongs.
    `groups` holds the means of the groups (public, hidden). `interval`: of the score.

    Only of ranked rows, else None: `rank_interval`; `p_first`, the share of draws in which nobody is ahead (several
    rows may be first in one draw); `p_next`, p-value that the score of the next ranked row is as good, corrected by
    Holm's method for all neighbours (None for the last one), and `distinct_from_next`, whether it is below 0.05;
    `tier`, the significance group, counted from 1 at the top: its members are not told apart from its first one.
    `repeats`: the track score with other seeds, where all of the track was repeated.
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
    is_baseline: bool = False
    rank_interval: RankInterval | None = None
    p_first: float | None = None
    p_next: float | None = None
    tier: int | None = None
    repeats: Repeats | None = None


@dataclass(frozen=True, kw_only=True)
class Board:
    """Rows are ordered best first, baselines among them, then the incomplete ones by team name, then the pending ones
    likewise.

    `group_weights`: what each group's own mean counts in the score; None where all tasks are weighed together.
    `condition` is that of the track's public part, `others` are those of its other parts (see `lineup.Choice`), `seed`
    that of the training. A board of an imported table has an `origin` instead, and neither of them; its rows' ids are
    made from teams' names, since there are no submissions.
    `pairs`: the best ranked rows against each other; None for fewer than two.
    `intervals` labels all intervals. `alternatives`: ranks of the ranked rows, in their order here, under other choices
    of the committee. `agreement`: how alike public and hidden tasks order the ranked rows; None without both.
    """

    benchmark: str
    benchmark_title: str
    track: str
    track_title: str
    seed: int | None
    condition: Condition | None
    demonstration: tuple[str, ...]
    columns: tuple[TaskColumn, ...]
    rows: tuple[Row, ...]
    made_at: datetime
    others: tuple[Condition, ...] = ()
    group_weights: dict[str, float] | None = None
    intervals: IntervalBasis = IntervalBasis()
    alternatives: tuple[Alternative, ...] = ()
    agreement: Agreement | None = None
    pairs: Pairs | None = None
    origin: Origin | None = None

    @property
    def basis(self) -> str:
        """SHA-256 of what the scores hang on: the condition's digest, or the imported table's."""
        if self.condition is not None:
            return self.condition.digest
        assert self.origin is not None, "a board is of measurements or of a table"
        return self.origin.digest

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Under what its scores were measured, the public part's condition first; none of an imported table."""
        return () if self.condition is None else (self.condition, *self.others)

    def to_json(self) -> dict[str, Any]:
        """All of the board as plain values; times in ISO 8601 with their zone."""
        value = asdict(self)
        value["made_at"] = self.made_at.isoformat()
        value["basis"] = self.basis
        if self.origin is not None:
            value["origin"]["imported_at"] = self.origin.imported_at.isoformat()
        return value

    def to_frame(self) -> pd.DataFrame:
        """The flat table of the CSV export: one row per submission; task columns hold raw scores.

        `.low` and `.high` bound the 95% intervals, `rank.low` is the best rank. Task names hold no dot, so they meet no
        derived column. Tasks in `missing` are separated by spaces.
        """
        bounds = [row.rank_interval for row in self.rows]
        columns: dict[str, list[Any]] = {
            "rank": [row.rank for row in self.rows],
            "team": [row.team for row in self.rows],
            "submission": [row.submission_id for row in self.rows],
            **_spread("score", [row.score for row in self.rows], [row.interval for row in self.rows]),
            "rank.low": [each.best if each else None for each in bounds],
            "rank.high": [each.worst if each else None for each in bounds],
            "p_first": [row.p_first for row in self.rows],
            "p_next": [row.p_next for row in self.rows],
            "tier": [row.tier for row in self.rows],
        }
        for group in dict.fromkeys(column.group for column in self.columns):
            columns[f"mean.{group}"] = [row.groups[group] for row in self.rows]
        for column in self.columns:
            cells = [row.cells.get(column.name) for row in self.rows]
            raw = [cell.raw if cell else None for cell in cells]
            columns |= _spread(column.name, raw, [cell.interval if cell else None for cell in cells])
        columns["missing"] = [" ".join(row.missing) for row in self.rows]
        columns["standing"] = [row.standing for row in self.rows]
        columns["baseline"] = [row.is_baseline for row in self.rows]
        return pd.DataFrame(columns).astype(dict.fromkeys(("rank", "rank.low", "rank.high", "tier"), "Int64"))


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
        **_identity(board),
        "seed": board.seed,
        "demonstration": list(board.demonstration),
        "intervals": asdict(board.intervals),
        "agreement": None if board.agreement is None else asdict(board.agreement),
        "rows": [
            {
                "team": row.team,
                "submission": row.submission_id,
                "standing": row.standing,
                "baseline": row.is_baseline,
                "rank": row.rank,
                "score": row.score,
                "interval": None if row.interval is None else asdict(row.interval),
                "rank_interval": None if row.rank_interval is None else asdict(row.rank_interval),
                "p_first": row.p_first,
                "p_next": row.p_next,
                "tier": row.tier,
                "groups": dict(row.groups),
                "tasks": {name: row.cells[name].raw if name in row.cells else None for name in names},
                "missing": list(row.missing),
                "pending": list(row.pending),
            }
            for row in board.rows
        ],
    }


def sensitivity_json(board: Board) -> dict[str, Any]:
    """What `ranker rank --sensitivity --json` prints: `ranks` here and in each alternative go with `teams`."""
    ranked = [row for row in board.rows if row.rank is not None]
    return {
        "benchmark": board.benchmark,
        "track": board.track,
        **_identity(board),
        "teams": [row.team for row in ranked],
        "submissions": [row.submission_id for row in ranked],
        "ranks": [row.rank for row in ranked],
        "alternatives": [asdict(each) for each in board.alternatives],
        "agreement": None if board.agreement is None else asdict(board.agreement),
    }


def _identity(board: Board) -> dict[str, str | None]:
    """By what the scores were made: a condition, or an imported table."""
    return {
        "condition": None if board.condition is None else board.condition.digest,
        "table": None if board.origin is None else board.origin.digest,
    }
