"""The charts, drawn by matplotlib when the pages are made. Each function takes values and returns an <svg> element.

They are small on purpose (`WIDTH`): a phone shows one to a line, a desk two side by side, and their words
stay readable on both. Whoever calls them has the same values as text nearby.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ranker.board import Board, Row, TaskColumn
from ranker.site.svg import Ink, Words, drawn, element, layer
from ranker.site.text import NONE, compact, duration, number, team_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]
Values = Sequence[float] | npt.NDArray[np.float64]

WIDTH = 440
FOREST_ROWS = 60
_RUG_TEAMS = 40
_WORDS = 24
_SIZE = 11.0
_ROW = 19.0


@dataclass(frozen=True, kw_only=True)
class _Box:
    """Room around the axes, in pixels."""

    left: float
    right: float = 14
    top: float = 10
    bottom: float = 34


def _axes(figure: Figure, box: _Box) -> Axes:
    """Axes with a faint grid and nothing else."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (
            box.left / width,
            box.bottom / height,
            (width - box.left - box.right) / width,
            (height - box.top - box.bottom) / height,
        )
    )
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=6, labelsize=_SIZE, labelcolor=Ink.SOFT.colour)
    axes.set_axisbelow(True)
    return axes


def _segments(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    at: Values,
    ink: Ink,
    width: float,
    *,
    upright: bool = False,
) -> None:
    """Straight lines, all in one path: along x at heights `at`, or upright."""
    along = np.array([[low, high, math.nan] for low, high in ends], dtype=np.float64).ravel()
    across = np.repeat(np.asarray(at, dtype=np.float64), 3)
    x, y = (across, along) if upright else (along, across)
    axes.plot(x, y, color=ink.colour, linewidth=width, solid_capstyle="butt", clip_on=False)


def _dots(axes: Axes, x: Values, y: Values, ink: Ink, size: float = 7.5) -> None:
    axes.plot(
        x, y, "o", markersize=size, color=ink.colour, markeredgecolor=Ink.SURFACE.colour, markeredgewidth=1.2,
        clip_on=False,
    )  # fmt: skip


def shortened(words: str, most: int = _WORDS) -> str:
    """At most `most` characters of a name."""
    return words if len(words) <= most else words[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _margin(names: Sequence[str]) -> float:
    """Room for the longest of these names, in pixels; wide scripts take two places."""
    places = max((sum(2 if ord(sign) > 0x2E7F else 1 for sign in name) for name in names), default=0)
    return 16 + 6.0 * places


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

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

        axes = _axes(figure, _Box(left=44))
        axes.grid(axis="y", color=Ink.LINE.colour, linewidth=1)
        axes.plot(steps, values, color=Ink.RUG.colour, linewidth=1, clip_on=False)
        if limit is not None:
            axes.plot(steps[[0, -1]], [limit, limit], color=Ink.BLIND.colour, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.plot(steps, smooth, color=Ink.BAR.colour, linewidth=2.2, solid_capstyle="round", clip_on=False)
        axes.set_xlim(steps[0], steps[-1])
        axes.set_xlabel("training steps", color=Ink.SOFT.colour, fontsize=_SIZE, labelpad=4)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.minorticks_off()
        else:
            axes.set_ylim(bottom=min(0.0, float(values.min())))
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))

    return drawn(WIDTH, 210, draw, name=name, title=title, description=description)


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
    description = "; ".join(f"{label} {duration(value)}" for label, value in seconds)

    def draw(figure: Figure) -> None:
        axes = _axes(figure, _Box(left=_margin(labels), right=84, top=4, bottom=4))
        at = np.arange(len(values), dtype=np.float64)
        longest = max(values) or 1.0
        _segments(axes, [(0, longest)] * len(values), at, Ink.LINE, 8)
        _segments(axes, [(0, value) for value in values], at, Ink.BAR, 8)
        _rows(axes, len(values))
        axes.set_xlim(0, longest)
        axes.set_xticks([])
        axes.set_yticks(at, labels)
        for row, value in enumerate(values):
            axes.annotate(
                duration(value), (1, row), xycoords=("axes fraction", "data"), xytext=(8, 0),
                textcoords="offset points", va="center_baseline", color=Ink.INK.colour, fontsize=_SIZE,
            )  # fmt: skip

    height = 8 + (_ROW + 3) * len(values)
    return drawn(WIDTH, height, draw, name=name, title="Durations", description=description)


def _place(column: TaskColumn, value: float) -> float:
    """Where a raw score lies between the task's worst (0) and best (1) value; what is beyond lies at the end."""
    return min(max((value - column.worst) / (column.best - column.worst), 0.0), 1.0)


def _rows(axes: Axes, count: int) -> None:
    """One row per value, the first on top."""
    axes.set_ylim(count - 0.5, -0.5)


# Of a board.


