"""Two submissions side by side: by how much they differ on each task, and whether that is more than chance would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from ranker import uncertainty
from ranker.board import Interval, evidence
from ranker.config import Benchmark, Track
from ranker.errors import UsageError
from ranker.home import Home
from ranker.types import Standing


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First minus second: on one task in raw score, or in track score (`task` None).

    `interval`: of the paired difference, by bootstrap over the test items that both were scored on. `distinct`: it
    does not hold 0.
    """

    task: str | None
    first: float
    second: float
    difference: float
    interval: Interval
    distinct: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def compare(
    session: Session,
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    first: str,
    second: str,
    condition: str | None = None,
) -> tuple[Difference, ...]:
    """The track first, then every task, for the submissions with ids `first` and `second`.

    Raises UsageError if one of them was not evaluated whole on this board; else as `ranker.board.assemble`.
    """
    everything = tuple(Standing)  # who names two submissions wants these two, whatever the rules say of them
    found = evidence(session, home, benchmark, track, condition=condition, seed=None, including=everything)
    active, scores, draws = found.track, found.scores, found.draws
    names = [task.name for task in active.active_tasks]
    for submission in (first, second):
        missing = [name for name in names if name not in scores.get(submission, {})]
        if missing:
            raise UsageError(
                f"submission {submission} was not evaluated on {', '.join(missing)} of track {track} under "
                f"condition {found.choice.condition.digest[:12]}, so there is nothing to compare; run "
                f"`ranker evaluate {submission} --benchmark {benchmark.name}`"
            )
    whole = {key: uncertainty.track_draws(draws[key], active) for key in (first, second)}
    ones = {key: _track_score(active, {name: scores[key][name].value for name in names}) for key in whole}
    differences = [_difference(None, ones[first], ones[second], whole[first], whole[second])]
    for name in names:
        one, other = scores[first][name].value, scores[second][name].value
        differences.append(_difference(name, one, other, draws[first][name], draws[second][name]))
    return tuple(differences)


def _track_score(track: Track, raw: dict[str, float]) -> float:
    import pandas as pd

    from ranker import scoring

    return float(scoring.rank(pd.DataFrame([raw]), track)["score"].iloc[0])


def _difference(
    task: str | None, first: float, second: float, first_draws: uncertainty.Draws, second_draws: uncertainty.Draws
) -> Difference:
    low, high = uncertainty.difference(first_draws, second_draws)
    return Difference(
        task=task,
        first=first,
        second=second,
        difference=first - second,
        interval=Interval(low=low, high=high),
        distinct=low > 0 or high < 0,
    )
