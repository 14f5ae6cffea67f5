"""Taking in messages: real files, a real database, real kills. What is in a message is tests/test_mail.py's matter."""

from __future__ import annotations

import hashlib
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import full_disk
import letters
import pytest
from effort import count
from homes import new_home
from kills import is_killed_at
from letters import PDF, Case, attached, mixed, part, text, zipped
from postgres import EVERYWHERE, restored, saved
from sqlalchemy import Engine, select

from ranker.db.mail import Link, Message
from ranker.db.place import database_url
from ranker.db.session import connect, session
from ranker.errors import InfraError, RankerError, UsageError
from ranker.home import Home
from ranker.intake import post
from ranker.intake.arrivals import Arrival, Found, FoundMessage, FoundZip, Unreadable, expand
from ranker.intake.ingest import Asked, Ingest
from ranker.intake.post import Source, Taken, take_in, waiting
from ranker.settings import MailSettings, Service
from ranker.types import Channel, LinkState

NOW = datetime(2026, 2, 12, 23, 59, tzinfo=UTC)
LATER = datetime(2026, 2, 13, 12, 0, tzinfo=UTC)
SETTINGS = MailSettings(own_servers=("mx.ours.example",))
STAMP = b"Received: from mail.uni.example by mx.ours.example with ESMTPS; Thu, 12 Feb 2026 23:58:00 +0000\r\n"
TEAM = mixed(
    [
        text(f"Hello, see also {letters.DRIVE} please\n"),
        attached(zipped(1), "application/zip", "attachment; filename=team.zip"),
        attached(PDF, "application/pdf", "attachment; filename=paper.pdf"),
    ]
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = connect(database_url(home))
    yield engine
    engine.dispose()


def take(
    home: Home,
    engine: Engine,
    source: Source,
    *,
    settings: MailSettings = SETTINGS,
    internal: datetime | None = None,
    now: datetime = NOW,
    look: Callable[[Taken], object] = lambda _: None,
) -> Taken:
    """Take a message in whole; `look` sees it while its files are there."""
    channel = Channel.MAIL if internal is None else Channel.IMAP
    with take_in(home, engine, source, channel, settings=settings, arrived_at=internal, now=now) as taken:
        look(taken)
    return taken


def rows(engine: Engine) -> list[Message]:
    with session(engine, read_only=True) as reading:
        return list(reading.scalars(select(Message).order_by(Message.kept_at, Message.id)))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def bytes_of(taken: Taken) -> list[tuple[str, bytes, bytes | None]]:
    return [(each.name, each.file.read_bytes(), each.report and each.report.read_bytes()) for each in taken.arrivals]


def test_a_message_is_kept_recorded_and_handed_out(home: Home, engine: Engine) -> None:
    """Its bytes lie under their digest as they came; its row, its links and its arrivals say how and when it came."""
    held: list[tuple[str, bytes, bytes | None]] = []
    taken = take(home, engine, STAMP + TEAM, look=lambda found: held.extend(bytes_of(found)))
    assert held == [("team.zip", zipped(1), PDF)]
    digest = hashlib.sha256(STAMP + TEAM).hexdigest()
    assert files(home.mail) == [f"{digest}.eml"]
    kept = home.mail / f"{digest}.eml"
    assert kept.read_bytes() == STAMP + TEAM
    assert kept.stat().st_mode & 0o077 == 0
    (row,) = rows(engine)
    assert (row.id, row.digest, row.channel, row.sender) == (digest[:12], digest, Channel.MAIL, "ada@uni.example")
    assert row.arrived_at == datetime(2026, 2, 12, 23, 58, tzinfo=UTC)
    assert row.arrived_by.startswith("Received header of mx.ours.example")
    assert row.dated_at == datetime(2026, 11, 20, 10, 22, 33, tzinfo=UTC)
    assert (row.kept_at, row.handled_at) == (NOW, NOW)
    assert row.notes == ["team.zip was taken, with its report paper.pdf"]
    with session(engine, read_only=True) as reading:
        (link,) = reading.scalars(select(Link))
    assert (link.message_id, link.url, link.state, link.found_at) == (row.id, letters.DRIVE, LinkState.PENDING, NOW)
    (arrival,) = taken.arrivals
    assert not arrival.file.exists()
    assert arrival == Arrival(
        file=arrival.file,
        name="team.zip",
        channel=Channel.MAIL,
        source=f"message {row.id}",
        sender="ada@uni.example",
        arrived_at=row.arrived_at,
        arrived_by=row.arrived_by,
        message_id=row.id,
        report=arrival.report,
    )


def test_the_same_bytes_again_do_nothing(home: Home, engine: Engine) -> None:
    """Idempotent by content: a mailbox that is read twice, by whatever way, gives each message once."""
    first = take(home, engine, TEAM)
    before = files(home.root / "mail"), [vars(row)["handled_at"] for row in rows(engine)]
    again = take(home, engine, lambda file: file.write(TEAM), internal=LATER, now=LATER)
    assert (first.is_new, again.is_new, again.arrivals) == (True, False, ())
    assert again.message.arrived_at == NOW
    assert again.notes == first.notes
    assert (files(home.root / "mail"), [vars(row)["handled_at"] for row in rows(engine)]) == before


def test_a_message_id_with_other_bytes_is_another_message(home: Home, engine: Engine) -> None:
    """A sender who reuses a Message-ID, or a mailbox that changed a header, hides nothing: both are kept, and told."""
    first = take(home, engine, TEAM)
    second = take(home, engine, TEAM.replace(b"Hello", b"HELLO"), now=LATER)
    assert second.is_new
    assert len(rows(engine)) == 2
    assert f"its Message-ID is that of message {first.message.id}" in " ".join(second.notes)
    assert not any("Message-ID" in note for note in first.notes)


def test_what_was_not_handled_is_completed(home: Home, engine: Engine) -> None:
    """Where taking in its ZIPs fails, a message waits, and is handed out again with the time that was read first."""
    with (
        pytest.raises(OSError, match="of the caller"),
        take_in(home, engine, STAMP + TEAM, Channel.IMAP, settings=SETTINGS, arrived_at=NOW, now=NOW),
    ):
        raise OSError("of the caller")
    assert [row.handled_at for row in rows(engine)] == [None]
    (left,) = waiting(home, engine)
    again = take(home, engine, left, settings=MailSettings(), now=LATER)
    assert again.is_new
    assert again.message.channel == Channel.IMAP
    assert [each.name for each in again.arrivals] == ["team.zip"]
    assert again.message.arrived_at == datetime(2026, 2, 12, 23, 58, tzinfo=UTC)
    assert [row.handled_at for row in rows(engine)] == [LATER]
    assert waiting(home, engine) == []


def test_the_next_ingest_takes_up_what_was_left(home: Home, engine: Engine, tmp_path: Path) -> None:
    """A message that a killed run has kept is completed by whatever is ingested next, without that one's --team."""
    with pytest.raises(KeyboardInterrupt), take_in(home, engine, TEAM, Channel.MAIL, settings=SETTINGS, now=NOW):
        raise KeyboardInterrupt
    (tmp_path / "other.zip").write_bytes(zipped(2))
    ingest = Ingest(home=home, engine=engine, service=Service(), asked=Asked(team="Other"))
    found = list(ingest.take([str(tmp_path / "other.zip")]))
    assert [each.error for each in found] == [None] * 3
    teams = [each.received.submission.team for each in found if each.received is not None]
    assert len(teams) == 2
    assert teams[1] == "Other" != teams[0]
    assert [row.handled_at is not None for row in rows(engine)] == [True]
    assert len(list(ingest.take([]))) == 0


def test_a_remark_of_who_took_the_zips_is_kept(home: Home, engine: Engine) -> None:
    """What becomes known of a ZIP after the message was read belongs into its answer."""
    take(home, engine, TEAM, look=lambda taken: taken.remark("team.zip was refused:\nit is\x1b[31m red"))
    assert rows(engine)[0].notes[-1] == "team.zip was refused: it is[31m red"


@pytest.mark.parametrize("internal", [None, LATER])
def test_without_our_servers_header_other_clocks_count(home: Home, engine: Engine, internal: datetime | None) -> None:
    """No Received header of ours: the mailbox's own date, else when it was first kept; never the sender's Date."""
    taken = take(home, engine, TEAM, internal=internal)
    assert taken.message.arrived_at == (internal or NOW)
    assert ("INTERNALDATE" if internal else "first kept") in taken.message.arrived_by


def test_a_message_kept_before_a_kill_keeps_its_time(home: Home, engine: Engine) -> None:
    """The time of first keeping is that of the file, so a deadline that passes before the second try costs nobody."""
    home.mail.mkdir()
    kept = home.mail / f"{hashlib.sha256(TEAM).hexdigest()}.eml"
    kept.write_bytes(TEAM)
    os.utime(kept, (NOW.timestamp(), NOW.timestamp()))
    assert take(home, engine, TEAM, now=LATER).message.arrived_at == NOW


CASES = [case for case in letters.corpus() if case.words or len(case.zips) > 1 or "saved" in case.name]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_notes_say_what_was_found_and_why_not(home: Home, engine: Engine, case: Case) -> None:
    """Whatever could not be taken is told in words that an answer can quote; whatever could is handed out."""
    held: list[tuple[str, bytes, bytes | None]] = []
    taken = take(home, engine, case.data, look=lambda found: held.extend(bytes_of(found)))
    assert [(name or "unnamed.zip", data) for name, data in case.zips] == [(name, data) for name, data, _ in held]
    said = "\n".join(rows(engine)[0].notes)
    assert [word for word in case.words if word not in said] == []
    assert taken.links == case.links
    if not case.zips and not case.links:
        assert "neither a ZIP nor a link" in said
    assert taken.message.sender == case.sender


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["a.zip", "x.pdf"], {"a.zip": "x.pdf"}),
        (["a.zip", "x.pdf", "y.pdf"], {"a.zip": None}),
        (["a.zip", "x.pdf", "A.PDF"], {"a.zip": "A.PDF"}),
        (["a.zip", "b.zip", "x.pdf"], {"a.zip": None, "b.zip": None}),
        (["a.zip", "b.zip.txt", "b.pdf", "a.pdf"], {"a.zip": "a.pdf", "b.zip.txt": "b.pdf"}),
        (["a.zip", "a.zip", "a.pdf"], {"a.zip": None}),
        (["a.zip"], {"a.zip": None}),
    ],
)
def test_a_report_goes_with_its_zip_where_that_is_plain(
    home: Home, engine: Engine, names: list[str], pairs: dict[str, str | None]
) -> None:
    """One ZIP, one PDF; else the same name; else nobody guesses, and the notes say so."""
    parts = [
        attached(
            (PDF if name.lower().endswith("pdf") else zipped(at)) + b"%d" % at,
            "application/octet-stream",
            f"attachment; filename={name}",
        )
        for at, name in enumerate(names)
    ]
    by_bytes = {
        (PDF if name.lower().endswith("pdf") else zipped(at)) + b"%d" % at: name for at, name in enumerate(names)
    }
    found: dict[str, str | None] = {}

    def look(taken: Taken) -> None:
        for name, _, report in bytes_of(taken):
            found[name] = None if report is None else by_bytes[report]

    taken = take(home, engine, mixed(parts), look=look)
    assert found == pairs
    unused = [name for name in names if name.lower().endswith("pdf") and name not in pairs.values()]
    assert [name for name in unused if f"{name} was left aside: it is not plain" not in " ".join(taken.notes)] == []