class BoardFigures:
    """The figures of one board and of its submissions. What they share is computed once.

    `name` begins every id, and differs between the boards of a page.
    """

    def __init__(self, board: Board, *, name: str) -> None:
        self.board = board
        self.name = name
        self.ranked = [row for row in board.rows if row.rank is not None]
        self._fields = {
            column.name: np.sort([r.cells[column.name].normalized for r in board.rows if column.name in r.cells])
            for column in board.columns
        }
        self._backdrops: dict[tuple[TaskColumn, ...], str] = {}

    def scores(self, row: Row) -> str | None:
        """One submission's normalised scores with their intervals, over what all submissions have on each task."""
        columns = [column for column in self.board.columns if column.name in row.cells]
        if not columns:
            return None
        height = 30 + (_ROW + 2) * len(columns)

        def draw(figure: Figure) -> None:
            axes = self._scores_axes(figure, columns)
            axes.axis("off")
            at = np.arange(len(columns), dtype=np.float64)
            cells = [row.cells[column.name] for column in columns]
            bounds = [
                (each.interval.low, each.interval.high) if each.interval else (each.raw, each.raw) for each in cells
            ]
            ends = [(_place(c, low), _place(c, high)) for c, (low, high) in zip(columns, bounds, strict=True)]
            _segments(axes, ends, at, Ink.INK, 2)
            _dots(axes, [_place(c, each.raw) for c, each in zip(columns, cells, strict=True)], at, Ink.BAR)
            for y, cell in enumerate(cells):
                axes.annotate(
                    number(cell.raw), (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0),
                    textcoords="offset points", va="center_baseline", color=Ink.INK.colour, fontsize=_SIZE,
                )  # fmt: skip

        name = f"{self.name}-scores"
        return element(
            [self._scores_backdrop(tuple(columns)), layer(WIDTH, height, draw, name=name)],
            WIDTH,
            height,
            name=name,
            title="Scores against the field",
            description="; ".join(f"{c.title} {number(row.cells[c.name].raw)}" for c in columns),
        )

    def _scores_axes(self, figure: Figure, columns: Sequence[TaskColumn]) -> Axes:
        labels = [shortened(column.title) for column in columns]
        axes = _axes(figure, _Box(left=_margin(labels), right=46, top=6, bottom=24))
        _rows(axes, len(columns))
        axes.set_xlim(0, 1)
        return axes

    def _scores_backdrop(self, columns: tuple[TaskColumn, ...]) -> str:
        """What all submissions that were scored on these tasks have in common in their figure of scores."""
        if columns not in self._backdrops:
            words = Words()
            at = np.arange(len(columns), dtype=np.float64)

            def draw(figure: Figure) -> None:
                axes = self._scores_axes(figure, columns)
                axes.grid(axis="x", color=Ink.LINE.colour, linewidth=1)
                self._field(axes, [column.name for column in columns])
                floors = [(_place(c, c.blind), y) for c, y in zip(columns, at, strict=True) if c.blind is not None]
                lines = [(y - 0.36, y + 0.36) for _, y in floors]
                _segments(axes, lines, [x for x, _ in floors], Ink.BLIND, 2, upright=True)
                axes.set_xticks([0, 0.5, 1], ["worst", "half", "best"])
                axes.set_yticks(at, [words.put(shortened(column.title)) for column in columns])

            height = 30 + (_ROW + 2) * len(columns)
            name = f"{self.name}-field-{len(self._backdrops)}"
            self._backdrops[columns] = layer(WIDTH, height, draw, name=name, words=words)
        return self._backdrops[columns]

    def _field(self, axes: Axes, tasks: Sequence[str]) -> None:
        """Per task: from the lowest to the highest, the middle half, and a tick per team where teams are few."""
        at = np.arange(len(tasks), dtype=np.float64)
        values = [np.clip(self._fields[task], 0, 1) for task in tasks]
        _segments(axes, [(each[0], each[-1]) for each in values], at, Ink.FIELD, 4)
        quarters = [np.quantile(each, (0.25, 0.75)) for each in values]
        _segments(axes, [(low, high) for low, high in quarters], at, Ink.FIELD, 11)
        if len(self.board.rows) <= _RUG_TEAMS:
            ticks = [(value, y) for y, each in enumerate(values) for value in each]
            _segments(axes, [(y - 0.24, y + 0.24) for _, y in ticks], [x for x, _ in ticks], Ink.RUG, 1, upright=True)

    def ranks(self, row: Row) -> str | None:
        """How often a ranked submission has each rank under other choices, its own rank and that one's interval.

        None for one without a rank, and where there is nobody to compare it with.
        """
        if row.rank is None or len(self.ranked) < 2 or not self.board.alternatives:
            return None
        own, place = row.rank, self.ranked.index(row)
        found = [alternative.ranks[place] for alternative in self.board.alternatives]
        counts = np.bincount(found, minlength=len(self.ranked) + 1)[1:]
        most = int(counts.max())

        def draw(figure: Figure) -> None:
            from matplotlib.ticker import MaxNLocator

            axes = _axes(figure, _Box(left=20, right=20, top=22, bottom=36))
            if row.rank_interval:
                ends = (row.rank_interval.best - 0.4, row.rank_interval.worst + 0.4)
                axes.axvspan(*ends, color=Ink.FIELD.colour, linewidth=0)
            taken = [rank for rank in range(1, len(self.ranked) + 1) if counts[rank - 1]]
            heights = [counts[rank - 1] for rank in taken]
            room = (WIDTH - 40) / len(self.ranked)
            _segments(axes, [(0, h) for h in heights], taken, Ink.RUG, min(16, max(2, 0.5 * room)), upright=True)
            if counts[own - 1]:
                _segments(axes, [(0, counts[own - 1])], [own], Ink.BAR, min(16, max(2, 0.5 * room)), upright=True)
            shown = sorted(sorted(taken, key=lambda rank: -counts[rank - 1])[:8])
            for rank in shown:
                axes.annotate(
                    str(counts[rank - 1]), (rank, counts[rank - 1]), xytext=(0, 4), textcoords="offset points",
                    ha="center", fontsize=_SIZE, color=Ink.INK.colour,
                )  # fmt: skip
            axes.axhline(0, color=Ink.STRONG.colour, linewidth=1)
            axes.set_xlim(0.5, len(self.ranked) + 0.5)
            axes.set_ylim(0, most)
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
            if len(self.ranked) <= 12:
                axes.set_xticks(range(1, len(self.ranked) + 1))
            axes.set_xlabel("rank", color=Ink.SOFT.colour, fontsize=_SIZE, labelpad=4)

        description = f"Rank {own}; under {len(found)} other choices it has " + ", ".join(
            f"rank {rank} in {counts[rank - 1]}" for rank in range(1, len(self.ranked) + 1) if counts[rank - 1]
        )
        title = "Rank under other choices"
        return drawn(WIDTH, 150, draw, name=f"{self.name}-ranks", title=title, description=description)

    def forest(self) -> str | None:
        """Everybody's rank with its interval, and the ranks that other choices would give; the first `FOREST_ROWS`."""
        rows = [row for row in self.ranked if row.rank_interval][:FOREST_ROWS]
        if len(rows) < 2:
            return None
        words = Words()
        labels = [shortened(team_name(row.team, row.submission_id)) for row in rows]
        ranks = [alternative.ranks for alternative in self.board.alternatives]
        others = [(min(own), max(own)) for own in zip(*ranks, strict=True)][: len(rows)] if ranks else []

        def draw(figure: Figure) -> None:
            from matplotlib.ticker import MaxNLocator

            axes = _axes(figure, _Box(left=_margin(labels), right=16, top=6, bottom=36))
            at = np.arange(len(rows), dtype=np.float64)
            axes.grid(axis="x", color=Ink.LINE.colour, linewidth=1)
            intervals = [row.rank_interval for row in rows if row.rank_interval]
            _segments(axes, [(each.best - 0.3, each.worst + 0.3) for each in intervals], at, Ink.FIELD, 10)
            _segments(axes, others, at[: len(others)], Ink.STRONG, 1.4)
            ends = [(end, y) for y, both in enumerate(others) for end in both]
            _segments(axes, [(y - 0.2, y + 0.2) for _, y in ends], [x for x, _ in ends], Ink.STRONG, 1.4, upright=True)
            _dots(axes, [row.rank or 0 for row in rows], at, Ink.BAR, 7)
            _rows(axes, len(rows))
            highest = max([each.worst for each in intervals] + [high for _, high in others])
            axes.set_xlim(0.5, highest + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
            axes.set_xlabel("rank", color=Ink.SOFT.colour, fontsize=_SIZE, labelpad=4)
            axes.set_yticks(at, [words.put(label) for label in labels])

        description = "; ".join(
            f"{label}: rank {row.rank}, {row.rank_interval.best} to {row.rank_interval.worst}"
            for label, row in zip(labels, rows, strict=True)
            if row.rank_interval
        )
        return drawn(
            WIDTH,
            44 + _ROW * len(rows),
            draw,
            name=f"{self.name}-forest",
            title="Ranks and how sure they are",
            description=description,
            words=words,
        )

    def agreement(self) -> str | None:
        """Each ranked submission's mean on hidden tasks over that on public ones; None without both."""
        if self.board.agreement is None:
            return None
        first, second = self.board.agreement.first, self.board.agreement.second
        pairs = [(row.groups[first] or 0.0, row.groups[second] or 0.0) for row in self.ranked]

        def draw(figure: Figure) -> None:
            from matplotlib.ticker import MaxNLocator

            axes = _axes(figure, _Box(left=54, bottom=38))
            axes.grid(color=Ink.LINE.colour, linewidth=1)
            _dots(axes, [x for x, _ in pairs], [y for _, y in pairs], Ink.BAR)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5))
            axes.set_xlabel(f"mean of {first} tasks", color=Ink.SOFT.colour, fontsize=_SIZE, labelpad=4)
            axes.set_ylabel(f"mean of {second} tasks", color=Ink.SOFT.colour, fontsize=_SIZE, labelpad=6)
            axes.margins(0.06)

        tau = self.board.agreement.tau
        description = f"{len(pairs)} teams; Kendall's tau is {NONE if math.isnan(tau) else number(tau, 2)}."
        title = f"{first.capitalize()} against {second} tasks"
        return drawn(WIDTH, 260, draw, name=f"{self.name}-agreement", title=title, description=description)
