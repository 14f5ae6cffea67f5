"""Configuration: YAML files parsed once, at the edge, into frozen models. All mistakes of a file are reported
together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ranker.errors import ConfigError
from ranker.types import Domain, Group, MetricName, Precision, SandboxName, TrackKind, digest_json

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
Share = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainSplit(_Strict):
    """What the language model is trained on for one task.

    `shards` are paths under the benchmark's data folder, with braces as in bash; `key` lists fields of a clip's JSON
    in order of preference; `mixture_weight` is relative to the other tasks' (None: number of shards / shards of all
    tasks of the track).
    """

    shards: tuple[str, ...] = Field(min_length=1)
    key: tuple[str, ...] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    mixture_weight: Share | None = None


class TestSplit(_Strict):
    """What one task is scored on. `max_new_tokens` caps a generated answer below the recipe's own cap."""

    shards: tuple[str, ...] = Field(min_length=1)
    key: tuple[str, ...] = Field(min_length=1)
    prompt: str = Field(min_length=1)
    max_new_tokens: int | None = Field(default=None, ge=1)


class Task(_Strict):
    """One column of the leaderboard.

    `worst`, `best`, `weight`, `group` and `test_items` belong to the ranking alone: changing them needs no new run.
    `confound` says in a sentence what else the label goes with, and is shown beside every score of the task.
    """

    name: Name
    title: str
    domain: Domain
    metric: MetricName
    num_classes: int | None = Field(default=None, ge=1, description="columns of the class matrix; mAP only")
    worst: float = Field(default=0.0, allow_inf_nan=False)
    best: float = Field(default=1.0, allow_inf_nan=False)
    weight: Share = 1.0
    group: Group = Group.PUBLIC
    test_items: int | None = Field(
        default=None, ge=1, description="scored test pairs, as published; a size where none was counted here"
    )
    labels: int | None = Field(default=None, ge=1, description="labels that the official table counts")
    enabled: bool = True
    note: str | None = None
    confound: str | None = None
    train: TrainSplit | None = None
    test: TestSplit

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.worst == self.best:
            raise ValueError(f"task {self.name}: worst and best are both {self.best}; a score could not be normalised")
        if (self.metric is MetricName.MAP) != (self.num_classes is not None):
            raise ValueError(f"task {self.name}: num_classes goes with mAP, and with mAP only")
        if not self.enabled and self.note is None:
            raise ValueError(f"task {self.name}: a task that is switched off says why in its note")
        return self

    def measurement(self) -> dict[str, Any]:
        """What the raw score depends on, without what belongs to the ranking or to readers."""
        return self.model_dump(mode="json", include={"name", "metric", "num_classes", "train", "test"})


class Track(_Strict):
    """Tasks that share one trained model and one ranking.

    Track score: with `group_weights`, the weighted mean of the groups' own (task-weighted) means; without, the task-
    weighted mean over all tasks.
    """

    title: str
    kind: TrackKind = TrackKind.LALM
    group_weights: dict[Group, Share] | None = None
    tasks: tuple[Task, ...] = Field(min_length=1)

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
                raise ValueError(
                    f"group_weights names {sorted(self.group_weights)} but the tasks belong to {sorted(found)}"
                )
        return self

    @property
    def active_tasks(self) -> tuple[Task, ...]:
        """The tasks that are switched on, in the file's order."""
        return tuple(task for task in self.tasks if task.enabled)


class Recipe(_Strict):
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
    max_audio_s: Share = Field(default=30.0, description="longer training clips are cropped at random")
    crops_per_clip: int = Field(
        default=8, ge=1, description="different crops of a long clip: (seed, clip, visit mod K)"
    )
    pairs_per_draw: int = Field(default=4, ge=1)
    shuffle_window: int = Field(default=256, ge=1)
    sort_window: int = Field(default=128, ge=1)
    repetition_penalty: Share = 1.05
    max_new_tokens: int = Field(default=150, ge=1)
    max_frames: int = Field(default=30_000, ge=1, description="more feature frames for one clip are a violation")
    checkpoint_every: int = Field(default=500, ge=1)
    feature_cache_gb: float = Field(default=60.0, ge=0)
    threads: int = Field(default=2, ge=1, description="CPU threads of a job; fixed at its first attempt")


