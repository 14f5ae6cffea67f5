"""Nothing lost: `ranker ingest` killed at random steps, on a full disk, on one that is read-only, and twice at once."""

from __future__ import annotations

import email.message
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from effort import count, found
from link_server import link_server, plain
from postgres import forget, restored, saved
from small_disk import fill, make_read_only, small_disk
from sqlalchemy import select
from typed import start, typed, wait

from ranker.db.mail import Delivery, Link, Message
from ranker.db.models import Job, Submission
from ranker.db.place import database_url
from ranker.db.rules import Event
from ranker.db.session import connect, has_database, open_database, session
from ranker.home import Home
from ranker.types import Action, LinkState, Status

REPORT = b"%PDF-1.7 a report"


def content(number: int) -> bytes:
    """Bytes that look like a ZIP from outside; nothing here opens it."""
    return b"PK\x03\x04" + random.Random(number).randbytes(400_000 + 100_000 * number)


CONTENT = {f"team{number}.zip": content(number) for number in range(3)}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Something to take in: what is typed, which ZIPs are in it, and how many messages."""

    name: str
    arguments: tuple[str, ...]
    zips: tuple[str, ...]
    messages: int = 0
    reports: int = 0
    links: int = 0

    @property
    def digests(self) -> set[str]:
        return {hashlib.sha256(CONTENT[name]).hexdigest() for name in self.zips}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where team0.zip can be fetched."""
    with link_server() as server:
        server.answers["/team0.zip"] = [plain(CONTENT["team0.zip"])]
        yield server.url("/team0.zip")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, address: str) -> list[Scene]:
    folder = tmp_path_factory.mktemp("handed")
    for name, data in CONTENT.items():
        (folder / "box" / name).parent.mkdir(exist_ok=True)
        (folder / "box" / name).write_bytes(data)
    (folder / "team0.pdf").write_bytes(REPORT)
    letters = [letter(1, ["team0.zip", "team1.zip", "team2.zip"]), letter(2, ["team1.zip"])]
    (folder / "one.eml").write_bytes(letters[0])
    (folder / "box.mbox").write_bytes(
        b"".join(b"From a@x.example Thu Feb 12 23:00:00 2026\n" + each + b"\n" for each in letters)
    )
    first = str(folder / "box" / "team0.zip")
    with_report = ("ingest", first, "--report", str(folder / "team0.pdf"), "--encoder", "a.py", "--no-check")
    three = ("team0.zip", "team1.zip", "team2.zip")
    return [
        Scene(name="file", arguments=with_report, zips=("team0.zip",), reports=1),
        Scene(name="folder", arguments=("ingest", str(folder / "box"), "--no-check"), zips=three),
        Scene(name="message", arguments=("ingest", str(folder / "one.eml"), "--no-check"), zips=three, messages=1),
        Scene(name="mailbox", arguments=("ingest", str(folder / "box.mbox"), "--no-check"), zips=three, messages=2),
        Scene(name="link", arguments=("ingest", address, "--no-check"), zips=("team0.zip",), links=1),
    ]


def letter(number: int, names: Sequence[str]) -> bytes:
    message = email.message.EmailMessage()
    message["From"], message["To"] = "Ada <ada@x.example>", "challenge@y.example"
    message["Message-ID"], message["Subject"] = f"<{number}@x.example>", "our submission"
    message["Date"] = "Thu, 12 Feb 2026 23:00:00 +0000"
    message.set_content("Dear organizers,\nhere it is.\n")
    for name in names:
        message.add_attachment(CONTENT[name], maintype="application", subtype="zip", filename=name)
    return bytes(message)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template") / "home"
    open_database(Home(root=home)).dispose()
    (home / "configs").mkdir()
    (home / "configs" / "service.yaml").write_text("links: {allow_http: true}\nprivate_hosts: [127.0.0.1]\n")
    return home


