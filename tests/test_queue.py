"""The queue: one owner per job, nothing written late, nothing lost, whatever dies and however the clock jumps."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from effort import count
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from sqlalchemy import Engine, event, select

from ranker import queue
from ranker.db.models import Job, Score, Submission
from ranker.db.session import open_database, session
from ranker.errors import LeaseLostError, OrganizerError
from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.types import Condition, Fault, JobKind, Precision, Progress, Stage, Status

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


def new_database(root: Path) -> Engine:
    engine = open_database(Home(root=root))
    with session(engine) as writing:
        writing.add(Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
    return engine


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


def test_a_job_is_known_by_what_it_asks() -> None:
    """Attacks identity: every part of the question changes the key, and only they do."""
    parts = [("s", JobKind.CHECK, None, 0), ("t", JobKind.CHECK, None, 0), ("s", JobKind.EVALUATE, None, 0)]
    parts += [("s", JobKind.CHECK, "d", 0), ("s", JobKind.CHECK, None, 1)]
    assert len({queue.job_key(*part) for part in parts}) == 5
    assert queue.job_key(*parts[0]) == queue.job_key(*parts[0])


def test_a_question_is_queued_once(engine: Engine) -> None:
    """Attacks duplicates: the same question gives the same job; another condition or seed gives another."""
    assert [enqueue(engine).id, enqueue(engine).id] == [1, 1]
    assert [enqueue(engine, seed=1).id, enqueue(engine, steps=7).id, enqueue(engine, track="B").id] == [2, 3, 4]
    claim(engine)
    assert enqueue(engine).status == Status.RUNNING


def test_a_claim_says_all_about_its_job(engine: Engine) -> None:
    """Attacks what a worker sees: the condition survives the database, digest and words alike."""
    enqueue(engine, seed=7)
    held = claim(engine)
    assert (held.job_id, held.attempt, held.kind, held.seed) == (1, 1, JobKind.EVALUATE, 7)
    assert (held.benchmark, held.track, held.submission_id) == ("mini", "A", TEAM)
    assert held.condition == condition()
    assert held.key == queue.job_key(TEAM, JobKind.EVALUATE, condition().digest, 7)
    assert job(engine).lease_expires_at == after(LEASE_S)


def test_claims_come_in_order_and_among_the_given(engine: Engine) -> None:
    """Attacks order and the filter: oldest first, never a job that was not asked for."""
    for seed in range(4):
        enqueue(engine, seed=seed)
    taken = queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S, job_ids=[3, 4])
    assert taken is not None
    assert taken.job_id == 3
    assert [claim(engine).job_id, claim(engine).job_id] == [1, 2]
    assert queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S, job_ids=[]) is None
    assert queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S, job_ids=[1, 2, 3]) is None


def test_many_claim_at_once_and_none_twice(engine: Engine) -> None:
    """Attacks the claim's transaction: eight threads take forty jobs, each exactly once."""
    for seed in range(40):
        enqueue(engine, seed=seed)
    taken: list[int] = []

    def work(worker: str) -> None:
        while (held := queue.claim(engine, worker=worker, now=NOW, lease_s=LEASE_S)) is not None:
            taken.append(held.job_id)

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_a_finished_job_has_its_scores(engine: Engine) -> None:
    """Attacks finish: state, result and scores come together, the lease is gone, asking again changes nothing."""
    enqueue(engine)
    queue.finish(engine, claim(engine), now=after(5), result={"run": "x"}, scores=[score("a"), score("b")])
    done = enqueue(engine, again=True)
    assert (done.status, done.result, done.finished_at) == (Status.SUCCEEDED, {"run": "x"}, after(5))
    assert (done.worker, done.lease_expires_at) == (None, None)
    with session(engine, read_only=True) as reading:
        assert [(row.task, row.blind) for row in reading.scalars(select(Score))] == [("a", 0.1), ("b", 0.1)]


def test_a_finish_is_whole_or_not_at_all(engine: Engine) -> None:
    """Attacks a death inside finish: a failure at the second score leaves the job running and without any score."""
    enqueue(engine)
    held = claim(engine)

    def die(_mapper: object, _connection: object, row: Score) -> None:
        if row.task == "b":
            raise KeyboardInterrupt

    event.listen(Score, "before_insert", die)
    try:
        with pytest.raises(KeyboardInterrupt):
            queue.finish(engine, held, now=NOW, result={}, scores=[score("a"), score("b")])
    finally:
        event.remove(Score, "before_insert", die)
    assert job(engine).status == Status.RUNNING
    with session(engine, read_only=True) as reading:
        assert reading.scalars(select(Score)).all() == []
    queue.finish(engine, held, now=NOW, result={}, scores=[score("a"), score("b")])
    assert job(engine).status == Status.SUCCEEDED


