"""Bringing a database to the newest revision; of a SQLite file, a copy is put aside first.

Alembic does it. It takes a third of a second to load, so whether there is something to do is found out without it.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateSchema

from ranker.db.place import described, schema_of
from ranker.errors import UsageError
from ranker.home import asset

if TYPE_CHECKING:
    from alembic.config import Config

_OWN = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_BEFORE = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)


def head_revision(scripts: Path | None = None) -> str:
    """The newest revision among `scripts` (None: the folder that ships with ranker)."""
    texts = [path.read_text(encoding="utf-8") for path in ((scripts or asset("alembic")) / "versions").glob("*.py")]
    (head,) = {match[1] for match in map(_OWN.search, texts) if match} - {
        match[1] for match in map(_BEFORE.search, texts) if match
    }
    return head


def current_revision(engine: Engine) -> str | None:
    """The revision a database is at; None for an empty one."""
    with engine.connect().execution_options(read_only=True) as connection, connection.begin():
        return _revision(connection)


def migrate(engine: Engine, scripts: Path | None = None) -> Path | None:
    """Bring the database to `head_revision(scripts)`; returns where the copy of the old file is, if one had to be made.

    All of it is one transaction under the write lock: a kill leaves the old database, and of two processes that open
    it at once, one migrates while the other waits. On PostgreSQL no copy is made: backups are the server's, and that
    transaction takes back what fails. Raises UsageError if the file is no database, or a newer ranker's.
    """
    try:
        head = head_revision(scripts)
        if current_revision(engine) == head:
            return None
        with engine.begin() as connection:
            found = _revision(connection)  # again: another process may have migrated while we waited for the lock
            if found == head:
                return None
            _refuse_the_future(found, head, engine, scripts)
            copy = None
            if engine.dialect.name == "sqlite":
                copy = None if found is None else _back_up(Path(str(engine.url.database)), found)
            elif found is None:
                prepare_server(connection, engine)
            from alembic import command

            command.upgrade(_config(scripts, connection), "head")
            return copy
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and not isinstance(error.orig, sqlite3.OperationalError):
            raise UsageError(
                f"{engine.url.database} is not a readable SQLite database ({error.orig}); "
                "restore it from a ranker.db.backup-* file beside it"
            ) from error
        raise


def _refuse_the_future(found: str | None, head: str, engine: Engine, scripts: Path | None) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config(scripts)).walk_revisions()}
    if found is not None and found not in known:
        older = "an older copy (ranker.db.backup-*)" if engine.dialect.name == "sqlite" else "an older dump of it"
        raise UsageError(
            f"{described(engine.url)} is at revision {found}, this ranker knows revisions up to {head}: "
            f"a newer ranker wrote it; install that version, or restore {older}"
        )


def prepare_server(connection: Connection, engine: Engine) -> None:
    """What a new database on a server needs: text of any language, and the schema that the URL chose."""
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise UsageError(
            f"the database {described(engine.url)} stores text as {encoding}; expected UTF8, for names of any "
            "language: make another with `createdb --encoding UTF8 --template template0 NAME`"
        )
    schema = schema_of(engine.url)
    if schema is not None:
        connection.execute(CreateSchema(schema, if_not_exists=True))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _config(scripts: Path | None, connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts or asset("alembic")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _back_up(path: Path, revision: str) -> Path:
    """Copy a live database by SQLite's own means (a copied file would lack the write-ahead log)."""
    copy = path.with_name(f"{path.name}.backup-{revision}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy
