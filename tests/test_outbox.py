"""Answers go out by a real SMTP server: over TLS, at most once each, and never without being asked."""

from __future__ import annotations

import email
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import policy
from pathlib import Path

import pytest
import yaml
from homes import new_home
from kills import is_killed_at
from mail_server import PASSWORD, TOKEN, USER, Postbox, free_port, smtp_server
from sqlalchemy import Engine, select
from test_replies import Desk

from ranker import credentials, outbox
from ranker.cli import main
from ranker.db.mail import Reply
from ranker.db.rules import Event
from ranker.db.session import open_database, session
from ranker.errors import InfraError, RankerError, UsageError
from ranker.home import Home
from ranker.types import Action, ReplyKind, ReplyState

NOW = datetime(2026, 2, 13, 8, 0, tzinfo=UTC)
DRAFT = b"""To: {to}\r\nMessage-ID: <{id}@example.org>\r\nFrom: The organizers <challenge@example.org>\r
Subject: Re: hello\r\nDate: Thu, 12 Feb 2026 12:00:00 +0000\r\nAuto-Submitted: auto-replied\r
Content-Type: text/plain; charset="utf-8"\r\n\r\n.a line that begins with a dot\r\n.\r\nthe end\r\n"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postbox]:
    with smtp_server() as box:
        yield box


@pytest.fixture
def box(server: Postbox) -> Postbox:
    server.taken.clear()
    server.logins.clear()
    server.steps.clear()
    server.obey = lambda _step, _envelope: None
    return server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = open_database(home)
    yield engine
    engine.dispose()


def drafted(engine: Engine, home: Home, *recipients: str, state: ReplyState = ReplyState.DRAFTED) -> list[int]:
    """Answers with their files, of these recipients."""
    home.outbox.mkdir(exist_ok=True)
    with session(engine) as writing:
        first = len(outbox.replies(writing))
        found = [
            Reply(
                key=f"{first + number:064x}", kind=ReplyKind.ACCEPTED, recipient=to, subject="Re: hello", state=state,
                drafted_at=NOW, sending_at=NOW if state is ReplyState.SENDING else None,
            )
            for number, to in enumerate(recipients)
        ]  # fmt: skip
        writing.add_all(found)
        writing.flush()
        for reply in found:
            text = DRAFT.decode().format(to=reply.recipient, id=reply.key)
            outbox.draft_path(home, reply).write_bytes(text.encode())
        return [reply.id for reply in found]


def send(engine: Engine, home: Home, box: Postbox, ids: list[int], **options: object) -> list[outbox.Outcome]:
    secret = options.pop("secret", PASSWORD)
    again = bool(options.pop("again", False))
    settings = box.settings(**options)
    return list(outbox.send(engine, home, settings, secret, ids, again=again, actor="me", now=lambda: NOW))  # type: ignore[arg-type]


def states(engine: Engine) -> list[str]:
    with session(engine, read_only=True) as reading:
        return [reply.state for reply in outbox.replies(reading)]


def test_an_answer_is_sent_over_tls_with_its_bytes_and_todays_date(engine: Engine, home: Home, box: Postbox):
    """What lies in the outbox arrives, lone dots and all, dated when it went; who sent what stands in the log."""
    (one,) = drafted(engine, home, "ada@lab.example")
    (outcome,) = send(engine, home, box, [one])
    assert (outcome.state, outcome.why) == (ReplyState.SENT, None)
    (envelope,) = box.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("challenge@example.org", ["ada@lab.example"])
    assert box.logins == [(USER, PASSWORD)]
    message = email.message_from_bytes(bytes(envelope.content or b""), policy=policy.default)
    assert message["Date"] == "Fri, 13 Feb 2026 08:00:00 +0000"
    assert message.get_content().splitlines() == [".a line that begins with a dot", ".", "the end"]
    with session(engine, read_only=True) as reading:
        event = reading.scalars(select(Event)).one()
        assert (event.action, event.actor, event.details["recipient"]) == (Action.SEND, "me", "ada@lab.example")


def test_nothing_is_sent_twice(engine: Engine, home: Home, box: Postbox):
    """Asked again, by the same command or another, a sent answer stays where it is, and no server is told of it."""
    (one,) = drafted(engine, home, "ada@lab.example")
    assert [each.state for each in send(engine, home, box, [one, one])] == [ReplyState.SENT, ReplyState.SENT]
    (outcome,) = send(engine, home, box, [one], again=True)
    assert outcome.why == "it is sent already"
    assert len(box.taken) == 1


@pytest.mark.parametrize(
    ("step", "answer", "state"),
    [
        ("MAIL", "550 5.1.8 who are you", ReplyState.FAILED),
        ("RCPT", "550 5.1.1 no such user", ReplyState.FAILED),
        ("RCPT", "450 4.2.0 greylisted", ReplyState.DRAFTED),
        ("RCPT", "hang up", ReplyState.DRAFTED),
        ("RCPT", "421 4.3.2 going down", ReplyState.DRAFTED),
        ("DATA", "554 5.7.1 spam", ReplyState.FAILED),
        ("DATA", "451 4.3.0 try later", ReplyState.DRAFTED),
        ("DATA", "hang up", ReplyState.SENDING),
    ],
)
def test_one_that_fails_keeps_none_of_the_others(
    engine: Engine, home: Home, box: Postbox, step: str, answer: str, state: ReplyState
):
    """Refused for good, refused for now, cut off: each is told with the server's words, and the rest is sent."""
    ids = drafted(engine, home, "ada@lab.example", "bad@lab.example", "cy@lab.example")

    def obey(at: str, envelope: object) -> str | None:
        whole = box.steps.count("DATA") - (at == "DATA") == 1  # the second message is under way
        return answer if at == step and whole and len(box.taken) == 1 and not told.append(at) else None

    told: list[str] = []
    box.obey = lambda at, envelope: obey(at, envelope) if not told else None
    first, second, third = send(engine, home, box, ids)
    assert told == [step]
    assert (first.state, second.state, third.state) == (ReplyState.SENT, state, ReplyState.SENT)
    words = answer if answer != "hang up" else "lost"
    assert words in (second.why or "")
    assert states(engine) == [first.state, second.state, third.state]


