"""The charts. Each function takes values and returns an <svg> element.

What stands behind the values (scales, grid, words of the axes) is drawn by matplotlib, once for all charts that share
it; the values are marks over it. Charts are small on purpose (`WIDTH`): a phone shows one to a line, a desk two side by
side, and their words stay readable on both. Whoever calls them has the same values as text nearby.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranker.board import Board, Row, TaskColumn
from ranker.site import marks
from ranker.site.svg import SIZE, Frame, Ink, Words, background, element
from ranker.site.text import NONE, compact, duration, number, team_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[tuple[int, float]]

WIDTH = 440
FOREST_ROWS = 60
_RUG_TEAMS = 40
_WORDS = 24
_ROW = 19.0
_LOG_TICKS = 6
_KEPT = 256  # backgrounds in memory: of some boards, with as many scales as their runs need


def shortened(words: str, most: int = _WORDS) -> str:
    """At most `most` characters of a name."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _margin(names: Sequence[str]) -> float:
    """Room for the longest of these names, in pixels; wide scripts take two places."""
    places = max((sum(2 if ord(sign) > 0x2E7F else 1 for sign in name) for name in names), default=0)
    return 16 + 6.0 * places


def _rows(count: int) -> tuple[float, float]:
    """The upright axis of one row per value, the first on top."""
    return count - 0.5, -0.5


def _beside(frame: Frame, texts: Sequence[str]) -> str:
    """A text at the right of each row."""
    right = frame.width - frame.right + 8
    return marks.words([(right, frame.down(row) + marks.MIDDLE, text) for row, text in enumerate(texts)])


# Of a training.


def loss(curve: Curve, *, name: str) -> str | None:
    """The training loss over steps with its moving average over a twentieth of the points; None below two steps."""
    points = _finite(curve)
    if not _spans_steps(points):
        return None
    (first, start), (last, end) = points[0], points[-1]
    description = (
        f"From {number(start, 2)} at step {first:,} to {number(end, 2)} at step {last:,}; "
        f"the lowest is {number(min(value for _, value in points), 2)}."
    )
    return _over_steps(points, name=name, title="Training loss", description=description)


def gradient_norm(curve: Curve, *, clip: float | None, name: str) -> str | None:
    """The gradient's norm over steps, on a logarithmic scale; a line where it is cut. None below two steps."""
    points = [point for point in _finite(curve) if point[1] > 0]
    if not _spans_steps(points):
        return None
    middle = float(np.median([value for _, value in points]))
    description = f"Its median is {compact(float(f'{middle:.3g}'))}" + (
        "." if clip is None else f"; what is above {compact(clip)} is cut to that."
    )
    title = "Norm of the gradient"
    return _over_steps(points, name=name, title=title, description=description, logarithmic=True, limit=clip)


def _over_steps(
    points: Curve,
    *,
    name: str,
    title: str,
    description: str,
    logarithmic: bool = False,
    limit: float | None = None,
) -> str:
    steps, values = (np.array(each, dtype=np.float64) for each in zip(*points, strict=True))
    level = np.log(values) if logarithmic else values
    smooth = _smoothed(level)
    smooth = np.exp(smooth) if logarithmic else smooth
    shown = values if limit is None else np.append(values, limit)
    ticks = (_log_ticks if logarithmic else _ticks)(float(shown.min()), float(shown.max()))
    frame = Frame(
        width=WIDTH,
        height=210,
        left=44,
        x=(points[0][0], points[-1][0]),
        y=(ticks[0], ticks[-1]),
        logarithmic=logarithmic,
    )
    layers = [_steps(frame, ticks), marks.line(frame, points, Ink.RUG, 1)]
    if limit is not None:
        layers.append(marks.line(frame, [(end, limit) for end in frame.x], Ink.BLIND, 1.4, dashes="5.6 4.2"))
    layers.append(marks.line(frame, list(zip(steps.tolist(), smooth.tolist(), strict=True)), Ink.BAR, 2.2))
    return element(frame, layers, name=name, title=title, description=description)


