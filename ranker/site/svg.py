"""A matplotlib figure as an element of a page: no style of its own, no colour but the page's, the same bytes each time.

The pages' content policy forbids style attributes, and their colours change with light, dark and print. So a figure is
drawn in colours that stand for roles (`Ink`), and each becomes a class that static/figures.css gives the page's colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def drawn(
    width: float,
    height: float,
    draw: Callable[[Figure], None],
    *,
    name: str,
    title: str,
    description: str,
    words: Mapping[str, str] = _NO_WORDS,
) -> str:
    """An <svg> element of a figure with a view box of `width` x `height`, in CSS pixels at its natural size.

    `name` is unique on the page: ids begin with it. `title` and `description` are what a screen reader says.
    Raises ValueError where the drawing has a colour that is no Ink.
    """
    inner = layer(width, height, draw, name=name, words=words)
    return element([inner], width, height, name=name, title=title, description=description)


def element(layers: Sequence[str], width: float, height: float, *, name: str, title: str, description: str) -> str:
    """An <svg> element of layers, the first at the back. Arguments as for `drawn`."""
    return (
        f'<svg class="figure" viewBox="0 0 {width:g} {height:g}" role="img" stroke-linejoin="round"'
        f' aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{"".join(layers)}</svg>'
    )


def layer(
    width: float, height: float, draw: Callable[[Figure], None], *, name: str, words: Mapping[str, str] = _NO_WORDS
) -> str:
    """What stands inside an <svg> of this size, to be drawn once and shown with others. Arguments as for `drawn`."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        draw(figure)
        file = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata=_NO_METADATA)
    root = ET.fromstring(file.getvalue())  # noqa: S314  what matplotlib has just written
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]
        each.attrib = {key.rpartition("}")[2]: value for key, value in each.attrib.items()}
    links = dict.fromkeys(each.attrib["href"].removeprefix("#") for each in root.iter("use"))
    _clean(root, {old: f"{name}-{at}" for at, old in enumerate(links)}, words)
    return "".join(ET.tostring(each, encoding="unicode") for each in root)


def _clean(parent: ET.Element, used: Mapping[str, str], words: Mapping[str, str]) -> None:
    """Take out of an element what a page does not need, and say the rest in classes and attributes."""
    children: list[ET.Element] = []
    for each in list(parent):
        if each.tag in {"metadata", "style", "clipPath"}:
            continue
        _clean(each, used, words)
        _tidy(each, used)
        if each.tag == "text":
            each.text = words.get((each.text or "").strip(), each.text)
        each.tail = None
        if each.tag == "g" and not each.attrib:
            children.extend(each)  # a group that says nothing
        elif each.tag not in {"g", "defs"} or len(each):
            children.append(each)
    parent.text = parent.text if parent.tag == "text" else None
    parent[:] = children


def _tidy(each: ET.Element, used: Mapping[str, str]) -> None:
    own: dict[str, str] = {}
    classes: list[str] = []
    for key, value in each.attrib.items():
        if key == "style":
            _restyle(value, own, classes)
        elif key == "id":
            own |= {"id": used[value]} if value in used else {}
        elif key == "href":
            own["href"] = f"#{used[value.removeprefix('#')]}"
        elif key == "clip-path":
            continue  # nothing is drawn outside of its axes but on purpose
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
