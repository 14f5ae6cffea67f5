"""A Board of an imported table: nothing but task scores is known, so that its intervals draw tasks."""

from __future__ import annotations

import math
from datetime import datetime

import pandas as pd

from ranker.board.values import (
    GIVEN_SCORES,
    Board,
    Cell,
    Interval,
    IntervalBasis,
    Origin,
    RankInterval,
    Row,
    TaskColumn,
)
from ranker.config import RankedTask, RankedTrack
from ranker.errors import ConfigError
from ranker.scoretable import RankedRow, TableRanking
from ranker.scoring import normalize
from ranker.types import digest_json

_ID_DIGITS = 12


def of_table(ranking: TableRanking, track: RankedTrack, origin: Origin, *, now: datetime) -> Board:
    """The board of a ranking by `ranker.scoretable`. Raises ConfigError where a task's domain is not given."""
    names = [task.name for task in ranking.tasks]
    raw = pd.DataFrame([row.raw for row in ranking.rows], columns=names, dtype=float)
    normalized = normalize(raw, track).to_dict(orient="records")
    return Board(
        benchmark=ranking.benchmark,
        benchmark_title=ranking.benchmark_title,
        track=ranking.track,
        track_title=ranking.track_title,
        seed=None,
        condition=None,
        demonstration=(),
        columns=tuple(_column(task, track, ranking) for task in ranking.tasks),
        rows=tuple(
            _row(row, ranking, {str(task): float(value) for task, value in own.items()})
            for row, own in zip(ranking.rows, normalized, strict=True)
        ),
        made_at=now,
        intervals=IntervalBasis(resampling=ranking.resampling, given=GIVEN_SCORES),
        alternatives=ranking.alternatives,
        agreement=ranking.agreement,
        group_weights=None
        if track.group_weights is None
        else {group.value: share for group, share in track.group_weights.items()},
        pairs=ranking.pairs,
        origin=origin,
    )


def id_of(benchmark: str, team: str) -> str:
    """A team's id on boards of imported tables, the same on all tracks: they have no submissions."""
    return digest_json([benchmark, team])[:_ID_DIGITS]


def _column(task: RankedTask, track: RankedTrack, ranking: TableRanking) -> TaskColumn:
    if task.domain is None:
        raise ConfigError(
            f"benchmark {ranking.benchmark}, task {task.name}: a board says what each task listens to; write `domain: "
            "speech`, `sound` or `music`"
        )
    return TaskColumn(
        name=task.name,
        title=task.title,
        domain=task.domain,
        group=task.group,
        metric=task.metric or "",
        worst=task.worst,
        best=task.best,
        weight=track.weight_of(task),
        items=task.test_items,
        blind=None,
        signal=None,
        confound=None,
    )


def _row(row: RankedRow, ranking: TableRanking, normalized: dict[str, float]) -> Row:
    sure = row.sure
    return Row(
        rank=row.rank,
        team=row.team,
        submission_id=id_of(ranking.benchmark, row.team),
        score=row.score,
        interval=None if row.interval is None else Interval(low=row.interval[0], high=row.interval[1]),
        groups={group.value: value for group, value in row.groups.items()},
        cells={
            name: Cell(raw=value, normalized=normalized[name], interval=None)
            for name, value in row.raw.items()
            if value is not None and not math.isnan(value)
        },
        missing=row.missing,
        is_baseline=row.is_baseline,
        distinct_from_next=None if sure is None else sure.distinct_from_next,
        rank_interval=None if sure is None else RankInterval(best=sure.best, worst=sure.worst),
        p_first=None if sure is None else sure.first,
        p_next=None if sure is None else sure.p_next,
        tier=None if sure is None else sure.tier,
    )
