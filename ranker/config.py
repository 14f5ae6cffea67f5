"""Configuration: YAML files parsed once, at the edge, into frozen models. All mistakes of a file are reported
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ranker.baseline import Baseline, misfits
from ranker.errors import ConfigError
from ranker.types import (
    Domain,
    Group,
    Layout,
    MetricModels,
    MetricName,
    Part,
    Precision,
    TrackKind,
    Trained,
    Weighting,
    digest_json,
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Folder = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]
Share = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Values as they were written down: frozen, and with no field that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainSplit(Strict):
    """What the language model is trained on for one task.

    `shards` are paths under the benchmark's data folder, with braces as in bash; `key` lists fields of a clip's JSON
    in order of preference; `mixture_weight` is relative to the other tasks' (None: number of shards / shards of all
    tasks of the track).
    """

    shards: tuple[str, ...] = Field(min_length=1)
    key: tuple[str, ...] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    mixture_weight: Share | None = None


class TestSplit(Strict):
    """What one task is scored on. `max_new_tokens` caps a generated answer below the recipe's own cap.

    `cluster` names a field of a clip's JSON (its speaker, its source recording): clips with the same value there are
    not independent, and intervals are made by drawing them together. No score depends on it.
    """

    shards: tuple[str, ...] = Field(min_length=1)
    key: tuple[str, ...] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    cluster: str | None = Field(default=None, min_length=1)


class Repository(Strict):
    """A dataset repository of the hub. `revision` is a commit, or a branch or tag: what that stood for at the first
    fetch is recorded in the lock file, and holds from then on.
    """

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(min_length=1)


class RankedTask(Strict):
    """One column of a ranking: all that a raw score's weight in it depends on. Changing any of it needs no new run.

    `metric` is the raw score's name. `test_items` is needed where the track says `weights: test_items`.
    """

    name: Name
    title: str
    domain: Domain | None = None
    metric: str | None = None
    worst: float = Field(default=0.0, allow_inf_nan=False)
    best: float = Field(default=1.0, allow_inf_nan=False)
    weight: Share = 1.0
    group: Group = Group.PUBLIC
    test_items: int | None = Field(
        default=None, ge=1, description="scored test pairs, as published; a size where none was counted here"
    )
    enabled: bool = True
    note: str | None = None

    @model_validator(mode="after")
    def _rankable(self) -> Self:
        if self.worst == self.best:
            raise ValueError(f"task {self.name}: worst and best are both {self.best}; a score could not be normalised")
        if not self.enabled and self.note is None:
            raise ValueError(f"task {self.name}: a task that is switched off says why in its note")
        return self


class Task(RankedTask):
    """One column of the leaderboard that ranker measures itself.

    `confound` says in a sentence what else the label goes with, and is shown beside every score of the task. `trained`
    is for hidden tasks; without it they are trained for separately.
    """

    domain: Domain
    metric: MetricName
    num_classes: int | None = Field(default=None, ge=1, description="columns of the class matrix; mAP only")
    labels: int | None = Field(default=None, ge=1, description="labels that the official table counts")
    confound: str | None = None
    trained: Trained | None = None
    train: TrainSplit | None = None
    test: TestSplit

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        if (self.metric is MetricName.MAP) != (self.num_classes is not None):
            raise ValueError(f"task {self.name}: num_classes goes with mAP, and with mAP only")
        if self.trained is not None and self.group is not Group.HIDDEN:
            raise ValueError(f"task {self.name}: trained goes with group hidden; public tasks are trained together")
        return self

    @property
    def part(self) -> Part:
        """Which of the track's models is asked."""
        return Part.PUBLIC if self.group is Group.PUBLIC else (self.trained or Trained.SEPARATELY).part

    def measurement(self) -> dict[str, Any]:
        """What the raw score depends on, without what belongs to the ranking or to readers."""
        fields = {"name", "metric", "num_classes", "train", "test"}
        return self.model_dump(mode="json", include=fields, exclude={"test": {"cluster"}})


