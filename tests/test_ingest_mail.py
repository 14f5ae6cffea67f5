"""`ranker ingest`, `check` and `links`, as typed: what is mixed, what is odd, and which exit code that gives."""

from __future__ import annotations

import email.message
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from homes import new_home
from link_server import LinkServer, link_server, plain, redirect, refusal
from sqlalchemy import Engine, select

from ranker import queue
from ranker.cli import main
from ranker.data.fetch import Transfer
from ranker.db.mail import Delivery, Link, Message
from ranker.db.models import Job, Submission
from ranker.db.place import database_url
from ranker.db.rules import Event, Team, TeamAddress, Verdict
from ranker.db.session import connect, session
from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.home import Home
from ranker.intake.receive import MAX_TEAM_LENGTH
from ranker.rules import judge_all, standing
from ranker.service import Ranker
from ranker.types import Action, Channel, Fault, LinkState, Rule, Ruling, Standing, Status

REFUSED, USAGE, OURS = ParticipantError.exit_code, UsageError.exit_code, InfraError.exit_code
SENT = "Thu, 12 Feb 2026 23:00:00 +0000"
Run = Callable[..., str]


def packed(words: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("encoder.py"), words)  # of no time: the same bytes whenever it is made
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def letter(
    number: int, sender: str, files: dict[str, bytes], text: str = "here it is", *, received: str | None = None
) -> bytes:
    message = email.message.EmailMessage()
    if received is not None:
        message["Received"] = f"from x.example by mx.challenge.example; {received}"
    message["From"], message["To"], message["Date"] = sender, "challenge@y.example", SENT
    message["Message-ID"], message["Subject"] = f"<{number}@x.example>", f"submission {number}"
    message.set_content(text + "\n")
    for name, data in files.items():
        kind = "pdf" if name.endswith(".pdf") else "zip"
        message.add_attachment(data, maintype="application", subtype=kind, filename=name)
    return bytes(message)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = new_home(tmp_path / "home")
    (made.root / "configs").mkdir()
    (made.root / "configs" / "service.yaml").write_text(
        "links: {allow_http: true}\nprivate_hosts: [127.0.0.1]\nmail: {own_servers: [mx.challenge.example]}\n"
    )
    return made


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = connect(database_url(home))
    yield engine
    engine.dispose()


@pytest.fixture
def server() -> Iterator[LinkServer]:
    with link_server() as running:
        yield running


