"""What the rules say of each submission. A pure function of the facts: it does not matter when they became known, nor
in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ranker.events import RANKER
from ranker.rules.names import folded, mailbox
from ranker.rules.teams import Delivered, Match, Roster
from ranker.settings import Rules
from ranker.types import Action, Rule, Ruling

ADMISSIBLE = (Rule.DEADLINE, Rule.REGISTRATION, Rule.MEMBERSHIP, Rule.REPORT, Rule.DISCLOSURE)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a person decided about a submission.

    `rule` goes with ADMIT; `holds` is False where an admission was taken back, or a disclosure was found missing;
    `report` is the digest of the report that a REVIEW was of.
    """

    action: Action
    by: str
    at: datetime
    why: str
    rule: Rule | None = None
    holds: bool = True
    report: str | None = None

    def evidence(self) -> dict[str, Any]:
        """Who decided, when, and why."""
        return {"action": self.action, "by": self.by, "at": _iso(self.at), "why": self.why}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the check found in a report (`found`, see `ranker.intake.report`): its pages, and a sentence for each thing
    that is wrong with it.
    """

    pages: int | None = None
    problems: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The facts of one submission. `deliveries` has at least one element; `decisions` are in the order they were made.

    `report` is None where none was read, `is_accepted` says whether its check has succeeded.
    """

    id: str
    team: str
    deliveries: tuple[Delivered, ...]
    is_accepted: bool
    report_digest: str | None = None
    report: Report | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def first(self) -> Delivered:
        """The arrival whose time counts: these bytes were there from then on."""
        return min(self.deliveries, key=lambda each: each.order)

    def last(self, wanted: Callable[[Decision], bool]) -> Decision | None:
        """The decision of some sort that holds."""
        return next((each for each in reversed(self.decisions) if wanted(each)), None)


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """What one rule says of one submission, as it is stored."""

    rule: Rule
    ruling: Ruling
    why: str
    evidence: dict[str, Any]
    decided_by: str = RANKER


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All that the rules say of one submission, in the order of `Rule`, and what team the list says it is of."""

    match: Match
    ruled: tuple[Ruled, ...]


def judge(entries: Iterable[Entry], roster: Roster, rules: Rules) -> dict[str, Judged]:
    """What the rules say, by submission. A rule that is not asked for, or does not apply, says nothing."""
    known = list(entries)
    judged = {entry.id: _alone(entry, roster, rules) for entry in known}
    if rules.one_model_per_team:
        for group in _teams(known, judged, roster):
            counting = max(group, key=lambda entry: (entry.first.arrived_at, entry.id))
            for entry in group:
                said = judged[entry.id]
                judged[entry.id] = replace(said, ruled=_sorted([*said.ruled, _one_model(entry, counting, len(group))]))
    return judged


def _alone(entry: Entry, roster: Roster, rules: Rules) -> Judged:
    """What does not depend on other submissions."""
    match = roster.match(entry.team, entry.deliveries)
    ruled = [_conduct(entry)]
    if rules.registration:
        ruled.append(_registration(entry, match))
    if rules.one_team_per_person and match.team is not None:
        ruled.append(_membership(match, roster))
    if rules.deadline is not None:
        ruled.append(_deadline(entry, rules))
    if rules.report:
        ruled.append(_report(entry))
    if rules.disclosure:
        ruled.append(_disclosure(entry))
    return Judged(match=match, ruled=_sorted([_admitted(entry, each) for each in ruled if each is not None]))


def _sorted(ruled: list[Ruled]) -> tuple[Ruled, ...]:
    order = list(Rule)
    return tuple(sorted(ruled, key=lambda each: order.index(each.rule)))


def _admitted(entry: Entry, said: Ruled) -> Ruled:
    """An organizer's word stands above what is broken or open; it changes nothing of what is met."""
    admission = entry.last(lambda each: each.action is Action.ADMIT and each.rule is said.rule)
    if admission is None or not admission.holds or said.rule not in ADMISSIBLE or said.ruling is Ruling.MET:
        return said
    why = f"admitted all the same: {admission.why} ({said.why})"
    return replace(
        said,
        ruling=Ruling.WAIVED,
        why=why,
        evidence={**said.evidence, "admitted": admission.evidence()},
        decided_by=admission.by,
    )


