"""Two to four submissions side by side: by how much they differ on each task, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy.orm import Session

from ranker import imports, scoring, uncertainty
from ranker.board import Interval, evidence
from ranker.board.tabled import id_of
from ranker.config import Benchmark, RankedBenchmark, RankedTrack
from ranker.errors import UsageError
from ranker.home import Home
from ranker.scoretable import RankedRow, TableRanking, table_draws
from ranker.types import Resampling, Standing

FloatArray = npt.NDArray[np.float64]
MOST = 4
_DIGITS = 12  # draws that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First minus second: on one task in raw score, or in track score (`task` None).

    `interval`: of the paired difference, by bootstrap over what both were scored on; None where nothing but the two
    scores is known. `distinct`: it does not hold 0; None without one.
    """

    task: str | None
    first: float
    second: float
    difference: float
    interval: Interval | None
    distinct: bool | None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two of those that are compared. `ahead`: the share of draws in which the first one's track score is higher.

    `p`: two-sided, that the track scores are equal (docs/statistics.md, section 5); `p_holm`: corrected by Holm's
    method for all pairs that are compared. `differences`: the track's first, then every task's.
    """

    first: str
    second: str
    ahead: float
    p: float
    p_holm: float
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All pairs of those that are compared on one track; `resampling` says what intervals and shares let vary."""

    track: str
    resampling: Resampling
    pairs: tuple[Pairing, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What is compared, one row for each of R `names`: scores (R,), draws (R, B), and per task raw scores (R,) with
    their draws (R, B), or None.
    """

    names: Sequence[str]
    scores: FloatArray
    draws: FloatArray
    tasks: Mapping[str, tuple[FloatArray, FloatArray | None]]


def compare(
    session: Session,
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    submissions: Mapping[str, str],
    condition: str | None = None,
) -> Comparison:
    """All pairs of `submissions`, ids with the names to show, on one track.

    Raises UsageError if one of them was not evaluated whole on this board, or for fewer than two or more than four;
    else as `ranker.board.assemble`.
    """
    check_count(list(submissions.values()))
    everything = tuple(Standing)  # who names submissions wants these, whatever the rules say of them
    found = evidence(session, home, benchmark, track, condition=condition, seed=None, including=everything)
    active, scores, draws = found.track, found.scores, found.draws
    names = [task.name for task in active.active_tasks]
    for submission in submissions:
        missing = [name for name in names if name not in scores.get(submission, {})]
        if missing:
            raise UsageError(
                f"submission {submission} was not evaluated on {', '.join(missing)} of track {track} under "
                f"condition {found.choice.condition.digest[:12]}, so there is nothing to compare; run "
                f"`ranker evaluate {submission} --benchmark {benchmark.name}`"
            )
    raw = pd.DataFrame([{name: scores[key][name].value for name in names} for key in submissions], columns=names)
    scored = _Scored(
        names=list(submissions.values()),
        scores=_track_scores(raw, active),
        draws=np.stack([uncertainty.track_draws(draws[key], active) for key in submissions]),
        tasks={
            name: (raw[name].to_numpy(dtype=np.float64), np.stack([draws[key][name] for key in submissions]))
            for name in names
        },
    )
    return Comparison(track=track, resampling=Resampling.TEST_ITEMS, pairs=_pairs(scored))


def compare_table(
    session: Session, home: Home, benchmark: RankedBenchmark, track: str, *, teams: Sequence[str]
) -> Comparison:
    """All pairs of `teams` of the track's imported table, by name or beginning of their id; tasks are what is drawn.

    Raises UsageError for a team that the table does not have, or that lacks a score; else as `ranker.imports.board`.
    """
    ranking, _ = imports.ranking(session, home, benchmark, track)
    rows = [_row(ranking, team) for team in teams]
    check_count([row.team for row in rows])
    active = benchmark.track(track)
    names = [task.name for task in ranking.tasks]
    raw = pd.DataFrame([row.raw for row in rows], columns=names, dtype=float)
    scored = _Scored(
        names=[row.team for row in rows],
        scores=_track_scores(raw, active),
        draws=table_draws(ranking, active, rows).track,
        tasks={name: (raw[name].to_numpy(dtype=np.float64), None) for name in names},
    )
    return Comparison(track=track, resampling=Resampling.TASKS, pairs=_pairs(scored))


def check_count(names: Sequence[str]) -> None:
    """Raise UsageError unless there are two to four names, each once."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{twice[0]!r} is named twice; name two to {MOST} that differ")
    if not 2 <= len(names) <= MOST:
        raise UsageError(f"two to {MOST} are compared at a time, found {len(names)}")


def _row(ranking: TableRanking, name: str) -> RankedRow:
    fitting = [row for row in ranking.rows if row.team == name]
    fitting = fitting or [
        row
        for row in ranking.rows
        if row.team.casefold() == name.casefold() or (name and id_of(ranking.benchmark, row.team).startswith(name))
    ]
    if len(fitting) != 1:
        known = ", ".join(row.team for row in ranking.rows)
        raise UsageError(
            f"{name!r} names {len(fitting) or 'no'} teams of track {ranking.track}'s table; it has {known}"
        )
    if fitting[0].missing:
        raise UsageError(
            f"{fitting[0].team} has no score of {', '.join(fitting[0].missing)} in the table, so there is no track "
            "score to compare"
        )
    return fitting[0]


def _track_scores(raw: pd.DataFrame, track: RankedTrack) -> FloatArray:
    return np.asarray(scoring.combine(scoring.normalize(raw, track).to_numpy(), track).track, dtype=np.float64)


def _pairs(scored: _Scored) -> tuple[Pairing, ...]:
    p = uncertainty.p_values(scored.scores, scored.draws)
    chosen = list(combinations(range(len(scored.names)), 2))
    corrected = uncertainty.holm([float(p[i, j]) for i, j in chosen])
    return tuple(
        Pairing(
            first=scored.names[i],
            second=scored.names[j],
            ahead=float((np.round(scored.draws[i] - scored.draws[j], _DIGITS) > 0).mean()),
            p=float(p[i, j]),
            p_holm=holm,
            differences=(
                _difference(None, scored.scores, scored.draws, i, j),
                *(_difference(name, values, draws, i, j) for name, (values, draws) in scored.tasks.items()),
            ),
        )
        for (i, j), holm in zip(chosen, corrected, strict=True)
    )


def _difference(task: str | None, values: FloatArray, draws: FloatArray | None, i: int, j: int) -> Difference:
    interval = None if draws is None else Interval(**_ends(draws[i], draws[j]))
    return Difference(
        task=task,
        first=float(values[i]),
        second=float(values[j]),
        difference=float(values[i] - values[j]),
        interval=interval,
        distinct=None if interval is None else interval.low > 0 or interval.high < 0,
    )


def _ends(first: FloatArray, second: FloatArray) -> dict[str, float]:
    low, high = uncertainty.difference(first, second)
    return {"low": low, "high": high}
