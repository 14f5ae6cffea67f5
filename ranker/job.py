"""What the worker hands to the function that does a job, and what that function gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.home import Home
from ranker.queue import Claim, NewScore
from ranker.settings import Service
from ranker.types import Condition, Fault, JobKind, Progress, Status


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
    LeaseLostError once the job was given to another attempt: let it through. `watch` names a function that tells the
    highest memory of the job's encoder so far, in bytes. `rest` is to be called where stopping loses little: it raises
    KeyboardInterrupt if the job is asked back.
    """

    home: Home
    service: Service
    claim: Claim
    submission: SubmissionSnapshot
    run_folder: Path
    report: Callable[[Progress], None]
    watch: Callable[[Callable[[], int | None]], None] = lambda _: None
    rest: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished job found: plain JSON values for `Job.result`, and scores if it was an evaluation."""

    result: dict[str, Any]
    scores: tuple[NewScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return {"result": self.result, "scores": [asdict(score) for score in self.scores]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`; raises KeyError or TypeError on anything else."""
        return cls(result=value["result"], scores=tuple(NewScore(**score) for score in value["scores"]))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job was not done, and whose fault that is."""

    fault: Fault
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return {"fault": self.fault, "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Failure:
        """The inverse of `to_json`; raises KeyError or ValueError on anything else."""
        return cls(fault=Fault(value["fault"]), reasons=tuple(value["reasons"]))


@dataclass(frozen=True, kw_only=True)
class Order:
    """A claimed job for a process that has no database. `home` is a folder of that process's own machine, in which the
    files that the job needs lie where they do in the organizer's home.
    """

    home: Home
    service: Service
    claim: Claim
    submission: SubmissionSnapshot

    def to_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        condition = self.claim.condition
        return {
            "home": str(self.home.root),
            "hidden": None if self.home.hidden is None else str(self.home.hidden),
            "service": self.service.model_dump(mode="json"),
            "claim": asdict(self.claim) | {"condition": None if condition is None else condition.to_json()},
            "submission": asdict(self.submission),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Order:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        claim, submission, hidden = dict(value["claim"]), dict(value["submission"]), value["hidden"]
        claim["kind"] = JobKind(claim["kind"])
        if claim["condition"] is not None:
            claim["condition"] = Condition.from_json(claim["condition"])
        submission["allowed_hosts"] = tuple(submission["allowed_hosts"])
        return cls(
            home=Home(root=Path(value["home"]), hidden=None if hidden is None else Path(hidden)),
            service=Service.model_validate(value["service"]),
            claim=Claim(**claim),
            submission=SubmissionSnapshot(**submission),
        )


def snapshot(engine: Engine, submission_id: str) -> SubmissionSnapshot:
    """The submission as it stands now, with its latest successful check."""
    with session(engine, read_only=True) as reading:
        submission = reading.get_one(Submission, submission_id)
        checks = select(Job.result).where(
            Job.submission_id == submission_id, Job.kind == JobKind.CHECK, Job.status == Status.SUCCEEDED
        )
        return SubmissionSnapshot(
            id=submission.id,
            digest=submission.digest,
            team=submission.team,
            encoder_override=submission.encoder_override,
            check=reading.scalar(checks.order_by(Job.id.desc()).limit(1)),
            allowed_hosts=tuple(each.host for each in submission.allowed_hosts),
        )


def job_folder(home: Home, submission_id: str, key: str) -> Path:
    """The folder that holds every attempt of a job."""
    return home.runs / submission_id / key[:12]


def run_folder(home: Home, claim: Claim) -> Path:
    """The folder of one attempt."""
    return job_folder(home, claim.submission_id, claim.key) / f"attempt-{claim.attempt:04d}"
