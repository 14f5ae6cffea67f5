"""Geometry of the small marks in tables; the templates turn it into elements. The charts are in `figures`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranker.board import Interval

HEAT_STEPS = 8
_SMALLEST_SPREAD = 0.1
_CURVE_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A value with its interval on a shared axis from 0 to 100; `low` equals `high` where there is no interval."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The values that a shared axis begins and ends with."""

    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies, 0 to 100; values outside lie at the end."""
        return round(min(max((value - self.start) / (self.end - self.start), 0.0), 1.0) * 100, 2)

    def mark(self, value: float, interval: Interval | None) -> Mark:
        """A value and its interval on this axis."""
        ends = (interval.low, interval.high) if interval else (value, value)
        low, high = sorted(self.at(end) for end in ends)
        return Mark(low=low, middle=self.at(value), high=high)


def axis_of(values: Sequence[float]) -> Axis:
    """An axis that holds all values with some room on both sides; raises ValueError for none."""
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or 0.01
    return Axis(start=low - room, end=high + room)


def heat(value: float, field: Sequence[float]) -> int:
    """Shade 0 to 8 of a normalised score by its place between the field's lowest and highest.

    The place is squared, since most of a field stands near its top, where shades should tell teams apart. A field that
    differs by less than a tenth of the scale is not stretched over all shades: small differences look small.
    """
    low, high = min(field), max(field)
    return round(((value - low) / max(high - low, _SMALLEST_SPREAD)) ** 2 * HEAT_STEPS)


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about 400 of a curve's finite points, evenly taken, the last one always among them."""
    finite = [(step, loss) for step, loss in curve if math.isfinite(loss)]
    stride = max(1, math.ceil(len(finite) / _CURVE_POINTS))
    return finite[::-1][::stride][::-1]
