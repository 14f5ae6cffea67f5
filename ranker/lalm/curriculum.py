"""What is trained on at each step: a function of benchmark and seed alone, so that teams differ by their encoder
only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from ranker.config import Recipe, Track
from ranker.data.mixture import Pair, Source, batches, pairs
from ranker.data.shards import training_data
from ranker.lalm.features import Excerpt, training_excerpt


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training sample before it is encoded: what is heard, what is asked, what is to be answered."""

    excerpt: Excerpt
    prompt: str
    answer: str


def curriculum(
    track: Track,
    recipe: Recipe,
    *,
    data: Path,
    seed: int,
    random_key: str,
    steps: int,
    count_tokens: Callable[[str], int],
) -> list[tuple[Sample, ...]]:
    """The batch of each of `steps` steps.

    `random_key` names the randomness of order and mixture, `seed` that of crops. Batches are cut from windows sorted by
    seconds plus tokens (docs/protocol.md, section 2).
    """
    training = [(task.name, task.train) for task in track.active_tasks if task.train is not None]
    sources = [
        Source(
            name=name,
            shards=training_data(data, split.shards, split.key).shards,
            keys=split.key,
            weight=split.mixture_weight,
        )
        for name, split in training
    ]
    tokens = cache(count_tokens)

    def prompt(pair: Pair) -> str:
        return training[pair.source][1].prompt

    def length(pair: Pair) -> float:
        return min(pair.clip.duration_s, recipe.max_audio_s) + tokens(prompt(pair)) + tokens(pair.reference)

    def sample(pair: Pair) -> Sample:
        excerpt = training_excerpt(
            pair.clip, pair.visit, seed=seed, crops=recipe.crops_per_clip, max_s=recipe.max_audio_s
        )
        return Sample(excerpt=excerpt, prompt=prompt(pair), answer=pair.reference)

    endless = batches(
        pairs(sources, seed_key=random_key, pairs_per_draw=recipe.pairs_per_draw),
        length=length,
        batch_size=recipe.batch_size,
        shuffle_window=recipe.shuffle_window,
        sort_window=recipe.sort_window,
        seed_key=random_key,
    )
    return [tuple(map(sample, batch)) for batch in islice(endless, steps)]
