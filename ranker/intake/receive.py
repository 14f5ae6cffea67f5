"""A file arrives: its bytes are kept first, under their own digest; then it is recorded, and its check is queued."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import queue
from ranker.db.mail import Delivery, Message
from ranker.db.models import Job, Submission
from ranker.db.rules import Team, TeamAddress
from ranker.durable import flush
from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.events import record, whoami
from ranker.home import Home
from ranker.intake.archive_names import odd_characters
from ranker.intake.arrivals import Arrival
from ranker.intake.hosts import is_newer_than_check
from ranker.intake.staging import place, staging_folder, sweep
from ranker.rules.judging import deliveries, roster
from ranker.rules.names import mailbox
from ranker.types import Action, Channel, JobKind, Status

ARCHIVE_NAME = "submission.zip"
REPORT_NAME = "report.pdf"
TREE_NAME = "tree"
ENVIRONMENT_NAME = "environment"  # what its requirements.txt installed; both are keys of a check's result, too
WEIGHTS_NAME = "weights"  # what its constructor fetched
MAX_TEAM_LENGTH = 100
_STAGING_PREFIX = ".incoming-"
_CHUNK = 1 << 20
_ENCODER = re.compile(r"[^:]+\.py(:[^\W\d]\w*)?")


@dataclass(frozen=True, kw_only=True)
class Received:
    """What became of a file. `is_queued`: whether its check is still to be done (job `job_id`), or is being done.

    `remark` is a sentence for the organizer where the same bytes had come before from somebody else.
    """

    submission: Submission
    job_id: int
    is_new: bool
    is_queued: bool
    remark: str | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes that lie flushed in their place: of the ZIP, and of its report, which waits in `staging`."""

    digest: str
    size: int
    report_digest: str | None
    staging: Path


def submission_folder(home: Home, digest: str) -> Path:
    """Where everything of one submission lies: the ZIP as it came, the report, and what the check made of them."""
    return home.submissions / digest


def handed_in(file: Path, *, report: Path | None, now: datetime) -> Arrival:
    """A ZIP that an organizer has as a file: it came when it was first handed in here."""
    return Arrival(
        file=file,
        name=shown(file.name),
        channel=Channel.FILE,
        source=f"file {shown(file.name)}"[:400],
        sender=None,
        arrived_at=now,
        arrived_by="the clock of this machine when the file was handed in",
        message_id=None,
        report=report,
    )


