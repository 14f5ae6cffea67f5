"""How sure ranks are (docs/statistics.md, sections 4 to 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.uncertainty.intervals import LEVEL

FloatArray = npt.NDArray[np.float64]
ALPHA = 1 - LEVEL
_SQRT2 = math.sqrt(2)
_DIGITS = 12  # equal submissions may differ in a product's last bit
_NOTHING = 1e-12  # a difference, or a deviation, that is rounding alone; scores are of the order of 1


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """How sure one of several ranked ones is of its place.

    `best` and `worst`: 95% interval of its rank. `first`: the share of draws in which nobody is ahead of it. `p_next`:
    p-value of the difference to the one below, corrected by Holm's method for all pairs of neighbours; None for the
    last. `tier`: its significance group, counted from 1.
    """

    best: int
    worst: int
    first: float
    p_next: float | None
    tier: int

    @property
    def distinct_from_next(self) -> bool | None:
        """Whether the one below is told apart from it."""
        return None if self.p_next is None else self.p_next < ALPHA


def certainties(scores: FloatArray, draws: FloatArray) -> list[Certainty]:
    """For R ranked ones, best first: scores (R,), and draws (R, B) in which all saw the same resamples."""
    if not len(scores):
        return []
    ranks = rank_draws(np.round(draws, _DIGITS))
    own = 1 + (scores[None, :] > scores[:, None]).sum(axis=1)
    low, high = np.percentile(ranks, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)], axis=1, method="inverted_cdf")
    first = (ranks == 1).mean(axis=1)
    p = p_values(scores, draws)
    neighbours = holm([float(p[i, i + 1]) for i in range(len(scores) - 1)])
    tiers = _tiers(p, [each < ALPHA for each in neighbours])
    return [
        Certainty(
            best=int(min(low[i], own[i])),  # resampled ranks may be centred elsewhere; the official one is always in
            worst=int(max(high[i], own[i])),
            first=float(first[i]),
            p_next=neighbours[i] if i < len(neighbours) else None,
            tier=tiers[i],
        )
        for i in range(len(scores))
    ]


def rank_draws(draws: FloatArray) -> npt.NDArray[np.int64]:
    """Competition ranks (1224; ties share the best) in each draw: (R, B) to (R, B)."""
    order = np.argsort(-draws, axis=0, kind="stable")
    ordered = np.take_along_axis(draws, order, axis=0)
    place = np.broadcast_to(np.arange(len(draws))[:, None], draws.shape)
    is_new = np.ones(draws.shape, dtype=bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    shared = np.maximum.accumulate(np.where(is_new, place, 0), axis=0) + 1
    ranks = np.empty(draws.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, shared, axis=0)
    return ranks


def p_values(scores: FloatArray, draws: FloatArray) -> FloatArray:
    """Two-sided p-values (R, R) that two scores are equal: z = difference / its standard deviation over paired draws.

    The normal approximation has no floor, as a share of B draws would have at 1 / B, which Holm's factor would lift
    above any level. Without any deviation, p is 1 for equal scores and 0 for others.
    """
    difference = np.abs(scores[:, None] - scores[None, :])
    covariance = np.atleast_2d(np.cov(draws))
    own = np.diag(covariance)
    deviation = np.sqrt(np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0.0))
    p = np.ones_like(difference)
    p[difference > _NOTHING] = 0.0
    for i, j in zip(*np.nonzero((difference > _NOTHING) & (deviation > _NOTHING)), strict=True):
        p[i, j] = math.erfc(difference[i, j] / deviation[i, j] / _SQRT2)
    return p


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: the k-th smallest of m times m - k + 1, at most 1, never below a smaller one's.

    In the order of `p`.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted = [1.0] * len(p)
    largest = 0.0
    for k, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - k) * p[i]))
        adjusted[i] = largest
    return adjusted


def _tiers(p: FloatArray, distinct_from_next: Sequence[bool]) -> list[int]:
    """Significance groups, from the top: a group begins at its first member, and ends above the one that is told apart
    from that first member, or from the one just above itself.

    Which pairs are looked at depends on the data, so comparisons with a first member are corrected for all pairs.
    """
    rows, columns = np.triu_indices(len(p), k=1)
    adjusted = np.ones_like(p)
    adjusted[rows, columns] = holm(p[rows, columns].tolist())
    tiers, first = [1], 0
    for i in range(1, len(p)):
        opens = distinct_from_next[i - 1] or bool(adjusted[first, i] < ALPHA)
        first = i if opens else first
        tiers.append(tiers[-1] + opens)
    return tiers
