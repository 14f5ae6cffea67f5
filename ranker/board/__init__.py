"""The Board: one ranking of one track, with all that a page or an export shows. What comes after only formats it."""

from ranker.board.assembly import assemble, conditions
from ranker.board.evidence import Evidence, evidence
from ranker.board.values import (
    Board,
    Cell,
    Interval,
    IntervalBasis,
    Origin,
    RankInterval,
    Repeats,
    Row,
    TaskColumn,
    ranking_json,
    sensitivity_json,
)

__all__ = [
    "Board",
    "Cell",
    "Evidence",
    "Interval",
    "IntervalBasis",
    "Origin",
    "RankInterval",
    "Repeats",
    "Row",
    "TaskColumn",
    "assemble",
    "conditions",
    "evidence",
    "ranking_json",
    "sensitivity_json",
]
