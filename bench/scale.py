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
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, func, insert, select

sys.path.insert(0, str(Path(__file__).parent))

from season import (
    ANSWER_S,
    ENCODE_S,
    LOAD_S,
    SEED,
    START,
    TASKS,
    TRACKS,
    TRAIN_S,
    Ended,
    Foreseen,
    Meter,
    Season,
    Work,
    World,
)

from ranker import queue
from ranker.db.models import Job, JobAttempt, Score, Submission
from ranker.db.session import open_database, session
from ranker.home import Home
from ranker.settings import Service
from ranker.types import Condition, Ending, JobKind, Precision, Status


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
