"""Fixed shapes and what is captured of them: on a CPU the very functions run that a GPU would capture.

What needs a card (the capture itself, and its speed) is checked there by bench/gpu.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lalm
import numpy as np
import pytest
import torch
from test_lalm_generate import PROMPT, RECIPE, batch, tiny

from ranker.lalm import fixed, graphs
from ranker.lalm import generate as generation
from ranker.lalm.fixed import Fixed, Shape, fixed_loss, masks_of, masks_size
from ranker.lalm.generate import answered
from ranker.lalm.graphs import Graphs, PieceGraphs
from ranker.lalm.joined import GROUPS, Joined
from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import _PIECE_TOKENS, AudioLanguageModel, Example
from ranker.lalm.packed import Dropping
from ranker.lalm.train import latest_checkpoint, train
from ranker.types import Layout

CPU = torch.device("cpu")


def talking(**changes: object) -> AudioLanguageModel:
    """A small decoder in training, whose adapters do something: peft starts B at zero, where A gets no gradient."""
    model = tiny(2, ends=False).train()
    for name, value in changes.items():
        setattr(model, name, value)
    model.requires_grad_(requires_grad=False)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name or "projector" in name)
    model.feature_mean.fill_(0.3)  # padding's frames are then not 0 where they enter the projector
    return model


def examples(seed: int, lengths: Sequence[int]) -> list[Example]:
    """Clips of so many frames with a few words."""
    random = np.random.default_rng(seed)
    return [
        Example(
            features=random.normal(size=(length, 5)).astype(np.float32),
            prompt=tuple(random.integers(0, 39, 3).tolist()),
            target=tuple(random.integers(0, 39, 1 + length % 4).tolist()),
        )
        for length in lengths
    ]


def gradients(model: AudioLanguageModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 2 * 7 * 2 + 2
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * largest)


CASES = [(40, 1, 7, 3), (31,), (59, 2), (5, 5, 5, 5)]  # the last fill their places alike


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("lengths", CASES, ids=str)
def test_padded_to_a_shape_is_the_packed_computation(
    lengths: Sequence[int], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient to 1e-5, with one block of queries and with several."""
    model = talking(lora_dropout=0.0, layout=layout)
    (piece,) = model.pack(examples(1, lengths))
    expected = model.loss(piece)
    for block in (fixed.BLOCK, 16):
        monkeypatch.setattr(fixed, "BLOCK", block)
        padded = Fixed.of(piece)
        loss = fixed_loss(model, Joined.of(model.decoder), padded)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        assert_near(gradients(model, loss), gradients(model, model.loss(piece)))


def test_dropout_of_a_shape_is_that_of_its_real_rows() -> None:
    """With the masks of the real rows, the packed computation gives the same loss and gradients: padding's masks, and
    those of labels that are padding, touch nothing.
    """
    model = talking(lora_dropout=0.4)
    (piece,) = model.pack(examples(2, (20, 3, 9)))
    padded = Fixed.of(piece)
    joined = Joined.of(model.decoder)
    kept = torch.empty(masks_size(joined, padded.shape), dtype=torch.uint8)
    kept.bernoulli_(0.6, generator=torch.Generator().manual_seed(1))
    loss = fixed_loss(model, joined, padded, rate=0.4, kept=kept)
    # One mask of each layer, in their order, where a shape has one for all layers that read the same.
    masks = masks_of(joined, padded.shape, kept)
    single = [
        mask
        for number, whole in enumerate(masks)
        if whole is not None
        for mask in whole.chunk(len(GROUPS[number % 4]), 1)
    ]
    assert len(single) == 2 * 7

    class Same:
        """The masks of the shape, without its padding."""

        rate = 0.4

        def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
            mask = single.pop(0)
            assert mask.shape[1] == width
            return mask[: len(piece.positions if rows is None else rows)]

    same = Same()

    def drawn(*given: Any) -> Dropping:
        return same

    model.dropping = drawn  # type: ignore[method-assign, assignment]
    expected = model.loss(piece)
    assert single == []
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert_near(gradients(model, loss), gradients(model, expected))
    model.lora_dropout = 0.0
    without = fixed_loss(model, joined, padded)
    assert abs(loss.item() - without.item()) > 1e-3


def test_padding_is_read_by_nothing() -> None:
    """Whatever stands in padded rows: the same bits of loss and gradients, and no gradient there."""
    model = talking(lora_dropout=0.0)
    (piece,) = model.pack(examples(3, (12, 30)))
    one, other = Fixed.of(piece), Fixed.of(piece)
    parts = fixed.parts(other.numbers, other.shape)
    real = len(piece.positions)
    assert real < other.shape.rows - 1
    other.frames[real:] = 1e4
    parts["is_frame"][real::2] = 1
    parts["tokens"][real:] = 7
    parts["positions"][real:] = 500
    other.frames.requires_grad_()
    joined = Joined.of(model.decoder)
    losses = [fixed_loss(model, joined, each) for each in (one, other)]
    assert torch.equal(*losses)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    plain = torch.autograd.grad(losses[0], trained)
    *spoilt, of_frames = torch.autograd.grad(losses[1], [*trained, other.frames])
    audio = torch.cat([torch.arange(real)[:12], torch.arange(real)[12 + piece.read[0] :][:30]])
    assert float(of_frames[audio].abs().sum(1).min()) > 0
    assert not of_frames[real:].any()
    assert all(torch.equal(*each) for each in zip(plain, spoilt, strict=True))


