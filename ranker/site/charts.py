"""Geometry of the drawings, in the coordinates of their SVG view boxes. Pure; the templates turn it into elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from ranker.board import Cell, Interval, TaskColumn
from ranker.site.text import compact, number

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


@dataclass(frozen=True, kw_only=True)
class TaskBar:
    """One task of one submission on an axis from the metric's worst (0) to its best (100) value.

    `field_low` and `field_high` span all submissions of the board; `blind` is the floor, None where there is none.
    """

    score: Mark
    field_low: float
    field_high: float
    blind: float | None


def task_bar(column: TaskColumn, cell: Cell, field: tuple[float, float]) -> TaskBar:
    """Geometry of one row of a submission's page; `field`: two raw scores that span all submissions."""
    axis = Axis(start=column.worst, end=column.best)
    low, high = sorted(map(axis.at, field))
    return TaskBar(
        score=axis.mark(cell.raw, cell.interval),
        field_low=low,
        field_high=high,
        blind=None if column.blind is None else axis.at(column.blind),
    )


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A training curve in a box of `width` x `height`: `points` and `smooth` are polylines, `summary` is in words."""

    width: int
    height: int
    points: str
    smooth: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


def thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about 400 of a curve's finite points, evenly taken, the last one always among them."""
    finite = [(step, loss) for step, loss in curve if math.isfinite(loss)]
    stride = max(1, math.ceil(len(finite) / _CURVE_POINTS))
    return finite[::-1][::stride][::-1]


def training_curve(curve: Sequence[tuple[int, float]], width: int = 640, height: int = 200) -> Curve | None:
    """The loss over steps, and its centred moving average over a twentieth of the points; None below two points."""
    points = thinned(curve)
    if len(points) < 2 or points[0][0] == points[-1][0]:
        return None
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    first, last = min(steps), max(steps)
    y_values = _round_values(min(0.0, *losses), max(losses))
    low, high = y_values[0], max(y_values[-1], *losses)

    def x(step: float) -> float:
        return round((step - first) / (last - first) * width, 1)

    def y(loss: float) -> float:
        return round((1 - (loss - low) / ((high - low) or 1.0)) * height, 1)

    reach = len(losses) // 40
    averages = [mean(losses[max(0, at - reach) : at + reach + 1]) for at in range(len(losses))]
    return Curve(
        width=width,
        height=height,
        points=" ".join(f"{x(step)},{y(loss)}" for step, loss in points),
        smooth=" ".join(f"{x(step)},{y(loss)}" for step, loss in zip(steps, averages, strict=True)),
        x_ticks=tuple(
            Tick(at=x(step), label=f"{step:,.0f}") for step in _round_values(first, last) if first <= step <= last
        ),
        y_ticks=tuple(Tick(at=y(loss), label=compact(loss)) for loss in y_values if low <= loss <= high),
        summary=f"Training loss from {number(losses[0], 2)} at step {first} to {number(losses[-1], 2)} at step {last}",
    )


def _round_values(low: float, high: float) -> list[float]:
    """Three to six round values, at a step of 1, 2 or 5 times a power of ten, the first of them not above `low`."""
    span = (high - low) or abs(high) or 1.0
    power: float = 10.0 ** math.floor(math.log10(span / 3))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    start = math.floor(low / step)
    return [round((start + index) * step, 10) for index in range(math.ceil(high / step) - start + 1)]
