"""The worker: whatever a handler does, and however the process ends, the queue is told or finds out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from homes import new_engine
from patience import until
from sqlalchemy import Engine, select

from ranker import queue
from ranker.db.models import Job, Score, Submission
from ranker.db.session import session
from ranker.errors import (
    ConfigError,
    InfraError,
    LeaseLostError,
    MissingError,
    OrganizerError,
    ParticipantError,
    RankerError,
    VanishedError,
)
from ranker.home import Home
from ranker.job import JobContext, Outcome
from ranker.perform import EXIT_STOPPED, StopSignal, blame
from ranker.queue import NewScore
from ranker.settings import Service
from ranker.types import Fault, JobKind, Progress, Stage, Status
from ranker.worker import EXIT_DONE, EXIT_ORGANIZER, Worker, work

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
TEAM = "a" * 12
SERVICE = Service(retry_delay_s=0, infra_attempts=3)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
    yield engine
    engine.dispose()


def enqueue(engine: Engine, seed: int = 0) -> int:
    with session(engine) as writing:
        return queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=seed, now=NOW).id


def job(engine: Engine, job_id: int = 1) -> Job:
    with session(engine, read_only=True) as reading:
        return reading.get_one(Job, job_id)


def do(home: Home, handler: Callable[[JobContext], Outcome], service: Service = SERVICE) -> int:
    return work(home, service, None, stop=StopSignal(), handlers={JobKind.CHECK: handler})


def raiser(error: Exception) -> Callable[[JobContext], Outcome]:
    def handler(context: JobContext) -> Outcome:
        raise error

    return handler


def test_a_job_is_done_in_its_folder_and_recorded(engine: Engine, home: Home) -> None:
    """Attacks the way through: what the handler is given, what it returns, and where its words go."""
    enqueue(engine)

    def handler(context: JobContext) -> Outcome:
        assert context.run_folder == home.runs / TEAM / context.claim.key[:12] / "attempt-0001"
        assert context.run_folder.is_dir()
        assert (context.submission.team, context.submission.check) == ("team", None)
        os.write(1, b"from a library in C\n")
        return Outcome(
            result={"found": 3},
            scores=(NewScore(task="t", metric="Accuracy", value=0.25, items=4, predictions="t.parquet"),),
        )

    assert do(home, handler) == EXIT_DONE
    done = job(engine)
    assert (done.status, done.result, done.attempt) == (Status.SUCCEEDED, {"found": 3}, 1)
    with session(engine, read_only=True) as reading:
        assert [(row.task, row.value) for row in reading.scalars(select(Score))] == [("t", 0.25)]
    log = (home.runs / TEAM / done.key[:12] / "attempt-0001" / "worker.log").read_text()
    assert "from a library in C" in log
    assert "the job is succeeded" in log


def test_a_later_job_sees_the_check(engine: Engine, home: Home) -> None:
    """Attacks the snapshot: what the successful check found is handed to the jobs after it."""
    enqueue(engine, seed=1)
    enqueue(engine, seed=2)
    seen = []

    def handler(context: JobContext) -> Outcome:
        seen.append(context.submission.check)
        return Outcome(result={"seed": context.claim.seed})

    assert do(home, handler) == EXIT_DONE
    assert seen == [None, {"seed": 1}]


@pytest.mark.parametrize(
    ("error", "fault", "attempts"),
    [
        (ParticipantError(["It has no encoder.", "It has no weights."]), Fault.PARTICIPANT, 1),
        (InfraError("the engine died"), Fault.INFRA, 3),
        (OrganizerError("labels are missing"), Fault.ORGANIZER, 1),
        (MissingError("no decoder"), Fault.ORGANIZER, 1),
        (ConfigError("bad benchmark"), Fault.ORGANIZER, 1),
        (ZeroDivisionError("division by zero"), Fault.INFRA, 3),
        (MemoryError(), Fault.INFRA, 3),
        (RankerError("something"), Fault.INFRA, 3),
    ],
)
def test_every_error_has_its_fault(engine: Engine, home: Home, error: Exception, fault: Fault, attempts: int) -> None:
    """Attacks blame: theirs is final, ours is tried again and bounded, what is configured wrongly stops the queue."""
    enqueue(engine)
    assert do(home, raiser(error)) == (EXIT_ORGANIZER if fault is Fault.ORGANIZER else EXIT_DONE)
    failed = job(engine)
    assert (failed.status, failed.fault, failed.attempt) == (Status.FAILED, fault, attempts)
    assert (
        failed.reasons == list(error.reasons)
        if isinstance(error, ParticipantError)
        else str(error) in failed.reasons[0]
    )


def test_an_encoder_that_is_killed_each_time_has_killed_itself(engine: Engine, home: Home) -> None:
    """Attacks retries without end for code that sends itself SIGKILL: ours twice, then its own; other accidents of ours
    in between are not counted against it.
    """
    enqueue(engine)
    errors: list[Exception] = [
        VanishedError("the encoder was killed"),
        InfraError("the engine died"),
        VanishedError("the encoder was killed"),
        VanishedError("the encoder was killed while it encoded"),
    ]
    done = []

    def handler(context: JobContext) -> Outcome:
        done.append(job(engine).fault)
        raise errors[len(done) - 1]

    assert do(home, handler, SERVICE.model_copy(update={"infra_attempts": 9})) == EXIT_DONE
    assert (len(done), job(engine).fault) == (4, Fault.PARTICIPANT)
    assert job(engine).reasons == [
        "the encoder was killed while it encoded; that was so in 3 attempts, so its own code is taken to have done it"
    ]


def test_a_mistake_of_ours_leaves_its_traceback(engine: Engine, home: Home) -> None:
    """Attacks silent failures: the reason names the log, and the log holds the traceback."""
    enqueue(engine)
    do(home, raiser(ZeroDivisionError("division by zero")))
    reason = job(engine).reasons[0]
    assert reason.startswith("unexpected ZeroDivisionError: division by zero (traceback in ")
    log = Path(reason.rsplit(" in ", 1)[1].rstrip(")"))
    assert "in handler\n    raise error\nZeroDivisionError: division by zero" in log.read_text()


def test_an_organizers_fault_stops_the_worker(engine: Engine, home: Home) -> None:
    """Attacks going on with broken data: the jobs after the failure stay queued."""
    enqueue(engine, 1), enqueue(engine, 2)
    assert do(home, raiser(OrganizerError("labels are missing"))) == EXIT_ORGANIZER
    assert [job(engine, 1).status, job(engine, 2).status] == [Status.FAILED, Status.QUEUED]


def test_a_handler_that_lost_its_job_is_stopped(engine: Engine, home: Home) -> None:
    """Attacks a stale attempt: its next report raises, it writes nothing, and the job's new state stays."""
    enqueue(engine)

    def handler(context: JobContext) -> Outcome:
        with session(engine) as writing:
            queue.cancel(writing, job_id=1, now=NOW)
        while True:  # ends at the first beat after the cancellation
            context.report(Progress(stage=Stage.TRAIN))
            threading.Event().wait(0.01)

    assert do(home, handler, Service(lease_s=0.2)) == EXIT_DONE
    assert job(engine).status == Status.CANCELLED
    log = next(home.runs.rglob("worker.log")).read_text()
    assert "job 1 is cancelled" in log
    assert "Traceback" not in log


