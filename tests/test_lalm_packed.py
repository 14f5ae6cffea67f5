"""The packed pass of training, against transformers' own forward and autograd through peft's own layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import lalm
import numpy as np
import pytest
import torch
from torch.nn import functional

from ranker.lalm import attention
from ranker.lalm.dropout import Dropout
from ranker.lalm.model import _PIECE_TOKENS, AudioLanguageModel, Example
from ranker.types import Layout


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    """Two layers, with adapters that do something: peft starts B at zero, where A gets no gradient."""
    built = lalm.build(lalm.tiny_recipe(decoder_layers=2, lora_dropout=0.0)).train()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=random)
    return built


@pytest.fixture(scope="module")
def ragged(model: AudioLanguageModel) -> list[Example]:
    """Clips of one frame and of many."""
    random = np.random.default_rng(0)
    examples = lalm.batch(model, 0, size=5)
    for seed, frames in enumerate((1, 40)):
        features = random.normal(size=(frames, 8)).astype(np.float32)
        like = examples[seed]
        examples.append(Example(features=features, prompt=like.prompt, target=like.target))
    return examples


def unpacked_loss(model: AudioLanguageModel, batch: list[Example]) -> torch.Tensor:
    """Each sample alone through transformers and peft, all logits; mean over the labels of the batch."""
    losses = []
    for sample in batch:
        (audio,) = model.embed_audio([sample.features])
        embedded = torch.cat([audio, model.embed_text(sample.prompt + sample.target)])[None]
        logits = model.decoder(inputs_embeds=embedded).logits[0]
        start = len(sample.features) + len(sample.prompt)
        losses.append(functional.cross_entropy(logits[start - 1 : -1], torch.tensor(sample.target), reduction="none"))
    return torch.cat(losses).mean()


def gradients(model: AudioLanguageModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_packed_is_the_unpacked_computation(
    model: AudioLanguageModel, ragged: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient within 1e-5, in one piece and in many; nothing frozen gets a gradient."""
    wanted = unpacked_loss(model, ragged)
    expected = gradients(model, wanted)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert expected.keys() == trained
    for room, pieces in ((10_000, 1), (30, 5), (1, 7)):
        monkeypatch.setitem(_PIECE_TOKENS, "cpu", room)
        assert len(model.pack(ragged)) == pieces
        loss = model(ragged)
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
        found = gradients(model, loss)
        assert found.keys() == trained
        for name, gradient in found.items():
            largest = float(expected[name].abs().max())
            assert largest > 0
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * largest)


def test_a_sequence_does_not_hear_its_neighbours(model: AudioLanguageModel, ragged: list[Example]) -> None:
    """The gradient of one sample's loss with respect to all other samples' frames is exactly zero."""
    (piece,) = model.pack(ragged)
    frames = piece.frames.requires_grad_()
    hidden_only = model.loss(piece)  # the whole batch: every frame matters
    assert float(torch.autograd.grad(hidden_only, frames)[0].abs().sum(1).min()) > 0
    mine = len(ragged[0].target)
    piece.labels[mine:] = -100  # ignored: only the first sample has labels left
    gradient = torch.autograd.grad(model.loss(piece), frames)[0]
    own = len(ragged[0].features)
    assert float(gradient[:own].abs().min()) > 0
    assert float(gradient[own:].abs().max()) == 0


def by_torch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Each sequence by torch's own attention."""
    found = []
    for parts in zip(*(each.split(list(lengths)) for each in (query, key, value)), strict=True):
        one, those, their = (part.transpose(0, 1)[None] for part in parts)
        attended = functional.scaled_dot_product_attention(one, those, their, is_causal=True, enable_gqa=True)
        found.append(attended[0].transpose(0, 1).flatten(1))
    return torch.cat(found)


@pytest.mark.parametrize("way", [attention.attend_padded, attention.attend_by_products])
def test_attention_is_torchs(way: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, with fewer heads of keys than of queries, and sequences of one block and of many."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    random = torch.Generator().manual_seed(0)
    lengths = (5, 1, 9, 4)
    heads = [torch.randn(19, count, 8, generator=random, requires_grad=True) for count in (6, 2, 2)]
    weight = torch.randn(19, 48, generator=random)
    one, other = (attend(*heads, lengths) for attend in (by_torch, way))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(*(torch.autograd.grad((each * weight).sum(), heads) for each in (one, other)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", list(Layout))
def test_gradient_under_dropout_is_that_of_the_masks_drawn(model: AudioLanguageModel, layout: Layout) -> None:
    """Backward uses the masks of forward: the derivative along the gradient is what a small step finds."""
    batch = lalm.batch(model, 1)
    model.layout, model.lora_dropout = layout, 0.3
    named = [weight for weight in model.parameters() if weight.requires_grad]

    def loss() -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.stack([model.loss(piece, generator) for piece in model.pack(batch)]).sum()

    grads = torch.autograd.grad(loss(), named)
    square = float(sum((grad.double() ** 2).sum() for grad in grads))
    step = 1e-2 / square**0.5
    with torch.no_grad():
        ends = []
        for sign in (1, -2):
            for weight, grad in zip(named, grads, strict=True):
                weight.add_(grad, alpha=sign * step)
            ends.append(float(loss()))
        for weight, grad in zip(named, grads, strict=True):
            weight.add_(grad, alpha=step)
    model.layout, model.lora_dropout = Layout.RANKER, 0.0
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(square, rel=2e-2)


def test_dropout_leaves_out_its_rate() -> None:
    """Of a million draws, within four deviations; the masks of two calls, and of two seeds, are not the same."""

    def drawn(seed: int, calls: int) -> list[torch.Tensor]:
        dropout = Dropout(
            rate=0.1, count=1000, device=torch.device("cpu"), generator=torch.Generator().manual_seed(seed)
        )
        return [found for _ in range(calls) if (found := dropout.keep(1001, None)) is not None]

    first, second = drawn(0, 2)
    assert first.shape == (1000, 1001)
    for mask in (first, second):
        assert abs(float(mask.float().mean()) - 0.9) < 4 * (0.09 / mask.numel()) ** 0.5
    assert abs(float((first | second).float().mean()) - 0.99) < 4 * (0.0099 / first.numel()) ** 0.5
    assert torch.equal(drawn(0, 1)[0], first)
    assert not torch.equal(drawn(1, 1)[0], first)


def test_batch_is_computed_in_pieces_with_room_for_a_clip(model: AudioLanguageModel, tmp_path: Path) -> None:
    """Memory is bounded by the longest clip: long ones go alone, short ones together."""
    long = np.zeros((900, 8), dtype=np.float32)
    batch = [Example(features=long, prompt=(1,), target=(2, 3)) for _ in range(4)] + lalm.batch(model, 0, size=6)
    sizes = [len(piece.heard) for piece in model.pack(batch)]
    assert sum(sizes) == 10
    assert sizes[:3] == [1, 1, 1]
    assert len(sizes) == 4
