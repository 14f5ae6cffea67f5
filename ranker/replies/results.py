"""What may be told to a team of its scores: of the public tasks alone. Nothing here looks at a hidden task."""

from __future__ import annotations

import numpy as np
from sqlalchemy.orm import Session

from ranker import lineup, scoring
from ranker.config import Benchmark, Track
from ranker.db.models import Job, Score
from ranker.replies.answer import TaskResult, TrackResult
from ranker.types import Condition, Fault, Group, JobKind, Part, Status


def results(reading: Session, benchmark: Benchmark) -> dict[str, tuple[TrackResult, ...]]:
    """Each submission's results, by its id, in the benchmark's order of tracks: those of the boards that `ranker rank`
    shows, under the condition of the public part.
    """
    found: dict[str, list[TrackResult]] = {}
    for name in benchmark.tracks:
        track = _public(benchmark.track(name))
        boards = [each for each in lineup.finished(reading, benchmark, name) if each[0].condition.part is Part.PUBLIC]
        if not track.tasks or not boards:
            continue
        choice, jobs = boards[0]
        for job in jobs:
            if (job.condition_digest, job.seed) != (choice.condition.digest, choice.seed):
                continue  # of the hidden part
            scores = {score.task: score for score in job.scores}
            tasks = tuple(
                _told(task.name, task.title, scores[task.name]) for task in track.tasks if task.name in scores
            )
            if tasks:
                result = TrackResult(
                    name=name,
                    title=track.title,
                    mean=_mean(track, scores),
                    tasks=tasks,
                    demonstration=choice.condition.demonstration,
                )
                found.setdefault(job.submission_id, []).append(result)
    return {submission: tuple(told) for submission, told in found.items()}


def is_under_way(jobs: list[Job], benchmark: Benchmark) -> bool:
    """Whether more of a submission's public results may come soon."""
    return any(
        job.kind == JobKind.EVALUATE
        and job.benchmark == benchmark.name
        and job.part is Part.PUBLIC
        and job.status in {Status.QUEUED, Status.RUNNING}
        for job in jobs
    )


def failures(jobs: list[Job], benchmark: Benchmark) -> tuple[str, ...]:
    """Why a submission's public evaluations failed by its own fault: in full only where every task that was trained or
    tested in the run is public, for a reason may name a task and its clips.
    """
    told: dict[str, None] = {}
    for job in jobs:
        failed = job.kind == JobKind.EVALUATE and job.benchmark == benchmark.name and job.fault == Fault.PARTICIPANT
        if not failed or job.part is not Part.PUBLIC or job.condition is None or job.track not in benchmark.tracks:
            continue
        part = benchmark.part(job.track, Part.PUBLIC)
        is_open = all(task.group is Group.PUBLIC for task in (*part.tasks, *part.mixture.tasks))
        as_now = Condition.from_json(job.condition).measurement == benchmark.measurement_digest(job.track)
        in_short = f"its run in track {job.track} failed by its own fault; the organizers can tell you more"
        told |= dict.fromkeys(job.reasons if is_open and as_now else [in_short])
    return tuple(told)


def _public(track: Track) -> Track:
    tasks = tuple(task for task in track.active_tasks if task.group is Group.PUBLIC)
    return track.model_copy(update={"tasks": tasks, "group_weights": None})


def _told(name: str, title: str, score: Score) -> TaskResult:
    return TaskResult(
        name=name, title=title, metric=score.metric, value=score.value, blind=score.blind, items=score.items
    )


def _mean(track: Track, scores: dict[str, Score]) -> float | None:
    """The public group's mean (docs/protocol.md, section 4), with test sets of the size that was scored."""
    if not all(task.name in scores for task in track.tasks):
        return None
    sized = [task.model_copy(update={"test_items": scores[task.name].items}) for task in track.tasks]
    row = [(scores[task.name].value - task.worst) / (task.best - task.worst) for task in sized]
    return float(scoring.combine(np.array([row]), track.model_copy(update={"tasks": tuple(sized)})).track[0])
