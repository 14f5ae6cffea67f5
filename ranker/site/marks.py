"""A chart's own marks, as elements that stand where the values lie in its frame. Pure.

They are written here and not drawn by matplotlib, which takes a hundred times as long: a page of 200 teams has a
thousand charts, and what these share is drawn once, behind the marks (`ranker.site.svg.background`).
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

from ranker.site.svg import SIZE, Frame, Ink

MIDDLE = 4.0
"""How far below the middle of a line of words its baseline lies."""


def segments(
    frame: Frame,
    ends: Iterable[tuple[float, float]],
    at: Iterable[float],
    ink: Ink,
    width: float,
    *,
    upright: bool = False,
) -> str:
    """Straight lines, all in one path: along x at heights `at`, or upright."""
    if upright:
        found = (
            f"M{_at(frame.across(x))} {_at(frame.down(low))}V{_at(frame.down(high))}"
            for (low, high), x in zip(ends, at, strict=True)
        )
    else:
        found = (
            f"M{_at(frame.across(low))} {_at(frame.down(y))}H{_at(frame.across(high))}"
            for (low, high), y in zip(ends, at, strict=True)
        )
    path = "".join(found)
    return f'<path class="s-{ink}" fill="none" stroke-width="{width:g}" d="{path}"/>' if path else ""


def line(frame: Frame, points: Iterable[tuple[float, float]], ink: Ink, width: float, *, dashes: str = "") -> str:
    """A line through points. `dashes`: lengths of strokes and gaps."""
    places = dict.fromkeys(f"{_at(frame.across(x))} {_at(frame.down(y))}" for x, y in points)  # each once
    more = f' stroke-dasharray="{dashes}"' if dashes else ' stroke-linecap="round"'
    return f'<path class="s-{ink}" fill="none" stroke-width="{width:g}"{more} d="M{" ".join(places)}"/>'


def dots(frame: Frame, points: Iterable[tuple[float, float]], ink: Ink, size: float = 7.5) -> str:
    """Discs of this diameter, each with an edge that parts it from what it lies on."""
    found = (f'<circle cx="{_at(frame.across(x))}" cy="{_at(frame.down(y))}" r="{size / 2:g}"/>' for x, y in points)
    return f'<g class="f-{ink} s-{Ink.SURFACE}" stroke-width="1.2">{"".join(found)}</g>'


def shade(frame: Frame, low: float, high: float, ink: Ink) -> str:
    """The frame's whole height, from one value to another."""
    start, end = frame.across(low), frame.across(high)
    height = frame.height - frame.top - frame.bottom
    return (
        f'<rect class="f-{ink}" x="{_at(start)}" y="{_at(frame.top)}" width="{_at(end - start)}"'
        f' height="{_at(height)}"/>'
    )


def words(texts: Iterable[tuple[float, float, str]], ink: Ink = Ink.INK, *, anchor: str = "start") -> str:
    """Texts at pixels of the chart: where a text starts (or its middle or end lies), and its baseline."""
    found = (f'<text x="{_at(x)}" y="{_at(y)}">{escape(text)}</text>' for x, y, text in texts)
    return f'<g class="f-{ink}" font-size="{SIZE:g}" text-anchor="{anchor}">{"".join(found)}</g>'


def _at(value: float) -> str:
    """A tenth of a pixel is enough; no zero has a sign."""
    return f"{round(value, 1) + 0.0:g}"