class RankedTrack(Strict):
    """Tasks that share one ranking.

    Track score: with `group_weights`, the weighted mean of the groups' own (task-weighted) means; without, the task-
    weighted mean over all tasks. A task weighs what its `weight` says or, with `weights: test_items`, as much as it has
    test items.
    """

    title: str
    group_weights: dict[Group, Share] | None = None
    weights: Weighting = Weighting.GIVEN
    tasks: tuple[RankedTask, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [task.name for task in self.tasks]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"task names must differ; used more than once: {', '.join(double)}")
        if not self.active_tasks:
            raise ValueError("every task of the track is switched off")
        if self.group_weights is not None:
            found = {task.group for task in self.active_tasks}
            if found != set(self.group_weights):
                named, there = (" and ".join(sorted(groups)) for groups in (self.group_weights, found))
                raise ValueError(f"group_weights names {named}, but the tasks belong to {there}")
        if self.weights is Weighting.TEST_ITEMS:
            self._check_test_items()
        return self

    def _check_test_items(self) -> None:
        unknown = [task.name for task in self.active_tasks if task.test_items is None]
        if unknown:
            raise ValueError(f"weights are the numbers of test items, but no test_items: {', '.join(unknown)}")
        self._check_weights_are_not_given()

    def _check_weights_are_not_given(self) -> None:
        twice = [task.name for task in self.active_tasks if "weight" in task.model_fields_set]
        if twice:
            raise ValueError(
                f"weights are the numbers of test items, so no task has a weight besides: {', '.join(twice)}"
            )

    @property
    def active_tasks(self) -> tuple[RankedTask, ...]:
        """The tasks that are switched on, in the file's order."""
        return tuple(task for task in self.tasks if task.enabled)

    def weight_of(self, task: RankedTask) -> float:
        """What one of the active tasks weighs: n_i of docs/protocol.md, section 4."""
        if self.weights is Weighting.TEST_ITEMS:
            if task.test_items is None:
                raise ConfigError(
                    f"task {task.name}: its weight is the number of its test items, which is not known; evaluate a "
                    "submission on it, or give test_items"
                )
            return float(task.test_items)
        return task.weight


