"""What bench/gpu.py computes with: a random decoder of the challenge's size, made on the spot, and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import Clip
from train_speed import work

from ranker.config import Recipe
from ranker.lalm.model import AudioLanguageModel, Example
from speed.random_encoder import RandomEncoder

SEVERAL = 8  # clips of one length that an encoder is given together


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of decoder and encoder, and of the longest clip."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    encoder_layers: int
    encoder_width: int
    longest_s: float


def size_of(layers: int, *, toy: bool) -> Size:
    """SmolLM2-135M's and the random encoder's, or one that any processor computes in seconds."""
    if toy:
        return Size(
            layers=layers, hidden=48, intermediate=96, heads=3, kv_heads=1, vocabulary=8192, encoder_layers=1,
            encoder_width=48, longest_s=2.0,
        )  # fmt: skip
    return Size(
        layers=layers, hidden=576, intermediate=1536, heads=9, kv_heads=3, vocabulary=49_152, encoder_layers=12,
        encoder_width=768, longest_s=30.0,
    )  # fmt: skip


def write_random_decoder(folder: Path, size: Size) -> None:
    """A Llama of this size with random weights, and a tokenizer that nobody asks."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            initializer_range=size.hidden**-0.5,  # layers then count beside the embedding, and answers hang on the clip
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    words: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")), unk_token="a")
    words.save_pretrained(folder)


def recipe_of(*, bf16: bool, dropout: float, checkpoint_every: int = 1_000_000) -> Recipe:
    """The challenge's, but for these."""
    return Recipe(precision="bf16" if bf16 else "fp32", lora_dropout=dropout, checkpoint_every=checkpoint_every)


def build(decoder: Path, recipe: Recipe, width: int, device: torch.device) -> AudioLanguageModel:
    """Our model with this decoder, the same initial weights each time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32, local_files_only=True)
    network.requires_grad_(requires_grad=False)
    tokenizer = AutoTokenizer.from_pretrained(decoder, local_files_only=True)
    model = AudioLanguageModel(network, tokenizer, feature_dim=width, recipe=recipe, init_key="card")
    return model.to(device)


def encoder_of(size: Size, device: torch.device) -> RandomEncoder:
    """The random encoder, frozen."""
    encoder = RandomEncoder(size.encoder_layers, size.encoder_width).eval().requires_grad_(requires_grad=False)
    return encoder.to(device)


def batches_of(what: str, size: Size) -> list[list[Clip]]:
    """Those of bench/train_speed.py, in words that the decoder knows."""

    def known(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(token % size.vocabulary for token in tokens)

    return [
        [replace(clip, prompt=known(clip.prompt), target=known(clip.target)) for clip in batch]
        for batch in work(what, size.longest_s)
    ]


def random_examples(batches: Sequence[Sequence[Clip]], width: int) -> list[list[Example]]:
    """These clips' texts with random features of 25 frames per second."""
    random = np.random.default_rng(0)
    return [
        [
            Example(
                features=random.normal(size=(max(1, len(clip.audio) // 640), width)).astype(np.float32),
                prompt=clip.prompt,
                target=clip.target,
            )
            for clip in batch
        ]
        for batch in batches
    ]


def waited(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
