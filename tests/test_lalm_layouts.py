"""Layouts of a training batch: ours, and XARES-LLM's, against training written down with transformers and peft alone.

The second is what bench/peer_parity.py found equal to XARES-LLM itself; here it guards that without that program.
"""

from __future__ import annotations

import json
from pathlib import Path

import lalm
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import get_linear_schedule_with_warmup

from ranker.config import Recipe
from ranker.lalm import decoder as decoders
from ranker.lalm.layouts import arrange
from ranker.lalm.model import AudioLanguageModel, Example, seed_of
from ranker.lalm.train import train
from ranker.types import Layout

STEPS = 6


class Plain(torch.nn.Module):
    """The audio language model in the obvious way: libraries' own LoRA placement, labels of -100, their own loss.

    Rows are audio, padding, text, padding; what is padding is not attended to; positions are not given, so that the
    decoder counts columns.
    """

    def __init__(self, model: AudioLanguageModel, recipe: Recipe) -> None:
        super().__init__()
        network, _ = decoders.load(decoders.locate(recipe.decoder), recipe.decoder_layers)
        lora = LoraConfig(
            target_modules="all-linear",
            task_type=TaskType.CAUSAL_LM,
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            bias="none",
        )
        self.decoder = get_peft_model(network, lora)
        self.projector = torch.nn.Linear(model.projector.in_features, model.projector.out_features)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        self.load_state_dict(start, strict=False)
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        assert trained == {name for name, weight in model.named_parameters() if weight.requires_grad}

    def forward(self, batch: list[Example]) -> torch.Tensor:
        frames = max(len(example.features) for example in batch)
        words = max(len(example.prompt) + len(example.target) for example in batch)
        features = torch.zeros(len(batch), frames, self.projector.in_features)
        ids = torch.zeros(len(batch), words, dtype=torch.long)
        mask = torch.zeros(len(batch), frames + words, dtype=torch.long)
        labels = torch.full((len(batch), frames + words), -100)
        for row, example in enumerate(batch):
            text = example.prompt + example.target
            features[row, : len(example.features)] = torch.from_numpy(example.features)
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(example.features)] = 1
            mask[row, frames : frames + len(text)] = 1
            labels[row, frames + len(example.prompt) : frames + len(text)] = torch.tensor(example.target)
        embedded = torch.cat([self.projector(features), self.decoder.get_input_embeddings()(ids)], dim=1)
        loss: torch.Tensor = self.decoder(inputs_embeds=embedded, attention_mask=mask, labels=labels).loss
        return loss


def plain_training(plain: Plain, batches: list[list[Example]], recipe: Recipe) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step: torch's AdamW and clipping, transformers' schedule."""
    named = [(name, weight) for name, weight in plain.named_parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for name, weight in named if "bias" not in name], "weight_decay": recipe.weight_decay},
        {"params": [weight for name, weight in named if "bias" in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, len(batches))
    plain.train()
    curve = []
    for step, batch in enumerate(batches):
        torch.manual_seed(seed_of("key", "dropout", step))
        loss = plain(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([weight for _, weight in named], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        curve.append((float(loss.detach()), float(norm)))
    return curve


def our_training(
    model: AudioLanguageModel, batches: list[list[Example]], recipe: Recipe, folder: Path
) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step of our loop."""
    train(
        model,
        recipe=recipe,
        steps=len(batches),
        random_key="key",
        examples=lambda step: batches[step],
        folder=folder,
        resume_from=None,
        cpu=True,
        on_step=lambda done, loss: None,
    )
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in lines]


def test_training_in_their_layout_is_the_plain_one(tmp_path: Path) -> None:
    """Losses within 1e-4, gradient norms likewise (relative), and the weights that come of them; dropout included,
    which is drawn at the same places in the same order.
    """
    recipe = lalm.tiny_recipe(
        layout="xares_llm", decoder_layers=2, lora_dropout=0.2, weight_decay=0.5, warmup_steps=2, steps=STEPS
    )
    model = lalm.build(recipe)
    plain = Plain(model, recipe)
    batches = [lalm.batch(model, step) for step in range(STEPS)]
    assert all(len({len(example.features) for example in batch}) > 1 for batch in batches)
    ours = our_training(model, batches, recipe, tmp_path)
    for (loss, norm), (plain_loss, plain_norm) in zip(ours, plain_training(plain, batches, recipe), strict=True):
        assert loss == pytest.approx(plain_loss, abs=1e-4)
        assert norm == pytest.approx(plain_norm, rel=1e-4)
    wanted = dict(plain.named_parameters())
    compared = 0
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight, wanted[name], atol=1e-4, rtol=1e-3)
            compared += 1
    assert compared == 2 + 2 * 2 * 7


def loss_of(model: AudioLanguageModel, layout: Layout, batch: list[Example]) -> float:
    own, model.layout = model.layout, layout
    loss = float(model(batch).detach())
    model.layout = own
    return loss


def test_layouts_agree_where_no_audio_is_padded_and_differ_where_it_is() -> None:
    """Theirs moves the text of a short clip to where its longest neighbour ends; ours leaves a row as it is alone."""
    model = lalm.build(lalm.tiny_recipe()).eval()
    ragged = lalm.batch(model, 0)
    level = [example for example in lalm.batch(model, 0, size=20) if len(example.features) == 5]
    assert len({len(example.target) for example in level}) > 1
    assert loss_of(model, Layout.XARES_LLM, level) == pytest.approx(loss_of(model, Layout.RANKER, level), abs=1e-4)
    assert abs(loss_of(model, Layout.XARES_LLM, ragged) - loss_of(model, Layout.RANKER, ragged)) > 1e-3


def test_where_padding_stands() -> None:
    """Two rows, spelled out: audio of 1 and 2 frames, text of 3 and 1 tokens."""
    ours, theirs = (arrange(layout, [1, 2], [3, 1]) for layout in (Layout.RANKER, Layout.XARES_LLM))
    assert [row.tolist() for row in ours.columns] == [[0, 1, 2, 3], [0, 1, 2]]
    assert [row.tolist() for row in theirs.columns] == [[0, 2, 3, 4], [0, 1, 2]]
    assert (ours.width, theirs.width) == (4, 5)