class Track(RankedTrack):
    """Tasks that share one ranking, and one trained model for each of their parts.

    `recipe` holds the fields of the benchmark's recipe that are others for the model of the separately trained tasks.
    """

    kind: TrackKind = TrackKind.LALM
    recipe: dict[str, Any] = Field(default_factory=dict)
    tasks: tuple[Task, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        shared = sorted(SHARED_BY_PARTS & set(self.recipe))
        if shared:
            raise ValueError(f"recipe: {', '.join(shared)} cannot differ between models that share a board")
        try:
            Recipe.model_validate(self.recipe)
        except ValidationError as error:
            raise ValueError(f"recipe: {'; '.join(mistakes(error))}") from None
        return self

    def _check_test_items(self) -> None:
        """Sizes that are not given are counted when the tasks are scored."""
        self._check_weights_are_not_given()

    @property
    def active_tasks(self) -> tuple[Task, ...]:
        """The tasks that are switched on, in the file's order."""
        return tuple(task for task in self.tasks if task.enabled)


class Recipe(Strict):
    """How the audio language model is trained and asked. The defaults are the challenge's (docs/protocol.md, section
    2).
    """

    decoder: str = "smollm2-135m"
    decoder_layers: int | None = Field(default=None, ge=1, description="use the first layers only; None = all")
    precision: Precision = Precision.FP32
    seed: int = 42
    steps: int = Field(default=100_000, ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: Share = 1e-4
    warmup_steps: int = Field(default=200, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: Share = 1e-8
    gradient_clip: Share = 1.0
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    feature_standardize: bool = Field(
        default=False, description="subtract the training mean, divide by the training deviation"
    )
    projector_init: Literal["torch", "match_embeddings"] = "torch"
    layout: Layout = Layout.RANKER
    max_audio_s: Share = Field(default=30.0, description="longer training clips are cropped at random")
    crops_per_clip: int = Field(
        default=8, ge=1, description="different crops of a long clip: (seed, clip, visit mod K)"
    )
    pairs_per_draw: int = Field(default=4, ge=1)
    shuffle_window: int = Field(default=256, ge=1)
    sort_window: int = Field(default=128, ge=1)
    repetition_penalty: Share = 1.05
    max_new_tokens: int = Field(default=150, ge=1)
    metric_models: MetricModels = MetricModels.REFERENCE
    max_frames: int = Field(
        default=4_000,
        ge=1,
        description="more feature frames for a clip of up to 30 s are a violation; longer clips may have as many times "
        "more as they are longer",
    )
    checkpoint_every: int = Field(default=500, ge=1)
    feature_cache_gb: float = Field(default=60.0, ge=0)
    answer_memory_gb: Share = Field(default=2.0, description="what the answers that are made together may remember")
    threads: int = Field(default=2, ge=1, description="CPU threads of a job; fixed at its first attempt")

    def measured(self) -> dict[str, Any]:
        """The fields that raw scores depend on."""
        return self.model_dump(mode="json", exclude=set(_MACHINE))

    def trained(self) -> dict[str, Any]:
        """The fields that trained weights depend on."""
        return self.model_dump(mode="json", exclude=set(_MACHINE | _ASKING | _LIMITING))


_MACHINE = frozenset({"checkpoint_every", "feature_cache_gb", "answer_memory_gb", "threads", "metric_models"})
_ASKING = frozenset({"repetition_penalty", "max_new_tokens"})
_LIMITING = frozenset({"max_frames"})
METHOD = 3
"""Number of the way in which weights come of a recipe: raised by each change after which the same seed gives others,
so that no such results share a board. 2: packed sequences, and dropout drawn by SFC64. 3: dropout from fewer of its
bits, and calls of the encoder that have clips of one shard.
"""
SHARED_BY_PARTS = frozenset({"decoder", "decoder_layers", "precision", "seed"})
"""Fields of the recipe that must be the same for all parts of a track."""


@dataclass(frozen=True, kw_only=True)
class TrackPart:
    """One trained model of a track: what it is trained on (each task of `mixture`), how, and what it is asked."""

    name: Part
    recipe: Recipe
    mixture: Track
    tasks: tuple[Task, ...]


class RankedBenchmark(Strict):
    """A way to rank scores that were made elsewhere, without data and recipe. A file under configs/ that says
    `ranking_only: true`.
    """

    name: Name
    title: str
    description: str
    ranking_only: bool = False
    tracks: Mapping[str, RankedTrack] = Field(min_length=1)
    embargo: str | None = Field(default=None, description="nothing is published before: 2026-02-25T12:00 AoE")

    def track(self, name: str) -> RankedTrack:
        """The named track; raises ConfigError, naming those that exist."""
        if name not in self.tracks:
            raise ConfigError(f"benchmark {self.name} has no track {name!r}; it has {', '.join(self.tracks)}")
        return self.tracks[name]


class Benchmark(RankedBenchmark):
    """One benchmark: its data, its recipe and its tracks. A file under configs/."""

    ranking_only: Literal[False] = False
    whole_protocol: bool = Field(description="False: every page says `demonstration`, with the reasons")
    repositories: dict[Folder, Repository] = Field(
        default={}, description="first folder of a shard's path -> where `ranker data fetch` finds what lies in it"
    )
    recipe: Recipe
    tracks: dict[str, Track] = Field(min_length=1)
    baselines: tuple[Baseline, ...] = ()
    needs_calibration: bool = Field(default=False, description="publish only when the baselines score as published")

    @model_validator(mode="after")
    def _baselines_fit(self) -> Self:
        tasks = {name: {task.name for task in track.active_tasks} for name, track in self.tracks.items()}
        if found := [*misfits(self.baselines, tasks)]:
            raise ValueError("; ".join(found))
        return self

    def track(self, name: str) -> Track:
        """The named track; raises ConfigError, naming those that exist."""
        super().track(name)
        return self.tracks[name]

    def parts(self, track: str) -> tuple[TrackPart, ...]:
        """The parts of a track that have tasks, the public one first."""
        found = (self.part(track, name) for name in Part)
        return tuple(part for part in found if part.tasks)

    def part(self, track: str, name: Part) -> TrackPart:
        """One part of a track, whether it has tasks or not."""
        whole = self.track(track)
        trained = Part.HIDDEN if name is Part.HIDDEN else Part.PUBLIC
        mixture = tuple(task for task in whole.active_tasks if task.part is trained and task.train is not None)
        asked = tuple(task for task in whole.active_tasks if task.part is name)
        if name is Part.PROMPTED:
            asked = tuple(task.model_copy(update={"train": None}) for task in asked)
        recipe = self.recipe
        if name is Part.HIDDEN:
            recipe = Recipe.model_validate(recipe.model_dump() | whole.recipe)
        return TrackPart(name=name, recipe=recipe, mixture=whole.model_copy(update={"tasks": mixture}), tasks=asked)

    def steps(self, track: str, name: Part, limit: int | None) -> int:
        """Training steps of a part. A limit that the public part does not reach limits no part."""
        own = self.part(track, name).recipe.steps
        return own if limit is None or limit >= self.recipe.steps else min(limit, own)

    def measurement_digest(self, track: str, name: Part = Part.PUBLIC) -> str:
        """SHA-256 of all configuration that the raw scores of one part of a track depend on.

        `metric_models` is not in it: the condition digests the models themselves, where the part has captions.
        """
        part = self.part(track, name)
        value = {
            "benchmark": self.name,
            "track": track,
            "kind": self.track(track).kind,
            "method": METHOD,
            "tasks": [task.measurement() for task in part.tasks],
            "recipe": part.recipe.measured(),
        }
        if name is not Part.PUBLIC:  # so that the public digest is the same with and without other parts
            value["part"] = name
        if name is Part.PROMPTED:
            value["mixture"] = _trained_on(part)
        return digest_json(value)

    def training_digest(self, track: str, name: Part) -> str:
        """SHA-256 of all configuration that a part's trained weights depend on; PROMPTED has those of PUBLIC."""
        part = self.part(track, name)
        return digest_json(
            {
                "benchmark": self.name,
                "track": track,
                "kind": self.track(track).kind,
                "method": METHOD,
                "mixture": _trained_on(part),
                "recipe": part.recipe.trained(),
            }
        )


def _trained_on(part: TrackPart) -> list[dict[str, Any]]:
    return [task.model_dump(mode="json", include={"name", "train"}) for task in part.mixture.tasks]


Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], path: Path) -> Model:
    """Parse one YAML file into `model`. Raises ConfigError that lists every mistake with its place in the file."""
    return validated(model, _parsed(path), path)


def load_ranking(path: Path) -> RankedBenchmark:
    """What a ranking needs of a benchmark's file: a RankedBenchmark if that is what the file says, else a Benchmark.

    Raises as `load`.
    """
    value = _parsed(path)
    return validated(RankedBenchmark if _is_ranking_only(value) else Benchmark, value, path)


def is_ranking_only(path: Path) -> bool:
    """Whether the file says `ranking_only: true`. Raises ConfigError where it cannot be read."""
    return _is_ranking_only(_parsed(path))


def _is_ranking_only(value: Any) -> bool:
    return isinstance(value, dict) and value.get("ranking_only") is True


def _parsed(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error


def validated(model: type[Model], value: Any, path: Path) -> Model:
    """`value`, which came from `path`, as `model`. Raises ConfigError as `load` does."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = mistakes(error)
        raise ConfigError(f"{path}: {len(found)} mistake{'s' * (len(found) > 1)}: " + "; ".join(found)) from None


def mistakes(error: ValidationError) -> list[str]:
    """Each mistake with its place in the file, and no remark on a list that is only short of its wrong elements."""
    found = error.errors(include_url=False)
    told = [mistake for mistake in found if mistake["type"] != "too_short" or not _has_wrong_parts(mistake, found)]
    return [": ".join(filter(None, (".".join(map(str, each["loc"])), _message(each)))) for each in told]


def _has_wrong_parts(mistake: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    place = mistake["loc"]
    return any(len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in found)


def _message(mistake: ErrorDetails) -> str:
    """What pydantic says, without the names of its own errors and of our classes."""
    if mistake["type"] == "model_type":
        where = "" if mistake["loc"] else "file: "
        return f"{where}fields with values (`name: value`) were expected"
    return mistake["msg"].removeprefix("Value error, ")
