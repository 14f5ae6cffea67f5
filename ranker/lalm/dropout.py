"""What LoRA's dropout leaves out in training: a function of a seed, by a generator that costs little."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ranker.lalm.layouts import Arrangement

_STEPS = 1 << 24  # rates are rounded to so many steps


@dataclass(kw_only=True)
class Dropout:
    """Independent masks of rate `rate` over the `count` rows of a packed batch, drawn from `generator` (None: torch's).

    torch draws a mask element by element, which on a CPU takes as long as half of the layers' products. So there each
    element takes a byte of numpy's SFC64, which is seeded from `generator`, and two more where that byte leaves it
    open: an event of rate 0.1 is decided by the first byte in 255 of 256 cases.
    """

    rate: float
    count: int
    device: torch.device
    generator: torch.Generator | None = None

    def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
        """1 (T, width), as bytes, where an input is kept, else 0; of these `rows` only, if given; None if all are."""
        if not self.rate:
            return None
        count = self.count if rows is None else len(rows)
        if self.device.type != "cpu":
            kept = torch.empty((count, width), dtype=torch.uint8, device=self.device)
            return kept.bernoulli_(1.0 - self.rate, generator=self.generator)
        return torch.from_numpy(self._drawn(count * width)).view(count, width)

    def _drawn(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """That many zeros and ones."""
        limit = round(self.rate * _STEPS)
        first = self._bits.random_raw(-(-count // 8)).view(np.uint8)[:count]
        kept = first > limit >> 16
        (open_,) = np.nonzero(first == limit >> 16)
        rest = self._bits.random_raw(-(-len(open_) // 4)).view(np.uint16)[: len(open_)]
        kept[open_] = rest >= limit & 0xFFFF
        return kept.view(np.uint8)

    @cached_property
    def _bits(self) -> np.random.SFC64:
        return np.random.SFC64(int(torch.randint(1 << 62, (), generator=self.generator)))


@dataclass(frozen=True, kw_only=True)
class PaddedDropout:
    """The masks that torch draws over the padded batch of an arrangement, as XARES-LLM has them."""

    rate: float
    arrangement: Arrangement
    device: torch.device
    generator: torch.Generator | None = None

    def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
        """1 (T, width), as bytes, where an input is kept, else 0; of these `rows` only, if given; None if all are."""
        if not self.rate:
            return None
        columns, padded = self.arrangement.columns, self.arrangement.width
        kept = torch.empty((len(columns), padded, width), device=self.device)
        kept.bernoulli_(1.0 - self.rate, generator=self.generator)
        places = torch.from_numpy(np.concatenate([row * padded + column for row, column in enumerate(columns)]))
        places = places.to(self.device)
        return kept.view(-1, width)[places if rows is None else places[rows]].to(torch.uint8)