@pytest.fixture
def run(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command; what it printed, then what it said beside. Fails on another exit code, and on a traceback."""

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(home.root), *arguments])
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        assert "Traceback" not in said.err
        return said.out if "--json" in arguments else said.out + said.err

    return typed


def asked(run: Run, *arguments: str, code: int = 0) -> Any:
    return json.loads(run("ingest", "--no-check", "--json", *arguments, code=code))


def rows(engine: Engine, kind: type[Any]) -> list[Any]:
    with session(engine, read_only=True) as reading:
        return list(reading.scalars(select(kind)))


def register(engine: Engine, name: str, address: str) -> None:
    with session(engine) as writing:
        team = Team(name=name, affiliation="", imported_at=datetime(2026, 1, 1, tzinfo=UTC))
        team.addresses.append(TeamAddress(address=address))
        writing.add(team)


def test_one_bad_input_does_not_stop_the_rest(run: Run, engine: Engine, tmp_path: Path) -> None:
    """A file that is missing, one that is neither ZIP nor mail, an address that may not be asked, and one where nobody
    answers: one sentence each, in their order; what stands between and behind them is taken in. An address that can be
    tried again is remembered, one that may not be asked is not.
    """
    (tmp_path / "a.zip").write_bytes(packed("a"))
    (tmp_path / "notes.txt").write_text("nothing of use")
    (tmp_path / "b.eml").write_bytes(letter(1, "b@x.example", {"b.zip": packed("b")}))
    found = asked(
        run,
        str(tmp_path / "gone.zip"),
        str(tmp_path / "a.zip"),
        str(tmp_path / "notes.txt"),
        "http://10.0.0.1/x.zip",
        "http://127.0.0.1:1/x.zip",
        str(tmp_path / "b.eml"),
        code=OURS,
    )
    assert [(each["team"], each["code"]) for each in found] == [
        (None, USAGE), ("a", 0), (None, USAGE), (None, USAGE), (None, OURS), ("b", 0), (None, 0)
    ]  # fmt: skip
    assert ["no such file" in found[0]["error"], "neither a ZIP" in found[2]["error"]] == [True, True]
    assert ["no public address" in found[3]["error"], "cannot be reached" in found[4]["error"]] == [True, True]
    assert [link.url for link in rows(engine, Link)] == ["http://127.0.0.1:1/x.zip"]
    assert {row.team for row in rows(engine, Submission)} == {"a", "b"}


def test_a_table_tells_what_became_of_each(run: Run, home: Home, tmp_path: Path) -> None:
    """People see id, team and state of each, and rules that wait for somebody; that is no failure."""
    with (home.root / "configs" / "service.yaml").open("a") as file:
        file.write("rules: {report: true}\n")
    for name in ("one", "two"):
        (tmp_path / "box").mkdir(exist_ok=True)
        (tmp_path / "box" / f"{name}.zip").write_bytes(packed(name))
    said = run("ingest", "--no-check", str(tmp_path / "box"))
    for name in ("one", "two"):
        line = next(line for line in said.splitlines() if digest_of(packed(name))[:12] in line)
        assert line.split()[1:4] == [name, "received", "report"], said
    assert "report is pending: " in said
    assert "`ranker check --all` runs them" in said


def test_mail_is_recorded_with_how_it_came(run: Run, engine: Engine, tmp_path: Path) -> None:
    """The time of our own server counts, not the sender's clock; who sent it, and which message, stand with it."""
    file = tmp_path / "m.eml"
    files = {"team.zip": packed("x"), "team.pdf": b"%PDF-1.7 x"}
    file.write_bytes(letter(1, "Ada <ada@x.example>", files, received="Thu, 12 Feb 2026 23:30:00 +0000"))
    asked(run, str(file))
    (submission,), (delivery,), (message,) = (rows(engine, kind) for kind in (Submission, Delivery, Message))
    assert submission.received_at == delivery.arrived_at == datetime(2026, 2, 12, 23, 30, tzinfo=UTC)
    assert (delivery.channel, delivery.sender, delivery.message_id) == (Channel.MAIL, "ada@x.example", message.id)
    assert delivery.source == f"message {message.id}"
    assert submission.report_digest == digest_of(b"%PDF-1.7 x")
    (tmp_path / "team.zip").write_bytes(packed("x"))
    asked(run, str(tmp_path / "team.zip"))
    (submission,) = rows(engine, Submission)
    assert submission.received_at == datetime(2026, 2, 12, 23, 30, tzinfo=UTC)
    assert [each.channel for each in rows(engine, Delivery)] == [Channel.MAIL, Channel.FILE]
    ingested = [each for each in rows(engine, Event) if each.action == Action.INGEST]
    assert [each.details["source"] for each in ingested] == [f"message {message.id}", "file team.zip"]


def test_an_earlier_arrival_counts_whenever_it_is_taken_in(run: Run, engine: Engine, tmp_path: Path) -> None:
    """The file was handed in by hand first; the message that brought it days before comes after, and its time holds."""
    (tmp_path / "team.zip").write_bytes(packed("x"))
    asked(run, str(tmp_path / "team.zip"))
    (tmp_path / "m.eml").write_bytes(letter(1, "a@x.example", {"team.zip": packed("x")}, received=SENT))
    asked(run, str(tmp_path / "m.eml"))
    (submission,) = rows(engine, Submission)
    assert submission.received_at == datetime(2026, 2, 12, 23, 0, tzinfo=UTC)


def test_a_senders_address_says_the_team(run: Run, engine: Engine, tmp_path: Path) -> None:
    """Registered: the address before --team and before the file's name. Not registered: --team, then the name."""
    register(engine, "The Auditory", "a.da@gmail.com")
    cases = [
        ("Ada+challenge@googlemail.com", "a", "The Auditory"),
        ("bob@x.example", "b", "Given"),
        ("bob@x.example", "c", "c"),
    ]
    for number, (sender, words, team) in enumerate(cases):
        file = tmp_path / f"{number}.eml"
        file.write_bytes(letter(number, sender, {f"{words}.zip": packed(words)}))
        given = [] if words == "c" else ["--team", "Given"]
        assert asked(run, str(file), *given)[0]["team"] == team


def test_a_forged_sender_supersedes_nobody(run: Run, engine: Engine, home: Home, tmp_path: Path) -> None:
    """Attacks a rival's place: a ZIP in its name, that our own mail server calls forged, is nobody's until a person
    says so; the real one, from the same address, still stands alone for its team.
    """
    with (home.root / "configs" / "service.yaml").open("a") as file:
        file.write("rules: {registration: true, one_model_per_team: true}\n")
    register(engine, "Beta", "carl@corp.example")
    (tmp_path / "0.eml").write_bytes(letter(0, "carl@corp.example", {"beta.zip": packed("real")}, received=SENT))
    forged = letter(1, "Carl <carl@corp.example>", {"Beta.zip": packed("forged")}, received=SENT)
    warned = b"Authentication-Results: mx.challenge.example; spf=fail smtp.mailfrom=carl@corp.example; dmarc=fail\n"
    (tmp_path / "1.eml").write_bytes(warned + forged)
    asked(run, str(tmp_path / "0.eml"), str(tmp_path / "1.eml"))
    rulings = {
        (submission.digest, verdict.rule): verdict
        for submission in rows(engine, Submission)
        for verdict in rows(engine, Verdict)
        if verdict.submission_id == submission.id
    }
    real, false = (digest_of(packed(words)) for words in ("real", "forged"))
    assert rulings[real, Rule.REGISTRATION].ruling == Ruling.MET
    assert rulings[false, Rule.REGISTRATION].ruling == Ruling.PENDING
    assert "may be forged" in rulings[false, Rule.REGISTRATION].why
    with session(engine) as writing:
        for job in writing.scalars(select(Job)):
            job.status, job.worker = Status.RUNNING, "w"
            job.lease_expires_at = datetime(2026, 2, 13, tzinfo=UTC)
            writing.flush()
            job.status, job.worker, job.lease_expires_at = Status.SUCCEEDED, None, None
        writing.flush()
        judge_all(writing, home, datetime(2026, 2, 13, tzinfo=UTC))
        found = writing.scalars(select(Submission)).all()
        standings = {submission.digest: standing(submission.verdicts) for submission in found}
    assert standings == {real: Standing.RANKED, false: Standing.PENDING}


def test_the_same_bytes_from_two_teams_are_recorded_and_flagged(run: Run, engine: Engine, tmp_path: Path) -> None:
    """The second message is kept with its sender and changes nothing of the first; somebody is told; the exit code says
    that it is the teams' matter. A file that is said to be another team's is refused as wrong usage.
    """
    register(engine, "first", "one@x.example")
    register(engine, "second", "two@y.example")
    for number, (sender, pdf) in enumerate((("one@x.example", b"%PDF-1.7 1"), ("two@y.example", b"%PDF-1.7 2"))):
        file = tmp_path / f"{number}.eml"
        received = f"Thu, 12 Feb 2026 23:0{number}:00 +0000"
        file.write_bytes(letter(number, sender, {"s.zip": packed("x"), "s.pdf": pdf}, received=received))
    asked(run, str(tmp_path / "0.eml"))
    said = run("ingest", "--no-check", str(tmp_path / "1.eml"), code=REFUSED)
    assert "(team 'second') holds the same bytes as submission" in said
    assert "of team 'first', which came from one@x.example" in said
    (submission,) = rows(engine, Submission)
    assert (submission.team, submission.report_digest) == ("first", digest_of(b"%PDF-1.7 1"))
    assert [each.sender for each in rows(engine, Delivery)] == ["one@x.example", "two@y.example"]
    assert all(message.handled_at is not None for message in rows(engine, Message))
    (tmp_path / "s.zip").write_bytes(packed("x"))
    assert "of team 'first'" in run("ingest", str(tmp_path / "s.zip"), "--team", "second", code=USAGE)


def test_no_zip_is_turned_away_for_its_name(run: Run, engine: Engine, tmp_path: Path) -> None:
    """Attacks with names that can be no team's, by mail and as files: too long, blank, with what nobody sees."""
    names = ["n" * 180, " ", "a\u200bb", "\u202egpj", "\u961f" * 60]
    for number, name in enumerate(names):
        sent = letter(number, f"{number}@x.example", {f"{name}.zip": packed(f"mail {number}")})
        folder = tmp_path / "in" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "mail.eml").write_bytes(sent)
        (folder / f"{name}.zip").write_bytes(packed(f"file {number}"))
    asked(run, str(tmp_path / "in"))
    assert len(rows(engine, Submission)) == 2 * len(names)
    assert all(1 <= len(each.team) <= MAX_TEAM_LENGTH for each in rows(engine, Submission))


