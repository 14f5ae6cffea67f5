"""Lists of teams as forms export them, and whose an address or a name is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from challenge import came, roster, team
from homes import new_engine
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ranker import events
from ranker.db.models import Submission
from ranker.errors import UsageError
from ranker.home import Home
from ranker.rules import registry
from ranker.rules.judging import roster as kept_roster
from ranker.rules.names import folded, is_address, mailbox, skeleton
from ranker.rules.sheet import Sheet, read
from ranker.types import Action

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
FORM = (
    '\ufeff"Timestamp";"E-mail Address";"Team name";"Affiliation (institution)";"Number of team members";'
    '"Team members\n(one per line)";"Do all members agree to the rules?"\r\n'
    '"2026/01/01 9:00";"Ann@X.org";"T\u0065\u0301am  A";"Uni; Lab";2;"Ann Lee <ann@x.org>\nBob Ray";Yes\r\n'
    "\r\n"
    ';"b@gmail.com, Carla <c.d+e@googlemail.com>";B & Co;;1;Bea;Yes\r\n'
)


# -- spellings


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann@X.Org", "ann@x.org"),
        ("ann+challenge@x.org", "ann@x.org"),
        ("a.n.n@gmail.com", "ann@googlemail.com"),
        ("ann@x.org.", "ann@x.org"),
        ("ann@m\u00fcnchen.de", "ann@xn--mnchen-3ya.de"),
        ("ann@mu\u0308nchen.de", "ANN@M\u00dcNCHEN.DE"),
    ],
)
def test_addresses_that_lead_to_one_mailbox_are_one(one: str, other: str) -> None:
    """Case, marks behind a plus, Google's dots, two spellings of a domain: the mail comes from the same people."""
    assert mailbox(one) == mailbox(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.nn@x.org", "ann@x.org"),
        ("ann@x.org", "ann@y.org"),
        ("ann@x.org", "ann@x.org.evil.com"),
        ("+ann@x.org", "+bob@x.org"),
        ("ann@gmail.com", "ann@gmail.com.org"),
        ("\u0430nn@x.org", "ann@x.org"),
    ],
)
def test_addresses_that_only_look_alike_are_two(one: str, other: str) -> None:
    """Dots count elsewhere than at Google, and a Cyrillic letter is another one."""
    assert mailbox(one) != mailbox(other)


def test_names_are_one_in_any_spelling_and_look_alike_in_more() -> None:
    """Case, composition and width make no other team; letters that are drawn alike do, and are warned of."""
    assert folded(" Te\u0301am\u00a0 A ") == folded("T\u00c9AM a") == folded("\uff34\u00e9am A")
    assert folded("Team A") != folded("Team-A")
    assert skeleton("AudioLab") == skeleton("\u0410udio-L\u0430b") == skeleton("Audi0 Iab") == skeleton("\u00c0udiolab")
    assert skeleton("Team 1") == skeleton("Team l")
    assert skeleton("Team 1") != skeleton("Team 2")


def test_a_display_name_is_no_address() -> None:
    """What a mail program shows for a sender is the sender's to choose."""
    assert is_address("ann@x.org")
    for text in ("Ann <ann@x.org>", "ann@x", "ann", "@x.org", "ann@x.org, bob@x.org", "a" * 400 + "@x.org"):
        assert not is_address(text)


def test_of_two_who_sent_the_same_bytes_the_first_is_their_team() -> None:
    """Bytes that another team, or a stranger, sends later stay the first one's, whichever way round they became known;
    also where an organizer handed them in for the first one.
    """
    known = roster(team("A", "a@x.org"), team("B", "b@x.org"))
    for order in ([came(0, "a@x.org"), came(1, "b@x.org")], [came(1, "b@x.org"), came(0, "a@x.org")]):
        match = known.match("B", order)
        assert match.team is not None
        assert (match.team.name, match.by) == ("A", "a@x.org")
    stranger = known.match("b", [came(0, "c@z.org")])
    assert (stranger.team, stranger.namesake) == (None, "B")
    for later in ([], [came(1, "c@z.org")], [came(1, "a@x.org")], [came(1, "a@x.org"), came(2, "b@x.org")]):
        by_hand = known.match(" b", [came(0), *later])
        assert by_hand.team is not None
        assert by_hand.team.name == "B"
    before = known.match("b", [came(1), came(0, "c@z.org")])
    assert (before.team, before.namesake) == (None, "B")
    assert known.match("\u0412", [came(0)]).lookalike == "B"


# -- reading


