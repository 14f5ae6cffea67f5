"""How long a claim takes with many jobs in the table: `python bench/claim_time.py [--jobs 10000] [--claims 2000]`.

A real SQLite file, of jobs in the states that a long challenge leaves: some ended, some waiting for a retry, the rest
queued with a few priorities. Each claim is timed alone, with everything it takes to make it durable (fsync); in the
last row eight processes claim at once, which shows the waiting for the lock as well. `processor` is the median of the
time of this process alone: what is left when the disk is quick and nobody else uses the machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, text

from ranker import queue
from ranker.db.models import Job, Submission
from ranker.db.session import connect, open_database, session
from ranker.home import Home
from ranker.types import Fault, JobKind, Status

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
LEASE_S = 120.0
PROCESSES = 8
ENDED, DELAYED = 0.4, 0.1  # shares of the table


def fill(home: Home, jobs: int) -> None:
    """A home with so many jobs."""
    engine = open_database(home)
    team = {"team": "team", "file_name": "x.zip", "size_bytes": 1, "received_at": NOW}
    with session(engine) as writing:
        writing.execute(insert(Submission), [{"id": f"{n:012x}", "digest": f"{n:064x}"} | team for n in range(1000)])
        writing.execute(insert(Job), [row(number, jobs) for number in range(jobs)])
    engine.dispose()


def row(number: int, jobs: int) -> dict[str, object]:
    """The ended ones come first, as they do in life; every tenth of the others waits for its retry."""
    ended = number < jobs * ENDED
    delayed = not ended and number % round(1 / DELAYED) == 0
    status = (Status.FAILED if number % 20 == 0 else Status.SUCCEEDED) if ended else Status.QUEUED
    return {
        "key": f"{number:064x}",
        "submission_id": f"{number % 1000:012x}",
        "kind": JobKind.EVALUATE,
        "benchmark": "challenge",
        "track": "AB"[number % 2],
        "seed": number,
        "priority": 1 if number % 97 == 0 else 0,
        "status": status,
        "fault": Fault.INFRA if status is Status.FAILED else None,
        "attempt": 1 if ended else 0,
        "not_before": NOW + timedelta(seconds=300) if delayed else None,
        "reasons": [],
        "created_at": NOW,
        "finished_at": NOW if ended else None,
    }


def claims(path: Path, name: str, number: int, job_ids: frozenset[int] | None) -> list[tuple[float, float]]:
    """Milliseconds of each of so many claims, by the clock and of the processor."""
    engine = connect(path)
    took = []
    for _ in range(number):
        begun, worked = time.perf_counter(), time.process_time()
        held = queue.claim(engine, worker=name, now=NOW, lease_s=LEASE_S, job_ids=job_ids)
        took.append((1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - worked)))
        assert held is not None, "the table has too few jobs for so many claims"
    engine.dispose()
    return took


def measured(jobs: int, number: int, *, processes: int, chosen: bool) -> list[tuple[float, float]]:
    """Claims on a fresh table, after a few that are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder))
        fill(home, jobs)
        # Every queued job but the first thousand: what an executor was given, while others' jobs wait before them.
        ids = frozenset(range(round(jobs * ENDED) + 1000, jobs + 1)) if chosen else None
        claims(home.database_path, "warm", 20, ids)
        share = [(home.database_path, f"w{index}", number // processes, ids) for index in range(processes)]
        if processes == 1:
            return claims(*share[0])
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            return [each for took in pool.starmap(claims, share) for each in took]


def line(what: str, both: Sequence[tuple[float, float]]) -> str:
    """A row of the table."""
    took, worked = ([each[which] for each in both] for which in (0, 1))
    cuts = statistics.quantiles(took, n=100)
    figures = (statistics.median(took), cuts[94], cuts[98], max(took), statistics.median(worked))
    return f"| {what} | {len(took)} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"


def plan() -> list[str]:
    """How SQLite finds the job, in its own words."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder))
        fill(home, 100)
        query = (
            "SELECT id FROM job WHERE status = 'queued' AND (not_before IS NULL OR not_before <= '2026-02-12' OR "
            "not_before > '2026-02-13') ORDER BY priority DESC, id LIMIT 100"
        )
        engine = connect(home.database_path)
        with engine.connect() as connection, connection.begin():
            steps = [each[-1] for each in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
        engine.dispose()
        return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--claims", type=int, default=2_000)
    given = parser.parse_args()
    print(f"{given.jobs} jobs in the table, {os.cpu_count()} cores; milliseconds\n")
    print("| claims | number | median | 95% | 99% | longest | processor |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(line("one worker, any job", measured(given.jobs, given.claims, processes=1, chosen=False)))
    print(line("one worker, chosen jobs", measured(given.jobs, given.claims, processes=1, chosen=True)))
    print(line(f"{PROCESSES} at once, any job", measured(given.jobs, given.claims, processes=PROCESSES, chosen=False)))
    print("\nHow SQLite finds the job: " + "; ".join(plan()))


if __name__ == "__main__":
    main()
