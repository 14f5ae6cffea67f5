"""The bytes of a message's parts, as they were before they were encoded for the way. In pieces, whatever their size.

RFC 2045, section 6: base64, quoted-printable, and what needs no decoding; and uuencode, which is older than all of it.
"""

from __future__ import annotations

import binascii
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

CHUNK = 1 << 20
MAX_BOUNDARY = 200  # characters; RFC 2046, 5.1.1, allows 70
_ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
_BLANK = b" \t\r\n\v\f"
_FOREIGN = bytes(set(range(256)) - set(_ALPHABET) - {ord("=")})
_EXPECTED = _ALPHABET + _BLANK + b"="
_PADDING = 110  # bytes of a delimiter's line beside the boundary itself
_BEGIN = re.compile(rb"^begin [0-7]{3,4} ([^\r\n]{1,300})\r?\n", re.MULTILINE)
_BEGIN_LENGTH = 320
_UU_LINE = 200


class Encoding(StrEnum):
    """How a part's bytes are written down."""

    NONE = "none"
    BASE64 = "base64"
    QUOTED = "quoted-printable"
    UU = "uuencode"


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a part's bytes stand in the file of its message, from `start` up to `end`, and how they are written."""

    start: int
    end: int
    encoding: Encoding


@dataclass(frozen=True, kw_only=True)
class Delimiter:
    """A line between parts: the part before ends at `start`, the next begins at `end`; the last line `closes`."""

    start: int
    end: int
    closes: bool


def encoding(word: str) -> Encoding:
    """What Content-Transfer-Encoding names; what nobody knows is taken as it stands."""
    known = {"base64": Encoding.BASE64, "quoted-printable": Encoding.QUOTED}
    known |= dict.fromkeys(("x-uuencode", "uuencode", "x-uue", "uue"), Encoding.UU)
    return known.get(word.strip().lower(), Encoding.NONE)


def content(file: BinaryIO, span: Span, damage: list[str]) -> Iterator[bytes]:
    """The decoded bytes, in pieces of about a megabyte; what was wrong with them is added to `damage`, once each.

    What can be decoded is, as mail programs do: whoever takes the bytes finds out whether they are whole.
    """
    found: set[str] = set()
    raw = _pieces(file, span.start, span.end)
    match span.encoding:
        case Encoding.BASE64:
            yield from _base64(raw, found)
        case Encoding.QUOTED:
            yield from _quoted(raw)
        case Encoding.UU:
            yield from _uu(file, span, found)
        case Encoding.NONE:
            yield from raw
    damage += sorted(found)


def head(file: BinaryIO, span: Span, length: int) -> bytes:
    """The first `length` decoded bytes at most."""
    short = Span(start=span.start, end=min(span.end, span.start + 4 * length), encoding=span.encoding)
    return b"".join(content(file, short, []))[:length]


