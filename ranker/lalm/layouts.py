"""Where audio and text of a training batch stand: the positions that the decoder counts.

Padding is not computed, since it cannot be attended to; but in one of the two layouts it counts. Positions are columns
of the padded batch in both layouts; they differ in what a clip's columns depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranker.types import Layout


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The columns of each row's frames and tokens, in their order, in a batch of `width` columns."""

    columns: tuple[np.ndarray, ...]
    width: int


def arrange(layout: Layout, frames: Sequence[int], tokens: Sequence[int]) -> Arrangement:
    """Lay out a batch whose rows have so many frames, and so many tokens of prompt and target after them."""
    return _arranged[layout](frames, tokens)


def _padded_at_the_end(frames: Sequence[int], tokens: Sequence[int]) -> Arrangement:
    """audio, text, padding: each row's positions are those it has alone, and those of generation."""
    lengths = [sum(row) for row in zip(frames, tokens, strict=True)]
    return Arrangement(columns=tuple(map(np.arange, lengths)), width=max(lengths))


def _padded_in_the_middle(frames: Sequence[int], tokens: Sequence[int]) -> Arrangement:
    """audio, padding, text, padding, as XARES-LLM has it: all texts of a batch start in one column.

    Padding is not attended to, but counts in the positions of what follows it.
    """
    start = max(frames)
    columns = [
        np.concatenate([np.arange(heard), np.arange(start, start + read)])
        for heard, read in zip(frames, tokens, strict=True)
    ]
    return Arrangement(columns=tuple(columns), width=start + max(tokens))


_arranged = {Layout.RANKER: _padded_at_the_end, Layout.XARES_LLM: _padded_in_the_middle}
