"""A list of teams as a registration form exports it (CSV): which columns mean what, and what is wrong in which line."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ranker.errors import UsageError
from ranker.rules.names import ADDRESS, folded, is_address, mailbox
from ranker.rules.teams import Member, RegisteredTeam

MAX_NAME = 300
_KINDS: Sequence[tuple[str | None, re.Pattern[str]]] = (  # the first that fits a heading is what its column holds
    (None, re.compile(r"^(number|count|size|how many)\b|\?$|\b(agree|confirm|consent|accept)|^i ")),
    ("contact", re.compile(r"e-?mail|\bmail")),
    ("affiliation", re.compile(r"affiliation|institut|organi[sz]ation|universit|company|employer")),
    ("contact", re.compile(r"contact|address")),
    ("members", re.compile(r"member|participant|author|people|persons|leader|captain")),
    ("team", re.compile(r"team|group")),
)
_PEOPLE = re.compile(r"members|participants|authors|people|persons")  # with their e-mail, a heading of such says both
_SEPARATORS = ",;\t"
_BETWEEN = re.compile(r"[;\n]")
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One team of the list, and the line of the file that it begins in (the heading is in line 1)."""

    number: int
    team: RegisteredTeam


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a list says. `unread` are the headings of columns that mean nothing here.

    A list without a column of affiliations, or of members, says nothing of them.
    """

    lines: tuple[Line, ...]
    unread: tuple[str, ...]
    has_affiliations: bool
    has_members: bool


def read(data: bytes, name: str) -> Sheet:
    """The teams of a CSV file. Raises one UsageError with every fault and its line; `name` is the file's, for that.

    UTF-8 or, with its mark, UTF-16; comma, semicolon or tab between columns. A heading says what its column holds:
    team (one column), affiliation, contact addresses, members (any number of columns each), or members with their
    addresses, from which the team's mail may come, too. Addresses stand in a cell
    between commas, semicolons, blanks or line breaks; members between semicolons or line breaks, or, where a cell has
    neither, between commas or the word `and`; each is a name, an address, or `Name <address>`.
    """
    rows = _rows(_text(data, name))
    number, headings = next(rows, (1, []))
    columns = _columns(headings, name)
    faults: list[str] = []
    lines = []
    for number, cells in rows:
        line = _line(number, cells, len(headings), columns, faults)
        if line is not None:
            lines.append(line)
    faults += _clashes(lines)
    if faults:
        plural = "s" * (len(faults) != 1)
        raise UsageError(f"{name}: {len(faults)} fault{plural}, and nothing was imported: " + "; ".join(faults))
    if not lines:
        raise UsageError(f"{name}: no team stands in it; expected a line for each below the heading")
    known = {place for places in columns.values() for place in places}
    return Sheet(
        lines=tuple(lines),
        unread=tuple(heading for place, heading in enumerate(headings) if place not in known and heading.strip()),
        has_affiliations="affiliation" in columns,
        has_members="members" in columns,
    )


def _text(data: bytes, name: str) -> str:
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name}: it is not in UTF-8 (byte {error.start}), so names would be misread; export it again as CSV UTF-8"
        ) from None


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that hold anything, with the line that each begins in; the heading comes first."""
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    begins = 1
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield begins, cells
        begins = reader.line_num + 1