def check_what_is_there(home: Home, scene: Scene) -> int:
    """What a kill leaves is nothing, or whole: each row of a submission has its bytes, how it came, and its check."""
    if not has_database(home):
        return 0
    engine = connect(database_url(home))
    try:
        with session(engine, read_only=True) as reading:
            if not engine.dialect.has_table(reading.connection(), "submission"):
                return 0
            rows = reading.scalars(select(Submission)).all()
            for row in rows:
                assert row.digest in scene.digests
                kept = (home.submissions / row.digest / "submission.zip").read_bytes()
                assert hashlib.sha256(kept).hexdigest() == row.digest
                assert [job.status for job in row.jobs] == [Status.QUEUED]
                assert reading.scalars(select(Delivery.id).where(Delivery.submission_id == row.id)).all() != []
            return len(rows)
    finally:
        engine.dispose()


def check_all_is_there(home: Home, scene: Scene) -> None:
    """After the completing run: each ZIP once, each arrival once, each told once in the log, and nothing else."""
    engine = connect(database_url(home))
    with session(engine, read_only=True) as reading:
        rows = reading.scalars(select(Submission)).all()
        assert sorted(row.digest for row in rows) == sorted(scene.digests)
        assert len(reading.scalars(select(Job)).all()) == len(rows)
        came = reading.scalars(select(Delivery)).all()
        told = reading.scalars(select(Event.id).where(Event.action == Action.INGEST)).all()
        assert len(told) == len(came) == len(rows) + max(0, scene.messages - 1)
        messages = reading.scalars(select(Message)).all()
        assert len(messages) == scene.messages
        assert all(message.handled_at is not None for message in messages)
        assert [row.report_digest for row in rows if row.report_digest] == [
            hashlib.sha256(REPORT).hexdigest()
        ] * scene.reports
        fetched = reading.scalars(select(Link)).all()
        assert [(link.state, link.digest in scene.digests) for link in fetched] == [
            (LinkState.FETCHED, True)
        ] * scene.links
        letters = {f"{message.digest}.eml" for message in messages}
    engine.dispose()
    assert {path.name for path in home.submissions.iterdir()} == scene.digests
    for folder in home.submissions.iterdir():
        reports = ["report.pdf"] * scene.reports
        assert sorted(path.name for path in folder.iterdir()) == [*reports, "submission.zip"]
        assert hashlib.sha256((folder / "submission.zip").read_bytes()).hexdigest() == folder.name
    assert [path for path in home.links.glob("*") if not path.name.startswith(".")] == []
    assert {path.name for path in home.mail.glob("*")} | {path.name for path in home.mail.glob(".*")} == letters


