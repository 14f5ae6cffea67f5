"""Addresses in a message's text that look as if the file lay there: told apart from those of signatures.

A link is only ever recorded and shown to an organizer, so what is in doubt counts as one; but a team's web page, a
social network below a name, and what was quoted from an earlier message do not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

MAX_TEXT = 1 << 18  # characters of one part that are looked at
MAX_LINKS = 20  # of one message
MAX_URL = 2000
_URL = re.compile(rf"https?://[^\s<>\"'`\\^{{}}|\x00-\x20\u200b]{{3,{MAX_URL}}}", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,20})([^<>]{0,8000})>")
_HREF = re.compile(r"\bhref\s*=\s*(?:\"([^\"]{1,4000})\"|'([^']{1,4000})'|([^\s\"'>]{1,4000}))", re.IGNORECASE)
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# What Gmail, Outlook, Thunderbird, Apple Mail and Yahoo mark a signature, or a quoted message, with.
_SIGNED = re.compile(
    r"gmail_signature|moz-signature|(?:id|class)\s*=\s*[\"']?[\w-]{0,20}signature|AppleMailSignature", re.IGNORECASE
)
_QUOTED = re.compile(r"moz-cite|gmail_quote|yahoo_quoted|type\s*=\s*[\"']?cite", re.IGNORECASE)
_FORWARDED = re.compile(r"-{3,10}\s*(forwarded|original|weitergeleitete|transf)|begin forwarded message", re.IGNORECASE)
_FILES = re.compile(r"\.(?:zip|zip\.txt)$", re.IGNORECASE)
# Host (or its parent), and what its path begins with where the host has other pages too. Each from the address that the
# service itself gives for sharing a file.
_SHARES: tuple[tuple[str, str], ...] = (
    ("drive.google.com", "/file/|/open|/uc|/drive/"),
    ("docs.google.com", "/uc"),
    ("drive.usercontent.google.com", "/"),
    ("storage.googleapis.com", "/."),
    ("dropbox.com", "/s/|/scl/|/sh/|/t/|/l/"),
    ("dropboxusercontent.com", "/."),
    ("we.tl", "/."),
    ("wetransfer.com", "/downloads/|/."),
    ("1drv.ms", "/."),
    ("onedrive.live.com", "/"),
    ("sharepoint.com", "/:|/personal/|/sites/|/teams/"),
    ("box.com", "/s/|/v/|/shared/"),
    ("mega.nz", "/file/|/folder/|/#"),
    ("icloud.com", "/attachment|/iclouddrive/"),
    ("mediafire.com", "/file/|/folder/"),
    ("transfernow.net", "/."),
    ("swisstransfer.com", "/d/"),
    ("filesender.org", "/"),
    ("pcloud.link", "/."),
    ("sync.com", "/dl/"),
    ("disk.yandex.ru", "/d/|/i/"),
    ("disk.yandex.com", "/d/|/i/"),
    ("yadi.sk", "/d/|/i/"),
    ("pan.baidu.com", "/s/|/share/"),
    ("aliyundrive.com", "/s/"),
    ("alipan.com", "/s/"),
    ("lanzou.com", "/."),
    ("weiyun.com", "/."),
    ("terabox.com", "/s/"),
    ("gofile.io", "/d/"),
    ("smash.com", "/."),
    ("fromsmash.com", "/."),
    ("zenodo.org", "/records/[0-9]+/files/|/record/[0-9]+/files/"),
    ("figshare.com", "/ndownloader/|/s/"),
    ("osf.io", "/[a-z0-9]{5}/download"),
    ("amazonaws.com", "/."),
    ("blob.core.windows.net", "/."),
)  # fmt: skip
# Paths of programs that anyone may run: Nextcloud and ownCloud, Seafile, and downloads of code from a forge.
_ANYWHERE = re.compile(
    r"(?:^|/)(?:index\.php/)?s/[A-Za-z0-9]{15}(?:/download)?/?$|^/(?:f|d)/[0-9a-f]{10,20}/?$"
    r"|/releases/download/|/-/archive/|/archive/refs/|/zipball/|^/(?:lfs/)?attachments/"
)


@dataclass(frozen=True, kw_only=True)
class Links:
    """`taken`: addresses where a file seems to lie; `ignored`: such addresses, in a signature or in quoted text."""

    taken: tuple[str, ...]
    ignored: tuple[str, ...]


def find(text: str, *, is_html: bool) -> Links:
    """The links of one part, in order, each once."""
    taken: dict[str, None] = {}
    ignored: dict[str, None] = {}
    for url, counts in (_of_html if is_html else _of_plain)(text[:MAX_TEXT]):
        whole = _unwrapped(url)
        if is_file(whole) and (counts or len(ignored) < MAX_LINKS):
            (taken if counts else ignored)[whole] = None
        if len(taken) > MAX_LINKS:  # one more than are kept, so that it is told
            break
    return Links(taken=tuple(taken), ignored=tuple(url for url in ignored if url not in taken))


def is_file(url: str) -> bool:
    """Whether an address is one of a sharing service, or ends as a ZIP does."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower().rstrip(".")
    except ValueError:
        return False
    if not host or not url.isprintable() or parts.scheme.lower() not in {"http", "https"}:
        return False
    path = parts.path or "/"
    values = [value for values in parse_qs(parts.query, max_num_fields=None).values() for value in values]
    if _FILES.search(unquote(path)) or any(_FILES.search(value) for value in values):
        return True
    if any(
        (host == name or host.endswith(f".{name}")) and re.match(begins, f"{path}{'#' if parts.fragment else ''}")
        for name, begins in _SHARES
    ):
        return True
    return _ANYWHERE.search(path) is not None


