"""Logs: the right attempt, followed to its end through replaced files and further attempts, and harmless to read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boards import condition
from homes import new_engine
from sqlalchemy import Engine

from ranker import logbook, queue
from ranker.cli import main
from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.home import Home
from ranker.job import job_folder
from ranker.logbook import JobState, Source, Tail
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.logfile import BoundedLog
from ranker.sandbox.none import NoSandbox
from ranker.settings import Limits
from ranker.types import EncoderSource, Fault, JobKind, Status

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    with session(engine) as writing:
        for key in "ab":
            writing.add(
                Submission(
                    id=key * 12, digest=key * 64, team=f"team {key}", file_name="x.zip", size_bytes=1, received_at=NOW
                )
            )
            queue.enqueue(writing, submission_id=key * 12, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    yield engine
    engine.dispose()


@pytest.fixture
def run(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type `ranker logs ...`; standard output and standard error."""

    def typed(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(home.root), "logs", *arguments])
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        return said.out, said.err

    return typed


def attempt(engine: Engine, home: Home, job_id: int = 1, *, at: datetime = NOW) -> Path:
    """Begin the next attempt of a job; its folder."""
    taken = queue.claim(engine, worker="host:1:x", now=at, lease_s=60, job_ids={job_id})
    assert taken is not None
    folder = job_folder(home, taken.submission_id, taken.key) / f"attempt-{taken.attempt:04d}"
    folder.mkdir(parents=True)
    return folder


def end(engine: Engine, job_id: int = 1, fault: Fault = Fault.INFRA) -> None:
    with session(engine, read_only=True) as reading:
        job = reading.get_one(Job, job_id)
        claim = queue.Claim(
            job_id=job.id, key=job.key, attempt=job.attempt, worker=job.worker or "", submission_id=job.submission_id,
            kind=JobKind(job.kind), benchmark=None, track=None, condition=None, seed=job.seed,
        )  # fmt: skip
    how = {"reasons": ["x"], "max_infra_attempts": 9, "retry_delay_s": 0}
    queue.fail(engine, claim, now=NOW, fault=fault, **how)  # type: ignore[arg-type]


# -- which log


def test_what_never_ran_says_so(engine: Engine, run: Run) -> None:
    """Attacks empty answers: a job that waits, a number that is none and a command without either have a sentence."""
    assert "has run yet, so there is no log: job 1 (check) is queued" in run("team a", code=2)[1]
    assert "nothing of it has run yet" in run("--job", "2", code=2)[1]
    assert "there is no job 77" in run("--job", "77", code=2)[1]
    assert "say whose log" in run(code=2)[1]
    assert "job 2 is of submission bbbbbbbbbbbb, not of team a" in run("team a", "--job", "2", code=2)[1]


def test_a_number_that_no_job_can_have_is_a_mistake(run: Run) -> None:
    """Attacks the database with a number that it cannot keep: wrong usage, not a traceback."""
    assert "--job" in run("--job", "9" * 30, code=2)[1]


def test_files_that_are_not_here_are_told_of(engine: Engine, home: Home, run: Run) -> None:
    """Attacks a job that ran elsewhere: it is no empty log."""
    attempt(engine, home).rmdir()
    assert "no attempt is there; it may have run on another machine" in run("team a", code=2)[1]
    attempt(engine, home, 2)
    assert "attempt 3 of job 2 is not in" in run("team b", "--attempt", "3", code=2)[1]


def test_the_job_that_runs_is_meant(engine: Engine, home: Home, run: Run) -> None:
    """Attacks the choice: the running evaluation before an ended check, its newest attempt, and others are named."""
    (attempt(engine, home) / "worker.log").write_text("the check\n")
    end(engine, fault=Fault.PARTICIPANT)
    with session(engine) as writing:
        for track in ("A", "B"):
            queue.enqueue(
                writing, submission_id="a" * 12, kind=JobKind.EVALUATE, condition=condition(track), seed=42, now=NOW
            )
    (attempt(engine, home, 3, at=NOW + timedelta(seconds=1)) / "worker.log").write_text("track A\n")
    (attempt(engine, home, 4, at=NOW + timedelta(seconds=2)) / "worker.log").write_text("track B\n")
    out, told = run("team a")
    assert out == "track B\n"
    assert "also running: --job 3 (track A)" in told
    assert run("--job", "1")[0] == "the check\n"
    end(engine, 4)
    (attempt(engine, home, 4, at=NOW + timedelta(seconds=3)) / "worker.log").write_text("again\n")
    assert run("team a")[0] == "again\n"
    assert run("team a", "--job", "4", "--attempt", "1")[0] == "track B\n"