def test_a_registered_address_makes_it_its_teams_with_the_report(run: Run, engine: Engine, tmp_path: Path) -> None:
    """Who sent from an unknown address, is asked to send it again from a registered one, and adds the report, has sent
    both; the time of the first message counts, and somebody is told of the first sender.
    """
    register(engine, "first", "one@x.example")
    pdf = b"%PDF-1.7 1"
    for number, (sender, more) in enumerate((("me@home.example", {}), ("one@x.example", {"s.pdf": pdf}))):
        received = f"Thu, 12 Feb 2026 23:0{number}:00 +0000"
        content = letter(number, sender, {"s.zip": packed("x"), **more}, received=received)
        (tmp_path / f"{number}.eml").write_bytes(content)
    asked(run, str(tmp_path / "0.eml"))
    assert "me@home.example; it is that team's from now on" in run(
        "ingest", "--no-check", str(tmp_path / "1.eml"), code=REFUSED
    )
    (submission,) = rows(engine, Submission)
    assert (submission.team, submission.report_digest) == ("first", digest_of(pdf))
    assert f"{submission.received_at:%H:%M}" == "23:00"


def test_checks_can_be_left_and_taken_up(run: Run, engine: Engine, tmp_path: Path) -> None:
    """--no-check queues; `check` does what is queued, and again what failed by our fault; refusals give 3, once."""
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no archive")
    asked(run, str(tmp_path / "a.zip"))
    assert [job.status for job in rows(engine, Job)] == [Status.QUEUED]
    said = run("check", "--all", "--sandbox", "none", code=REFUSED)
    assert "not a complete ZIP" in said
    assert "no check is queued" in run("check", "--all", "--sandbox", "none")
    with session(engine) as writing:
        writing.execute(Job.__table__.update().values(fault=Fault.INFRA))
    assert "not a complete ZIP" in run("check", "a", "--sandbox", "none", code=REFUSED)


