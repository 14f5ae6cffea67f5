"""A PostgreSQL server as the database: what only a server can do wrong, and a part of the suites that SQLite passes.

All of those suites run on a server by `make test-postgres`; here are the tests of what the two databases keep by
different means.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import on_server
from queues import NOW, claim, enqueue, job, new_database
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from test_db import home as home  # noqa: PLC0414
from test_db import (  # noqa: F401  collected here once more, on the server
    test_a_database_from_the_future_is_refused,
    test_a_migration_that_fails_leaves_the_old_database,
    test_a_reader_cannot_write_and_does_not_wait,
    test_migrations_give_the_models,
    test_times_keep_their_instant,
)
from test_queue import (  # noqa: F401
    test_a_finish_is_whole_or_not_at_all,
    test_a_job_that_runs_while_the_database_is_migrated_has_an_attempt,
    test_every_move_outside_the_table_is_a_mistake_of_ours,
    test_history_is_kept_by_the_database,
    test_late_writes_are_refused,
    test_many_claim_at_once_and_none_twice,
    test_the_highest_priority_goes_first,
)

from ranker import queue
from ranker.cli import main
from ranker.db.migrate import current_revision, head_revision
from ranker.db.models import Submission
from ranker.db.place import database_url, described, parsed
from ranker.db.session import connect, has_database, open_database, open_url, session
from ranker.errors import ConfigError, InfraError, RankerError, UsageError
from ranker.home import Home

SECRET = "hunter2"


@pytest.fixture(scope="module", autouse=True)
def server(postgres_server: str) -> Iterator[str]:
    """Every home of this module is on the server."""
    with on_server(postgres_server):
        yield postgres_server


@pytest.fixture
def engine(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Iterator[Engine]:
    """What each borrowed test has at home: those of test_db an empty database, all others one with a submission."""
    engine = open_database(home) if request.function.__module__ == "test_db" else new_database(tmp_path)
    yield engine
    engine.dispose()


# -- one writer, many readers


def test_what_a_killed_writer_held_is_free_at_once(engine: Engine, tmp_path: Path) -> None:
    """SIGKILL within a transaction: nothing of it is kept, and the next writer does not wait for a timeout."""
    script = (
        "import os, signal, sys; from pathlib import Path; from ranker.home import Home; "
        "from ranker.db.place import database_url; from ranker.db.session import connect, session; "
        "from sqlalchemy import text; engine = connect(database_url(Home(root=Path(sys.argv[1]))))\n"
        "with session(engine) as writing:\n"
        "    writing.execute(text(\"UPDATE submission SET team = 'half'\"))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with session(engine) as writing:
        assert [row.team for row in writing.query(Submission)] == ["team"]


def test_a_writer_that_says_nothing_is_ended_by_the_server(engine: Engine) -> None:
    """A machine that is cut off within a transaction must not hold the lock for ever; readers hold nothing up."""
    limits = text("SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout')")
    with session(engine) as writing:
        assert writing.execute(limits).one() == ("5min", "30s")
    with session(engine, read_only=True) as reading:
        assert reading.execute(limits).one()[0] == "0"


def test_homes_in_one_database_do_not_wait_for_each_other(engine: Engine, tmp_path: Path) -> None:
    """The lock is a schema's, and so are the rows."""
    other = open_database(Home(root=tmp_path / "other"))
    with session(engine) as writing, session(other) as also_writing:
        assert writing.get(Submission, "a" * 12) is not None
        assert also_writing.get(Submission, "a" * 12) is None
    other.dispose()


def test_a_connection_that_the_server_ended_is_replaced(engine: Engine) -> None:
    """A server that was restarted: workers that asked it before go on with their next question."""
    enqueue(engine)
    held = claim(engine)
    with engine.connect() as connection:
        mine = connection.scalar(text("SELECT pg_backend_pid()"))
    other = connect(engine.url)
    with session(other, read_only=True) as reading:
        assert reading.scalar(text(f"SELECT pg_terminate_backend({mine}, 5000)"))
    other.dispose()
    queue.heartbeat(engine, held, now=NOW, lease_s=500, progress=None)
    assert job(engine).lease_expires_at is not None


def test_a_reader_sees_one_moment(engine: Engine) -> None:
    """What another commits meanwhile must not make two numbers of one page contradict each other."""
    count = text("SELECT count(*) FROM job")
    with session(engine, read_only=True) as reading:
        assert reading.scalar(count) == 0
        enqueue(engine)
        assert reading.scalar(count) == 0


def test_wide_numbers_and_the_servers_order_of_words(engine: Engine) -> None:
    """A ZIP of 20 GB fits; the server does sort as SQLite would not, or the suites would prove nothing of it."""
    with session(engine) as writing:
        for name, team in (("c", "Zoo"), ("d", "apple")):
            writing.add(
                Submission(
                    id=name * 12, digest=name * 64, team=team, file_name="x", size_bytes=20_000_000_001, received_at=NOW
                )
            )
    with session(engine, read_only=True) as reading:
        rows = reading.query(Submission).where(Submission.size_bytes > 1).order_by(Submission.team)
        assert [(row.team, row.size_bytes) for row in rows] == [("apple", 20_000_000_001), ("Zoo", 20_000_000_001)]


