"""How much a score owes to the seed of the training: one submission's scores with several seeds, side by side.

The first seed queued for a submission under a condition is the one that counts, for `ranker.orders.rerun` comes after
it; the later ones are evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from ranker.db.models import Job
from ranker.types import JobKind, Part, Status


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A task's raw scores with several seeds, the one that counts first.

    `deviation` is the sample's standard deviation (n - 1 below the root): the noise of one training, not of the mean.
    """

    benchmark: str
    track: str
    part: Part
    condition: str
    task: str
    metric: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return fmean(self.values)

    @property
    def deviation(self) -> float:
        """Of all seeds; two at least."""
        return stdev(self.values)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what follows from them."""
        drawn = {"mean": self.mean, "deviation": self.deviation, "low": min(self.values), "high": max(self.values)}
        return asdict(self) | {"seeds": list(self.seeds), "values": list(self.values)} | drawn


def further(jobs: Iterable[Job]) -> set[int]:
    """Ids of those of a submission's evaluations that are evidence only."""
    first: dict[str, Job] = {}
    later: set[int] = set()
    for job in sorted((job for job in jobs if job.kind == JobKind.EVALUATE), key=lambda job: job.id):
        if first.setdefault(job.condition_digest or "", job).seed != job.seed:
            later.add(job.id)
    return later


def spreads(jobs: Iterable[Job]) -> tuple[Spread, ...]:
    """The spread of each task that has finished with more than one seed, among one submission's jobs."""
    groups: dict[tuple[str, str], list[tuple[Job, str, float]]] = {}
    for job in sorted(jobs, key=lambda job: job.id):
        if job.kind == JobKind.EVALUATE and job.status == Status.SUCCEEDED:
            for score in job.scores:
                if not math.isnan(score.value):
                    key = (job.condition_digest or "", score.task)
                    groups.setdefault(key, []).append((job, score.metric, score.value))
    return tuple(
        Spread(
            benchmark=found[0][0].benchmark or "",
            track=found[0][0].track or "",
            part=found[0][0].part,
            condition=condition,
            task=task,
            metric=found[0][1],
            seeds=tuple(job.seed for job, _, _ in found),
            values=tuple(value for _, _, value in found),
        )
        for (condition, task), found in groups.items()
        if len(found) > 1
    )
