"""What the fields of a message say: encoded words, parameters, file names, addresses, times.

RFC 2047 (encoded words), RFC 2231 (parameters in pieces and in other alphabets), RFC 5322 (addresses, comments).
Programs mix them, break them and leave them out; what can be understood is, and nothing here raises. The standard
library's own readers are not used where hostile text makes them recurse, take quadratic time, or raise what they do not
document.
"""

from __future__ import annotations

import binascii
import codecs
import re
import unicodedata
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath

MAX_VALUE = 16_000  # characters of one field that are looked at
MAX_NAME_BYTES = 200  # of a file's name, in UTF-8
MAX_ADDRESS = 320  # 64 before the @, 255 behind it: RFC 5321, 4.5.3.1
_CHARSET = re.compile(r"[A-Za-z0-9_.:()+-]{1,40}")
# Text, and read in linear time: `punycode` and `idna` are neither; `unicode_escape` is no alphabet.
_TEXT = ("utf", "ascii", "iso8859", "iso2022", "cp", "koi8", "gb", "big5", "shift_jis", "euc_", "johab", "hz", "mac")
_WORD = re.compile(r"=\?([^?*\s]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*)\?=")
_BETWEEN = re.compile(r"(\?=)[ \t\r\n]+(?==\?[^?\s]{1,80}\?[bBqQ]\?)")
_PARAMETER = re.compile(r';\s*([^\s;="]{1,100}?)\s*=\s*(?:"((?:[^"\\]++|\\.)*+)"?|([^;]*))', re.DOTALL)
_PIECE = re.compile(r"([^*]+)(?:\*([0-9]{1,4}))?(\*)?", re.ASCII)
_EXTENDED = re.compile(r"([^']{0,40})'[^']{0,40}'(.*)", re.DOTALL)
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"\\@]{1,64}@[^\s<>()\[\],;:\"\\@]{1,255}")


def decode(data: bytes, charset: str | None) -> str:
    """Bytes of an alphabet that a stranger named, or did not; what cannot be read is U+FFFD."""
    for name in (charset, "utf-8"):
        if name is None or not _CHARSET.fullmatch(name):
            continue
        try:
            codec = codecs.lookup(name).name
            if codec.replace("-", "_").startswith(_TEXT):
                return data.decode(
                    codec, "replace" if name is charset and codec not in {"ascii", "utf-8"} else "strict"
                )
        except (LookupError, ValueError):
            continue
    return data.decode("cp1252", "replace")


def words(value: bytes) -> str:
    """A field's value as it is meant to be read: encoded words decoded, folded lines joined.

    Neighbouring words of one alphabet are joined before they are decoded: programs cut in the middle of a character.
    """
    text = _BETWEEN.sub(r"\1", raw_text(value))
    out, at = [], 0
    pending, alphabet = b"", ""
    for match in _WORD.finditer(text):
        between = text[at : match.start()]
        charset, data = match[1].lower(), _word(match[2], match[3])
        if pending and (between or charset != alphabet):
            out.append(decode(pending, alphabet))
            pending = b""
        out.append(between)
        pending, alphabet, at = pending + data, charset, match.end()
    if pending:
        out.append(decode(pending, alphabet))
    return "".join([*out, text[at:]])


def raw_text(value: bytes) -> str:
    """A field's bytes as text, unfolded and bounded; UTF-8 where it is (RFC 6532), else as Windows would."""
    return re.sub(r"\r?\n(?=[ \t])", "", decode(value[:MAX_VALUE], "utf-8")).strip()


def _word(kind: str, text: str) -> bytes:
    if kind in "qQ":
        return binascii.a2b_qp(text.encode("utf-8", "replace"), header=True)
    kept = re.sub(r"[^A-Za-z0-9+/]", "", text)
    kept = kept[: len(kept) - 1] if len(kept) % 4 == 1 else kept
    return binascii.a2b_base64(kept + "=" * (-len(kept) % 4))