def test_reports_go_with_the_zip_of_their_own_message(home: Home, engine: Engine) -> None:
    """Two people's messages that a third forwards in one: each ZIP with the report that came with it."""
    inner = [
        mixed(
            [
                attached(zipped(n), "application/zip", f"attachment; filename=z{n}.zip"),
                attached(PDF + b"%d" % n, "application/pdf", f"attachment; filename=p{n}.pdf"),
            ]
        ).decode()
        for n in range(2)
    ]
    saved = attached(inner[1].encode(), "application/octet-stream", "attachment; filename=b.eml")
    held: list[tuple[str, bytes, bytes | None]] = []
    outer = mixed([text(), part("message/rfc822", inner[0]), saved])
    take(home, engine, outer, look=lambda found: held.extend(bytes_of(found)))
    assert held == [(f"z{n}.zip", zipped(n), PDF + b"%d" % n) for n in range(2)]


def test_the_same_zip_twice_in_a_message_is_one(home: Home, engine: Engine) -> None:
    """People attach twice what they want to be sure of."""
    one, two = (attached(zipped(1), "application/zip", f"attachment; filename={name}.zip") for name in "ab")
    taken = take(home, engine, mixed([one, two]))
    assert [each.name for each in taken.arrivals] == ["a.zip"]
    assert "b.zip is in it more than once" in taken.notes


