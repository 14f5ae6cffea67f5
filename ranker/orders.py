"""What organizers order of the queue by name: which jobs are meant, what became of each, and the log of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from ranker import events, overview, queue
from ranker.db.models import Job, Pause
from ranker.errors import UsageError
from ranker.types import Action, Condition, Fault, JobKind, Part, Status

_ID_LENGTH = 12
_MOST = 2**31 - 1
"""The largest number that any database gives to a job."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of one job: its state (None: it is new) and priority before and after."""

    job: int
    submission: str
    team: str
    what: str
    before: Status | None
    after: Status
    priority_before: int
    priority: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Left:
    """A job that was left as it was, and why."""

    job: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """What an order did. `undo`: the commands that take it back."""

    changes: tuple[Change, ...]
    left: tuple[Left, ...] = ()
    undo: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the commands print them."""
        return {
            "changes": [change.to_json() for change in self.changes],
            "left": [asdict(each) for each in self.left],
            "undo": list(self.undo),
        }


def cancel(session: Session, names: Sequence[str], *, actor: str, now: datetime) -> Done:
    """Take out the jobs of these names: of a submission, those that wait or run; by its number, also one that failed.

    Raises UsageError if that changes nothing, or for a name that fits nothing.
    """
    changes, left = [], []
    for job, by_number in _meant(session, names):
        if not by_number and job.status not in {Status.QUEUED, Status.RUNNING}:
            continue
        before = _state(job)
        if queue.cancel(session, job_id=job.id, now=now):
            changes.append(_changed(job, before))
            _record(session, Action.CANCEL, job, before, actor=actor, now=now)
        else:
            left.append(Left(job=job.id, why=f"it {_ended(job)}"))
    done = Done(changes=tuple(changes), left=tuple(left), undo=_command("retry", changes))
    return _not_in_vain(done, names, "no job of it waits or runs")


def retry(
    session: Session,
    names: Sequence[str],
    *,
    again: bool,
    is_current: Callable[[Job], bool],
    actor: str,
    now: datetime,
) -> Done:
    """Queue jobs again that have failed or were cancelled; those that failed by their team's fault only with `again`.

    One that measures another configuration than the present one (`is_current`) could only fail, and is left. Raises
    UsageError if that changes nothing, or for a name that fits nothing.
    """
    changes, left = [], []
    for job, by_number in _meant(session, names):
        before = _state(job)
        if job.status not in {Status.FAILED, Status.CANCELLED}:
            if by_number:
                left.append(Left(job=job.id, why=f"it {_ended(job)}"))
        elif not is_current(job):
            left.append(Left(job=job.id, why="it measures another configuration than the present; evaluate anew"))
        elif not queue.retry(job, again=again):
            left.append(Left(job=job.id, why=f"it failed by its team's own fault ({'; '.join(job.reasons)}): --again"))
        else:
            changes.append(_changed(job, before))
            _record(session, Action.RETRY, job, before, actor=actor, now=now, again=again)
    done = Done(changes=tuple(changes), left=tuple(left), undo=_command("cancel", changes))
    return _not_in_vain(done, names, "no job of it has failed or was cancelled")


def prioritize(session: Session, names: Sequence[str], *, to: int | None, actor: str, now: datetime) -> Done:
    """Give the waiting and running jobs of these names a priority; None: one above all that wait.

    Raises UsageError if there are none, or for a name that fits nothing.
    """
    priority = queue.first_priority(session) if to is None else to
    changes, left = [], []
    for job, by_number in _meant(session, names):
        before = _state(job)
        if job.status not in {Status.QUEUED, Status.RUNNING}:
            if by_number:
                left.append(Left(job=job.id, why=f"it {_ended(job)}"))
            continue
        queue.prioritize(job, priority)
        changes.append(_changed(job, before))
        _record(session, Action.PRIORITIZE, job, before, actor=actor, now=now)
    undo = [
        command
        for old in sorted({change.priority_before for change in changes})
        for command in _command("prioritize", [each for each in changes if each.priority_before == old], f" --to {old}")
    ]
    done = Done(changes=tuple(changes), left=tuple(left), undo=tuple(undo))
    return _not_in_vain(done, names, "no job of it waits or runs")


def rerun(
    session: Session,
    wanted: Mapping[str, Sequence[Condition]],
    *,
    seeds: Sequence[int],
    own_seed: int,
    actor: str,
    now: datetime,
) -> Done:
    """Queue further seeds, as evidence, of submissions' evaluations that have finished with the recipe's own seed. They
    go after whatever else waits.

    `wanted`: conditions by submission id. What is there already is left. Raises UsageError for the own seed, whose
    score is never measured twice, and for a submission that has no finished evaluation under one of its conditions.
    """
    if own_seed in seeds:
        raise UsageError(
            f"{own_seed} is the recipe's own seed, whose score stands on the board and is measured once; give another"
        )
    changes, left = [], []
    for submission, conditions in wanted.items():
        known = {
            (job.condition_digest, job.seed): Status(job.status)
            for job in session.scalars(select(Job).where(Job.submission_id == submission))
        }
        for condition in conditions:
            if known.get((condition.digest, own_seed)) is not Status.SUCCEEDED:
                raise UsageError(
                    f"submission {submission} has no finished evaluation on track {condition.track} of "
                    f"{condition.benchmark} under condition {condition.digest[:12]}, which is what would be measured "
                    "here now; further seeds are evidence about a score, so `ranker evaluate` it first"
                )
        for condition in conditions:
            for seed in seeds:
                before = known.get((condition.digest, seed))
                job = queue.enqueue(
                    session,
                    submission_id=submission,
                    kind=JobKind.EVALUATE,
                    condition=condition,
                    seed=seed,
                    now=now,
                    priority=queue.EVIDENCE_PRIORITY,
                )
                if job.status == before:
                    left.append(Left(job=job.id, why=f"{words(job)}: it {_ended(job)}"))
                    continue
                changes.append(replace(_changed(job, (Status(job.status), job.priority)), before=before))
                _record(session, Action.RERUN, job, (before, job.priority), actor=actor, now=now, seed=seed)
    return Done(changes=tuple(changes), left=tuple(left), undo=_command("cancel", changes))


def pause(session: Session, *, why: str, give_back: bool, actor: str, now: datetime) -> Pause:
    """Hand out no job until `resume`; `give_back`: running jobs come back where that loses nothing."""
    found = queue.pause(session, by=actor, why=why, now=now, give_back=give_back)
    events.record(session, actor=actor, action=Action.PAUSE, now=now, why=why, give_back=give_back)
    return found


def resume(session: Session, *, is_current: Callable[[Job], bool], actor: str, now: datetime) -> Done:
    """End the pause, and queue what has failed by our own data or configuration; not what measures another
    configuration than the present one.
    """
    failed = select(Job).where(Job.status == Status.FAILED, Job.fault == Fault.ORGANIZER).order_by(Job.id)
    stale = [job for job in session.scalars(failed.options(joinedload(Job.submission))) if not is_current(job)]
    was = queue.paused(session)
    before = {job.id: _state(job) for job in session.scalars(failed)}
    again = queue.resume(session, leave={job.id for job in stale})
    why = None if was is None else was.why
    events.record(session, actor=actor, action=Action.RESUME, now=now, why=why, jobs=[job.id for job in again])
    advice = "it measures another configuration than the present; `ranker evaluate` queues that"
    return Done(
        changes=tuple(_changed(job, before[job.id]) for job in again),
        left=tuple(Left(job=job.id, why=advice) for job in stale),
        undo=() if was is None else ("ranker pause",),
    )


def pause_json(found: Pause | None) -> dict[str, Any] | None:
    """Since when, by whom and why the queue is paused, as plain values; None while it runs."""
    if found is None:
        return None
    at = found.paused_at.isoformat()
    return {"paused_at": at, "paused_by": found.paused_by, "why": found.why, "give_back": found.give_back}


def words(job: Job) -> str:
    """What a job does, in words: `mini, track A, hidden part, seed 7`."""
    if job.kind == JobKind.CHECK:
        return str(job.kind)
    part = Part.PUBLIC if job.condition is None else Condition.from_json(job.condition).part
    return (
        f"{job.benchmark}, track {job.track}" + ("" if part is Part.PUBLIC else f", {part} part") + f", seed {job.seed}"
    )


def _meant(session: Session, names: Iterable[str]) -> list[tuple[Job, bool]]:
    """Jobs by number, or all of a submission, each once; and whether it was named by its number."""
    found: dict[int, tuple[Job, bool]] = {}
    for name in names:
        if name.isdecimal() and len(name) < _ID_LENGTH:
            job = session.get(Job, int(name)) if int(name) <= _MOST else None
            if job is None:
                raise UsageError(
                    f"there is no job {name}; a number is a job's, a submission is named by its id, its beginning with "
                    "a letter in it, or its team; `ranker show ID` lists a submission's jobs"
                )
            found[job.id] = (job, True)
        else:
            (view,) = overview.find(session, [name])
            for job in view.submission.jobs:
                found.setdefault(job.id, (job, False))
    return [found[number] for number in sorted(found)]


def _state(job: Job) -> tuple[Status, int]:
    return Status(job.status), job.priority


def _changed(job: Job, before: tuple[Status, int]) -> Change:
    return Change(
        job=job.id,
        submission=job.submission_id,
        team=job.submission.team,
        what=words(job),
        before=before[0],
        after=Status(job.status),
        priority_before=before[1],
        priority=job.priority,
    )


def _record(
    session: Session,
    action: Action,
    job: Job,
    before: tuple[Status | None, int],
    *,
    actor: str,
    now: datetime,
    **details: Any,
) -> None:
    status, priority = before
    events.record(
        session,
        actor=actor,
        action=action,
        submission_id=job.submission_id,
        job_id=job.id,
        now=now,
        before=status,
        after=job.status,
        priority_before=priority,
        priority=job.priority,
        **details,
    )


def _ended(job: Job) -> str:
    match Status(job.status):
        case Status.QUEUED | Status.RUNNING | Status.CANCELLED:
            return f"is {job.status}"
        case Status.FAILED:
            return f"has {job.status} (fault: {job.fault})"
        case _:
            return f"has {job.status}"


def _command(name: str, changes: Iterable[Change], options: str = "") -> tuple[str, ...]:
    numbers = " ".join(str(change.job) for change in changes)
    return (f"ranker {name} {numbers}{options}",) if numbers else ()


def _not_in_vain(done: Done, names: Sequence[str], otherwise: str) -> Done:
    if done.changes:
        return done
    why = "; ".join(f"job {each.job}: {each.why}" for each in done.left) or otherwise
    raise UsageError(f"{', '.join(names)}: nothing was changed: {why}")
