"""What one feature frame costs the trainer in memory: the reason for `max_frames` (docs/decisions.md).

Counts the bytes that one training step keeps for its backward pass (saved tensors, each storage once, parameters not
counted), in the challenge's decoder (SmolLM2-135M's sizes, random weights, float32, LoRA with dropout), for clips of
several lengths; what is left of a straight line through them would be quadratic in the length. Needs no model file.

    python bench/frame_memory.py
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ranker.config import Recipe
from ranker.lalm.model import AudioLanguageModel, Example

LENGTHS = (64, 128, 256)
BATCH = 4
DIM = 768


def kept_bytes(model: AudioLanguageModel, frames: int) -> int:
    """Bytes that a step with one clip of so many frames keeps until its backward pass."""
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a storage that were freed could be given out again, and be counted once for two

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(value)
        return value

    example = Example(features=np.zeros((frames, DIM), dtype=np.float32), prompt=(1,) * 8, target=(2, 0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model([example])
    return sum(kept.values())


def main() -> None:
    """Print bytes per frame, and what a batch of four clips then takes."""
    sizes = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True, eos_token_id=0, max_position_embeddings=8192,
    )  # fmt: skip
    decoder = LlamaForCausalLM(sizes)
    model = AudioLanguageModel(decoder, None, feature_dim=DIM, recipe=Recipe(), init_key="bench").train()  # type: ignore[arg-type]
    found = [kept_bytes(model, frames) for frames in LENGTHS]
    slopes = [(b - a) / (n - m) for a, b, m, n in zip(found, found[1:], LENGTHS, LENGTHS[1:], strict=False)]
    print("bytes kept per frame:", ", ".join(f"{slope / 1e6:.2f} MB" for slope in slopes))
    for frames in (750, 1500, 3000, 4500, 30_000):
        print(f"{BATCH} clips of {frames} frames: {BATCH * frames * slopes[-1] / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
