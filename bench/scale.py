"""A season on virtual time, with the real queue: `python bench/scale.py [--write docs/results/scale.md]`.

1,000 submissions in two tracks on 64 GPUs, each of which loses its worker with a chance of 2% an hour. What is real:
the SQLite file (write-ahead log, fsync, foreign keys, triggers), and every call of `ranker.queue`, in the order and
with the arguments of workers and their watch, but for `now`. What is not: time, which jumps from event to event, and
the work, which is a duration drawn from a seeded distribution.

- A worker claims, and does loading, encoding, training, then each task's answers. Training is kept up to the last
  checkpoint, answers up to the last finished task, encoded features not at all: so it goes on in `ranker.evaluation`.
- A worker's end is one of three: its process dies and its watch sees that within a second; its machine is lost, which
  its lease alone tells, and comes back after ten minutes; or its machine is cut off and works on, so that what it has
  to say comes when the job is another's. One attempt in a hundred fails by our own fault and waits for its retry.
- Nothing looks at leases but the watch, so heartbeats are written when it looks: at every lease's end after a machine
  was lost, and every `--look-s` seconds of virtual time beside. Those that a later one would have overwritten unseen
  are thinned out; what they cost is counted at the real rhythm, from the mean of those that were made.
- Half-way through, `ranker.schedule` (as `ranker plan` asks it) forecasts the end from what has finished by then.

Times are of this process's processor (time.process_time): SQLite works inside the calling process, so a call's work is
all in it, and waiting for a disk or for other programs is not.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Engine, func, insert, select

from ranker import queue, schedule
from ranker.db.models import Job, JobAttempt, Score, Submission
from ranker.db.session import open_database, session
from ranker.errors import LeaseLostError
from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.settings import Service
from ranker.types import Condition, Ending, Fault, JobKind, Precision, Progress, Stage, Status

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


def condition(track: str) -> Condition:
    """What all evaluations of a track share."""
    return Condition(
        benchmark="challenge", track=track, measurement="1" * 64, data="2" * 64, decoder="3" * 64, decoder_layers=30,
        metric_models="", steps=100_000, precision=Precision.BF16, device="NVIDIA H200", sandboxed=True,
    )  # fmt: skip


def fill(engine: Engine, world: World) -> list[int]:
    """Submissions, ended jobs of an earlier season, and the jobs to do; returns the ids of those."""
    team = {"team": "team", "file_name": "x.zip", "size_bytes": 1, "received_at": START}
    with session(engine) as writing:
        writing.execute(
            insert(Submission), [{"id": f"{n:012x}", "digest": f"{n:064x}"} | team for n in range(world.submissions)]
        )
        old = max(world.table - world.submissions * len(TRACKS), 0)
        if old:
            writing.execute(insert(Job), [_old(number, world.submissions) for number in range(old)])
        jobs = [
            queue.enqueue(
                writing, submission_id=f"{n:012x}", kind=JobKind.EVALUATE, condition=condition(track), seed=SEED,
                now=START,
            )
            for n in range(world.submissions)
            for track in TRACKS
        ]  # fmt: skip
        return [job.id for job in jobs]


def _old(number: int, submissions: int) -> dict[str, object]:
    return {
        "key": f"{number:064x}", "submission_id": f"{number % submissions:012x}", "kind": JobKind.EVALUATE,
        "benchmark": "rehearsal", "track": TRACKS[number % 2], "seed": number, "status": Status.CANCELLED,
        "attempt": 0, "reasons": [], "created_at": START, "finished_at": START,
    }  # fmt: skip


def drawn(rng: np.random.Generator) -> Work:
    """One job's true durations."""
    encode, train, answer = (
        float(median * np.exp(rng.normal(0, spread))) for median, spread in (ENCODE_S, TRAIN_S, ANSWER_S)
    )
    parts = rng.dirichlet([4.0] * TASKS) * answer
    return Work(load_s=LOAD_S, encode_s=encode, train_s=train, task_s=tuple(map(float, parts)))


