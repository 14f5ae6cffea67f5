"""What is written down of the answers that are wanted: one draft each, known by what it says and what was said before.

A draft that is not wanted any more, since things have moved on, is dropped; one that was sent stays, and what is new is
drafted as another. Called again, or killed in between, it does no harm: files come first, and rows name them.
"""

from __future__ import annotations

import fcntl
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message as Headers
from email.parser import BytesHeaderParser
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ranker.db.mail import Message, Reply
from ranker.db.session import session
from ranker.durable import whole_file
from ranker.home import Home
from ranker.outbox import draft_path
from ranker.replies.letter import letter, sender_of
from ranker.replies.manners import why_silent
from ranker.replies.wanted import Wanted
from ranker.settings import Service
from ranker.types import ReplyKind, ReplyState, digest_json

_SUPERSEDED = "superseded: things have moved on since it was drafted"
_TOLD = frozenset({ReplyState.SENT, ReplyState.SENDING})  # what may have been sent counts as told
_UNSENT = frozenset({ReplyState.DRAFTED, ReplyState.FAILED})
_NO_NEWS = frozenset({"challenge", "organizers", "subject", "arrived"})  # may change without anything being new
_HEADER_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """What a call has changed. `silent`: messages that get no answer -> why."""

    new: list[Reply] = field(default_factory=list)
    dropped: list[Reply] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Due:
    """A draft whose file is written, and whose row is to follow."""

    wanted: Wanted
    key: str
    subject: str


def draft(engine: Engine, home: Home, service: Service, answers: Sequence[Wanted], now: datetime) -> Drafted:
    """Draft the `answers` that were not given yet, and drop drafts that are none of them.

    Files are written before the database is locked for their rows: many take a while. Raises ConfigError where `from`
    of smtp is no address, or a template cannot be used.
    """
    home.outbox.mkdir(parents=True, exist_ok=True)
    with _alone(home.outbox):
        with session(engine, read_only=True) as reading:
            known = {reply.key: reply for reply in reading.scalars(select(Reply).order_by(Reply.id))}
        silent: dict[str, str] = {}
        current: set[str] = set()
        due = list(_written(home, service, answers, known=known, current=current, silent=silent, now=now))
        if not due and all(reply.key in current or reply.state not in _UNSENT for reply in known.values()):
            return Drafted(silent=silent)
        with session(engine) as writing:
            new = [row for each in due if (row := _recorded(writing, each, now)) is not None]
            unsent = writing.scalars(select(Reply).where(Reply.state.in_(_UNSENT)).order_by(Reply.id))
            dropped = [reply for reply in unsent if reply.key not in current]
            for reply in dropped:
                reply.state, reply.failure = ReplyState.DROPPED, _SUPERSEDED
        for reply in dropped:
            draft_path(home, reply).unlink(missing_ok=True)
    return Drafted(new=new, dropped=dropped, silent=silent)


def _written(
    home: Home,
    service: Service,
    answers: Sequence[Wanted],
    *,
    known: Mapping[str, Reply],
    current: set[str],
    silent: dict[str, str],
    now: datetime,
) -> Iterator[_Due]:
    """Write the files that are missing. `current` gets the keys of all that should be there, `silent` as in Drafted."""
    assert service.smtp is not None, "answers have a sender"
    own = {sender_of(service.smtp.sender)[1].lower()} | ({service.imap.user.lower()} if service.imap else set())
    told = _told(known.values())
    for each in answers:
        key = _key(each, told[_thread(each)])
        if key is None:
            continue
        reply = known.get(key)
        is_there = reply is not None and (reply.state not in _UNSENT or draft_path(home, reply).is_file())
        if is_there and not _is_superseded(reply):
            current.add(key)
            continue
        headers = _headers(home, each.message)
        why = why_silent(each.recipient, headers, own=own, own_lists=service.smtp.own_lists)
        if why is not None:
            silent[each.message.id] = why
            continue
        current.add(key)
        subject, content = letter(
            home, each.answer, sender=service.smtp.sender, recipient=each.recipient, key=key, headers=headers, now=now
        )
        with whole_file(home.outbox / f"{key}.eml") as file:
            file.write_bytes(content)
        yield _Due(wanted=each, key=key, subject=subject)


def _recorded(writing: Session, due: _Due, now: datetime) -> Reply | None:
    """The row of a draft that is new, or anew; None where only its file was missing."""
    reply = writing.scalar(select(Reply).where(Reply.key == due.key))
    if reply is None:
        reply = _row(due.wanted, due.key, due.subject, now)
        writing.add(reply)
        writing.flush()
        return reply
    if not _is_superseded(reply):
        return None
    reply.state, reply.failure, reply.drafted_at = ReplyState.DRAFTED, None, now
    return reply


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One drafting at a time; the kernel lets go when a process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


Thread = tuple[str | None, str, str | None]


def _thread(one: Wanted | Reply) -> Thread:
    """What belongs together: a submission and whom is told of it; of a message without one, the message itself."""
    message = one.message_id if isinstance(one, Reply) else one.message.id
    return one.submission_id, one.recipient, message if one.submission_id is None else None


def _told(known: Iterable[Reply]) -> dict[Thread, list[Reply]]:
    """What was said already, oldest first."""
    told: dict[Thread, list[Reply]] = defaultdict(list)
    for reply in known:
        if reply.state in _TOLD:
            told[_thread(reply)].append(reply)
    return told


def _key(wanted: Wanted, told: Sequence[Reply]) -> str | None:
    """What the answer is known by; None if just this is what was told last.

    It is of what the answer says and of what was told before it: if things turn, and turn back, that is news again.
    """
    is_receipt = wanted.submission_id is not None and wanted.answer.kind is ReplyKind.RECEIVED
    if is_receipt and any(reply.message_id == wanted.message.id for reply in told):
        return None  # it is only checked again
    keys = ["", *(reply.key for reply in told)]
    if told and _digest(wanted, keys[-2]) == keys[-1]:
        return None
    return _digest(wanted, keys[-1])


def _digest(wanted: Wanted, before: str) -> str:
    said = {name: value for name, value in wanted.answer.to_json().items() if name not in _NO_NEWS}
    return digest_json([wanted.message.id, wanted.submission_id, wanted.recipient, said, before])


def _is_superseded(reply: Reply | None) -> bool:
    return reply is not None and reply.state == ReplyState.DROPPED and reply.failure == _SUPERSEDED


def _row(wanted: Wanted, key: str, subject: str, now: datetime) -> Reply:
    return Reply(
        key=key,
        kind=ReplyKind(wanted.answer.kind),
        message_id=wanted.message.id,
        submission_id=wanted.submission_id,
        recipient=wanted.recipient,
        subject=subject,
        state=ReplyState.DRAFTED,
        drafted_at=now,
    )


def _headers(home: Home, message: Message) -> Headers:
    """The header of a message as it came; an empty one where its file is gone."""
    try:
        with (home.mail / f"{message.digest}.eml").open("rb") as file:
            return BytesHeaderParser().parsebytes(file.read(_HEADER_BYTES))
    except FileNotFoundError:
        return Headers()