def test_what_may_have_been_sent_is_sent_again_only_if_someone_insists(engine: Engine, home: Home, box: Postbox):
    """A reply left SENDING is told as such by every send, and goes out once --again names it."""
    (one,) = drafted(engine, home, "ada@lab.example", state=ReplyState.SENDING)
    (outcome,) = send(engine, home, box, [one])
    assert (outcome.state, outcome.why, box.taken) == (ReplyState.SENDING, outbox.MAY_BE_SENT, [])
    (outcome,) = send(engine, home, box, [one], again=True)
    assert (outcome.state, len(box.taken)) == (ReplyState.SENT, 1)


def test_killed_while_sending_it_sends_nothing_twice(engine: Engine, home: Home, box: Postbox):
    """SIGKILL at each of the sender's touches of its files, and before and after the server took a message: every
    answer leaves at most once, and those that did not are drafted, or said to be in doubt.
    """
    engine.dispose()
    steps = 0
    for step in range(1, 60):
        root = home.root / str(step)
        own = new_home(root)
        opened = open_database(own)
        ids = drafted(opened, own, f"a{step}@lab.example", f"b{step}@lab.example")
        opened.dispose()

        def action(touch: Callable[[], None], own: Home = own, ids: list[int] = ids) -> None:
            engine = open_database(own)
            for outcome in outbox.send(engine, own, box.settings(), PASSWORD, ids, actor="me", now=lambda: NOW):
                assert outcome.state is ReplyState.SENT
                touch()

        killed = is_killed_at(step, root, action)
        steps += 1
        opened = open_database(own)
        before = {envelope.rcpt_tos[0] for envelope in box.taken}
        for reply in [*_all(opened)]:
            if reply.state == ReplyState.DRAFTED:
                assert reply.recipient not in before, "it was sent, and nobody knows"
            if reply.state == ReplyState.SENT:
                assert reply.recipient in before, "it was not sent, and nobody knows"
        send(opened, own, box, ids)
        opened.dispose()
        if not killed:
            break
    recipients = [envelope.rcpt_tos[0] for envelope in box.taken]
    assert len(recipients) == len(set(recipients))
    sent_in_all = len(recipients)
    assert steps >= 5
    assert sent_in_all >= steps