def _conduct(entry: Entry) -> Ruled | None:
    """Withdrawn, disqualified, or taken back into the contest. A disqualified one stays so whatever the team does."""
    standing: Decision | None = None
    for decision in entry.decisions:
        is_sealed = standing is not None and standing.action is Action.DISQUALIFY
        if (
            decision.action is Action.DISQUALIFY
            or (decision.action is Action.WITHDRAW and not is_sealed)
            or (decision.action is Action.REINSTATE and standing is not None)
        ):
            standing = decision
    if standing is None:
        return None
    words = {
        Action.WITHDRAW: "withdrawn",
        Action.DISQUALIFY: "disqualified by the organizers",
        Action.REINSTATE: "taken back into the contest",
    }
    return Ruled(
        rule=Rule.CONDUCT,
        ruling=Ruling.MET if standing.action is Action.REINSTATE else Ruling.BROKEN,
        why=f"{words[standing.action]}: {standing.why}",
        evidence=standing.evidence(),
        decided_by=standing.by,
    )


def _registration(entry: Entry, match: Match) -> Ruled:
    senders = sorted({mailbox(each.sender) for each in entry.deliveries if each.sender is not None})
    if match.team is not None:
        how = "the address it came from" if match.is_by_address else "the name it was given"
        return Ruled(
            rule=Rule.REGISTRATION,
            ruling=Ruling.MET,
            why=f"of the registered team {match.team.name}, known by {how}",
            evidence={"team": match.team.name, "by": match.by, "senders": senders},
        )
    doubt = next((each.doubt for each in entry.deliveries if each.doubt is not None), None)
    if doubt is not None:
        why = (
            f"{doubt}, so it is not known whether it came from {_listed(senders)}; send it again through the mail "
            "server of that address, or let the organizers ask the team and admit it"
        )
    elif match.namesake is not None:
        why = (
            f"it names the registered team {match.namesake}, but came from {_listed(senders)}, which is no address of "
            "that team; send it again from a registered address, or ask the organizers to add this one to the team"
        )
    elif senders:
        why = (
            f"no registered team writes from {_listed(senders)}; register the team with this address, or send the same "
            "file again from a registered one"
        )
    else:
        why = (
            f"no registered team is called {entry.team!r}; register the team, or give the name that it is registered by"
        )
    if match.lookalike is not None:
        why += f" (there is a team {match.lookalike!r}, whose name only looks the same)"
    return Ruled(
        rule=Rule.REGISTRATION,
        ruling=Ruling.PENDING,
        why=why,
        evidence={"team": None, "given": folded(entry.team), "senders": senders, "namesake": match.namesake}
        | ({} if doubt is None else {"doubt": doubt}),
    )


def _membership(match: Match, roster: Roster) -> Ruled:
    assert match.team is not None, "membership is judged of registered teams only"
    shared = roster.shared_members(match.team)
    evidence = {
        "team": match.team.name,
        "members": len(match.team.members),
        "shared": {member.person: list(others) for member, others in shared.items()},
    }
    if not shared:
        known = len(match.team.members)
        why = (
            f"none of the {known} known member{'s' * (known != 1)} of {match.team.name} is in another team"
            if known
            else f"no member of {match.team.name} is known, so nobody of it is known to be in another team"
        )
        return Ruled(rule=Rule.MEMBERSHIP, ruling=Ruling.MET, why=why, evidence=evidence)
    people = "; ".join(f"{member.name} is also in {' and '.join(others)}" for member, others in shared.items())
    why = (
        f"one person may be in one team, but {people}; tell the organizers which team it is, or, if these are two "
        "people of one name, their addresses"
    )
    return Ruled(rule=Rule.MEMBERSHIP, ruling=Ruling.PENDING, why=why, evidence=evidence)