@lru_cache(maxsize=_KEPT)
def _steps(frame: Frame, ticks: tuple[float, ...]) -> str:
    """What curves over these steps and this scale have behind them."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axes.grid(axis="y", color=Ink.LINE.colour, linewidth=1)
        axes.set_xlabel("training steps", color=Ink.SOFT.colour, fontsize=SIZE, labelpad=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_yticks(ticks, [compact(value) for value in ticks])
        axes.minorticks_off()

    return background(frame, draw)


def _ticks(low: float, high: float) -> tuple[float, ...]:
    """Round values from zero, or below, to beyond the highest one: scales that end on a tick are the same for many."""
    from matplotlib.ticker import MaxNLocator

    return tuple(map(float, MaxNLocator(5).tick_values(min(0.0, low), high)))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Once, twice and five times powers of ten, from below all values to above; so many that each can be read."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    every = [float(f"{mantissa}e{power}") for power in range(first, last + 1) for mantissa in (1, 2, 5)]
    start = max(each for each in every if each * 1.02 <= low)
    end = min(each for each in every if each >= high * 1.02)
    inner = [each for each in every if start < each < end]
    if len(inner) > _LOG_TICKS:
        inner = [each for each in inner if f"{each:e}".startswith("1.0")]
        inner = inner[:: -(-len(inner) // _LOG_TICKS)]
    return (start, *inner, end)


def _finite(curve: Curve) -> list[tuple[int, float]]:
    return [(step, value) for step, value in curve if math.isfinite(value)]


def _spans_steps(points: Curve) -> bool:
    return len(points) > 1 and points[0][0] < points[-1][0]


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The centred moving average over a twentieth of the values, over fewer at both ends."""
    reach = len(values) // 40
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    means: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def durations(seconds: Sequence[tuple[str, float]], *, name: str) -> str | None:
    """How long each part of a run took; None where nothing is known."""
    if not seconds:
        return None
    labels, values = zip(*seconds, strict=True)
    longest = max(values) or 1.0
    rows, height = range(len(values)), 8 + (_ROW + 3) * len(values)
    frame = Frame(width=WIDTH, height=height, left=_margin(labels), right=84, top=4, bottom=4, y=_rows(len(values)))
    layers = [
        _scale(frame, rows=labels),
        marks.segments(frame, [(0, 1)] * len(values), rows, Ink.LINE, 8),
        marks.segments(frame, [(0, value / longest) for value in values], rows, Ink.BAR, 8),
        _beside(frame, [duration(value) for value in values]),
    ]
    description = "; ".join(f"{label} {duration(value)}" for label, value in seconds)
    return element(frame, layers, name=name, title="Durations", description=description)


@lru_cache(maxsize=_KEPT)
def _scale(
    frame: Frame, *, rows: tuple[str, ...] = (), across: tuple[tuple[float, str], ...] = (), label: str = ""
) -> str:
    """Names of rows, and of places across them, with a line at each; `label` says what is told across."""
    words = Words()

    def draw(axes: Axes) -> None:
        if rows:
            axes.grid(axis="x", color=Ink.LINE.colour, linewidth=1)
        axes.set_xticks([at for at, _ in across], [words.put(text) for _, text in across])
        axes.set_yticks(range(len(rows)), [words.put(text) for text in rows])
        if label:
            axes.set_xlabel(label, color=Ink.SOFT.colour, fontsize=SIZE, labelpad=4)

    return background(frame, draw, words=words)


def _rank_ticks(last: float) -> tuple[tuple[float, str], ...]:
    """About ten ranks from 1 to the last one; all of up to twelve."""
    from matplotlib.ticker import MaxNLocator

    if last <= 12.5:
        found = list(range(1, int(last) + 1))
    else:
        places = MaxNLocator(10, integer=True, min_n_ticks=1).tick_values(0.5, last)
        found = [round(each) for each in places if 0.5 <= each <= last]
    return tuple((rank, str(rank)) for rank in found)


# Of a board.


