"""What no page may show to everybody, as patterns: e-mail addresses, paths of a machine, passwords. Pure.

What is rendered for everybody goes through `scrubbed`, which takes such things out; `ranker.publishing.gate` reads what
was rendered, and finds what came past it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_AT = re.compile(r" ?@ ?(?:\[?\d{1,3}(?:\.\d{1,3}){3}\]?|(?:[\w-]{1,63}\.){1,9}[^\W\d_]{2,24}(?![\w-]))")
_LOCAL = re.compile(r"(?:\"[^\"\n]{1,64}\"|[\w.+%'!#$&*/=?^`{|}~-]{1,64})$")
_DOT = r"(?:\.|\s?(?:\[(?:dot|\.)\]|\((?:dot|\.)\)|\{(?:dot|\.)\}|<(?:dot|\.)>)\s?)"
# From its sign on, as _AT: a pattern that began with the name would be tried at each letter of a text.
_SPELLED = re.compile(
    r"(?:\[(?:at|@)\]|\((?:at|@)\)|\{(?:at|@)\}|<(?:at|@)>)\s?"
    rf"[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}}){{1,9}}",
    re.IGNORECASE,
)
_SPELLED_LOCAL = re.compile(r"[\w.+-]{1,64}\s?\Z")
_ROOTS = (
    "home|root|tmp|Users|var|private|mnt|media|srv|opt|usr|etc|proc|sys|dev|run|boot|scratch|work|workspace|workspaces|"
    "data|datasets|storage|nfs|lustre|gpfs|project|projects|app|content|kaggle"
)
# Each of what follows begins with a sign that a text seldom has, which is looked for first.
_PATHS = (
    ("/", re.compile(rf"/(?<![\w.~:/<-]/)(?:(?:{_ROOTS})/[^\s\"'<>|;,()\[\]{{}}]+|tmp(?![\w-]))")),
    ("file:/", re.compile(r"file://?/?[^\s\"'<>]+")),
    (":\\", re.compile(r"(?<![\w/])[A-Za-z]:\\{1,2}[\w$.-]{2}[^\s\"'<>|;,]*")),
    ("\\\\", re.compile(r"\\(?<![\\\w]\\)\\[\w.-]+\\[\w$][^\s\"'<>|;,]*")),
    ("~", re.compile(r"~(?<![\w.~:/]~)(?:[a-z_][\w-]*)?/[\w.-][^\s\"'<>|;,()]*")),
)
_PASSWORD = re.compile(r"://[^\s/@:\"'<>]{0,64}:[^\s/@\"'<>]{1,128}@[\w.-]")
_SCHEME = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}\Z")
_KEYS = (
    ("-----BEGIN ", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("eyJ", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    *(
        (prefix, re.compile(rf"\b{prefix}[A-Za-z0-9_-]{{16,}}"))
        for prefix in ("hf_", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "sk-", "AKIA", "AIza")
    ),
    ("xox", re.compile(r"\bxox[abprs]-[A-Za-z0-9_-]{16,}")),
)
_ESCAPED = re.compile(r"\\(?:u\{?([0-9A-Fa-f]{4,6})\}?|x([0-9A-Fa-f]{2})|([0-9A-Fa-f]{2,6})[ ]?)")
_ROUNDS = 4

ADDRESS_SAID, PATH_SAID, SECRET_SAID = "(address)", "(path)", "(secret)"
_ORGANIZERS_OWN = (
    ("submission", "team"),
    ("submission", "check", "report"),
    ("submission", "check", "environment", "index"),
    ("submission", "check", "environment", "network"),
    ("submission", "check", "weights", "network"),
    ("submission", "check", "weights", "hosts"),
    ("environment", "index"),
    ("environment", "network"),
    ("weights", "network"),
    ("weights", "hosts"),
)
_TELLING = (
    ("submission",),
    ("training",),
    ("weights",),
    ("started_at",),
    ("finished_at",),
    ("attribute",),
    ("module",),
    ("root",),
)


def addresses(text: str) -> Iterator[str]:
    """E-mail addresses as they stand in a text, those included that are written for people only: `ann [at] lab.org`."""
    if "@" in text:
        for found in _AT.finditer(text):
            local = _LOCAL.search(text, max(0, found.start() - 66), found.start())
            if local is not None:
                yield text[local.start() : found.end()]
    for found in _SPELLED.finditer(text):
        local = _SPELLED_LOCAL.search(text, max(0, found.start() - 65), found.start())
        if local is not None:
            yield text[local.start() : found.end()]


def paths(text: str) -> Iterator[str]:
    """Absolute paths of Unix and Windows, `~user/...`, and `file:` addresses."""
    for sign, pattern in _PATHS:
        if sign in text:
            yield from (found[0].rstrip(".:") for found in pattern.finditer(text))


def secrets(text: str) -> Iterator[str]:
    """What looks like a private key, a service's token, or an address with a password in it."""
    if "://" in text:
        for found in _PASSWORD.finditer(text):
            scheme = _SCHEME.search(text, max(0, found.start() - 21), found.start())
            if scheme is not None:
                yield text[scheme.start() : found.end()]
    for sign, pattern in _KEYS:
        if sign in text:
            yield from (found[0] for found in pattern.finditer(text))


