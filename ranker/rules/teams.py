"""Which registered team a submission is of: by the address that it came from, else by the name that was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from ranker.rules.names import folded, mailbox, skeleton


@dataclass(frozen=True, kw_only=True)
class Member:
    """A person as the list of teams names them; `person` tells people apart (see `ranker.db.rules.TeamMember`)."""

    name: str
    person: str


@dataclass(frozen=True, kw_only=True)
class RegisteredTeam:
    """A team of the list. `addresses` are those that it writes from."""

    name: str
    affiliation: str = ""
    addresses: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """One arrival of a submission's bytes: when, read from where, and from whose address, if it has one.

    `doubt`: why that address may be forged. Such an arrival shows when the bytes came, and not from whom.
    """

    arrived_at: datetime
    arrived_by: str
    source: str
    sender: str | None = None
    doubt: str | None = None

    @property
    def order(self) -> tuple[datetime, str]:
        """Earlier ones first; of two at one moment, always the same one."""
        return self.arrived_at, self.source


@dataclass(frozen=True, kw_only=True)
class Match:
    """What the list of teams says of a sender.

    `by` is the address, or the name, that a team was found by. Without a team, `namesake` is the registered team of the
    name that somebody gave who writes from none of its addresses, and `lookalike` one whose name only looks the same.
    """

    team: RegisteredTeam | None = None
    by: str | None = None
    is_by_address: bool = False
    namesake: str | None = None
    lookalike: str | None = None


@dataclass(frozen=True, kw_only=True)
class Roster:
    """All registered teams."""

    teams: tuple[RegisteredTeam, ...] = ()

    def match(self, name: str, deliveries: Sequence[Delivered]) -> Match:
        """Whose submission it is: of those who sent these bytes from a registered address, the first; but if they were
        handed in by a person before any mail brought them, the team of that name. A display name is never looked at,
        and a name alone, given in a mail from elsewhere, proves nothing; nor does an address that may be forged.
        """
        believed = [each for each in sorted(deliveries, key=lambda each: each.order) if each.doubt is None]
        senders = [each.sender for each in believed]
        is_by_hand = senders[0] is None if senders else not deliveries
        named = self._by_name.get(folded(name))
        for sender in filter(None, senders):
            found = self._by_mailbox.get(mailbox(sender))
            if found is not None and (found is named or named is None or not is_by_hand):
                return Match(team=found, by=sender, is_by_address=True)
        if named is not None:
            return Match(team=named, by=named.name) if is_by_hand else Match(namesake=named.name)
        alike = self._by_looks.get(skeleton(name))
        return Match(lookalike=None if alike is None else alike.name)

    def whose(self, name: str, deliveries: Sequence[Delivered]) -> tuple[str, str]:
        """What the submissions of one team share. Who is not registered is told apart by the mailbox that he writes
        from; without one, by the name that was given.
        """
        team = self.match(name, deliveries).team
        if team is not None:
            return "team", team.name
        mailed = [each for each in deliveries if each.sender]
        first = min(mailed, key=lambda each: (each.doubt is not None, each.order), default=None)
        if first is None:
            return "name", folded(name)
        return ("sender", mailbox(first.sender or "")) if first.doubt is None else ("doubted", first.source)

    def shared_members(self, team: RegisteredTeam) -> dict[Member, tuple[str, ...]]:
        """The team's members who are in other teams as well, with these teams' names in alphabetical order."""
        shared = {}
        for member in team.members:
            others = sorted(name for name in self._teams_of_person[member.person] if name != team.name)
            if others:
                shared[member] = tuple(others)
        return shared

    @cached_property
    def _by_mailbox(self) -> Mapping[str, RegisteredTeam]:
        return {mailbox(address): team for team in self.teams for address in team.addresses}

    @cached_property
    def _by_name(self) -> Mapping[str, RegisteredTeam]:
        return {folded(team.name): team for team in self.teams}

    @cached_property
    def _by_looks(self) -> Mapping[str, RegisteredTeam]:
        return {skeleton(team.name): team for team in sorted(self.teams, key=lambda team: team.name)}

    @cached_property
    def _teams_of_person(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        for team in self.teams:
            for member in team.members:
                found.setdefault(member.person, set()).add(team.name)
        return found
