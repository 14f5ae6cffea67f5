"""Facts out of the database, verdicts into it.

Whoever changes a fact (an arrival, the end of a check, the list of teams, a person's decision) calls `judge` in the
same transaction, so that verdicts and facts are never apart. The one fact that changes without a transaction is the
configuration: see `outdated`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker import events
from ranker.config import load
from ranker.db.mail import Delivery, Message
from ranker.db.models import Job, Submission
from ranker.db.rules import Event, Team, Verdict
from ranker.home import Home
from ranker.rules.standing import standing
from ranker.rules.teams import Delivered, Member, RegisteredTeam, Roster
from ranker.rules.verdicts import Decision, Entry, Judged, Report, Ruled
from ranker.rules.verdicts import judge as judged_by
from ranker.settings import Rules, Service
from ranker.types import Action, JobKind, Rule, Standing, Status

DECISIONS = (Action.REVIEW, Action.ADMIT, Action.WITHDRAW, Action.DISQUALIFY, Action.REINSTATE)
_LONGEST = 2000  # of Verdict.why


@dataclass(frozen=True, kw_only=True)
class Change:
    """One rule's verdict that became another one; None: there was none, or there is none any more."""

    submission_id: str
    rule: Rule
    before: str | None
    after: str | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """As the log tells it."""
        return {"rule": self.rule, "before": self.before, "after": self.after, "why": self.why}


def judge(
    session: Session, home: Home, submission_id: str, now: datetime, *, rules: Rules | None = None
) -> list[Change]:
    """Judge anew what a change of this submission's facts affects: itself and, where one model of each team counts, its
    team's others. Stores verdicts and tells the log of each change; the caller commits. Raises ConfigError.

    `rules`: those of the home's configuration, for callers that have read it.
    """
    rules = rules or configured(home)
    session.flush()
    return _settle(
        session, rules, now, _teammates(session, submission_id) if rules.one_model_per_team else [submission_id]
    )


def after_job(home: Home, rules: Rules, kind: JobKind, submission_id: str) -> Callable[[Session], list[Change]] | None:
    """What to do in the transaction that records a job's end: an accepted check is a fact that the rules look at."""
    if kind is not JobKind.CHECK:
        return None
    return lambda session: judge(session, home, submission_id, datetime.now(UTC), rules=rules)


def judge_all(session: Session, home: Home, now: datetime, *, rules: Rules | None = None) -> list[Change]:
    """Judge everything anew: after a change of the list of teams or of the configuration. As `judge`."""
    session.flush()
    return _settle(session, rules or configured(home), now, None)


def outdated(session: Session, home: Home, *, rules: Rules | None = None) -> list[Change]:
    """What `judge_all` would change: something only if the rules' configuration is not what it was. Writes nothing."""
    rules = rules or configured(home)
    return [change for _, changes in _differences(session, rules, None) for change in changes]


def configured(home: Home) -> Rules:
    """The rules of the home's configs/service.yaml. Raises ConfigError."""
    return load(Service, home.config_path("service")).rules


def standings(session: Session) -> dict[str, Standing]:
    """The standing of each submission, by id."""
    said: dict[str, list[Any]] = {each: [] for each in session.scalars(select(Submission.id))}
    for row in session.execute(select(Verdict.submission_id, Verdict.rule, Verdict.ruling, Verdict.evidence)):
        said[row.submission_id].append(row)
    return {key: standing(verdicts) for key, verdicts in said.items()}


def _teammates(session: Session, submission_id: str) -> list[str] | None:
    """The submissions of one team, this one among them; None: of more than one, so that all are to be judged.

    Bytes that came again may be another team's by that than they were before, and then both teams are affected.
    """
    came = deliveries(session)
    if len(came[submission_id]) > 1:
        return None
    teams = roster(session)
    names = session.execute(select(Submission.id, Submission.team)).all()
    whose = {key: teams.whose(name, came[key]) for key, name in names}
    return [key for key, of in whose.items() if of == whose[submission_id]]


def _settle(session: Session, rules: Rules, now: datetime, ids: Collection[str] | None) -> list[Change]:
    found: list[Change] = []
    for judged, changes in _differences(session, rules, ids):
        submission = session.get_one(Submission, judged.submission_id)
        kept = {Rule(each.rule): each for each in judged.kept}
        before = standing(judged.kept) if judged.kept else None
        for rule, verdict in kept.items():
            if rule not in judged.said:
                session.delete(verdict)
        for rule, ruled in judged.said.items():
            _store(session, kept.get(rule), judged.submission_id, ruled, now)
        details: dict[str, Any] = {"changes": [change.to_json() for change in changes]}
        after = standing(judged.said.values())
        if after is not before:
            details["standing"] = {"before": before, "after": after}
        if judged.team is not None and judged.team != submission.team:
            details["team"] = {"before": submission.team, "after": judged.team}
            submission.team = judged.team
        events.record(
            session,
            actor=events.RANKER,
            action=Action.JUDGE,
            submission_id=judged.submission_id,
            now=now,
            **details,
        )
        found += changes
    return found


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """A submission whose verdicts as kept are not what the rules say now. `team`: what the list of teams calls it."""

    submission_id: str
    kept: Sequence[Verdict]
    said: Mapping[Rule, Ruled]
    team: str | None


