"""The queue: one owner per job, nothing written late, nothing lost, whatever dies and however the clock jumps."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from queues import LEASE_S, NOW, TEAM, after, attempts, claim, condition, enqueue, fail, job, reap, score
from queues import engine as engine  # noqa: PLC0414  a fixture, found by its name
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import IntegrityError

from ranker import queue
from ranker.db.migrate import prepare_server
from ranker.db.models import Job, JobAttempt, Score
from ranker.db.place import database_url
from ranker.db.session import connect, open_database, session
from ranker.errors import LeaseLostError, OrganizerError
from ranker.home import Home, asset
from ranker.queue import Claim, moves
from ranker.types import Ending, Fault, JobKind, Progress, Stage, Status


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
@pytest.mark.parametrize("lost", ["reaped", "taken", "taken by the same worker", "finished", "cancelled"])
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
        tables = (Job.__table__, JobAttempt.__table__, Score.__table__)
        return [tuple(row) for table in tables for row in reading.execute(select(*table.columns)).all()]


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
    """Attacks the table of moves: exactly its entries pass, of all pairs of states, in our code and in the database
    itself, where somebody writes past us.
    """
    enqueue(engine)
    expected = {(start, end) for start, ends in queue.MOVES.items() for end in ends}
    assert len(expected) == 10
    passed = set()
    for start in Status:
        for end in Status:
            row = Job(id=1, status=start)
            try:
                moves.move(row, end)
            except OrganizerError:
                assert row.status == start
            else:
                passed.add((start, end))
    assert passed == expected
    others = {(start, end) for start in Status for end in Status if start is not end} - expected
    for kind in JobKind:
        through = {pair for pair in expected | others if written(engine, kind, *pair)}
        final = {(Status.SUCCEEDED, Status.QUEUED)} if kind is not JobKind.CHECK else set()
        assert through == expected - final


def written(engine: Engine, kind: JobKind, start: Status, end: Status) -> bool:
    """Whether a plain UPDATE takes a job, whose state was `start` from its beginning, to `end`."""

    def fields(status: Status) -> str:
        worker, lease = ("'w'", "'2026-01-01'") if status is Status.RUNNING else ("NULL", "NULL")
        fault = "'infra'" if status is Status.FAILED else "NULL"
        return f"'{status}', {worker}, {lease}, {fault}"

    columns = "(status, worker, lease_expires_at, fault)"
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(
            text(
                "INSERT INTO job (id, key, submission_id, kind, seed, attempt, infra_failures, reasons, created_at, "
                f"status, worker, lease_expires_at, fault) VALUES (99, 'x', '{TEAM}', '{kind}', 0, 1, 0, '[]', "
                f"'2026-01-01', {fields(start)})"
            )
        )
        update = text(f"UPDATE job SET {columns} = ({fields(end)}) WHERE id = 99")
        try:
            connection.execute(update)
        except IntegrityError as error:
            return "a job cannot make this move" not in str(error)
        finally:
            transaction.rollback()
    return True


@pytest.mark.parametrize(
    ("statement", "refusal"),
    [
        ("UPDATE job_attempt SET fault = 'participant' WHERE number = 1", "stays as it is"),
        ("UPDATE job_attempt SET ended_at = NULL, ending = NULL, fault = NULL WHERE number = 1", "stays as it is"),
        ("DELETE FROM job_attempt WHERE number = 1", "stays as it is"),
        ("DELETE FROM job_attempt WHERE number = 2", "stays as it is"),
        (
            "INSERT INTO job_attempt (job_id, number, worker, started_at, reasons) "
            "VALUES (1, 3, 'w', '2026-01-01', '[]')",
            "(?i)uniq",
        ),
        ("UPDATE job SET attempt = 1", "cannot make this move"),
    ],
)
def test_history_is_kept_by_the_database(engine: Engine, statement: str, refusal: str) -> None:
    """Attacks the record of attempts past our code: an ended one is changed or deleted, a second live one added, the
    count of attempts turned back.
    """
    enqueue(engine)
    fail(engine, claim(engine), Fault.INFRA)
    claim(engine, now=after(60))
    before = snapshot(engine)
    with pytest.raises(IntegrityError, match=refusal), engine.begin() as connection:
        connection.execute(text(statement))
    assert snapshot(engine) == before


def test_a_job_that_runs_while_the_database_is_migrated_has_an_attempt(tmp_path: Path) -> None:
    """Attacks the migration: a job that a worker of the version before holds can be ended like any other."""
    engine = connect(database_url(Home(root=tmp_path)))
    config = Config()
    config.set_main_option("script_location", str(asset("alembic")))
    with engine.begin() as connection:
        if engine.dialect.name != "sqlite":
            prepare_server(connection, engine)
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(
            text(
                "INSERT INTO submission (id, digest, team, file_name, size_bytes, received_at) "
                f"VALUES ('{TEAM}', 'd', 'team', 'x.zip', 1, '2026-01-01')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO job (key, submission_id, kind, seed, status, attempt, infra_failures, reasons, "
                "created_at, started_at, worker, lease_expires_at) "
                f"VALUES ('k', '{TEAM}', 'check', 0, 'running', 3, 0, '[]', "
                "'2026-01-01 00:00:00.0', '2026-01-02 00:00:00.0', 'w', '2026-01-03 00:00:00.0')"
            )
        )
    engine.dispose()
    engine = open_database(Home(root=tmp_path))
    assert reap(engine, NOW) == 1
    assert [(each.number, each.worker, each.ending) for each in attempts(engine)] == [(3, "w", Ending.LOST)]
    assert claim(engine).attempt == 4
    engine.dispose()


def test_the_highest_priority_goes_first(engine: Engine) -> None:
    """Attacks order: priority before age, age among equals, among the given ones too, and a change counts at once."""
    for seed in range(4):
        enqueue(engine, seed=seed)
    for number, priority in ((2, 5), (3, 5), (4, -1)):
        with session(engine) as writing:
            queue.prioritize(writing.get_one(Job, number), priority)
    taken = queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S, job_ids={1, 4})
    assert taken is not None
    assert taken.job_id == 1
    with session(engine) as writing:
        assert queue.first_priority(writing) == 6
        queue.prioritize(writing.get_one(Job, 3), 6)
    assert [claim(engine).job_id for _ in range(3)] == [3, 2, 4]


def test_a_lease_from_a_later_clock_does_not_last_for_ever(engine: Engine) -> None:
    """Attacks a worker that hangs after the clock was set back by a day: its lease is cut to the usual length."""
    enqueue(engine)
    claim(engine, now=after(86400))
    dead: list[str] = []
    for at, taken in ((0, 0), (LEASE_S - 1, 0), (LEASE_S, 1)):
        count = queue.reap(engine, now=after(at), is_dead=lambda worker: worker in dead, max_infra_attempts=3)
        assert count == taken


def test_terminals_that_are_configured_differently_take_nothing_from_each_other(engine: Engine) -> None:
    """Attacks with two lengths of leases in one database: each lease tells its own, so whoever looks neither shortens
    a longer one nor waits for a shorter one; a claim of the job after it has its own again.
    """
    enqueue(engine, seed=1), enqueue(engine, seed=2)
    short, long = (queue.claim(engine, worker=f"w{each}", now=NOW, lease_s=each) for each in (30, 3000))
    assert short is not None
    assert long is not None
    assert [job(engine, number).lease_s for number in (1, 2)] == [30, 3000]
    assert reap(engine, after(29)) == 0
    assert [job(engine, number).lease_expires_at for number in (1, 2)] == [after(30), after(3000)]
    assert reap(engine, after(30)) == 1
    assert [job(engine, number).status for number in (1, 2)] == [Status.QUEUED, Status.RUNNING]
    queue.heartbeat(engine, long, now=after(2000), lease_s=3000, progress=None)
    assert reap(engine, after(4999)) == 0
    assert job(engine, 2).lease_expires_at == after(5000)
    assert claim(engine, now=after(40)).job_id == 1
    assert (job(engine).lease_s, job(engine, 2).lease_s) == (LEASE_S, 3000)
    queue.release(engine, long, NOW)
    assert job(engine, 2).lease_s is None


def test_a_coordinators_end_costs_its_jobs_nothing_until_it_is_suspicious(engine: Engine) -> None:
    """Attacks the count of failures with coordinators that die, one after another, while they hold a job that others
    do: it is queued again each time; a job that has seen MAX_COORDINATORS of them go may be the cause, and is given up.
    """
    enqueue(engine)
    name = queue.coordinator_id()
    for number in range(1, queue.MAX_COORDINATORS + 3):
        assert claim(engine, name).attempt == number
        assert reap(engine, NOW, name) == 1
        assert job(engine).infra_failures == max(0, number - queue.MAX_COORDINATORS)
        assert attempts(engine)[-1].ending == Ending.LOST
    assert job(engine).status == Status.QUEUED
    claim(engine, name)
    reap(engine, NOW, name)
    assert (job(engine).status, job(engine).fault) == (Status.FAILED, Fault.INFRA)


def test_a_coordinator_is_known_by_its_process_like_a_worker() -> None:
    """Attacks its other name: it lives as long as its process, and no longer."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = queue.coordinator_id(process.pid)
        assert not queue.is_dead_here(name)
        process.kill()
    assert queue.is_dead_here(name)
    host, pid, start = name.rsplit(":", 2)
    other_boot = "00000000" if not start.startswith("00000000") else "11111111"
    assert queue.is_dead_here(f"{host}:{pid}:{other_boot}-{start.split('-', 1)[1]}")


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