def test_damage_on_the_way_is_told(home: Home, engine: Engine) -> None:
    """A ZIP that a mail server has damaged is refused by its check; its sender is told where it happened."""
    hurt = TEAM.replace(b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: base64\r\n\r\n*\x80*", 1)
    taken = take(home, engine, hurt)
    assert any("was damaged on its way: characters stand in it that are none of base64" in each for each in taken.notes)


def test_packed_messages_are_bounded(home: Home, engine: Engine) -> None:
    """A message saved in a message, again and again, ends; and so do many side by side."""
    deep = mixed([attached(zipped(1, 10), "application/zip", "attachment; filename=team.zip")])
    for _ in range(post.MAX_PACKED + 1):
        deep = mixed([attached(deep, "application/octet-stream", "attachment; filename=a.eml")])
    assert f"more than {post.MAX_PACKED} attached messages" in " ".join(take(home, engine, deep).notes)
    wide = mixed([attached(TEAM, "application/octet-stream", "attachment; filename=a.eml")] * 25)
    taken = take(home, engine, wide)
    assert len(taken.arrivals) == 1
    assert f"more than {post.MAX_PACKED} attached messages" in " ".join(taken.notes)


def test_a_message_that_is_too_long_is_kept_and_answered(home: Home, engine: Engine) -> None:
    """What is beyond the limit is not looked into, but its sender can be told, and its bytes are not lost."""
    taken = take(home, engine, TEAM, settings=MailSettings(max_message_bytes=1000))
    assert (taken.arrivals, taken.links) == ((), ())
    assert taken.message.sender == "ada@uni.example"
    assert "at most 1,000 are" in " ".join(taken.notes)
    assert (home.mail / f"{taken.message.digest}.eml").read_bytes() == TEAM


def test_memory_does_not_grow_with_a_message(home: Home, engine: Engine, tmp_path: Path) -> None:
    """A message is copied, walked through and decoded in pieces: 40 MB of it take no more memory than 4 MB."""
    top, bottom = TEAM.split(b"UEsDB", 1)
    peaks = []
    for megabytes in (4, 40):
        file = tmp_path / f"{megabytes}.eml"
        with file.open("wb") as write:
            write.write(top + b"UEsDB")
            for _ in range(megabytes):
                write.write((b"A" * 76 + b"\r\n") * ((1 << 20) // 78))
            write.write(bottom)
        tracemalloc.start()
        taken = take(home, engine, file)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(taken.arrivals) == 1
    assert max(peaks) < 12 << 20
    assert peaks[1] < peaks[0] + (1 << 20)


def test_killed_anywhere_it_is_completed_and_leaves_nothing_else(home: Home, engine: Engine) -> None:
    """SIGKILL before each touch of a file: the same command then hands out all, once, and no other file is left."""
    engine.dispose()
    source = home.root / "incoming.eml"
    source.write_bytes(TEAM)
    step, clean = 0, saved(home)

    def action(touch: Callable[[], None]) -> None:
        own = connect(database_url(home))
        take(home, own, source, look=lambda _: touch())
        touch()
        own.dispose()

    while True:
        step += 1
        for path in [*home.mail.rglob("*")] if home.mail.is_dir() else []:
            assert path.is_dir() or path.unlink() is None
        restored(clean, home).dispose()
        if not is_killed_at(step, home.root, action):
            break
        again = connect(database_url(home))
        before = rows(again)
        held: list[tuple[str, bytes, bytes | None]] = []
        taken = take(home, again, source, now=LATER, look=lambda found, held=held: held.extend(bytes_of(found)))
        was_handled = bool(before) and before[0].handled_at is not None
        assert taken.is_new is not was_handled
        assert held == ([] if was_handled else [("team.zip", zipped(1), PDF)])
        assert [row.handled_at is not None for row in rows(again)] == [True]
        assert taken.message.arrived_at in {NOW, LATER}
        assert taken.message.arrived_at == NOW or not before
        assert files(home.mail) == [f"{hashlib.sha256(TEAM).hexdigest()}.eml"]
        again.dispose()
    assert step >= 20


def test_a_full_disk_is_told_and_leaves_nothing(home: Home, engine: Engine) -> None:
    """Half a message is none; half of its attachments too: the message is kept then, and waits."""
    long = mixed([text(), attached(zipped(1, 400_000), "application/zip", "attachment; filename=team.zip")])
    take(home, engine, TEAM)
    for limit in (100_000, len(long) - 10):
        with full_disk.after(limit), pytest.raises(InfraError, match=r"is the disk full.*Nothing is lost"):
            take(home, engine, long)
        assert len(files(home.mail)) == 1
    taken = take(home, engine, long, now=LATER)
    assert [each.name for each in taken.arrivals] == ["team.zip"]


def test_a_source_that_is_gone_is_the_callers_matter(home: Home, engine: Engine, tmp_path: Path) -> None:
    """A path that leads nowhere, and a mailbox that fails half-way, are told as what they are."""
    with pytest.raises(UsageError, match=r"nowhere\.eml: it cannot be read"):
        take(home, engine, tmp_path / "nowhere.eml")

    def failing(file: BinaryIO) -> None:
        file.write(TEAM[:1000])
        raise InfraError("the server hung up")

    with pytest.raises(InfraError, match="the server hung up"):
        take(home, engine, failing)
    assert (files(home.mail), rows(engine)) == ([], [])


def test_mutated_messages_are_taken_in_or_told(home: Home, engine: Engine, tmp_path: Path) -> None:
    """Whatever the bytes, a message is kept and described, its row fits its columns, and nothing is written outside."""
    rng = random.Random(7)
    others = [case.data for case in letters.corpus()]
    number = count("mutated messages, taken in", short=60, long=2000)
    outside = tmp_path / "outside"
    outside.mkdir()
    arrivals = 0
    for _ in range(number):
        data = letters.mutated(rng.choice(others), others, rng)
        try:
            taken = take(home, engine, data, look=bytes_of)
        except RankerError as error:
            pytest.fail(f"{error}: {data!r}")
        arrivals += len(taken.arrivals)
        assert all(each.file.parent.parent == home.mail for each in taken.arrivals)
        assert taken.message.handled_at is not None
    assert arrivals > number / 4
    names = {row.digest for row in rows(engine)}
    assert set(files(home.mail)) == {f"{name}.eml" for name in names}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "outside"]
    own = {name.partition("-")[0] for name in (path.name for path in home.root.iterdir())}
    assert own == ({"mail"} if EVERYWHERE else {"mail", "ranker.db"})
    for row in rows(engine):
        assert len(row.sender) <= 400
        assert len(row.subject) <= 1000
        assert len(row.arrived_by) <= 1000


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Team \u00c4.zip", "Team \u00c4"),
        ("a.ZIP.txt", "a"),
        ("v1.2.zip", "v1.2"),
        ("a.dat", "a"),
        (".zip", ".zip"),
        ("a", "a"),
    ],
)
def test_a_team_is_called_as_its_file_is(name: str, stem: str) -> None:
    """Where nobody names the team: an ending that was put behind `.zip` to get it through is no part of its name."""
    arrival = Arrival(
        file=Path("x"), name=name, channel=Channel.MAIL, source="message 1", sender=None, arrived_at=NOW,
        arrived_by="a test", message_id=None, report=None,
    )  # fmt: skip
    assert arrival.stem == stem