def parameters(value: bytes) -> tuple[str, dict[str, str]]:
    """`text/plain; charset=x` -> its first word in lower case, and the parameters by name in lower case.

    Pieces (`name*0=`, `name*1*=`) are joined in the order of their numbers; encoded words are decoded, though RFC 2047
    forbids them here, for most programs write them. A parameter with an alphabet (`name*=`) goes before one without.
    """
    text = raw_text(value)
    first = (without_comments(text.partition(";")[0]).split() or [""])[0].lower()
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    simple: dict[str, str] = {}
    for match in list(_PARAMETER.finditer(text))[:100]:
        content = re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL) if match[2] is not None else match[3].strip()
        named = _PIECE.fullmatch(match[1].lower())
        if named is None or (named[2] is None and named[3] is None):
            simple.setdefault(match[1].lower(), content)
        else:
            pieces.setdefault(named[1], {}).setdefault(int(named[2] or 0), (content, named[3] is not None))
    found = {name: words(content.encode("utf-8", "replace")) for name, content in simple.items()}
    found |= {name: _joined(numbered) for name, numbered in pieces.items()}
    return first, found


def _joined(numbered: dict[int, tuple[str, bool]]) -> str:
    """RFC 2231, 4.1: the first piece names the alphabet; each says by its star whether it is percent-encoded."""
    charset, data, has_star = None, b"", False
    for place, (_, (content, starred)) in enumerate(sorted(numbered.items())):
        rest = content
        extended = _EXTENDED.fullmatch(content) if place == 0 and starred else None
        if extended is not None:
            charset, rest = extended[1] or None, extended[2]
        has_star = has_star or starred
        data += _percent(rest) if starred else rest.encode("utf-8", "replace")
    return decode(data, charset) if has_star else words(data)


def _percent(text: str) -> bytes:
    return re.sub(
        rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode("utf-8", "replace")
    )


def file_name(text: str) -> str:
    """A name that is no path, holds nothing that a terminal or a page misreads, and fits; "" if nothing is left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", text[:MAX_VALUE]).rstrip("/\\ "))[-1]
    shown = line(re.sub(r"^[A-Za-z]:", "", last), MAX_VALUE).strip(" .")
    if len(shown.encode()) <= MAX_NAME_BYTES:
        return shown
    ending = "".join(PurePosixPath(shown).suffixes[-2:])
    ending = ending if len(ending.encode()) <= MAX_NAME_BYTES // 4 else ""
    kept = shown[: len(shown) - len(ending)].encode()[: MAX_NAME_BYTES - len(ending.encode())]
    return kept.decode("utf-8", "ignore") + ending


def line(text: str, limit: int) -> str:
    """Text of a stranger as one line of printable characters; its beginning, if it is longer than `limit`."""
    shown = "".join(each for each in text if each.isprintable() or each.isspace())
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def without_comments(text: str, *, without_quotes: bool = False) -> str:
    """A structured field without what stands in parentheses, however deep, outside of quotes; or without quotes too."""
    out, depth, quoted, escaped = [], 0, False, False
    for each in text:
        if escaped:
            escaped = False
        elif each == "\\" and (quoted or depth):
            escaped = True
        elif each == '"' and not depth:
            quoted = not quoted
        elif each == "(" and not quoted:
            depth += 1
            out.append(" ")
            continue
        elif each == ")" and not quoted and depth:
            depth -= 1
            continue
        if not depth and not (without_quotes and (quoted or each == '"')):
            out.append(each)
    return "".join(out)


def address(value: bytes) -> str | None:
    """The first address of a field, in lower case; None if there is none.

    What stands in angle brackets goes before what only looks like an address: names are free text, and may imitate one.
    """
    text = raw_text(value)
    for bare in (without_comments(text, without_quotes=True), without_comments(text).replace('"', " ")):
        in_brackets = re.findall(r"<([^<>]*)>", bare)
        for candidate in in_brackets or [bare]:
            found = _ADDRESS.search(candidate)
            if found is not None and len(found[0]) <= MAX_ADDRESS and found[0].isprintable():
                return found[0].lower()
        if text.count('"') % 2 == 0:
            break  # else a quote does not end, and may have swallowed the address
    return None


def moment(text: str) -> datetime | None:
    """A date of RFC 5322, in UTC; None if it is none. `-0000` and no zone at all are taken for UTC."""
    try:
        read = parsedate_to_datetime(without_comments(text)[:100])
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
