"""The reference: training and answering as XARES-LLM does them, in a plain loop of our own.

Semantics, each as there: the encoder is called in every step on the padded batch; frames, then texts padded to one
length, go through transformers' Llama in peft's LoRA (all linear layers, rank 8, alpha 32, dropout 0.1) with an
attention mask; logits at every position, the loss by labels of -100; AdamW over what is trained, gradients clipped at
1, linear warm-up; `generate` for each (clip, reference) pair in fixed padded batches. Not here: its data pipeline;
batches come as they are. Nothing of ranker is imported, so that this runs under the peer's interpreter too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One sample: 16 kHz samples, token ids of the prompt, and of the target with EOS."""

    audio: torch.Tensor
    prompt: tuple[int, ...]
    target: tuple[int, ...]


def collate(clips: Sequence[Clip], pad: int, *, targets: bool = True) -> dict[str, torch.Tensor]:
    """Audio, ids and labels, padded at their ends, and masks: what XARES-LLM's own collation gives."""

    def padded(rows: Sequence[torch.Tensor], value: float) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)

    texts = [torch.tensor(clip.prompt + (clip.target if targets else ())) for clip in clips]
    labels = [torch.tensor((-100,) * len(clip.prompt) + clip.target) for clip in clips]
    return {
        "audio": padded([clip.audio for clip in clips], 0.0),
        "audio_attention_mask": padded([torch.ones_like(clip.audio) for clip in clips], 0.0).long(),
        "input_ids": padded(texts, pad).long(),
        "attention_mask": padded([torch.ones_like(text) for text in texts], 0).long(),
        "labels": padded(labels, -100).long(),
    }


class Reference(nn.Module):
    """Encoder, projector and decoder in one module. `encoder(audio, mask)` gives frames (B, T', D) and their mask."""

    def __init__(self, encoder: Any, decoder: Path, *, lora_dropout: float = 0.1) -> None:
        super().__init__()
        network = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32, local_files_only=True)
        self.encoder = encoder.eval().requires_grad_(requires_grad=False)
        lora = LoraConfig(
            target_modules="all-linear",
            task_type=TaskType.CAUSAL_LM,
            r=8,
            lora_alpha=32,
            lora_dropout=lora_dropout,
            bias="none",
        )
        self.decoder: Any = get_peft_model(network, lora)
        self.projector = nn.Linear(encoder.output_dim, network.config.hidden_size)

    def embed(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, S, H) of audio and text, and the mask (B, S) of both."""
        with torch.no_grad():
            frames, mask = self.encoder(batch["audio"], batch["audio_attention_mask"])
        text = self.decoder.get_input_embeddings()(batch["input_ids"])
        return torch.cat([self.projector(frames), text], 1), torch.cat([mask, batch["attention_mask"]], 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss, by way of the logits of all positions."""
        embedded, mask = self.embed(batch)
        audio = mask.shape[1] - batch["labels"].shape[1]
        labels = torch.cat([batch["labels"].new_full((len(mask), audio), -100), batch["labels"]], 1)
        loss: torch.Tensor = self.decoder(inputs_embeds=embedded, attention_mask=mask, labels=labels).loss
        return loss

    @torch.no_grad()
    def answer(self, batch: dict[str, torch.Tensor], *, max_new_tokens: int) -> torch.Tensor:
        """Greedy answers (B, L) by transformers' `generate`, with the evaluation's settings."""
        embedded, mask = self.embed(batch)
        found: torch.Tensor = self.decoder.generate(
            inputs_embeds=embedded,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=1.05,
        )
        return found


class Training:
    """The loop's state; `step` takes one."""

    def __init__(self, model: Reference, *, steps: int, learning_rate: float = 1e-4, warmup_steps: int = 200) -> None:
        self.model = model.train()
        model.encoder.eval()
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in self.trained if weight.ndim > 1], "weight_decay": 0.01},
            {"params": [weight for weight in self.trained if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, warmup_steps, steps)

    def step(self, clips: Sequence[Clip], pad: int) -> float:
        """Take one step; its loss."""
        loss = self.model(collate(clips, pad))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss.detach())