def test_a_heartbeat_prolongs_the_lease_and_keeps_progress(engine: Engine) -> None:
    """Attacks leases: with beats, no reaper takes the job; a beat without progress does not wipe it."""
    enqueue(engine)
    held = claim(engine)
    progress = Progress(stage=Stage.TRAIN, done=3, total=300, loss=1.5)
    queue.heartbeat(engine, held, now=after(100), lease_s=LEASE_S, progress=progress)
    queue.heartbeat(engine, held, now=after(200), lease_s=LEASE_S, progress=None)
    assert reap(engine, after(319)) == 0
    assert job(engine).progress == progress.to_json()
    assert reap(engine, after(320)) == 1


@pytest.mark.parametrize("how", ["heartbeat", "finish", "fail", "release"])
@pytest.mark.parametrize("lost", ["reaped", "taken", "taken by the same worker", "finished", "cancelled", "deleted"])
def test_late_writes_are_refused(engine: Engine, how: str, lost: str) -> None:
    """Attacks the fence: each way to write, after each way to lose the job, raises and changes nothing."""
    enqueue(engine)
    held = claim(engine)
    if lost in {"reaped", "taken", "taken by the same worker"}:
        reap(engine, after(LEASE_S))
    if lost in {"taken", "taken by the same worker"}:
        claim(engine, "w1" if "same" in lost else "w2", after(LEASE_S))
    if lost == "finished":
        queue.finish(engine, held, now=NOW, result={"first": 1}, scores=[])
    with session(engine) as writing:
        if lost == "cancelled":
            assert queue.cancel(writing, job_id=1, now=NOW)
        if lost == "deleted":
            writing.delete(writing.get_one(Job, 1))
    before = snapshot(engine)
    with pytest.raises(LeaseLostError, match="attempt 1"):
        write_late(engine, how, held)
    assert snapshot(engine) == before


def write_late(engine: Engine, how: str, held: Claim) -> None:
    match how:
        case "heartbeat":
            queue.heartbeat(engine, held, now=after(200), lease_s=LEASE_S, progress=Progress(stage=Stage.LOAD))
        case "finish":
            queue.finish(engine, held, now=after(200), result={"late": 1}, scores=[score()])
        case "fail":
            fail(engine, held, Fault.PARTICIPANT)
        case _:
            queue.release(engine, held, after(200))


def snapshot(engine: Engine) -> list[tuple[object, ...]]:
    with session(engine, read_only=True) as reading:
        jobs = [tuple(row) for row in reading.execute(select(*Job.__table__.columns)).all()]
        return jobs + [tuple(row) for row in reading.execute(select(*Score.__table__.columns)).all()]


def test_a_participants_failure_is_final(engine: Engine) -> None:
    """Attacks retries of what cannot succeed: never due again, asked for again only on purpose."""
    enqueue(engine)
    assert fail(engine, claim(engine), Fault.PARTICIPANT) is Status.FAILED
    assert queue.claim(engine, worker="w", now=after(1e6), lease_s=LEASE_S) is None
    kept = enqueue(engine)
    assert (kept.status, kept.fault, kept.reasons) == (Status.FAILED, Fault.PARTICIPANT, ["because"])
    queued = enqueue(engine, again=True)
    assert (queued.status, queued.fault, queued.reasons, queued.finished_at) == (Status.QUEUED, None, [], None)
    assert claim(engine).attempt == 2


def test_our_failure_is_tried_again_later_and_not_for_ever(engine: Engine) -> None:
    """Attacks back-off: 10 s, 20 s, then given up; asking again starts a new count, and attempts go on rising."""
    enqueue(engine)
    assert fail(engine, claim(engine), Fault.INFRA) is Status.QUEUED
    assert queue.claim(engine, worker="w", now=after(9.9), lease_s=LEASE_S) is None
    assert queue.next_due(engine, now=after(5)) == after(10)
    assert queue.next_due(engine, now=after(10)) == after(10)
    assert fail(engine, claim(engine, now=after(10)), Fault.INFRA, after(10)) is Status.QUEUED
    assert queue.claim(engine, worker="w", now=after(29.9), lease_s=LEASE_S) is None
    assert fail(engine, claim(engine, now=after(30)), Fault.INFRA, after(30)) is Status.FAILED
    assert job(engine).fault == Fault.INFRA
    assert queue.next_due(engine, now=after(30)) is None
    enqueue(engine)
    assert claim(engine).attempt == 4
    assert job(engine).infra_failures == 0


