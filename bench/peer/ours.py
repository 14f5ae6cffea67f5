"""Our model in the place of theirs: recorded batches and weights in, losses and answers out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer.frame_encoder import FrameEncoder
from transformers import AutoModelForCausalLM, AutoTokenizer

from ranker.config import Recipe
from ranker.lalm.generate import generate_tokens
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.train import train
from ranker.types import Layout

WARMUP_STEPS, LEARNING_RATE = 5, 1e-3  # twenty steps of the challenge's own schedule would hardly leave the start


def samples(
    batch: dict[str, Any], *, padded: bool = False, features: Sequence[np.ndarray] | None = None
) -> list[Example]:
    """A recorded batch as our examples. `padded` keeps frames that hold no sample; `features` replaces the frames."""
    made = []
    for row, tokens in enumerate(batch["input_ids"]):
        frames = batch["features"][row]
        if batch["frames"] is not None and not padded:
            frames = frames[batch["frames"][row].bool()]
        present = batch["attention_mask"][row].bool()
        labels = batch["labels"][row]
        prompt = tokens[present][labels[: int(present.sum())] == -100]
        made.append(
            Example(
                features=frames.numpy() if features is None else features[row],
                prompt=tuple(prompt.tolist()),
                target=tuple(labels[labels != -100].tolist()),
            )
        )
    return made


def alone(batch: dict[str, Any], encoder: FrameEncoder) -> list[np.ndarray]:
    """The features that ranker would train on: each clip encoded by itself, in evaluation mode."""
    lengths = batch["audio_attention_mask"].sum(1)
    with torch.no_grad():
        return [
            encoder.eval()(audio[None, :length], None)[0][0].numpy()
            for audio, length in zip(batch["audio"], lengths, strict=True)
        ]


class Ours:
    """Our model with the peer's decoder, started from the weights that the peer started from."""

    def __init__(
        self, decoder: Path, run: dict[str, Any], layout: Layout, steps: int, *, lora_dropout: float = 0.0
    ) -> None:
        self.decoder = decoder
        network = AutoModelForCausalLM.from_pretrained(decoder, dtype="float32", local_files_only=True)
        network.requires_grad_(requires_grad=False)
        self.recipe = Recipe(
            layout=layout,
            lora_dropout=lora_dropout,
            steps=steps,
            warmup_steps=WARMUP_STEPS,
            learning_rate=LEARNING_RATE,
        )
        self.model = AudioLanguageModel(
            network,
            AutoTokenizer.from_pretrained(decoder, local_files_only=True),
            feature_dim=run["steps"][0]["features"].shape[-1],
            recipe=self.recipe,
            init_key="replaced",
        )
        self.load(run["initial"])

    def load(self, recorded: dict[str, torch.Tensor]) -> None:
        """Take over weights recorded from the peer; every trained one must be among them."""
        own = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        theirs = {name.replace("audio_projector", "projector"): value for name, value in recorded.items()}
        given = {name: value for name, value in theirs.items() if not name.startswith("audio_encoder")}
        if own.keys() != given.keys():
            raise SystemExit(f"trained weights differ: {sorted(own.keys() ^ given.keys())}")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(given[name])

    def train(self, curriculum: Sequence[Sequence[Example]]) -> list[dict[str, float]]:
        """Our own loop; its log."""
        with tempfile.TemporaryDirectory() as folder:
            train(
                self.model,
                recipe=self.recipe,
                steps=len(curriculum),
                random_key="none",
                examples=lambda step: curriculum[step],
                folder=Path(folder),
                resume_from=None,
                cpu=True,
                on_step=lambda *_: None,
            )
            log = (Path(folder) / "train.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in log.splitlines()]

    @torch.no_grad()
    def distance(self, recorded: dict[str, torch.Tensor]) -> float:
        """Largest difference of any trained weight."""
        own = {name.replace("projector", "audio_projector"): weight for name, weight in self.model.named_parameters()}
        return max(
            float((own[name] - value).abs().max()) for name, value in recorded.items() if "audio_encoder" not in name
        )

    @torch.no_grad()
    def dropped_loss(self, examples: Sequence[Example]) -> float:
        """The loss in training mode, dropout drawn from torch's generator seeded with 0."""
        self.model.train()
        torch.manual_seed(0)
        return float(self.model(examples))

    @torch.no_grad()
    def held_out(self, tests: Sequence[dict[str, Any]], *, padded: bool = False) -> float:
        """Mean loss over the test's tokens with EOS, each clip at the positions that it has in generation."""
        self.model.eval()
        own, self.model.layout = self.model.layout, Layout.RANKER
        losses, tokens = [], []
        for batch in tests:
            examples = [
                replace(example, target=(*example.target, self.model.eos_id))
                for example in samples(batch, padded=padded)
            ]
            losses.append(float(self.model(examples)))
            tokens.append(sum(len(example.target) for example in examples))
        self.model.layout = own
        return float(np.average(losses, weights=tokens))

    def answers(self, tests: Sequence[dict[str, Any]], prompt: str, *, padded: bool = False) -> list[list[int]]:
        """Token ids of the answers, in the order of the recorded test."""
        self.model.eval()
        found: list[list[int]] = []
        for batch in tests:
            clips = [example.features for example in samples(batch, padded=padded)]
            found += generate_tokens(
                self.model, clips, prompt=prompt, max_new_tokens=self.recipe.max_new_tokens, recipe=self.recipe
            )
        return found


def theirs_answers(run: dict[str, Any], eos: int) -> list[list[int]]:
    rows = [row.tolist() for batch in run["tests"] for row in batch["generated"]]
    return [row[: row.index(eos)] if eos in row else row for row in rows]
