"""Jobs for executors in tests: a home with one submission, evaluations to do, and a script that does them.

The script's `handler` is the body that a test gives; it runs as a worker of this machine or, given an order, as the
process that does a job on a node.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homes import new_engine
from queues import NOW, TEAM, condition
from ray_cluster import TestCluster, node_folder
from sqlalchemy import Engine, select
from sqlalchemy.orm import selectinload

from ranker import queue
from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.executors.base import Executor
from ranker.executors.local import Local
from ranker.executors.ray import Ray
from ranker.home import Home
from ranker.settings import ClusterSettings, Service
from ranker.types import JobKind

SCRIPT = """
import json, os, signal, sys, threading
from pathlib import Path
from ranker import perform, worker
from ranker.errors import InfraError, OrganizerError, ParticipantError
from ranker.job import JobContext, Outcome
from ranker.queue import NewScore
from ranker.types import JobKind, Progress, Stage

PLACE = Path({place!r})

def wait_for(name):
    while not (PLACE / name).exists():
        threading.Event().wait(0.02)

def checkpoint(context, step):
    folder = context.run_folder / f"step-{{step:08d}}"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(dict(step=step)))

def outcome(context, **result):
    score = NewScore(task="pitch", metric="Accuracy", value=0.5, items=4, predictions="pitch.parquet")
    return Outcome(result=dict(attempt=context.claim.attempt) | result, scores=(score,))

def handler(context: JobContext) -> Outcome:
{body}

if __name__ == "__main__":
    handlers = {{JobKind.EVALUATE: handler}}
    sys.exit(perform.main(handlers=handlers) if "--order" in sys.argv else worker.main(handlers=handlers))
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One home, and the executor that works for it. `folder` is where handlers and tests leave signs for each other."""

    home: Home
    engine: Engine
    folder: Path
    cluster: TestCluster | None

    @property
    def service(self) -> Service:
        nodes = ClusterSettings(node_folder=node_folder(self.folder), reconnect_s=60)
        return Service(retry_delay_s=0, infra_attempts=3, cpu_workers=1, cluster=nodes)

    def executor(self, body: str, *, workers: int = 1) -> Executor:
        script = self.folder / "script.py"
        text = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        script.write_text(SCRIPT.format(body=text, place=str(self.folder)), encoding="utf-8")
        command = (sys.executable, str(script))
        if self.cluster is None:
            return Local(workers=workers, command=command)
        return Ray(address=self.cluster.address, workers=workers, performer=command)

    def run(
        self,
        ids: Sequence[int],
        body: str,
        *,
        workers: int = 1,
        service: Service | None = None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self.executor(body, workers=workers).run(self.home, service or self.service, ids, on_tick=on_tick)

    def enqueue(self, count: int) -> list[int]:
        """Evaluations that differ in their seeds and their tracks."""
        with session(self.engine) as writing:
            return [
                queue.enqueue(
                    writing,
                    submission_id=TEAM,
                    kind=JobKind.EVALUATE,
                    condition=condition(track=f"T{seed}"),
                    seed=seed,
                    now=NOW,
                ).id
                for seed in range(count)
            ]

    def jobs(self) -> list[Job]:
        with session(self.engine, read_only=True) as reading:
            query = select(Job).order_by(Job.id).options(selectinload(Job.scores), selectinload(Job.attempts))
            return list(reading.scalars(query))

    def run_folder(self, job: Job, attempt: int) -> Path:
        return self.home.runs / TEAM / job.key[:12] / f"attempt-{attempt:04d}"


@contextmanager
def place(folder: Path, cluster: TestCluster | None) -> Iterator[Place]:
    """A new home below `folder`, on this machine or on a cluster (whose nodes are given PYTHONPATH by this process)."""
    home = Home(root=folder / "home")
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
    try:
        yield Place(home=home, engine=engine, folder=folder, cluster=cluster)
    finally:
        engine.dispose()


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