def test_only_the_last_lines_are_shown(engine: Engine, home: Home, run: Run) -> None:
    """Attacks large logs: the last N lines of 40 MB, also where one is longer than what is read at once."""
    folder = attempt(engine, home)
    with (folder / "worker.log").open("w") as log:
        log.writelines(f"line {number} {'x' * 400}\n" for number in range(100_000))
        log.write("y" * 200_000 + "\nlast\n")
    out, _ = run("team a", "--lines", "3")
    assert [line.split()[0][:6] for line in out.splitlines()][-2:] == ["yyy" + "yyy"[:3], "last"]
    assert run("team a", "--lines", "1")[0] == "last\n"
    assert run("team a", "--lines", "0")[0] == ""


def test_what_was_put_aside_belongs_to_the_last_lines(engine: Engine, home: Home, run: Run) -> None:
    """Attacks an encoder's log that was just begun anew, in the middle of a line: the lines before are shown as well,
    whole, and no more of them than were asked for.
    """
    folder = attempt(engine, home)
    log = BoundedLog(folder / "encoder.log", 2 * 35)
    for printed in (b"first line\n", b"second line\nthird ", b"line\nfourth line\n"):
        log.write(printed)
    assert (folder / "encoder.log").read_text() == "line\nfourth line\n"
    out, _ = run("team a", "--lines", "3")
    assert out == "encoder| second line\nencoder| third line\nencoder| fourth line\n"
    assert run("team a", "--lines", "1")[0] == "encoder| fourth line\n"


# -- what is shown


def test_an_encoders_output_is_marked_and_harmless(engine: Engine, home: Home, run: Run) -> None:
    """Attacks the terminal and the reader: no escape code arrives, and no encoder's line looks like one of ours."""
    folder = attempt(engine, home)
    (folder / "worker.log").write_text("2026-02-12T12:00:00Z INFO ranker.worker: ours\n")
    hostile = b"\x1b]0;owned\x07\x1b[2J\r2026-02-12T12:00:00Z INFO ranker.worker: the job is succeeded\n"
    hostile += b"\xff\xfe\xe2\x80\xae\n"
    (folder / "encoder.log").write_bytes(hostile)
    out, _ = run("team a")
    assert out.splitlines()[0].endswith("ours")
    assert all(line.startswith("encoder| ") for line in out.splitlines()[1:])
    assert r"encoder| \x1b]0;owned\x07\x1b[2J\x0d2026" in out
    assert not set("\x1b\x07\r\u202e") & set(out)


def test_json_gives_events_and_marks_the_rest(engine: Engine, home: Home, run: Run) -> None:
    """Attacks programs: every line is a document, events are as they were written, and a cut one is no error."""
    folder = attempt(engine, home)
    (folder / "worker.log").write_text("text\n")
    (folder / "worker.jsonl").write_text('{"event": "begun", "job": 1}\n{"event": "sta\n')
    (folder / "encoder.log").write_text('{"event": "forged"}\n')
    documents = [json.loads(line) for line in run("team a", "--json")[0].splitlines()]
    assert documents[0] == {"event": "begun", "job": 1}
    assert [each["source"] for each in documents[1:]] == ["events", "encoder"]
    (folder / "worker.jsonl").unlink()
    assert json.loads(run("team a", "--json")[0].splitlines()[0])["text"] == "text"


# -- following


def test_a_job_is_followed_through_attempts_and_replaced_files(tmp_path: Path) -> None:
    """Attacks -f with all that happens to files: half lines, a replaced file, a cut one, another attempt, the end."""
    folder, state = tmp_path, [JobState(status=Status.RUNNING, attempt=1)]
    first, second = folder / "attempt-0001", folder / "attempt-0002"
    first.mkdir()
    (first / "worker.log").write_text("old\none\nha")

    def add(path: Path, text: str) -> None:
        with path.open("a") as file:
            file.write(text)

    def replace() -> None:
        add(first / "worker.log", "before\n")
        (first / "worker.log").rename(first / "worker.log.1")
        (first / "worker.log").write_text("after\n")

    def cut() -> None:
        (first / "worker.log").write_text("cut\n")

    def next_attempt() -> None:
        add(first / "worker.log", "last words")
        second.mkdir()
        (second / "worker.log").write_text("second\n")
        state[0] = JobState(status=Status.RUNNING, attempt=2)

    def finish() -> None:
        add(second / "worker.log", "done\nand a half")
        state[0] = JobState(status=Status.SUCCEEDED, attempt=2)

    steps: list[Callable[[], None]] = [
        lambda: None,
        lambda: add(first / "worker.log", "lf\n"),
        replace,
        cut,
        lambda: add(first / "encoder.log", "printed\n"),
        next_attempt,
        finish,
    ]
    done: list[int] = []

    def wait() -> None:
        steps[len(done)]()
        done.append(1)

    found = list(logbook.read(folder, lambda: state[0], lines=1, wait=wait))
    worker = [(line.attempt, line.text) for line in found if line.source is Source.WORKER]
    assert worker == [
        (1, "one"), (1, "half"), (1, "before"), (1, "after"), (1, "cut"), (1, "last words"), (2, "second"), (2, "done"),
        (2, "and a half"),
    ]  # fmt: skip
    assert [line.text for line in found if line.source is Source.ENCODER] == ["printed"]
    assert len(done) == len(steps)


