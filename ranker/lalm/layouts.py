"""Where audio, text and padding stand in a training batch.

Positions are columns in both layouts; they differ in what a clip's columns depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ranker.types import Layout


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """A batch as the decoder takes it.

    `embedded` is (B, S, H). `attention_mask` is (B, S) with 1 on what may be attended to; None where a causal decoder
    cannot see padding anyway. `ends` has each row's first column after its text.
    """

    embedded: torch.Tensor
    attention_mask: torch.Tensor | None
    ends: tuple[int, ...]


def arrange(layout: Layout, audio: Sequence[torch.Tensor], text: Sequence[torch.Tensor]) -> Arrangement:
    """Lay out a batch of embedded audio [(T'_i, H)] and embedded text, prompt and target [(L_i, H)]."""
    return _arranged[layout](audio, text)


def _padded_at_the_end(audio: Sequence[torch.Tensor], text: Sequence[torch.Tensor]) -> Arrangement:
    """audio, text, padding: each row's positions are those it has alone, and those of generation."""
    rows = [torch.cat(row) for row in zip(audio, text, strict=True)]
    return Arrangement(
        embedded=pad_sequence(rows, batch_first=True), attention_mask=None, ends=tuple(len(row) for row in rows)
    )


def _padded_in_the_middle(audio: Sequence[torch.Tensor], text: Sequence[torch.Tensor]) -> Arrangement:
    """audio, padding, text, padding, as XARES-LLM has it: all texts of a batch start in one column.

    Padding is not attended to, but counts in the positions of what follows it.
    """
    start = max(len(row) for row in audio)
    embedded = torch.cat([pad_sequence(list(audio), batch_first=True), pad_sequence(list(text), batch_first=True)], 1)
    column = torch.arange(embedded.shape[1], device=embedded.device)
    frames, tokens = (
        torch.tensor([len(row) for row in rows], device=embedded.device)[:, None] for rows in (audio, text)
    )
    attended = (column < frames) | ((column >= start) & (column < start + tokens))
    return Arrangement(embedded=embedded, attention_mask=attended.long(), ends=tuple(start + len(row) for row in text))


_arranged = {Layout.RANKER: _padded_at_the_end, Layout.XARES_LLM: _padded_in_the_middle}