def test_how_far_it_is_is_told(home: Home, tmp_path: Path) -> None:
    """Bytes and files of all that lies in the paths: known before the first, never backwards, whole at the end."""
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a.zip").write_bytes(packed("a") + bytes(3_000_000))
    (tmp_path / "box" / "b.eml").write_bytes(letter(1, "b@x.example", {"b.zip": packed("b")}))
    told: list[Transfer] = []
    Ranker(home.root).ingest([str(tmp_path / "box")], on_transfer=told.append)
    total = sum(file.stat().st_size for file in (tmp_path / "box").iterdir())
    assert {(far.bytes_total, far.files_total) for far in told} == {(total, 2)}
    assert (told[-1].bytes_done, told[-1].files_done) == (total, 2)
    done = [far.bytes_done for far in told]
    assert done == sorted(done)
    assert len(set(done)) > 3


# -- links


def test_a_link_waits_for_a_word(run: Run, home: Home, engine: Engine, server: LinkServer, tmp_path: Path) -> None:
    """A mailed link is listed with its sender and host, and fetched only by number or by name; with it come the
    message's sender and time, the digest, and who said so. The same command again asks nobody.
    """
    server.answers["/f/team.zip"] = [plain(packed("x"), Last_Modified=SENT)]
    url = server.url("/f/team.zip")
    text = f"too large for mail: {url}\n"
    (tmp_path / "m.eml").write_bytes(letter(1, "Ada <ada@x.example>", {}, text, received=SENT))
    assert "`ranker links` lists it" in run("ingest", "--no-check", str(tmp_path / "m.eml"))
    assert server.seen == []
    (listed,) = json.loads(run("links", "--json"))
    assert (listed["sender"], listed["host"], listed["state"]) == ("ada@x.example", "127.0.0.1", LinkState.PENDING)
    (found,) = asked(run, "--link", str(listed["id"]))
    assert (found["id"], found["is_new"], found["team"]) == (digest_of(packed("x"))[:12], True, "team")
    (submission,), (delivery,), (link,) = (rows(engine, kind) for kind in (Submission, Delivery, Link))
    assert submission.received_at == datetime(2026, 2, 12, 23, 0, tzinfo=UTC)
    assert (delivery.channel, delivery.sender, delivery.message_id) == (
        Channel.LINK, "ada@x.example", rows(engine, Message)[0].id
    )  # fmt: skip
    assert "its link was fetched from 127.0.0.1 at" in delivery.arrived_by
    assert f"last changed there {SENT}" in delivery.arrived_by
    assert (link.state, link.digest, link.size_bytes) == (LinkState.FETCHED, submission.digest, len(packed("x")))
    assert link.decided_by
    for arguments in (["--link", str(link.id)], [url]):
        (again,) = asked(run, *arguments)
        assert (again["id"], again["is_new"]) == (submission.id, False)
    assert len(server.seen) == 1
    assert len(rows(engine, Delivery)) == 1
    assert json.loads(run("links", "--json")) == []
    assert [each.name for each in home.links.iterdir() if not each.name.startswith(".")] == []
    actions = [each.action for each in rows(engine, Event)]
    assert actions.count(Action.FETCH_LINK) == 1