def _all(engine: Engine) -> list[Reply]:
    with session(engine, read_only=True) as reading:
        return outbox.replies(reading)


def test_killed_after_the_last_byte_it_is_in_doubt(engine: Engine, home: Home, box: Postbox):
    """The server has the message, and the sender dies before it is told so: SENDING, and never sent again by itself."""
    (one,) = drafted(engine, home, "ada@lab.example")
    engine.dispose()
    child = os.fork()
    if child == 0:
        try:
            carry = outbox.Line.carry

            def die(self: outbox.Line, recipient: str, content: bytes) -> outbox.Carried:
                carry(self, recipient, content)
                os.kill(os.getpid(), signal.SIGKILL)
                raise AssertionError

            outbox.Line.carry = die  # type: ignore[method-assign]
            send(open_database(home), home, box, [one])
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (states(engine), len(box.taken)) == ([ReplyState.SENDING], 1)
    (outcome,) = send(engine, home, box, [one])
    assert (outcome.why, len(box.taken)) == (outbox.MAY_BE_SENT, 1)


def test_a_wrong_password_is_one_sentence_and_touches_nothing(engine: Engine, home: Home, box: Postbox):
    """The server's no is told without the password, and the draft stays a draft."""
    (one,) = drafted(engine, home, "ada@lab.example")
    with pytest.raises(UsageError, match="refuses the login") as raised:
        send(engine, home, box, [one], secret="hunter2 of mine")
    assert "hunter2" not in str(raised.value)
    assert states(engine) == [ReplyState.DRAFTED]


def test_a_token_in_place_of_a_password(engine: Engine, home: Home, box: Postbox):
    """XOAUTH2 is what is said; this server knows it not, and its refusal holds no token."""
    (one,) = drafted(engine, home, "ada@lab.example")
    with pytest.raises(UsageError, match=r"refuses the login of .*504") as raised:
        send(engine, home, box, [one], login="oauth2", secret=TOKEN)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ca_file": None}, UsageError, "certificate .* is not trusted"),
        ({"host": "no-such-host.invalid"}, InfraError, "is not found"),
        ({"tls": "implicit"}, InfraError, "tls: implicit"),
        ({"host": None}, UsageError, "no server to send through"),
        ({"ca_file": "/nowhere/ca.pem"}, UsageError, "expected a PEM file"),
    ],
)
def test_where_no_connection_comes_about_one_sentence_says_why(
    engine: Engine, home: Home, box: Postbox, changes: dict[str, object], error: type[RankerError], words: str
):
    """Wrong name, wrong port, a certificate that nobody vouches for: no password leaves, and drafts stay drafts."""
    (one,) = drafted(engine, home, "ada@lab.example")
    with pytest.raises(error, match=words):
        send(engine, home, box, [one], **changes)
    assert (states(engine), box.logins) == ([ReplyState.DRAFTED], [])


def test_a_server_without_tls_gets_no_password(engine: Engine, home: Home, box: Postbox):
    """Where nobody listens, or STARTTLS is not offered, nothing is said in the clear."""
    (one,) = drafted(engine, home, "ada@lab.example")
    with pytest.raises(InfraError, match="does not answer"):
        send(engine, home, box, [one], port=free_port())
    with smtp_server(implicit=True) as other:
        (outcome,) = send(engine, home, other, [one], tls="implicit")
        assert (outcome.state, len(other.taken)) == (ReplyState.SENT, 1)


def test_an_address_that_is_not_ascii_needs_a_server_that_carries_it(engine: Engine, home: Home, box: Postbox):
    """SMTPUTF8 where it is offered; where not, a failure that says so, and no mangled address."""
    (one,) = drafted(engine, home, "jörg@größe.example")
    with smtp_server(utf8=False) as other:
        (outcome,) = send(engine, home, other, [one])
        assert (outcome.state, other.taken) == (ReplyState.FAILED, [])
        assert "SMTPUTF8" in (outcome.why or "")
    (outcome,) = send(engine, home, box, [one])
    assert outcome.state is ReplyState.SENT, outcome.why
    assert box.taken[0].rcpt_tos == ["jörg@größe.example"]
    assert {"SMTPUTF8", "BODY=8BITMIME"} <= set(box.taken[0].mail_options)


