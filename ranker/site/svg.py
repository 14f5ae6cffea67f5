"""What stands behind a chart's marks, drawn by matplotlib: no style of its own, no colour but the page's, the same
bytes each time.

The pages' content policy forbids style attributes, and their colours change with light, dark and print. So all is drawn
in colours that stand for roles (`Ink`), and each becomes a class that static/figures.css gives the page's colour.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 11.0
"""Of all words, in pixels."""
_NUMBER = re.compile(r"-?\d+\.\d+")
_KEPT = {"stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "fill-opacity",
         "stroke-opacity", "text-anchor", "font-size", "font-weight"}  # fmt: skip
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "ranker", "path.simplify": True, "font.family": "DejaVu Sans"}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_NO_WORDS: Mapping[str, str] = MappingProxyType({})


class Ink(StrEnum):
    """What a colour is for; the value is the end of the class, `f-bar` where it fills and `s-bar` where it strokes."""

    INK = "ink"
    SOFT = "soft"
    LINE = "line"
    STRONG = "strong"
    BAR = "bar"
    FIELD = "field"
    RUG = "rug"
    BLIND = "blind"
    SURFACE = "surface"

    @property
    def colour(self) -> str:
        """The colour that stands for it in matplotlib, and nowhere else."""
        return f"#5a00{list(Ink).index(self):02x}"


_ROLES = {ink.colour: ink for ink in Ink}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where axes lie in a chart of `width` x `height`, and what their ends stand for. All lengths in pixels.

    `left`, `right`, `top`, `bottom`: room around the axes. `x`: the values at the left and right edge, `y`: at the
    bottom and the top; `logarithmic`: the upright axis.
    """

    width: float
    height: float
    left: float
    right: float = 14
    top: float = 10
    bottom: float = 34
    x: tuple[float, float] = (0.0, 1.0)
    y: tuple[float, float] = (0.0, 1.0)
    logarithmic: bool = False

    def across(self, value: float) -> float:
        """How far from the left a value lies."""
        start, end = self.x
        return self.left + (value - start) / (end - start) * (self.width - self.left - self.right)

    def down(self, value: float) -> float:
        """How far from the top a value lies. Raises ValueError for one that has no logarithm where it needs one."""
        start, end = self.y
        if self.logarithmic:
            start, end, value = math.log(start), math.log(end), math.log(value)
        return self.height - self.bottom - (value - start) / (end - start) * (self.height - self.top - self.bottom)


class Words(dict[str, str]):
    """Texts in any script, by the placeholders that are drawn in their stead.

    matplotlib would look for each sign in its own font, warn of those that are not there, and read `$` as mathematics;
    the browser has the fonts and the rules of every script.
    """

    def put(self, text: str) -> str:
        """The placeholder to draw for `text`."""
        key = f"W{len(self):04d}"
        self[key] = text
        return key


def element(frame: Frame, layers: Sequence[str], *, name: str, title: str, description: str) -> str:
    """An <svg> element of layers, the first at the back, with the frame's size as its natural size in CSS pixels.

    `name` is unique on the page: ids begin with it. `title` and `description` are what a screen reader says.
    """
    return (
        f'<svg class="figure" viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" stroke-linejoin="round"'
        f' aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{"".join(layers)}</svg>'
    )


def background(frame: Frame, draw: Callable[[Axes], None], *, words: Mapping[str, str] = _NO_WORDS) -> str:
    """What matplotlib draws on axes that lie as `frame` says, as elements of an <svg>: ticks, their words and a grid.

    Raises ValueError where the drawing has a colour that is no Ink.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(frame.width / 72, frame.height / 72))
        figure.patch.set_visible(False)
        across, down = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom
        axes = figure.add_axes(
            (frame.left / frame.width, frame.bottom / frame.height, across / frame.width, down / frame.height)
        )
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=6, labelsize=SIZE, labelcolor=Ink.SOFT.colour)
        axes.set_axisbelow(True)
        if frame.logarithmic:
            axes.set_yscale("log")
        axes.set_xlim(*frame.x)
        axes.set_ylim(*frame.y)
        draw(axes)
        file = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata=_NO_METADATA)
    root = ET.fromstring(file.getvalue())  # noqa: S314  what matplotlib has just written
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
        each.attrib = {key.rpartition("}")[2]: value for key, value in each.attrib.items()}
    _clean(root, words)
    return "".join(ET.tostring(each, encoding="unicode") for each in root)


def _clean(parent: ET.Element, words: Mapping[str, str]) -> None:
    """Take out of an element what a page does not need, and say the rest in classes and attributes."""
    children: list[ET.Element] = []
    for each in list(parent):
        if each.tag in {"metadata", "style", "clipPath"}:
            continue
        _clean(each, words)
        _tidy(each)
        if each.tag == "text":
            each.text = words.get((each.text or "").strip(), each.text)
        each.tail = None
        if each.tag == "g" and not each.attrib:
            children.extend(each)  # a group that says nothing
        elif each.tag not in {"g", "defs"} or len(each):
            children.append(each)
    parent.text = parent.text if parent.tag == "text" else None
    parent[:] = children


def _tidy(each: ET.Element) -> None:
    own: dict[str, str] = {}
    classes: list[str] = []
    for key, value in each.attrib.items():
        if key == "style":
            _restyle(value, own, classes)
        elif key in {"id", "clip-path"}:
            continue  # nobody refers to it, and nothing is drawn outside of its axes but on purpose
        elif key in {"d", "x", "y", "transform"}:
            own[key] = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), " ".join(value.split()))
        else:
            own[key] = value
    if each.tag == "text" and not any(name.startswith("f-") for name in classes):
        classes.append(f"f-{Ink.INK}")
    if classes:
        own["class"] = " ".join(classes)
    if own.get("transform", "").startswith("rotate(-0 "):
        del own["transform"]
    each.attrib = own


def _restyle(style: str, own: dict[str, str], classes: list[str]) -> None:
    """What a style attribute says, as attributes and classes."""
    for declaration in filter(None, map(str.strip, style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in {"fill", "stroke"}:
            if value == "none":
                own[key] = value
            elif value in _ROLES:
                classes.append(f"{key[0]}-{_ROLES[value]}")
            else:
                raise ValueError(f"a figure is drawn in the colours of Ink, and this has {key} {value}")
        elif key in _KEPT:
            own[key] = value.removesuffix("px")
