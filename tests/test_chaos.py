"""The machine that disturbs must disturb, and see what is amiss; and what it found once does not come back.

The disturbance itself is in test_end_to_end.py (short), and `make chaos` (long).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aftermath
import chaos
import kills
import pytest
import queues
from sqlalchemy import Engine, event, select

from ranker import queue
from ranker.db import session as sessions
from ranker.db.models import Job
from ranker.db.place import VARIABLE
from ranker.db.session import session
from ranker.durable import is_piece, remove_folder, remove_pieces
from ranker.executors.base import _Watch
from ranker.home import Home
from ranker.job import JobContext, Outcome
from ranker.perform import StopSignal
from ranker.sandbox.bubblewrap import unkilled
from ranker.settings import Service
from ranker.types import Ending, JobKind
from ranker.worker import EXIT_DONE, Worker

SERVICE = Service(retry_delay_s=0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Of a file that is waited for a moment only, with one job queued."""
    monkeypatch.setattr(sessions, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.delenv(VARIABLE, raising=False)
    home.root.mkdir()
    engine = queues.new_database(home.root)
    queues.enqueue(engine)
    yield engine
    engine.dispose()


class HeldLock:
    """The database's write lock, held until something else has failed for it."""

    def __init__(self, engine: Engine, home: Home) -> None:
        self.refused: list[str] = []
        self._held = sqlite3.connect(home.database_path, isolation_level=None, check_same_thread=False)
        event.listen(engine, "handle_error", self._refused)

    def take(self) -> None:
        """Hold it from now on."""
        self._held.execute("BEGIN IMMEDIATE")

    def _refused(self, context: object) -> None:
        self.refused.append(str(getattr(context, "original_exception", "")))
        if self._held.in_transaction:
            self._held.execute("ROLLBACK")

    def close(self) -> None:
        """Hold nothing any more."""
        self._held.close()


def test_what_a_worker_has_done_outlasts_a_held_lock(engine: Engine, home: Home) -> None:
    """Attacks hours of work with a database that refuses the last transaction: it is offered again, and the attempt
    that did the work is the one that succeeds.
    """
    with closing(HeldLock(engine, home)) as lock:

        def handler(_context: JobContext) -> Outcome:
            lock.take()
            return Outcome(result={}, scores=(queues.score(),))

        worker = Worker(
            engine=engine, home=home, service=SERVICE, stop=StopSignal(), handlers={JobKind.EVALUATE: handler}
        )
        assert worker.work(None) == EXIT_DONE
    assert lock.refused == ["database is locked"]
    assert [attempt.ending for attempt in queues.attempts(engine)] == [Ending.SUCCEEDED]
    assert aftermath.contradictions(home.root) == []


class Standing:
    """Stands where `executors.pool.Pool` does, with a job that a dead worker holds; does what is queued at once."""

    places = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def bury(self, _attempts: int) -> int:
        return 0

    def workers(self) -> dict[str, int]:
        return {}

    def kill(self, pids: Collection[int]) -> None:
        assert not pids

    def fill(self, _wanted: int) -> None:
        claim = queue.claim(self._engine, worker="another", now=datetime.now(UTC), lease_s=60)
        if claim is not None:
            queue.finish(self._engine, claim, now=datetime.now(UTC), result={}, scores=())


def test_the_watch_over_workers_outlasts_a_held_lock(engine: Engine, home: Home) -> None:
    """Attacks the coordinator as it takes a job from a dead worker: it does so at a later tick, and no command ends."""
    assert queue.claim(engine, worker="dead", now=datetime.now(UTC) - timedelta(hours=1), lease_s=60) is not None
    watch = _Watch(engine=engine, service=SERVICE, job_ids=None)
    with closing(HeldLock(engine, home)) as lock:
        lock.take()
        watch.supervise(Standing(engine), lambda: None, until_empty=True)  # type: ignore[arg-type]
    assert lock.refused == ["database is locked"]
    assert [attempt.ending for attempt in queues.attempts(engine)] == [Ending.LOST, Ending.SUCCEEDED]
    assert aftermath.contradictions(home.root) == []


@pytest.mark.parametrize(("deaths", "code"), [(0, 0), (2, 0), (3, -signal.SIGKILL)])
def test_a_killed_trial_of_the_sandbox_says_nothing_of_it(tmp_path: Path, deaths: int, code: int) -> None:
    """Attacks the question whether there is a sandbox with a SIGKILL to whoever tries it out. That once paused the
    queue, as if the organizer had taken the sandbox away: now it is tried three times.
    """
    script = 'echo x >> "$0.tried"; [ $(wc -l < "$0.tried") -le "$1" ] && kill -KILL $$; exit 0'
    command = ["/bin/sh", "-c", script, str(tmp_path / "trial"), str(deaths)]
    ended = unkilled(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert ended.returncode == code


def test_half_a_thing_is_cleared_and_a_whole_one_is_not(tmp_path: Path) -> None:
    """Attacks what a killed attempt was writing, or removing: all of it goes, and nothing else."""
    attempt = tmp_path / "attempt-0001"
    half = [
        attempt / ".step-00000004-ab_c1",
        attempt / "predictions/.pitch.parquet.tmp",
        attempt / ".manifest.json.tmp",
    ]
    whole = [attempt / "step-00000002", attempt / "predictions/pitch.parquet", attempt / ".damaged-step-00000001"]
    for path in [*half, *whole]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if "step" in path.name:
            path.mkdir()
            (path / "state.json").write_text("{}")
        else:
            path.write_text("x")
    assert [path for path in half + whole if is_piece(path)] == half
    remove_pieces(tmp_path)
    assert [path for path in half + whole if path.exists()] == whole
    (tmp_path / "attempt-0001/step-00000002/more").write_text("x")
    remove_folder(whole[0])
    assert sorted(path.name for path in attempt.iterdir()) == [".damaged-step-00000001", "predictions"]


def test_nobody_finds_half_of_what_is_being_removed(tmp_path: Path) -> None:
    """Attacks the removal of a checkpoint with a kill at each of its steps: under its name it is whole, or gone."""
    folder = tmp_path / "step-00000002"
    step, was_killed, seen = 0, True, set()
    while was_killed:
        step += 1
        folder.mkdir(exist_ok=True)
        for name in ("trained.safetensors", "optimizer.safetensors", "state.json"):
            (folder / name).write_text(name)
        was_killed = kills.is_killed_at(step, tmp_path, lambda _touch: remove_folder(folder))
        left = len(list(folder.iterdir())) if folder.exists() else 0
        seen.add(left)
        assert left in {0, 3}
        remove_pieces(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {folder.name}
    assert seen == {0, 3}
    assert step > 4


def test_a_fuse_goes_off_just_before_the_nth_touch(tmp_path: Path) -> None:
    """Attacks a disturbance that disturbs nothing, or something else: the third touch of predictions is not made, what
    came before was, other files do not count, and the ledger says so.
    """
    folder = tmp_path / "home/runs/a/b/attempt-0001/predictions"
    folder.mkdir(parents=True)
    ledger = chaos.Ledger(tmp_path / "ledger.jsonl")
    child = os.fork()
    if child == 0:
        plan = [("predictions", 3, "worker")]
        chaos.Fuse(home=tmp_path / "home", ledger=ledger, seed=1, limit=9, is_worker=True, plan=plan).arm()
        for number in range(5):
            (folder / str(number)).write_text("x")
            (tmp_path / str(number)).write_text("x")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    (entry,) = ledger.entries()
    assert (entry["moment"], entry["victim"], entry["pids"]) == ("predictions", "worker", [child])
    assert dict(chaos.tally(ledger.entries())["signals"]) == {"signals": 1}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/runs/a/b/attempt-0001/.step-00000004-x/state.json", "checkpoint"),
        ("/home/runs/a/b/attempt-0001/predictions/pitch.parquet", "predictions"),
        ("/home/runs/a/b/attempt-0001/.manifest.json.tmp", "manifest"),
        ("/home/runs/a/b/attempt-0001/train.jsonl", "log"),
        ("/home/runs/a/b/threads", "job"),
        ("/home/data/tiny/train.tar", "data"),
        ("/home/submissions/a/tree/encoder.py", "submission"),
        ("/home/ranker.db", "database"),
        ("/home/configs/tiny.yaml", None),
        ("/elsewhere/runs/a", None),
    ],
)
def test_every_touch_is_told_by_what_it_is_of(path: str, kind: str | None) -> None:
    """Attacks the figures: a moment's name says what was about to be touched."""
    assert chaos.kind_of(path, "/home") == kind


def test_what_is_left_or_contradicts_itself_is_seen(engine: Engine, home: Home) -> None:
    """Attacks an inspection that sees nothing: a piece of a file, a socket of a dead process, and a job whose history
    has a hole, are each told of.
    """
    assert aftermath.leftovers(home.root) == aftermath.contradictions(home.root) == []
    piece = home.runs / "a/b/attempt-0001/.step-00000004-x"
    piece.mkdir(parents=True)
    assert aftermath.leftovers(home.root) == [f"file {piece.relative_to(home.root)}"]
    with session(engine) as writing:
        (job,) = writing.scalars(select(Job))
        job.attempt = 2
    (told,) = aftermath.contradictions(home.root)
    assert "is in attempt 2, its history is []" in told
    assert json.dumps(told)
