"""The audio language model: `[Linear(features)] ++ [prompt] ++ [target, EOS]` through a frozen decoder with LoRA.

Not covered: more than one clip per prompt, left-to-right chat templates, and training of the encoder, which is frozen
and far away, in the sandbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from ranker.lalm.layouts import arrange
from ranker.sandbox.base import Features
from ranker.types import Precision

# Every linear layer of a Llama block; the head is left alone.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One training sample: features (T', D), token ids of the prompt, token ids of the target with EOS."""

    features: Features
    prompt: tuple[int, ...]
    target: tuple[int, ...]


def seed_everything(*parts: object) -> None:
    """Seed torch with a function of `parts` alone, so that randomness never depends on what ran before."""
    text = ":".join(map(str, parts))
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


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
        self.eos_id = int(decoder.config.eos_token_id)  # type: ignore[arg-type]
        hidden = decoder.config.hidden_size
        embeddings: torch.Tensor = decoder.get_input_embeddings().weight  # type: ignore[assignment]
        seed_everything(init_key, "projector")
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
        seed_everything(init_key, "lora")
        lora = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=list(LORA_TARGETS),
            bias="none",
        )
        self.decoder: Any = get_peft_model(decoder, lora)

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

    def forward(self, batch: Sequence[Example]) -> torch.Tensor:
        """Mean cross-entropy over all target and EOS tokens of the batch, a scalar.

        Logits are computed where there are labels, and nowhere else. Where padding stands is the layout's matter.
        """
        audio = self.embed_audio([example.features for example in batch])
        text = [self.embed_text(example.prompt + example.target).to(audio[0].dtype) for example in batch]
        laid = arrange(self.layout, audio, text)  # (B, S, H)
        hidden = self.body(
            inputs_embeds=laid.embedded, attention_mask=laid.attention_mask, use_cache=False
        ).last_hidden_state  # (B, S, H)
        predicting = []  # the L positions whose next token is a label
        for row, (example, end) in enumerate(zip(batch, laid.ends, strict=True)):
            predicting.append(hidden[row, end - len(example.target) - 1 : end - 1])
        logits = self.head(torch.cat(predicting))  # (sum L, V)
        labels = torch.tensor([token for example in batch for token in example.target], device=self.device)
        return functional.cross_entropy(logits.float(), labels)

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
