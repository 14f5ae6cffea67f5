"""The coordinator, with a script in the cluster's place: what is told, and at which moment, is the test's."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from executions import Place, place
from postgres import EVERYWHERE, sqlite_only
from queues import TEAM, condition

from ranker import queue
from ranker.coordinator import EXIT_DONE, EXIT_ORGANIZER, Coordinator
from ranker.db.session import session
from ranker.errors import InfraError, OrganizerError
from ranker.executors.node import Errand, Word
from ranker.executors.ray import Cluster, Room
from ranker.job import Failure, Outcome
from ranker.perform import StopSignal
from ranker.queue import Claim, NewScore
from ranker.types import Condition, Ending, Fault, JobKind, Part, Progress, Stage, Status

BEGUN: Word = {"begun": {"node": "n" * 8, "host": "machine-1", "pid": 1}}
SCORE = NewScore(task="pitch", metric="Accuracy", value=0.5, items=4, predictions="pitch.parquet")
OUTCOME: Word = {"outcome": Outcome(result={"ok": True}, scores=(SCORE,)).to_json()}


class Stream:
    """What one attempt tells: its script's words, as long as nobody interrupted it. A word may be an error, or None:
    nothing for now.
    """

    def __init__(self, errand: Errand, words: Iterator[Word | Exception | None]) -> None:
        self.errand = errand
        self.ended = ""
        self._words = words

    def next(self) -> Word | Exception | None:
        return next(self._words, {"end": True})


class Script:
    """A cluster that does what a test wrote. `act` makes the words of an attempt."""

    def __init__(self, act: Callable[[Errand], Iterator[Word | Exception | None]], jobs: int = 4) -> None:
        self._act = act
        self._jobs = jobs
        self._told: dict[int, Word | Exception] = {}
        self.streams: list[Stream] = []
        self.held: list[Claim] = []
        self.holds = 0

    def room(self, service: object, *, on_gpu: bool) -> Room:
        return Room(cpus=1, gpus=0.0, jobs=self._jobs)

    def offer(self, sources: object) -> None:
        pass

    def hold(self, claim: Claim) -> None:
        self.held.append(claim)
        self.holds += 1

    def let_go(self, claim: Claim) -> None:
        self.held = [each for each in self.held if each != claim]

    def start(self, errand: Errand, room: Room) -> Stream:
        self.streams.append(Stream(errand, self._act(errand)))
        return self.streams[-1]

    def heard(self, streams: list[Stream], timeout_s: float) -> list[Stream]:
        ready = []
        for stream in streams:
            word = stream.next()
            if word is not None:
                self._told[id(stream)] = word
                ready.append(stream)
        return ready

    def next(self, stream: Stream) -> Word | None:
        word = self._told.pop(id(stream))
        if isinstance(word, Exception):
            raise word
        return None if "end" in word else word

    def end(self, stream: Stream, *, by_force: bool = False) -> None:
        stream.ended = "by force" if by_force else "gently"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr("ranker.coordinator.FAREWELL_S", 0.0)
    with place(tmp_path, None) as found:
        yield found


def coordinate(here: Place, ids: list[int], script: Script, **service: Any) -> int:
    settings = here.service.model_copy(update=service)
    coordinator = Coordinator(
        engine=here.engine,
        home=here.home,
        service=settings,
        cluster=cast("Cluster", script),
        stop=StopSignal(),
        workers=None,
        performer=("nobody",),
    )
    return coordinator.work(ids)


def delivery(path: str, data: bytes) -> list[Word]:
    told = {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": 0o644, "link": None}
    checkpoints = [part for part in path.split("/") if part.startswith("step-")]
    return [{"part": told, "offset": 0, "data": data}, {"delivery": [told], "checkpoints": checkpoints}]


def test_what_comes_after_the_lease_was_lost_is_refused(here: Place) -> None:
    """Attacks with a result whose job was given to another a moment before: its files are not put in place, its scores
    not recorded; the next attempt's are, once.
    """
    ids = here.enqueue(1)

    def act(errand: Errand) -> Iterator[Word]:
        claim = errand.order.claim
        yield BEGUN
        if claim.attempt == 1:
            later = datetime.now(UTC) + timedelta(hours=1)
            queue.reap(here.engine, now=later, is_dead=lambda _: False, max_infra_attempts=9)
        yield from delivery(f"attempt-{claim.attempt:04d}/predictions/pitch.parquet", b"%d" % claim.attempt)
        yield OUTCOME

    assert coordinate(here, ids, Script(act)) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.status, job.attempt, len(job.scores)) == (Status.SUCCEEDED, 2, 1)
    assert [attempt.ending for attempt in job.attempts] == [Ending.LOST, Ending.SUCCEEDED]
    assert [(here.run_folder(job, number) / "predictions").exists() for number in (1, 2)] == [False, True]
    assert not list(here.home.runs.rglob(".incoming"))


def test_a_result_between_two_leases_writes_nothing(here: Place) -> None:
    """Attacks the very last moment: the lease is lost after the manifest was put in place, before the result is
    recorded; what is left is no run.
    """
    ids = here.enqueue(1)

    def act(errand: Errand) -> Iterator[Word]:
        number = errand.order.claim.attempt
        yield from delivery(f"attempt-{number:04d}/manifest.json", b"{}")
        if number == 1:
            later = datetime.now(UTC) + timedelta(hours=1)
            queue.reap(here.engine, now=later, is_dead=lambda _: False, max_infra_attempts=9)
        yield OUTCOME

    assert coordinate(here, ids, Script(act)) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.attempt, len(job.scores)) == (2, 1)
    assert [(here.run_folder(job, number) / "manifest.json").exists() for number in (1, 2)] == [False, True]


def test_an_attempt_that_falls_silent_is_given_up(here: Place) -> None:
    """Attacks with a node whose network went: before its lease ends the job fails by our fault, and is tried again; the
    silent one is interrupted.
    """
    ids = here.enqueue(1)

    def act(errand: Errand) -> Iterator[Word | None]:
        yield BEGUN
        while errand.order.claim.attempt == 1:
            yield None
        yield OUTCOME

    script = Script(act)
    assert coordinate(here, ids, script, lease_s=1.0) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.status, job.attempt, job.infra_failures) == (Status.SUCCEEDED, 2, 1)
    assert "was not heard of" in job.attempts[0].reasons[0]
    assert "machine-1" in job.attempts[0].reasons[0]
    assert [stream.ended for stream in script.streams] == ["gently", ""]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (InfraError("NodeDiedError on the cluster"), "NodeDiedError"),
        ({"end": True}, "without a word"),
        ({"progress": {"stage": "dancing"}}, "dancing"),
        ({"part": {"path": "../../ranker.db", "size": 1, "sha256": "0" * 64}, "offset": 0, "data": b"x"}, "ranker.db"),
        ({"outcome": Outcome(result={"manifest_digest": "0" * 64}).to_json()}, "did not come back whole"),
    ],
)
def test_whatever_a_node_tells_or_does_the_job_is_tried_again(here: Place, word: Word | Exception, reason: str) -> None:
    """Attacks with deaths, silence at the end, nonsense, a path that leads out, a manifest that is not there."""
    ids = here.enqueue(1)

    def act(errand: Errand) -> Iterator[Word | Exception]:
        yield BEGUN
        if errand.order.claim.attempt == 1:
            yield word
        yield OUTCOME

    assert coordinate(here, ids, Script(act)) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.status, job.attempt, job.infra_failures, len(job.scores)) == (Status.SUCCEEDED, 2, 1, 1)
    assert reason in job.attempts[0].reasons[0]
    assert EVERYWHERE or here.home.database_path.read_bytes()[:15] == b"SQLite format 3"


@sqlite_only
def test_a_locked_database_loses_no_result(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks the moment of recording with a lock that another program holds: the result waits, and is recorded."""
    ids = here.enqueue(1)
    other = sqlite3.connect(here.home.database_path, isolation_level=None, timeout=0)
    refused = []

    def act(errand: Errand) -> Iterator[Word]:
        yield BEGUN
        other.execute("BEGIN IMMEDIATE")
        yield OUTCOME

    finish = queue.finish

    def finishing(*args: Any, **options: Any) -> None:
        try:
            finish(*args, **options)
        except Exception:
            refused.append(True)
            other.execute("ROLLBACK")
            raise

    monkeypatch.setattr(queue, "finish", finishing)
    with here.engine.connect() as connection:
        raw = cast("sqlite3.Connection", connection.connection.driver_connection)
        raw.execute("PRAGMA busy_timeout = 50")
    try:
        script = Script(act)
        assert coordinate(here, ids, script) == EXIT_DONE
    finally:
        other.close()
    (job,) = here.jobs()
    assert refused == [True]
    assert (job.status, job.attempt, len(job.scores)) == (Status.SUCCEEDED, 1, 1)
    assert script.holds >= 1, "the node was left to think that its lease is lost"
    assert script.held == []