def test_a_result_after_the_job_was_lost_is_thrown_away(engine: Engine, home: Home) -> None:
    """Attacks the last moment: a handler that never reports learns of its loss when it finishes."""
    enqueue(engine)

    def handler(context: JobContext) -> Outcome:
        with session(engine) as writing:
            queue.cancel(writing, job_id=1, now=NOW)
        return Outcome(result={"late": 1})

    assert do(home, handler) == EXIT_DONE
    assert (job(engine).status, job(engine).result) == (Status.CANCELLED, None)


def test_progress_and_lease_are_written_while_the_handler_works(engine: Engine, home: Home) -> None:
    """Attacks the heart: without any help from the handler, the lease moves on and the latest progress arrives."""
    enqueue(engine)

    def handler(context: JobContext) -> Outcome:
        first = job(engine).lease_expires_at
        context.report(Progress(stage=Stage.TRAIN, done=1, total=3))
        context.report(Progress(stage=Stage.TRAIN, done=2, total=3))
        until(lambda: job(engine).progress is not None and job(engine).lease_expires_at != first)
        return Outcome(result=dict(job(engine).progress or {}))

    assert do(home, handler, Service(lease_s=2)) == EXIT_DONE
    assert (job(engine).result or {})["done"] == 2


def test_no_blame_is_left_open() -> None:
    """Attacks the match in `blame`: every error class of ranker, and any other exception, has a fault and a reason."""
    classes = [InfraError, LeaseLostError, MissingError, OrganizerError, ConfigError, RankerError, OSError, KeyError]
    for kind in classes:
        fault, reasons = blame(kind("why"), Path("worker.log"))
        assert fault in Fault
        assert "why" in reasons[0]


WORKER_SCRIPT = """
import os, signal, sys, threading
from pathlib import Path
from ranker.job import JobContext, Outcome
from ranker.types import JobKind, Progress, Stage
from ranker.worker import main

def handler(context: JobContext) -> Outcome:
    {body}

if __name__ == "__main__":
    sys.exit(main(handlers={{JobKind.CHECK: handler}}))
"""
ANNOUNCE = "(context.home.root / 'begun').write_text(str(os.getpid()))\n"
HANG = ANNOUNCE + "while True: threading.Event().wait(0.02)"


