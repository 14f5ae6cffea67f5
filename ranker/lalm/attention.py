"""Causal attention within each of several sequences that stand one after another in one matrix.

Three ways to the same numbers, each the fastest somewhere. Shapes: queries (T, heads, E); keys and values (T, groups,
E), each of which serves heads / groups heads, as neighbours; the result is (T, heads E).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

BLOCK = 256  # queries together: few enough that what lies after them, and is computed in vain, is little


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The way for this device and dtype: sequences of these `lengths`."""
    if query.device.type != "cpu":
        return attend_padded(query, key, value, lengths)
    if query.dtype is torch.bfloat16:
        return attend_by_products(query, key, value, lengths)
    return attend_in_turn(query, key, value, lengths)


def attend_in_turn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """By torch's own function, sequence by sequence: nothing is padded."""
    found = []
    for parts in zip(*(_cut(each, lengths) for each in (query, key, value)), strict=True):
        one, those, their = (part.transpose(0, 1)[None] for part in parts)  # (1, heads, L, E)
        attended = functional.scaled_dot_product_attention(one, those, their, is_causal=True, enable_gqa=True)
        found.append(attended[0].transpose(0, 1).flatten(1))
    return found[0] if len(found) == 1 else torch.cat(found)


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
    """By matrix products, block by block: in bfloat16 on a CPU these are twice as fast as torch's own function, whose
    kernel gains nothing there from the smaller numbers. Weights are normalised in float32 and kept in the dtype.
    """
    found = [
        _Products.apply(*parts)  # type: ignore[no-untyped-call]
        for parts in zip(*(_cut(each, lengths) for each in (query, key, value)), strict=True)
    ]
    return found[0] if len(found) == 1 else torch.cat(found)


def _cut(rows: torch.Tensor, lengths: Sequence[int]) -> list[torch.Tensor]:
    return list(torch.split(rows, list(lengths)))


class _Products(torch.autograd.Function):
    """One sequence: (L, heads, E) and twice (L, groups, E) to (L, heads E). Only its inputs are kept for backward."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        keys, values = key.transpose(0, 1), value.transpose(0, 1)  # (groups, L, E)
        attended = [
            _ungrouped(torch.bmm(_weights(asked, keys, start, stop), values[:, :stop]), stop - start)
            for start, stop, asked in _blocks(query, len(keys))
        ]
        return torch.cat(attended).flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = ctx.saved_tensors
        keys, values = key.transpose(0, 1), value.transpose(0, 1)
        of_keys, of_values = (torch.zeros(keys.shape, dtype=torch.float32) for _ in range(2))
        of_query = []
        grads = _blocks(grad.view(query.shape), len(keys), scaled=False)
        for (start, stop, asked), (_, _, given) in zip(_blocks(query, len(keys)), grads, strict=True):
            weights = _weights(asked, keys, start, stop)
            of_values[:, :stop] += torch.bmm(weights.mT, given)
            of_weights = torch.bmm(given, values[:, :stop].mT)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)  # noqa: SLF001
            of_keys[:, :stop] += torch.bmm(of_scores.mT, asked)
            of_query.append(_ungrouped(torch.bmm(of_scores, keys[:, :stop]), stop - start))
        of_key, of_value = (each.to(key.dtype).transpose(0, 1) for each in (of_keys, of_values))
        return torch.cat(of_query).mul_(_scale(query)), of_key, of_value


def _scale(query: torch.Tensor) -> float:
    return float(query.shape[-1] ** -0.5)


def _blocks(query: torch.Tensor, groups: int, *, scaled: bool = True) -> list[tuple[int, int, torch.Tensor]]:
    """(first, end, rows) of each block; rows (groups, heads / groups * block, E) stand head by head."""
    made = []
    for start in range(0, len(query), BLOCK):
        block = query[start : start + BLOCK]
        rows = block.view(len(block), groups, -1, block.shape[-1]).permute(1, 2, 0, 3).flatten(1, 2)
        made.append((start, start + len(block), rows * _scale(query) if scaled else rows))
    return made


def _ungrouped(rows: torch.Tensor, block: int) -> torch.Tensor:
    """The inverse of what `_blocks` does to the rows of one: (block, heads, E)."""
    return rows.view(len(rows), -1, block, rows.shape[-1]).permute(2, 0, 1, 3).flatten(1, 2)


def _weights(asked: torch.Tensor, keys: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """What the queries `start` to `stop` give each key up to their own: (groups, heads / groups * block, stop)."""
    scores = torch.bmm(asked, keys[:, :stop].mT)
    own = scores.view(len(scores), -1, stop - start, stop)[..., start:]
    own += torch.full((stop - start, stop - start), float("-inf"), dtype=scores.dtype).triu_(1)
    return torch.softmax(scores, -1)