class Benchmark(_Strict):
    """One benchmark: its data, its recipe and its tracks. A file under configs/."""

    name: Name
    title: str
    description: str
    whole_protocol: bool = Field(description="False: every page says `demonstration`, with the reasons")
    recipe: Recipe
    tracks: dict[str, Track] = Field(min_length=1)

    def track(self, name: str) -> Track:
        """The named track; raises ConfigError, naming those that exist."""
        if name not in self.tracks:
            raise ConfigError(f"benchmark {self.name} has no track {name!r}; it has {', '.join(self.tracks)}")
        return self.tracks[name]

    def measurement_digest(self, track: str) -> str:
        """SHA-256 of all configuration that the raw scores of a track depend on."""
        active = self.track(track)
        return digest_json(
            {
                "benchmark": self.name,
                "track": track,
                "kind": active.kind,
                "tasks": [task.measurement() for task in active.active_tasks],
                "recipe": self.recipe.model_dump(
                    mode="json", exclude={"checkpoint_every", "feature_cache_gb", "threads"}
                ),
            }
        )


class Limits(_Strict):
    """What a sandboxed encoder may use. The defaults are the challenge's machine (16 GB GPU, 12 GB RAM)."""

    memory_gb: Share = 12.0
    gpu_memory_gb: Share = 16.0
    cpus: Share = 2.0
    pids: int = Field(default=128, ge=8)
    scratch_mb: int = Field(default=256, ge=1)
    log_kb: int = Field(default=1024, ge=1)
    load_timeout_s: Share = 300.0
    call_timeout_s: Share = 120.0


class ArchiveLimits(_Strict):
    """What a ZIP may hold."""

    max_unpacked_bytes: int = Field(default=20_000_000_000, ge=1)
    max_entries: int = Field(default=50_000, ge=1)
    max_ratio: Share = 200.0
    ratio_floor_bytes: int = Field(default=100_000_000, ge=0, description="the ratio is not looked at below this size")
    max_depth: int = Field(default=32, ge=1)
    max_path_length: int = Field(default=240, ge=1, description="UTF-8 bytes of one entry's whole path")


class ReportLimits(_Strict):
    """What a technical report may be."""

    max_pages: int = Field(default=6, ge=1)
    max_bytes: int = Field(default=50_000_000, ge=1)


class Service(_Strict):
    """How one home is run: configs/service.yaml."""

    benchmark: Name = "mini"
    sandbox: SandboxName = SandboxName.AUTO
    docker_image: str = "ranker-encoder:latest"
    limits: Limits = Limits()
    archive: ArchiveLimits = ArchiveLimits()
    report: ReportLimits = ReportLimits()
    lease_s: Share = Field(
        default=120.0, description="a job whose worker was not heard of for so long is given to another"
    )
    infra_attempts: int = Field(default=5, ge=1, description="attempts of a job that fails by our own fault")
    retry_delay_s: float = Field(default=10.0, ge=0, description="doubled with each attempt")
    cpu_workers: int = Field(default=2, ge=1, description="worker processes on a machine without a GPU")


Model = TypeVar("Model", bound=_Strict)


def load(model: type[Model], path: Path) -> Model:
    """Parse one YAML file into `model`. Raises ConfigError that lists every mistake with its place in the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return model.model_validate(yaml.safe_load(text) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        places = [
            f"{'.'.join(map(str, mistake['loc'])) or 'file'}: {mistake['msg']}"
            for mistake in error.errors(include_url=False)
        ]
        raise ConfigError(f"{path}: {len(places)} mistake{'s' * (len(places) > 1)}: " + "; ".join(places)) from None
