"""Whether a submission is ranked, from its verdicts, and what may be said of that in public."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from ranker.types import Action, Rule, Ruling, Standing

SHOWN = frozenset({Standing.RANKED, Standing.PENDING})  # the others appear only where they are asked for

_PENDING = {
    Rule.REGISTRATION: "its sender does not belong to a registered team yet",
    Rule.MEMBERSHIP: "it is to be settled which team a member belongs to",
    Rule.REPORT: "its technical report is missing, or cannot be accepted as it is",
    Rule.DISCLOSURE: "it is to be confirmed that its report says what the encoder was trained on",
}
_SAID = {
    Standing.RANKED: "It is ranked.",
    Standing.SUPERSEDED: "It is not ranked: a later submission of the team counts.",
    Standing.LATE: "It is not ranked: it came after the deadline.",
    Standing.WITHDRAWN: "It is not ranked: it was withdrawn.",
    Standing.DISQUALIFIED: "It is not ranked: it was disqualified.",
}


class Said(Protocol):
    """What of a verdict its submission's standing depends on; the table's rows have it, and so has a fresh ruling."""

    @property
    def rule(self) -> str:
        """A `Rule`."""
        ...

    @property
    def ruling(self) -> str:
        """A `Ruling`."""
        ...

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What it rests on."""
        ...


def standing(verdicts: Iterable[Said]) -> Standing:
    """The gravest thing that the verdicts say: disqualified, withdrawn, late, superseded, pending, or ranked.

    A submission of which no rule has said anything is ranked.
    """
    said = {Rule(each.rule): each for each in verdicts}
    broken = {rule for rule, each in said.items() if each.ruling == Ruling.BROKEN}
    if Rule.CONDUCT in broken:
        by_us = said[Rule.CONDUCT].evidence["action"] == Action.DISQUALIFY
        return Standing.DISQUALIFIED if by_us else Standing.WITHDRAWN
    if Rule.DEADLINE in broken:
        return Standing.LATE
    if Rule.ONE_MODEL in broken:
        return Standing.SUPERSEDED
    is_open = broken or any(each.ruling == Ruling.PENDING for each in said.values())
    return Standing.PENDING if is_open else Standing.RANKED


def missing(verdicts: Iterable[Said]) -> tuple[str, ...]:
    """What keeps a pending submission from its rank, in words for everybody: no address, no person, no other team."""
    rules = {Rule(each.rule) for each in verdicts if each.ruling in {Ruling.PENDING, Ruling.BROKEN}}
    return tuple(words for rule, words in _PENDING.items() if rule in rules)


def shown_name(team: str, verdicts: Iterable[Said]) -> str:
    """A team's name as everybody reads it: who gives a registered one's from elsewhere is not shown as that team."""
    is_claimed = any(
        each.rule == Rule.REGISTRATION and each.ruling == Ruling.PENDING and each.evidence.get("namesake")
        for each in verdicts
    )
    return f"{team} (not confirmed)" if is_claimed else team


def public_words(verdicts: Collection[Said]) -> str:
    """A submission's standing in one sentence for everybody."""
    found = standing(verdicts)
    return f"It is not ranked yet: {'; '.join(missing(verdicts))}." if found is Standing.PENDING else _SAID[found]
