"""Causal attention within each of several sequences that stand one after another in one matrix.

Two ways to the same numbers, each the fastest somewhere. Shapes: queries (T, heads, E); keys and values (T, groups,
E), each of which serves heads / groups heads, as neighbours; the result is (T, heads E).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

BLOCK = 128  # queries together: few enough that what lies after them, and is computed in vain, is little


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The way for this device: sequences of these `lengths`."""
    way = attend_by_products if query.device.type == "cpu" else attend_padded
    return way(query, key, value, lengths)


def attend_padded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """All sequences in one call, padded at their ends, which causal attention does not see: few kernels to launch."""
    key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], 1) for each in (key, value))
    padded = [pad_sequence(_cut(each, lengths), batch_first=True) for each in (query, key, value)]
    one, those, their = (each.transpose(1, 2) for each in padded)  # (B, heads, S, E)
    attended = functional.scaled_dot_product_attention(one, those, their, is_causal=True)
    rows = attended.transpose(1, 2).flatten(2)  # (B, S, heads E)
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


def attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """Sequence by sequence, by matrix products, block by block: on a CPU faster than torch's own function, in bfloat16
    twice as fast, since that gains nothing there from the smaller numbers. Weights are normalised in float32 and
    kept in the dtype.
    """
    found = [
        _Products.apply(*parts)  # type: ignore[no-untyped-call]
        for parts in zip(*(_cut(each, lengths) for each in (query, key, value)), strict=True)
    ]
    return found[0] if len(found) == 1 else torch.cat(found)


def _cut(rows: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    return list(torch.split(rows, list(lengths)))


class _Products(torch.autograd.Function):
    """One sequence: (L, heads, E) and twice (L, groups, E) to (L, heads E). The weights are kept for backward: for a
    clip of 30 s, 12 MB a layer in float32.

    Heads that share keys stand one below the other: of each block of queries (groups, heads / groups * block, E).
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        keys, values = _scaled(key), value.transpose(0, 1)  # (groups, L, E)
        attended = torch.empty_like(query, memory_format=torch.contiguous_format)
        blocks, made = _blocks(len(query)), []
        for block in blocks:
            made.append(_weights(_grouped(query[block], len(keys)), keys[:, : block.stop], block))
            _ungroup(torch.bmm(made[-1], values[:, : block.stop]), attended[block])
        ctx.save_for_backward(query, keys, value, *made)
        return attended.flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, keys, value, *made = ctx.saved_tensors
        values = value.transpose(0, 1)
        of_keys, of_values = (torch.zeros(keys.shape, dtype=torch.float32) for _ in range(2))
        of_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grads = grad.view(query.shape)
        for block, weights in zip(_blocks(len(query)), made, strict=True):
            seen = slice(block.stop)
            asked, given = (_grouped(each[block], len(keys)) for each in (query, grads))
            _add_products(of_values[:, seen], weights.mT, given)
            of_weights = torch.bmm(given, values[:, seen].mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # noqa: SLF001
            _add_products(of_keys[:, seen], of_scores.mT, asked)
            _ungroup(torch.bmm(of_scores, keys[:, seen]), of_query[block])
        of_key = (of_keys * query.shape[-1] ** -0.5).to(value.dtype).transpose(0, 1)
        return of_query, of_key, of_values.to(value.dtype).transpose(0, 1)


def _scaled(key: torch.Tensor) -> torch.Tensor:
    """Keys (L, groups, E) as (groups, L, E), with the scale of the scores in them."""
    scaled: torch.Tensor = key.transpose(0, 1) * key.shape[-1] ** -0.5
    return scaled


def _blocks(length: int) -> list[slice]:
    """Queries that go together, as evenly as it can be."""
    size = -(-length // max(1, round(length / BLOCK)))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _grouped(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """(block, heads, E) as (groups, heads / groups * block, E)."""
    return rows.view(len(rows), groups, -1, rows.shape[-1]).permute(1, 2, 0, 3).flatten(1, 2)


def _ungroup(grouped: torch.Tensor, rows: torch.Tensor) -> None:
    """The inverse, into `rows`."""
    each = rows.view(len(rows), len(grouped), -1, rows.shape[-1]).permute(1, 2, 0, 3)
    each.copy_(grouped.view(each.shape))


def _weights(asked: torch.Tensor, keys: torch.Tensor, block: slice) -> torch.Tensor:
    """What the queries of a block give each key up to their own: (groups, heads / groups * block, stop)."""
    scores = torch.bmm(asked, keys.mT)
    size = block.stop - block.start
    own = scores.view(len(scores), -1, size, block.stop)[..., block.start :]
    own += torch.full((size, size), float("-inf"), dtype=scores.dtype).triu_(1)
    return torch.softmax(scores, -1)


def _add_products(totals: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left @ right, each (groups, ...), to float32 totals."""
    if left.dtype is torch.float32:
        totals.baddbmm_(left, right)
    else:
        totals += torch.bmm(left, right)
