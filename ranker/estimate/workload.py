"""What there is to do for one submission on one part of a track: a function of configuration, data and frame rate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.config import Recipe, Task, TrackPart
from ranker.data.shards import Clip, scored_clips, training_data
from ranker.errors import MissingError
from ranker.estimate.flops import Row
from ranker.lalm.curriculum import Sample, curriculum
from ranker.lalm.features import Excerpt, calls
from ranker.types import MetricName, Part

ASSUMED_CLIP_S = 10.0
ASSUMED_SHORTEST_S = 1.0
ASSUMED_ANSWER_TOKENS = 10
_CHARACTERS_PER_TOKEN = 4
ROWS_TOGETHER = 64

CountTokens = Callable[[str], int]


@dataclass(frozen=True, kw_only=True)
class Amount:
    """So many clips, and how long they are together."""

    clips: int
    hours: float

    @classmethod
    def of(cls, clips: Iterable[Clip | Excerpt]) -> Amount:
        """The amount of these clips (or excerpts)."""
        durations = [clip.duration_s for clip in clips]
        return cls(clips=len(durations), hours=math.fsum(durations) / 3600)


@dataclass(frozen=True, kw_only=True)
class TaskSize:
    """How large a task is; None where its data is not there. `pairs`: scored test pairs, as counted or as published."""

    name: str
    metric: MetricName
    num_classes: int | None
    train: Amount | None
    test: Amount | None
    pairs: int | None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Clips answered in one batch: their frames, the prompt's tokens, and the tokens of an answer to each, with EOS."""

    frames: tuple[int, ...]
    prompt: int
    answers: tuple[int, ...]
    cap: int

    @property
    def length(self) -> int:
        """Tokens of the padded sequences before the first answer token."""
        return max(self.frames) + self.prompt


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One part of one track. Where `missing` says what is not there, all but `steps` and `tasks` is empty or None.

    `visited` are the different excerpts that training hears, in `training_calls`; `cache_bytes` is what their features
    need, `kept_bytes` what there is room for: the rest is encoded again at every visit (`repeated_calls`). `batches`
    has one entry per step.
    """

    track: str
    part: Part
    recipe: Recipe
    steps: int
    tasks: tuple[TaskSize, ...]
    missing: str | None
    visited: Amount | None
    cache_bytes: int | None
    kept_bytes: int | None
    batches: tuple[tuple[Row, ...], ...]
    training_calls: tuple[tuple[Excerpt, ...], ...]
    repeated_calls: tuple[tuple[Excerpt, ...], ...]
    test_calls: tuple[tuple[Excerpt, ...], ...]
    chunks: tuple[Chunk, ...]

    def assumed_batch(self, clip_s: float, frames_per_s: float) -> tuple[Row, ...]:
        """A batch of clips of one length, where the data is not there to say."""
        row = (max(1, round(clip_s * frames_per_s)), ASSUMED_ANSWER_TOKENS, ASSUMED_ANSWER_TOKENS)
        return (row,) * self.recipe.batch_size


@dataclass(frozen=True, kw_only=True)
class Features:
    """What an encoder makes of audio."""

    output_dim: int
    frames_per_s: float
    batch_invariant: bool

    def frames(self, excerpt: Excerpt) -> int:
        """Frames of an excerpt."""
        return max(1, round(excerpt.duration_s * self.frames_per_s))


def roughly(text: str) -> int:
    """Tokens of a text where the tokenizer is not there."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def workload(
    track: str, part: TrackPart, steps: int, *, data: Path, features: Features, count_tokens: CountTokens
) -> Workload:
    """Everything that one submission's job on this part does. Reads the shards' indexes, and makes missing ones."""
    sizes = tuple(_size(task, data) for task in (*part.tasks, *_only_trained_on(part)))
    recipe = part.recipe
    try:
        plan = _plan(part, steps, data=data, count_tokens=count_tokens)
        tests = [(task, scored_clips(data, task.test.shards, task.test.key)) for task in part.tasks]
    except MissingError as error:
        return Workload(
            track=track, part=part.name, recipe=recipe, steps=steps, tasks=sizes, missing=str(error), visited=None,
            cache_bytes=None, kept_bytes=None, batches=(), training_calls=(), repeated_calls=(), test_calls=(),
            chunks=(),
        )  # fmt: skip
    excerpts = {sample.excerpt.key: sample.excerpt for batch in plan for sample in batch}
    encoding = calls(excerpts.values(), batch_invariant=features.batch_invariant)
    kept, kept_bytes = _kept(encoding, features, recipe)
    call_of = {excerpt.key: call for call in encoding for excerpt in call}
    visits = Counter(sample.excerpt.key for batch in plan for sample in batch)
    again = [call_of[key] for key, count in visits.items() if key not in kept for _ in range(count)]
    asked = [_chunks(task, clips, features, recipe, count_tokens) for task, clips in tests]
    return Workload(
        track=track,
        part=part.name,
        recipe=recipe,
        steps=steps,
        tasks=sizes,
        missing=None,
        visited=Amount.of(excerpts.values()),
        cache_bytes=sum(features.frames(excerpt) for excerpt in excerpts.values()) * features.output_dim * 4,
        kept_bytes=kept_bytes,
        batches=tuple(tuple(_row(sample, features, count_tokens) for sample in batch) for batch in plan),
        training_calls=tuple(encoding),
        repeated_calls=tuple(again),
        test_calls=tuple(call for test, _ in asked for call in test),
        chunks=tuple(chunk for _, chunks in asked for chunk in chunks),
    )


