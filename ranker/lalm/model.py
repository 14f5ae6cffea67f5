"""The audio language model: `[Linear(features)] ++ [prompt] ++ [target, EOS]` through a frozen decoder with LoRA.

Not covered: more than one clip per prompt, left-to-right chat templates, and training of the encoder, which is frozen
and far away, in the sandbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from ranker.config import Recipe
from ranker.lalm.dropout import Dropout, PaddedDropout
from ranker.lalm.layouts import Arrangement, arrange
from ranker.lalm.packed import Dropping, Prepared, run
from ranker.sandbox.base import Features
from ranker.types import Layout, Precision

# Every linear layer of a Llama block; the head is left alone.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# A piece of a batch has one sequence, and others as long as together they have no more tokens than this: enough to use
# a processor's or a card's arithmetic well.
_PIECE_TOKENS = {"cpu": 1_024, "cuda": 32_768}


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training sample: features (T', D), token ids of the prompt, token ids of the target with EOS."""

    features: Features
    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Whole sequences of a batch, one after another: T rows, of which L predict a label.

    `frames` (sum T', D) and `tokens` (prompts and targets) are cut by `heard` and `read`, their numbers in each
    sequence. `wanted` are the L rows whose next token is one of `labels`; `share` is one over the batch's labels.
    """

    frames: torch.Tensor
    tokens: torch.Tensor
    heard: list[int]
    read: list[int]
    positions: torch.Tensor
    wanted: torch.Tensor
    labels: torch.Tensor
    share: float
    arrangement: Arrangement

    def to(self, device: torch.device) -> Packed:
        """On that device; from pinned memory the copies are not waited for."""
        if device.type == "cpu":
            return self
        tensors = ("frames", "tokens", "positions", "wanted", "labels")
        moved: dict[str, Any] = {
            name: getattr(self, name).pin_memory().to(device, non_blocking=True) for name in tensors
        }
        return replace(self, **moved)


def packed(batch: Sequence[Example], layout: Layout, *, share: float) -> Packed:
    """These examples as they go through the decoder together."""
    heard = [len(example.features) for example in batch]
    text = [example.prompt + example.target for example in batch]
    arrangement = arrange(layout, heard, [len(tokens) for tokens in text])
    ends = np.cumsum([len(columns) for columns in arrangement.columns])
    wanted = [
        np.arange(end - len(example.target) - 1, end - 1) for example, end in zip(batch, ends.tolist(), strict=True)
    ]
    return Packed(
        frames=torch.from_numpy(np.concatenate([example.features for example in batch])),
        tokens=torch.tensor([token for tokens in text for token in tokens]),
        heard=heard,
        read=[len(tokens) for tokens in text],
        positions=torch.from_numpy(np.concatenate(arrangement.columns)),
        wanted=torch.from_numpy(np.concatenate(wanted)),
        labels=torch.tensor([token for example in batch for token in example.target]),
        share=share,
        arrangement=arrangement,
    )


def seed_of(*parts: object) -> int:
    """A seed that is a function of `parts` alone, so that randomness never depends on what ran before."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class AudioLanguageModel(nn.Module):
    """Projector and LoRA (trained, float32) around a decoder (frozen).

    `init_key` names the randomness of the initial weights: the same for every team but for D, the features' size.
    """

    def __init__(
        self,
        decoder: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        feature_dim: int,
        recipe: Recipe,
        init_key: str,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.layout = recipe.layout
        self.lora_dropout = recipe.lora_dropout
        self.eos_id = int(decoder.config.eos_token_id)  # type: ignore[arg-type]
        hidden = decoder.config.hidden_size
        embeddings: torch.Tensor = decoder.get_input_embeddings().weight  # type: ignore[assignment]
        torch.manual_seed(seed_of(init_key, "projector"))
        self.projector = nn.Linear(feature_dim, hidden)
        if recipe.projector_init == "match_embeddings":
            # Unit-variance features then land where token embeddings lie.
            nn.init.normal_(self.projector.weight, std=float(embeddings.std()) / feature_dim**0.5)
            nn.init.zeros_(self.projector.bias)
        self.feature_mean: torch.Tensor
        self.feature_scale: torch.Tensor
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        if recipe.precision is Precision.BF16:
            decoder.to(torch.bfloat16)  # type: ignore[arg-type]
        torch.manual_seed(seed_of(init_key, "lora"))
        lora = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=list(LORA_TARGETS),
            bias="none",
        )
        self.decoder: Any = get_peft_model(decoder, lora)
        self._prepared: Prepared | None = None

    def train(self, mode: bool = True) -> AudioLanguageModel:
        """Begin training, or end it, and with it what is only held for it."""
        if not mode:
            self._prepared = None
        return super().train(mode)

    @property
    def prepared(self) -> Prepared:
        """The frozen layers as the loss wants them; for the device that the model is on when it is first asked."""
        if self._prepared is None:
            self._prepared = Prepared.of(self.decoder)
        return self._prepared

    @property
    def body(self) -> Any:
        """The decoder without its head: embeddings in, hidden states out."""
        return self.decoder.base_model.model.model

    @property
    def head(self) -> nn.Module:
        """From hidden states (..., H) to logits (..., V)."""
        head: nn.Module = self.decoder.base_model.model.lm_head
        return head

    @property
    def device(self) -> torch.device:
        """Where the projector is."""
        return self.projector.weight.device

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of a text alone: no BOS, no template, no separator."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def standardize(self, clips: Iterable[Features]) -> None:
        """Set the mean and deviation that features are standardised by: over all frames of `clips` [(T'_i, D)]."""
        count, total, squares = 0, 0.0, 0.0
        for features in clips:
            frames = features.astype(np.float64)
            count += len(frames)
            total = total + frames.sum(axis=0)
            squares = squares + (frames**2).sum(axis=0)
        mean = np.asarray(total / count)
        variance = np.maximum(np.asarray(squares / count) - mean**2, 0.0)
        # A dimension that never moves carries nothing; dividing by its deviation would make noise of rounding errors.
        scale = np.where(variance > 1e-10 * (mean**2 + 1e-10), 1.0 / np.sqrt(variance + 1e-12), 0.0)
        self.feature_mean.copy_(torch.from_numpy(mean))
        self.feature_scale.copy_(torch.from_numpy(scale))

    def embed_audio(self, clips: Sequence[Features]) -> list[torch.Tensor]:
        """Features [(T'_i, D)] to decoder embeddings [(T'_i, H)], in one product over all frames."""
        frames = torch.from_numpy(np.concatenate(list(clips))).to(self.device)  # (sum T', D)
        projected = self.projector((frames - self.feature_mean) * self.feature_scale)
        return list(projected.split([len(clip) for clip in clips]))

    def embed_text(self, tokens: Sequence[int]) -> torch.Tensor:
        """Token ids to decoder embeddings (L, H)."""
        ids = torch.tensor(tokens, device=self.device)
        embedded: torch.Tensor = self.body.embed_tokens(ids)
        return embedded

    def pack(self, batch: Sequence[Example]) -> list[Packed]:
        """A batch in pieces that are computed one after another, each with whole sequences: what is kept for the
        backward pass is then bounded by the longest clip, not by the batch. Needs no device, nor touches one.
        """
        labels = sum(len(example.target) for example in batch)
        if self.layout is Layout.XARES_LLM:  # positions depend on the whole batch
            return [packed(batch, self.layout, share=1 / labels)]
        pieces: list[list[Example]] = []
        room = 0
        for example in batch:
            length = len(example.features) + len(example.prompt) + len(example.target)
            if length > room:
                pieces.append([])
                room = _PIECE_TOKENS[self.device.type]
            pieces[-1].append(example)
            room -= length
        return [packed(piece, self.layout, share=1 / labels) for piece in pieces]

    def loss(self, piece: Packed, generator: torch.Generator | None = None) -> torch.Tensor:
        """The piece's part of the batch's mean cross-entropy over all target and EOS tokens, a scalar.

        Logits are computed where there are labels, and nowhere else. `generator` draws dropout (None: torch's own).
        """
        piece = piece.to(self.device)
        projected = self.projector((piece.frames - self.feature_mean) * self.feature_scale)
        text = self.body.embed_tokens(piece.tokens)
        parts = zip(projected.to(text.dtype).split(piece.heard), text.split(piece.read), strict=True)
        hidden = run(
            self.decoder,
            self.prepared,
            torch.cat([part for pair in parts for part in pair]),  # (T, H)
            lengths=[heard + read for heard, read in zip(piece.heard, piece.read, strict=True)],
            positions=piece.positions,
            wanted=piece.wanted,
            dropping=self.dropping(piece, generator),
        )  # (L, H)
        logits = self.prepared.logits(hidden).float()  # (L, V)
        return functional.cross_entropy(logits, piece.labels, reduction="sum") * piece.share

    def forward(self, batch: Sequence[Example]) -> torch.Tensor:
        """Mean cross-entropy over all target and EOS tokens of the batch, a scalar."""
        return torch.stack([self.loss(piece) for piece in self.pack(batch)]).sum()

    def dropping(self, piece: Packed, generator: torch.Generator | None) -> Dropping:
        """What draws the dropout of this piece."""
        rate = self.lora_dropout if self.training else 0.0
        if self.layout is Layout.XARES_LLM:
            return PaddedDropout(rate=rate, arrangement=piece.arrangement, device=self.device, generator=generator)
        return Dropout(rate=rate, count=len(piece.positions), device=self.device, generator=generator)

    def trained_state(self) -> dict[str, torch.Tensor]:
        """All that training may change, and the standardisation: name -> tensor on the CPU."""
        state = {f"lora.{name}": value for name, value in get_peft_model_state_dict(self.decoder).items()}
        for name in ("projector.weight", "projector.bias", "feature_mean", "feature_scale"):
            state[name] = self.state_dict()[name]
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def save_trained(self, path: Path) -> None:
        """Write `trained_state` as safetensors."""
        save_file(self.trained_state(), path)

    def load_trained(self, path: Path) -> None:
        """The inverse of `save_trained`."""
        state: dict[str, Any] = load_file(path)
        lora = {name.removeprefix("lora."): value for name, value in state.items() if name.startswith("lora.")}
        set_peft_model_state_dict(self.decoder, lora)
        own = {name: value for name, value in state.items() if not name.startswith("lora.")}
        self.load_state_dict(own, strict=False)
