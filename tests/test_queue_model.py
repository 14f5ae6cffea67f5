"""The queue against a model of it, on a real SQLite file: random lives of workers, organizers, and a jumping clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from effort import count
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from queues import LEASE_S, NOW, attempts, enqueue, fail, job, new_database, pause_of, score
from sqlalchemy import select

from ranker import queue
from ranker.db.models import Job, JobAttempt, Score
from ranker.db.session import session
from ranker.errors import LeaseLostError
from ranker.queue import Claim
from ranker.types import Ending, Fault, JobKind, Progress, Stage, Status

MOST = 3  # infra failures, with which `fail` of `queues` gives a job up
JOBS = st.integers(1, 4)


class QueueMachine(RuleBasedStateMachine):
    """Workers that claim, beat, end, die, and write late; organizers that cancel, retry, prioritize, pause and resume.

    The model of ownership: a claim may write as long as it is the latest of its job and nobody took the job away.
    What a claim must give is worked out from the rows by plain sorting.
    """

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = new_database(Path(self.folder.name))
        self.now = NOW
        self.workers = 0
        self.asked: set[int] = set()
        self.owners: dict[int, Claim] = {}
        self.begun: dict[int, int] = {}
        self.endings: dict[int, list[Ending]] = {}
        self.finished: set[int] = set()
        self.is_paused = False

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(seed=st.integers(0, 3), again=st.booleans())
    def ask(self, seed: int, again: bool) -> None:
        self.asked.add(enqueue(self.engine, seed=seed, now=self.now, again=again).id)

    @rule(target=claims, among=st.none() | st.sets(JOBS))
    def claim(self, among: set[int] | None) -> Claim | None:
        self.workers += 1
        due = [] if self.is_paused else self.due(among)
        expected = due[0] if due else None
        at = queue.next_due(self.engine, now=self.now, job_ids=among)
        assert (at == self.now) == bool(due)
        held = queue.claim(self.engine, worker=f"w{self.workers}", now=self.now, lease_s=LEASE_S, job_ids=among)
        assert (None if held is None else held.job_id) == expected, "not the first of those that are due"
        if held is not None:
            assert held.job_id not in self.owners, "two owners of one job"
            assert held.attempt == self.begun.get(held.job_id, 0) + 1, "attempts do not rise one by one"
            self.owners[held.job_id], self.begun[held.job_id] = held, held.attempt
        return held

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

    @rule(held=claims)
    def beat(self, held: Claim | None) -> None:
        if held is not None:
            progress = Progress(stage=Stage.TRAIN, done=1)
            self.write(
                held,
                None,
                lambda: queue.heartbeat(self.engine, held, now=self.now, lease_s=LEASE_S, progress=progress),
            )

    @rule(held=claims)
    def look(self, held: Claim | None) -> None:
        if held is not None:
            self.write(held, None, lambda: queue.is_asked_back(self.engine, held))

    @rule(held=claims)
    def finish(self, held: Claim | None) -> None:
        if held is not None:
            result = {"attempt": held.attempt}
            if self.write(
                held,
                Ending.SUCCEEDED,
                lambda: queue.finish(self.engine, held, now=self.now, result=result, scores=[score()]),
            ):
                assert held.job_id not in self.finished, "a job was finished twice"
                self.finished.add(held.job_id)

    @rule(held=claims, fault=st.sampled_from(Fault))
    def fail(self, held: Claim | None, fault: Fault) -> None:
        if held is not None and self.write(
            held, Ending.FAILED, lambda: fail(self.engine, held, fault, self.now, most=MOST)
        ):
            assert attempts(self.engine, held.job_id)[-1].fault == fault
            if fault is Fault.ORGANIZER:
                self.is_paused = True
                pause = pause_of(self.engine)
                assert pause is not None
                assert f"job {held.job_id} " in pause.why

    @rule(held=claims)
    def release(self, held: Claim | None) -> None:
        if held is not None:
            self.write(held, Ending.RELEASED, lambda: queue.release(self.engine, held, self.now))

    @rule(held=consumes(claims))
    def die(self, held: Claim | None) -> None:
        if held is not None:
            overdue = {number for number in self.owners if job(self.engine, number).lease_expires_at <= self.now}
            gone = overdue | ({held.job_id} if self.owners.get(held.job_id) == held else set())
            taken = queue.reap(
                self.engine,
                now=self.now,
                is_dead=lambda worker: worker == held.worker,
                max_infra_attempts=MOST,
                lease_s=LEASE_S,
            )
            assert taken == len(gone)
            for number in gone:
                self.end(number, Ending.LOST)
            latest = self.now + timedelta(seconds=LEASE_S)
            assert all(job(self.engine, number).lease_expires_at <= latest for number in self.owners), (
                "a lease for ever"
            )

    @rule(number=JOBS)
    def cancel(self, number: int) -> None:
        with session(self.engine) as writing:
            row = writing.get(Job, number)
            open_or_ours = row is not None and (
                row.status in {Status.QUEUED, Status.RUNNING} or row.fault in {Fault.INFRA, Fault.ORGANIZER}
            )
            assert queue.cancel(writing, job_id=number, now=self.now) == open_or_ours
        if number in self.owners:
            self.end(number, Ending.CANCELLED)

    @rule(number=JOBS, again=st.booleans())
    def retry(self, number: int, again: bool) -> None:
        with session(self.engine) as writing:
            row = writing.get(Job, number)
            if row is not None:
                theirs = row.fault == Fault.PARTICIPANT
                ended = row.status in {Status.FAILED, Status.CANCELLED}
                assert queue.retry(row, again=again) == (ended and (again or not theirs))

    @rule(number=JOBS, to=st.integers(-2, 2))
    def prioritize(self, number: int, to: int) -> None:
        with session(self.engine) as writing:
            row = writing.get(Job, number)
            if row is not None:
                queue.prioritize(row, to)

    @rule(number=JOBS)
    def let_go_first(self, number: int) -> None:
        with session(self.engine) as writing:
            row = writing.get(Job, number)
            if row is not None and row.status == Status.QUEUED:
                queue.prioritize(row, queue.first_priority(writing))
        due = self.due(None)
        assert number not in due or due[0] == number

    @rule(give_back=st.booleans())
    def pause(self, give_back: bool) -> None:
        with session(self.engine) as writing:
            queue.pause(writing, by="me", why="a fan is loud", now=self.now, give_back=give_back)
        self.is_paused = True

    @rule()
    def resume(self) -> None:
        with session(self.engine) as writing:
            queue.resume(writing)
        self.is_paused = False
        with session(self.engine, read_only=True) as reading:
            assert reading.scalars(select(Job).where(Job.fault == Fault.ORGANIZER)).all() == []

    @rule(seconds=st.sampled_from([-86400, -60, 1, 15, 60, 3600]))
    def jump(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def write(self, held: Claim, ending: Ending | None, how: Callable[[], object]) -> bool:
        """Whether it was let through, as it must be for the owner, and for nobody else."""
        allowed, before = self.owners.get(held.job_id) == held, self.rows()
        try:
            how()
        except LeaseLostError:
            assert not allowed, "the owner was refused"
            assert self.rows() == before, "a late writer left something"
            return False
        assert allowed, "a late writer was let through"
        if ending is not None:
            self.end(held.job_id, ending)
        return True

    def end(self, number: int, ending: Ending) -> None:
        del self.owners[number]
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
            assert row.infra_failures <= MOST
            assert (row.infra_failures == MOST) <= (row.status in {Status.FAILED, Status.CANCELLED})
            assert (row.status in {Status.QUEUED, Status.RUNNING}) == (row.finished_at is None)
        assert {row.id for row in jobs.values() if row.status == Status.SUCCEEDED} == self.finished
        assert scores == sorted(self.finished), "a score was written twice, or not at all"
        assert (pause_of(self.engine) is not None) == self.is_paused
        assert all(row.kind == JobKind.EVALUATE for row in jobs.values())


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=count("lives of a queue, 30 moves each", short=20, long=1_500),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