def _columns(headings: Sequence[str], name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, heading in enumerate(headings):
        plain = folded(heading)
        kind = next((kind for kind, pattern in _KINDS if pattern.search(plain)), None)
        if kind is not None:
            found.setdefault(kind, []).append(place)
        if kind == "contact" and _PEOPLE.search(plain):
            found.setdefault("members", []).append(place)
    listed = ", ".join(repr(heading.strip()) for heading in headings) or "nothing"
    lacking = [kind for kind in ("team", "contact") if kind not in found]
    if lacking:
        raise UsageError(
            f"{name}: no column is headed as {' or as '.join(lacking)}; expected headings with the words team and "
            f"contact (or e-mail), and, if known, affiliation and members; found {listed}"
        )
    if len(found["team"]) > 1:
        several = ", ".join(repr(headings[place].strip()) for place in found["team"])
        raise UsageError(f"{name}: several columns may be the team's name: {several}; rename all but one of them")
    return found


def _line(number: int, cells: list[str], width: int, columns: dict[str, list[int]], faults: list[str]) -> Line | None:
    """One row as a team; None, and what is wrong with it among `faults`, if it is none."""
    wrong: list[str] = []
    if len(cells) > width and any(cell.strip() for cell in cells[width:]):
        wrong.append(f"{len(cells)} cells under {width} headings: is a separator missing its quotes?")
    cells = cells + [""] * (width - len(cells))

    def of(kind: str) -> list[str]:
        return [cells[place] for place in columns.get(kind, [])]

    team = RegisteredTeam(
        name=_name(of("team")[0], "the team", wrong),
        affiliation=_name(
            "; ".join(filter(None, (cell.strip() for cell in of("affiliation")))), "affiliation", wrong, ""
        ),
        addresses=_addresses(of("contact"), wrong),
        members=_members(of("members"), wrong),
    )
    faults += [f"line {number}: {each}" for each in wrong]
    return None if wrong else Line(number=number, team=team)


def _name(text: str, what: str, wrong: list[str], default: str | None = None) -> str:
    """A name as it is kept: NFC, single spaces."""
    kept = " ".join(unicodedata.normalize("NFC", text).split())
    odd = sorted({f"U+{ord(char):04X}" for char in kept if unicodedata.category(char) in _INVISIBLE})
    if odd:
        wrong.append(f"{what} {kept!r} has control or invisible characters ({', '.join(odd)})")
    elif not kept and default is None:
        wrong.append(f"{what} has no name")
    elif len(kept) > MAX_NAME:
        wrong.append(f"{what} has {len(kept)} characters; expected at most {MAX_NAME}")
    return kept


def _addresses(cells: Sequence[str], wrong: list[str]) -> tuple[str, ...]:
    """Every mailbox in these cells, each once; words without an @ are the names of its owners, and left out."""
    found: dict[str, None] = {}
    for token in re.split(r"[,;\s]+", " ".join(cells)):
        bare = token.strip("<>()[]\"'").removeprefix("mailto:").rstrip(".")
        if "@" not in bare:
            continue
        if is_address(bare):
            found[mailbox(bare)] = None
        else:
            wrong.append(f"{bare!r} is no e-mail address")
    if not found and not wrong:
        wrong.append("no contact address; expected at least one, by which the team's mail is known")
    return tuple(found)


def _members(cells: Sequence[str], wrong: list[str]) -> tuple[Member, ...]:
    found: dict[str, Member] = {}
    for part in [part for cell in cells for part in _parted(cell)]:
        address = ADDRESS.search(part)
        bare = part if address is None else part.replace(address[0], "")
        name = _name(re.sub(r"[<>()\[\]\"]", " ", bare).strip(" -\t"), "a member", wrong, "")
        if address is None and "@" in part:
            wrong.append(f"{part.strip()!r} holds no e-mail address that can be read")
        person = mailbox(address[0]) if address is not None else folded(name)
        if person:
            found.setdefault(person, Member(name=name or person, person=person))
    by_address = {folded(member.name) for member in found.values() if "@" in member.person}
    return tuple(member for member in found.values() if "@" in member.person or member.person not in by_address)


def _parted(cell: str) -> list[str]:
    """The members of one cell."""
    if _BETWEEN.search(cell):
        return _BETWEEN.split(cell)
    return re.split(r",|(?:^|\s)(?:and|&)\s", cell)


def _clashes(lines: Sequence[Line]) -> Iterator[str]:
    """What two lines cannot both mean."""
    first: dict[str, Line] = {}
    for line in lines:
        own = {folded(line.team.name): f"the team {line.team.name!r}"}
        own |= {address: f"the address {address}" for address in line.team.addresses}
        for key, words in own.items():
            other = first.setdefault(key, line)
            if other is not line:
                yield (
                    f"line {line.number}: {words} stands in line {other.number} already, of team {other.team.name!r}; "
                    "keep one of the two"
                )
