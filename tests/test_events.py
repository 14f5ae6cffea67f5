"""The log of who did what: rows stay, in their order, and a changed history shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from homes import new_engine
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ranker import events
from ranker.db.models import Submission
from ranker.db.session import session
from ranker.home import Home
from ranker.types import Action

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
DIGEST = "ab" * 32


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(Home(root=tmp_path))
    yield engine
    engine.dispose()


def three(opened: Session) -> None:
    """A submission and three events, one of them its own, with what JSON can hold."""
    opened.add(Submission(id=DIGEST[:12], digest=DIGEST, team="Ünï", file_name="a.zip", size_bytes=1, received_at=NOW))
    events.record(opened, actor="eve@host", action=Action.INGEST, submission_id=DIGEST[:12], now=NOW, file="ä.zip")
    events.record(opened, actor="eve@host", action=Action.PUBLISH, now=NOW + timedelta(hours=1), n=0.1, parts=[1, None])
    elsewhere = datetime(2026, 2, 12, 9, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-12)))
    events.record(opened, actor="adam@host", action=Action.ADMIT, submission_id=DIGEST[:12], now=elsewhere, why="ill")


def test_what_was_done_is_read_back_in_its_order(engine: Engine) -> None:
    """Times come back in UTC, details as they were, and a log can be asked of one submission or from a time on."""
    with session(engine) as writing:
        three(writing)
    with session(engine, read_only=True) as reading:
        whole = events.since(reading)
        own = events.since(reading, submission_id=DIGEST[:12])
        late = events.since(reading, after=NOW + timedelta(hours=1))
    assert [each.action for each in whole] == [Action.INGEST, Action.PUBLISH, Action.ADMIT]
    assert whole[1].details == {"n": 0.1, "parts": [1, None]}
    assert whole[2].at == datetime(2026, 2, 12, 21, 0, 0, 123456, tzinfo=UTC)
    assert [each.action for each in own] == [Action.INGEST, Action.ADMIT]
    assert [each.action for each in late] == [Action.PUBLISH, Action.ADMIT]
    assert events.to_json(whole[0])["at"] == "2026-02-12T12:00:00+00:00"


@pytest.mark.parametrize("order", ["UPDATE event SET actor = 'nobody' WHERE id = 2", "DELETE FROM event WHERE id = 3"])
def test_the_database_itself_refuses_to_change_the_log(engine: Engine, order: str) -> None:
    """No code of ours and no SQL shell can rewrite what was done without taking the triggers away first."""
    with session(engine) as writing:
        three(writing)
    with pytest.raises(DBAPIError, match="only ever added"), session(engine) as writing:
        writing.execute(text(order))
    with session(engine, read_only=True) as reading:
        assert len(events.since(reading)) == 3


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("UPDATE event SET actor = 'nobody' WHERE id = 2", 2),
        ("UPDATE event SET at = '2026-02-12 12:00:01.000000' WHERE id = 1", 1),
        ('UPDATE event SET details = \'{"why": "well"}\' WHERE id = 3', 3),
        ("DELETE FROM event WHERE id = 1", 2),
        ("DELETE FROM event WHERE id = 2", 3),
        ("UPDATE event SET id = 9 - id", 6),
    ],
)
def test_a_history_that_was_changed_all_the_same_shows(engine: Engine, order: str, found: int) -> None:
    """Whoever drops the triggers first leaves a chain of digests that breaks where the log was changed."""
    with session(engine) as writing:
        three(writing)
    with session(engine, read_only=True) as reading:
        assert events.verify(events.since(reading)) is None
    with session(engine) as writing:
        on_sqlite = ("event_no_update", "event_no_delete")
        for trigger in on_sqlite if engine.dialect.name == "sqlite" else ("event_kept ON event",):
            writing.execute(text(f"DROP TRIGGER {trigger}"))
        writing.execute(text(order))
    with session(engine, read_only=True) as reading:
        broken = events.verify(events.since(reading))
    assert broken is not None
    assert broken.id == found


def fails_after_recording(engine: Engine) -> None:
    """An order that goes wrong at its very end."""
    with session(engine) as writing:
        events.record(writing, actor="eve@host", action=Action.WITHDRAW, now=NOW)
        raise ZeroDivisionError


def test_what_is_rolled_back_was_not_done(engine: Engine) -> None:
    """An order that fails leaves no word in the log, and the chain goes on from the last one that did not."""
    with session(engine) as writing:
        three(writing)
    with pytest.raises(ZeroDivisionError):
        fails_after_recording(engine)
    with session(engine) as writing:
        events.record(writing, actor="eve@host", action=Action.PAUSE, now=NOW)
    with session(engine, read_only=True) as reading:
        whole = events.since(reading)
    assert [each.action for each in whole][3:] == [Action.PAUSE]
    assert events.verify(whole) is None


def test_the_actor_is_a_person_at_a_machine() -> None:
    """A log of `root` without a machine tells nobody whom to ask."""
    user, _, host = events.whoami().partition("@")
    assert user
    assert host
