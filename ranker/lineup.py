"""Which finished evaluations make one board: those of one condition and one seed, for the present configuration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker.config import Benchmark
from ranker.db.models import Job
from ranker.errors import MissingError, UsageError
from ranker.types import Condition, JobKind, Status


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One board that could be assembled. `finished_at` is its latest evaluation, `submissions` how many it ranks."""

    condition: Condition
    seed: int
    submissions: int
    finished_at: datetime

    def describe(self) -> str:
        """One line for people: the digest to choose by, and what tells this board from the others."""
        reasons = self.condition.demonstration
        kind = f"demonstration: {', '.join(reasons)}" if reasons else "the whole protocol"
        plural = "s" * (self.submissions != 1)
        return (
            f"{self.condition.digest[:12]} with seed {self.seed} "
            f"({self.submissions} submission{plural}, {self.condition.device}, {kind})"
        )


def finished(session: Session, benchmark: Benchmark, track: str) -> list[tuple[Choice, list[Job]]]:
    """The track's boards with their succeeded evaluations (scores loaded), the one taken by default first.

    That is: fewest reasons to call it a demonstration, then most submissions, then the most recent. Evaluations under
    an earlier configuration of tasks or recipe belong to none. Raises ConfigError for an unknown track.
    """
    measurement = benchmark.measurement_digest(track)
    query = (
        select(Job)
        .where(Job.kind == JobKind.EVALUATE, Job.status == Status.SUCCEEDED)
        .where(Job.benchmark == benchmark.name, Job.track == track)
        .options(selectinload(Job.scores))
        .order_by(Job.finished_at, Job.id)
    )
    boards: dict[tuple[str, int], list[Job]] = {}
    for job in session.scalars(query):
        condition = _condition(job)
        if condition.measurement == measurement:
            boards.setdefault((condition.digest, job.seed), []).append(job)
    found = [(_choice(jobs), jobs) for jobs in boards.values()]
    found.sort(key=lambda pair: (pair[0].submissions, pair[0].finished_at), reverse=True)
    found.sort(key=lambda pair: len(pair[0].condition.demonstration))
    return found


def choose(
    found: list[tuple[Choice, list[Job]]], where: str, condition: str | None, seed: int | None
) -> tuple[Choice, list[Job]]:
    """The first board whose condition digest starts with `condition` and whose seed is `seed`, where these are given.

    `where` names benchmark and track in errors. Raises MissingError if there is no board at all, UsageError, listing
    them, if none fits or `condition` fits several conditions.
    """
    if not found:
        raise MissingError(
            f"no evaluation on {where} has finished for the configuration as it is now; run `ranker evaluate --all`"
        )
    fitting = [
        (choice, jobs)
        for choice, jobs in found
        if choice.condition.digest.startswith(condition or "") and seed in (None, choice.seed)
    ]
    several = condition is not None and len({choice.condition.digest for choice, _ in fitting}) > 1
    if fitting and not several:
        return fitting[0]
    asked = [f"condition {condition}"] * (condition is not None) + [f"seed {seed}"] * (seed is not None)
    problem = "fits more than one board" if several else "fits no board"
    boards = "; ".join(choice.describe() for choice, _ in found)
    raise UsageError(f"{' and '.join(asked)} {problem} on {where}; choose one of: {boards}")


def _condition(job: Job) -> Condition:
    assert job.condition is not None, f"evaluation {job.id} was queued without a condition"
    return Condition.from_json(job.condition)


def _choice(jobs: list[Job]) -> Choice:
    """`jobs` belong to one board and are sorted by time."""
    latest = jobs[-1]
    assert latest.finished_at is not None, f"evaluation {latest.id} succeeded at no time"
    return Choice(
        condition=_condition(latest),
        seed=latest.seed,
        submissions=len({job.submission_id for job in jobs}),
        finished_at=latest.finished_at,
    )
