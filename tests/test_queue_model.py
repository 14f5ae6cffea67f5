"""The queue against a model of it, on a real SQLite file: random lives of workers, organizers, and a jumping clock."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum, auto
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from effort import count
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queues import LEASE_S, NOW, attempts, enqueue, fail, job, new_database, pause_of, score
from sqlalchemy import select

from ranker import queue
from ranker.db.models import Job, JobAttempt, Score
from ranker.db.session import session
from ranker.errors import LeaseLostError
from ranker.queue import Claim
from ranker.types import Ending, Fault, JobKind, Progress, Stage, Status

MOST = 3  # infra failures, with which a job is given up
PROGRESS = Progress(stage=Stage.TRAIN, done=1)
ANY = st.integers(0, 11)  # which of those that there are, modulo their number


class Way(StrEnum):
    """What a worker may want to write about a job that it holds, or held."""

    BEAT = auto()
    LOOK = auto()
    FINISH = auto()
    RELEASE = auto()
    THEIRS = auto()
    OURS = auto()
    ORGANIZERS = auto()


FAULTS = {Way.THEIRS: Fault.PARTICIPANT, Way.OURS: Fault.INFRA, Way.ORGANIZERS: Fault.ORGANIZER}
ENDINGS = {Way.FINISH: Ending.SUCCEEDED, Way.RELEASE: Ending.RELEASED} | dict.fromkeys(FAULTS, Ending.FAILED)


class QueueMachine(RuleBasedStateMachine):
    """Workers that claim, beat, end, die, and write late; organizers that cancel, retry, prioritize, pause and resume.

    The model of ownership: a claim may write as long as it is the latest of its job and nobody took the job away. What
    a claim must give is worked out from the rows by plain sorting.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = new_database(Path(self.folder.name))
        self.now = NOW
        self.workers = 0
        self.asked: set[int] = set()
        self.owners: dict[int, Claim] = {}
        self.stale: list[Claim] = []
        self.begun: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.endings: dict[int, list[Ending]] = {}
        self.finished: set[int] = set()
        self.is_paused = False

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @initialize()
    def begin(self) -> None:
        for seed in range(3):
            self.ask(seed, again=False)

    @rule(seed=st.integers(0, 7), again=st.booleans())
    def ask(self, seed: int, again: bool) -> None:
        number = enqueue(self.engine, seed=seed, now=self.now, again=again).id
        self.asked.add(number)
        self.forgive(number)

    @rule(among=st.none() | st.none() | st.sets(st.integers(1, 8), min_size=1))
    def claim(self, among: set[int] | None) -> None:
        self.workers += 1
        due = [] if self.is_paused else self.due(among)
        assert (queue.next_due(self.engine, now=self.now, job_ids=among) == self.now) == bool(due)
        held = queue.claim(self.engine, worker=f"w{self.workers}", now=self.now, lease_s=LEASE_S, job_ids=among)
        assert (None if held is None else held.job_id) == (due[0] if due else None), "not the first of those due"
        if held is not None:
            assert held.job_id not in self.owners, "two owners of one job"
            assert held.attempt == self.begun.get(held.job_id, 0) + 1, "attempts do not rise one by one"
            self.owners[held.job_id], self.begun[held.job_id] = held, held.attempt

    @precondition(lambda self: self.owners)
    @rule(which=ANY)
    def claim_again_by_the_same_worker(self, which: int) -> None:
        """As a worker does that gives a job back and takes it once more: only the number tells its claims apart."""
        held = self.owner(which)
        self.write(held, Way.RELEASE)
        if not self.is_paused:
            taken = queue.claim(self.engine, worker=held.worker, now=self.now, lease_s=LEASE_S, job_ids={held.job_id})
            assert taken is not None
            assert taken.attempt == held.attempt + 1
            self.owners[held.job_id], self.begun[held.job_id] = taken, taken.attempt

    def owner(self, which: int) -> Claim:
        return self.owners[sorted(self.owners)[which % len(self.owners)]]

    def due(self, among: set[int] | None) -> list[int]:
        """Ids in the order of claims; a time to wait for that no delay explains was written under another clock."""
        with session(self.engine, read_only=True) as reading:
            rows = reading.scalars(select(Job).where(Job.status == Status.QUEUED)).all()
        longest = timedelta(seconds=queue.MAX_RETRY_DELAY_S)
        waiting = [
            row
            for row in rows
            if (among is None or row.id in among)
            and not (row.not_before is not None and self.now < row.not_before <= self.now + longest)
        ]
        return [row.id for row in sorted(waiting, key=lambda row: (-row.priority, row.id))]

    @precondition(lambda self: self.owners)
    @rule(which=ANY, way=st.sampled_from([*Way, Way.OURS, Way.ORGANIZERS]))
    def own(self, which: int, way: Way) -> None:
        """An owner may write, whatever it wants, and what it wrote is what stands there."""
        held = self.owner(which)
        self.write(held, way)
        match way:
            case Way.FINISH:
                assert held.job_id not in self.finished, "a job was finished twice"
                self.finished.add(held.job_id)
            case Way.BEAT:
                beaten = job(self.engine, held.job_id)
                assert beaten.lease_expires_at == self.now + timedelta(seconds=LEASE_S)
                assert beaten.progress == PROGRESS.to_json()
            case Way.ORGANIZERS:
                self.is_paused = True
                pause = pause_of(self.engine)
                assert pause is not None
                assert f"job {held.job_id} " in pause.why
            case Way.OURS:
                self.failures[held.job_id] = self.failures.get(held.job_id, 0) + 1

    @precondition(lambda self: self.stale)
    @rule(which=ANY)
    def late(self, which: int) -> None:
        """Nobody else may, in any way, and leaves nothing; most of all where another attempt runs now."""
        tempting = [held for held in self.stale if held.job_id in self.owners] or self.stale
        held = tempting[which % len(tempting)]
        before = self.rows()
        for way in Way:
            with pytest.raises(LeaseLostError, match=f"attempt {held.attempt}"):
                self.do(held, way)
        assert self.rows() == before, "a late writer left something"

    @precondition(lambda self: self.owners)
    @rule(which=ANY, is_dead=st.booleans())
    def reap(self, which: int, is_dead: bool) -> None:
        overdue = {number for number in self.owners if job(self.engine, number).lease_expires_at <= self.now}
        dead = {self.owner(which).job_id} if is_dead else set()
        killed = {self.owners[number].worker for number in dead}
        # A worker may hold several jobs (a coordinator does); all go with it.
        gone = overdue | {number for number, held in self.owners.items() if held.worker in killed}
        taken = queue.reap(self.engine, now=self.now, is_dead=killed.__contains__, max_infra_attempts=MOST)
        assert taken == len(gone)
        for number in gone:
            self.end(number, Ending.LOST)
            self.failures[number] = self.failures.get(number, 0) + 1
        latest = self.now + timedelta(seconds=LEASE_S)
        assert all(job(self.engine, number).lease_expires_at <= latest for number in self.owners), "a lease for ever"

    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        number = self.asked_for(which)
        before = job(self.engine, number)
        is_open = before.status in {Status.QUEUED, Status.RUNNING} or before.fault in {Fault.INFRA, Fault.ORGANIZER}
        with session(self.engine) as writing:
            assert queue.cancel(writing, job_id=number, now=self.now) == is_open
        if number in self.owners:
            self.end(number, Ending.CANCELLED)

    @rule(which=ANY, again=st.booleans())
    def retry(self, which: int, again: bool) -> None:
        number = self.asked_for(which)
        before = job(self.engine, number)
        can = before.status in {Status.FAILED, Status.CANCELLED} and (again or before.fault != Fault.PARTICIPANT)
        with session(self.engine) as writing:
            assert queue.retry(writing.get_one(Job, number), again=again) == can
        self.forgive(number)

    @rule(which=ANY, to=st.integers(-2, 2))
    def prioritize(self, which: int, to: int) -> None:
        with session(self.engine) as writing:
            queue.prioritize(writing.get_one(Job, self.asked_for(which)), to)

    @rule(which=ANY)
    def let_go_first(self, which: int) -> None:
        number = self.asked_for(which)
        with session(self.engine) as writing:
            row = writing.get_one(Job, number)
            if row.status == Status.QUEUED:
                queue.prioritize(row, queue.first_priority(writing))
        due = self.due(None)
        if job(self.engine, number).status == Status.QUEUED:
            assert number not in due or due[0] == number

    @precondition(lambda self: not self.is_paused)
    @rule(give_back=st.booleans())
    def pause(self, give_back: bool) -> None:
        with session(self.engine) as writing:
            queue.pause(writing, by="me", why="a fan is loud", now=self.now, give_back=give_back)
        self.is_paused = True
        assert all(queue.is_asked_back(self.engine, held) == give_back for held in self.owners.values())

    @precondition(lambda self: self.is_paused)
    @rule()
    def resume(self) -> None:
        with session(self.engine) as writing:
            for again in queue.resume(writing):
                self.forgive(again.id)
        self.is_paused = False
        with session(self.engine, read_only=True) as reading:
            assert reading.scalars(select(Job).where(Job.fault == Fault.ORGANIZER)).all() == []

    @rule(seconds=st.sampled_from([-86400, -60, 1, 15, 60, 3600]))
    def jump(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def asked_for(self, which: int) -> int:
        return sorted(self.asked)[which % len(self.asked)]

    def forgive(self, number: int) -> None:
        """A job that was asked for again begins with a fresh count of failures."""
        row = job(self.engine, number)
        if row.status == Status.QUEUED and row.reasons == []:
            self.failures.pop(number, None)

    def write(self, held: Claim, way: Way) -> None:
        self.do(held, way)
        if way in ENDINGS:
            self.end(held.job_id, ENDINGS[way])
        if way in FAULTS:
            assert attempts(self.engine, held.job_id)[-1].fault == FAULTS[way]

    def do(self, held: Claim, way: Way) -> None:
        match way:
            case Way.BEAT:
                queue.heartbeat(self.engine, held, now=self.now, lease_s=LEASE_S, progress=PROGRESS)
            case Way.LOOK:
                queue.is_asked_back(self.engine, held)
            case Way.FINISH:
                result = {"attempt": held.attempt}
                queue.finish(self.engine, held, now=self.now, result=result, scores=[score()])
            case Way.RELEASE:
                queue.release(self.engine, held, self.now)
            case _:
                fail(self.engine, held, FAULTS[way], self.now, most=MOST)

    def end(self, number: int, ending: Ending) -> None:
        self.stale.append(self.owners.pop(number))
        self.endings.setdefault(number, []).append(ending)

    def rows(self) -> list[tuple[object, ...]]:
        with session(self.engine, read_only=True) as reading:
            tables = (Job.__table__, JobAttempt.__table__, Score.__table__)
            return [tuple(row) for table in tables for row in reading.execute(select(*table.columns)).all()]

    @invariant()
    def the_database_agrees(self) -> None:
        with session(self.engine, read_only=True) as reading:
            jobs = {row.id: row for row in reading.scalars(select(Job))}
            history = reading.scalars(select(JobAttempt).order_by(JobAttempt.number)).all()
            scores = sorted(reading.scalars(select(Score.job_id)))
        assert set(jobs) == self.asked, "a job was lost"
        running = {row.id: (row.worker, row.attempt) for row in jobs.values() if row.status == Status.RUNNING}
        assert running == {number: (held.worker, held.attempt) for number, held in self.owners.items()}
        assert running == {each.job_id: (each.worker, each.number) for each in history if each.ending is None}
        for number, row in jobs.items():
            own = [each for each in history if each.job_id == number]
            assert [each.number for each in own] == list(range(1, row.attempt + 1))
            assert [each.ending for each in own if each.ending is not None] == self.endings.get(number, [])
            assert row.infra_failures == self.failures.get(number, 0) <= MOST
            assert (row.infra_failures == MOST) <= (row.status in {Status.FAILED, Status.CANCELLED})
            assert (row.status in {Status.QUEUED, Status.RUNNING}) == (row.finished_at is None)
        assert {row.id for row in jobs.values() if row.status == Status.SUCCEEDED} == self.finished
        assert scores == sorted(self.finished), "a score was written twice, or not at all"
        assert (pause_of(self.engine) is not None) == self.is_paused
        assert all(row.kind == JobKind.EVALUATE for row in jobs.values())


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=count("lives of a queue, 50 moves each", short=30, long=1_500),
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
