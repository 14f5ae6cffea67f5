"""What the worker hands to the function that does a job, and what that function gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.settings import Service
from ranker.types import Progress


@dataclass(frozen=True, kw_only=True)
class SubmissionSnapshot:
    """A submission as it stood when its job was claimed. `check`: what its successful check found, None before it;
    `allowed_hosts`: what its constructor may ask at intake beside the hub.
    """

    id: str
    digest: str
    team: str
    encoder_override: str | None
    check: dict[str, Any] | None
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """All that a job's function needs; the database is not among it.

    `run_folder` is this attempt's own (`job_folder(...)/attempt-0001`); earlier attempts' folders lie beside it.
    `report` tells the watchers how far the job is. It may be called as often as is convenient, and raises
    LeaseLostError once the job was given to another attempt: let it through.
    """

    home: Home
    service: Service
    claim: Claim
    submission: SubmissionSnapshot
    run_folder: Path
    report: Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished job found: plain JSON values for `Job.result`, and scores if it was an evaluation."""

    result: dict[str, Any]
    scores: tuple[NewScore, ...] = ()


def job_folder(home: Home, submission_id: str, key: str) -> Path:
    """The folder that holds every attempt of a job."""
    return home.runs / submission_id / key[:12]


def run_folder(home: Home, claim: Claim) -> Path:
    """The folder of one attempt."""
    return job_folder(home, claim.submission_id, claim.key) / f"attempt-{claim.attempt:04d}"
