"""The mailbox, as a real IMAP server keeps it: nothing is lost, nothing is taken twice, no secret is told."""

from __future__ import annotations

import io
import json
import socket
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import effort
import pytest
import yaml
from homes import new_home
from kills import is_killed_at
from mail_server import PASSWORD, TOKEN, USER, Dovecot, dovecot, mail
from sqlalchemy import select

from ranker.cli import main
from ranker.db.mail import Delivery, Message
from ranker.db.models import Submission
from ranker.db.session import open_database, session
from ranker.errors import InfraError, RankerError, UsageError
from ranker.home import Home
from ranker.intake.collect import Collected, collect
from ranker.intake.inbox import Mailbox, _body, _folder, _unfolder
from ranker.intake.ingest import Asked, Ingest
from ranker.settings import Imap, Service
from ranker.types import Channel


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    with dovecot() as running:
        yield running


@pytest.fixture
def user() -> str:
    """A mailbox of this test's own."""
    return f"{uuid.uuid4().hex}@example.org"


def archive(content: str = "x = 1") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(zipfile.ZipInfo("encoder.py"), content)
    return file.getvalue()


def with_zip(name: str, content: bytes | None = None, sender: str = "Ada <ada@lab.example>") -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, USER, name
    message["Message-ID"] = f"<{name}@lab.example>"
    message.set_content("Our encoder.")
    zipped = archive(name) if content is None else content
    message.add_attachment(zipped, maintype="application", subtype="zip", filename=f"{name}.zip")
    message.set_boundary("=of-a-test=")
    return message.as_bytes()


@contextmanager
def taking(home: Home, service: Service) -> Iterator[Ingest]:
    engine = open_database(home)
    try:
        yield Ingest(home=home, engine=engine, service=service, asked=Asked())
    finally:
        engine.dispose()


def look(
    home: Home, settings: Imap, secret: str = PASSWORD, seen: set[tuple[int, int]] | None = None
) -> list[Collected]:
    with taking(home, Service(imap=settings)) as ingest, Mailbox(settings, secret) as mailbox:
        return list(collect(mailbox, ingest, set() if seen is None else seen))


def rows(home: Home) -> dict[str, int]:
    """How many messages, submissions and deliveries there are; all messages are handled."""
    engine = open_database(home)
    try:
        with session(engine, read_only=True) as reading:
            messages = list(reading.scalars(select(Message)))
            assert all(message.handled_at is not None for message in messages)
            counts = [len(reading.scalars(select(table)).all()) for table in (Submission, Delivery)]
            return {"messages": len(messages), "submissions": counts[0], "deliveries": counts[1]}
    finally:
        engine.dispose()


def test_a_message_is_kept_recorded_and_then_marked(server: Dovecot, user: str, tmp_path: Path):
    """What was mailed becomes a submission, with the server's own time; it bears the keyword, and is not seen."""
    home = new_home(tmp_path)
    server.deliver(with_zip("tones"), user=user, at='"12-Feb-2026 23:59:30 +0100"')
    (one,) = look(home, server.settings(user=user))
    assert one.message is not None
    assert (one.message.channel, one.message.sender) == (Channel.IMAP, "ada@lab.example")
    assert one.message.arrived_at.isoformat() == "2026-02-12T22:59:30+00:00"
    assert (tmp_path / "mail" / f"{one.message.digest}.eml").read_bytes() == with_zip("tones").replace(b"\n", b"\r\n")
    assert server.flags(user) == {"tones": {"RankerTaken"}}
    assert rows(home) == {"messages": 1, "submissions": 1, "deliveries": 1}
    assert look(home, server.settings(user=user)) == []


def test_a_long_message_is_read_in_pieces(server: Dovecot, user: str):
    """Pieces of any size join to the same bytes, whether the last one is whole, short or empty."""
    text = mail("long", body="\n".join(f"line {number}" for number in range(3000))).replace(b"\n", b"\r\n")
    server.deliver(text, user=user)
    with Mailbox(server.settings(user=user), PASSWORD) as mailbox:
        (waiting,) = mailbox.waiting()
        assert waiting.size_bytes == len(text)
        for chunk in (1 << 20, len(text), len(text) - 1, 4099):
            file = io.BytesIO()
            assert mailbox.read(waiting, file, chunk=chunk) == len(text)
            assert file.getvalue() == text
    assert server.flags(user) == {"long": set()}