def test_jobs_that_train_the_same_weights_follow_each_other(here: Place) -> None:
    """Attacks with room for all at once: the prompted part of a track waits for its public part, another track not."""
    public = condition(track="A")
    prompted, other = replace(public, part=Part.PROMPTED), condition(track="B")
    with session(here.engine) as writing:
        ids = [
            queue.enqueue(
                writing, submission_id=TEAM, kind=JobKind.EVALUATE, condition=each, seed=0, now=datetime.now(UTC)
            ).id
            for each in (public, prompted, other)
        ]
    seen: list[list[Condition | None]] = []

    def act(errand: Errand) -> Iterator[Word | None]:
        for _ in range(3):
            yield None
        seen.append([job.condition and Condition.from_json(job.condition) for job in here.jobs() if job.worker])
        yield OUTCOME

    assert coordinate(here, ids, Script(act)) == EXIT_DONE
    assert len(seen) == 3
    assert max(len(running) for running in seen) == 2
    assert not [running for running in seen if public in running and prompted in running]


def test_seeds_do_not_wait_for_each_other(here: Place) -> None:
    """Attacks `ranker rerun --seeds 3` on a cluster: each seed trains other weights, so all run side by side."""
    with session(here.engine) as writing:
        ids = [
            queue.enqueue(
                writing,
                submission_id=TEAM,
                kind=JobKind.EVALUATE,
                condition=condition(),
                seed=seed,
                now=datetime.now(UTC),
            ).id
            for seed in (1, 2, 3)
        ]
    seen: list[int] = []

    def act(_: Errand) -> Iterator[Word | None]:
        for _ in range(3):
            yield None
        seen.append(sum(job.status == Status.RUNNING for job in here.jobs()))
        yield OUTCOME

    assert coordinate(here, ids, Script(act)) == EXIT_DONE
    assert seen[0] == len(ids)


