"""Evaluation as XARES-LLM does it, by the model of bench/reference.py or by the peer's own: for bench/answer_speed.py.

One (clip, reference) pair is one sample: pairs are sorted by length within windows of 256 and cut into batches of the
task's size, whose padded audio goes through the encoder and whose answers `generate` gives, adapters unmerged. Nothing
of ranker is imported, so that this runs under the peer's interpreter too; reading and decoding audio is left out, for
both sides.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from reference import Clip, Reference, collate

SORTED_TOGETHER = 256


@dataclass(frozen=True, kw_only=True)
class Work:
    """One task: clips (T,) of samples, how many references each has, and how it is asked."""

    name: str
    audio: list[torch.Tensor]
    references: int
    prompt: tuple[int, ...]
    batch_size: int
    max_new_tokens: int
    eos_id: int

    @property
    def pairs(self) -> list[int]:
        """The clip of each scored pair."""
        return [clip for clip in range(len(self.audio)) for _ in range(self.references)]


def batches(work: Work) -> list[list[int]]:
    """The clips of each batch of pairs."""
    found = []
    for start in range(0, len(work.pairs), SORTED_TOGETHER):
        window = sorted(work.pairs[start : start + SORTED_TOGETHER], key=lambda clip: -len(work.audio[clip]))
        found += [window[at : at + work.batch_size] for at in range(0, len(window), work.batch_size)]
    return found


class Plain:
    """The reference loop's model."""

    def __init__(self, encoder: Any, decoder: Path) -> None:
        self.model: Any = Reference(encoder, decoder).eval()

    @property
    def decoder(self) -> Any:
        """In peft."""
        return self.model.decoder

    @property
    def projector(self) -> Any:
        """From frames to embeddings."""
        return self.model.projector

    def generate(self, batch: dict[str, torch.Tensor], max_new_tokens: int) -> torch.Tensor:
        """Tokens (B, L) of one batch."""
        found: torch.Tensor = self.model.answer(batch, max_new_tokens=max_new_tokens)
        return found


class Peer:
    """XARES-LLM's own model, asked as its `prediction_step` does."""

    def __init__(self, peer: Path, encoder: Path, decoder: Path, **arguments: Any) -> None:
        for name in ("torchaudio", "loguru"):  # of which nothing is used here
            if importlib.util.find_spec(name) is None:
                module: Any = types.ModuleType(name)
                module.__spec__ = ModuleSpec(name, None)
                module.logger = types.SimpleNamespace(**dict.fromkeys(("info", "debug", "exception"), print))
                sys.modules[name] = module
        sys.path[:0] = [str(peer / "src"), str(encoder.parent)]
        os.chdir(encoder.parent)  # it takes a path for a module's name
        from xares_llm.modeling_audiollm import configuration_xaresllm, modeling_xaresllm

        config = configuration_xaresllm.XaresLLMModelConfig(
            decoder_type=str(decoder), audio_encoder_name=encoder.name, audio_encoder_params=arguments
        )
        self.model: Any = modeling_xaresllm.XaresLLMModel(config).eval()

    @property
    def decoder(self) -> Any:
        """In peft."""
        return self.model.decoder

    @property
    def projector(self) -> Any:
        """From frames to embeddings."""
        return self.model.audio_projector

    def generate(self, batch: dict[str, torch.Tensor], max_new_tokens: int) -> torch.Tensor:
        """Tokens (B, L) of one batch."""
        names = ("audio", "audio_attention_mask", "input_ids", "attention_mask")
        found: torch.Tensor = self.model.generate(
            **{name: batch[name] for name in names},
            repetition_penalty=1.05,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
        )
        return found


def ask(side: Plain | Peer, work: Work) -> list[list[list[int]]]:
    """Each clip's answers, one per reference, without EOS."""
    for config in (side.decoder.generation_config, side.decoder.config):
        config.eos_token_id = config.pad_token_id = work.eos_id
    answers: list[list[list[int]]] = [[] for _ in work.audio]
    for batch in batches(work):
        clips = [Clip(audio=work.audio[clip], prompt=work.prompt, target=()) for clip in batch]
        for clip, row in zip(
            batch, side.generate(collate(clips, work.eos_id, targets=False), work.max_new_tokens).tolist(), strict=True
        ):
            answers[clip].append(until(row, work.eos_id))
    return answers


def until(tokens: Sequence[int], eos_id: int) -> list[int]:
    """The tokens before EOS."""
    return list(tokens[: tokens.index(eos_id)] if eos_id in tokens else tokens)


def talk(decoder: Any, projector: Any) -> None:
    """Push adapters and projector off their start, in every program alike, so that answers hang on what is heard."""
    generator = torch.Generator()
    with torch.no_grad():
        for name, weight in sorted(decoder.named_parameters()):
            if "lora_" in name:
                generator.manual_seed(zlib.crc32(name.encode()))
                weight.normal_(std=0.05, generator=generator)
        generator.manual_seed(0)
        projector.weight.normal_(std=0.7, generator=generator)
        projector.bias.zero_()
