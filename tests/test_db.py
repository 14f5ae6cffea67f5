"""The database: migrations give the models, old files are kept, transactions exclude each other."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from postgres import sqlite_only
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from ranker.db.migrate import current_revision, head_revision, migrate
from ranker.db.models import Job, Submission
from ranker.db.place import database_url
from ranker.db.schema import Base
from ranker.db.session import connect, open_database, session
from ranker.errors import UsageError
from ranker.home import Home, asset
from ranker.types import JobKind, Status

NOW = datetime(2026, 2, 12, 23, 59, tzinfo=UTC)


def submission(name: str = "a") -> Submission:
    return Submission(id=name * 12, digest=name * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = open_database(home)
    yield engine
    engine.dispose()


def statements(connection: sqlite3.Connection) -> dict[str, str]:
    """Each table's and index's SQL, blanks and the order of a table's columns and constraints evened out."""
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master"
        " WHERE type IN ('table', 'index') AND sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    ).fetchall()
    return {name: even(sql) for name, sql in rows}


def even(sql: str) -> str:
    """The parts of a statement in alphabetical order; a column that was added later stands behind the constraints."""
    head, _, body = re.sub(r"\s+", " ", sql).strip().replace('"', "").partition("(")
    parts, depth = [""], 0
    for char in body.rpartition(")")[0] if head.startswith("CREATE TABLE") else body:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return "\n".join([head.strip(), *sorted(part.strip() for part in parts)])


def test_migrations_give_the_models(engine: Engine) -> None:
    """Attacks drift between models and migrations, as alembic sees it."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


@sqlite_only
def test_migrations_give_the_checks_too(engine: Engine, home: Home) -> None:
    """Attacks drift that alembic is blind to: the SQL of every table, with its CHECK constraints, is the models'."""
    with closing(sqlite3.connect(home.database_path)) as connection:
        found = statements(connection)
    expected = {}
    for table in Base.metadata.sorted_tables:
        expected[table.name] = even(str(CreateTable(table).compile(engine)))
        for index in table.indexes:
            expected[str(index.name)] = even(str(CreateIndex(index).compile(engine)))
    assert len(expected) == 21
    assert "CONSTRAINT job_status CHECK" in expected["job"]
    assert found == expected


def test_opening_again_makes_no_backup(engine: Engine, home: Home) -> None:
    """Attacks a backup at every start: a database at head is left alone."""
    assert current_revision(engine) == head_revision()
    assert migrate(engine) is None
    assert list(home.root.glob("*.backup-*")) == []


FURTHER = "9999"
FURTHER_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{new}"
down_revision = "{old}"


def upgrade() -> None:
    op.create_table("extra", sa.Column("id", sa.Integer(), primary_key=True))
    {more}
"""


def scripts_with_a_further_revision(folder: Path, more: str = "") -> Path:
    scripts = folder / "alembic"
    shutil.copytree(asset("alembic"), scripts, ignore=shutil.ignore_patterns("__pycache__"))
    revision = FURTHER_REVISION.format(old=head_revision(), new=FURTHER, more=more)
    (scripts / "versions" / f"{FURTHER}_extra.py").write_text(revision, encoding="utf-8")
    return scripts


def test_an_old_database_is_backed_up_and_migrated(engine: Engine, home: Home, tmp_path: Path) -> None:
    """Attacks a backup by file copy: a row that is only in the log must be in the copy, at the old revision."""
    with session(engine) as writing:
        writing.add(submission())
    copy = migrate(engine, scripts_with_a_further_revision(tmp_path))
    assert current_revision(engine) == FURTHER
    if engine.dialect.name != "sqlite":  # a server has backups of its own
        assert copy is None
        return
    assert copy is not None
    assert re.fullmatch(rf"ranker\.db\.backup-{head_revision()}-\d{{8}}T\d{{12}}Z", copy.name)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT team FROM submission").fetchall() == [("team",)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(head_revision(),)]
        assert connection.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall() == []


def test_a_migration_that_fails_leaves_the_old_database(engine: Engine, home: Home, tmp_path: Path) -> None:
    """Attacks half a migration: a table made before the failure is gone again, and the revision is the old one."""
    scripts = scripts_with_a_further_revision(tmp_path, more="raise RuntimeError('half-way')")
    with pytest.raises(RuntimeError, match="half-way"):
        migrate(engine, scripts)
    assert current_revision(engine) == head_revision()
    with engine.connect() as connection:
        assert not inspect(connection).has_table("extra")


def test_a_database_from_the_future_is_refused(engine: Engine, home: Home, tmp_path: Path) -> None:
    """Attacks an old ranker writing to a newer one's tables; the message says what to do, and no backup is made."""
    migrate(engine, scripts_with_a_further_revision(tmp_path))
    before = sorted(home.root.glob("*.backup-*"))
    with pytest.raises(UsageError, match=rf"revision {FURTHER}.*up to {head_revision()}.*newer ranker"):
        open_database(home)
    assert sorted(home.root.glob("*.backup-*")) == before