def _deadline(entry: Entry, rules: Rules) -> Ruled:
    closes = rules.closes
    assert closes is not None, "the rule of the deadline is judged where there is one"
    first = entry.first
    late = closes.lateness(first.arrived_at)
    is_late = late > timedelta(minutes=rules.grace_minutes)
    evidence = {
        "arrived_at": _iso(first.arrived_at),
        "arrived_local": closes.local(first.arrived_at),
        "read_from": first.arrived_by,
        "source": first.source,
        "deadline": closes.text,
        "over_at": _iso(closes.over),
        "grace_minutes": rules.grace_minutes,
        "late_s": late.total_seconds(),
    }
    arrived = f"it arrived {closes.local(first.arrived_at)} ({first.arrived_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    if is_late:
        why = (
            f"{arrived}, {_span(late)} after the deadline {closes.text}; it is kept, and not ranked; write to the "
            "organizers if it was sent in time, with the message's headers"
        )
    elif late:
        grace = f"{rules.grace_minutes:g} min"
        why = f"{arrived}, {_span(late)} after the deadline {closes.text}, within the grace of {grace}"
    else:
        why = f"{arrived}, in time for {closes.text}"
    return Ruled(rule=Rule.DEADLINE, ruling=Ruling.BROKEN if is_late else Ruling.MET, why=why, evidence=evidence)


def _report(entry: Entry) -> Ruled:
    evidence = {"digest": entry.report_digest, "found": None if entry.report is None else dict(entry.report.found)}
    if entry.report_digest is None:
        why = "no technical report came with it; send it as a PDF together with the same ZIP, in one message"
    elif entry.report is None:
        why = "its technical report has not been read yet; that is done with the check"
    elif entry.report.problems:
        why = "; ".join(entry.report.problems)
    else:
        plural = "s" * (entry.report.pages != 1)
        why = f"its technical report has {entry.report.pages} page{plural}, and its text can be read"
        return Ruled(rule=Rule.REPORT, ruling=Ruling.MET, why=why, evidence=evidence)
    return Ruled(rule=Rule.REPORT, ruling=Ruling.PENDING, why=why, evidence=evidence)


def _disclosure(entry: Entry) -> Ruled:
    """A review is of one report: another one has to be read anew."""
    review = entry.last(lambda each: each.action is Action.REVIEW and each.report == entry.report_digest)
    evidence: dict[str, Any] = {"digest": entry.report_digest}
    if review is not None:
        note = f": {review.why}" if review.why else ""
        return Ruled(
            rule=Rule.DISCLOSURE,
            ruling=Ruling.MET if review.holds else Ruling.PENDING,
            why=(
                f"the report says what the encoder was trained on{note}"
                if review.holds
                else f"the report does not say what the encoder was trained on{note}; send a report that does"
            ),
            evidence={**evidence, "review": review.evidence()},
            decided_by=review.by,
        )
    if entry.report_digest is None:
        why = (
            "no report has come that could say what the encoder was trained on; send it as a PDF together with the "
            "same ZIP, in one message"
        )
    else:
        why = "the organizers have not yet read in the report what the encoder was trained on"
    return Ruled(rule=Rule.DISCLOSURE, ruling=Ruling.PENDING, why=why, evidence=evidence)


def _teams(entries: Iterable[Entry], judged: Mapping[str, Judged], roster: Roster) -> Iterable[list[Entry]]:
    """The valid submissions of each team: those that were accepted, and of which no rule is broken."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if entry.is_accepted and all(each.ruling is not Ruling.BROKEN for each in judged[entry.id].ruled):
            groups.setdefault(roster.whose(entry.team, entry.deliveries), []).append(entry)
    return groups.values()


def _one_model(entry: Entry, counting: Entry, of: int) -> Ruled:
    evidence = {
        "counts": counting.id,
        "counts_arrived_at": _iso(counting.first.arrived_at),
        "arrived_at": _iso(entry.first.arrived_at),
    }
    if entry.id == counting.id:
        why = "the only valid submission of its team" if of == 1 else f"the last of {of} valid submissions of its team"
        return Ruled(rule=Rule.ONE_MODEL, ruling=Ruling.MET, why=why, evidence=evidence)
    why = (
        f"superseded by {counting.id}, the team's last valid submission, which arrived "
        f"{counting.first.arrived_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; if this one shall count, tell the "
        "organizers to withdraw that one"
    )
    return Ruled(rule=Rule.ONE_MODEL, ruling=Ruling.BROKEN, why=why, evidence=evidence)


def _listed(addresses: list[str]) -> str:
    return " and ".join(addresses)


def _span(late: timedelta) -> str:
    """A length of time for people, no longer than it is."""
    seconds = int(late.total_seconds())
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
