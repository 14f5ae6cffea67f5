"""What a board is made of: finished evaluations, their scores, and each score's bootstrap draws."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sqlalchemy.orm import Session

from ranker import lineup, uncertainty
from ranker.config import Benchmark, Task, Track
from ranker.db.models import Score
from ranker.errors import MissingError, OrganizerError
from ranker.home import Home
from ranker.metrics import reweighted
from ranker.types import Standing

Scores = dict[str, dict[str, Score]]  # submission id -> task -> score
TaskDraws = dict[str, dict[str, uncertainty.Draws]]  # submission id -> task -> (B,)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a board is made of: the evaluations chosen, their scores and each score's bootstrap draws, by submission.

    `track` has the sizes of the test sets filled in, as they were scored. `units`: what was drawn for each scored task.
    `further`: scores of the same conditions with other seeds, by seed.
    """

    track: Track
    choice: lineup.Choice
    scores: Scores
    draws: TaskDraws
    units: Mapping[str, uncertainty.Units]
    further: Mapping[int, Scores]


def evidence(
    session: Session,
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    condition: str | None,
    seed: int | None,
    including: Collection[Standing] = (),
) -> Evidence:
    """The evidence of one board. Arguments and errors as for `assemble`."""
    active = benchmark.track(track)
    found = lineup.finished(session, benchmark, track, including=including)
    choice, jobs = lineup.choose(found, f"track {track} of benchmark {benchmark.name}", condition, seed)
    scores: Scores = {}
    for job in jobs:
        scores.setdefault(job.submission_id, {}).update({score.task: score for score in job.scores})
    digests = {each.part: each.digest for each in choice.conditions}
    further: dict[int, Scores] = {}
    for job in (job for _, others in found for job in others):
        if job.seed != choice.seed and job.condition_digest in digests.values():
            of_seed = further.setdefault(job.seed, {}).setdefault(job.submission_id, {})
            of_seed.update({score.task: score for score in job.scores})
    draws: TaskDraws = {submission: {} for submission in scores}
    units: dict[str, uncertainty.Units] = {}
    for task in active.active_tasks:
        items = {key: _items(home, task, scores[key][task.name]) for key in sorted(scores) if task.name in scores[key]}
        # Draws are a function of what is measured, not of who takes part.
        identity = (benchmark.name, track, digests.get(task.part, ""), choice.seed, task.name)
        for key, values in uncertainty.task_draws(task, items, seed=uncertainty.seed_of(*identity)).items():
            draws[key][task.name] = values
        if items:
            units[task.name] = uncertainty.units_of(task, list(items.values()))
    return Evidence(
        track=_sized(active, scores), choice=choice, scores=scores, draws=draws, units=units, further=further
    )


def _sized(track: Track, scores: Scores) -> Track:
    """The track with the number of scored pairs of each task that was scored; all were scored on the same."""
    sizes = {score.task: score.items for by_task in scores.values() for score in by_task.values()}
    tasks = tuple(
        task.model_copy(update={"test_items": sizes[task.name]}) if task.name in sizes else task for task in track.tasks
    )
    return track.model_copy(update={"tasks": tasks})


def _items(home: Home, task: Task, score: Score) -> pd.DataFrame:
    """The per-item table behind a score; refused unless it gives the value that the database holds."""
    path = home.root / score.predictions
    if not path.is_file():
        raise MissingError(
            f"{path}: the predictions behind the {task.name} score of job {score.job_id} are gone; "
            "restore the file from a backup of the home folder"
        )
    try:
        items = pd.read_parquet(path)
        value = float(reweighted(task.metric, items, np.ones((1, len(items))), num_classes=task.num_classes)[0])
    except (OSError, ValueError, KeyError) as error:
        raise OrganizerError(
            f"{path}: is no readable table of predictions ({error}); restore it from a backup"
        ) from error
    if not math.isclose(value, score.value, abs_tol=1e-6):
        raise OrganizerError(
            f"{path}: these predictions give {value:.6f} on {task.name}, but job {score.job_id} recorded "
            f"{score.value:.6f}: one of them was changed after the run, so restore both from one backup"
        )
    return items