def test_a_blank_piece_adds_nothing() -> None:
    """A GPU is warmed up with one, between the steps of a training: loss and gradients are 0, and no number is none."""
    model = talking()
    shape = Fixed.of(model.pack(examples(1, (4, 9)))[0]).shape
    blank = Fixed.blank(shape, 5, CPU)
    joined = Joined.of(model.decoder)
    kept = torch.zeros(masks_size(joined, shape), dtype=torch.uint8)
    loss = fixed_loss(model, joined, blank, rate=0.1, kept=kept)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_shapes_are_few_and_waste_little() -> None:
    """Over a thousand batches of a range of lengths: each fits, with room for padding, and costs at most an eighth."""
    random = np.random.default_rng(0)
    shapes, waste = set(), []
    for _ in range(1000):
        middle = np.exp(random.uniform(np.log(60), np.log(700)))
        lengths = random.integers(int(0.9 * middle), int(1.1 * middle), 4)
        shape = Shape(
            rows=fixed._rounded(int(lengths.sum()) + 1, 64, 8), sequences=4,
            longest=fixed._rounded(int(lengths.max()) + 1, 32, 4), labels=64,
        )  # fmt: skip
        assert shape.rows > lengths.sum()
        assert shape.longest > lengths.max()
        shapes.add(shape)
        waste.append(shape.rows / lengths.sum() - 1)
    assert max(waste) < 0.14
    assert float(np.mean(waste)) < 0.07
    assert len(shapes) < graphs.MOST_PIECES
    assert [fixed._rounded(number, 64, 8) for number in (1, 64, 65, 512, 513, 1000)] == [64, 64, 72, 512, 576, 1024]


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a batch, of several shapes and twice of one, give the gradients of the batch; so do those of a second
    batch, which meets shapes that are there, and ones that were dropped.
    """
    monkeypatch.setitem(_PIECE_TOKENS, "cpu", 40)
    monkeypatch.setattr(graphs, "MOST_PIECES", 2)
    model = talking(lora_dropout=0.0)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    way = PieceGraphs(model, trained)
    for seed in (4, 5):
        whole = examples(seed, (70, 24, 150, 22, 72))
        prepared = [way.fit(piece) for piece in model.pack(whole)]
        assert len({each.shape for each in prepared}) == 3 < len(prepared)
        for weight in trained:
            assert weight.grad is not None
            weight.grad.zero_()
        loss = sum(float(way.backward(each, None)) for each in prepared)
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        found = {name: weight.grad.clone() for name, weight in named.items() if weight.grad is not None}
        expected = model(whole)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert_near(found, gradients(model, expected))
        assert len(way._graphs) == 2


def test_what_was_used_last_is_kept() -> None:
    """Of more than two, the one that was not asked for the longest is made anew."""
    kept: Graphs[str] = Graphs(CPU, 2)
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        return name

    for name in ("a", "b", "a", "c", "a", "b"):
        assert kept.get(name, lambda name=name: make(name)) == name  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    assert len(kept) == 2


def trained(folder: Path, *, with_graphs: bool, resume_from: Path | None = None, **changes: Any) -> AudioLanguageModel:
    """Six steps of a small decoder, or those from a checkpoint on."""
    folder.mkdir()
    model = talking(lora_dropout=changes.pop("lora_dropout", 0.3))
    train(
        model,
        recipe=lalm.tiny_recipe(checkpoint_every=3, learning_rate=1e-3, **changes),
        steps=6,
        random_key="key",
        examples=lambda step: examples(step, (3 + step, 20, 8)),
        folder=folder,
        resume_from=resume_from,
        cpu=True,
        on_step=lambda done, loss: None,
        graphs=with_graphs,
    )
    return model


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def test_training_in_fixed_shapes_is_training(tmp_path: Path) -> None:
    """The same losses, step by step, as without; the same weights in the end."""
    one = trained(tmp_path / "one", with_graphs=False, lora_dropout=0.0).trained_state()
    other = trained(tmp_path / "other", with_graphs=True, lora_dropout=0.0).trained_state()
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert losses(tmp_path / "one")[-1] != pytest.approx(losses(tmp_path / "one")[0], rel=1e-2)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_resumed_training_in_fixed_shapes_has_the_same_bits(tmp_path: Path) -> None:
    """Dropout included, from a checkpoint in the middle on."""
    whole = trained(tmp_path / "whole", with_graphs=True).trained_state()
    checkpoint = latest_checkpoint([tmp_path / "whole"])
    assert checkpoint is not None
    middle = checkpoint.with_name("step-00000003")
    resumed = trained(tmp_path / "resumed", with_graphs=True, resume_from=middle).trained_state()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(losses(tmp_path / "resumed")) == 3
    plain = trained(tmp_path / "plain", with_graphs=False).trained_state()
    assert not all(torch.equal(whole[name], plain[name]) for name in whole), "its dropout is another"


@pytest.mark.parametrize("most", [1, 3, 40])
def test_answers_of_fixed_steps_are_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of ragged clips, let in one by one and all at once, with rows that live on beside free ones, a cache that
    is cut anew, and graphs that are dropped.
    """
    monkeypatch.setitem(generation.MOST_ROWS, "cpu", most)
    monkeypatch.setattr(graphs, "MOST_STEPS", 2)
    monkeypatch.setattr(graphs, "_COLUMNS", 64)
    monkeypatch.setattr(graphs, "_ROWS", (2, 4))
    model, clips = tiny(1), [*batch(1, 7), *batch(2, 3, longest=300)]
    asked: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": 30, "recipe": RECIPE}
    plain, ours = (
        dict(answered(MergedDecoder(model, RECIPE, graphs=each), enumerate(clips), count=len(clips), **asked))
        for each in (False, True)
    )
    assert ours == plain
    assert len({len(tokens) for tokens in plain.values()}) > 2, "rows end at different steps"
