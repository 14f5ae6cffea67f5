"""Repairs of what doctor finds: each one looked at again when it is done, never of anything in use, and recorded."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ranker import events, queue
from ranker.db.models import Job
from ranker.db.session import session
from ranker.doctor import Patient
from ranker.doctor.remains import abandoned, is_unlocked
from ranker.doctor.runs import SET_ASIDE, Spoilt, checkpoint_fault, damaged, pieces, spoilt, tree_fault
from ranker.doctor.work import LARGE_WAL_BYTES, lost_jobs, rows, wal_bytes
from ranker.durable import flush
from ranker.errors import InfraError, RankerError
from ranker.home import Home
from ranker.intake.archive import unpack
from ranker.intake.receive import ARCHIVE_NAME
from ranker.intake.staging import remove_tree
from ranker.sandbox import orphans
from ranker.settings import Service
from ranker.types import Action, Status

MENDED_TREE = ".mended-tree"
SPOILT_TREE = ".spoilt-tree"


class MendKind(StrEnum):
    """What is mended."""

    JOB = "job"
    ORPHAN = "orphan"
    CHECKPOINT = "checkpoint"
    PIECE = "piece"
    STAGING = "staging"
    TREE = "tree"
    LOG = "log"


Act = Callable[[Engine | None, datetime], str | None]


@dataclass(frozen=True, kw_only=True)
class Mend:
    """One repair that is offered: what is wrong, and what would be done. `act` does it, and says so; None: it was not
    needed any more, or is in use.
    """

    kind: MendKind
    subject: str
    wrong: str
    remedy: str
    act: Act
    submission_id: str | None = None
    job_id: int | None = None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "wrong": self.wrong,
            "remedy": self.remedy,
            "submission": self.submission_id,
            "job": self.job_id,
        }


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What became of a repair; `done` is None where nothing had to be done any more, or somebody uses it now."""

    mend: Mend
    done: str | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**self.mend.to_json(), "done": self.done}


def offers(home: Home, service: Service, *, now: datetime, thorough: bool = False) -> list[Mend]:
    """All that can be mended, leases first. A part that cannot be looked at (doctor says why) offers nothing."""
    patient = Patient(home=home, service=service, now=now, thorough=thorough)
    found: list[Mend] = []
    for part in (_jobs, _orphans, _checkpoints, _pieces, _staging, _trees, _log):
        try:
            found += part(patient)
        except (SQLAlchemyError, RankerError, OSError, sqlite3.Error):
            continue
    return found


def carry_out(mend: Mend, engine: Engine | None, *, actor: str, now: datetime) -> Mended:
    """Do one repair and record it as an event. Raises RankerError, OSError and SQLAlchemyError: then it is not done."""
    done = mend.act(engine, now)
    if done is not None and engine is not None:
        with session(engine) as writing:
            events.record(
                writing,
                actor=actor,
                action=Action.MEND,
                submission_id=mend.submission_id,
                job_id=mend.job_id,
                now=now,
                kind=mend.kind,
                subject=mend.subject,
                wrong=mend.wrong,
                done=done,
            )
    return Mended(mend=mend, done=done)


def _jobs(patient: Patient) -> Iterator[Mend]:
    for job in lost_jobs(patient)[0]:
        yield Mend(
            kind=MendKind.JOB,
            subject=f"job {job.id}",
            wrong=f"job {job.id} has lost its worker {job.worker} in attempt {job.attempt}",
            remedy="queue it again, to go on from its last checkpoint",
            act=partial(_requeue, patient, job.id),
            submission_id=job.submission_id,
            job_id=job.id,
        )


def _requeue(patient: Patient, job_id: int, engine: Engine | None, now: datetime) -> str | None:
    if engine is None or job_id not in {job.id for job in lost_jobs(replace(patient, now=now))[0]}:
        return None
    most = patient.service.infra_attempts
    taken = queue.reap(engine, now=now, is_dead=queue.is_dead_here, max_infra_attempts=most, job_ids={job_id})
    if not taken:
        return None
    with session(engine, read_only=True) as reading:
        return f"it is {reading.get_one(Job, job_id).status}"


def _orphans(patient: Patient) -> Iterator[Mend]:
    home = patient.home.root
    for orphan in orphans.find(home):
        yield Mend(
            kind=MendKind.ORPHAN,
            subject=orphan.name,
            wrong=f"{orphan.kind} {orphan.name} was made by a worker that is dead",
            remedy="remove it",
            act=partial(_remove_orphan, home, orphan),
        )


def _remove_orphan(home: Path, orphan: orphans.Orphan, _engine: Engine | None, _now: datetime) -> str | None:
    return f"{orphan.kind} removed" if orphans.remove(home, orphan) else None


def _checkpoints(patient: Patient) -> Iterator[Mend]:
    for trouble in damaged(patient, rows(patient)):
        yield Mend(
            kind=MendKind.CHECKPOINT,
            subject=str(trouble.path),
            wrong=f"checkpoint {trouble.path}: {trouble.what}; the job's next attempt would stumble over it",
            remedy=f"rename it to {SET_ASIDE}{trouble.path.name}, so that an earlier one is gone on from",
            act=partial(_set_aside, patient.home.root / trouble.path, trouble.job.id),
            submission_id=trouble.job.submission_id,
            job_id=trouble.job.id,
        )