def receive(
    home: Home,
    session: Session,
    arrival: Arrival,
    *,
    team: str | None,
    encoder: str | None,
    now: datetime,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Received:
    """Keep a ZIP, record it as a submission, with how it came, and queue its check.

    Its team is the registered one of its sender, else `team`, else the stem of its name. The same bytes again are
    recognised: how they came is recorded too, the earliest time counts, an added report or another `encoder` is
    recorded and checked again, and so is a submission whose unpacked tree is gone, or for which a host was allowed
    since; anything else leaves things as they are. Killed at any moment, the same call completes what is missing. The
    copying is done before the session's first statement, so that nobody waits for the database meanwhile; the caller
    commits.
    Raises UsageError (no such file, bad name, bytes that are another team's), ParticipantError, InfraError.
    """
    # Given names are judged before bytes are kept; a stem only where it is needed, for known bytes have their team.
    given_team = given(team, encoder)
    for path in (arrival.file, arrival.report):
        if path is not None and not path.is_file():
            raise UsageError(f"{path}: there is no such file; expected a submission's ZIP, and its report as a PDF")
    try:
        with kept(home, arrival, on_bytes) as found:
            return _record(home, session, arrival, found, team=given_team, encoder=encoder, now=now)
    except OSError as error:
        raise InfraError(
            f"{arrival.name} could not be kept under {home.submissions}: {error.strerror or error}; is the disk full,"
            " or may it not be written to? Nothing is lost: with room, the same command goes on"
        ) from error


def known(home: Home, session: Session, submission_id: str, *, now: datetime) -> Received:
    """A submission that came before, as if it came again: its check is queued anew where that is due. The caller
    commits.
    """
    submission = session.get_one(Submission, submission_id)
    again = _is_lost(submission_folder(home, submission.digest), submission) or is_newer_than_check(submission)
    job = _queue_check(session, submission, again=again, now=now)
    is_queued = job.status in {Status.QUEUED, Status.RUNNING}
    return Received(submission=submission, job_id=job.id, is_new=False, is_queued=is_queued)


def given(team: str | None, encoder: str | None) -> str | None:
    """The name of a team that an organizer gave, as it is kept. Raises UsageError if it, or `encoder`, can be none."""
    if encoder is not None and (odd_characters(encoder) or not _ENCODER.fullmatch(encoder) or len(encoder) > 300):
        raise UsageError(f"--encoder {encoder!r} is not understood; expected FILE.py or FILE.py:CLASS")
    return None if team is None else team_name(team)


def tidy(home: Home) -> None:
    """Remove what killed processes were about to keep. Raises OSError."""
    sweep(home.submissions, _STAGING_PREFIX)


@contextmanager
def kept(home: Home, arrival: Arrival, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[Kept]:
    """The bytes of an arrival, copied, flushed and in their place, before anybody looks at what they are.

    `on_bytes` is told how many of the ZIP's are copied. Raises OSError.
    """
    with staging_folder(home.submissions, _STAGING_PREFIX) as staging:
        digest, size = _copy(arrival.file, staging / ARCHIVE_NAME, on_bytes)
        report_digest = None if arrival.report is None else _copy(arrival.report, staging / REPORT_NAME)[0]
        folder = submission_folder(home, digest)
        if not (folder / ARCHIVE_NAME).is_file():
            folder.mkdir(exist_ok=True)
            place(staging / ARCHIVE_NAME, folder / ARCHIVE_NAME)
            flush(home.submissions)
        yield Kept(digest=digest, size=size, report_digest=report_digest, staging=staging)


def _record(
    home: Home,
    session: Session,
    arrival: Arrival,
    found: Kept,
    *,
    team: str | None,
    encoder: str | None,
    now: datetime,
) -> Received:
    """Everything that the database is to say about kept bytes, in the caller's transaction."""
    folder = submission_folder(home, found.digest)
    of_sender = None if _is_doubted(session, arrival) else registered_team(session, arrival.sender)
    submission = _known(session, found.digest, team if arrival.sender is None else None)
    is_new = submission is None
    if submission is None:
        submission = Submission(
            id=found.digest[:12],
            digest=found.digest,
            team=of_sender or team or _called(arrival.stem),
            file_name=arrival.name[:300],
            size_bytes=found.size,
            received_at=arrival.arrived_at,
        )
        session.add(submission)
        (folder / REPORT_NAME).unlink(missing_ok=True)  # of a call that was killed
    is_theirs = is_new or (of_sender is not None and _is_nobodys(session, submission))
    remark = None if is_new else _told_apart(session, submission, arrival, of_sender or team, is_theirs=is_theirs)
    is_theirs = is_theirs or remark is None
    changed = is_theirs and _amend(submission, encoder, found.report_digest)
    if found.report_digest is not None and is_theirs:
        place(found.staging / REPORT_NAME, folder / REPORT_NAME)
    again = changed or _is_lost(folder, submission) or is_newer_than_check(submission)
    job = _queue_check(session, submission, again=again, now=now)
    _deliver(session, submission, arrival, changed=changed, remark=remark, is_theirs=is_theirs, now=now)
    return Received(
        submission=submission,
        job_id=job.id,
        is_new=is_new,
        is_queued=job.status in {Status.QUEUED, Status.RUNNING},
        remark=remark,
    )


def _is_doubted(session: Session, arrival: Arrival) -> bool:
    """Whether it may not have come from the address that it bears."""
    message = None if arrival.message_id is None else session.get(Message, arrival.message_id)
    return message is not None and message.doubt is not None


def registered_team(session: Session, sender: str | None) -> str | None:
    """The team that writes from this address; None without one, or if none is registered with it."""
    if sender is None:
        return None
    addresses = session.execute(select(TeamAddress.address, Team.name).join(Team))
    return next((name for address, name in addresses if mailbox(address) == mailbox(sender)), None)


def _is_nobodys(session: Session, submission: Submission) -> bool:
    """Whether no registered team has sent these bytes yet: the first that does is theirs by the rules."""
    came = deliveries(session, [submission.id])[submission.id]
    return roster(session).match(submission.team, came).team is None


def _told_apart(
    session: Session, submission: Submission, arrival: Arrival, claimed: str | None, *, is_theirs: bool
) -> str | None:
    """What is odd about who sent these bytes: somebody else has sent them before. None if nothing is.

    `claimed`: the team that they came from, as far as it is known; `is_theirs`: it is the first registered one.
    """
    first = session.scalar(select(Delivery).where(Delivery.submission_id == submission.id).order_by(Delivery.id))
    if arrival.sender is None or claimed == submission.team:
        return None
    came_from = None if first is None else first.sender
    if claimed is None and (came_from is None or mailbox(came_from) == mailbox(arrival.sender)):
        return None
    whose = "" if claimed is None else f" (team {claimed!r})"
    done = "it is that team's from now on" if is_theirs else "this arrival is recorded, and nothing else was changed"
    return (
        f"{arrival.name} of {arrival.sender}{whose} holds the same bytes as submission {submission.id} of team"
        f" {submission.team!r}, which came from {came_from or 'a file'}; {done}: ask both which of them wrote it"
    )


def _deliver(
    session: Session,
    submission: Submission,
    arrival: Arrival,
    *,
    changed: bool,
    remark: str | None,
    is_theirs: bool,
    now: datetime,
) -> None:
    """Record how the bytes came, once; the earliest time of arrival from the team itself counts."""
    same = select(Delivery).where(Delivery.submission_id == submission.id, Delivery.source == arrival.source)
    is_known = session.scalar(same) is not None
    if not is_known:
        session.add(
            Delivery(
                submission_id=submission.id,
                message_id=arrival.message_id,
                channel=arrival.channel,
                source=arrival.source,
                sender=arrival.sender,
                arrived_at=arrival.arrived_at,
                arrived_by=arrival.arrived_by,
            )
        )
    if is_theirs:
        submission.received_at = min(submission.received_at, arrival.arrived_at)
    if not is_known or changed:
        record(
            session,
            actor=whoami(),
            action=Action.INGEST,
            submission_id=submission.id,
            now=now,
            team=submission.team,
            name=arrival.name,
            source=arrival.source,
            sender=arrival.sender,
            remark=remark,
        )


def team_name(name: str) -> str:
    """A team's name as it is kept: NFC, without spaces at its ends. Raises UsageError if it cannot be one."""
    kept = unicodedata.normalize("NFC", name).strip()
    odd = odd_characters(kept)
    if odd:
        raise UsageError(f"the team name {kept!r} has control or invisible characters ({odd}); say --team NAME without")
    if not 1 <= len(kept) <= MAX_TEAM_LENGTH:
        raise UsageError(
            f"the team name {kept[:MAX_TEAM_LENGTH]!r} has {len(kept)} characters; expected 1 to {MAX_TEAM_LENGTH};"
            " say --team NAME"
        )
    return kept


def _called(stem: str) -> str:
    """A team's name where only its file has one: nothing that came is turned away for how it is called."""
    kept = shown(unicodedata.normalize("NFC", stem).strip()) or "unnamed"
    return kept if len(kept) <= MAX_TEAM_LENGTH else kept[: MAX_TEAM_LENGTH - 1] + "…"


def shown(name: str) -> str:
    """A file's name for people to read: what a terminal or a page would misread is written as U+001B and the like."""
    return "".join(f"<U+{ord(each):04X}>" if odd_characters(each) else each for each in name)


def _is_lost(folder: Path, submission: Submission) -> bool:
    """Whether the check has succeeded, but what it unpacked, installed or fetched is gone: somebody has tidied up, or
    was told to.
    """
    checked = [job.result for job in submission.checks if job.status == Status.SUCCEEDED and job.result is not None]
    names = [TREE_NAME, *(name for name in (ENVIRONMENT_NAME, WEIGHTS_NAME) if checked and checked[-1].get(name))]
    return bool(checked) and not all((folder / name).is_dir() for name in names)


def _copy(source: Path, target: Path, on_bytes: Callable[[int], None] = lambda _: None) -> tuple[str, int]:
    """Copy and flush a file; its SHA-256 and its size, of what was written."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("xb") as write:
        while chunk := read.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            write.write(chunk)
            on_bytes(size)
        write.flush()
        os.fchmod(write.fileno(), 0o644)
        os.fsync(write.fileno())
    return digest.hexdigest(), size


def _known(session: Session, digest: str, team: str | None) -> Submission | None:
    """The submission of these bytes, if it is known. Raises if it is another team's, or only looks the same."""
    submission = session.get(Submission, digest[:12])
    if submission is None:
        return None
    if submission.digest != digest:
        # 48 bits: never by chance, but two files that agree in them can be made in minutes.
        raise ParticipantError(
            f"the SHA-256 of this file begins like that of submission {submission.id}, which is another file; expected"
            " one that can be told from it; pack the archive again"
        )
    if team is not None and team != submission.team:
        raise UsageError(
            f"these bytes are submission {submission.id} of team {submission.team!r}, received"
            f" {submission.received_at:%Y-%m-%d %H:%M} UTC, not of {team!r}; nothing was changed; leave out --team, or"
            " ask the teams which of them wrote it"
        )
    return submission


def _amend(submission: Submission, encoder: str | None, report_digest: str | None) -> bool:
    """Record another choice of encoder, or another report; whether there was one."""
    changed = False
    if encoder is not None and encoder != submission.encoder_override:
        if any(job.kind == JobKind.EVALUATE and job.status != Status.CANCELLED for job in submission.jobs):
            raise UsageError(
                f"submission {submission.id} has evaluations of {submission.encoder_override or 'the encoder found'},"
                f" whose scores would not be those of {encoder}; nothing was changed; pack the ZIP anew to submit that"
            )
        submission.encoder_override = encoder
        changed = True
    if report_digest is not None and report_digest != submission.report_digest:
        submission.report_digest = report_digest
        changed = True
    return changed


def _queue_check(session: Session, submission: Submission, *, again: bool, now: datetime) -> Job:
    session.flush()
    for job in submission.jobs:
        if again and job.kind == JobKind.CHECK and job.status == Status.RUNNING:
            queue.cancel(session, job_id=job.id, now=now)  # it answers the question as it was before
    return queue.enqueue(
        session, submission_id=submission.id, kind=JobKind.CHECK, condition=None, seed=0, now=now, again=again
    )


def open_checks(session: Session, ids: Sequence[str] | None, *, now: datetime) -> dict[str, int]:
    """Jobs of the checks that are to be done for these submissions (None: for all), by submission: what is queued or
    running, and what failed by our own fault or was cancelled, which is queued anew. The caller commits.
    """
    query = select(Submission.id).order_by(Submission.received_at, Submission.id)
    found = {}
    for each in session.scalars(query if ids is None else query.where(Submission.id.in_(ids))).all():
        job = queue.enqueue(session, submission_id=each, kind=JobKind.CHECK, condition=None, seed=0, now=now)
        if job.status in {Status.QUEUED, Status.RUNNING}:
            found[each] = job.id
    return found
