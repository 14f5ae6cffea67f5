"""What an answer tells: the variables of its template, as plain values without anything that a reader could misread."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from ranker.types import ReplyKind

_LONGEST = 2000
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class About:
    """The submission that is spoken of.

    `file` is the ZIP's name, `encoder` the class that was found in it ("" before the check), `features` the length of
    its feature vectors, `frames_per_s` how many of them it gives for a second of sound.
    """

    id: str
    sha256: str
    team: str
    file: str
    bytes: int
    encoder: str
    features: int | None
    frames_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Address:
    """A link that the message had: `state` is pending, fetched, declined or failed, `why` what was said of it."""

    url: str
    state: str
    why: str


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One public task: `value` as `metric` gives it, `blind` what an answer without listening would get."""

    name: str
    title: str
    metric: str
    value: float
    blind: float | None
    items: int


@dataclass(frozen=True, kw_only=True)
class TrackResult:
    """One track: its public tasks that were scored, and the mean over them (None unless all were scored).

    `demonstration` says why this is no result of the challenge, if it is none.
    """

    name: str
    title: str
    mean: float | None
    tasks: tuple[TaskResult, ...]
    demonstration: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """All variables of a template. Every one is there in every template; what does not apply is empty or none.

    kind          received, accepted, refused or result: the template's own name
    challenge     title of the benchmark that counts
    organizers    the name in `from` of smtp, or its address
    subject       of the message that is answered
    arrived       when that came: 2026-02-12 11:59:30 UTC
    submission    an About; none where the message brought no ZIP
    notes         what was found in the message, ignored or refused, one sentence each
    links         Address of each link in the message
    reasons       why it is refused, or why an evaluation failed: one sentence each
    standing      ranked, pending, superseded, late, withdrawn or disqualified; "" before it was accepted
    unsettled     what the rules have against it, or, if nothing, still ask for, with how to mend it: one sentence each
    tracks        a TrackResult for each track that was evaluated; public tasks only
    """

    kind: ReplyKind
    challenge: str
    organizers: str
    subject: str
    arrived: str
    submission: About | None
    notes: tuple[str, ...]
    links: tuple[Address, ...]
    reasons: tuple[str, ...]
    standing: str
    unsettled: tuple[str, ...]
    tracks: tuple[TrackResult, ...]

    def cleaned(self) -> Answer:
        """With every text on one line, of characters that are seen."""
        return _cleaned(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plain(text: str) -> str:
    """Text from strangers on one line: no control, direction-changing or other invisible character, no surrogate."""
    shown = "".join(" " if unicodedata.category(each) in _HIDDEN_CATEGORIES else each for each in text)
    return " ".join(shown.split())[:_LONGEST]


def _cleaned(value: Value) -> Value:
    if isinstance(value, str):
        return value if isinstance(value, ReplyKind) else plain(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(map(_cleaned, value))  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _cleaned(getattr(value, field.name)) for field in fields(value)})
    return value
