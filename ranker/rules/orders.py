"""What a person decides of a submission: each decision is a line of the log, and the verdicts follow from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from ranker import events
from ranker.db.models import Submission
from ranker.errors import UsageError
from ranker.home import Home
from ranker.rules.judging import Change, facts, judge
from ranker.rules.verdicts import ADMISSIBLE, Decision
from ranker.types import Action, Rule

CONDUCT = (Action.WITHDRAW, Action.DISQUALIFY, Action.REINSTATE)
MAX_WHY = 1000


def review(
    session: Session, home: Home, submission_id: str, *, holds: bool, note: str, by: str, now: datetime
) -> list[Change]:
    """Whether the report that is there now says what the encoder was trained on. Raises UsageError without a report."""
    digest = session.get_one(Submission, submission_id).report_digest
    if digest is None:
        raise UsageError(
            f"submission {submission_id} has no report to review; `ranker ingest FILE.zip --report REPORT.pdf` adds one"
        )
    note = _worded(note, is_needed=not holds)
    last = _last(session, submission_id, Action.REVIEW)
    if last is not None and (last.holds, last.why, last.report) == (holds, note, digest):
        return []
    return _decide(session, home, submission_id, Action.REVIEW, why=note, by=by, now=now, holds=holds, report=digest)


def admit(
    session: Session, home: Home, submission_id: str, *, rule: Rule, why: str, revoked: bool, by: str, now: datetime
) -> list[Change]:
    """Let one rule not stand against a submission, or, `revoked`, let it stand again. Raises UsageError."""
    if rule not in ADMISSIBLE:
        raise UsageError(
            f"nobody is admitted against the rule {rule}; expected one of {', '.join(ADMISSIBLE)}; `ranker reinstate` "
            "and `ranker withdraw` settle the others"
        )
    why = _worded(why)
    last = _last(session, submission_id, Action.ADMIT, rule)
    if revoked and (last is None or not last.holds):
        raise UsageError(f"submission {submission_id} was not admitted against the rule {rule}; nothing was changed")
    if last is not None and (last.holds, last.why) == (not revoked, why):
        return []
    return _decide(
        session, home, submission_id, Action.ADMIT, why=why, by=by, now=now, holds=not revoked, rule=str(rule)
    )


def conduct(
    session: Session, home: Home, submission_id: str, *, action: Action, why: str, by: str, now: datetime
) -> list[Change]:
    """Withdraw or disqualify a submission, or take it back. Raises UsageError where there is nothing to take back, and
    for withdrawing what is disqualified.
    """
    assert action in CONDUCT, f"{action} is no decision about conduct"
    why = _worded(why)
    (entry,) = facts(session, [submission_id])
    out: Action | None = None
    for decision in entry.decisions:
        if decision.action in CONDUCT:
            out = None if decision.action is Action.REINSTATE else decision.action
    if out is action:
        return []
    if action is Action.REINSTATE and out is None:
        raise UsageError(f"submission {submission_id} is neither withdrawn nor disqualified; nothing was changed")
    if action is Action.WITHDRAW and out is Action.DISQUALIFY:
        raise UsageError(
            f"submission {submission_id} is disqualified, and stays so; `ranker reinstate` comes first if it shall be "
            "withdrawn instead"
        )
    return _decide(session, home, submission_id, action, why=why, by=by, now=now)


def _decide(
    session: Session, home: Home, submission_id: str, action: Action, *, by: str, now: datetime, **details: Any
) -> list[Change]:
    events.record(session, actor=by, action=action, submission_id=submission_id, now=now, **details)
    return judge(session, home, submission_id, now)


def _last(session: Session, submission_id: str, action: Action, rule: Rule | None = None) -> Decision | None:
    (entry,) = facts(session, [submission_id])
    return entry.last(lambda each: each.action is action and each.rule is rule)


def _worded(why: str, *, is_needed: bool = True) -> str:
    """A reason as it is kept, on one line. Raises UsageError for one that says nothing, or too much."""
    said = " ".join(why.split())
    if is_needed and not said:
        raise UsageError("a reason is needed, for those who read the log later; say it in a sentence")
    if len(said) > MAX_WHY:
        raise UsageError(f"the reason has {len(said)} characters; expected at most {MAX_WHY}; say it in a sentence")
    return said