def readings(text: str) -> list[str]:
    """A text as it stands and, each once, as a browser or a program may read it: without HTML's entities, percent
    signs, escapes of JavaScript and CSS, invisible characters, and other widths of letters; several times over.
    """
    found = [text]
    for _ in range(_ROUNDS):
        read = _read(found[-1])
        if read == found[-1]:
            break
        found.append(read)
    return found


def _read(text: str) -> str:
    if "&" in text:
        text = html.unescape(text)
    if "%" in text:
        text = unquote(text)
    if "\\" in text:
        text = _ESCAPED.sub(_letter, text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        for letter in set(text):
            if unicodedata.category(letter) == "Cf":  # direction marks, joiners, soft hyphens
                text = text.replace(letter, "")
    return text


def _letter(escape: re.Match[str]) -> str:
    value = int(next(filter(None, escape.groups())), 16)
    is_written = value < 0x110000 and not 0xD800 <= value < 0xE000 and (value >= 32 and chr(value) != "\\")
    return chr(value) if is_written else escape[0]


def scrubbed(text: str) -> str:
    """A text for everybody: words stand in the place of addresses and secrets; of a path, its last part stays.

    A text that only hides such things (behind entities, escapes, invisible characters) is given as it would be read.
    """
    read = readings(text)[-1]
    if read != text and (any(addresses(read)) or any(paths(read)) or any(secrets(read))):
        text = read
    for secret in dict.fromkeys(secrets(text)):
        text = text.replace(secret, SECRET_SAID)
    for address in dict.fromkeys(addresses(text)):
        text = text.replace(address, ADDRESS_SAID)
    for path in sorted(dict.fromkeys(paths(text)), key=len, reverse=True):
        text = text.replace(path, _last(path))
    return text


def _last(path: str) -> str:
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return f"\N{HORIZONTAL ELLIPSIS}/{name}" if name and path.rstrip("/\\") != "/tmp" else PATH_SAID  # noqa: S108


def public(value: Any, *, is_anonymous: bool = False) -> Any:
    """A manifest, or what a check found, as everybody may read it: every text scrubbed, and nothing that is the
    organizers' own (a team's registered name, its report's words, package indexes and hosts of this network).

    `is_anonymous`: nor what its makers named (files, classes, repositories), nor digests of what they sent, nor when it
    ran, which follows the order of arrival.
    """
    dropped = {*_ORGANIZERS_OWN, *(_TELLING if is_anonymous else ())}
    return _public(value, (), dropped)


def _public(value: Any, place: tuple[str, ...], dropped: set[tuple[str, ...]]) -> Any:
    if isinstance(value, Mapping):
        return {
            (scrubbed(key) if isinstance(key, str) else key): _public(item, (*place, str(key)), dropped)
            for key, item in value.items()
            if (*place, str(key)) not in dropped
        }
    if isinstance(value, list | tuple):
        return [_public(item, place, dropped) for item in value]
    return scrubbed(value) if isinstance(value, str) else value