def begun(template: Path, root: Path, *, is_fresh: bool = False) -> Home:
    """A new home, with a database or without one."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    home = Home(root=root)
    if is_fresh:
        forget(home)
    else:
        restored(saved(Home(root=template)), home).dispose()
    return home


@pytest.mark.dear(day=1)
def test_killed_at_any_step_it_is_completed(scenes: list[Scene], template: Path, tmp_path: Path) -> None:
    """SIGKILL before a random touch of disk or database, a few times one after the other, in every kind of input, with
    and without a database before. Each time nothing is half there; then the same command makes it whole, once.
    """
    draw, log, root = random.Random(6), tmp_path / "said.txt", tmp_path / "home"
    kills, part_done, most_steps = 0, 0, 0
    wanted = count("kills of an ingest at random steps", short=20, long=200)
    for trial in range(wanted):
        if kills >= wanted:
            break
        scene, is_fresh = scenes[trial % len(scenes)], trial % 7 == 3
        command = ("--home", str(root), *scene.arguments)
        home = begun(template, root, is_fresh=is_fresh)
        whole = typed(*command, log=log, kill_at=0)
        assert whole.code == 0, whole.said
        check_all_is_there(home, scene)
        most_steps = max(most_steps, whole.steps)
        home = begun(template, root, is_fresh=is_fresh)
        for quarter in range(4):  # later ones find more done: they are spread, so that each meets something to do
            step = 1 + int((quarter + draw.random()) / 4 * whole.steps)
            killed = typed(*command, log=log, kill_at=step)
            assert killed.code in {-signal.SIGKILL, 0}, killed.said
            kills += killed.code != 0
            part_done += 0 < check_what_is_there(home, scene) < len(scene.zips)
        again = typed(*command, log=log)
        assert again.code == 0, (trial, again.said)
        check_all_is_there(home, scene)
    assert kills >= wanted
    assert part_done > 0, "kills between the first and the last submission of one command"
    found("steps at which an ingest of the largest input could be killed", most_steps)


def test_two_at_once_make_one(scenes: list[Scene], template: Path, tmp_path: Path) -> None:
    """Two processes take in the same things at the same time, one of them killed on its way: each ZIP is there once."""
    draw, root = random.Random(7), tmp_path / "home"
    logs = [tmp_path / "one.txt", tmp_path / "other.txt"]
    for trial in range(count("pairs of ingests at once, one of them killed", short=2, long=40)):
        scene = scenes[trial % len(scenes)]
        command = ("--home", str(root), *scene.arguments)
        home = begun(template, root)
        both = [start(*command, log=logs[0], kill_at=draw.randint(150, 500)), start(*command, log=logs[1])]
        ends = [wait(child, log) for child, log in zip(both, logs, strict=True)]
        assert ends[0].code in {-signal.SIGKILL, 0}, ends[0].said
        assert ends[1].code == 0, ends[1].said
        check_what_is_there(home, scene)
        again = typed(*command, log=logs[0])
        assert again.code == 0, again.said
        check_all_is_there(home, scene)


def test_a_full_disk_loses_nothing(scenes: list[Scene], template: Path, tmp_path: Path) -> None:
    """Whatever room is left, it is one sentence; with room again, the same command makes all whole."""
    draw, log, refused = random.Random(8), tmp_path / "said.txt", 0
    trials = count("ingests on a disk that fills up", short=4, long=40)
    with small_disk(tmp_path / "disk", 16_000_000) as disk:
        for trial in range(trials):
            scene = scenes[trial % len(scenes)]
            command = ("--home", str(disk / "home"), *scene.arguments)
            home = begun(template, disk / "home")
            ballast = fill(disk, leave=draw.randrange(0, sum(len(CONTENT[name]) for name in scene.zips)))
            ended = typed(*command, log=log)
            if ended.code:
                refused += 1
                assert ended.code == 1, ended.said
                check_is_one_error(ended.said)
            ballast.unlink()
            check_what_is_there(home, scene)
            again = typed(*command, log=log)
            assert again.code == 0, (trial, again.said)
            check_all_is_there(home, scene)
    assert refused >= trials / 2


def test_a_disk_for_reading_only_loses_nothing(scenes: list[Scene], template: Path, tmp_path: Path) -> None:
    """With a database there and without one: one sentence, and once it may be written to, all is taken in."""
    log = tmp_path / "said.txt"
    for number, is_fresh in enumerate((False, True)):
        with small_disk(tmp_path / f"disk{number}", 16_000_000) as disk:
            home = begun(template, disk / "home", is_fresh=is_fresh)
            command = ("--home", str(home.root), *scenes[2].arguments)
            make_read_only(disk, yes=True)
            ended = typed(*command, log=log)
            assert ended.code == 1, ended.said
            check_is_one_error(ended.said)
            make_read_only(disk, yes=False)
            assert typed(*command, log=log).code == 0
            check_all_is_there(home, scenes[2])


def check_is_one_error(said: str) -> None:
    """One sentence of ours, on one line, and no traceback."""
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("ranker: ")]
    assert len(errors) == 1, said
    assert "disk" in errors[0], said


def test_a_process_of_its_own_is_killed(scenes: list[Scene], template: Path, tmp_path: Path) -> None:
    """The same from outside: a command typed in a shell, killed once it has something to do."""
    scene, home, log = scenes[3], begun(template, tmp_path / "home"), tmp_path / "said.txt"
    command = ("--home", str(home.root), *scene.arguments)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ranker", *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"taking in submissions\n"
    process.kill()
    process.communicate()
    check_what_is_there(home, scene)
    assert typed(*command, log=log).code == 0
    check_all_is_there(home, scene)
