"""A queue to attack: a database with one submission, and the queue's functions with what tests never vary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from postgres import restored, saved
from sqlalchemy import Engine, select

from ranker import queue
from ranker.db.models import Job, JobAttempt, Pause, Submission
from ranker.db.place import VARIABLE
from ranker.db.session import open_database, session
from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.types import Condition, Fault, JobKind, Precision, Status

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
LEASE_S = 120.0
TEAM = "a" * 12


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def condition(track: str = "A", steps: int = 300) -> Condition:
    return Condition(
        benchmark="mini",
        track=track,
        measurement="1" * 64,
        data="2" * 64,
        decoder="3" * 64,
        decoder_layers=4,
        metric_models="",
        steps=steps,
        precision=Precision.BF16,
        device="cpu",
        sandboxed=True,
        demonstration=("four layers",),
    )


def score(task: str = "pitch", value: float = 0.5) -> NewScore:
    return NewScore(task=task, metric="Accuracy", value=value, items=100, predictions=f"{task}.parquet", blind=0.1)


@cache
def _template(server: str | None) -> bytes:
    with TemporaryDirectory() as folder:
        home = Home(root=Path(folder))
        engine = open_database(home)
        with session(engine) as writing:
            team = Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW)
            writing.add(team)
        engine.dispose()  # the last connection puts the write-ahead log into the file
        return saved(home)


def new_database(root: Path) -> Engine:
    """A migrated database with one submission: a copy of one that was made before, since migrations take time."""
    return restored(_template(os.environ.get(VARIABLE)), Home(root=root))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_database(tmp_path)
    yield engine
    engine.dispose()


def enqueue(engine: Engine, *, seed: int = 0, now: datetime = NOW, again: bool = False, **fields: str | int) -> Job:
    with session(engine) as writing:
        return queue.enqueue(
            writing,
            submission_id=TEAM,
            kind=JobKind.EVALUATE,
            condition=condition(**fields),  # type: ignore[arg-type]
            seed=seed,
            now=now,
            again=again,
        )


def claim(engine: Engine, worker: str = "w1", now: datetime = NOW) -> Claim:
    taken = queue.claim(engine, worker=worker, now=now, lease_s=LEASE_S)
    assert taken is not None
    return taken


def job(engine: Engine, job_id: int = 1) -> Job:
    with session(engine, read_only=True) as reading:
        return reading.get_one(Job, job_id)


def fail(engine: Engine, held: Claim, fault: Fault, now: datetime = NOW, most: int = 3) -> Status:
    return queue.fail(
        engine, held, now=now, fault=fault, reasons=["because"], max_infra_attempts=most, retry_delay_s=10
    )


def reap(engine: Engine, now: datetime, *dead: str, most: int = 3) -> int:
    return queue.reap(engine, now=now, is_dead=lambda worker: worker in dead, max_infra_attempts=most)


def attempts(engine: Engine, job_id: int = 1) -> list[JobAttempt]:
    """The history of a job, oldest first."""
    with session(engine, read_only=True) as reading:
        query = select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.number)
        return list(reading.scalars(query))


def pause_of(engine: Engine) -> Pause | None:
    with session(engine, read_only=True) as reading:
        return queue.paused(reading)
