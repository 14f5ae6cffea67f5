"""The smallest real audio language model: the first layers of the real decoder, random features, random words."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np

from ranker.config import Recipe
from ranker.lalm import decoder as decoders
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.types import Precision

WORDS = ("cat", "dog", "a violin plays", "rain on a tin roof", "yes", "三朵花")


def tiny_recipe(**changes: object) -> Recipe:
    """One layer, a dozen steps, float32."""
    values: dict[str, object] = {
        "decoder": decoders.STAND_IN_DECODER,
        "decoder_layers": 1,
        "precision": Precision.FP32,
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "checkpoint_every": 4,
        "projector_init": "match_embeddings",
    }
    return Recipe.model_validate(values | changes)


@cache
def _loaded(decoder: str, layers: int | None) -> tuple[Any, Any]:
    return decoders.load(decoders.locate(decoder), layers)


def build(recipe: Recipe, *, feature_dim: int = 8, init_key: str = "key") -> AudioLanguageModel:
    """A fresh model, of a decoder that is read once: reading takes longer than a dozen steps of training."""
    network, tokenizer = _loaded(recipe.decoder, recipe.decoder_layers)
    return AudioLanguageModel(
        copy.deepcopy(network), tokenizer, feature_dim=feature_dim, recipe=recipe, init_key=init_key
    )


def example(model: AudioLanguageModel, seed: int, *, feature_dim: int = 8) -> Example:
    """A sample whose length, features and answer depend on `seed` alone."""
    random = np.random.default_rng(seed)
    answer = WORDS[seed % len(WORDS)]
    frames = random.normal(size=(3 + seed % 5, feature_dim)) + seed % len(WORDS)
    return Example(
        features=frames.astype(np.float32),
        prompt=model.tokenize("Which word?" if seed % 2 else "What is heard in this clip?"),
        target=(*model.tokenize(answer), model.eos_id),
    )


def batch(model: AudioLanguageModel, step: int, size: int = 4, *, feature_dim: int = 8) -> list[Example]:
    """The batch of a step."""
    return [example(model, step * size + index, feature_dim=feature_dim) for index in range(size)]
