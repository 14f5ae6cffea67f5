"""The list of teams in the database: brought up to a sheet, and what that changed. Nothing is deleted unless asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import events
from ranker.db.models import Submission
from ranker.db.rules import Team, TeamAddress, TeamMember
from ranker.errors import UsageError
from ranker.home import Home
from ranker.rules.judging import Change, judge_all
from ranker.rules.judging import roster as roster_of
from ranker.rules.names import folded, skeleton
from ranker.rules.sheet import Line, Sheet
from ranker.rules.teams import RegisteredTeam
from ranker.types import Action


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did: teams by name; `changed` says what became of each. `absent`: known teams that the list does
    not name, which stay unless `removed` has them. `judged`: the verdicts that changed by it.
    """

    added: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    same: int
    absent: tuple[str, ...]
    removed: tuple[str, ...]
    warnings: tuple[str, ...]
    unread: tuple[str, ...]
    judged: tuple[Change, ...]

    @property
    def is_new(self) -> bool:
        """Whether anything was changed."""
        return bool(self.added or self.changed or self.removed)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "added": list(self.added),
            "changed": {name: list(changes) for name, changes in self.changed.items()},
            "same": self.same,
            "absent": list(self.absent),
            "removed": list(self.removed),
            "warnings": list(self.warnings),
            "unread": list(self.unread),
            "judged": [{"submission": each.submission_id, **each.to_json()} for each in self.judged],
        }


def import_sheet(
    session: Session, home: Home, sheet: Sheet, *, file: str, prune: bool, by: str, now: datetime
) -> Imported:
    """Make the registered teams what the sheet says of them, and judge all submissions anew; the caller commits.

    A team is known by its name, or, where the sheet has that name no more, by one of its addresses: then it was
    renamed. The same sheet again changes nothing. `prune` takes out teams that it does not name. Raises UsageError,
    with every fault and its line, for an address that belongs to another team.
    """
    known = roster_of(session).teams
    pairs = [(_whole(line, team, sheet), team) for line, team in _paired(sheet.lines, known, prune=prune)]
    kept = {team.name for _, team in pairs if team is not None}
    absent = [team.name for team in known if team.name not in kept]
    removed = absent if prune else []
    changes = {line.team.name: _changes(line.team, team) for line, team in pairs if team is not None}
    added = [line.team.name for line, team in pairs if team is None]
    changed = {name: each for name, each in changes.items() if each}
    _write(
        session, [(line.team, team) for line, team in pairs if team is None or changes[line.team.name]], removed, now
    )
    if added or changed or removed:
        done: dict[str, Any] = {"file": file, "added": added, "changed": changed, "removed": removed}
        events.record(session, actor=by, action=Action.IMPORT_TEAMS, now=now, **done)
    lines = {folded(line.team.name): line.number for line in sheet.lines}
    return Imported(
        added=tuple(added),
        changed={name: tuple(each) for name, each in changed.items()},
        same=len(pairs) - len(added) - len(changed),
        absent=() if prune else tuple(absent),
        removed=tuple(removed),
        warnings=tuple(warnings(roster_of(session).teams, lines)),
        unread=sheet.unread,
        judged=tuple(judge_all(session, home, now)),
    )


def warnings(teams: Sequence[RegisteredTeam], lines: Mapping[str, int]) -> Iterator[str]:
    """Names that look alike, and people in two teams; `lines` says where in the list a (folded) name stands."""

    def shown(team: RegisteredTeam) -> str:
        number = lines.get(folded(team.name))
        return f"{team.name!r} ({'known before' if number is None else f'line {number}'})"

    looks: dict[str, list[RegisteredTeam]] = {}
    people: dict[str, list[tuple[RegisteredTeam, str]]] = {}
    for team in teams:
        looks.setdefault(skeleton(team.name), []).append(team)
        for member in team.members:
            people.setdefault(member.person, []).append((team, member.name))
    for alike in looks.values():
        for one, other in combinations(alike, 2):
            yield f"the teams {shown(one)} and {shown(other)} look the same; are they one?"
    for places in people.values():
        if len(places) > 1:
            yield f"{places[0][1]} is in {' and in '.join(shown(team) for team, _ in places)}"