@sqlite_only
def test_a_file_that_is_no_database_is_refused(home: Home) -> None:
    """Attacks a traceback for a damaged file, and any change to it."""
    home.root.mkdir()
    home.database_path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(UsageError, match="not a readable SQLite database"):
        open_database(home)
    assert home.database_path.read_bytes() == b"not a database at all" * 100


def test_many_processes_may_open_a_new_database_at_once(home: Home) -> None:
    """Attacks the first start: of several processes one migrates, and none fails."""
    script = "import sys; from pathlib import Path; from ranker.home import Home; "
    script += "from ranker.db.session import open_database; open_database(Home(root=Path(sys.argv[1]))).dispose()"
    processes = [subprocess.Popen([sys.executable, "-c", script, str(home.root)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    engine = connect(database_url(home))
    assert current_revision(engine) == head_revision()
    engine.dispose()


def test_what_read_and_wrote_at_once_still_writes(engine: Engine) -> None:
    """Attacks lost updates and `database is locked`: read-then-write by several threads adds up."""
    with session(engine) as writing:
        writing.add(submission())

    def add() -> None:
        for _ in range(25):
            with session(engine) as writing:
                row = writing.get_one(Submission, "a" * 12)
                row.size_bytes += 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with session(engine, read_only=True) as reading:
        assert reading.get_one(Submission, "a" * 12).size_bytes == 101


def _write_twice(engine: Engine) -> None:
    with session(engine) as writing:
        writing.add(submission())
        writing.flush()
        writing.execute(text("UPDATE submission SET team = NULL"))


def test_an_exception_rolls_back(engine: Engine) -> None:
    """Attacks half a transaction."""
    with pytest.raises(IntegrityError):
        _write_twice(engine)
    with session(engine, read_only=True) as reading:
        assert reading.scalars(select(Submission)).all() == []


def test_a_reader_cannot_write_and_does_not_wait(engine: Engine) -> None:
    """Attacks readers that block, or that write by accident; the connection can write again afterwards."""
    with session(engine) as writing:
        writing.add(submission())
        writing.flush()
        with session(engine, read_only=True) as reading:
            assert reading.scalars(select(Submission)).all() == []
    with pytest.raises(DBAPIError, match=r"read-?only"), session(engine, read_only=True) as reading:
        reading.add(submission("b"))
    with session(engine) as writing:
        writing.add(submission("b"))


def test_foreign_keys_hold(engine: Engine) -> None:
    """Attacks a job without its submission."""
    with pytest.raises(IntegrityError), session(engine) as writing:
        writing.add(Job(key="k", submission_id="missing", kind=JobKind.CHECK, created_at=NOW))


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "done"},
        {"kind": "train"},
        {"status": Status.RUNNING},
        {"status": Status.FAILED},
        {"fault": "infra"},
        {"worker": "w"},
        {"lease_expires_at": NOW},
    ],
)
def test_states_that_contradict_themselves_are_refused(engine: Engine, wrong: dict[str, object]) -> None:
    """Attacks rows that no reader could make sense of: the database itself refuses them."""
    with session(engine) as writing:
        writing.add(submission())
    with pytest.raises(IntegrityError, match=r"(?i)check"), session(engine) as writing:
        writing.add(Job(**{"key": "k", "submission_id": "a" * 12, "kind": JobKind.CHECK, "created_at": NOW} | wrong))


def test_times_keep_their_instant(engine: Engine) -> None:
    """Attacks zones: AoE goes in, the same instant comes back in UTC; a time without a zone is refused."""
    aoe = timezone(timedelta(hours=-12))
    with session(engine) as writing:
        row = submission()
        row.received_at = datetime(2026, 2, 12, 23, 59, 0, 123456, tzinfo=aoe)
        writing.add(row)
    with session(engine, read_only=True) as reading:
        found = reading.get_one(Submission, "a" * 12).received_at
    assert found == datetime(2026, 2, 13, 11, 59, 0, 123456, tzinfo=UTC)
    assert found.utcoffset() == timedelta(0)
    with pytest.raises(Exception, match="without a zone"), session(engine) as writing:
        writing.get_one(Submission, "a" * 12).received_at = datetime(2026, 1, 1)  # noqa: DTZ001