def _differences(
    session: Session, rules: Rules, ids: Collection[str] | None
) -> Iterable[tuple[_Difference, list[Change]]]:
    """Each of these submissions (None: of all) that is judged otherwise than is written, with what changes."""
    entries = facts(session, ids)
    judged = judged_by(entries, roster(session), rules)
    query = select(Verdict) if ids is None else select(Verdict).where(Verdict.submission_id.in_(ids))
    kept: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in session.scalars(query):
        kept[verdict.submission_id].append(verdict)
    for entry in entries:
        said = {each.rule: _shortened(each) for each in judged[entry.id].ruled}
        changes = _changes(entry.id, {Rule(each.rule): each for each in kept[entry.id]}, said)
        team = _team_of(judged[entry.id])
        if changes or (team is not None and team != entry.team):
            yield _Difference(submission_id=entry.id, kept=kept[entry.id], said=said, team=team), changes


def _team_of(judged: Judged) -> str | None:
    return None if judged.match.team is None else judged.match.team.name


def _changes(submission_id: str, kept: Mapping[Rule, Verdict], said: Mapping[Rule, Ruled]) -> list[Change]:
    found = []
    for rule in Rule:
        before, after = kept.get(rule), said.get(rule)
        if _text(before) != _text(after):
            why = after.why if after is not None else "the rule does not apply, or is asked for no more"
            found.append(
                Change(
                    submission_id=submission_id,
                    rule=rule,
                    before=None if before is None else before.ruling,
                    after=None if after is None else after.ruling,
                    why=why,
                )
            )
    return found


def _text(said: Verdict | Ruled | None) -> tuple[object, ...] | None:
    return None if said is None else (str(said.ruling), said.why, said.evidence, said.decided_by)


def _shortened(ruled: Ruled) -> Ruled:
    if len(ruled.why) <= _LONGEST:
        return ruled
    return Ruled(
        rule=ruled.rule,
        ruling=ruled.ruling,
        why=ruled.why[: _LONGEST - 1] + "…",
        evidence=ruled.evidence,
        decided_by=ruled.decided_by,
    )


def _store(session: Session, verdict: Verdict | None, submission_id: str, ruled: Ruled, now: datetime) -> None:
    if _text(verdict) == _text(ruled):
        return
    if verdict is None:
        verdict = Verdict(submission_id=submission_id, rule=ruled.rule)
        session.add(verdict)
    verdict.ruling, verdict.why, verdict.evidence = ruled.ruling, ruled.why, ruled.evidence
    verdict.decided_at, verdict.decided_by = now, ruled.decided_by


def roster(session: Session) -> Roster:
    """The registered teams as they are kept."""
    query = select(Team).options(selectinload(Team.addresses), selectinload(Team.members)).order_by(Team.id)
    return Roster(
        teams=tuple(
            RegisteredTeam(
                name=team.name,
                affiliation=team.affiliation,
                addresses=tuple(each.address for each in team.addresses),
                members=tuple(Member(name=each.name, person=each.person) for each in team.members),
            )
            for team in session.scalars(query)
        )
    )


def facts(session: Session, ids: Collection[str] | None = None) -> list[Entry]:
    """What is known of these submissions (None: of all) that rules look at."""

    def among(column: Any) -> Any:
        return _among(column, ids)

    came = deliveries(session, ids)
    checks: dict[str, tuple[str, dict[str, Any] | None]] = {}
    checked = select(Job.submission_id, Job.status, Job.result).where(
        Job.kind == JobKind.CHECK, among(Job.submission_id)
    )
    for key, status, result in session.execute(checked.order_by(Job.id)):
        checks[key] = status, result
    decisions: dict[str, list[Decision]] = defaultdict(list)
    decided = select(Event).where(Event.action.in_(DECISIONS), among(Event.submission_id)).order_by(Event.id)
    for event in session.scalars(decided):
        decisions[str(event.submission_id)].append(_decision(event))
    known = select(Submission.id, Submission.team, Submission.received_at, Submission.report_digest)
    entries = []
    for key, team, received_at, report_digest in session.execute(known.where(among(Submission.id))):
        status, result = checks.get(key, (None, None))
        arrivals = came[key] or [Delivered(arrived_at=received_at, arrived_by="the clock of this machine", source="")]
        entries.append(
            Entry(
                id=key,
                team=team,
                deliveries=tuple(arrivals),
                is_accepted=status == Status.SUCCEEDED,
                report_digest=report_digest,
                report=_report(result),
                decisions=tuple(decisions[key]),
            )
        )
    return entries


def _among(column: Any, ids: Collection[str] | None) -> Any:
    return column.is_not(None) if ids is None else column.in_(ids)


def deliveries(session: Session, ids: Collection[str] | None = None) -> dict[str, list[Delivered]]:
    """How these submissions (None: all) came."""
    found: dict[str, list[Delivered]] = defaultdict(list)
    arrived = select(
        Delivery.submission_id,
        Delivery.arrived_at,
        Delivery.arrived_by,
        Delivery.source,
        Delivery.sender,
        Message.doubt,
    ).join(Message, Delivery.message_id == Message.id, isouter=True)
    for key, at, by, source, sender, doubt in session.execute(arrived.where(_among(Delivery.submission_id, ids))):
        found[key].append(Delivered(arrived_at=at, arrived_by=by, source=source, sender=sender or None, doubt=doubt))
    return found


def _report(result: Mapping[str, Any] | None) -> Report | None:
    """What a check found in the report; None where it found none, or is not done."""
    found = None if result is None else result.get("report")
    if found is None:
        return None
    told = {key: value for key, value in found.items() if key not in {"opening", "mentions"}}
    return Report(pages=found["pages"], problems=tuple(found.get("problems", ())), found=told)


def _decision(event: Event) -> Decision:
    details = event.details
    return Decision(
        action=Action(event.action),
        by=event.actor,
        at=event.at,
        why=details["why"],
        rule=Rule(details["rule"]) if event.action == Action.ADMIT else None,
        holds=bool(details.get("holds", True)),
        report=details.get("report"),
    )