def worker_script(folder: Path, body: str) -> Path:
    script = folder / "script.py"
    script.write_text(WORKER_SCRIPT.format(body=textwrap.indent(body, "    ").strip()), encoding="utf-8")
    return script


@contextmanager
def started(home: Home, body: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker process whose handler is `body`, once that handler has begun."""
    (home.root / "begun").unlink(missing_ok=True)
    command = [sys.executable, str(worker_script(home.root, body)), "--home", str(home.root), *arguments]
    command += ["--service", SERVICE.model_dump_json()]
    with subprocess.Popen(command) as process:
        try:
            until((home.root / "begun").exists, process=process)
            yield process
        finally:
            process.kill()


def test_a_killed_worker_is_replaced_and_cannot_write(engine: Engine, home: Home) -> None:
    """Attacks with SIGKILL in the middle of a handler: reaped at once, done by attempt 2, attempt 1 writes no more."""
    enqueue(engine)
    with started(home, HANG) as process:
        before = job(engine)
        assert (before.status, before.attempt, before.worker) == (Status.RUNNING, 1, queue.worker_id(process.pid))
        stale = stale_claim(before)
        assert queue.reap(engine, now=datetime.now(UTC), is_dead=queue.is_dead_here, max_infra_attempts=3) == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert queue.claim(engine, worker="w2", now=datetime.now(UTC), lease_s=60) is None
    assert queue.reap(engine, now=datetime.now(UTC), is_dead=queue.is_dead_here, max_infra_attempts=3) == 1
    assert do(home, lambda context: Outcome(result={"attempt": context.claim.attempt})) == EXIT_DONE
    done = job(engine)
    assert (done.status, done.attempt, done.result) == (Status.SUCCEEDED, 2, {"attempt": 2})
    with pytest.raises(LeaseLostError):
        queue.finish(engine, stale, now=datetime.now(UTC), result={"attempt": 1}, scores=[])
    with pytest.raises(LeaseLostError):
        queue.heartbeat(engine, stale, now=datetime.now(UTC), lease_s=60, progress=None)
    assert job(engine).result == {"attempt": 2}
    assert sorted(path.name for path in (home.runs / TEAM / done.key[:12]).iterdir()) == [
        "attempt-0001",
        "attempt-0002",
    ]


def stale_claim(row: Job) -> queue.Claim:
    assert row.worker is not None
    return queue.Claim(
        job_id=row.id,
        key=row.key,
        attempt=row.attempt,
        worker=row.worker,
        submission_id=row.submission_id,
        kind=JobKind(row.kind),
        benchmark=None,
        track=None,
        condition=None,
        seed=row.seed,
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_job_back(engine: Engine, home: Home, how: signal.Signals) -> None:
    """Attacks Ctrl-C: the handler cleans up, the job is queued without penalty, the process says `stopped`."""
    enqueue(engine)
    body = textwrap.dedent(
        f"""
        try:
            {ANNOUNCE.strip()}
            while True: threading.Event().wait(0.02)
        finally:
            (context.home.root / "cleaned").touch()
        """
    )
    with started(home, body) as process:
        process.send_signal(how)
        assert process.wait() == EXIT_STOPPED
    assert (home.root / "cleaned").exists()
    back = job(engine)
    assert (back.status, back.infra_failures, back.attempt) == (Status.QUEUED, 0, 1)


def test_a_second_signal_does_not_break_the_clean_up(engine: Engine, home: Home) -> None:
    """Attacks an impatient Ctrl-C: signals during the unwinding are remembered, not raised."""
    enqueue(engine)
    body = textwrap.dedent(
        f"""
        try:
            {ANNOUNCE.strip()}
            while True: threading.Event().wait(0.02)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            (context.home.root / "cleaned").touch()
        """
    )
    with started(home, body) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait() == EXIT_STOPPED
    assert (home.root / "cleaned").exists()
    assert job(engine).status == Status.QUEUED


def test_a_cancelled_job_stops_though_it_never_reports(engine: Engine, home: Home) -> None:
    """Attacks `ranker cancel` with a handler that hangs: interrupted, it cleans up, and the process goes on with the
    next job.
    """
    enqueue(engine, 1), enqueue(engine, 2)
    body = textwrap.dedent(
        f"""
        if context.claim.seed == 2:
            return Outcome(result={{"pid": os.getpid()}})
        try:
            {ANNOUNCE.strip()}
            while True: threading.Event().wait(0.02)
        finally:
            (context.home.root / "cleaned").touch()
        """
    )
    with started(home, body) as process:
        with session(engine) as writing:
            assert queue.cancel(writing, job_id=1, now=NOW)
        assert process.wait() == EXIT_DONE
        assert job(engine, 2).result == {"pid": process.pid}
    assert (home.root / "cleaned").exists()
    assert (job(engine, 1).status, job(engine, 2).status) == (Status.CANCELLED, Status.SUCCEEDED)


def test_a_process_that_cannot_leave_a_cancelled_job_ends_itself(engine: Engine, home: Home) -> None:
    """Attacks with a handler that no interruption reaches: its place would be taken for ever. It dies, and its log says
    where it hung.
    """
    enqueue(engine)
    body = textwrap.dedent(
        f"""
        import ranker.worker
        ranker.worker.LEAVING_S = 0.1
        {ANNOUNCE.strip()}
        while True:
            try:
                while True: threading.Event().wait(0.02)
            except KeyboardInterrupt:
                (context.home.root / "deaf").touch()
        """
    )
    with started(home, body) as process:
        with session(engine) as writing:
            assert queue.cancel(writing, job_id=1, now=NOW)
        assert process.wait() == -signal.SIGKILL
    assert (home.root / "deaf").exists()
    assert job(engine).status == Status.CANCELLED
    said = (home.runs / TEAM / job(engine).key[:12] / "attempt-0001" / "worker.log").read_text()
    assert "still has not stopped" in said
    assert "script.py" in said


def test_a_job_that_is_asked_back_rests_where_it_loses_nothing(engine: Engine, home: Home) -> None:
    """Attacks `ranker pause --now`: reports go on, the next rest gives the job back without penalty; a pause that asks
    for nothing lets it end.
    """
    enqueue(engine)
    said: list[str] = []

    def handler(context: JobContext) -> Outcome:
        with session(engine) as writing:
            queue.pause(writing, by="me", why="a fan is loud", now=NOW, give_back=not said)
        said.append("begun")
        while len(said) == 1:
            context.report(Progress(stage=Stage.TRAIN))
            context.rest()
            threading.Event().wait(0.01)
        return Outcome(result={})

    stop = StopSignal()
    worker = Worker(
        engine=engine, home=home, service=Service(lease_s=0.2), stop=stop, handlers={JobKind.CHECK: handler}
    )
    first = queue.claim(engine, worker="w", now=datetime.now(UTC), lease_s=60)
    assert first is not None
    assert worker.attempt(first) is None
    assert (job(engine).status, job(engine).infra_failures, said) == (Status.QUEUED, 0, ["begun"])
    assert queue.claim(engine, worker="w", now=datetime.now(UTC), lease_s=60) is None
    with session(engine) as writing:
        queue.resume(writing)
    second = queue.claim(engine, worker="w", now=datetime.now(UTC), lease_s=60)
    assert second is not None
    assert worker.attempt(second) is None
    assert job(engine).status == Status.SUCCEEDED


def test_a_worker_ends_with_its_parent(engine: Engine, home: Home) -> None:
    """Attacks orphans: SIGKILL the parent, and its worker gives the job back and ends."""
    enqueue(engine)
    script = worker_script(home.root, HANG)
    parent = textwrap.dedent(
        """
        import json, os, subprocess, sys
        subprocess.Popen([*json.loads(sys.argv[1]), "--parent", str(os.getpid())]).wait()
        """
    )
    command = [sys.executable, str(script), "--home", str(home.root), "--service", SERVICE.model_dump_json()]
    with subprocess.Popen([sys.executable, "-c", parent, json.dumps(command)]) as process:
        until(lambda: (home.root / "begun").exists() and job(engine).worker is not None, process=process)
        worker = job(engine).worker
        assert worker is not None
        process.kill()
    until(lambda: queue.is_dead_here(worker))
    assert job(engine).status == Status.QUEUED


def test_a_worker_without_its_parent_does_not_begin(engine: Engine, home: Home) -> None:
    """Attacks the race at the start: a parent that is gone before the worker looks."""
    enqueue(engine)
    command = [sys.executable, "-m", "ranker.worker", "--home", str(home.root), "--parent", "1"]
    assert subprocess.run(command, check=False).returncode == EXIT_STOPPED
    assert job(engine).attempt == 0


def test_importing_the_worker_loads_no_torch() -> None:
    """Attacks start-up time: torch comes with the handler that needs it."""
    code = "import sys, ranker.worker, ranker.executors.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_log_times_are_utc(engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever zone the machine is in: a log is read beside the database's times, and says its zone."""
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        enqueue(engine)
        before = datetime.now(UTC).replace(microsecond=0)
        do(home, lambda context: Outcome(result={}))
        after = datetime.now(UTC)
    time.tzset()
    (log,) = home.runs.rglob("worker.log")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 2
    assert all(before <= datetime.fromisoformat(line.split(" ")[0]) <= after for line in lines)