def read_at(file: BinaryIO, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`, as they stand; fewer where the file ends."""
    file.seek(start)
    return file.read(max(0, end - start))


def delimiters(file: BinaryIO, start: int, end: int, boundary: bytes) -> Iterator[Delimiter]:
    """The lines `--boundary` of a body, up to the one that closes it. The byte before `start` ends the header."""
    line = re.compile(rb"\r?\n--" + re.escape(boundary) + rb"(--)?[ \t]{0,100}(?=\r?\n|\Z)")
    overlap = len(boundary) + _PADDING
    at, told = max(0, start - 2), -1
    while at < end:
        window = read_at(file, at, min(at + CHUNK + overlap, end))
        is_last = at + len(window) >= end or not window
        seen = len(window) if is_last else len(window) - overlap
        for match in line.finditer(window):
            if match.start() >= seen:
                break  # seen again, with all of its line
            if at + match.start() < told:
                continue  # its carriage return was the last byte of the window before
            told = at + match.end()
            after = window[match.end() : match.end() + 2]
            newline = 2 if after == b"\r\n" else len(after[:1])
            yield Delimiter(start=max(start, at + match.start()), end=at + match.end() + newline, closes=bool(match[1]))
            if match[1]:
                return
        if is_last:
            return
        at += seen


def uuencoded(file: BinaryIO, start: int, end: int, most: int) -> list[tuple[bytes, Span]]:
    """The first `most` files that were written into a text by uuencode, with their names.

    One ends where the next begins, at the latest.
    """
    begins: list[tuple[int, int, bytes]] = []
    at = start
    while at < end and len(begins) <= most:
        window = read_at(file, max(start, at - 1), min(at + CHUNK + _BEGIN_LENGTH, end))
        skipped = at - max(start, at - 1)  # the byte before, by which is known whether a line begins here
        for match in _BEGIN.finditer(window, skipped):
            if match.start() - skipped < CHUNK and (
                match.start() == 0 or window[match.start() - 1 : match.start()] == b"\n"
            ):
                begins.append((at - skipped + match.start(), at - skipped + match.end(), match[1]))
                if len(begins) > most:
                    break
        at += CHUNK
    ends = [*(line for line, _, _ in begins[1:]), end]
    spans = [Span(start=begin[1], end=stop, encoding=Encoding.UU) for begin, stop in zip(begins, ends, strict=False)]
    return [(name, span) for (_, _, name), span in zip(begins, spans, strict=True)][:most]


def _pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    at = start
    while at < end:
        piece = read_at(file, at, min(at + CHUNK, end))
        if not piece:
            return
        at += len(piece)
        yield piece


def _base64(raw: Iterator[bytes], found: set[str]) -> Iterator[bytes]:
    rest, ended = b"", False
    for piece in raw:
        if piece.translate(None, _EXPECTED):
            found.add("characters stand in it that are none of base64")
        letters = piece.translate(None, _FOREIGN)
        if ended:
            if letters.strip(b"="):
                found.add("text stands behind its end")
            continue
        letters, equals, behind = (rest + letters).partition(b"=")
        if equals:
            ended = True
            if behind.strip(b"="):
                found.add("text stands behind its end")
        whole = len(letters) // 4 * 4
        rest = letters[whole:]
        yield binascii.a2b_base64(letters[:whole])
    if len(rest) == 1:
        found.add("its last characters are missing")
    elif rest:
        yield binascii.a2b_base64(rest + b"=" * (4 - len(rest)))


def _quoted(raw: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in raw:
        together = rest + piece
        cut = together.rfind(b"\n") + 1
        if not cut:  # one long line: at least no `=XX` is cut
            mark = together.rfind(b"=", len(together) - 2)
            cut = mark if mark >= 0 else len(together)
        rest = together[cut:]
        yield binascii.a2b_qp(together[:cut])
    yield binascii.a2b_qp(rest)


def _uu(file: BinaryIO, span: Span, found: set[str]) -> Iterator[bytes]:
    """Lines up to `end`. A line states its length; what goes beyond is dropped, as encoders disagree about padding."""
    start, first = span.start, _BEGIN.match(read_at(file, span.start, min(span.start + _BEGIN_LENGTH, span.end)))
    file.seek(start + (first.end() if first is not None else 0))
    at = file.tell()
    waiting: list[bytes] = []
    while at < span.end:
        file.seek(at)
        for line in file.read(min(CHUNK, span.end - at)).splitlines(keepends=True):
            is_cut = at + len(line) < span.end and not line.endswith(b"\n") and len(line) < _UU_LINE
            if is_cut and waiting:
                break
            at += len(line)
            text = line.rstrip(b"\r\n")
            if text.strip() == b"end":
                yield b"".join(waiting)
                return
            decoded = _uu_line(text)
            if decoded is None:
                found.add("lines stand in it that are none of uuencode")
            else:
                waiting.append(decoded)
        yield b"".join(waiting)
        waiting = []
    found.add("its last line is missing")


def _uu_line(text: bytes) -> bytes | None:
    if not text:
        return b""
    stated = (((text[0] - 32) & 63) * 4 + 5) // 3
    for attempt in (text, text[:stated]):
        try:
            return binascii.a2b_uu(attempt)
        except binascii.Error:
            continue
    return None
