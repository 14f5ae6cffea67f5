"""Pieces of a training batch in few, fixed shapes, such as one CUDA graph can be replayed for: see ranker.lalm.graphs.

A piece is padded to a `Shape`: rows behind the last real one, empty places at the end of each sequence, labels that
are ignored. Nothing real ever reads of them, so that they carry no gradient; and whatever moves rows to places and
back is a gather in both directions, since adding at indices has no fixed order on a GPU. What depends on a batch is in
two tensors, made on the host ahead of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ranker.lalm.joined import Joined
from ranker.lalm.model import AudioLanguageModel, Packed

BLOCK = 256  # queries together, as in ranker.lalm.attention
IGNORED = -100
_PLACES = ("place", "row", "wanted", "predicts")
_LEAST_ROWS, _LEAST_LONGEST, _LEAST_LABELS = 64, 32, 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """T rows, of which L predict a label; in attention, B sequences of S places. Each has room to spare."""

    rows: int
    sequences: int
    longest: int
    labels: int

    @classmethod
    def holding(cls, piece: Packed) -> Shape:
        """The smallest for this piece. Rounded up by at most an eighth (rows), a quarter (places) and a half (labels),
        which are not what a step's time goes to.
        """
        lengths = [heard + read for heard, read in zip(piece.heard, piece.read, strict=True)]
        return cls(
            rows=_rounded(sum(lengths) + 1, _LEAST_ROWS, 8),
            sequences=len(lengths),
            longest=_rounded(max(lengths) + 1, _LEAST_LONGEST, 4),
            labels=_rounded(len(piece.labels) + 1, _LEAST_LABELS, 1),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Names and sizes of the parts of `Fixed.numbers`."""
        rows, places, labels = self.rows, self.sequences * self.longest, self.labels
        by_row = dict.fromkeys(("is_frame", "tokens", "positions", "place", "predicts"), rows)
        return by_row | {"row": places, "wanted": labels, "labels": labels, "count": 1}