def test_several_open_a_new_database_at_once(tmp_path: Path) -> None:
    """The first start: of several threads, each with connections of its own, one migrates and none fails."""
    home = Home(root=tmp_path)
    failed: list[Exception] = []
    assert not has_database(home)

    def start() -> None:
        try:
            open_database(home).dispose()
        except (DBAPIError, RankerError) as error:
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert has_database(home)
    opened = connect(database_url(home))
    assert current_revision(opened) == head_revision()
    opened.dispose()


# -- where the database is, and what is said of it


def test_nothing_that_is_shown_holds_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that cannot be reached, and addresses that are wrong, as typed: one sentence, and the secret nowhere."""
    monkeypatch.setenv("RANKER_DATABASE_SECRET", SECRET)
    wrong = {
        f"postgresql://me:{SECRET}@/x?host={tmp_path}": 1,
        f"postgresql://me@/x?host={tmp_path}&password={SECRET}": 1,
        f"postgresql://me@/x?host={tmp_path}": 1,
        f"postgresql://me:{SECRET}@host:port/x": 2,
        f"mysql://me:{SECRET}@host/x": 2,
        f"postgresql://me:{SECRET}@host": 2,
        f"postgresql://me@/x?host={tmp_path}&nonsense={SECRET}": 1,
    }
    for url, code in wrong.items():
        monkeypatch.setenv("RANKER_DATABASE", url)
        for command in (["db", "--json"], ["status"]):
            with pytest.raises(SystemExit) as ended:
                main(["--home", str(tmp_path), *command])
            said = capsys.readouterr()
            assert SECRET not in said.out + said.err, (url, command)
            assert "Traceback" not in said.err
            assert ended.value.code == code, (url, command, said.err)
            assert said.err.startswith("ranker: ")
            assert said.err.count("\n") == 1
    assert described(parsed(f"postgresql://me:{SECRET}@h:1/x?sslpassword={SECRET}", Home(root=tmp_path), where="")) == (
        "postgresql://me@h:1/x"
    )


def test_the_configuration_names_the_database_and_never_its_password(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`database.url` where no variable is; a password in YAML is refused, one in a file of one's own is used."""
    monkeypatch.delenv("RANKER_DATABASE")
    home = Home(root=tmp_path)
    assert database_url(home).get_backend_name() == "sqlite"
    settings, secret = tmp_path / "configs" / "service.yaml", tmp_path / "secret"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"database": {"url": server, "secret_file": str(secret)}}))
    secret.write_text(SECRET)
    secret.chmod(0o600)
    assert database_url(home).password == SECRET
    assert SECRET not in repr(database_url(home))
    open_database(home).dispose()
    assert has_database(home)
    assert not home.database_path.exists()
    secret.chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        database_url(home)
    for url in (f"postgresql://me:{SECRET}@h/x", f"postgresql://me@h/x?password={SECRET}"):
        settings.write_text(json.dumps({"database": {"url": url}}))
        with pytest.raises(ConfigError, match="holds a password") as refused:
            database_url(home)
        assert SECRET not in str(refused.value)


def test_a_database_that_cannot_hold_every_name_is_refused(server: str, tmp_path: Path) -> None:
    """A database made without UTF-8 would fail at the first name with an accent, in the middle of a challenge."""
    home = Home(root=tmp_path)
    admin = connect(parsed(server, home, where="")).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect().execution_options(read_only=True) as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.rollback()
        raw.autocommit = True
        raw.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    admin.dispose()
    with pytest.raises(UsageError, match=r"stores text as LATIN1; expected UTF8"):
        open_url(parsed(server.replace("/ranker?", "/latin?"), home, where=""))


def test_doctor_warns_of_a_server_that_forgets(engine: Engine, tmp_path: Path) -> None:
    """The test's own server has fsync off, which no challenge may have; a server that is gone is missing."""
    from ranker.doctor import Patient, Verdict, work
    from ranker.settings import Service

    patient = Patient(home=Home(root=tmp_path), service=Service(), now=NOW)
    ((verdict, found, advice),) = work.database(patient)
    assert verdict is Verdict.WARNING
    assert "fsync" in found
    assert "fsync = on" in advice
    with on_server(f"postgresql://me@/x?host={tmp_path}"), pytest.raises(InfraError, match="cannot be used"):
        list(work.database(patient))


def test_this_ran_on_a_server(engine: Engine) -> None:
    """The tests that are borrowed above take their database from a variable: were it lost, they would prove nothing."""
    assert os.environ["RANKER_DATABASE"].startswith("postgresql")
    assert engine.dialect.name == "postgresql"
