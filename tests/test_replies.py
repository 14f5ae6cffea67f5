"""Answers to senders: each once, to a person, of what is so, and of nothing that is not theirs to know."""

from __future__ import annotations

import email
import hashlib
import json
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import effort
import pytest
from homes import new_home
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from test_lineup import benchmark, condition

from ranker import outbox, queue, replies
from ranker.cli import main
from ranker.config import Benchmark
from ranker.db.mail import Delivery, Link, Message
from ranker.db.models import Submission
from ranker.db.rules import Team, TeamAddress, Verdict
from ranker.db.session import open_database, session
from ranker.errors import ConfigError
from ranker.home import Home
from ranker.queue import NewScore
from ranker.replies.answer import Answer, plain
from ranker.replies.letter import letter, rendered, sender_of
from ranker.replies.manners import why_silent
from ranker.settings import Service, Smtp
from ranker.types import (
    Channel,
    Fault,
    Group,
    JobKind,
    LinkState,
    Part,
    ReplyKind,
    ReplyState,
    Rule,
    Ruling,
    Trained,
)  # fmt: skip

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
SMTP = Smtp.model_validate({"from": "The organizers <challenge@example.org>"})
CHECKED = {"encoder": {"attribute": "ToneEncoder", "module": "tone.py", "output_dim": 24, "frames_per_s": 12.5}}