def test_a_job_that_is_asked_back_comes_back_at_its_checkpoint(here: Place) -> None:
    """Attacks `ranker pause --now`: what was delivered stays, the job waits without a penalty, and goes on later."""
    ids = here.enqueue(1)

    def act(errand: Errand) -> Iterator[Word]:
        number = errand.order.claim.attempt
        yield {"progress": Progress(stage=Stage.TRAIN, done=1, total=2).to_json()}
        if number == 1:
            with session(here.engine) as writing:
                queue.pause(writing, by="test", why="maintenance", now=datetime.now(UTC), give_back=True)
        yield from delivery(f"attempt-{number:04d}/step-00000001/state.json", b"{}")
        yield OUTCOME

    script = Script(act)
    room = script.room

    def resume(service: object, *, on_gpu: bool) -> Room:
        with session(here.engine) as writing:
            if here.jobs()[0].attempt == 1 and here.jobs()[0].status == Status.QUEUED:
                queue.resume(writing)
        return room(service, on_gpu=on_gpu)

    script.room = resume  # type: ignore[method-assign]
    assert coordinate(here, ids, script) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.status, job.attempt, job.infra_failures) == (Status.SUCCEEDED, 2, 0)
    assert [attempt.ending for attempt in job.attempts] == [Ending.RELEASED, Ending.SUCCEEDED]
    assert (here.run_folder(job, 1) / "step-00000001" / "state.json").is_file()


def test_an_organizers_fault_gives_the_rest_back(here: Place) -> None:
    """Attacks the loud stop: the flight beside is given back without a penalty, and interrupted."""
    ids = here.enqueue(3)

    def act(errand: Errand) -> Iterator[Word | None]:
        yield BEGUN
        if errand.order.claim.seed == 0:
            yield {"failure": Failure(fault=Fault.ORGANIZER, reasons=("labels are missing",)).to_json()}
        while True:
            yield {"beat": True}

    script = Script(act, jobs=2)
    assert coordinate(here, ids, script) == EXIT_ORGANIZER
    assert [job.status for job in here.jobs()] == [Status.FAILED, Status.QUEUED, Status.QUEUED]
    assert [job.infra_failures for job in here.jobs()] == [0] * 3
    assert script.streams[1].ended == "gently"


def test_checks_stay_at_home(here: Place) -> None:
    """Attacks with a job that belongs on the database's own host."""
    with session(here.engine) as writing:
        job = queue.enqueue(
            writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=0, now=datetime.now(UTC)
        )
    with pytest.raises(OrganizerError, match="on the database's own host"):
        coordinate(here, [job.id], Script(lambda _: iter(())))
    assert here.jobs()[0].status == Status.QUEUED