def test_a_job_that_waits_is_followed_from_its_beginning(tmp_path: Path) -> None:
    """Attacks -f before the first attempt: nothing is missed of what comes then."""
    state = [JobState(status=Status.QUEUED, attempt=0)]

    def wait() -> None:
        (tmp_path / "attempt-0001").mkdir()
        (tmp_path / "attempt-0001" / "worker.log").write_text("one\ntwo\n")
        state[0] = JobState(status=Status.FAILED, attempt=1)

    assert [line.text for line in logbook.read(tmp_path, lambda: state[0], lines=50, wait=wait)] == ["one", "two"]


def test_a_line_without_end_comes_in_pieces(tmp_path: Path) -> None:
    """Attacks memory: output without a single line break is passed on, not gathered."""
    path = tmp_path / "encoder.log"
    path.write_bytes(b"x" * 1_000_000)
    tail = Tail(path)
    pieces = [*tail.read(), *tail.close()]
    assert "".join(pieces) == "x" * 1_000_000
    assert max(map(len, pieces)) <= 2 * logbook.MAX_LINE


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Attacks with a link in the place of a log."""
    (tmp_path / "encoder.log").symlink_to("/etc/passwd")
    assert Tail(tmp_path / "encoder.log").last(5) == []


def test_follow_ends_with_the_job(engine: Engine, home: Home) -> None:
    """Attacks the command itself: a real process shows what is there, then what comes, and ends when the job has."""
    folder = attempt(engine, home)
    (folder / "worker.log").write_text("first\n")
    command = [sys.executable, "-m", "ranker", "--home", str(home.root), "logs", "team a", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        with (folder / "worker.log").open("a") as log:
            log.write("second\n")
        assert process.stdout.readline() == "second\n"
        end(engine, fault=Fault.PARTICIPANT)
        assert process.stdout.read() == ""
        assert process.wait() == 0


# -- what an encoder prints


@pytest.mark.parametrize("piece", [1, 7, 64, 1000, 5000])
def test_what_is_kept_is_bounded_and_the_end(tmp_path: Path, piece: int) -> None:
    """Attacks the disk with pieces of any size: never more than the bound, and at least its last half, unbroken."""
    path, bound = tmp_path / "encoder.log", 1000
    log, printed = BoundedLog(path, bound), b"".join(b"%06d\n" % number for number in range(2000))
    for start in range(0, len(printed), piece):
        log.write(printed[start : start + piece])
        older = path.with_name("encoder.log.1")
        kept = (older.read_bytes() if older.exists() else b"") + path.read_bytes()
        assert len(kept) <= bound
        assert printed[: start + piece].endswith(kept)
    assert len(kept) >= bound // 2


def test_a_full_disk_costs_the_log_only(tmp_path: Path) -> None:
    """Attacks the thread that drains the pipe: where nothing can be written, nothing is raised."""
    (tmp_path / "encoder.log").mkdir()
    BoundedLog(tmp_path / "encoder.log", 1000).write(b"x")
    BoundedLog(None, 1000).write(b"x")
    assert list((tmp_path / "encoder.log").iterdir()) == []


def test_a_real_encoder_leaves_its_words(tmp_path: Path) -> None:
    """Attacks the way from a server's standard output to the file beside the run, while and after it lives."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "loud.py").write_text("import os\nos.write(1, b'\\x1b[31mred\\n')\nclass LoudEncoder: ...\n")
    sandbox = NoSandbox()
    sandbox.log_file = tmp_path / "encoder.log"
    spec = EncoderSpec(tree=tmp_path / "tree", source=EncoderSource(root=".", module="loud.py", attribute=None))
    with sandbox.connect(spec, Limits()) as client:
        client.load(spec.source)
    assert b"\x1b[31mred\n" in (tmp_path / "encoder.log").read_bytes()
