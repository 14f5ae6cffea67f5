"""The simulation that `scale.py` runs: workers claim, work, die and come back on virtual time, with the real queue."""

from __future__ import annotations

import heapq
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Engine

from ranker import queue, schedule
from ranker.db.session import session
from ranker.errors import LeaseLostError
from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.settings import Service
from ranker.types import Fault, Progress, Stage

START = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
TRACKS, TASKS, SEED = ("A", "B"), 4, 42
LOAD_S = 60.0
ENCODE_S, TRAIN_S, ANSWER_S = (1500.0, 0.5), (10_000.0, 0.25), (2400.0, 0.4)
"""Median seconds and spread of the logarithm; the median of training is what docs/cluster.md estimates for one H200."""
CHECK_S = 120.0
RESTART_S, AWAY_S = 30.0, 600.0  # a new process on the same machine; a machine that comes back
FAILING = 0.01
SEEN_S = 1.0  # a watch sees that a process of its own machine is dead
LOOK_S = 3600.0
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is simulated. Times in seconds; `deaths` per worker and hour; `table`: all jobs in it."""

    submissions: int = 1000
    gpus: int = 64
    deaths: float = 0.02
    checkpoint_s: float = 900.0
    look_s: float = LOOK_S
    table: int = 10_000
    seed: int = 1


@dataclass(kw_only=True)
class Work:
    """One job's true durations, and what of it is kept when its worker dies."""

    load_s: float
    encode_s: float
    train_s: float
    task_s: tuple[float, ...]
    trained_s: float = 0.0
    answered: int = 0

    @property
    def whole_s(self) -> float:
        """From the beginning to the end, if nothing happens."""
        return self.load_s + self.encode_s + self.train_s + sum(self.task_s) + CHECK_S

    def left_s(self) -> float:
        """What an attempt that begins now takes: loading and checking anew, encoding too unless training is done."""
        encode_s = self.encode_s if self.trained_s < self.train_s else 0.0
        return self.load_s + encode_s + self.train_s - self.trained_s + sum(self.task_s[self.answered :]) + CHECK_S

    def keep(self, worked_s: float, checkpoint_s: float) -> None:
        """An attempt ends after so many seconds: its last checkpoint and its finished tasks stay."""
        rest = worked_s - self.load_s
        if self.trained_s < self.train_s:
            rest -= self.encode_s
            trained = self.trained_s + max(rest, 0.0)
            rest -= self.train_s - self.trained_s
            self.trained_s = self.train_s if rest >= 0 else trained - trained % checkpoint_s
        while self.answered < len(self.task_s) and rest >= self.task_s[self.answered]:
            rest -= self.task_s[self.answered]
            self.answered += 1


@dataclass(kw_only=True)
class Meter:
    """Processor and clock seconds of each call of the queue, by name."""

    took: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def call(self, name: str, function: Callable[..., Value], *arguments: Any, **named: Any) -> Value:
        """Call, and note what it took, also if it raises."""
        clock, processor = time.perf_counter(), time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            self.took[name].append((time.process_time() - processor, time.perf_counter() - clock))

    def mean(self, name: str) -> float:
        """Processor seconds of one call."""
        return statistics.fmean(processor for processor, _ in self.took[name])

    def quantile(self, name: str, share: float, *, of_clock: bool) -> float:
        """Milliseconds."""
        return 1000 * float(np.quantile([each[of_clock] for each in self.took[name]], share))


