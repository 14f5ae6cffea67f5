"""Engines and sessions: one writer at a time, readers that block nobody, a patient lock, explicit transactions.

On SQLite by its own lock and a write-ahead log. On PostgreSQL by an advisory lock that every writing transaction takes
first, so that what was proved of the one holds on the other; readers there see one snapshot (REPEATABLE READ).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from ranker.credentials import scrubbed
from ranker.db.migrate import current_revision, migrate
from ranker.db.place import database_url, described
from ranker.errors import InfraError, MissingError
from ranker.home import Home

BUSY_TIMEOUT_S = 30.0
IDLE_WRITER_S = 300
"""How long a writer may say nothing before PostgreSQL ends it: a lost machine must not hold the lock for ever."""
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "fallback_application_name": "ranker",
}
_PREPARE = f"SET lock_timeout = '{BUSY_TIMEOUT_S:.0f}s'; SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10"
# The lock is the schema's, so that homes in schemas of one database do not wait for each other.
_TAKE_LOCK = (
    f"SELECT set_config('idle_in_transaction_session_timeout', '{IDLE_WRITER_S}s', true), "
    "pg_advisory_xact_lock(1918987883, hashtext(coalesce(current_schema(), current_setting('search_path'))))"
)


def open_database(home: Home) -> Engine:
    """The home's database, created or migrated to the newest revision first.

    Raises what `ranker.db.migrate.migrate` and `ranker.db.place.database_url` raise, and InfraError if a server does
    not answer. The engine belongs to this process: a child process opens its own.
    """
    url = database_url(home)
    home.root.mkdir(parents=True, exist_ok=True)
    return open_url(url)


def open_url(url: URL) -> Engine:
    """The same for a database by its URL."""
    engine = connect(url)
    with ExitStack() as on_failure:
        on_failure.callback(engine.dispose)
        with answering(engine):
            migrate(engine)
        on_failure.pop_all()
    return engine


def has_database(home: Home) -> bool:
    """Whether the home's database was ever opened; makes none. Raises InfraError if a server does not answer."""
    url = database_url(home)
    if url.get_backend_name() == "sqlite":
        return Path(str(url.database)).is_file()
    engine = connect(url)
    try:
        with answering(engine):
            return current_revision(engine) is not None
    finally:
        engine.dispose()


def connect(where: Path | URL) -> Engine:
    """An engine on a database, which is left as it is found (a missing SQLite file is created, empty).

    Raises MissingError where psycopg is needed and not installed.
    """
    url = URL.create("sqlite", database=str(where)) if isinstance(where, Path) else where
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        return engine
    network = {name: value for name, value in _NETWORK.items() if name not in url.query}
    try:
        engine = create_engine(url, connect_args=network, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise MissingError(f"PostgreSQL needs a driver ({error}); pip install 'ranker[postgres]'") from None
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin_on_server)
    return engine


@contextmanager
def answering(engine: Engine) -> Iterator[None]:
    """What a PostgreSQL server, or the way to it, refuses, as one sentence: raises InfraError. SQLite's errors pass."""
    try:
        yield
    except DBAPIError as error:
        if engine.dialect.name == "sqlite":
            raise
        words = scrubbed(error.orig, engine.url.password or "")
        raise InfraError(
            f"the database {described(engine.url)} cannot be used: {words}; see that the server runs and lets this "
            "user in (`ranker doctor`)"
        ) from None


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


def _prepare(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.execute(_PREPARE)
    connection.commit()


def _begin_on_server(connection: Connection) -> None:
    # Writers read what others have committed (the server's default level), each statement anew: with the lock, nobody
    # else writes, so what they see stays. One snapshot would be taken before the lock was there, and be out of date.
    if connection.get_execution_options().get("read_only", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        connection.exec_driver_sql(_TAKE_LOCK)


@contextmanager
def session(engine: Engine, *, read_only: bool = False) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back on an exception. Objects keep their loaded values afterwards.

    A writing session holds the database's single write lock from its start to its end, so nothing slow belongs into it.
    A `read_only` one blocks nobody, sees one snapshot, and cannot write.
    """
    bound = engine.execution_options(read_only=read_only)
    with Session(bound, expire_on_commit=False) as opened, opened.begin():
        yield opened