def test_a_form_s_export_is_read(tmp_path: Path) -> None:
    """A byte order mark, semicolons, line breaks in cells, odd headings, empty lines, columns that mean nothing."""
    sheet = read(FORM.encode(), "form.csv")
    first, second = (line.team for line in sheet.lines)
    assert [line.number for line in sheet.lines] == [3, 6]
    assert (first.name, first.affiliation) == ("T\u00e9am A", "Uni; Lab")
    assert first.addresses == ("ann@x.org",)
    assert [(member.name, member.person) for member in first.members] == [
        ("Ann Lee", "ann@x.org"),
        ("Bob Ray", "bob ray"),
    ]
    assert (second.name, second.addresses) == ("B & Co", ("b@gmail.com", "cd@gmail.com"))
    assert sheet.unread == ("Timestamp", "Number of team members", "Do all members agree to the rules?")


@pytest.mark.parametrize("heading", ["Members (name and e-mail)", "E-mail addresses of all team members"])
def test_a_column_of_members_with_their_addresses_says_both(heading: str) -> None:
    """Attacks with a form that asks for both in one field: its people are members, and their mail is the team's."""
    rows = '"Ann Lee <ann@x.org>\nbob@x.org"'
    (line,) = read(f"Team,Leader's e-mail,{heading}\nA,lead@x.org,{rows}\n".encode(), "t.csv").lines
    assert line.team.addresses == ("lead@x.org", "ann@x.org", "bob@x.org")
    assert [(each.name, each.person) for each in line.team.members] == [
        ("Ann Lee", "ann@x.org"),
        ("bob@x.org", "bob@x.org"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_encodings_are_found_out(separator: str, encoding: str) -> None:
    """Spreadsheets of different countries write the same list in different ways."""
    text = f"Team{separator}Contact{separator}Members\r\nM\u00fcnchen{separator}a@b.de{separator}Ann Lee and Bo\r\n"
    (line,) = read(text.encode(encoding), "t.csv").lines
    assert line.team.name == "M\u00fcnchen"
    assert [member.name for member in line.team.members] == ["Ann Lee", "Bo"]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("Ann Lee, Bob Ray, and Cy", ["Ann Lee", "Bob Ray", "Cy"]),
        ("Lee, Ann; Ray, Bob", ["Lee, Ann", "Ray, Bob"]),
        ("Ann (ann@x.org); bob@x.org", ["Ann", "bob@x.org"]),
        ("Ann Lee; Ann Lee <ann@x.org>", ["Ann Lee"]),
        ("Brandy Anders & Sandra", ["Brandy Anders", "Sandra"]),
        (" ; ", []),
    ],
)
def test_members_of_a_cell(cell: str, names: list[str]) -> None:
    """People write lists of people in many ways, and names hold the letters of `and`."""
    (line,) = read(f'team,mail,members\nA,a@x.org,"{cell}"\n'.encode(), "t.csv").lines
    assert [member.name for member in line.team.members] == names


def test_every_fault_is_named_with_its_line() -> None:
    """Who mends a list of 200 teams wants to read all that is wrong at once, and where."""
    text = (
        "team,mail,members\n"
        "A,a@x.org,\n"
        ",b@x.org,\n"
        "C,nobody,\n"
        "D,d@@x.org,\n"
        '"E\nE",e@x.org,Ann,extra\n'
        " a ,f@x.org,\n"
        "G,A+g@X.org,\n"
        "H\u200b,h@x.org,\n"
        f"{'I' * 301},i@x.org,\n"
        "J,j@x.org,ann at x@\n"
    )
    with pytest.raises(UsageError) as refused:
        read(text.encode(), "t.csv")
    said = str(refused.value)
    assert "t.csv: 9 faults, and nothing was imported" in said
    for line, words in {
        3: "the team has no name", 4: "no contact address", 5: "'d@@x.org' is no e-mail address",
        6: "4 cells under 3 headings", 8: "the team 'a' stands in line 2 already",
        9: "the address a@x.org stands in line 2 already", 10: "U+200B", 11: "has 301 characters",
        12: "holds no e-mail address that can be read",
    }.items():  # fmt: skip
        assert f"line {line}: " in said
        assert words in said.partition(f"line {line}: ")[2].partition("; line")[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no column is headed as team or as contact"),
        (b"name,mail\nA,a@x.org\n", "no column is headed as team; "),
        (b"team,country\nA,AT\n", "no column is headed as contact; "),
        (b"team,team id,mail\nA,1,a@x.org\n", "several columns may be the team's name: 'team', 'team id'"),
        (b"team,mail\n", "no team stands in it"),
        (b"team,mail\nM\xfcnchen,a@x.org\n", "it is not in UTF-8"),
        (b"PK\x03\x04\x00\x00", "no column is headed as"),
    ],
)
def test_what_is_no_list_of_teams_is_refused(data: bytes, words: str) -> None:
    """The heading says what is expected, and what was found instead."""
    with pytest.raises(UsageError, match=words):
        read(data, "t.csv")


