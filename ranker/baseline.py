"""Encoders whose scores somebody published: what a benchmark's file says of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Margin = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_LEAST_DIGEST = 8


class Baseline(BaseModel):
    """One encoder with published scores, and how far a measurement of one's own may lie from them.

    `submission` names what was taken in: its team, or the beginning of its ZIP's digest (8 digits or more). `how` says
    what to do where it is not there yet, `source` who published the figures. `published` holds raw scores per track
    and task; `tolerance` is the largest difference in the raw score's own unit, `tolerances` another one for single
    tasks. A figure is one of the task's own metric unless `metrics` names another, such as `FENSE[minilm]`. A baseline
    stands on boards where its score belongs and takes no rank, unless it is `ranked`: there it takes part like a team.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    submission: str = Field(min_length=1)
    how: str = Field(min_length=1)
    source: str = Field(min_length=1)
    tolerance: Margin
    tolerances: dict[str, Margin] = Field(default_factory=dict)
    ranked: bool = False
    metrics: dict[str, str] = Field(default_factory=dict)
    published: dict[str, dict[str, Finite]] = Field(min_length=1)

    @model_validator(mode="after")
    def _about_figures(self) -> Self:
        known = {task for figures in self.published.values() for task in figures}
        unknown = sorted((set(self.tolerances) | set(self.metrics)) - known)
        if unknown:
            raise ValueError(f"baseline {self.name}: there is no published figure of {', '.join(unknown)}")
        return self

    def fits(self, team: str, digest: str) -> bool:
        """Whether a submission of that team, or with that SHA-256 of its ZIP, is the one that is meant."""
        is_digest = len(self.submission) >= _LEAST_DIGEST and digest.startswith(self.submission)
        return team == self.submission or is_digest

    def tolerance_of(self, task: str) -> float:
        """The largest difference that is let pass on this task."""
        return self.tolerances.get(task, self.tolerance)


def misfits(baselines: Sequence[Baseline], tasks: Mapping[str, Collection[str]]) -> Iterator[str]:
    """What baselines say of tracks and tasks that are not there; `tasks` holds the names of each track's tasks."""
    names = [baseline.name for baseline in baselines]
    yield from (f"baselines must differ in name; used twice: {name}" for name in names if names.count(name) > 1)
    for baseline in baselines:
        for track, figures in baseline.published.items():
            for task in figures:
                if task not in tasks.get(track, ()):
                    yield f"baseline {baseline.name}: track {track} has no task {task} that is switched on"
