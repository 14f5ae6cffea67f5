"""Engines and sessions on SQLite: write-ahead log, foreign keys, a patient lock, and explicit transactions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from ranker.db.migrate import migrate
from ranker.home import Home

BUSY_TIMEOUT_S = 30.0


def open_database(home: Home) -> Engine:
    """The home's database, created or migrated to the newest revision first.

    Raises what `ranker.db.migrate.migrate` raises. The engine belongs to this process: a child process opens its own.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    engine = connect(home.database_path)
    with ExitStack() as on_failure:
        on_failure.callback(engine.dispose)
        migrate(engine, home.database_path)
        on_failure.pop_all()
    return engine


def connect(path: Path) -> Engine:
    """An engine on one SQLite file, which is left as it is found (a missing file is created, empty)."""
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
    # Python's sqlite3 begins transactions by its own rules, too late and always deferred; None leaves that to `_begin`.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another writer was quicker, whatever the busy
    # timeout: writers therefore take the lock first. Readers take none, and are held to reading.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def session(engine: Engine, *, read_only: bool = False) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on an exception. Objects keep their loaded values afterwards.

    A writing session holds the database's single write lock from its start to its end, so nothing slow belongs into it.
    A `read_only` one blocks nobody, sees one snapshot, and cannot write.
    """
    bound = engine.execution_options(read_only=read_only)
    with Session(bound, expire_on_commit=False) as opened, opened.begin():
        yield opened
