"""Addresses that messages gave instead of a file: what is decided about each, and its file once somebody says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ranker.data.fetch import alone
from ranker.db.mail import Link, Message
from ranker.db.models import Submission
from ranker.db.session import session
from ranker.errors import ParticipantError, UsageError
from ranker.events import record, whoami
from ranker.home import Home
from ranker.intake.arrivals import Arrival
from ranker.intake.download import download, forget
from ranker.intake.receive import shown
from ranker.intake.sharing import direct
from ranker.settings import Service
from ranker.types import Action, Channel, LinkState

MAX_URL_LENGTH = 4000


@dataclass(frozen=True, kw_only=True)
class LinkView:
    """One address, and what is to be known before it is asked. `host` is where the bytes would come from."""

    id: int
    url: str
    host: str
    state: LinkState
    found_at: datetime
    message_id: str | None
    sender: str | None
    subject: str | None
    arrived_at: datetime | None
    arrived_by: str | None
    decided_at: datetime | None
    decided_by: str | None
    digest: str | None
    why: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601 with their zone."""
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(self).items()}


def is_url(text: str) -> bool:
    """Whether what was handed in is an address, not a path."""
    return urlsplit(text).scheme.lower() in {"http", "https"} and "://" in text


def listed(session: Session, states: Sequence[LinkState]) -> list[LinkView]:
    """The addresses in these states, in the order in which they came."""
    query = (
        select(Link, Message)
        .outerjoin(Message, Link.message_id == Message.id)
        .where(Link.state.in_(states))
        .order_by(Link.id)
    )
    return [_view(link, message) for link, message in session.execute(query)]


def view(session: Session, number: int) -> LinkView:
    """One address by its number. Raises UsageError."""
    link = session.get(Link, number)
    if link is None:
        raise UsageError(f"there is no link {number}; `ranker links` lists those that messages gave")
    return _view(link, None if link.message_id is None else session.get(Message, link.message_id))


def numbered(session: Session, number: int) -> list[LinkView]:
    """One address by its number, as a list of one. Raises UsageError."""
    return [view(session, number)]


def approved(session: Session, url: str, *, now: datetime) -> list[LinkView]:
    """The links of this address that may be fetched now that an organizer has named it; one is made where no message
    gave it. Raises UsageError.
    """
    if len(url) > MAX_URL_LENGTH or not urlsplit(url).hostname:
        raise UsageError(f"{shown(url[:200])} is no address that could be asked; expected https://HOST/...")
    found = [each for each in session.scalars(select(Link).order_by(Link.id)) if _same(each.url, url)]
    if not found:
        found = [Link(message_id=None, url=url, state=LinkState.PENDING, found_at=now)]
        session.add_all(found)
        session.flush()
    return [view(session, each.id) for each in found]


def decline(session: Session, number: int, *, why: str, now: datetime) -> LinkView:
    """Say that a link is not to be fetched, and why: for the log, and the answer to its sender. Raises UsageError."""
    link = session.get_one(Link, view(session, number).id)
    if link.state == LinkState.FETCHED:
        raise UsageError(
            f"link {number} was fetched already: it is submission {(link.digest or '')[:12]}; `ranker withdraw` takes"
            " that out"
        )
    if not why.strip():
        raise UsageError("--why is empty; say in a sentence why the link is not fetched")
    _decide(link, LinkState.DECLINED, now=now, why=why)
    record(session, actor=whoami(), action=Action.DECLINE_LINK, now=now, link=number, why=why)
    return view(session, number)


@contextmanager
def fetched(
    home: Home,
    service: Service,
    url: str,
    on_bytes: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Iterator[Callable[[LinkView], Arrival]]:
    """The file behind an address, for as long as the block; how it came by each link that leads there.

    Whoever else fetches the same address waits. What was brought is kept until the block ends well. Raises as
    `ranker.intake.download.download`.
    """
    folder = _folder(home, url)
    with alone(folder):
        try:
            found = download(url, folder, settings=service.links, private=service.private_hosts, on_bytes=on_bytes)
        except ParticipantError:
            forget(folder)  # it is no ZIP, or too large: nothing to go on with
            raise
        now = datetime.now(UTC)
        changed = "" if found.changed_at is None else f", last changed there {shown(found.changed_at)[:40]}"
        how = f"its link was fetched from {found.host} at {now:%Y-%m-%d %H:%M:%S} UTC{changed}"
        name = shown(found.name)

        def arrival(link: LinkView) -> Arrival:
            return Arrival(
                file=found.file,
                name=name,
                channel=Channel.LINK,
                source=f"link {link.id}",
                sender=link.sender,
                arrived_at=link.arrived_at or now,
                arrived_by=f"{link.arrived_by}; {how}"[:1000] if link.arrived_by else how,
                message_id=link.message_id,
                report=None,
            )

        yield arrival
        forget(folder)


def tidy(home: Home, link: LinkView) -> None:
    """Remove what a fetch has left that was killed after its end. Raises OSError."""
    folder = _folder(home, link.url)
    if folder.is_dir():
        with alone(folder):
            forget(folder)


def _folder(home: Home, url: str) -> Path:
    return home.links / hashlib.sha256(direct(url).encode()).hexdigest()[:16]


def settle(session: Session, link: LinkView, submission: Submission, arrival: Arrival, *, now: datetime) -> None:
    """Record whose word it was that a link was fetched, and what came; with the submission, in one transaction."""
    row = session.get_one(Link, link.id)
    row.digest, row.size_bytes = submission.digest, submission.size_bytes
    _decide(row, LinkState.FETCHED, now=now, why=None)
    record(
        session,
        actor=whoami(),
        action=Action.FETCH_LINK,
        submission_id=submission.id,
        now=now,
        link=link.id,
        sha256=submission.digest,
        bytes=submission.size_bytes,
        how=arrival.arrived_by,
    )


def fail(engine: Engine, link: LinkView, *, why: str, now: datetime) -> None:
    """Record that what an address leads to is no ZIP, or not to be had; it may be tried again."""
    with session(engine) as writing:
        _decide(writing.get_one(Link, link.id), LinkState.FAILED, now=now, why=why)
        record(writing, actor=whoami(), action=Action.FETCH_LINK, now=now, link=link.id, failed=why)


def forget_unasked(session: Session, found: Sequence[LinkView]) -> None:
    """Remove the rows of an address that no message gave, and that turned out to be none that may be asked."""
    for each in found:
        row = session.get(Link, each.id)
        if row is not None and row.message_id is None and row.decided_at is None:
            session.delete(row)


def host_of(url: str) -> str:
    """The machine that is asked for the file behind an address."""
    return urlsplit(direct(url)).hostname or ""


def _same(known: str, url: str) -> bool:
    return known == url or direct(known) == direct(url)


def _decide(link: Link, state: LinkState, *, now: datetime, why: str | None) -> None:
    link.state, link.decided_at, link.decided_by = state, now, whoami()
    link.why = None if why is None else why[:2000]
    if state is not LinkState.FETCHED:
        link.digest, link.size_bytes = None, None


def _view(link: Link, message: Message | None) -> LinkView:
    return LinkView(
        id=link.id,
        url=link.url,
        host=host_of(link.url),
        state=LinkState(link.state),
        found_at=link.found_at,
        message_id=link.message_id,
        sender=None if message is None else message.sender,
        subject=None if message is None else message.subject,
        arrived_at=None if message is None else message.arrived_at,
        arrived_by=None if message is None else message.arrived_by,
        decided_at=link.decided_at,
        decided_by=link.decided_by,
        digest=link.digest,
        why=link.why,
    )