def test_only_a_check_is_asked_again_after_success(engine: Engine) -> None:
    """Attacks scores that are measured twice: a check with a changed question is done anew, and only if asked for."""
    for attempt in (1, 2):
        with session(engine) as writing:
            asked = queue.enqueue(
                writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=0, now=NOW, again=True
            )
            assert asked.status == Status.QUEUED
        held = claim(engine)
        assert held.attempt == attempt
        queue.finish(engine, held, now=NOW, result={"n": attempt}, scores=[])
    with session(engine) as writing:
        kept = queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
        assert (kept.status, kept.result) == (Status.SUCCEEDED, {"n": 2})


def test_an_organizers_failure_and_a_cancelled_job_can_be_queued_again(engine: Engine) -> None:
    """Attacks dead ends: once the cause is gone, asking again is enough."""
    enqueue(engine)
    assert fail(engine, claim(engine), Fault.ORGANIZER) is Status.FAILED
    assert enqueue(engine).status == Status.QUEUED
    with session(engine) as writing:
        assert queue.cancel(writing, job_id=1, now=NOW)
        assert not queue.cancel(writing, job_id=1, now=NOW)
        assert not queue.cancel(writing, job_id=99, now=NOW)
    assert queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S) is None
    assert enqueue(engine).status == Status.QUEUED


def test_a_released_job_pays_nothing(engine: Engine) -> None:
    """Attacks Ctrl-C: due at once, no failure counted, the next attempt has a new number."""
    enqueue(engine)
    queue.release(engine, claim(engine), after(3))
    assert (job(engine).status, job(engine).infra_failures) == (Status.QUEUED, 0)
    assert claim(engine, now=after(3)).attempt == 2


def test_only_the_dead_and_the_overdue_are_reaped(engine: Engine) -> None:
    """Attacks the reaper: it takes the dead worker's job at once, the silent one's when its lease ends, no other."""
    for seed in range(3):
        enqueue(engine, seed=seed)
    claim(engine, "dead"), claim(engine, "silent"), claim(engine, "alive", after(60))
    assert reap(engine, after(1), "dead") == 1
    assert [job(engine, number).status for number in (1, 2, 3)] == [Status.QUEUED, Status.RUNNING, Status.RUNNING]
    assert reap(engine, after(LEASE_S), "dead") == 1
    assert job(engine, 3).status == Status.RUNNING
    assert "dead" in job(engine, 1).reasons[0]


def test_a_job_that_kills_its_workers_is_given_up(engine: Engine) -> None:
    """Attacks a poisonous job: after the allowed number of dead workers it fails instead of taking the next."""
    enqueue(engine)
    for attempt in (1, 2, 3):
        assert claim(engine, f"w{attempt}").attempt == attempt
        assert reap(engine, NOW, f"w{attempt}", most=3) == 1
    assert (job(engine).status, job(engine).fault) == (Status.FAILED, Fault.INFRA)


def test_a_clock_set_back_does_not_hide_a_job(engine: Engine) -> None:
    """Attacks waiting for a time that was written before the clock was set back by a day."""
    enqueue(engine, now=after(86400))
    fail(engine, claim(engine, now=after(86400)), Fault.INFRA, after(86400))
    assert queue.next_due(engine, now=NOW) == NOW
    assert claim(engine).attempt == 2


def test_every_move_outside_the_table_is_a_mistake_of_ours(engine: Engine) -> None:
    """Attacks the table of moves: exactly its entries pass, of all pairs of states."""
    passed = set()
    for start in Status:
        for end in Status:
            row = Job(id=1, status=start)
            try:
                queue._move(row, end)
            except OrganizerError:
                assert row.status == start
            else:
                passed.add((start, end))
    assert passed == {(start, end) for start, ends in queue.MOVES.items() for end in ends}
    assert len(passed) == 9


def test_a_reused_pid_is_not_taken_for_the_worker() -> None:
    """Attacks identity by pid: this process lives; a name with our pid and another start is dead."""
    mine = queue.worker_id()
    assert int(mine.rsplit(":", 2)[1]) == os.getpid()
    assert not queue.is_dead_here(mine)
    assert queue.is_dead_here(f"{mine}0")


def test_machines_are_told_apart_by_more_than_their_name() -> None:
    """Attacks host names: renaming the host changes nothing, a restart ends its workers, of others nothing is known."""
    host, pid, start = queue.worker_id().rsplit(":", 2)
    boot, namespace, tick = start.split("-")
    other_boot = "00000000" if boot != "00000000" else "11111111"
    assert not queue.is_dead_here(f"renamed:{pid}:{start}")
    assert queue.is_dead_here(f"renamed:{pid}:{start}0")
    assert queue.is_dead_here(f"{host}:{pid}:{other_boot}-{namespace}-{tick}")
    assert not queue.is_dead_here(f"another:{pid}:{other_boot}-{namespace}-{tick}")
    assert not queue.is_dead_here(f"{host}:{pid}:{boot}-{namespace}0-{tick}")


