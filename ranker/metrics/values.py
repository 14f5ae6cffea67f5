"""What metrics take and give: pairs of texts in, a value with its per-item parts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One scored test pair. A clip with several references gives several pairs with the same candidate."""

    clip: str
    reference: str
    candidate: str


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A metric's value over all pairs, and what it was made of.

    `name` says what was computed (`FENSE[minilm]` where a substitute model was used). `items` has one row per pair, in
    the pairs' order: clip, reference and candidate as they came, and `item`, the pair's own score, as a rule between 0
    (bad) and 1 (good). For error rates `edits` and `reference_length` (words or characters) come on top, since their
    value is no mean of items; for captions what an item is made of. `items` is all that `ranker.metrics.reweighted`
    needs to compute the value again.
    """

    name: str
    value: float
    items: pd.DataFrame


def item_table(pairs: Sequence[Pair], **columns: Sequence[float] | FloatArray) -> pd.DataFrame:
    """The table of `MetricResult.items`: one row per pair, with the given columns after the texts."""
    texts = {
        "clip": [pair.clip for pair in pairs],
        "reference": [pair.reference for pair in pairs],
        "candidate": [pair.candidate for pair in pairs],
    }
    return pd.DataFrame(texts | columns)


def weighted_mean(items: pd.DataFrame, weights: FloatArray) -> FloatArray:
    """Mean of the column `item` under each row of `weights` (B, N); returns (B,)."""
    scores = items["item"].to_numpy(dtype=np.float64)
    means: FloatArray = weights @ scores / weights.sum(axis=1)
    return means


def weighted_means(tables: Sequence[pd.DataFrame], weights: FloatArray) -> FloatArray:
    """`weighted_mean` of S tables with the same rows, in one product of matrices: (S, B)."""
    scores = np.stack([table["item"].to_numpy(dtype=np.float64) for table in tables], axis=1)  # (N, S)
    means: FloatArray = (weights @ scores / weights.sum(axis=1, keepdims=True)).T
    return means