def _of_plain(text: str) -> Iterator[tuple[str, bool]]:
    """Addresses, and whether they count: not below the line `-- ` (RFC 3676, 4.3), nor in quoted lines (`>`), unless
    what they quote was forwarded.
    """
    signed = forwarded = False
    for line in text.splitlines():
        signed = signed or line in {"-- ", "--"}
        forwarded = forwarded or _FORWARDED.search(line) is not None
        quoted = line.lstrip().startswith(">") and not forwarded
        yield from ((_trimmed(match[0]), not signed and not quoted) for match in _URL.finditer(line))


def _of_html(text: str) -> Iterator[tuple[str, bool]]:
    """Addresses of `href` and of the text itself, and whether they count.

    What a signature's or a quotation's element holds does not, unless that says that it was forwarded.
    """
    text = _without(_without(text, "<!--", "-->"), "<style", "</style>")
    inside: list[tuple[str, bool]] = []  # open elements, and whether links in them count
    at = 0
    for match in _TAG.finditer(text):
        counts = not inside or inside[-1][1]
        yield from ((_trimmed(html.unescape(url[0])), counts) for url in _URL.finditer(text[at : match.start()]))
        at = match.end()
        closing, name, rest = match[1], match[2].lower(), match[3]
        href = _HREF.search(rest) if name == "a" and not closing else None
        if href is not None:
            target = html.unescape(next(group for group in href.groups() if group)).strip()
            if _URL.fullmatch(target):
                yield target, counts
        if closing:
            _close(inside, name)
        elif name not in _VOID and not rest.endswith("/") and len(inside) < 200:
            quotes = _SIGNED.search(rest) or (name == "blockquote" or _QUOTED.search(rest))
            ahead = text[at : at + 400] if quotes else ""
            forwarded = _FORWARDED.search(re.sub(r"<[^<>]{0,400}>", "", ahead)) is not None
            inside.append((name, counts and (not quotes or forwarded)))
    yield from ((_trimmed(html.unescape(url[0])), True) for url in _URL.finditer(text[at:]))


def _without(text: str, begins: str, ends: str) -> str:
    """The text without what stands between two marks; one that does not end is left, in linear time."""
    out, at, folded = [], 0, text.lower()
    if len(folded) != len(text):
        return text  # a letter that has no lower case of its own: then places would not agree
    while (start := folded.find(begins, at)) >= 0 and (end := folded.find(ends, start)) >= 0:
        out.append(text[at:start])
        at = end + len(ends)
    return " ".join([*out, text[at:]])


def _close(inside: list[tuple[str, bool]], name: str) -> None:
    """Close the innermost element of that name, and what was left open in it."""
    for depth in range(len(inside) - 1, -1, -1):
        if inside[depth][0] == name:
            del inside[depth:]
            return


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence around it; a closing parenthesis stays if its opening one is there."""
    kept = url.rstrip(".,;:!?*_~'\"\u201d\u2019\u3002\uff0c\uff1b")
    while kept.endswith((")", "]")) and kept.count(kept[-1]) > kept.count({")": "(", "]": "["}[kept[-1]]):
        kept = kept[:-1].rstrip(".,;:!?")
    return kept


def _unwrapped(url: str) -> str:
    """What a mail gateway has wrapped for its own watch: Outlook's Safe Links, Proofpoint's, Google's redirects."""
    for _ in range(3):
        try:
            parts = urlsplit(url)
            host, asked = (parts.hostname or "").lower(), parse_qs(parts.query, max_num_fields=50)
        except ValueError:
            return url
        proofpoint = re.match(r"/v3/__(https?:/.{1,2000}?)__;", parts.path + (f";{parts.query}" if parts.query else ""))
        if host.endswith(".safelinks.protection.outlook.com"):
            inner = asked.get("url", [""])[0]
        elif host in {"www.google.com", "google.com"} and parts.path == "/url":
            inner = (asked.get("q") or asked.get("url") or [""])[0]
        elif host.endswith("urldefense.com") and proofpoint:
            inner = re.sub(r"^(https?):/+", r"\1://", proofpoint[1])
        else:
            return url
        if not _URL.fullmatch(inner):
            return url
        url = inner
    return url
