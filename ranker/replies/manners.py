"""Whom never to answer: programs, lists, bounces, ourselves (RFC 3834, section 2). One wrong answer makes a loop."""

from __future__ import annotations

import re
from collections.abc import Collection
from email.message import Message as Headers

_ADDRESS = re.compile(r"[^\s<>@,;:\"\\()\[\]]{1,64}@[^\s<>@,;:\"\\()\[\]]{1,253}")
_NOBODY = re.compile(
    r"(mailer-daemon|postmaster|no-?reply|do-?not-?reply|bounces?|.*-bounces|.*-request)([+-].*)?", re.IGNORECASE
)
_LIST_ID = re.compile(r"<([^<>]+)>\s*$")
_TO_MANY = frozenset({"bulk", "junk", "list", "auto_reply", "auto-reply"})
_PROGRAMS = ("X-Autoreply", "X-Autorespond", "X-Loop", "X-Failed-Recipients")


def why_silent(recipient: str, headers: Headers, *, own: Collection[str], own_lists: Collection[str]) -> str | None:
    """Why nobody who writes from `recipient` with these headers gets an answer; None if they do.

    `own`: addresses that are ours, in lower case. `own_lists`: lists (List-Id) that stand for our address.
    """
    if not _ADDRESS.fullmatch(recipient) or not recipient.isprintable():
        return f"{recipient!r} is no address that could be answered"
    if recipient.lower() in own:
        return f"{recipient} is our own address"
    if _NOBODY.fullmatch(recipient.partition("@")[0]):
        return f"nobody reads what is sent to {recipient}"
    return _program(headers) or _list(headers, {each.lower() for each in own_lists})


def _program(headers: Headers) -> str | None:
    automatic = _value(headers, "Auto-Submitted").partition(";")[0].strip()
    wanted_none = {word.strip() for word in _value(headers, "X-Auto-Response-Suppress").split(",")} & {
        "all",
        "autoreply",
    }
    found = {
        f"a program wrote it (Auto-Submitted: {automatic[:40]})": automatic not in {"", "no"},
        "it is a bounce: its envelope has no sender": _value(headers, "Return-Path").replace(" ", "") == "<>",
        "it is a report of a mail server": headers.get_content_type() == "multipart/report",
        "its sender wants no automatic answer (X-Auto-Response-Suppress)": bool(wanted_none),
        "a program wrote it": any(name in headers for name in _PROGRAMS),
    }
    return next((why for why, holds in found.items() if holds), None)


def _list(headers: Headers, own_lists: Collection[str]) -> str | None:
    given = _value(headers, "List-Id")
    found = _LIST_ID.search(given)
    name = (found[1] if found else given).strip()
    if name and name in own_lists:
        return None
    if any(header.lower().startswith("list-") for header in headers.keys()):  # noqa: SIM118  a message, no mapping
        return f"it came over a mailing list ({name[:80] or 'List-*'})"
    precedence = _value(headers, "Precedence")
    return f"it was sent to many (Precedence: {precedence})" if precedence in _TO_MANY else None


def _value(headers: Headers, name: str) -> str:
    """A header in lower case, "" where there is none."""
    return " ".join(str(headers.get(name, "")).split()).lower()