def test_a_draft_that_is_gone_or_dropped_is_not_sent(engine: Engine, home: Home, box: Postbox):
    """A missing file is no empty message; a dropped answer stays dropped; a sent one cannot be dropped."""
    gone, dropped, sent = drafted(engine, home, "a@x.example", "b@x.example", "c@x.example")
    with session(engine) as writing:
        outbox.draft_path(home, outbox.reply(writing, gone)).unlink()
        path = outbox.draft_path(home, outbox.drop(writing, home, dropped, actor="me"))
    assert not path.exists()
    first, second, third = send(engine, home, box, [gone, dropped, sent])
    assert "is gone" in (first.why or "")
    assert second.why == "it is dropped already"
    assert third.state is ReplyState.SENT
    with session(engine) as writing, pytest.raises(UsageError, match="was sent at 2026-02-13 08:00 UTC"):
        outbox.drop(writing, home, sent, actor="me")
    with session(engine) as writing, pytest.raises(UsageError, match="there is no answer 99"):
        outbox.reply(writing, 99)


def test_a_password_comes_from_the_environment_or_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file that others can read is refused, and so is none at all; no refusal holds what is in it."""
    monkeypatch.delenv("RANKER_SMTP_SECRET", raising=False)
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    file.chmod(0o640)
    with pytest.raises(UsageError, match=r"can be read by others \(mode 0640\)") as raised:
        credentials.secret("RANKER_SMTP_SECRET", file)
    assert "horse" not in str(raised.value)
    file.chmod(0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert credentials.secret("RANKER_SMTP_SECRET", file) == "correct horse"
    monkeypatch.setenv("RANKER_SMTP_SECRET", "from outside")
    assert credentials.secret("RANKER_SMTP_SECRET", file) == "from outside"
    monkeypatch.delenv("RANKER_SMTP_SECRET")
    with pytest.raises(UsageError, match="there is no password"):
        credentials.secret("RANKER_SMTP_SECRET", None)
    with pytest.raises(UsageError, match="cannot be read"):
        credentials.secret("RANKER_SMTP_SECRET", tmp_path / "nowhere")
    file.write_text("two\nlines\n")
    with pytest.raises(UsageError, match="expected one line"):
        credentials.secret("RANKER_SMTP_SECRET", file)


def test_the_command_sends_what_is_drafted_and_says_what_is_in_doubt(
    home: Home, box: Postbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """`ranker outbox send --all`: drafts what is due, sends it, exits 1 if one did not go, and holds back what may have
    been sent until --again names it.
    """
    (home.root / "configs").mkdir()
    smtp = box.settings().model_dump(mode="json", by_alias=True)
    (home.root / "configs" / "service.yaml").write_text(yaml.safe_dump({"smtp": smtp}))
    desk = Desk(home.root)
    first, second = desk.mail("one"), desk.mail("two", sender="bob@lab.example")
    assert first != second
    desk.draft()
    with session(desk.engine) as writing:
        doubtful = outbox.replies(writing)[0]
        doubtful.state, doubtful.sending_at = ReplyState.SENDING, NOW
        recipient = doubtful.recipient
    desk.engine.dispose()
    monkeypatch.setenv("RANKER_SMTP_SECRET", PASSWORD)

    def ranker(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(home.root), "outbox", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, said, told = ranker("send", "--all")
    assert (code, said.count(": sent"), f"to {recipient} may have been sent" in told) == (0, 1, True)
    assert len(box.taken) == 1
    code, said, _ = ranker("send", "--all")
    assert (code, said.strip(), len(box.taken)) == (0, "no answer is drafted", 1)
    assert "may have been sent" in ranker()[1]
    code, said, _ = ranker("send", "--again", str(doubtful.id), "--json")
    assert (code, [each["state"] for each in json.loads(said)], len(box.taken)) == (0, ["sent"], 2)
    desk.mail("three", sender="cy@lab.example")
    desk.engine.dispose()
    box.obey = lambda step, _: "550 5.1.1 no such user" if step == "RCPT" else None
    code, _, told = ranker("send", "--all")
    assert (code, "550 5.1.1 no such user" in told, PASSWORD in told) == (1, True, False)
    assert "failed" in ranker()[1]
