"""From draws to intervals (docs/statistics.md, sections 3 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ranker.uncertainty.resampling import Draws

LEVEL = 0.95
_NORMAL = NormalDist()


def interval(draws: Draws, *, units: float | None = None) -> tuple[float, float]:
    """The central `LEVEL` of the draws: lower and upper percentile (Efron, Tibshirani 1993, chapter 13).

    With `units`, the number of things that were drawn, it is the expanded percentile interval (Hesterberg 2015), which
    takes percentiles farther out by as much as a t interval is wider than a normal one of the plain variance: plain
    percentiles are too narrow by sqrt((n - 1) / n) and know nothing of t. With 1,000 units it is 0.2% wider.
    """
    tail = 100 * tail_of(units)
    low, high = np.percentile(draws, [tail, 100 - tail])
    return float(low), float(high)


def tail_of(units: float | None) -> float:
    """The share of draws on each side of an interval: (1 - LEVEL) / 2, or less for few `units`."""
    tail = (1 - LEVEL) / 2
    if units is None:
        return tail
    if units <= 1:
        return 0.0
    return _NORMAL.cdf(-math.sqrt(units / (units - 1)) * t_quantile(1 - tail, units - 1))


def t_quantile(p: float, freedom: float) -> float:
    """Student's t quantile at `p` for `freedom` > 0, by the expansion of Abramowitz and Stegun 1964, 26.7.5.

    From 3 degrees of freedom on, it is right to 0.2% at p = 0.975; with 2 it is 1% too low, with 1, 11%.
    """
    z = _NORMAL.inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def effective_units(variances: Sequence[float], units: Sequence[int]) -> float | None:
    """How many units a sum of independent parts has, by their variances and their own numbers of units.

    Satterthwaite 1946: freedom = (sum v)^2 / sum(v^2 / (n - 1)), and one more unit than that. None where nothing varies
    or a part that varies has a single unit.
    """
    varying = [(v, n) for v, n in zip(variances, units, strict=True) if v > 0]
    if not varying or any(n < 2 for _, n in varying):
        return None
    return 1 + sum(v for v, _ in varying) ** 2 / sum(v * v / (n - 1) for v, n in varying)


def difference(first: Draws, second: Draws) -> tuple[float, float]:
    """Interval of `first - second`, resample by resample; both must come from the same draws."""
    return interval(first - second)


def with_seeds(value: float, low: float, high: float, *, deviation: float, freedom: int) -> tuple[float, float]:
    """An interval that lets test items and the seed of the training vary: `low` and `high` let the items vary alone.

    Distances from the value to both ends are squared and added to that of the seeds, t * deviation (Zou, Donner 2008,
    for a sum of independent parts, each with its own interval). `deviation` is that of one training, estimated with
    `freedom` degrees of freedom.
    """
    seeds = t_quantile(1 - (1 - LEVEL) / 2, freedom) * deviation
    return value - math.hypot(value - low, seeds), value + math.hypot(high - value, seeds)