def simulate(world: World, folder: Path, service: Service | None = None) -> Ended:
    """One season, by the shipped configuration or this one. Raises AssertionError if the queue breaks a promise."""
    home = Home(root=folder)
    engine = open_database(home)
    try:
        season = Season(world, engine, home, service or Service())
        ids = fill(engine, world)
        season.works = {number: drawn(season.rng) for number in ids}
        bound_s = sum(work.whole_s for work in season.works.values()) / world.gpus
        season.run()
        _must_hold(season, ids)
        with session(engine, read_only=True) as reading:
            attempts = reading.scalar(select(func.count()).select_from(JobAttempt)) or 0
        return Ended(
            world=world, makespan_s=max(season.done_s), bound_s=bound_s, counts=dict(season.counts),
            meter=season.meter, attempts=attempts, foreseen=season.foreseen,
        )  # fmt: skip
    finally:
        engine.dispose()


def _must_hold(season: Season, ids: list[int]) -> None:
    """Every job has succeeded, once, with one set of scores; nothing is held; nothing late was taken."""
    with session(season.engine, read_only=True) as reading:
        status = dict(reading.execute(select(Job.id, Job.status).where(Job.id.in_(ids))).all())
        won = reading.execute(
            select(JobAttempt.job_id, func.count())
            .where(JobAttempt.ending == Ending.SUCCEEDED)
            .group_by(JobAttempt.job_id)
        ).all()
        scores = reading.execute(select(Score.job_id, func.count()).group_by(Score.job_id)).all()
        live = reading.scalar(select(func.count()).where(JobAttempt.ending.is_(None)))
        held = reading.scalar(select(func.count()).where(Job.lease_expires_at.is_not(None)))
    expected = len(season.works)
    lost = [number for number in season.works if status[number] != Status.SUCCEEDED]
    assert not lost, f"{len(lost)} jobs did not succeed: {lost[:5]}"
    assert dict(won) == dict.fromkeys(season.works, 1), "a job succeeded twice, or never"
    assert dict(scores) == dict.fromkeys(season.works, TASKS), "a job's scores were counted twice, or are missing"
    assert len(season.done_s) == expected
    assert (live, held) == (0, 0), f"{live} attempts live on, {held} leases are held"
    assert not season.counts["late words taken"], "what came after the lease was lost was written"


def coordinator_share(ended: Ended, service: Service) -> dict[str, float]:
    """Shares of one core that the queue's calls take at the real rhythm of a Ray coordinator (`ranker.coordinator`),
    for the calls that happen (`claim`, `finish`, `fail`) and for those that come at an interval.
    """
    from ranker.coordinator import BEATS_PER_LEASE, LOOK_EVERY_S
    from ranker.executors.base import REAP_EVERY_TICKS, TICK_S

    meter, gpus, seconds = ended.meter, ended.world.gpus, ended.makespan_s
    happened = {
        name: sum(processor for processor, _ in meter.took[name]) / seconds for name in ("claim", "finish", "fail")
    }
    return happened | {
        "heartbeat": meter.mean("heartbeat") * gpus * BEATS_PER_LEASE / service.lease_s,
        "is_asked_back": meter.mean("is_asked_back") * gpus / LOOK_EVERY_S,
        "reap": meter.mean("reap") / (REAP_EVERY_TICKS * TICK_S),
    }


