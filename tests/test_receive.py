"""Receiving: real files, a real SQLite database, real kills."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from homes import new_engine, new_home
from kills import is_killed_at
from sqlalchemy import Engine, event, select

from ranker import queue
from ranker.db.models import Job, Submission
from ranker.db.place import database_url
from ranker.db.session import connect, session
from ranker.errors import LeaseLostError, ParticipantError, UsageError
from ranker.home import Home
from ranker.intake.receive import MAX_TEAM_LENGTH, Received, handed_in, receive, submission_folder, team_name
from ranker.types import Condition, Fault, JobKind, Precision, Status

NOW = datetime(2026, 2, 12, 23, 59, tzinfo=UTC)
LATER = datetime(2026, 2, 13, 12, 0, tzinfo=UTC)
CONTENT = b"PK" + bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    yield engine
    engine.dispose()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "Team Ärmel.zip"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7 first")
    return path


def take(
    home: Home,
    engine: Engine,
    file: Path,
    *,
    team: str | None = None,
    report: Path | None = None,
    encoder: str | None = None,
    now: datetime = NOW,
) -> Received:
    arrival = handed_in(file, report=report, now=now)
    with session(engine) as writing:
        return receive(home, writing, arrival, team=team, encoder=encoder, now=now)


def finish_check(home: Home, engine: Engine, fault: Fault | None) -> None:
    """Claim the one queued check and end it: with a tree and a result, or by `fault`."""
    claim = queue.claim(engine, worker="w", now=NOW, lease_s=60)
    assert claim is not None
    if fault is None:
        (home.submissions / DIGEST / "tree").mkdir(exist_ok=True)
        queue.finish(engine, claim, now=NOW, result={"found": 1}, scores=[])
    else:
        queue.fail(engine, claim, now=NOW, fault=fault, reasons=["no"], max_infra_attempts=1, retry_delay_s=1)


def only_job(engine: Engine) -> Job:
    with session(engine, read_only=True) as reading:
        return reading.scalars(select(Job)).one()


def only_submission(engine: Engine) -> Submission:
    with session(engine, read_only=True) as reading:
        return reading.scalars(select(Submission)).one()


def test_a_file_is_kept_recorded_and_queued(home: Home, engine: Engine, archive: Path, report: Path) -> None:
    """The bytes lie under their digest as they came, the row says whose they are, and one check is queued."""
    received = take(home, engine, archive, report=report, encoder="model.py:MyEncoder")
    folder = submission_folder(home, DIGEST)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "submission.zip": CONTENT,
        "report.pdf": report.read_bytes(),
    }
    kept = only_submission(engine)
    assert (kept.id, kept.digest, kept.team, kept.file_name) == (DIGEST[:12], DIGEST, "Team Ärmel", "Team Ärmel.zip")
    assert (kept.size_bytes, kept.received_at, kept.encoder_override) == (len(CONTENT), NOW, "model.py:MyEncoder")
    assert kept.report_digest == hashlib.sha256(report.read_bytes()).hexdigest()
    job = only_job(engine)
    assert (job.id, job.kind, job.status, job.submission_id) == (received.job_id, JobKind.CHECK, Status.QUEUED, kept.id)
    assert (received.is_new, received.is_queued) == (True, True)
    assert [path.name for path in home.submissions.iterdir()] == [DIGEST]


def test_the_same_bytes_are_recognised(home: Home, engine: Engine, archive: Path, tmp_path: Path) -> None:
    """Under another file name and at another time, the same bytes make no second row and no second job."""
    first = take(home, engine, archive)
    copy = shutil.copy(archive, tmp_path / "copy.zip")
    second = take(home, engine, Path(copy), now=LATER)
    assert (second.is_new, second.job_id, second.submission.team) == (False, first.job_id, "Team Ärmel")
    assert only_submission(engine).received_at == NOW
    assert only_job(engine).status == Status.QUEUED


def test_odd_characters_of_a_file_name_are_spelled_out(home: Home, engine: Engine, archive: Path) -> None:
    """Control codes, direction marks and half characters in a name come with a given team, and reach no terminal."""
    odd = archive.rename(archive.with_name("\x1b[2J\u202egnp.\udcffzip"))
    take(home, engine, odd, team="Team")
    assert only_submission(engine).file_name == "<U+001B>[2J<U+202E>gnp.<U+DCFF>zip"


def test_a_tree_that_is_gone_is_unpacked_and_checked_again(home: Home, engine: Engine, archive: Path) -> None:
    """The advice of an evaluation that misses it, to ingest the ZIP again, leads somewhere; once, not for ever."""
    take(home, engine, archive)
    finish_check(home, engine, None)
    (submission_folder(home, DIGEST) / "tree").rmdir()
    assert take(home, engine, archive).is_queued
    finish_check(home, engine, None)
    assert not take(home, engine, archive).is_queued


def test_a_finished_check_is_not_repeated(home: Home, engine: Engine, archive: Path) -> None:
    """Sending the same again asks nothing new, whether the check accepted or refused it."""
    take(home, engine, archive, encoder="a.py")
    finish_check(home, engine, Fault.PARTICIPANT)
    assert not take(home, engine, archive, encoder="a.py").is_queued
    assert only_job(engine).status == Status.FAILED


@pytest.mark.parametrize("fault", [Fault.INFRA, Fault.ORGANIZER])
def test_a_check_that_failed_by_our_fault_is_repeated(home: Home, engine: Engine, archive: Path, fault: Fault) -> None:
    """Where we failed, the same command is the way to try again."""
    take(home, engine, archive)
    finish_check(home, engine, fault)
    assert take(home, engine, archive).is_queued
    assert only_job(engine).status == Status.QUEUED


@pytest.mark.parametrize("ended", [None, Fault.PARTICIPANT, Fault.INFRA])
def test_another_encoder_is_checked_again(home: Home, engine: Engine, archive: Path, ended: Fault | None) -> None:
    """A changed override is recorded, and neither the old acceptance nor the old refusal answers for it."""
    take(home, engine, archive, encoder="a.py")
    finish_check(home, engine, ended)
    assert take(home, engine, archive, encoder="b.py:Encoder").is_queued
    assert only_submission(engine).encoder_override == "b.py:Encoder"
    job = only_job(engine)
    assert (job.status, job.result, job.reasons, job.fault) == (Status.QUEUED, None, [], None)


def test_a_running_check_of_the_old_question_is_cut_off(home: Home, engine: Engine, archive: Path) -> None:
    """A worker that is checking the old encoder cannot record its result for the new one."""
    take(home, engine, archive, encoder="a.py")
    claim = queue.claim(engine, worker="w", now=NOW, lease_s=60)
    assert claim is not None
    take(home, engine, archive, encoder="b.py")
    with pytest.raises(LeaseLostError):
        queue.finish(engine, claim, now=NOW, result={}, scores=[])
    assert only_job(engine).status == Status.QUEUED


def test_no_word_on_the_encoder_keeps_the_old_one(home: Home, engine: Engine, archive: Path) -> None:
    """Leaving --encoder out is not a wish to forget it."""
    take(home, engine, archive, encoder="a.py")
    take(home, engine, archive)
    assert only_submission(engine).encoder_override == "a.py"


def test_another_encoder_after_an_evaluation_is_refused(home: Home, engine: Engine, archive: Path) -> None:
    """Scores of one encoder never come to stand for another one of the same ZIP."""
    received = take(home, engine, archive, encoder="a.py")
    finish_check(home, engine, None)
    condition = Condition(
        benchmark="mini",
        track="A",
        measurement="m",
        data="d",
        decoder="s",
        decoder_layers=1,
        metric_models="x",
        steps=1,
        precision=Precision.FP32,
        device="cpu",
        sandboxed=True,
    )
    with session(engine) as writing:
        queue.enqueue(
            writing,
            submission_id=received.submission.id,
            kind=JobKind.EVALUATE,
            condition=condition,
            seed=1,
            now=NOW,
        )
    with pytest.raises(UsageError, match=r"evaluations of a\.py"):
        take(home, engine, archive, encoder="b.py")
    assert only_submission(engine).encoder_override == "a.py"


def test_a_report_can_follow_and_be_replaced(home: Home, engine: Engine, archive: Path, report: Path) -> None:
    """A report that comes later, or another one, is kept and checked; the same one again changes nothing."""
    kept = submission_folder(home, DIGEST) / "report.pdf"
    take(home, engine, archive)
    for content, queued in ((b"%PDF-1.7 first", True), (b"%PDF-1.7 second", True), (b"%PDF-1.7 second", False)):
        finish_check(home, engine, None) if only_job(engine).status == Status.QUEUED else None
        report.write_bytes(content)
        assert take(home, engine, archive, report=report).is_queued is queued
        assert kept.read_bytes() == content
        assert only_submission(engine).report_digest == hashlib.sha256(content).hexdigest()


def test_bytes_of_another_team_are_refused_and_nothing_is_lost(
    home: Home, engine: Engine, archive: Path, report: Path
) -> None:
    """A second team with the same bytes is told whose they are; the first team's report and choice stay."""
    take(home, engine, archive, team="first", report=report)
    other = report.with_name("other.pdf")
    other.write_bytes(b"%PDF-1.7 other")
    with pytest.raises(UsageError, match=r"submission .* of team 'first'"):
        take(home, engine, archive, team="second", report=other, encoder="b.py")
    folder = submission_folder(home, DIGEST)
    assert (folder / "report.pdf").read_bytes() == report.read_bytes()
    assert (folder / "submission.zip").read_bytes() == CONTENT
    assert (only_submission(engine).team, only_submission(engine).encoder_override) == ("first", None)


