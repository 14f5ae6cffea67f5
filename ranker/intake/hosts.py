"""Hosts that the organizer allows one submission to ask for weights, beside the hub; who did so, and when."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from ranker.db.models import AllowedHost, Submission
from ranker.errors import UsageError
from ranker.sandbox.proxy import Destination, is_address, is_public


def allow(session: Session, submission_id: str, host: str, *, by: str, now: datetime) -> AllowedHost:
    """Allow `HOST` or `HOST:PORT` (443 without); again does nothing. Raises UsageError for what is no public host."""
    destination = Destination.parse(host)
    if destination.host == "localhost" or (is_address(destination.host) and not is_public(destination.host)):
        raise UsageError(f"{host} is this machine or a private network, which no submission may reach")
    submission = session.get_one(Submission, submission_id)
    found = next((each for each in submission.allowed_hosts if each.host == str(destination)), None)
    if found is None:
        found = AllowedHost(host=str(destination), allowed_at=now, allowed_by=by)
        submission.allowed_hosts.append(found)
    return found


def is_newer_than_check(submission: Submission) -> bool:
    """Whether a host was allowed that the last check, if it has begun, cannot have asked."""
    begun = [job.started_at for job in submission.checks if job.started_at is not None]
    return bool(begun) and any(each.allowed_at > begun[-1] for each in submission.allowed_hosts)
