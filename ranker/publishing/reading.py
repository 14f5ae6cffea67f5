"""All text of a file that is to be published, whatever its kind, with the place where it stands. Pure."""

from __future__ import annotations

import base64
import binascii
import csv
import html
import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ranker.errors import RankerError

CELLS_PER_PIECE = 2000  # of a table's column
_DATA_URI = re.compile(r"data:[\w/+.-]*(?:;[\w=.-]+)*;base64,([A-Za-z0-9+/=\s]+)")
_PLAIN = frozenset({".js", ".css", ".txt"})
_MARKUP = frozenset({".html", ".svg"})
_DOCTYPE = "<!doctype html>"
_TAG = re.compile(r'<(?:/[a-z][a-z0-9]*|[a-z][a-z0-9]*(?:\s+[A-Za-z][A-Za-z0-9:-]*(?:="[^"]*")?)*\s*/?)>')
_ELEMENT = re.compile(r"^</?[a-z0-9]+")
_AMBIGUOUS = re.compile(r"&(?!(?:#[0-9]+|amp|lt|gt|quot|apos);)")  # which readers take in several ways
_ATTRIBUTE = re.compile(r'([A-Za-z][A-Za-z0-9:-]*)(?:="([^"]*)")?')
# Elements whose content is no markup, and those of them that hold a text, or nothing at all.
_RAW = re.compile(r"<(?:script|style|title|textarea|xmp|iframe|noembed|noframes|noscript|plaintext)\b")
_RAW_ALONE = re.compile(r"<(title|textarea)\b[^<>]*>[^<]*</\1>|<script\b[^<>]*></script>")
_UNREAD = ("class of ", "id of ", "href of ", "src of ", "rel of ", "type of ", "d of ", "a name in ")


class UnreadableError(RankerError):
    """A file of the folder cannot be read as what its name says it is."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some text of a file. `place` says where, for people; `cells` are the values that it is made of, and no names of
    fields, columns and attributes. `parts`: makes smaller pieces of the same, which say better where something stands;
    most are never made, since nothing is found in the whole.
    """

    place: str
    text: str
    cells: Collection[str]
    parts: Callable[[], Iterable[Piece]] = tuple