def _paired(
    lines: Sequence[Line], known: Sequence[RegisteredTeam], *, prune: bool
) -> list[tuple[Line, RegisteredTeam | None]]:
    """Each line with the team that it is of; None: a new one."""
    by_name = {folded(team.name): team for team in known}
    listed = {folded(line.team.name) for line in lines}
    owner = {address: team for team in known for address in team.addresses}
    pairs: list[tuple[Line, RegisteredTeam | None]] = []
    faults = []
    for line in lines:
        team = by_name.get(folded(line.team.name))
        # Teams of the list get their addresses from it; what the others have is theirs.
        others = {owner[each].name: owner[each] for each in line.team.addresses if each in owner}
        others = {name: each for name, each in others.items() if folded(name) not in listed}
        if team is None and len(others) == 1:
            (team,) = others.values()  # it has another name now
        elif others and not prune:
            whose = " and ".join(repr(name) for name in sorted(others))
            faults.append(
                f"line {line.number}: an address of {line.team.name!r} belongs to {whose}, which the list does not "
                "name; name it in the list, or take it out with --prune"
            )
        pairs.append((line, team))
    renamed = [(line, team) for line, team in pairs if team is not None]
    for (one, first), (two, second) in combinations(renamed, 2):
        if first is second:
            faults.append(f"line {two.number}: {first.name!r} would be renamed twice, by line {one.number} too")
    if faults:
        raise UsageError(
            f"{len(faults)} fault{'s' * (len(faults) != 1)}, and nothing was imported: {'; '.join(faults)}"
        )
    return pairs


def _whole(line: Line, team: RegisteredTeam | None, sheet: Sheet) -> Line:
    """The line, with what its list has no column for as it was known."""
    if team is None:
        return line
    kept: dict[str, Any] = {}
    if not sheet.has_affiliations:
        kept["affiliation"] = team.affiliation
    if not sheet.has_members:
        kept["members"] = team.members
    return replace(line, team=replace(line.team, **kept))


def _changes(wanted: RegisteredTeam, team: RegisteredTeam) -> list[str]:
    """What an import makes of a known team, in words."""
    found = []
    if wanted.name != team.name:
        found.append(f"it was called {team.name!r}")
    if wanted.affiliation != team.affiliation:
        found.append(f"affiliation {team.affiliation!r} is now {wanted.affiliation!r}")
    before = {member.person: member.name for member in team.members}
    after = {member.person: member.name for member in wanted.members}
    for what, old, new in (
        ("address", {each: each for each in team.addresses}, {each: each for each in wanted.addresses}),
        ("member", before, after),
    ):
        found += [f"new {what} {new[key]}" for key in new if key not in old]
        found += [f"{what} {old[key]} taken out" for key in old if key not in new]
        found += [f"{what} {old[key]} is now called {new[key]}" for key in new if old.get(key, new[key]) != new[key]]
    return found


def _write(
    session: Session,
    pairs: Sequence[tuple[RegisteredTeam, RegisteredTeam | None]],
    removed: Sequence[str],
    now: datetime,
) -> None:
    """All rows that change are taken out before new ones are put in: addresses may move between teams."""
    rows = {team.name: team for team in session.scalars(select(Team))}
    renamed = {team.name: wanted.name for wanted, team in pairs if team is not None}
    for name in removed:
        session.delete(rows[name])
    for _, team in pairs:
        if team is not None:
            row = rows[team.name]
            row.addresses, row.members, row.name = [], [], f"\n{row.id}"  # two teams may exchange their names
    session.flush()
    for submission in session.scalars(select(Submission).where(Submission.team.in_(renamed))):
        submission.team = renamed[submission.team]
    for wanted, team in pairs:
        row = Team() if team is None else rows[team.name]
        row.name, row.affiliation, row.imported_at = wanted.name, wanted.affiliation, now
        row.addresses = [TeamAddress(address=each) for each in wanted.addresses]
        row.members = [TeamMember(name=each.name, person=each.person) for each in wanted.members]
        session.add(row)
    session.flush()
