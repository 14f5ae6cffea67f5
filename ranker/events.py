"""The log of who did what when. Rows are only ever added, and each carries a digest over itself and all before it.

The database refuses to change or delete a row (triggers); whoever goes round that breaks the chain of digests, which
`verify` finds. Rows cut off at the end leave a whole, shorter chain: keep the last digest elsewhere to tell.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ranker.db.rules import Event
from ranker.types import Action

RANKER = "ranker"  # the actor of what follows from facts, without anybody's decision
BEGINNING = "0" * 64
_LOCK = 5_120_612  # names the lock under which PostgreSQL lets one writer at a time go on with the chain


def whoami() -> str:
    """Who is at the keyboard, as the log names them: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:200]


def record(
    session: Session,
    *,
    actor: str,
    action: Action,
    submission_id: str | None = None,
    job_id: int | None = None,
    now: datetime,
    **details: Any,
) -> Event:
    """Add one row, with `details` as JSON, in the caller's transaction: what is rolled back was not done. Flushes."""
    session.flush()
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer anyway
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    event = Event(
        at=now.astimezone(UTC),
        actor=actor,
        action=action,
        submission_id=submission_id,
        job_id=job_id,
        details=details,
    )
    event.digest = chained(session.scalar(select(Event.digest).order_by(Event.id.desc()).limit(1)) or BEGINNING, event)
    session.add(event)
    session.flush()
    return event


def chained(before: str, event: Event) -> str:
    """SHA-256 (hex) over the digest of the row before and all that this one says."""
    said = [event.at.isoformat(), event.actor, event.action, event.submission_id, event.job_id, event.details]
    return hashlib.sha256(json.dumps([before, *said], sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def verify(events: Iterable[Event]) -> Event | None:
    """The first of all events, in the order of their ids, whose digest does not follow; None if the log is whole."""
    before = BEGINNING
    for event in events:
        if event.digest != chained(before, event):
            return event
        before = event.digest
    return None


def since(session: Session, *, submission_id: str | None = None, after: datetime | None = None) -> list[Event]:
    """Events in the order of their writing: of one submission, from a time on, or all."""
    query = select(Event).order_by(Event.id)
    if submission_id is not None:
        query = query.where(Event.submission_id == submission_id)
    if after is not None:
        query = query.where(Event.at >= after)
    return list(session.scalars(query))


def to_json(event: Event) -> dict[str, Any]:
    """An event as `ranker log --json` prints it."""
    return {
        "id": event.id,
        "at": event.at.isoformat(),
        "actor": event.actor,
        "action": event.action,
        "submission": event.submission_id,
        "job": event.job_id,
        "details": event.details,
        "digest": event.digest,
    }