def told(found: Iterator[Found], root: Path) -> list[tuple[object, ...]]:
    """What was found, without the root of its paths."""
    out: list[tuple[object, ...]] = []
    for each in found:
        name = str(each.path.relative_to(root))
        match each:
            case FoundZip():
                out.append(("zip", name, each.report and each.report.name))
            case FoundMessage():
                with each.path.open("rb") as file:
                    file.seek(each.start)
                    out.append(("message", name, file.read(each.size_bytes)))
            case Unreadable():
                assert str(each.path) in each.why
                out.append(("unreadable", name, each.why.partition(": ")[2]))
    return out


def test_a_folder_of_everything_gives_all_in_a_stable_order(tmp_path: Path) -> None:
    """ZIPs, messages, mailboxes and folders of these, told by what they hold; the rest is named, and stops nothing."""
    (tmp_path / "a.eml").write_bytes(TEAM)
    (tmp_path / "b").write_bytes(TEAM)
    (tmp_path / "c.zip.txt").write_bytes(zipped(1))
    (tmp_path / "d.zip").write_bytes(b"no ZIP")
    (tmp_path / "D.PDF").write_bytes(PDF)
    (tmp_path / "e.docx").write_bytes(zipped(2))
    (tmp_path / "f.pdf").write_bytes(PDF)
    (tmp_path / "g.txt").write_text("hello\n")
    (tmp_path / "h").write_bytes(b"")
    (tmp_path / "i.mbox").write_bytes(b"From ada@x Fri Nov 20 11:22:33 2026\n" + TEAM + b"\n")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "j.msg").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100))
    (tmp_path / "k.emlx").write_bytes(b"%d\n" % len(TEAM) + TEAM + b"<?xml version='1.0'?><plist/>")
    for name in ("cur", "new", "tmp", ".Sent/cur"):
        (tmp_path / "l" / name).mkdir(parents=True)
    (tmp_path / "l/cur/2.x:2,S").write_bytes(TEAM + b"2")
    (tmp_path / "l/cur/1.x:2,S").write_bytes(TEAM + b"1")
    (tmp_path / "l/new/3.x").write_bytes(TEAM + b"3")
    (tmp_path / "l/tmp/4.x").write_bytes(TEAM + b"4")
    (tmp_path / "l/.Sent/cur/5.x").write_bytes(TEAM + b"5")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "n.zip").write_bytes(zipped(3))
    (tmp_path / "o").symlink_to(tmp_path)
    found = told(expand([tmp_path]), tmp_path)
    assert [(kind, name) for kind, name, _ in found if kind != "unreadable"] == [
        *(("message", name) for name in ("a.eml", "b")),
        *(("zip", name) for name in ("c.zip.txt", "d.zip")),
        *(("message", name) for name in ("i.mbox", "k.emlx", "l/cur/1.x:2,S", "l/cur/2.x:2,S", "l/new/3.x")),
        ("zip", "m/n.zip"),
    ]
    assert {name: content for kind, name, content in found if kind == "zip"} == {
        "c.zip.txt": None,
        "d.zip": "D.PDF",
        "m/n.zip": None,
    }
    whole = {name: content for kind, name, content in found if kind == "message"}
    assert whole["i.mbox"] == whole["k.emlx"] == whole["a.eml"] == TEAM
    unread = {name: why for kind, name, why in found if kind == "unreadable"}
    assert sorted(unread) == ["e.docx", "f.pdf", "g.txt", "h", "j.msg"]
    assert "empty" in str(unread["h"])
    assert "Outlook" in str(unread["j.msg"])
    assert "--report" in str(unread["f.pdf"])
    assert told(expand([tmp_path]), tmp_path) == found


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_messages_of_an_mbox_are_told_apart(tmp_path: Path, end: bytes) -> None:
    """A message begins behind an empty line, at a line that says who and when; what only looks like it is text."""
    first = b"From: a@b.example\nSubject: 1\n\nhello\nFrom us Fri Nov 20 12:30 2026\n\n"
    first += b"From here on, all is text\n\nFrom the team: 12:30\n>From quoted\n"
    second = b"From: c@d.example\nSubject: 2\n\n" + b"x" * 200_000 + b"\n"
    third = b"From: e@f.example\nSubject: 3\n"
    marks = (
        b"From a@b.example Fri Nov 20 11:22:33 2026\n", b"From - Fri Nov 20 11:22:33 2026\n",
        b"From 1799@xxx Fri Nov 20 11:22:33 +0000 2026\n",
    )  # fmt: skip
    messages = [each.replace(b"\n", end) for each in (first, second, third)]
    box = tmp_path / "box"
    box.write_bytes(b"".join(mark.replace(b"\n", end) + each + end for mark, each in zip(marks, messages, strict=True)))
    assert [content for _, _, content in told(expand([box]), tmp_path)] == messages


def test_paths_that_cannot_be_read_are_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    """One bad path among many is one sentence."""
    (tmp_path / "a.zip").write_bytes(zipped())
    os.mkfifo(tmp_path / "b")
    bad = [tmp_path / "nowhere", tmp_path / "b", Path("/proc/self/mem")]
    found = list(expand([*bad, tmp_path / "a.zip"]))
    assert [type(each) for each in found] == [Unreadable, Unreadable, Unreadable, FoundZip]
    deep = tmp_path / "deep"
    (deep / "/".join("x" * 30)).mkdir(parents=True)
    assert "nested more than 20 deep" in str(next(expand([deep])))