def _set_aside(folder: Path, job_id: int, engine: Engine | None, _now: datetime) -> str | None:
    if engine is None:
        return None
    with session(engine) as writing:  # nobody can claim the job meanwhile
        if writing.get_one(Job, job_id).status == Status.RUNNING or not folder.is_dir():
            return None
        if checkpoint_fault(folder) is None:
            return None
        target = folder.with_name(f"{SET_ASIDE}{folder.name}")
        folder.rename(target)
        flush(folder.parent)
    return f"it is {target.name} now"


def _pieces(patient: Patient) -> Iterator[Mend]:
    for trouble in pieces(patient, rows(patient)):
        yield Mend(
            kind=MendKind.PIECE,
            subject=str(trouble.path),
            wrong=f"{trouble.path} is {trouble.what}",
            remedy="remove it",
            act=partial(_remove_piece, patient, trouble.path),
            submission_id=trouble.job.submission_id,
            job_id=trouble.job.id,
        )


def _remove_piece(patient: Patient, piece: Path, _engine: Engine | None, now: datetime) -> str | None:
    again = replace(patient, now=now)
    if piece not in {trouble.path for trouble in pieces(again, rows(again))}:
        return None
    path = patient.home.root / piece
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return "removed"


def _staging(patient: Patient) -> Iterator[Mend]:
    for folder in abandoned(patient):
        yield Mend(
            kind=MendKind.STAGING,
            subject=str(folder),
            wrong=f"{folder} was left by a command that ended while it took in a submission",
            remedy="remove it",
            act=partial(_remove_staging, folder),
        )


def _remove_staging(folder: Path, _engine: Engine | None, _now: datetime) -> str | None:
    if not is_unlocked(folder):
        return None
    remove_tree(folder)
    if folder.exists():
        raise InfraError(f"{folder} could not be removed whole; is it another user's?")
    return "removed"


def _trees(patient: Patient) -> Iterator[Mend]:
    for each in spoilt(patient):
        if (each.tree.parent / ARCHIVE_NAME).is_file():
            yield Mend(
                kind=MendKind.TREE,
                subject=str(each.tree),
                wrong=f"submission {each.submission_id} was accepted, but {each.what}",
                remedy=f"unpack {ARCHIVE_NAME} again, which must give what was checked",
                act=partial(_unpack_again, patient, each),
                submission_id=each.submission_id,
            )


def _unpack_again(patient: Patient, each: Spoilt, engine: Engine | None, _now: datetime) -> str | None:
    """Beside its place first; then, while nobody can claim a job of the submission, in its place."""
    if engine is None or _is_in_use(engine, each.submission_id):
        return None
    folder = each.tree.parent
    new, old = folder / MENDED_TREE, folder / SPOILT_TREE
    remove_tree(new)
    unpacked = unpack(folder / ARCHIVE_NAME, new, patient.service.archive)
    if unpacked.digest != each.digest:
        remove_tree(new)
        raise InfraError(
            f"{folder / ARCHIVE_NAME} no longer gives the files that were checked; restore it from a backup"
        )
    with session(engine) as writing:
        if _runs(writing, each.submission_id):
            remove_tree(new)
            return None
        if each.tree.is_dir():
            remove_tree(old)
            each.tree.rename(old)
        new.rename(each.tree)
        flush(folder)
    remove_tree(old)
    expected = {"digest": each.digest, "files": unpacked.files, "size_bytes": unpacked.size_bytes}
    wrong = tree_fault(each.tree, expected, thorough=False)
    if wrong is not None:
        raise InfraError(f"{each.tree} was unpacked again, and yet {wrong}")
    return f"unpacked again: {unpacked.files} files of {unpacked.size_bytes:,} bytes, as they were checked"


def _is_in_use(engine: Engine, submission_id: str) -> bool:
    with session(engine, read_only=True) as reading:
        return _runs(reading, submission_id)


def _runs(reading: Session, submission_id: str) -> bool:
    running = select(Job.id).where(Job.submission_id == submission_id, Job.status == Status.RUNNING)
    return reading.scalar(running.limit(1)) is not None


def _log(patient: Patient) -> Iterator[Mend]:
    size = wal_bytes(patient)
    if size >= LARGE_WAL_BYTES:
        yield Mend(
            kind=MendKind.LOG,
            subject=f"{patient.home.database_path.name}-wal",
            wrong=f"the database's write-ahead log has grown to {size / 1e6:.0f} MB",
            remedy="bring it into the database (nothing is lost either way)",
            act=partial(_checkpoint, patient.home.database_path),
        )


def _checkpoint(path: Path, _engine: Engine | None, _now: datetime) -> str | None:
    """None while somebody reads an old state of the database, which the log must keep."""
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    left = os.stat(f"{path}-wal").st_size if os.path.exists(f"{path}-wal") else 0  # noqa: PTH110, PTH116
    return None if busy else f"emptied; {left} bytes are left"
