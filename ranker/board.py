"""The Board: one ranking of one track, with all that a page or an export shows. Everything downstream only formats it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ranker.types import Condition, Domain, Group


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95% percentile bootstrap interval over test items, given one training run."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class TaskColumn:
    """One task as the board ranks it. `items` is the number of scored test pairs, `blind` the floor (see db.models.Score).

    `signal`: whether the best submission's interval lies above `blind`; None where there is nothing to judge by.
    """

    name: str
    title: str
    domain: Domain
    group: Group
    metric: str
    worst: float
    best: float
    weight: float
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

    `groups` holds the means of the groups (public, hidden). `distinct_from_next`: whether the paired bootstrap interval of
    the difference to the next ranked row lies above zero; None for the last one.
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


@dataclass(frozen=True, kw_only=True)
class Board:
    """Rows are ordered best first, then the incomplete ones by team name."""

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

    def to_json(self) -> dict[str, Any]:
        """All of the board as plain values; times in ISO 8601 with their zone."""
        value = asdict(self)
        value["made_at"] = self.made_at.isoformat()
        return value
