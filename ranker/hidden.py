"""Hidden tasks: a YAML file outside the repository, merged into the benchmark that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ranker.config import (
    Benchmark,
    Folder,
    Name,
    RankedBenchmark,
    Repository,
    Share,
    Task,
    Track,
    load,
    mistakes,
)
from ranker.errors import ConfigError
from ranker.home import Home
from ranker.types import Group, Part, Weighting

Configured = TypeVar("Configured", bound=RankedBenchmark)

AS_PUBLISHED = {Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}
"""Group weights of the challenge of 2026 (docs/protocol.md, section 4)."""


class HiddenTrack(BaseModel):
    """A track's hidden tasks, in the schema of `ranker.config.Track`.

    `group_weights`: without it, public and hidden tasks count one half each; `null` gives the flat mean over all tasks.
    `recipe`: fields of the benchmark's recipe that are others for the model of the separately trained tasks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    group_weights: dict[Group, Share] | None = Field(default_factory=lambda: dict(AS_PUBLISHED))
    weights: Weighting | None = None
    recipe: dict[str, object] = Field(default_factory=dict)
    tasks: tuple[Task, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _hidden(self) -> Self:
        wrong = [f"{task.name} ({task.group})" for task in self.tasks if task.group is not Group.HIDDEN]
        if wrong:
            raise ValueError(f"every task of a hidden file says `group: hidden`; not so: {', '.join(wrong)}")
        untrained = [task.name for task in self.tasks if task.part is not Part.PROMPTED and task.train is None]
        if untrained:
            raise ValueError(f"hidden tasks without a train split say `trained: none`; not so: {', '.join(untrained)}")
        return self


class HiddenFile(BaseModel):
    """The whole file: which benchmark it belongs to, where its data is fetched from, and the tracks' hidden tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: Name
    repositories: dict[Folder, Repository] = Field(default_factory=dict)
    tracks: dict[str, HiddenTrack] = Field(min_length=1)


def load_benchmark(home: Home, name: str) -> Benchmark:
    """The benchmark's configuration as it counts in this home, with the hidden tasks of its file if there is one.

    Raises ConfigError, naming the file that is wrong.
    """
    benchmark = load(Benchmark, home.config_path(name))
    return benchmark if home.hidden is None else merged(benchmark, home.hidden)


def merged(benchmark: Configured, path: Path) -> Configured:
    """The benchmark with the tasks of the hidden file at `path` after its own. Raises ConfigError."""
    hidden = load(HiddenFile, path)
    if not isinstance(benchmark, Benchmark):
        raise ConfigError(
            f"benchmark {benchmark.name} only ranks tables that were made elsewhere, and its own file lists hidden "
            f"tasks too; leave --hidden {path} (or RANKER_HIDDEN) out"
        )
    if hidden.benchmark != benchmark.name:
        raise ConfigError(
            f"{path}: holds hidden tasks of benchmark {hidden.benchmark}, and {benchmark.name} was asked for; "
            "leave --hidden (or RANKER_HIDDEN) out, or name the other benchmark"
        )
    unknown = sorted(set(hidden.tracks) - set(benchmark.tracks))
    if unknown:
        raise ConfigError(
            f"{path}: track {', '.join(unknown)} is not in benchmark {benchmark.name}, "
            f"which has {', '.join(benchmark.tracks)}"
        )
    tracks = {name: _merged(track, hidden.tracks.get(name), name, path) for name, track in benchmark.tracks.items()}
    twice = sorted(set(hidden.repositories) & set(benchmark.repositories))
    if twice:
        raise ConfigError(f"{path}: repositories: {', '.join(twice)} is in benchmark {benchmark.name} already")
    return benchmark.model_copy(update={"tracks": tracks, "repositories": benchmark.repositories | hidden.repositories})


def _merged(track: Track, hidden: HiddenTrack | None, name: str, path: Path) -> Track:
    if hidden is None:
        return track
    try:
        return Track(
            title=track.title,
            kind=track.kind,
            group_weights=hidden.group_weights,
            weights=hidden.weights or track.weights,
            recipe=track.recipe | hidden.recipe,
            tasks=(*track.tasks, *hidden.tasks),
        )
    except ValidationError as error:
        raise ConfigError(f"{path}: tracks.{name}: {'; '.join(mistakes(error))}") from None