class Desk:
    """A home with mail in it, as intake, queue and rules leave it; every move goes through them where they have one."""

    def __init__(self, root: Path) -> None:
        self.home = new_home(root)
        self.engine: Engine = open_database(self.home)
        self.benchmark: Benchmark = benchmark()
        self.at = NOW

    def tick(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    def mail(self, subject: str = "Our submission", sender: str = "ada@lab.example", **headers: str) -> str:
        """A message that was kept and dealt with; its id."""
        # The library would fold a long Message-ID, and spoil it.
        message = EmailMessage(policy=policy.default.clone(max_line_length=900))
        message["From"], message["Subject"] = sender, plain(subject)
        message["Message-ID"] = f"<{self.tick():%H%M%S}@lab.example>"
        for name, value in headers.items():
            message[name.replace("_", "-")] = value
        message.set_content("Hello.")
        content = message.as_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.home.mail.mkdir(exist_ok=True)
        (self.home.mail / f"{digest}.eml").write_bytes(content)
        with session(self.engine) as writing:
            writing.add(
                Message(
                    id=digest[:12], digest=digest, message_id=message["Message-ID"], channel=Channel.IMAP,
                    sender=sender, subject=subject, arrived_at=self.at, arrived_by="INTERNALDATE", is_automatic=False,
                    notes=[], kept_at=self.at, handled_at=self.at,
                )
            )  # fmt: skip
        return digest[:12]

    def note(self, message: str, *notes: str, **changes: Any) -> None:
        with session(self.engine) as writing:
            row = writing.get_one(Message, message)
            row.notes = list(notes)
            for name, value in changes.items():
                setattr(row, name, value)

    def link(self, message: str, state: LinkState = LinkState.PENDING, why: str | None = None) -> None:
        with session(self.engine) as writing:
            url = f"https://files.example/{state}.zip"
            writing.add(Link(message_id=message, url=url, state=state, found_at=self.at, why=why))

    def submit(self, message: str, team: str = "Tones", key: str = "a") -> str:
        """A ZIP of that message; the submission's id."""
        with session(self.engine) as writing:
            if writing.get(Submission, key * 12) is None:
                writing.add(
                    Submission(
                        id=key * 12, digest=key * 64, team=team, file_name="tones.zip", size_bytes=1234,
                        received_at=self.at,
                    )
                )  # fmt: skip
            sender = writing.get_one(Message, message).sender
            writing.add(
                Delivery(
                    submission_id=key * 12, message_id=message, channel=Channel.IMAP, source=f"message {message}",
                    sender=sender, arrived_at=self.at, arrived_by="INTERNALDATE",
                )
            )  # fmt: skip
        self.enqueue(key * 12, None)
        return key * 12

    def register(self, team: str, *addresses: str) -> None:
        with session(self.engine) as writing:
            writing.add(
                Team(name=team, affiliation="", addresses=[TeamAddress(address=each) for each in addresses],
                     imported_at=self.at)
            )  # fmt: skip

    def enqueue(self, submission: str, part: Part | None, *, again: bool = False) -> int:
        under = None if part is None else condition(self.benchmark, part)
        kind = JobKind.CHECK if under is None else JobKind.EVALUATE
        with session(self.engine) as writing:
            return queue.enqueue(
                writing, submission_id=submission, kind=kind, condition=under, seed=42, now=self.at, again=again
            ).id

    def claim(self, job: int) -> queue.Claim:
        claim = queue.claim(self.engine, worker="w:1:a", now=self.at, lease_s=60, job_ids=[job])
        assert claim is not None
        return claim

    def accept(self, submission: str) -> None:
        queue.finish(self.engine, self.claim(self.enqueue(submission, None)), now=self.at, result=CHECKED, scores=())

    def refuse(self, submission: str, *reasons: str) -> None:
        self.fail(self.enqueue(submission, None), *reasons)

    def fail(self, job: int, *reasons: str) -> None:
        queue.fail(
            self.engine, self.claim(job), now=self.at, fault=Fault.PARTICIPANT, reasons=reasons, max_infra_attempts=1,
            retry_delay_s=1.0,
        )  # fmt: skip

    def score(self, submission: str, part: Part, **values: float) -> None:
        scores = tuple(
            NewScore(task=task, metric="Accuracy", value=value, items=40, predictions="p.parquet", blind=0.125)
            for task, value in values.items()
        )
        job = self.enqueue(submission, part)
        queue.finish(self.engine, self.claim(job), now=self.at, result={"run": "runs/x"}, scores=scores)

    def rule(self, submission: str, rule: Rule, ruling: Ruling, why: str) -> None:
        with session(self.engine) as writing:
            for each in writing.query(Verdict).filter_by(submission_id=submission, rule=rule):
                writing.delete(each)
            writing.flush()
            writing.add(
                Verdict(
                    submission_id=submission, rule=rule, ruling=ruling, why=why, evidence={}, decided_at=self.at,
                    decided_by="ranker",
                )
            )  # fmt: skip

    def draft(self, smtp: Smtp = SMTP) -> replies.Drafted:
        with session(self.engine, read_only=True) as reading:
            wanted = replies.wanted(reading, self.benchmark, organizers="The organizers")
        return replies.draft(self.engine, self.home, Service(smtp=smtp), wanted, self.tick())

    def sent(self) -> None:
        """All drafts go out."""
        with session(self.engine) as writing:
            for reply in outbox.replies(writing, [ReplyState.DRAFTED]):
                reply.state, reply.sent_at = ReplyState.SENT, self.tick()

    def said(self) -> list[tuple[str, str]]:
        with session(self.engine, read_only=True) as reading:
            return [(reply.kind, reply.state) for reply in outbox.replies(reading)]

    def text(self) -> str:
        """The words of the only draft."""
        with session(self.engine, read_only=True) as reading:
            (reply,) = outbox.replies(reading, [ReplyState.DRAFTED])
        found = email.message_from_bytes(outbox.draft_path(self.home, reply).read_bytes(), policy=policy.default)
        assert isinstance(found, EmailMessage)
        return " ".join(found.get_content().split())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.engine.dispose()


def test_a_submission_is_answered_as_it_goes_on(desk: Desk):
    """Received, accepted, result: each is drafted when it is so, and an older one that was not sent is dropped."""
    submission = desk.submit(desk.mail())
    assert [each.kind for each in desk.draft().new] == [ReplyKind.RECEIVED]
    assert "is being checked" in desk.text()
    desk.accept(submission)
    changed = desk.draft()
    assert ([each.kind for each in changed.new], [each.kind for each in changed.dropped]) == (
        ["accepted"],
        ["received"],
    )
    assert "ToneEncoder (24 numbers, 12.5 times a second) It takes part in the ranking." in desk.text()
    desk.score(submission, Part.PUBLIC, keyword=0.5, pitch=0.75)
    desk.draft()
    assert "pitch 0.750 Accuracy, 0.125 without listening, 40 items Mean 0.625 of the public tasks" in desk.text()
    assert desk.said() == [("received", "dropped"), ("accepted", "dropped"), ("result", "drafted")]
    assert len(list(desk.home.outbox.iterdir())) == 1


def test_drafting_again_changes_nothing(desk: Desk):
    """The same facts are the same draft, byte for byte, however often it is asked for, before and after sending."""
    desk.accept(desk.submit(desk.mail()))
    (reply,) = desk.draft().new
    content = outbox.draft_path(desk.home, reply).read_bytes()
    assert desk.draft() == replies.Drafted()
    assert outbox.draft_path(desk.home, reply).read_bytes() == content
    desk.sent()
    assert desk.draft() == replies.Drafted()
    assert desk.said() == [("accepted", "sent")]


def test_a_draft_whose_file_is_gone_is_written_again(desk: Desk):
    """A row without its file, as a kill or a hand may leave it, would be an answer that nobody can send."""
    desk.mail()
    (reply,) = desk.draft().new
    outbox.draft_path(desk.home, reply).unlink()
    desk.draft()
    assert outbox.draft_path(desk.home, reply).is_file()
    assert desk.said() == [("received", "drafted")]


def test_a_refusal_tells_every_reason_and_how_to_mend_it(desk: Desk):
    """Nothing is left for a second round of the same exchange."""
    reasons = ["weights.bin is a link; pack the file itself", "the output has 3 axes; expected (batch, frames, size)"]
    desk.refuse(desk.submit(desk.mail()), *reasons)
    desk.draft()
    text = desk.text()
    assert all(reason in text for reason in reasons)
    assert "There are 2 reasons" in text
    assert "pack a new ZIP, and send it attached to an answer to this message" in text


def test_what_turns_and_turns_back_is_news(desk: Desk):
    """Sent as pending, then ranked, then pending again: three answers; what turns before it is sent is one."""
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    missing = "no technical report came with it; send it as a PDF"
    for ruling in (Ruling.PENDING, Ruling.MET, Ruling.PENDING):
        desk.rule(submission, Rule.REPORT, ruling, missing)
        (reply,) = desk.draft().new
        assert (missing in desk.text()) == (ruling is Ruling.PENDING)
        desk.sent()
    assert desk.said() == [("accepted", "sent")] * 3
    desk.rule(submission, Rule.REPORT, Ruling.MET, missing)
    desk.draft()
    desk.rule(submission, Rule.REPORT, Ruling.PENDING, missing)
    desk.draft()
    assert desk.said() == [("accepted", "sent")] * 3 + [("accepted", "dropped")]
    desk.rule(submission, Rule.REPORT, Ruling.MET, missing)
    assert [each.id for each in desk.draft().new] == [reply.id + 1]
    assert desk.said()[3:] == [("accepted", "drafted")]


def test_what_an_organizer_dropped_stays_dropped(desk: Desk):
    """Only news brings another draft."""
    submission = desk.submit(desk.mail())
    (reply,) = desk.draft().new
    with session(desk.engine) as writing:
        outbox.drop(writing, desk.home, reply.id, actor="me")
    assert desk.draft().new == []
    desk.accept(submission)
    assert [each.kind for each in desk.draft().new] == [ReplyKind.ACCEPTED]


def test_the_same_file_again_is_answered_below_the_newest_message(desk: Desk):
    """One person who sends twice hears once for each message, and of results once; so does another one of the team."""
    desk.register("Tones", "ada@lab.example", "bob@lab.example")
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    desk.draft()
    desk.sent()
    desk.submit(desk.mail("again"))
    desk.submit(desk.mail("mine, too", sender="bob@lab.example"))
    assert sorted(each.subject for each in desk.draft().new) == ["Re: again", "Re: mine, too"]
    desk.sent()
    desk.score(submission, Part.PUBLIC, keyword=0.5, pitch=0.75)
    found = desk.draft().new
    assert sorted((each.kind, each.recipient) for each in found) == [
        ("result", "ada@lab.example"),
        ("result", "bob@lab.example"),
    ]


@pytest.mark.parametrize("registered", [True, False])
def test_who_sends_bytes_of_others_hears_nothing_of_them(desk: Desk, *, registered: bool):
    """Attacks with a public ZIP that another team has sent: no name of it, of its file, no state, no result."""
    if registered:
        desk.register("Tones", "ada@lab.example")
        desk.register("Copy", "eve@other.example")
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    desk.score(submission, Part.PUBLIC, keyword=0.5)
    desk.draft()
    desk.sent()
    desk.submit(desk.mail("mine", sender="eve@other.example"))
    (found,) = desk.draft().new
    assert (found.kind, found.recipient, found.submission_id) == ("received", "eve@other.example", None)
    assert "same bytes as a submission that came from somebody else" in desk.text()
    assert not [
        word for word in ("Tones", "tones", "ToneEncoder", submission, "accepted", "0.5") if word in desk.text()
    ]


def test_what_came_by_hand_and_then_by_mail_is_answered_unless_it_is_another_teams(desk: Desk):
    """A file that an organizer saved from a message is its sender's; one given as a registered team's is theirs."""
    desk.submit(desk.mail())
    with session(desk.engine) as writing:
        (row,) = writing.query(Delivery)
        writing.add(
            Delivery(submission_id=row.submission_id, channel=Channel.FILE, source="file x", sender=None,
                     arrived_at=NOW - timedelta(days=1), arrived_by="our clock")
        )  # fmt: skip
    assert [each.submission_id for each in desk.draft().new] == ["a" * 12]
    desk.register("Tones", "bob@lab.example")
    assert [each.submission_id for each in desk.draft().new] == [None]


def test_a_message_without_a_zip_is_told_what_to_do(desk: Desk):
    """Outlook's packing, a link, nothing at all: what was found is said, and how to send it."""
    tnef = "winmail.dat is Outlook's own packing of a message (TNEF), which hides what was attached"
    message = desk.mail()
    desk.note(message, tnef)
    desk.draft()
    assert tnef in desk.text()
    assert "send the ZIP attached to an answer" in desk.text()
    desk.link(message)
    desk.draft()
    assert "https://files.example/pending.zip The organizers look at it before it is fetched" in desk.text()
    desk.link(message, LinkState.DECLINED, "it asks for an account")
    desk.draft()
    assert "declined.zip It was not fetched: it asks for an account." in desk.text()


def test_a_message_still_being_dealt_with_is_not_answered(desk: Desk):
    """Killed in the middle, intake has not said yet what the message holds; nor is what no person wrote answered."""
    desk.note(desk.mail(), handled_at=None)
    desk.note(desk.mail(), is_automatic=True)
    assert desk.draft() == replies.Drafted()


def test_standing_and_what_is_unsettled_are_told_without_other_peoples_names(desk: Desk):
    """Late, pending, superseded: the rule's own words; but whose address or team another one is, is not told."""
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    desk.rule(submission, Rule.REGISTRATION, Ruling.PENDING, "no registered team writes from eve@other.example")
    desk.rule(submission, Rule.MEMBERSHIP, Ruling.PENDING, "Eve is also in Secret Team")
    desk.draft()
    text = desk.text()
    assert "belongs to no registered team" in text
    assert "eve@other.example" not in text
    assert "Secret Team" not in text
    desk.rule(submission, Rule.DEADLINE, Ruling.BROKEN, "it arrived 3 min after the deadline; it is kept")
    desk.draft()
    text = desk.text()
    assert "since it came after the deadline: - it arrived 3 min after the deadline; it is kept" in text
    assert "belongs to no registered team" not in text  # to register would not help


@pytest.mark.parametrize("trained", [Trained.SEPARATELY, Trained.WITH_PUBLIC, Trained.NONE])
def test_no_answer_tells_of_a_hidden_task(desk: Desk, trained: Trained):
    """However hidden tasks are trained for, and whether they failed or not: neither name, score, reason nor number."""
    desk.benchmark = benchmark(trained=trained)
    assert {task.group for task in desk.benchmark.track("A").tasks} == {Group.PUBLIC, Group.HIDDEN}
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    asked = {part.name: [task.name for task in part.tasks] for part in desk.benchmark.parts("A")}
    assert len(asked) >= 2
    for part, names in asked.items():
        values = {"keyword": 0.5, "pitch": 0.75, "secret": 0.875123, "unheard": 0.375321}
        desk.score(submission, part, **{name: values[name] for name in names})
    desk.draft()
    files = b"".join(path.read_bytes() for path in desk.home.outbox.iterdir()).decode()
    assert "0.625" in files
    assert not [word for word in ("secret", "unheard", "hidden", "0.875", "0.375") if word in files.lower()]


def test_why_a_run_failed_is_told_unless_it_may_name_a_hidden_task(desk: Desk):
    """A reason of a public run is told in full; one of a run with hidden tasks in it, or of another recipe, is not."""
    submission = desk.submit(desk.mail())
    desk.accept(submission)
    desk.fail(desk.enqueue(submission, Part.PUBLIC), "clip keyword/17 gave NaN")
    desk.fail(desk.enqueue(submission, Part.HIDDEN), "clip secret/3 gave NaN")
    desk.draft()
    assert "clip keyword/17 gave NaN" in desk.text()
    assert "secret" not in desk.text()
    desk.benchmark = benchmark(trained=Trained.WITH_PUBLIC)
    desk.draft()
    assert "keyword/17" not in desk.text()
    assert "its run in track A failed by its own fault" in desk.text()


PERSON = {"From": "Ada <ada@lab.example>", "Return-Path": "<ada@lab.example>", "Auto-Submitted": "no"}


@pytest.mark.parametrize(
    ("recipient", "headers"),
    [
        ("challenge@example.org", {}),
        ("Challenge@Example.ORG", {}),
        ("MAILER-DAEMON@x.example", {}),
        ("no-reply@x.example", {}),
        ("noreply+17@x.example", {}),
        ("list-bounces@x.example", {}),
        ("", {}),
        ("nobody", {}),
        ("a@b.example\r\nBcc: c@d.example", {}),
        ("a@b.example, c@d.example", {}),
        ("a\u202e@b.example", {}),
        ("ada@lab.example", {"Auto-Submitted": "auto-replied (vacation)"}),
        ("ada@lab.example", {"Auto-Submitted": "auto-generated; owner=x"}),
        ("ada@lab.example", {"Return-Path": "<>"}),
        ("ada@lab.example", {"Precedence": "bulk"}),
        ("ada@lab.example", {"List-Id": "Friends <friends.example.org>"}),
        ("ada@lab.example", {"List-Unsubscribe": "<mailto:x@y.example>"}),
        ("ada@lab.example", {"X-Auto-Response-Suppress": "DR, All"}),
        ("ada@lab.example", {"X-Loop": "challenge"}),
        ("ada@lab.example", {"Content-Type": "multipart/report; report-type=delivery-status"}),
    ],
)
def test_whom_never_to_answer(recipient: str, headers: dict[str, str]):
    """Ourselves, programs, bounces, lists, and what is no single address: each alone is enough (RFC 3834)."""

    def made(fields: dict[str, str]) -> bytes:
        return "".join(f"{name}: {value}\n" for name, value in fields.items()).encode() + b"\n"

    parser = BytesHeaderParser()
    own = {"challenge@example.org"}
    person = parser.parsebytes(made(PERSON))
    assert why_silent("ada@lab.example", person, own=own, own_lists=()) is None
    assert why_silent(recipient, parser.parsebytes(made(PERSON | headers)), own=own, own_lists=()) is not None
    if "List-Id" in headers:  # a list that is our own address
        ours = parser.parsebytes(made(PERSON | headers | {"Precedence": "list"}))
        assert why_silent(recipient, ours, own=own, own_lists=("Friends.example.org",)) is None


def test_a_message_that_gets_no_answer_is_told_to_the_organizer(desk: Desk):
    """Silence towards a list must not look as if nothing had come."""
    message = desk.mail(Auto_Submitted="auto-generated")
    found = desk.draft()
    assert found.new == []
    assert found.silent == {message: "a program wrote it (Auto-Submitted: auto-generated)"}


NASTY = st.text(
    alphabet=st.one_of(
        st.characters(), st.sampled_from(["\r", "\n", "\0", "\u2028", "\u202e", "\udc80", "<", ">", ":", "="])
    ),
    max_size=300,
)


@settings(
    max_examples=effort.count("strangers' texts in an answer", short=60, long=3000), deadline=None, derandomize=True
)
@given(team=NASTY, subject=NASTY, note=NASTY, references=NASTY, file=st.text(alphabet=string.printable, max_size=80))
def test_no_text_of_a_stranger_becomes_a_header(team: str, subject: str, note: str, references: str, file: str):
    """Whatever a team, subject, file or header holds: the headers are ours alone, one each, and the text stays text."""
    from ranker.replies.answer import About

    about = About(id="a", sha256="b", team=team, file=file, bytes=1, encoder="", features=None, frames_per_s=None)
    answer = Answer(
        kind=ReplyKind.REFUSED, challenge="C", organizers="O", subject=subject, arrived="now", submission=about,
        notes=(note,), links=(), reasons=(note, team), standing="", unsettled=(), tracks=(),
    ).cleaned()  # fmt: skip
    headers = EmailMessage(policy=policy.compat32)  # type: ignore[arg-type]
    headers.add_header("Message-ID", "<id@lab.example>")
    headers.add_header("References", references)
    shown, content = letter(
        Home(root=Path("/nowhere")), answer, sender=SMTP.sender, recipient="ada@lab.example", key="k" * 64,
        headers=headers, now=NOW,
    )  # fmt: skip
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) < 998
    found = email.message_from_bytes(content, policy=policy.default)
    assert sorted(found.keys()) == sorted(
        ["To", "Message-ID", "In-Reply-To", "References", "From", "Subject", "Date", "Auto-Submitted",
         "X-Auto-Response-Suppress", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    )  # fmt: skip
    assert (found["To"], found["From"]) == ("ada@lab.example", SMTP.sender)
    assert found["References"].split()[-1] == "<id@lab.example>"
    assert not found.defects
    assert "\n" not in shown
    assert isinstance(found, EmailMessage)
    assert plain(note) in plain(found.get_content())


def test_an_answer_is_threaded_and_marked(desk: Desk):
    """Mail programs put it below the question, and other programs know not to answer it."""
    long = f"<{'x' * 90}@mail.example>"
    desk.mail("Re: AW: größe", References=f"<a@b.example> {long}", In_Reply_To=long)
    (reply,) = desk.draft().new
    found = email.message_from_bytes(outbox.draft_path(desk.home, reply).read_bytes(), policy=policy.default)
    assert found["In-Reply-To"] == "<120001@lab.example>"
    assert found["References"].split() == ["<a@b.example>", long, "<120001@lab.example>"]
    assert (found["Subject"], found["Auto-Submitted"]) == ("Re: größe", "auto-replied")
    assert found["Message-ID"] == f"<{reply.key[:40]}@example.org>"
    assert found.get_content_charset() == "utf-8"


def test_a_homes_own_templates_are_taken_and_their_mistakes_named(desk: Desk):
    """A variable that does not exist, or a broken template, is an error before anything is sent; not an empty place."""
    own = desk.home.root / "configs" / "mail"
    own.mkdir(parents=True)
    (own / "received.txt").write_text("Hi {{ organizers }}, {{ notes | length }} of {{ arrived }}\n")
    desk.mail()
    desk.draft()
    assert desk.text() == "Hi The organizers, 0 of 2026-02-12 12:00:01 UTC"
    desk.mail("another")
    for broken, words in {
        "{{ score }}": "'score' is undefined",
        "{% if %}": "line 1",
        "{{ submission.id }}": "None",
        "{{ 1 / 0 }}": "division by zero",
    }.items():
        (own / "received.txt").write_text(broken)
        with pytest.raises(ConfigError, match=r"received\.txt") as raised:
            desk.draft()
        assert words in str(raised.value)
    (own / "received.txt").unlink()
    desk.draft()
    assert desk.said() == [("received", "drafted")] * 2


def test_every_variable_is_documented_and_every_template_can_do_with_little(tmp_path: Path):
    """The guide lists what a template may use; each shipped template renders the barest answer of its kind."""
    from dataclasses import fields

    from ranker.replies.answer import About

    guide = (Path(__file__).parent.parent / "docs" / "operator.md").read_text()
    names = [field.name for field in fields(Answer)]
    assert len(names) == 12
    assert [name for name in names if f"`{name}`" not in guide] == []
    about = About(id="a", sha256="b", team="T", file="f", bytes=1, encoder="", features=None, frames_per_s=None)
    for kind in ReplyKind:
        bare = Answer(
            kind=kind, challenge="C", organizers="O", subject="", arrived="now",
            submission=None if kind is ReplyKind.RECEIVED else about, notes=(), links=(), reasons=(), standing="",
            unsettled=(), tracks=(),
        )  # fmt: skip
        assert rendered(Home(root=tmp_path), bare).endswith("O\nC\n")


@pytest.mark.parametrize("sender", ["nobody", "a@b@c", "", "x <>", "a b@c.example", "jörg@x.example"])
def test_a_sender_that_is_none_is_told(sender: str):
    """Before anything is drafted from it."""
    with pytest.raises(ConfigError, match="expected `Name <address@host>`"):
        sender_of(sender)


def test_the_command_drafts_lists_shows_and_drops(desk: Desk, capsys: pytest.CaptureFixture[str]):
    """`ranker outbox` is all that is needed: no other command drafts, and nothing is sent by it."""
    (desk.home.root / "configs").mkdir()
    (desk.home.root / "configs" / "service.yaml").write_text('smtp: {from: "The organizers <challenge@example.org>"}')
    desk.accept(desk.submit(desk.mail(), team="Tönes [red]"))
    desk.engine.dispose()

    def ranker(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(desk.home.root), *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, listed, _ = ranker("outbox", "--json")
    (answer,) = json.loads(listed)["answers"]
    assert (code, answer["kind"], answer["state"]) == (0, "accepted", "drafted")
    code, shown, _ = ranker("outbox", "show", str(answer["id"]))
    assert (code, "Tönes [red] is accepted" in shown) == (0, True)
    code, _, told = ranker("outbox", "send", "--all")
    assert (code, "give host in smtp" in told) == (2, True)
    code, dropped, _ = ranker("outbox", "drop", str(answer["id"]))
    assert (code, "dropped" in dropped) == (0, True)
    assert ranker("outbox")[1].strip() == "no answer waits to be sent"
    assert ranker("outbox", "show", "99")[0] == 2
    assert ranker("outbox", "send")[0] == 2


def test_a_file_without_its_row_is_written_over(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """Stopped between both, the next call drafts it; never is there a row whose words are missing."""
    desk.mail()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ranker.replies.drafting._recorded", stop)
    with pytest.raises(KeyboardInterrupt):
        desk.draft()
    assert desk.said() == []
    assert len(list(desk.home.outbox.iterdir())) == 1
    monkeypatch.undo()
    (reply,) = desk.draft().new
    assert [path.stem for path in desk.home.outbox.iterdir()] == [reply.key]


def test_two_who_draft_at_once_draft_one(desk: Desk):
    """Each of two commands sees that an answer is missing; there is one, and its file is whole."""
    for number in range(4):
        desk.mail(f"subject {number}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: desk.draft(), range(4)))
    assert sum(len(each.new) for each in found) == 4
    assert desk.said() == [("received", "drafted")] * 4
    assert len(list(desk.home.outbox.iterdir())) == 4
