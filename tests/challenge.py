"""A challenge for the tests of its rules: facts as values, and the same facts as rows of a database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from ranker import events
from ranker.db.mail import Delivery
from ranker.db.models import Job, Submission
from ranker.home import Home
from ranker.rules.teams import Delivered, Member, RegisteredTeam, Roster
from ranker.rules.verdicts import Decision, Entry, Judged, Ruled
from ranker.settings import Rules
from ranker.types import Action, Channel, JobKind, Rule, Ruling, Status

CLOSES = datetime(2026, 2, 13, 12, 0, tzinfo=UTC)  # the first moment after 2026-02-12T23:59 AoE
EARLY = CLOSES - timedelta(days=2)
ALL_RULES = Rules(
    registration=True,
    one_team_per_person=True,
    deadline="2026-02-12T23:59 AoE",
    grace_minutes=10,
    report=True,
    disclosure=True,
    one_model_per_team=True,
)
REPORT = {"pages": 4, "problems": [], "characters": 9000}


def came(hours: float = 0.0, sender: str | None = None, *, source: str = "", by: str = "a header") -> Delivered:
    """One arrival, so many hours before or after EARLY."""
    at = EARLY + timedelta(hours=hours)
    return Delivered(arrived_at=at, arrived_by=by, source=source or f"message {hours} {sender}", sender=sender)


def decided(action: Action, *, rule: Rule | None = None, holds: bool = True, report: str | None = None) -> Decision:
    """A decision of one organizer."""
    return Decision(action=action, by="eve@host", at=EARLY, why="a reason", rule=rule, holds=holds, report=report)


def entry(name: str, *deliveries: Delivered, **facts: object) -> Entry:
    """A submission of a team of that name; accepted, unless told otherwise, without a report."""
    fields: dict[str, object] = {
        "id": hashlib.sha256(name.encode()).hexdigest()[:12], "team": name, "deliveries": deliveries or (came(),),
        "is_accepted": True,
    }  # fmt: skip
    return Entry(**(fields | facts))  # type: ignore[arg-type]


def roster(*teams: RegisteredTeam) -> Roster:
    return Roster(teams=teams)


def team(name: str, *addresses: str, members: tuple[str, ...] = ()) -> RegisteredTeam:
    """A registered team; its members are known by name."""
    people = tuple(Member(name=each, person=each.casefold()) for each in members)
    return RegisteredTeam(name=name, addresses=addresses, members=people)


def said(judged: Judged, rule: Rule) -> Ruled | None:
    """What one rule says of a submission."""
    return next((each for each in judged.ruled if each.rule is rule), None)


def ruling(judged: Judged, rule: Rule) -> Ruling | None:
    found = said(judged, rule)
    return None if found is None else found.ruling


@dataclass(frozen=True, kw_only=True)
class Book:
    """The writing that intake, queue and organizers would do, without their work."""

    session: Session
    home: Home

    def arrive(self, name: str, delivery: Delivered, *, report: bool = False) -> str:
        """Bytes come, perhaps not for the first time; the submission's id."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        submission = self.session.get(Submission, digest[:12])
        if submission is None:
            submission = Submission(
                id=digest[:12],
                digest=digest,
                team=name,
                file_name=f"{name}.zip",
                size_bytes=1,
                received_at=delivery.arrived_at,
            )
            self.session.add(submission)
            self.session.flush()
        if report:
            submission.report_digest = "ab" * 32
        self.session.add(
            Delivery(
                submission_id=submission.id,
                channel=Channel.FILE if delivery.sender is None else Channel.MAIL,
                source=delivery.source,
                sender=delivery.sender,
                arrived_at=delivery.arrived_at,
                arrived_by=delivery.arrived_by,
            )
        )
        self.session.flush()
        return submission.id

    def check(self, submission_id: str, status: Status = Status.SUCCEEDED, *, report: bool = False) -> None:
        """A check ends."""
        self.session.add(
            Job(
                key=hashlib.sha256(submission_id.encode()).hexdigest(),
                submission_id=submission_id,
                kind=JobKind.CHECK,
                status=Status.QUEUED,
                created_at=EARLY,
            )
        )
        self.session.flush()
        job = self.session.query(Job).filter_by(submission_id=submission_id, kind=JobKind.CHECK).one()
        job.status, job.worker, job.lease_expires_at = Status.RUNNING, "w", EARLY
        self.session.flush()
        job.status, job.worker, job.lease_expires_at = status, None, None
        job.fault = "participant" if status is Status.FAILED else None
        job.result = {"report": REPORT if report else None} if status is Status.SUCCEEDED else None
        self.session.flush()

    def decide(self, submission_id: str, decision: Decision) -> None:
        """A person decides."""
        details: dict[str, Any] = {"why": decision.why, "holds": decision.holds}
        details |= {} if decision.rule is None else {"rule": str(decision.rule)}
        details |= {} if decision.report is None else {"report": decision.report}
        events.record(
            self.session,
            actor=decision.by,
            action=decision.action,
            submission_id=submission_id,
            now=decision.at,
            **details,
        )
