"""Each of a board's best against each other: who would be ahead, and by how much (docs/statistics.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.uncertainty.intervals import LEVEL
from ranker.uncertainty.ranks import p_values

FloatArray = npt.NDArray[np.float64]
Triangle = tuple[tuple[float, ...], ...]
MOST_PAIRED = 64
"""So many rows at most: 2,016 pairs are 60 KB in data.json, and the pairs of 200 rows would be ten times that."""
_DIGITS = 12  # as in ranks.py: what differs less is equal


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The first `rows` ranked rows, each against each one below it; who stands farther down is not in it.

    Lists go by row: entry k of list i is of row i against row i + 1 + k. `ahead`: the share of draws in which row i has
    the higher score, to 3 digits (draws in which both are equal count for neither). `low` and `high`: 95% interval of
    its score minus the other's, over the same draws. `p`: two-sided p-value that the scores are equal, to 3 digits, not
    corrected: who looks at several pairs multiplies by Holm's method.
    """

    rows: int
    ahead: Triangle
    low: Triangle
    high: Triangle
    p: Triangle


def pairs(scores: FloatArray, draws: FloatArray, *, most: int = MOST_PAIRED) -> Pairs | None:
    """Of R ranked ones, best first: scores (R,), draws (R, B) that all saw together. None for fewer than two."""
    count = min(len(scores), most)
    if count < 2:
        return None
    p = p_values(scores[:count], draws[:count])
    tail = 100 * (1 - LEVEL) / 2
    ahead, low, high = [], [], []
    for i in range(count - 1):
        difference = np.round(draws[i] - draws[i + 1 : count], _DIGITS)  # (count - 1 - i, B)
        ends = np.percentile(difference, [tail, 100 - tail], axis=1)
        ahead.append(_rounded((difference > 0).mean(axis=1), 3))
        low.append(_rounded(ends[0], 5))
        high.append(_rounded(ends[1], 5))
    return Pairs(
        rows=count,
        ahead=tuple(ahead),
        low=tuple(low),
        high=tuple(high),
        p=tuple(tuple(float(f"{each:.3g}") for each in p[i, i + 1 :]) for i in range(count - 1)),
    )


def _rounded(values: FloatArray, digits: int) -> tuple[float, ...]:
    return tuple((np.round(values, digits) + 0.0).tolist())