def test_a_file_made_to_share_an_id_is_refused(home: Home, engine: Engine, archive: Path) -> None:
    """12 hex digits can be met on purpose: such a file is refused, not taken for the other one."""
    with session(engine) as writing:
        other = DIGEST[:12] + "0" * 52
        writing.add(Submission(id=DIGEST[:12], digest=other, team="x", file_name="x", size_bytes=1, received_at=NOW))
    with pytest.raises(ParticipantError, match="pack the archive again"):
        take(home, engine, archive)


@pytest.mark.parametrize(
    "name", ["", "   ", "x" * (MAX_TEAM_LENGTH + 1), "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "a\u2066b", "\udcff"]
)
def test_a_bad_team_name_is_refused(home: Home, engine: Engine, archive: Path, name: str) -> None:
    """Names that cannot be shown, or are none, are refused before anything is kept."""
    with pytest.raises(UsageError, match="team name"):
        take(home, engine, archive, team=name)
    assert not home.submissions.exists()


def test_team_names_are_evened_out() -> None:
    """One name in two Unicode forms, or with spaces around it, is one team; the longest is accepted."""
    assert team_name("  Ame\u0301lie ") == "Am\u00e9lie"
    assert team_name("队" * MAX_TEAM_LENGTH) == "队" * MAX_TEAM_LENGTH


@pytest.mark.parametrize("encoder", ["model", "model.py:", "model.py:1a", "a.py:b:c", "a\n.py", "x" * 300 + ".py"])
def test_an_override_that_names_no_file_is_refused(home: Home, engine: Engine, archive: Path, encoder: str) -> None:
    """--encoder is FILE.py or FILE.py:CLASS."""
    with pytest.raises(UsageError, match="--encoder"):
        take(home, engine, archive, encoder=encoder)


def test_missing_files_are_wrong_usage(home: Home, engine: Engine, archive: Path, tmp_path: Path) -> None:
    """A ZIP or a report that is not there, or is a folder, is named; nothing is kept."""
    for file, report in ((tmp_path / "no.zip", None), (tmp_path, None), (archive, tmp_path / "no.pdf")):
        with pytest.raises(UsageError, match="no such file"):
            take(home, engine, file, report=report)
    assert not home.submissions.exists()


def test_copying_does_not_hold_the_database(home: Home, engine: Engine, archive: Path) -> None:
    """While bytes are copied, others can write: the first statement comes after the files are in place."""
    seen: list[bool] = []

    def on_begin(_connection: object) -> None:
        seen.append((submission_folder(home, DIGEST) / "submission.zip").is_file())

    event.listen(engine, "begin", on_begin)
    take(home, engine, archive)
    assert seen == [True]


def test_a_kill_at_any_step_is_completed_by_the_same_call(tmp_path: Path, archive: Path, report: Path) -> None:
    """SIGKILL before each file operation and around the commit: a second call finds or completes everything, once."""

    def attempt(home: Home) -> Callable[[Callable[[], None]], None]:
        def action(touch: Callable[[], None]) -> None:
            engine = connect(database_url(home))
            event.listen(engine, "commit", lambda _connection: touch())
            take(home, engine, archive, report=report, encoder="a.py")
            touch()

        return action

    step = 1
    while True:
        home = new_home(tmp_path / f"home{step}")
        if not is_killed_at(step, home.root, attempt(home)):
            break
        engine = connect(database_url(home))
        take(home, engine, archive, report=report, encoder="a.py")
        assert only_job(engine).status == Status.QUEUED
        assert only_submission(engine).report_digest == hashlib.sha256(report.read_bytes()).hexdigest()
        engine.dispose()
        (folder,) = home.submissions.iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["report.pdf", "submission.zip"]
        assert (folder / "submission.zip").read_bytes() == CONTENT
        assert (folder / "report.pdf").read_bytes() == report.read_bytes()
        step += 1
    assert step > 12, "the steps of an ingest were seen"
