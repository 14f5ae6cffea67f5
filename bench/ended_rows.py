"""What it saves to drop rows that have ended from a batch of answers: prints the ratio of times.

    python bench/ended_rows.py [--layers 30] [--rows 48] [--frames 100] [--cap 60] [--rounds 3]

Answers of a decoder with random adapters; the token that ends most of them early and some late is taken for EOS. Both
ways are timed in turn, several times each, and give the same tokens.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from ranker.config import Recipe
from ranker.lalm import decoder as decoders
from ranker.lalm import generate as generation
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 30), ("rows", 48), ("frames", 100), ("cap", 60), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    recipe = Recipe(decoder=decoders.STAND_IN_DECODER, decoder_layers=asked.layers)
    model = talking(recipe)
    random = np.random.default_rng(0)
    clips = [random.normal(size=(asked.frames, 8)).astype(np.float32) for _ in range(asked.rows)]

    def tokens(share: float, clips: list[Features] = clips) -> tuple[list[list[int]], float]:
        generation.RETIRE_SHARE = share
        started = time.perf_counter()
        found = generation.generate_tokens(model, clips, prompt="What?", max_new_tokens=asked.cap, recipe=recipe)
        return found, time.perf_counter() - started

    model.eos_id = -1
    model.eos_id = most_varied(tokens(2.0)[0], asked.cap)
    own = generation.RETIRE_SHARE
    ratios = []
    for _ in range(asked.rounds):
        (kept, kept_s), (dropped, dropped_s) = tokens(2.0), tokens(own)
        assert kept == dropped
        ratios.append(kept_s / dropped_s)
    lengths = sorted(map(len, kept))
    sys.stdout.write(
        f"{asked.rows} answers of {lengths[0]} to {lengths[-1]} tokens ({np.mean(lengths):.1f} on average): keeping "
        f"ended rows takes {', '.join(f'{ratio:.2f}' for ratio in ratios)} times as long as dropping them\n"
    )
    return 0


def talking(recipe: Recipe) -> AudioLanguageModel:
    """A model whose adapters are pushed off zero, so that answers vary with the clip."""
    network, tokenizer = decoders.load(decoders.locate(recipe.decoder), recipe.decoder_layers)
    model = AudioLanguageModel(network, tokenizer, feature_dim=8, recipe=recipe, init_key="bench").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        model.projector.weight.mul_(20.0)
    return model


def most_varied(answers: list[list[int]], cap: int) -> int:
    """The token at whose first place answers would end most unequally."""

    def deviation(token: int) -> float:
        return float(np.std([answer.index(token) if token in answer else cap for answer in answers]))

    return max({token for answer in answers for token in answer}, key=deviation)


if __name__ == "__main__":
    sys.exit(main())
