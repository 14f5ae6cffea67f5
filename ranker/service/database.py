"""Where the database is, what it holds, and how it is moved."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ranker.errors import UsageError
from ranker.service.opened import Opened

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ranker.db.copy import Copied, OnRows
    from ranker.db.facts import Facts


class Database(Opened):
    """Where the database is, what it holds, and how it is moved."""

    def database_facts(self) -> Facts:
        """Where the database is, its revision, its size, its rows; as it is found, not migrated. Raises MissingError
        where there is none, InfraError.
        """
        from ranker.db.facts import facts
        from ranker.db.place import database_url
        from ranker.db.session import answering, connect

        self.refuse_without_database()
        engine = connect(database_url(self.home))
        try:
            with answering(engine):
                return facts(engine)
        finally:
            engine.dispose()

    def copy_database(self, to: str, *, on_rows: OnRows) -> Copied:
        """Copy the home's database into the empty one that a URL names, and write down there who did; see
        `ranker.db.copy`. Raises UsageError, MissingError, InfraError.
        """
        from ranker import events
        from ranker.db.copy import copy
        from ranker.db.place import database_url, described, target_url
        from ranker.db.session import open_url
        from ranker.types import Action

        url = target_url(to, self.home)
        if described(url) == described(database_url(self.home)):
            raise UsageError(f"{described(url)} is where the database is; expected the address of another")
        self.refuse_without_database()
        now = datetime.now(UTC)

        def told(writing: Session, copied: Copied) -> None:
            events.record(
                writing,
                actor=events.whoami(),
                action=Action.COPY_DATABASE,
                now=now,
                origin=copied.origin,
                target=copied.target,
                rows=sum(copied.rows.values()),
                digest=copied.digest,
            )

        with self.open() as source:
            target = open_url(url)
            try:
                return copy(source, target, now=now, on_rows=on_rows, also=told)
            finally:
                target.dispose()