class BoardFigures:
    """The figures of one board and of its submissions. What they share is computed once.

    `name` begins every id, and differs between the boards of a page.
    """

    def __init__(self, board: Board, *, name: str) -> None:
        self.board = board
        self.name = name
        self.ranked = [row for row in board.rows if row.rank is not None]
        self.places = {row.submission_id: place for place, row in enumerate(self.ranked)}
        self._fields = {
            column.name: np.sort([r.cells[column.name].normalized for r in board.rows if column.name in r.cells])
            for column in board.columns
        }
        self._fields_drawn: dict[tuple[str, ...], str] = {}

    def scores(self, row: Row) -> str | None:
        """One submission's normalised scores with their intervals, over what all submissions have on each task."""
        columns = [column for column in self.board.columns if column.name in row.cells]
        if not columns:
            return None
        labels = tuple(shortened(column.title) for column in columns)
        rows, height = range(len(columns)), 30 + (_ROW + 2) * len(columns)
        frame = Frame(
            width=WIDTH, height=height, left=_margin(labels), right=46, top=6, bottom=24, y=_rows(len(columns))
        )
        cells = [row.cells[column.name] for column in columns]
        bounds = [(each.interval.low, each.interval.high) if each.interval else (each.raw, each.raw) for each in cells]
        ends = [(_place(c, low), _place(c, high)) for c, (low, high) in zip(columns, bounds, strict=True)]
        own = [(_place(c, each.raw), y) for y, (c, each) in enumerate(zip(columns, cells, strict=True))]
        layers = [
            _scale(frame, rows=labels, across=((0, "worst"), (0.5, "half"), (1, "best"))),
            self._field(frame, columns),
            marks.segments(frame, ends, rows, Ink.INK, 2),
            marks.dots(frame, own, Ink.BAR),
            _beside(frame, [number(each.raw) for each in cells]),
        ]
        description = "; ".join(f"{c.title} {number(row.cells[c.name].raw)}" for c in columns)
        title = "Scores against the field"
        return element(frame, layers, name=f"{self.name}-scores", title=title, description=description)

    def _field(self, frame: Frame, columns: Sequence[TaskColumn]) -> str:
        """What is behind all that were scored on these tasks: per task from the lowest to the highest, the middle half,
        a tick per team where teams are few, and the blind floor.
        """
        names = tuple(column.name for column in columns)
        if names not in self._fields_drawn:
            rows = range(len(names))
            values = [np.clip(self._fields[name], 0, 1) for name in names]
            quarters = [np.quantile(each, (0.25, 0.75)) for each in values]
            floors = [(_place(c, c.blind), y) for y, c in enumerate(columns) if c.blind is not None]
            found = [
                marks.segments(frame, [(each[0], each[-1]) for each in values], rows, Ink.FIELD, 4),
                marks.segments(frame, [(low, high) for low, high in quarters], rows, Ink.FIELD, 11),
            ]
            if len(self.board.rows) <= _RUG_TEAMS:
                found.append(_upright(frame, [(v, y) for y, each in enumerate(values) for v in each], 0.24, Ink.RUG, 1))
            self._fields_drawn[names] = "".join([*found, _upright(frame, floors, 0.36, Ink.BLIND, 2)])
        return self._fields_drawn[names]

    def ranks(self, row: Row) -> str | None:
        """How often a ranked submission has each rank under other choices, its own rank and that one's interval.

        None for one without a rank, and where there is nobody to compare it with.
        """
        if row.rank is None or len(self.ranked) < 2 or not self.board.alternatives:
            return None
        own, place, last = row.rank, self.places[row.submission_id], len(self.ranked) + 0.5
        found = [alternative.ranks[place] for alternative in self.board.alternatives]
        counts = {rank: found.count(rank) for rank in sorted(set(found))}
        frame = Frame(width=WIDTH, height=150, left=20, right=20, top=22, bottom=36, x=(0.5, last))
        bars = replace(frame, y=(0, max(counts.values())))
        wide = min(16, max(2, 0.5 * (WIDTH - 40) / len(self.ranked)))
        most_first = sorted(counts, key=lambda rank: -counts[rank])[:8]
        layers = [_scale(frame, across=_rank_ticks(last), label="rank")]
        if row.rank_interval:
            layers.append(marks.shade(frame, row.rank_interval.best - 0.4, row.rank_interval.worst + 0.4, Ink.FIELD))
        for ranks, ink in ((list(counts), Ink.RUG), ([own] if own in counts else [], Ink.BAR)):
            layers.append(marks.segments(bars, [(0, counts[rank]) for rank in ranks], ranks, ink, wide, upright=True))
        layers += [
            marks.segments(frame, [frame.x], [0], Ink.STRONG, 1),
            marks.words(
                [(bars.across(rank), bars.down(counts[rank]) - 4, str(counts[rank])) for rank in sorted(most_first)],
                anchor="middle",
            ),
        ]
        description = f"Rank {own}; under {len(found)} other choices it has " + ", ".join(
            f"rank {rank} in {count}" for rank, count in counts.items()
        )
        title = "Rank under other choices"
        return element(frame, layers, name=f"{self.name}-ranks", title=title, description=description)

    def forest(self) -> str | None:
        """Everybody's rank with its interval, and the ranks that other choices would give; the first `FOREST_ROWS`."""
        known = [(row, row.rank_interval, row.rank or 0) for row in self.ranked if row.rank_interval][:FOREST_ROWS]
        if len(known) < 2:
            return None
        labels = tuple(shortened(team_name(row.team, row.submission_id)) for row, _, _ in known)
        choices = [alternative.ranks for alternative in self.board.alternatives]
        others = [(min(own), max(own)) for own in zip(*choices, strict=True)][: len(known)] if choices else []
        last = max([each.worst for _, each, _ in known] + [high for _, high in others]) + 0.5
        frame = Frame(
            width=WIDTH, height=44 + _ROW * len(known), left=_margin(labels), right=16, top=6, bottom=36,
            x=(0.5, last), y=_rows(len(known)),
        )  # fmt: skip
        layers = [
            _scale(frame, rows=labels, across=_rank_ticks(last), label="rank"),
            marks.segments(
                frame, [(e.best - 0.3, e.worst + 0.3) for _, e, _ in known], range(len(known)), Ink.FIELD, 10
            ),
            marks.segments(frame, others, range(len(others)), Ink.STRONG, 1.4),
            _upright(frame, [(end, y) for y, both in enumerate(others) for end in both], 0.2, Ink.STRONG, 1.4),
            marks.dots(frame, [(rank, y) for y, (_, _, rank) in enumerate(known)], Ink.BAR, 7),
        ]
        description = "; ".join(
            f"{label}: rank {rank}, {each.best} to {each.worst}"
            for label, (_, each, rank) in zip(labels, known, strict=True)
        )
        title = "Ranks and how sure they are"
        return element(frame, layers, name=f"{self.name}-forest", title=title, description=description)

    def agreement(self) -> str | None:
        """Each ranked submission's mean on hidden tasks over that on public ones; None without both."""
        if self.board.agreement is None:
            return None
        first, second = self.board.agreement.first, self.board.agreement.second
        pairs = [(row.groups[first] or 0.0, row.groups[second] or 0.0) for row in self.ranked]
        x, y = (_ends_around(values) for values in zip(*pairs, strict=True))
        frame = Frame(width=WIDTH, height=260, left=54, bottom=38, x=x, y=y)

        def draw(axes: Axes) -> None:
            from matplotlib.ticker import MaxNLocator

            axes.grid(color=Ink.LINE.colour, linewidth=1)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5))
            axes.set_xlabel(f"mean of {first} tasks", color=Ink.SOFT.colour, fontsize=SIZE, labelpad=4)
            axes.set_ylabel(f"mean of {second} tasks", color=Ink.SOFT.colour, fontsize=SIZE, labelpad=6)

        tau = self.board.agreement.tau
        description = f"{len(pairs)} teams; Kendall's tau is {NONE if math.isnan(tau) else number(tau, 2)}."
        title = f"{first.capitalize()} against {second} tasks"
        layers = [background(frame, draw), marks.dots(frame, pairs, Ink.BAR)]
        return element(frame, layers, name=f"{self.name}-agreement", title=title, description=description)


def _place(column: TaskColumn, value: float) -> float:
    """Where a raw score lies between the task's worst (0) and best (1) value; what is beyond lies at the end."""
    return min(max((value - column.worst) / (column.best - column.worst), 0.0), 1.0)


def _upright(frame: Frame, at: Sequence[tuple[float, float]], reach: float, ink: Ink, width: float) -> str:
    """Short upright lines at places, `reach` to both sides."""
    ends = [(y - reach, y + reach) for _, y in at]
    return marks.segments(frame, ends, [x for x, _ in at], ink, width, upright=True)


def _ends_around(values: Sequence[float]) -> tuple[float, float]:
    """A scale that holds all values with some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 0.01
    return low - room, high + room