def test_memory_does_not_grow_with_a_message(server: Dovecot, user: str, tmp_path: Path):
    """15 MB go from the mailbox to the disk through pieces of one; nothing holds the whole."""
    import tracemalloc

    server.deliver(mail("big", body="x" * 70 + "\n") + (b"y" * 76 + b"\n") * 200_000, user=user)
    with Mailbox(server.settings(user=user), PASSWORD) as mailbox, (tmp_path / "big").open("wb") as file:
        (waiting,) = mailbox.waiting()
        tracemalloc.start()
        size = mailbox.read(waiting, file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert size > 15_000_000
    assert peak < 6_000_000


@pytest.mark.parametrize("capabilities", [None, {"UIDPLUS"}, set()])
def test_handled_messages_are_moved_away(
    server: Dovecot, user: str, tmp_path: Path, capabilities: set[str] | None, monkeypatch: pytest.MonkeyPatch
):
    """To a folder whose name is no ASCII, with MOVE, or with COPY and DELETE where a server has none; what another
    program has marked as deleted is not removed by us.
    """
    with server.client(user) as client:
        client.create(_folder("Erledigt.Prüfung & mehr"))
    server.deliver(with_zip("tones"), mail("deleted by hand"), user=user)
    with server.client(user) as client:
        client.uid("STORE", "2", "+FLAGS", r"(\Deleted)")
    if capabilities is not None:
        opened = Mailbox._open

        def less(self: Mailbox) -> None:
            opened(self)
            self._capabilities = frozenset(capabilities)

        monkeypatch.setattr(Mailbox, "_open", less)
    settings = server.settings(user=user, done_folder="Erledigt.Prüfung & mehr")
    home = new_home(tmp_path)
    assert [each.waiting.subject for each in look(home, settings)] == ["tones"]
    assert list(server.flags(user, _folder("Erledigt.Prüfung & mehr"))) == ["tones"]
    left = server.flags(user)
    assert left["deleted by hand"] == {r"\Deleted"}
    assert left.get("tones") == (None if capabilities != set() else {r"\Deleted"})
    assert look(home, settings) == []


def test_the_same_message_again_is_the_same(server: Dovecot, user: str, tmp_path: Path):
    """Put back into the mailbox, or copied to it twice: one message, one submission, and all copies are marked."""
    home = new_home(tmp_path)
    server.deliver(with_zip("tones"), with_zip("tones"), user=user)
    first = look(home, server.settings(user=user))
    server.deliver(with_zip("tones"), user=user)
    again = look(home, server.settings(user=user))
    assert (len(first), len(again)) == (2, 1)
    assert rows(home) == {"messages": 1, "submissions": 1, "deliveries": 1}
    assert server.flags(user) == {"tones": {"RankerTaken"}}


def test_a_message_that_cannot_be_taken_is_flagged_and_the_rest_goes_on(
    server: Dovecot, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It stays where it is, unmarked, with a star; it is not tried again and again by one run, but is by the next."""
    home = new_home(tmp_path)
    server.deliver(with_zip("first"), with_zip("second"), with_zip("third"), user=user)
    read = Mailbox.read

    def fails(self: Mailbox, message: Any, file: Any, **options: Any) -> int:
        if message.subject == "second":
            raise UsageError("nobody can read this")
        return read(self, message, file, **options)

    monkeypatch.setattr(Mailbox, "read", fails)
    seen: set[tuple[int, int]] = set()
    found = look(home, server.settings(user=user), seen=seen)
    assert [None if each.error is None else str(each.error) for each in found] == [None, "nobody can read this", None]
    assert server.flags(user) == {"first": {"RankerTaken"}, "second": {r"\Flagged"}, "third": {"RankerTaken"}}
    assert look(home, server.settings(user=user), seen=seen) == []
    monkeypatch.undo()
    assert [each.error for each in look(home, server.settings(user=user))] == [None]
    assert rows(home) == {"messages": 3, "submissions": 3, "deliveries": 3}


def test_only_messages_since_a_day_are_looked_at(server: Dovecot, user: str, tmp_path: Path):
    """A mailbox that was used before does not spill years of mail into the challenge."""
    server.deliver(mail("old"), user=user, at='"31-Jan-2026 23:00:00 +0000"')
    server.deliver(mail("new"), user=user, at='"01-Feb-2026 00:30:00 +0000"')
    with Mailbox(server.settings(user=user, since="2026-02-01"), PASSWORD) as mailbox:
        assert [each.subject for each in mailbox.waiting()] == ["new"]


def test_killed_at_every_step_nothing_is_lost_and_nothing_comes_twice(server: Dovecot, user: str, tmp_path: Path):
    """SIGKILL at the touches of the home's files and between commands to the server: the next look completes it."""
    killed_at = []
    steps = effort.count("moments at which a look into the mailbox is killed", short=6, long=150)
    for step in [1, 6, 16, 33, 60, 1000] if steps == 6 else [*range(1, steps), 1000]:
        own = f"{step}.{user}"
        home = new_home(tmp_path / str(step))
        server.deliver(with_zip(f"a{step}"), with_zip(f"b{step}"), user=own)
        settings = server.settings(user=own)

        def action(touch: Callable[[], None], home: Home = home, settings: Imap = settings) -> None:
            asked = Mailbox._asked

            def counted(self: Mailbox, *arguments: str) -> list[Any]:
                touch()
                found = asked(self, *arguments)
                touch()
                return found

            Mailbox._asked = counted  # type: ignore[method-assign]
            assert len(look(home, settings)) == 2

        if is_killed_at(step, home.root, action):
            killed_at.append(step)
        look(home, settings)
        assert rows(home) == {"messages": 2, "submissions": 2, "deliveries": 2}
        assert server.flags(own) == {f"a{step}": {"RankerTaken"}, f"b{step}": {"RankerTaken"}}
        assert not [path for path in (home.root / "mail").iterdir() if path.suffix != ".eml"], "left by a kill"
    assert len(killed_at) >= 5


@pytest.mark.parametrize(
    ("changes", "secret", "error", "words"),
    [
        (
            {},
            "hunter2 of mine",
            UsageError,
            r"refuses the login of .*AUTHENTICATIONFAILED.*; most providers want an app",
        ),
        ({"login": "oauth2"}, "ya29.stale", UsageError, "refuses the login of .*; a token lives for about an hour"),
        ({"folder": "Nowhere"}, PASSWORD, UsageError, "has no folder 'Nowhere' .*; it has INBOX"),
        ({"done_folder": "Nowhere"}, PASSWORD, UsageError, "has no folder 'Nowhere' that can be opened"),
        ({"ca_file": None}, PASSWORD, UsageError, "certificate of .* is not trusted .*; nothing was sent"),
        ({"host": "localhost.invalid"}, PASSWORD, InfraError, "localhost.invalid is not found"),
    ],
)
def test_what_is_wrong_is_one_sentence_without_the_secret(
    server: Dovecot, changes: dict[str, Any], secret: str, error: type[RankerError], words: str
):
    """A wrong password, a stale token, a folder that is not there, a certificate that nobody vouches for."""
    with pytest.raises(error, match=words) as raised, Mailbox(server.settings(**changes), secret):
        pass
    assert secret not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_port_that_speaks_otherwise_is_told_apart(server: Dovecot):
    """TLS asked of a port that has none yet, and a port where nobody is."""
    with (
        pytest.raises(InfraError, match=r"no TLS with .*is it the right port"),
        Mailbox(server.settings(port=server.imap), PASSWORD),
    ):
        pass
    with pytest.raises(InfraError, match="does not answer"), Mailbox(server.settings(port=1), PASSWORD):
        pass


def test_tls_by_command_and_a_token_for_a_password(server: Dovecot):
    """STARTTLS on the plain port, and XOAUTH2, against the server's own word whose token it is."""
    with Mailbox(server.settings(tls="starttls", port=server.imap), PASSWORD) as mailbox:
        assert mailbox.validity > 0
    with Mailbox(server.settings(login="oauth2"), TOKEN) as mailbox:
        assert mailbox.validity > 0


@pytest.mark.parametrize("after", [b"* OK hello\r\n", b"", b"* BYE too busy\r\n"])
def test_a_server_that_hangs_up_is_one_sentence(server: Dovecot, after: bytes):
    """Before TLS, after its greeting, with a good-bye: our own failure, to be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(after)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        settings = server.settings(port=listening.getsockname()[1], tls="starttls", timeout_s=5)
        with pytest.raises(InfraError, match="does not answer, or hung up"), Mailbox(settings, PASSWORD):
            pass
        thread.join()


def test_a_connection_lost_between_messages_keeps_what_was_taken(
    server: Dovecot, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first message is taken and marked; the second waits, and is taken by the next look."""
    home = new_home(tmp_path)
    server.deliver(with_zip("first"), with_zip("second"), user=user)
    read = Mailbox.read

    def cut(self: Mailbox, message: Any, file: Any, **options: Any) -> int:
        if message.subject == "second":
            self._imap.sock.shutdown(socket.SHUT_RDWR)
        return read(self, message, file, **options)

    monkeypatch.setattr(Mailbox, "read", cut)
    with pytest.raises(InfraError, match="the same command goes on from there"):
        look(home, server.settings(user=user))
    assert server.flags(user) == {"first": {"RankerTaken"}, "second": set()}
    monkeypatch.undo()
    assert [each.waiting.subject for each in look(home, server.settings(user=user))] == ["second"]
    assert rows(home) == {"messages": 2, "submissions": 2, "deliveries": 2}


def test_names_of_folders_are_written_as_the_protocol_wants():
    """Modified UTF-7, of RFC 3501's own examples, and back."""
    for name, written in {
        "~peter/mail/台北/日本語": '"~peter/mail/&U,BTFw-/&ZeVnLIqe-"',
        "a & b": '"a &- b"',
        'quoted "x" \\': '"quoted \\"x\\" \\\\"',
        "Entwürfe😀": '"Entw&APw-rfe&2D3eAA-"',
    }.items():
        assert _folder(name) == written
        assert _unfolder(written[1:-1]) == name


def test_answers_in_every_form_that_servers_give_them(server: Dovecot, monkeypatch: pytest.MonkeyPatch):
    """A literal, a quoted nothing, NIL; others' news in between; facts before or behind; a date that is none. What is
    not understood must not make a message invisible.
    """
    assert _body([(b"1 (UID 7 BODY[]<0> {3}", b"abc"), b")"], 7) == b"abc"
    assert _body([(b"1 (BODY[]<0> {3}", b"abc"), b" UID 7)"], 7) == b"abc"
    assert _body([b"4 (UID 9 FLAGS (x))", b'1 (UID 7 BODY[]<3> "")'], 7) == b""
    assert _body([b"1 (UID 7 BODY[]<3> NIL)"], 7) == b""
    assert _body([b"4 (UID 9 FLAGS (x))"], 7) is None
    assert _body([(b"1 (UID 8 BODY[]<0> {3}", b"abc"), b")"], 7) is None
    assert _body([], 7) is None
    fields = b"BODY[HEADER.FIELDS (FROM SUBJECT)]"
    dated = b'INTERNALDATE " 1-Feb-2026 10:00:00 +0100"'
    lines: list[Any] = [
        (b"1 (UID 1 RFC822.SIZE 10 " + dated + b" " + fields + b" {12}", b"Subject: a\r\n"), b")",
        b"9 (FLAGS (\\Seen))",
        b"2 (UID 2 RFC822.SIZE 20 " + dated + b" " + fields + b' "")',
        (b"3 (" + fields + b" {2}", b"\r\n"), b' UID 3 RFC822.SIZE 30 INTERNALDATE "00-Jan-0000 00:00:00 +0000")',
        b"4 (UID 99 RFC822.SIZE 1 " + dated + b")",
    ]  # fmt: skip
    mailbox = Mailbox(server.settings(), PASSWORD)
    monkeypatch.setattr(mailbox, "_asked", lambda *_: lines)
    found = list(mailbox._described([1, 2, 3]))
    assert [(each.uid, each.size_bytes, each.subject) for each in found] == [(1, 10, "a"), (2, 20, ""), (3, 30, "")]
    assert [each.arrived_at is None for each in found] == [False, False, True]


def command(
    capsys: pytest.CaptureFixture[str], home: Path, *arguments: str, secret: str | None = PASSWORD
) -> tuple[int, str, str]:
    """Exit code and both outputs of `ranker`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RANKER_IMAP_SECRET", raising=False)
        if secret is not None:
            patch.setenv("RANKER_IMAP_SECRET", secret)
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home), *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_lists_takes_and_tells(
    server: Dovecot, user: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """--dry-run changes nothing; then each message is told once, for programs and for people; no secret is anywhere."""
    (tmp_path / "configs").mkdir()
    settings = server.settings(user=user).model_dump(mode="json")
    (tmp_path / "configs" / "service.yaml").write_text(yaml.safe_dump({"imap": settings}))
    server.deliver(with_zip("tones"), mail("a question", Message_ID="<q@lab.example>"), user=user)
    _, listed, _ = command(capsys, tmp_path, "inbox", "--dry-run", "--json")
    assert [each["subject"] for each in json.loads(listed)] == ["tones", "a question"]
    assert not (tmp_path / "ranker.db").exists()
    code, done, told = command(capsys, tmp_path, "inbox", "--no-check", "--json")
    first, second = json.loads(done)
    assert (first["error"], first["taken"][0]["state"], first["taken"][0]["is_new"]) == (None, "received", True)
    assert "neither a ZIP nor a link" in " ".join(second["taken"][0]["remarks"])
    assert code == 0, told
    code, again, _ = command(capsys, tmp_path, "inbox", "--no-check")
    assert (again.strip(), code) == ("nothing new in the mailbox", 0)
    code, _, without = command(capsys, tmp_path, "inbox", secret=None)
    assert (code, "there is no password" in without) == (2, True)
    code, _, wrong = command(capsys, tmp_path, "inbox", secret="hunter2 of mine")
    assert (code, wrong.count("\n"), "hunter2" in wrong) == (2, 1, False)
    assert PASSWORD not in listed + done + told + again


def test_watching_goes_on_through_an_outage_and_ends_without_a_traceback(
    server: Dovecot, user: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """`--watch` takes what comes later, tells of a server that is away and asks it again, prints one line of JSON for
    each look that found something, and ends at Ctrl-C with 130.
    """
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "service.yaml"
    settings = server.settings(user=user, poll_s=7).model_dump(mode="json")
    file.write_text(yaml.safe_dump({"imap": settings}))
    server.deliver(with_zip("early"), user=user)
    waited: list[float] = []
    connected = Mailbox._connected

    def wait(seconds: float) -> None:
        waited.append(seconds)
        match len(waited):
            case 1:  # the server is away ...
                monkeypatch.setattr(Mailbox, "_connected", lambda _: socket.create_connection(("127.0.0.1", 1)))
            case 2:  # ... and comes back with more
                monkeypatch.setattr(Mailbox, "_connected", connected)
                server.deliver(with_zip("later"), user=user)
            case 4:
                raise KeyboardInterrupt

    monkeypatch.setattr("ranker.cli.inbox.time.sleep", wait)
    code, said, told = command(capsys, tmp_path, "inbox", "--watch", "--no-check", "--json")
    assert [[each["subject"] for each in json.loads(line)] for line in said.splitlines()] == [["early"], ["later"]]
    assert waited == [7, 7, 7, 7]
    assert "does not answer, or hung up (Connection refused)" in told
    assert (code, "Traceback" in told) == (130, False)
    assert rows(Home(root=tmp_path)) == {"messages": 2, "submissions": 2, "deliveries": 2}