def test_one_address_in_two_messages_is_fetched_once(
    run: Run, engine: Engine, server: LinkServer, tmp_path: Path
) -> None:
    """Two people of a team send one link: one request, two arrivals of one submission, the earlier of which counts."""
    server.answers["/team.zip"] = [plain(packed("x"))]
    for number in (2, 1):
        text = f"see {server.url('/team.zip')}"
        received = f"Thu, 12 Feb 2026 23:0{number}:00 +0000"
        (tmp_path / f"{number}.eml").write_bytes(letter(number, "ada@x.example", {}, text, received=received))
        run("ingest", "--no-check", str(tmp_path / f"{number}.eml"))
    asked(run, server.url("/team.zip"))
    assert len(server.seen) == 1
    assert len(rows(engine, Delivery)) == 2
    (submission,) = rows(engine, Submission)
    assert submission.received_at == datetime(2026, 2, 12, 23, 1, tzinfo=UTC)


def test_what_a_link_leads_to_can_be_wrong(run: Run, home: Home, engine: Engine, server: LinkServer) -> None:
    """A page that asks to sign in is the team's to mend (3) and stands with the link; a server that is down is ours to
    try again (1); a redirect to a private address is refused (2). Each can be tried again by the same command.
    """
    page = plain(b"<!doctype html><title>Sign in</title>", kind="text/html")
    server.answers["/x.zip"] = [page, refusal(503), redirect("http://10.0.0.1/x.zip"), plain(packed("x"))]
    url = server.url("/x.zip")
    assert "asks to sign in" in run("ingest", "--no-check", url, code=REFUSED)
    (link,) = rows(engine, Link)
    assert (link.state, "asks to sign in" in link.why) == (LinkState.FAILED, True)
    assert [each.name for each in home.links.iterdir() if not each.name.startswith(".")] == []
    assert "503" in run("ingest", "--no-check", url, code=OURS)
    assert "no public address" in run("ingest", "--no-check", url, code=USAGE)
    assert rows(engine, Submission) == []
    (found,) = asked(run, url)
    assert found["state"] == "received"
    (link,) = rows(engine, Link)
    assert (link.state, link.why) == (LinkState.FETCHED, None)


def test_a_link_can_be_declined(run: Run, engine: Engine, tmp_path: Path) -> None:
    """With a reason, which the log keeps; it leaves the list. One that was fetched cannot be declined any more."""
    text = "see https://files.example/team.zip and https://files.example/other.zip"
    (tmp_path / "m.eml").write_bytes(letter(1, "ada@x.example", {}, text))
    run("ingest", "--no-check", str(tmp_path / "m.eml"))
    assert "not from us" in run("links", "decline", "1", "--why", "not from us")
    assert "--why is empty" in run("links", "decline", "2", "--why", " ", code=USAGE)
    assert [each["id"] for each in json.loads(run("links", "--json"))] == [2]
    assert [each["state"] for each in json.loads(run("links", "--all", "--json"))] == ["declined", "pending"]
    (told,) = [each for each in rows(engine, Event) if each.action == Action.DECLINE_LINK]
    assert told.details == {"link": 1, "why": "not from us"}
    with session(engine) as writing:
        link = writing.get_one(Link, 2)
        link.state, link.digest = LinkState.FETCHED, "a" * 64
    assert "was fetched already" in run("links", "decline", "2", "--why", "late", code=USAGE)


def test_words_of_strangers_reach_no_terminal(run: Run, engine: Engine) -> None:
    """A link's address is shown, but nothing in it moves a cursor or hides a part."""
    with session(engine) as writing:
        url = "https://files.example/\x1b[2J\u202egnp.zip"
        writing.add(Link(url=url, state=LinkState.PENDING, found_at=datetime(2026, 2, 1, tzinfo=UTC)))
    said = run("links")
    assert "\x1b[2J" not in said
    assert "\u202e" not in said
    assert "would ask files.example: https://files.example/?[2J?gnp.zip" in said


def test_a_running_check_is_not_queued_twice(run: Run, engine: Engine, tmp_path: Path) -> None:
    """The same file while its check runs elsewhere: the claim stays, and one job is all there is."""
    (tmp_path / "a.zip").write_bytes(packed("a"))
    asked(run, str(tmp_path / "a.zip"))
    now = datetime.now(UTC)
    claim = queue.claim(engine, worker="elsewhere:1:x", now=now, lease_s=600)
    assert claim is not None
    asked(run, str(tmp_path / "a.zip"))
    (job,) = rows(engine, Job)
    assert (job.status, job.worker) == (Status.RUNNING, "elsewhere:1:x")