def _only_trained_on(part: TrackPart) -> list[Task]:
    asked = {task.name for task in part.tasks}
    return [task for task in part.mixture.active_tasks if task.name not in asked]


def _size(task: Task, data: Path) -> TaskSize:
    train, test, pairs = None, None, task.test_items
    try:
        if task.train is not None:
            shards = training_data(data, task.train.shards, task.train.key).shards
            train = Amount.of(clip for shard in shards for clip in shard.clips)
        clips = scored_clips(data, task.test.shards, task.test.key)
        test, pairs = Amount.of(clips), sum(len(clip.references(task.test.key)) for clip in clips)
    except MissingError:
        pass
    return TaskSize(
        name=task.name, metric=task.metric, num_classes=task.num_classes, train=train, test=test, pairs=pairs
    )


def _plan(part: TrackPart, steps: int, *, data: Path, count_tokens: CountTokens) -> list[tuple[Sample, ...]]:
    """What is trained on: the prompted part takes over what the public one has trained."""
    if part.name is Part.PROMPTED:
        return []
    return curriculum(
        part.mixture,
        part.recipe,
        data=data,
        seed=part.recipe.seed,
        random_key="estimate",  # another order than a run's own, drawn from the same mixture
        steps=steps,
        count_tokens=count_tokens,
    )


def _row(sample: Sample, features: Features, count_tokens: CountTokens) -> Row:
    return features.frames(sample.excerpt), count_tokens(sample.prompt), count_tokens(sample.answer) + 1


def _kept(plan: Sequence[Sequence[Excerpt]], features: Features, recipe: Recipe) -> tuple[set[str], int]:
    """Which excerpts the feature cache holds, as `FeatureStore.fill` fills it, and their bytes."""
    room, kept, used = int(recipe.feature_cache_gb * 1e9), set[str](), 0
    for call in plan:
        size = sum(features.frames(excerpt) for excerpt in call) * features.output_dim * 4
        if used + size > room:
            break
        used += size
        kept |= {excerpt.key for excerpt in call}
    return kept, used


def _chunks(
    task: Task, clips: Sequence[Clip], features: Features, recipe: Recipe, count_tokens: CountTokens
) -> tuple[list[tuple[Excerpt, ...]], list[Chunk]]:
    """How a task's clips are encoded, as `answer` does it, and answered: there whoever ends makes room for the next,
    here so many are taken together to their end. Answers are as long as the first reference.
    """
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=features.batch_invariant)[::-1]
    cap = min(task.test.max_new_tokens or recipe.max_new_tokens, recipe.max_new_tokens)

    excerpts = [excerpt for call in plan for excerpt in call]
    chunks = []
    for start in range(0, len(excerpts), ROWS_TOGETHER):
        chunk = excerpts[start : start + ROWS_TOGETHER]
        answers = [count_tokens(excerpt.clip.references(task.test.key)[0]) + 1 for excerpt in chunk]
        chunks.append(
            Chunk(
                frames=tuple(features.frames(excerpt) for excerpt in chunk),
                prompt=count_tokens(task.test.prompt),
                answers=tuple(min(length, cap) for length in answers),
                cap=cap,
            )
        )
    return plan, chunks