def _rounded(number: int, least: int, parts: int) -> int:
    """The next of `parts` equal steps between two powers of two, and at least `least`."""
    if number <= least:
        return least
    grain = max(1, (1 << (number - 1).bit_length() - 1) // parts)
    return -(-number // grain) * grain


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A piece in a shape. `frames` (T, D) float32 are 0 but in rows of audio; `numbers` (N,) int64 has these parts:

    `is_frame` (T,) 1 in rows of audio, `tokens` (T,) in the other ones, `positions` (T,); `place` (T,) of each row in
    attention and `row` (B S,) of each place; `wanted` (L,) the rows that predict `labels` (L,), and `predicts` (T,)
    which of these each row is; `count` (1,) the labels of the whole batch. Padding points to padding.
    """

    shape: Shape
    frames: torch.Tensor
    numbers: torch.Tensor

    @classmethod
    def of(cls, piece: Packed, *, pinned: bool = False) -> Fixed:
        """A piece in its shape, on the host; `pinned` where a GPU is to copy it."""
        shape = Shape.holding(piece)
        frames = torch.zeros(shape.rows, piece.frames.shape[1], pin_memory=pinned)
        numbers = torch.zeros(sum(shape.sizes.values()), dtype=torch.int64, pin_memory=pinned)
        _fill(piece, shape, frames, {name: part.numpy() for name, part in parts(numbers, shape).items()})
        return cls(shape=shape, frames=frames, numbers=numbers)

    @classmethod
    def blank(cls, shape: Shape, width: int, device: torch.device) -> Fixed:
        """One of padding alone, whose loss and gradients are 0."""
        numbers = torch.zeros(sum(shape.sizes.values()), dtype=torch.int64, device=device)
        found = parts(numbers, shape)
        found["labels"].fill_(IGNORED)
        found["count"].fill_(1)
        return cls(shape=shape, frames=torch.zeros(shape.rows, width, device=device), numbers=numbers)


def parts(numbers: torch.Tensor, shape: Shape) -> dict[str, torch.Tensor]:
    """The parts of `Fixed.numbers` by their names: views."""
    return dict(zip(shape.sizes, torch.split(numbers, list(shape.sizes.values())), strict=True))


def _fill(piece: Packed, shape: Shape, frames: torch.Tensor, into: dict[str, np.ndarray]) -> None:
    lengths = np.array([heard + read for heard, read in zip(piece.heard, piece.read, strict=True)])
    rows = np.arange(lengths.sum())
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    within = rows - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_frame = within < np.repeat(piece.heard, lengths)
    frames[torch.from_numpy(rows[is_frame])] = piece.frames
    into["is_frame"][rows] = is_frame
    into["tokens"][rows[~is_frame]] = piece.tokens.numpy()
    into["positions"][rows] = piece.positions.numpy()
    # The last row, the last place of the first sequence and the last label are padding in every shape.
    into["place"][:] = shape.longest - 1
    into["place"][rows] = sequence * shape.longest + within
    into["row"][:] = shape.rows - 1
    into["row"][into["place"][rows]] = rows
    labels = np.arange(len(piece.labels))
    into["wanted"][:] = shape.rows - 1
    into["wanted"][labels] = piece.wanted.numpy()
    into["predicts"][:] = shape.labels - 1
    into["predicts"][piece.wanted.numpy()] = labels
    into["labels"][:] = IGNORED
    into["labels"][labels] = piece.labels.numpy()
    into["count"][:] = round(1 / piece.share)


def masks_size(joined: Joined, shape: Shape) -> int:
    """Bytes of dropout for one pass of a piece of this shape through all blocks."""
    return sum(rows * width for rows, width in joined.masks(shape.rows, shape.labels))


def masks_of(joined: Joined, shape: Shape, kept: torch.Tensor | None) -> list[torch.Tensor | None]:
    """Those bytes, 1 where an input is kept, cut into the masks of each block; None: nothing is left out."""
    shapes = joined.masks(shape.rows, shape.labels)
    if kept is None:
        return [None] * len(shapes)
    cut = torch.split(kept, [rows * width for rows, width in shapes])
    return [part.view(each) for part, each in zip(cut, shapes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Attention and the choice of rows in a fixed shape."""

    shape: Shape
    place: torch.Tensor
    row: torch.Tensor
    wanted: torch.Tensor
    predicts: torch.Tensor
    later: torch.Tensor  # (BLOCK, BLOCK): minus infinity on what comes later

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """(T, heads, E) and twice (T, groups, E) to (T, heads E), and what is kept for `attend_back`.

        By matrix products, block by block of queries: torch's own kernels for a GPU add up gradients in no fixed order,
        unless all of torch is told not to.
        """
        keys, values = (_by_group(self, each, 1)[:, 0] for each in (key, value))  # (B groups, S, E)
        asked = _by_group(self, query, query.shape[1] // key.shape[1]).mul_(_scale(query))  # (B groups, G, S, E)
        found = [
            torch.bmm(_weights(self, asked, keys, start, stop), values[:, :stop]).view_as(asked[:, :, start:stop])
            for start, stop in _blocks(self)
        ]
        return _by_row(self, torch.cat(found, 2)).flatten(1), (asked, keys, values)

    def attend_back(self, saved: tuple[torch.Tensor, ...], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of queries, keys and values from that of the result (T, heads E); weights are computed again."""
        asked, keys, values = saved
        given = _by_group(self, grad.view(len(grad), -1, asked.shape[-1]), asked.shape[1])
        of_keys, of_values = (torch.zeros_like(keys, dtype=torch.float32) for _ in range(2))
        of_asked = []
        for start, stop in _blocks(self):
            block, own = given[:, :, start:stop].flatten(1, 2), asked[:, :, start:stop]
            weights = _weights(self, asked, keys, start, stop)
            of_values[:, :stop] += torch.bmm(weights.mT, block)
            of_weights = torch.bmm(block, values[:, :stop].mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # noqa: SLF001
            of_keys[:, :stop] += torch.bmm(of_scores.mT, own.flatten(1, 2))
            of_asked.append(torch.bmm(of_scores, keys[:, :stop]).view_as(own))
        of_query = _by_row(self, torch.cat(of_asked, 2)).mul_(_scale(asked))
        return of_query, *(_by_row(self, each[:, None].to(keys.dtype)) for each in (of_keys, of_values))

    def choose(self, x: torch.Tensor) -> torch.Tensor:
        """(T, H) to the rows that predict a label, each once but for padding: (L, H)."""
        return x.index_select(0, self.wanted)

    def choose_back(self, grad: torch.Tensor) -> torch.Tensor:
        """The gradient of x; rows that predict nothing get the padding's, which is 0."""
        return grad.index_select(0, self.predicts)


def _scale(query: torch.Tensor) -> float:
    return float(query.shape[-1] ** -0.5)


def _blocks(places: Places) -> list[tuple[int, int]]:
    """(first, end) of the places whose queries are taken together."""
    longest = places.shape.longest
    return [(start, min(start + BLOCK, longest)) for start in range(0, longest, BLOCK)]


def _by_group(places: Places, x: torch.Tensor, share: int) -> torch.Tensor:
    """Rows (T, groups share, E) by place: (B groups, share, S, E)."""
    shape = places.shape
    placed = x.index_select(0, places.row).view(shape.sequences, shape.longest, -1, share, x.shape[-1])
    return placed.permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()


def _by_row(places: Places, x: torch.Tensor) -> torch.Tensor:
    """The inverse of `_by_group`, of (B groups, share, S, E): rows (T, groups share, E); padding gets padding's."""
    sequences = places.shape.sequences
    grouped = x.view(sequences, -1, *x.shape[1:])
    placed = grouped.permute(0, 3, 1, 2, 4)  # (B, S, groups, share, E)
    return placed.reshape(sequences * places.shape.longest, -1, x.shape[-1]).index_select(0, places.place)


def _weights(places: Places, asked: torch.Tensor, keys: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """What the queries of a block give each key up to their own: (B groups, share * block, stop)."""
    scores = torch.bmm(asked[:, :, start:stop].flatten(1, 2), keys[:, :stop].mT)
    block = stop - start
    scores.view(len(scores), -1, block, stop)[..., start:] += places.later[:block, :block]
    return torch.softmax(scores, -1)


def fixed_loss(
    model: AudioLanguageModel, joined: Joined, piece: Fixed, *, rate: float = 0.0, kept: torch.Tensor | None = None
) -> torch.Tensor:
    """What `AudioLanguageModel.loss` gives for the piece that this was made of, and no shape hangs on its content.

    `joined` are the model's own blocks; the piece lies on its device, and `kept` has the bytes of dropout of `rate`.
    """
    shape, found = piece.shape, parts(piece.numbers, piece.shape)
    projected = model.projector((piece.frames - model.feature_mean) * model.feature_scale)
    text: torch.Tensor = model.body.embed_tokens(found["tokens"])
    embedded = torch.where(found["is_frame"].bool()[:, None], projected.to(text.dtype), text)
    later = torch.full((BLOCK, BLOCK), float("-inf"), dtype=text.dtype, device=text.device).triu_(1)
    cos, sin = model.body.rotary_emb(embedded, found["positions"][None])
    cos, sin = (each[0, :, None, : each.shape[-1] // 2].contiguous() for each in (cos, sin))
    hidden = joined.run(
        embedded,
        places=Places(shape=shape, later=later, **{name: found[name] for name in _PLACES}),
        cos=cos,
        sin=sin,
        rate=rate,
        kept=masks_of(joined, shape, kept if rate else None),
    )
    logits = model.prepared.logits(model.body.norm(hidden)).float()
    total = functional.cross_entropy(logits, found["labels"], reduction="sum", ignore_index=IGNORED)
    return (total / found["count"])[0]
