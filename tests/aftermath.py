"""After the disturbance: what a home holds, as plain values that two homes can be compared by, and what is amiss."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ranker.cli.app import main
from ranker.db.models import Job, JobAttempt, Score
from ranker.db.place import database_url
from ranker.db.session import connect, session
from ranker.home import Home
from ranker.sandbox import orphans
from ranker.sandbox.cgroup import dead_cgroups
from ranker.sandbox.owner import is_of, owner_of
from ranker.types import Ending, JobKind, Status

TIMES = {"seconds", "examples_per_s", "waited_s"}


def told(home: Path, *arguments: str) -> Any:
    """What a command of `ranker` says with --json."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main(["--home", str(home), *arguments, "--json"])
    return json.loads(said.getvalue())


def outcome(home: Path) -> dict[str, Any]:
    """All that an evaluation is for, and nothing that tells when it was: ranking; and of each job the digests of its
    adapter and predictions, its scores, and its training log without times.
    """
    engine = connect(database_url(Home(root=home)))
    jobs = {}
    with session(engine, read_only=True) as reading:
        for job in reading.scalars(select(Job).where(Job.kind == JobKind.EVALUATE)):
            assert job.status == Status.SUCCEEDED, f"job {job.id} is {job.status}: {job.reasons}"
            assert job.result is not None
            run = home / job.result["run"]
            manifest = json.loads((run / "manifest.json").read_text())
            steps = manifest["condition"]["steps"]
            name = f"{job.submission.team} {job.track} seed {job.seed} in {steps} steps"
            assert name not in jobs
            jobs[name] = {
                "adapter": _digest(run / f"step-{steps:08d}" / "trained.safetensors"),
                "weights": manifest["weights"],
                "predictions": {score.task: _digest(home / score.predictions) for score in job.scores},
                "scores": {score.task: (score.metric, score.value, score.blind, score.items) for score in job.scores},
                "losses": _losses(run / "train.jsonl"),
            }
    engine.dispose()
    return {"ranking": told(home, "rank"), "jobs": jobs}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _losses(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def contradictions(home: Path) -> list[str]:
    """What the database tells of its jobs that cannot be: an attempt without an ending, a hole in a job's history, two
    successes, a lease of nobody, a score twice or of no success.
    """
    engine = connect(database_url(Home(root=home)))
    with session(engine, read_only=True) as reading:
        jobs = reading.scalars(select(Job)).all()
        attempts = reading.scalars(select(JobAttempt).order_by(JobAttempt.number)).all()
        scores = reading.scalars(select(Score)).all()
    engine.dispose()
    found = []
    for job in jobs:
        own = [attempt for attempt in attempts if attempt.job_id == job.id]
        endings = Counter(attempt.ending for attempt in own)
        if [attempt.number for attempt in own] != list(range(1, job.attempt + 1)):
            found.append(f"job {job.id} is in attempt {job.attempt}, its history is {[each.number for each in own]}")
        if endings[None] != (job.status == Status.RUNNING):
            found.append(f"job {job.id} is {job.status}; {endings[None]} attempts have no ending")
        if endings[Ending.SUCCEEDED] != (job.status == Status.SUCCEEDED):
            found.append(f"job {job.id} is {job.status}; {endings[Ending.SUCCEEDED]} attempts succeeded")
        if job.status != Status.RUNNING and (job.worker, job.lease_expires_at) != (None, None):
            found.append(f"job {job.id} is {job.status}, and held by {job.worker} until {job.lease_expires_at}")
    twice = [key for key, count in Counter((score.job_id, score.task) for score in scores).items() if count > 1]
    found += [f"task {task} of job {job} is scored twice" for job, task in twice]
    good = {job.id for job in jobs if job.status == Status.SUCCEEDED}
    found += [f"job {score.job_id} has a score and no success" for score in scores if score.job_id not in good]
    return found


def endings(home: Path) -> Counter[str]:
    """How the attempts of evaluations ended, and how many there were of each."""
    engine = connect(database_url(Home(root=home)))
    with session(engine, read_only=True) as reading:
        query = select(JobAttempt.ending).join(Job, Job.id == JobAttempt.job_id).where(Job.kind == JobKind.EVALUATE)
        found = Counter(str(ending) for ending in reading.scalars(query))
    engine.dispose()
    return found


def leftovers(home: Path) -> list[str]:
    """Processes, containers, control groups, sockets and temporary files of this home; nothing of it runs any more."""
    found = [f"{orphan.kind} {orphan.name}" for orphan in orphans.find(home)]
    found += [f"process {pid}: {what}" for pid, what in _processes(home)]
    folders = [path for path in Path(tempfile.gettempdir()).glob("ranker-*") if is_of(owner_of(path), home)]
    found += [f"folder {path}" for path in folders]
    found += [f"control group {path}" for path in dead_cgroups() if is_of(path.name, home)]
    names = {".*.tmp", ".step-*", ".incoming", ".*.npz", "features.f32", ".features*"}
    found += sorted({f"file {path.relative_to(home)}" for name in names for path in (home / "runs").rglob(name)})
    found += [f"folder {path.relative_to(home)}" for path in (home / "submissions").glob(".*") if path.is_dir()]
    return found


def _processes(home: Path) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if str(home) in words and "--home" in words and int(folder.name) != os.getpid():
                yield int(folder.name), " ".join(words)[:200]


def mended(home: Path) -> list[str]:
    """What `ranker doctor --mend --yes` repaired."""
    return [f"{each['wrong']}: {each['done']}" for each in told(home, "doctor", "--mend", "--yes") if each["done"]]


def warnings(home: Path) -> list[str]:
    """What `ranker doctor` finds amiss with the home's work: attempts' files, leases, orphans, the database."""
    return [f"{each['part']}: {each['found']}" for each in told(home, "doctor") if each["verdict"] != "ok"]
