"""`ranker db copy`: all rows or none, the same ids, to PostgreSQL and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from postgres import on_server, sqlite_only
from sqlalchemy import Engine, select, text

from ranker import events, queue
from ranker.cli import main
from ranker.db.copy import ROWS_AT_A_TIME, copy
from ranker.db.facts import facts
from ranker.db.mail import Delivery, Link, Message, Reply
from ranker.db.models import AllowedHost, Job, JobAttempt, Pause, Score, Submission
from ranker.db.place import parsed, sqlite_url
from ranker.db.rules import Team, TeamAddress, TeamMember, Verdict
from ranker.db.schema import Base
from ranker.db.session import connect, open_url, session
from ranker.errors import InfraError, UsageError
from ranker.home import Home
from ranker.types import Action, Channel, Ending, Fault, JobKind, LinkState, ReplyKind, ReplyState, Rule, Ruling, Status

NOW = datetime(2026, 2, 12, 23, 59, 59, 123456, tzinfo=UTC)
ODD = "Zoë 🦜 ' \" \\ % {x} \t\u200b\u0130ß"
SUBMISSION, MESSAGE = "a" * 12, "b" * 12
pytestmark = sqlite_only  # it has both in it already


def fill(engine: Engine) -> None:
    """Rows in every table, with what two databases may take differently."""
    with session(engine) as writing:
        submission = Submission(
            id=SUBMISSION, digest="a" * 64, team=ODD, file_name=ODD, size_bytes=20_000_000_001, received_at=NOW
        )
        message = Message(
            id=MESSAGE,
            digest="b" * 64,
            channel=Channel.MAIL,
            sender="a@b.c",
            subject=ODD,
            arrived_at=NOW,
            arrived_by="mx",
            is_automatic=True,
            notes=[ODD, ""],
            kept_at=NOW,
        )
        team = Team(name=ODD, affiliation="", imported_at=NOW)
        team.addresses = [TeamAddress(address="a@b.c")]
        team.members = [TeamMember(name="A", person="a@b.c")]
        writing.add_all([submission, message, team])
        writing.flush()
        done = Job(
            id=7,
            key="k7",
            submission_id=SUBMISSION,
            kind=JobKind.EVALUATE,
            condition={"z": 1, "a": [0.1, None, ODD]},
            created_at=NOW,
            status=Status.SUCCEEDED,
            attempt=2,
            priority=-3,
            result={"loss": 1e-300, "n": 2**60},
        )
        lost = Job(
            id=9,
            key="k9",
            submission_id=SUBMISSION,
            kind=JobKind.CHECK,
            created_at=NOW,
            status=Status.RUNNING,
            attempt=1,
            worker="gone",
            lease_expires_at=NOW - timedelta(seconds=1),
            reasons=[ODD],
        )
        writing.add_all([done, lost])
        writing.flush()
        writing.add_all(
            [
                AllowedHost(submission_id=SUBMISSION, host="h:1", allowed_at=NOW, allowed_by="me"),
                Score(job_id=7, task="pitch", metric="Accuracy", value=0.1 + 0.2, blind=None, items=3, predictions="p"),
                JobAttempt(
                    job_id=7, number=1, worker="w", started_at=NOW, ended_at=NOW, ending=Ending.LOST, fault=Fault.INFRA
                ),
                JobAttempt(job_id=7, number=2, worker="w", started_at=NOW, ended_at=NOW, ending=Ending.SUCCEEDED),
                JobAttempt(job_id=9, number=1, worker="gone", started_at=NOW),
                Delivery(
                    submission_id=SUBMISSION,
                    message_id=MESSAGE,
                    channel=Channel.MAIL,
                    source="m",
                    arrived_at=NOW,
                    arrived_by="x",
                ),
                Link(
                    message_id=MESSAGE,
                    url="https://x",
                    state=LinkState.FETCHED,
                    found_at=NOW,
                    digest="d",
                    size_bytes=2**40,
                ),
                Reply(
                    key="r",
                    kind=ReplyKind.RECEIVED,
                    recipient="a@b.c",
                    subject=ODD,
                    state=ReplyState.DRAFTED,
                    drafted_at=NOW,
                ),
                Verdict(
                    submission_id=SUBMISSION,
                    rule=Rule.REPORT,
                    ruling=Ruling.MET,
                    why="",
                    evidence={},
                    decided_at=NOW,
                    decided_by="me",
                ),
                Pause(id=1, paused_at=NOW, paused_by="me", why=ODD, give_back=False),
            ]
        )
        for number in range(ROWS_AT_A_TIME + 3):
            events.record(writing, actor="me", action=Action.REVIEW, now=NOW, number=number)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    root = tmp_path / "home"
    root.mkdir()
    return Home(root=root)


@pytest.fixture
def server(postgres_server: str) -> Iterator[str]:
    """The server's URL with a name for this test's homes, and no variable that points there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANKER_DATABASE", raising=False)
        yield postgres_server


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The full database, made once."""
    home = Home(root=tmp_path_factory.mktemp("filled"))
    engine = open_url(sqlite_url(home))
    fill(engine)
    engine.dispose()
    return home.database_path.read_bytes()


@pytest.fixture
def source(home: Home, filled: bytes) -> Iterator[Engine]:
    home.database_path.write_bytes(filled)
    engine = connect(home.database_path)
    yield engine
    engine.dispose()


@pytest.fixture
def target(home: Home, server: str) -> Iterator[Engine]:
    engine = open_url(parsed(server, home, where="the test"))
    yield engine
    engine.dispose()


def count(engine: Engine) -> int:
    return sum(facts(engine).rows.values())


def test_every_row_of_every_table_comes_over_and_back(source: Engine, target: Engine, tmp_path: Path) -> None:
    """Attacks what two databases may take differently: each table has rows, and after both ways they are the same."""
    there = copy(source, target, now=NOW)
    assert len(there.rows) == len(Base.metadata.sorted_tables)
    assert min(there.rows.values()) >= 1
    assert there.rows == facts(target).rows == facts(source).rows
    with session(target, read_only=True) as reading:
        assert reading.get_one(Submission, SUBMISSION).size_bytes == 20_000_000_001
        assert reading.get_one(Submission, SUBMISSION).received_at == NOW
        assert reading.get_one(Job, 7).condition == {"z": 1, "a": [0.1, None, ODD]}
        assert reading.scalar(select(Job.id).where(Job.result.is_(None))) == 9  # SQL's NULL, not JSON's
        assert events.verify(events.since(reading)) is None
    back = open_url(sqlite_url(Home(root=tmp_path)))
    again = copy(target, back, now=NOW)
    assert (again.digest, again.rows) == (there.digest, there.rows)
    assert again.origin == there.target
    back.dispose()


def test_ids_go_on_after_the_highest(source: Engine, target: Engine) -> None:
    """Attacks sequences left at 1: new rows of the copy get ids that none had."""
    copy(source, target, now=NOW)
    with session(target) as writing:
        job = queue.enqueue(writing, submission_id=SUBMISSION, kind=JobKind.CHECK, condition=None, seed=5, now=NOW)
        event = events.record(writing, actor="me", action=Action.REVIEW, now=NOW)
        assert job.id == 10
        assert event.id == ROWS_AT_A_TIME + 4


def test_workers_that_run_are_not_moved_away_from(source: Engine, target: Engine) -> None:
    """Attacks a result written into the old database: a job whose lease lives refuses the copy, by its number."""
    just_before = NOW - timedelta(seconds=2)
    with pytest.raises(UsageError, match="job 9 of theirs runs"):
        copy(source, target, now=just_before)
    assert count(target) == 0


def test_only_an_empty_database_is_filled(source: Engine, target: Engine) -> None:
    """Attacks two challenges in one database: a second copy is refused, and changes nothing."""
    copy(source, target, now=NOW)
    before = count(target)
    with pytest.raises(UsageError, match="holds rows already"):
        copy(source, target, now=NOW)
    with pytest.raises(UsageError, match="holds rows already"):
        copy(source, source, now=NOW)
    assert count(target) == before


def test_a_value_that_does_not_fit_takes_all_back(source: Engine, target: Engine) -> None:
    """Attacks half a copy, and a traceback: what SQLite took and PostgreSQL does not is named by its table."""
    with source.begin() as connection:
        connection.execute(text("UPDATE verdict SET why = :why"), {"why": "x" * 2001})
    with pytest.raises(UsageError, match=r"table verdict, between the rows 1 and 1, .* too long"):
        copy(source, target, now=NOW)
    with source.begin() as connection:
        connection.execute(text("UPDATE verdict SET why = :why"), {"why": "a\0b"})
    with pytest.raises(UsageError, match=r"table verdict, .* NUL"):
        copy(source, target, now=NOW)
    assert count(target) == 0


def test_rows_that_arrive_changed_take_all_back(source: Engine, target: Engine) -> None:
    """Attacks trust: a target that changes one row of 500 on its way is found out, and keeps nothing."""
    with target.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION forge() RETURNS trigger AS $$ BEGIN IF NEW.id = 400 THEN NEW.actor := 'you'; END IF; "
            "RETURN NEW; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql("CREATE TRIGGER forge BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION forge()")
    with pytest.raises(InfraError, match="table event did not arrive as it was"):
        copy(source, target, now=NOW)
    assert count(target) == 0


def test_ctrl_c_takes_all_back(source: Engine, target: Engine) -> None:
    """Attacks an interrupted copy: at any table, the target is empty afterwards, and the next copy works."""
    seen: list[str] = []

    def interrupt(table: str, done: int, total: int) -> None:
        assert 0 < done <= total
        seen.append(table)
        if table == "event":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, target, now=NOW, on_rows=interrupt)
    assert {"submission", "job", "event"} <= set(seen)
    assert count(target) == 0
    assert sum(copy(source, target, now=NOW).rows.values()) == count(source)


def run(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(home.root), *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_commands_move_a_home_over(
    home: Home, source: Engine, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As typed: copied, told by the log of the new one alone, and in use as soon as the variable names it."""
    source.dispose()
    code, out, _ = run(capsys, home, "db", "--json")
    before = json.loads(out)
    assert (code, before["kind"], before["where"]) == (0, "sqlite", str(home.database_path))
    code, out, err = run(capsys, home, "db", "copy", server, "--json")
    assert code == 0, err
    copied = json.loads(out)
    assert copied["rows"] == before["rows"]
    with on_server(server):
        code, out, _ = run(capsys, home, "db", "--json")
        after = json.loads(out)
        assert (code, after["kind"], after["where"]) == (0, "postgresql", copied["target"])
        assert after["rows"] == before["rows"] | {"event": before["rows"]["event"] + 1}
        assert after["size_bytes"] > 100_000
        code, out, _ = run(capsys, home, "log", "--json")
        assert json.loads(out)[-1]["details"]["digest"] == copied["digest"]
        assert run(capsys, home, "log", "--verify")[0] == 0
        code, out, _ = run(capsys, home, "db")
        assert "postgresql://ranker@/tmp/" in out
        assert "20,000" not in out
        code, out, err = run(capsys, home, "db", "copy", server)
        assert code == 2, "where it is already"
    assert json.loads(run(capsys, home, "db", "--json")[1]) == before


def test_a_password_on_the_command_line_is_refused(
    home: Home, source: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attacks passwords in a shell's history: refused, and repeated nowhere."""
    for url in ("postgresql://me:hunter2@nowhere.example/x", "postgresql://me@/x?password=hunter2", "hunter2//:@:"):
        code, out, err = run(capsys, home, "db", "copy", url)
        assert code == 2
        assert "hunter2" not in out + err
