"""Which evaluations are asked for, and which of them are still to be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from ranker import overview, queue
from ranker.conditions import condition_for
from ranker.config import Benchmark
from ranker.errors import UsageError
from ranker.home import Home
from ranker.overview import SubmissionView
from ranker.rules import SHOWN
from ranker.types import Condition, JobKind, Part, Standing, Status, SubmissionState


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Jobs of the evaluations that were asked for (`asked`), and of those that are still to be done (`job_ids`).

    `left_out`: submissions that were accepted, and cannot be ranked, by id.
    """

    benchmark: str
    submission_ids: tuple[str, ...]
    asked: tuple[int, ...]
    job_ids: tuple[int, ...]
    demonstration: tuple[str, ...]
    left_out: Mapping[str, Standing] = field(default_factory=dict)


def conditions(
    home: Home,
    benchmark: Benchmark,
    tracks: Sequence[str],
    *,
    limit_steps: int | None,
    sandboxed: bool,
    devices: Sequence[str],
    cuda_graphs: bool = False,
) -> list[Condition]:
    """Of every part of these tracks, as an executor with these models of GPUs measures it (none: on the CPU).

    Raises UsageError where its GPUs differ, MissingError where data or models are not there.
    """
    if len(devices) > 1:
        raise UsageError(
            f"there are different GPUs ({', '.join(devices)}), whose scores share no board; choose those of one model: "
            "by CUDA_VISIBLE_DEVICES on a machine, by a Ray cluster of one model"
        )
    return [
        condition_for(
            home,
            benchmark,
            track,
            part=part.name,
            limit_steps=limit_steps,
            sandboxed=sandboxed,
            device=devices[0] if devices else "cpu",
            cuda_graphs=cuda_graphs,
        )
        for track in tracks
        for part in benchmark.parts(track)
    ]


def plan(
    session: Session,
    benchmark: Benchmark,
    wanted: Sequence[Condition],
    *,
    names: Sequence[str] | None,
    now: datetime,
) -> Plan:
    """Queue what these submissions (None: all accepted ones that are ranked or may yet be) miss under the wanted
    conditions.

    Raises UsageError for a submission that no encoder check has accepted.
    """
    fit = _accepted(session, names)
    left_out = {view.submission.id: view.standing for view in fit if names is None and view.standing not in SHOWN}
    accepted = [view for view in fit if view.submission.id not in left_out]
    jobs = [
        queue.enqueue(
            session,
            submission_id=view.submission.id,
            kind=JobKind.EVALUATE,
            condition=condition,
            seed=benchmark.recipe.seed,
            now=now,
        )
        for part in Part  # prompted ones come last, and find the public ones' weights
        for view in accepted
        for condition in wanted
        if condition.part is part
    ]
    return Plan(
        benchmark=benchmark.name,
        submission_ids=tuple(view.submission.id for view in accepted),
        asked=tuple(job.id for job in jobs),
        job_ids=tuple(job.id for job in jobs if job.status in {Status.QUEUED, Status.RUNNING}),
        demonstration=tuple(dict.fromkeys(reason for each in wanted for reason in each.demonstration)),
        left_out=left_out,
    )


def _accepted(session: Session, names: Sequence[str] | None) -> list[SubmissionView]:
    views = overview.submissions(session) if names is None else overview.find(session, names)
    unfit = {SubmissionState.RECEIVED, SubmissionState.REFUSED}
    if names is not None and any(view.state in unfit for view in views):
        wrong = next(view for view in views if view.state in unfit)
        raise UsageError(
            f"submission {wrong.submission.id} of {wrong.submission.team} cannot be evaluated: "
            f"it is {wrong.state}; `ranker show {wrong.submission.id}` says why"
        )
    return [view for view in views if view.state not in unfit]