def test_a_process_that_was_killed_is_dead_even_before_it_is_waited_for() -> None:
    """Attacks zombies: a killed process whose parent has not noticed yet does no work any more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = queue.worker_id(process.pid)
        assert not queue.is_dead_here(name)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert queue.is_dead_here(name)
    assert queue.is_dead_here(name)


class QueueMachine(RuleBasedStateMachine):
    """Workers that claim, beat, end, die, and write late, under a clock that jumps both ways.

    The model is one line: a claim may write as long as it is the job's latest and nobody took the job away.
    """

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = new_database(Path(self.folder.name))
        self.now = NOW
        self.workers = 0
        self.owners: dict[int, Claim] = {}
        self.attempts: dict[int, int] = {}
        self.finished: set[int] = set()

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(seed=st.integers(0, 2), again=st.booleans())
    def ask(self, seed: int, again: bool) -> None:
        enqueue(self.engine, seed=seed, now=self.now, again=again)

    @rule(target=claims)
    def claim(self) -> Claim | None:
        self.workers += 1
        held = queue.claim(self.engine, worker=f"w{self.workers}", now=self.now, lease_s=LEASE_S)
        if held is not None:
            assert held.job_id not in self.owners, "two owners of one job"
            assert held.attempt > self.attempts.get(held.job_id, 0), "an attempt's number was given twice"
            self.owners[held.job_id], self.attempts[held.job_id] = held, held.attempt
        return held

    @rule(held=claims)
    def beat(self, held: Claim | None) -> None:
        if held is not None:
            self.write(
                held,
                ends=False,
                how=lambda: queue.heartbeat(
                    self.engine, held, now=self.now, lease_s=LEASE_S, progress=Progress(stage=Stage.TRAIN, done=1)
                ),
            )

    @rule(held=claims)
    def finish(self, held: Claim | None) -> None:
        if held is not None and self.write(
            held,
            ends=True,
            how=lambda: queue.finish(
                self.engine, held, now=self.now, result={"attempt": held.attempt}, scores=[score()]
            ),
        ):
            assert held.job_id not in self.finished, "a job was finished twice"
            self.finished.add(held.job_id)

    @rule(held=claims, fault=st.sampled_from(Fault))
    def fail(self, held: Claim | None, fault: Fault) -> None:
        if held is not None:
            self.write(held, ends=True, how=lambda: fail(self.engine, held, fault, self.now))

    @rule(held=claims)
    def release(self, held: Claim | None) -> None:
        if held is not None:
            self.write(held, ends=True, how=lambda: queue.release(self.engine, held, self.now))

    @rule(held=consumes(claims))
    def die(self, held: Claim | None) -> None:
        if held is not None:
            owned = self.owners.get(held.job_id) == held
            before = {
                number for number, owner in self.owners.items() if job(self.engine, number).lease_expires_at <= self.now
            }
            count = reap(self.engine, self.now, held.worker)
            gone = before | ({held.job_id} if owned else set())
            assert count == len(gone)
            for number in gone:
                del self.owners[number]

    @rule(number=st.integers(1, 3))
    def cancel(self, number: int) -> None:
        with session(self.engine) as writing:
            if queue.cancel(writing, job_id=number, now=self.now):
                self.owners.pop(number, None)

    @rule(seconds=st.sampled_from([-86400, -60, 1, 15, 60, 3600]))
    def jump(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def write(self, held: Claim, *, ends: bool, how) -> bool:  # type: ignore[no-untyped-def]
        allowed = self.owners.get(held.job_id) == held
        try:
            how()
        except LeaseLostError:
            assert not allowed, "the owner was refused"
            return False
        assert allowed, "a late writer was let through"
        if ends:
            del self.owners[held.job_id]
        return True

    @invariant()
    def the_database_agrees(self) -> None:
        with session(self.engine, read_only=True) as reading:
            rows = reading.scalars(select(Job)).all()
            running = {row.id: (row.worker, row.attempt) for row in rows if row.status == Status.RUNNING}
            assert running == {number: (held.worker, held.attempt) for number, held in self.owners.items()}
            assert {row.id for row in rows if row.status == Status.SUCCEEDED} == self.finished
            assert sorted(reading.scalars(select(Score.job_id))) == sorted(self.finished)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=count("lives of a queue, 25 moves each", short=25, long=1_000),
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