@dataclass(kw_only=True)
class Worker:
    """One GPU's worker process. `number` counts its processes; `ends` is the event that it waits for."""

    gpu: int
    number: int = 0
    claim: Claim | None = None
    begun_s: float = 0.0

    @property
    def name(self) -> str:
        """As the queue knows it."""
        return f"gpu{self.gpu:02d}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What `ranker.schedule` said in the middle: seconds from the start, and how many jobs had finished then."""

    at_s: float
    finished: int
    low_s: float
    likely_s: float
    high_s: float


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came of it. `bound_s`: all work without any loss, shared evenly by all GPUs."""

    world: World
    makespan_s: float
    bound_s: float
    counts: dict[str, int]
    meter: Meter
    attempts: int
    foreseen: Foreseen | None


class Season:
    """The simulation: a heap of events, the workers, and what the jobs truly take."""

    def __init__(self, world: World, engine: Engine, home: Home, service: Service) -> None:
        self.world, self.engine, self.home, self.service = world, engine, home, service
        self.rng = np.random.default_rng(world.seed)
        self.meter = Meter()
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.now_s = 0.0
        self.works: dict[int, Work] = {}
        self.workers = [Worker(gpu=gpu) for gpu in range(world.gpus)]
        self.dead: set[str] = set()
        self.done_s: list[float] = []
        self.foreseen: Foreseen | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._idle: list[Worker] = []

    @property
    def now(self) -> datetime:
        """Virtual."""
        return START + timedelta(seconds=self.now_s)

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen, at a time from the start."""
        self._number += 1
        heapq.heappush(self._events, (seconds, self._number, what))

    def run(self) -> None:
        """Until every job has succeeded. Raises AssertionError if they take three times as long as they should."""
        limit_s = 86_400 + 3 * sum(work.whole_s for work in self.works.values()) / self.world.gpus
        for worker in self.workers:
            self.at(0.0, lambda worker=worker: self.take(worker))  # type: ignore[misc]
        self.at(self.world.look_s, self.look_regularly)
        while self._events and len(self.done_s) < len(self.works):
            self.now_s, _, what = heapq.heappop(self._events)
            assert self.now_s < limit_s, f"{len(self.works) - len(self.done_s)} jobs never end"
            what()

    def take(self, worker: Worker) -> None:
        """Claim and begin, or wait for the next job that is due."""
        lease_s = self.service.lease_s
        claim = self.meter.call("claim", queue.claim, self.engine, worker=worker.name, now=self.now, lease_s=lease_s)
        if claim is None:
            due = queue.next_due(self.engine, now=self.now)
            self.counts["asked in vain"] += 1
            if due is None:
                self._idle.append(worker)  # a job that comes back from another is told of by whoever takes it away
            else:
                self.at(max((due - START).total_seconds(), self.now_s + 1), lambda: self.take(worker))
            return
        worker.claim, worker.begun_s = claim, self.now_s
        left_s = self.works[claim.job_id].left_s()
        death_s = self.rng.exponential(3600 / self.world.deaths) if self.world.deaths else float("inf")
        if self.rng.random() < FAILING:
            self.at(self.now_s + left_s * self.rng.random(), lambda: self.fails(worker, claim))
        elif death_s < left_s:
            self.at(self.now_s + death_s, lambda: self.dies(worker, claim))
        else:
            self.at(self.now_s + left_s, lambda: self.finishes(worker, claim))

    def finishes(self, worker: Worker, claim: Claim) -> None:
        """A job is done."""
        self.finish(claim)
        self.done_s.append(self.now_s)
        worker.claim = None
        if 2 * len(self.done_s) == len(self.works):
            self.foresee()
        self.take(worker)

    def finish(self, claim: Claim) -> None:
        """Record a result. Raises LeaseLostError."""
        run = f"runs/{claim.submission_id}/{claim.key[:12]}/attempt-{claim.attempt:04d}"
        scores = [
            NewScore(task=f"task{n}", metric="Accuracy", value=0.5, items=100, predictions=f"{run}/{n}.parquet")
            for n in range(TASKS)
        ]
        self.meter.call("finish", queue.finish, self.engine, claim, now=self.now, result={"run": run}, scores=scores)

    def fails(self, worker: Worker, claim: Claim) -> None:
        """An attempt fails by our own fault; the job waits for its retry, the worker goes on."""
        self.counts["failed"] += 1
        self.works[claim.job_id].keep(self.now_s - worker.begun_s, self.world.checkpoint_s)
        self.meter.call(
            "fail", queue.fail, self.engine, claim, now=self.now, fault=Fault.INFRA, reasons=["out of memory"],
            max_infra_attempts=self.service.infra_attempts, retry_delay_s=self.service.retry_delay_s,
        )  # fmt: skip
        worker.claim = None
        self.wake()
        self.take(worker)

    def dies(self, worker: Worker, claim: Claim) -> None:
        """A worker ends in one of three ways."""
        self.works[claim.job_id].keep(self.now_s - worker.begun_s, self.world.checkpoint_s)
        name, worker.claim = worker.name, None
        worker.number += 1
        # Heartbeats come every quarter of a lease: the last one was up to that long ago.
        lapse_s = self.now_s + self.service.lease_s * (1 - self.rng.random() / 4)
        self.beat(claim, lapse_s)
        way = int(self.rng.integers(3))
        if way == 0:
            self.counts["process died"] += 1
            self.dead.add(name)
            self.at(self.now_s + SEEN_S, self.look)
            self.at(self.now_s + RESTART_S, lambda: self.take(worker))
            return
        self.at(lapse_s + SEEN_S, self.look)
        self.at(self.now_s + AWAY_S, lambda: self.take(worker))
        if way == 1:
            self.counts["machine lost"] += 1
        else:
            self.counts["cut off, and worked on"] += 1
            self.at(self.now_s + AWAY_S, lambda: self.comes_late(claim))

    def comes_late(self, claim: Claim) -> None:
        """What a worker that was cut off has to say is refused, whatever it is."""
        late: list[Callable[[], object]] = [
            lambda: self.finish(claim),
            lambda: queue.release(self.engine, claim, self.now),
            lambda: queue.heartbeat(self.engine, claim, now=self.now, lease_s=1.0, progress=None),
        ]
        for say in late:
            try:
                say()
            except LeaseLostError:
                self.counts["late words refused"] += 1
            else:
                self.counts["late words taken"] += 1

    def beat(self, claim: Claim, lapse_s: float | None = None) -> None:
        """A heartbeat of now, or the last one of a worker whose lease then lapses at `lapse_s`."""
        lease_s = self.service.lease_s if lapse_s is None else lapse_s - self.now_s
        progress = Progress(stage=Stage.TRAIN, done=1, total=2, rate=1.0, device=claim.worker)
        self.meter.call(
            "heartbeat", queue.heartbeat, self.engine, claim, now=self.now, lease_s=lease_s, progress=progress
        )

    def look_regularly(self) -> None:
        """The watch looks now and then, also when nothing has happened."""
        self.look()
        for worker in self.workers:
            if worker.claim is not None:
                self.meter.call("is_asked_back", queue.is_asked_back, self.engine, worker.claim)
        self.at(self.now_s + self.world.look_s, self.look_regularly)

    def look(self) -> None:
        """Living workers' leases are fresh; then the watch takes jobs from the dead."""
        for worker in self.workers:
            if worker.claim is not None:
                self.beat(worker.claim)
        taken = self.meter.call(
            "reap", queue.reap, self.engine, now=self.now, is_dead=self.dead.__contains__,
            max_infra_attempts=self.service.infra_attempts,
        )  # fmt: skip
        self.counts["taken from the dead"] += taken
        if taken:
            self.wake()

    def wake(self) -> None:
        """A job waits again: idle workers ask within a second."""
        idle, self._idle = self._idle, []
        for worker in idle:
            self.at(self.now_s + 1, lambda worker=worker: self.take(worker))  # type: ignore[misc]

    def foresee(self) -> None:
        """Ask as `ranker plan` does."""
        with session(self.engine, read_only=True) as reading:
            tasks, found = schedule.tasks(reading), schedule.measured(reading, self.home)
        ask = schedule.Ask(now=self.now, workers=self.world.gpus)
        begun = time.process_time()
        empty = schedule.foresee(tasks, found, {}, ask).finish.empty
        self.meter.took["forecast"].append((time.process_time() - begun, 0.0))
        low_s, likely_s, high_s = ((each - START).total_seconds() for each in (empty.low, empty.likely, empty.high))
        self.foreseen = Foreseen(
            at_s=self.now_s, finished=len(self.done_s), low_s=low_s, likely_s=likely_s, high_s=high_s
        )
