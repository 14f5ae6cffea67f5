"""The database, and the jobs in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, func, select, text
from sqlalchemy.orm import Session, selectinload

from ranker import queue
from ranker.db.facts import facts
from ranker.db.migrate import current_revision, head_revision
from ranker.db.models import Job, Submission
from ranker.db.place import database_url
from ranker.db.rules import Event
from ranker.db.session import answering, connect, session
from ranker.doctor.finding import Found, Patient, Verdict
from ranker.types import Status

_WITH = (selectinload(Job.scores), selectinload(Job.submission))
_KEEPING = ("fsync", "synchronous_commit", "full_page_writes")
LARGE_WAL_BYTES = 64_000_000
"""SQLite empties its log into the database at 4 MB, unless a reader that never ends keeps it from that."""


def database(patient: Patient) -> Iterator[Found]:
    """Its revision, and whether SQLite finds it whole, or whether a server keeps what it has said to be written."""
    url = database_url(patient.home)
    yield from _on_server(url) if url.get_backend_name() != "sqlite" else _in_file(patient.home.database_path)


def _on_server(url: URL) -> Iterator[Found]:
    engine = connect(url)
    try:
        with answering(engine):
            seen = facts(engine)
            with session(engine, read_only=True) as reading:
                careless = [name for name in _KEEPING if reading.scalar(text(f"SHOW {name}")) == "off"]
    finally:
        engine.dispose()
    what = f"PostgreSQL {seen.version}, {seen.where}"
    if careless:
        advice = f"set {' and '.join(f'{name} = on' for name in careless)} there, and restart it"
        yield Verdict.WARNING, f"{what}: has {', '.join(careless)} off, a power cut can lose what was written", advice
    elif seen.revision is None:
        yield Verdict.OK, f"{what}: nothing in it yet; the first `ranker ingest` begins", ""
    elif seen.revision != seen.newest_revision:
        found = f"{what}: at revision {seen.revision}, this ranker's is {seen.newest_revision}"
        yield Verdict.WARNING, found, "make a backup (pg_dump); the next command migrates it, and keeps no copy"
    else:
        size = f"{seen.size_bytes / 1e6:.1f} MB"
        yield Verdict.OK, f"{what}: revision {seen.revision}, {seen.rows['submission']} submissions, {size}", ""


def _in_file(path: Path) -> Iterator[Found]:
    if not path.exists():
        yield Verdict.OK, f"{path} is not there yet; the first `ranker ingest` makes it", ""
        return
    engine = connect(path)
    try:
        revision, head = current_revision(engine), head_revision()
        with session(engine, read_only=True) as reading:
            damage = list(reading.scalars(text("PRAGMA quick_check(3)")))
            if damage != ["ok"]:
                found = f"{path} is damaged: {'; '.join(map(str, damage))}"
                advice = "put the newest ranker.db.backup-* in its place, or use sqlite3's .recover"
                yield Verdict.MISSING, found, advice
                return
            if revision != head:
                found = f"{path} is at revision {revision}, this ranker's is {head}"
                yield Verdict.WARNING, found, "the next command migrates it, and keeps a copy"
                return
            count = reading.scalar(select(func.count()).select_from(Submission))
        yield Verdict.OK, f"revision {revision}, {count} submissions, {path.stat().st_size / 1e6:.1f} MB, intact", ""
    finally:
        engine.dispose()


def write_ahead_log(patient: Patient) -> Iterator[Found]:
    """What is not in the database's own file yet."""
    size = wal_bytes(patient)
    if database_url(patient.home).get_backend_name() != "sqlite":
        yield Verdict.OK, "the server's matter", ""
    elif size < LARGE_WAL_BYTES:
        yield Verdict.OK, f"{size / 1e6:.1f} MB", ""
    else:
        found = f"{size / 1e6:.0f} MB have not gone into ranker.db: some program has been reading it for very long"
        yield Verdict.WARNING, found, "end what reads ranker.db, then `ranker doctor --mend` empties it"


def wal_bytes(patient: Patient) -> int:
    """Size of the write-ahead log; 0 where there is none."""
    if database_url(patient.home).get_backend_name() != "sqlite":
        return 0
    path = patient.home.database_path
    log = path.with_name(f"{path.name}-wal")
    return log.stat().st_size if log.exists() else 0


def jobs(patient: Patient) -> Iterator[Found]:
    """How many run and wait, and which were left behind."""
    lost, hung = lost_jobs(patient)
    all_jobs = rows(patient)
    running = sum(job.status == Status.RUNNING for job in all_jobs)
    queued = sum(job.status == Status.QUEUED for job in all_jobs)
    if not lost and not hung:
        yield Verdict.OK, f"{running} jobs running, {queued} queued, none left behind", ""
        return
    numbers = ", ".join(str(job.id) for job in (*lost, *hung))
    found = f"{len(lost) + len(hung)} of {running} running jobs have lost their worker: {numbers}"
    advice = "`ranker evaluate --all` takes these jobs over and goes on from their checkpoints"
    if lost:
        advice += ", `ranker doctor --mend` queues them again at once"
    for job in hung:
        found += f"; process {_pid(job.worker or '')} of job {job.id} lives, but its lease ran out"
        advice += f"; look at process {_pid(job.worker or '')}, and end it if it hangs"
    yield Verdict.WARNING, found, advice


def lost_jobs(patient: Patient) -> tuple[list[Job], list[Job]]:
    """Running jobs whose worker is dead, or silent and elsewhere; and those whose worker lives here, but is silent."""
    lost: list[Job] = []
    hung: list[Job] = []
    for job in rows(patient):
        if job.status != Status.RUNNING or job.worker is None or job.lease_expires_at is None:
            continue
        if queue.is_dead_here(job.worker):
            lost.append(job)
        elif job.lease_expires_at <= patient.now:
            (hung if lives_here(job.worker) else lost).append(job)
    return lost, hung


def lives_here(worker: str) -> bool:
    """Whether a worker (`queue.worker_id`) is known to run on this machine."""
    pid = _pid(worker)
    return pid.isdecimal() and queue.worker_id(int(pid)).rsplit(":", 1)[1] == worker.rsplit(":", 1)[1]


def latest_event(patient: Patient) -> datetime | None:
    """When something was last recorded; None if nothing was, or it cannot be read."""
    with _reading(patient) as reading:
        latest = select(Event.at).order_by(Event.id.desc()).limit(1)
        return None if reading is None else reading.scalar(latest)


def rows(patient: Patient) -> Sequence[Job]:
    """All jobs; none where there is no database, or one that a command must migrate first."""
    with _reading(patient) as reading:
        every = select(Job).order_by(Job.id).options(*_WITH)
        return [] if reading is None else reading.scalars(every).all()


@contextmanager
def _reading(patient: Patient) -> Iterator[Session | None]:
    """A session, if there is a database that this version can read as it is."""
    url = database_url(patient.home)
    if url.get_backend_name() == "sqlite" and not patient.home.database_path.exists():
        yield None
        return
    engine = connect(url)
    try:
        if current_revision(engine) != head_revision():
            yield None
            return
        with session(engine, read_only=True) as reading:
            yield reading
    finally:
        engine.dispose()


def _pid(worker: str) -> str:
    return worker.rsplit(":", 2)[-2]