def report(ended: Ended) -> Iterator[str]:
    """The document, line by line."""
    world, meter, counts = ended.world, ended.meter, ended.counts
    shares = coordinator_share(ended, Service())
    yield "# A thousand submissions, on virtual time"
    yield ""
    yield (
        f"Written by `python bench/scale.py` on {datetime.now(UTC):%Y-%m-%d}; Python {platform.python_version()}, "
        f"{len(os.sched_getaffinity(0))} cores. The queue and its SQLite file are real, time and work are simulated: "
        "durations are drawn, not measured (the head of `bench/scale.py` says how, and what is thinned out). Times of "
        "calls are of the processor, since the machine did other things as well; by the clock they are given too."
    )
    yield ""
    yield "| | |"
    yield "| --- | ---: |"
    loss = ended.makespan_s / ended.bound_s - 1
    for name, value in (
        ("submissions x tracks", f"{world.submissions:,} x {len(TRACKS)}"),
        ("GPUs", f"{world.gpus}"),
        ("jobs in the table", f"{max(world.table, world.submissions * len(TRACKS)):,}"),
        ("deaths per worker and hour", f"{world.deaths:.0%}"),
        ("checkpoint every", f"{world.checkpoint_s / 60:.0f} min"),
        ("virtual time", f"{ended.makespan_s / 3600:.1f} h"),
        ("bound: work / GPUs", f"{ended.bound_s / 3600:.1f} h"),
        ("above the bound", f"{loss:.1%} (at most 10%)"),
        ("attempts", f"{ended.attempts:,}"),
        *((name, f"{count:,}") for name, count in sorted(counts.items())),
        ("jobs lost, or counted twice", "0 (asserted)"),
        ("claim, median / 99% / longest, processor", _claims(meter, of_clock=False) + " ms (99%: under 5 ms)"),
        ("claim, median / 99% / longest, clock", _claims(meter, of_clock=True) + " ms"),
        ("coordinator, of one core", f"{sum(shares.values()):.2%} (under 5%)"),
    ):
        yield f"| {name} | {value} |"
    yield ""
    yield (
        "The coordinator's share is what the queue's calls take of one core when one process makes them for all "
        f"{world.gpus} GPUs, as `ranker.coordinator` does, at its rhythm:"
    )
    yield ""
    yield "| call | made here | mean, processor | of one core |"
    yield "| --- | ---: | ---: | ---: |"
    for name, share in shares.items():
        mean = f"{1000 * meter.mean(name):.2f} ms" if meter.took[name] else "-"
        yield f"| {name} | {len(meter.took[name]):,} | {mean} | {share:.3%} |"
    if ended.foreseen is not None:
        yield ""
        yield from _foreseen(ended, ended.foreseen)


def _claims(meter: Meter, *, of_clock: bool) -> str:
    return " / ".join(f"{meter.quantile('claim', share, of_clock=of_clock):.2f}" for share in (0.5, 0.99, 1.0))


def _foreseen(ended: Ended, seen: Foreseen) -> Iterator[str]:
    yield (
        f"**`ranker plan`, half-way.** At hour {seen.at_s / 3600:.1f}, with {seen.finished:,} jobs finished, it "
        f"foresaw the end for hour {seen.likely_s / 3600:.1f} ({seen.low_s / 3600:.1f} to {seen.high_s / 3600:.1f}); "
        f"it came at hour {ended.makespan_s / 3600:.1f}. The forecast took "
        f"{ended.meter.mean('forecast'):.1f} s of a processor."
    )


def main() -> None:
    """Simulate, check, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = World()
    parser.add_argument("--submissions", type=int, default=given.submissions)
    parser.add_argument("--gpus", type=int, default=given.gpus)
    parser.add_argument("--deaths", type=float, default=given.deaths, help="per worker and hour")
    parser.add_argument("--checkpoint-s", type=float, default=given.checkpoint_s)
    parser.add_argument("--look-s", type=float, default=given.look_s)
    parser.add_argument("--table", type=int, default=given.table, help="jobs in the table, at least")
    parser.add_argument("--seed", type=int, default=given.seed)
    parser.add_argument("--write", type=Path)
    arguments = vars(parser.parse_args())
    path: Path | None = arguments.pop("write")
    with tempfile.TemporaryDirectory(prefix="ranker-scale-") as folder:
        ended = simulate(World(**arguments), Path(folder))
    text = "\n".join(report(ended)) + "\n"
    print(text)
    assert ended.makespan_s <= 1.1 * ended.bound_s, "the makespan is more than 10% above the bound"
    assert sum(coordinator_share(ended, Service()).values()) < 0.05, "the coordinator takes 5% of a core or more"
    assert ended.meter.quantile("claim", 0.99, of_clock=False) < 5, "a claim takes 5 ms or more at the 99th percentile"
    if path is not None:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