def pieces(path: Path) -> Iterator[Piece]:
    """All text of one file, decoded. Raises UnreadableError for a kind of file that this cannot look into."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _table(path)
        return
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it is not UTF-8 (byte {error.start})") from None
    if kind == ".json":
        yield from _json(text)
    elif kind == ".csv":
        yield from _csv(text)
    elif kind in _MARKUP:
        yield from _markup(text)
    elif kind in _PLAIN or path.name == ".ranker-site":
        yield Piece(place="text", text=text, cells=(text,))
    else:
        raise UnreadableError(f"files ending in {kind or 'nothing'} are not looked into")
    yield from _embedded(text)


def _embedded(text: str) -> Iterator[Piece]:
    """What stands in data: addresses."""
    for found in _DATA_URI.finditer(text):
        try:
            value = base64.b64decode("".join(found[1].split()), validate=True).decode("latin-1")
        except (binascii.Error, ValueError):
            raise UnreadableError("a data: address in it is no base64") from None
        yield Piece(place="a data: address", text=value, cells=(value,))


def _json(text: str) -> Iterator[Piece]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UnreadableError(f"it is no JSON ({error})") from None
    names: dict[str, None] = {}
    said: list[str] = []
    _told(value, names, said)

    def parts() -> Iterator[Piece]:
        for place, leaf in _strings(value, ""):
            yield Piece(place=place, text=leaf, cells=(leaf,))

    yield Piece(place="values", text="\n".join(said), cells=said, parts=parts)
    yield Piece(place="names of fields", text="\n".join(names), cells=())


def _told(value: Any, names: dict[str, None], said: list[str]) -> None:
    """Collect the names of fields, and all strings in their order."""
    if isinstance(value, str):
        said.append(value)
    elif isinstance(value, dict):
        names.update(dict.fromkeys(value))
        for item in value.values():
            _told(item, names, said)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str | dict | list):
                _told(item, names, said)


def _strings(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{place}[{number}]")


def _csv(text: str) -> Iterator[Piece]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UnreadableError(f"it is no CSV ({error})") from None

    def parts() -> Iterator[Piece]:
        for number, row in enumerate(rows, start=1):
            yield Piece(place=f"row {number}", text="\n".join(row), cells=tuple(row) if number > 1 else ())

    cells = {cell for row in rows[1:] for cell in row}
    yield Piece(place="rows", text="\n".join(map("\n".join, rows)), cells=cells, parts=parts)


def _table(path: Path) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        metadata = {**(file.metadata.metadata or {}), **(file.schema_arrow.metadata or {})}
        said = [each.decode("utf-8", "replace") for pair in metadata.items() for each in pair]
        said += [
            name for field in file.schema_arrow for name in (field.name, *map(str, (field.metadata or {}).values()))
        ]
        yield Piece(place="the schema", text="\n".join(said), cells=tuple(said))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for name in table.column_names:
                values = [
                    str(value) for value in table[name].to_pylist() if value is not None and not _is_number(value)
                ]
                for start in range(0, len(values), CELLS_PER_PIECE):
                    cells = tuple(values[start : start + CELLS_PER_PIECE])
                    yield Piece(place=f"column {name}", text="\n".join(cells), cells=cells)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(f"it is no Parquet table ({error})") from None


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)


class _Markup(HTMLParser):
    """Text, attributes, comments and declarations, each with its place."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(f"{name} of <{tag}>", value) for name, value in attrs if value]
        self.found += [(f"a name in <{tag}>", name) for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.found.append((f"line {self.getpos()[0]}", data))

    def handle_comment(self, data: str) -> None:
        self.found.append(("a comment", data))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("a declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.found.append(("an instruction", data))

    def unknown_decl(self, data: str) -> None:
        self.found.append(("a section", data))


def _parsed(text: str) -> list[tuple[str, str]]:
    """All that markup holds, each with its place."""
    parser = _Markup()
    parser.feed(text)
    parser.close()
    return parser.found


def _markup(text: str) -> Iterator[Piece]:
    found = _plain(text)
    if found is None:
        found = _parsed(text)

    def parts() -> Iterator[Piece]:
        for place, value in _parsed(text):
            yield Piece(place=place, text=value, cells=() if place.startswith(_UNREAD) else _leaves(value))

    cells = {leaf for place, value in found if not place.startswith(_UNREAD) for leaf in _leaves(value)}
    yield Piece(place="the markup", text="\n".join(value for _, value in found), cells=cells, parts=parts)
    # As it is read, with what tags part: an address may have a tag in its middle.
    whole = "".join(value for place, value in found if place.startswith("line "))
    yield Piece(place="the text", text=whole, cells=())


def _plain(text: str) -> list[tuple[str, str]] | None:
    """What `_parsed` finds in markup of the simplest kind, each attribute once and without lines; None for any other.

    Ranker's own pages are of that kind: tags in small letters, values in double quotes, nothing in a script. It takes a
    tenth of the time.
    """
    body = text.removeprefix(_DOCTYPE)
    texts = _TAG.split(body)
    if any("<" in each for each in texts) or _AMBIGUOUS.search(body):
        return None
    if len(_RAW.findall(body)) != len(_RAW_ALONE.findall(body)):
        return None
    found = [("a declaration", _DOCTYPE[2:-1])] if body != text else []
    for tag in dict.fromkeys(_TAG.findall(body)):
        (element,) = _ELEMENT.findall(tag)
        for name, value in _ATTRIBUTE.findall(tag, len(element)):
            found.append((f"a name in <{element[1:]}>", name.lower()))
            if value:
                found.append((f"{name.lower()} of <{element[1:]}>", html.unescape(value)))
    read = map(html.unescape, texts)
    return found + [("line ?", each) for each in read if each.strip()]


def _leaves(value: str) -> tuple[str, ...]:
    """The texts of data that stands in a page as JSON; of anything else, itself."""
    if value.lstrip().startswith(("{", "[")):
        try:
            return tuple(text for _, text in _strings(json.loads(value), ""))
        except ValueError:
            pass
    return (value,)