# -- the list in the database


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine: Engine = new_engine(Home(root=tmp_path))
    with Session(engine) as opened:
        yield opened
    engine.dispose()


def take(session: Session, text: str, *, prune: bool = False) -> registry.Imported:
    found: Sheet = read(text.encode(), "t.csv")
    home = Home(root=Path(str(session.get_bind().engine.url.database)).parent)
    return registry.import_sheet(session, home, found, file="t.csv", prune=prune, by="eve@host", now=NOW)


def test_an_import_is_idempotent_and_a_newer_list_updates(session: Session) -> None:
    """The same list again changes nothing and leaves no line in the log; a newer one says what it changed."""
    first = take(session, FORM)
    assert first.added == ("T\u00e9am A", "B & Co")
    before = kept_roster(session)
    again = take(session, FORM)
    assert (again.is_new, again.same) == (False, 2)
    assert kept_roster(session) == before
    assert [each.action for each in events.since(session)] == [Action.IMPORT_TEAMS]
    newer = take(session, "team,mail,members\nt\u00e9am a,ann@x.org new@x.org,Bob RAY; Cy\n")
    assert newer.changed == {
        "t\u00e9am a": (
            "it was called 'T\u00e9am A'",
            "new address new@x.org",
            "new member Cy",
            "member Ann Lee taken out",
            "member Bob Ray is now called Bob RAY",
        )
    }
    assert newer.absent == ("B & Co",)
    teams = {each.name: each for each in kept_roster(session).teams}
    assert set(teams) == {"t\u00e9am a", "B & Co"}
    assert teams["t\u00e9am a"].affiliation == "Uni; Lab"  # the newer list has no column for it


def test_nothing_is_deleted_unless_asked(session: Session) -> None:
    """A list of late entries does not throw out those who were in time."""
    take(session, FORM)
    assert take(session, "team,mail\nC,c@x.org\n").removed == ()
    assert len(kept_roster(session).teams) == 3
    assert take(session, "team,mail\nC,c@x.org\n", prune=True).removed == ("T\u00e9am A", "B & Co")
    assert [each.name for each in kept_roster(session).teams] == ["C"]


def test_a_team_is_renamed_by_its_address_with_its_submissions(session: Session) -> None:
    """A team that chose another name is the same team; what it has sent by hand goes with it."""
    take(session, "team,mail\nOld,a@x.org\n")
    session.add(Submission(id="a" * 12, digest="a" * 64, team="Old", file_name="x", size_bytes=1, received_at=NOW))
    done = take(session, "team,mail\nNew,a@x.org b@x.org\n")
    assert done.changed == {"New": ("it was called 'Old'", "new address b@x.org")}
    assert [each.name for each in kept_roster(session).teams] == ["New"]
    assert session.get_one(Submission, "a" * 12).team == "New"


def test_addresses_and_names_may_change_places(session: Session) -> None:
    """Two teams that exchange addresses, or names, in one list meet no constraint on the way."""
    take(session, "team,mail\nA,a@x.org\nB,b@x.org\n")
    take(session, "team,mail\nA,b@x.org\nB,a@x.org\n")
    assert {each.name: each.addresses for each in kept_roster(session).teams} == {"A": ("b@x.org",), "B": ("a@x.org",)}


def test_an_address_of_a_team_that_the_list_does_not_name_is_a_fault(session: Session) -> None:
    """Nobody takes over another team's mail by a line of a list; the fault says whose it is and what to do."""
    take(session, "team,mail\nA,a@x.org\nB,b@x.org\nC,c@x.org\n")
    with pytest.raises(UsageError, match="line 2: an address of 'C' belongs to 'A', which the list does not name"):
        take(session, "team,mail\nC,c@x.org a@x.org\n")
    with pytest.raises(UsageError, match="belongs to 'A' and 'B'"):
        take(session, "team,mail\nNew,a@x.org b@x.org\n")
    take(session, "team,mail\nA,a@x.org a2@x.org\n")
    with pytest.raises(UsageError, match="line 3: 'A' would be renamed twice, by line 2 too"):
        take(session, "team,mail\nA1,a@x.org\nA2,a2@x.org\n")


def test_look_alikes_and_people_in_two_teams_are_warned_of(session: Session) -> None:
    """Of teams of this list and of earlier ones; they are not refused, for both may be honest."""
    take(session, "team,mail,members\nAudioLab,a@x.org,Ann Lee; Bob\n")
    done = take(session, "team,mail,members\n\u0410udioLab,b@x.org,ann lee\n")
    assert done.warnings == (
        "the teams 'AudioLab' (known before) and '\u0410udioLab' (line 2) look the same; are they one?",
        "Ann Lee is in 'AudioLab' (known before) and in '\u0410udioLab' (line 2)",
    )
