"""iWER and iCER: one minus the word or character error rate of the whole test set, never below zero. Edits by jiwer."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np
import pandas as pd

from ranker.errors import OrganizerError
from ranker.metrics.normalize import normalize
from ranker.metrics.values import FloatArray, MetricResult, Pair, item_table
from ranker.types import MetricName


def inverse_word_error_rate(pairs: Sequence[Pair]) -> MetricResult:
    """max(0, 1 - WER), WER = all edits / all reference words. Raises OrganizerError where no reference has a word."""
    references, candidates = _texts(pairs, MetricName.IWER)
    output = jiwer.process_words(references, candidates)
    return _result(MetricName.IWER, pairs, output, output.wer)


def inverse_character_error_rate(pairs: Sequence[Pair]) -> MetricResult:
    """max(0, 1 - CER), CER = all edits / all reference characters, inner spaces counted. Raises like the other."""
    references, candidates = _texts(pairs, MetricName.ICER)
    output = jiwer.process_characters(references, candidates)
    return _result(MetricName.ICER, pairs, output, output.cer)


def reweighted_inverse_rate(items: pd.DataFrame, weights: FloatArray) -> FloatArray:
    """The value under each row of `weights` (B, N) over the items; returns (B,). Sums, then divides and clips."""
    edits = weights @ items["edits"].to_numpy(dtype=np.float64)
    length = weights @ items["reference_length"].to_numpy(dtype=np.float64)
    return _clipped(edits, length)


def _texts(pairs: Sequence[Pair], name: MetricName) -> tuple[list[str], list[str]]:
    references = [normalize(pair.reference) for pair in pairs]
    if not any(references):
        raise OrganizerError(
            f"{name} divides by the length of the references, but all {len(pairs)} are empty after normalisation; "
            "check the task's key and its shards"
        )
    return references, [normalize(pair.candidate) for pair in pairs]


def _result(
    name: MetricName, pairs: Sequence[Pair], output: jiwer.WordOutput | jiwer.CharacterOutput, rate: float
) -> MetricResult:
    edits = np.array([sum(map(_edits, chunks)) for chunks in output.alignments], dtype=np.float64)
    length = np.array([len(units) for units in output.references], dtype=np.float64)
    items = item_table(pairs, item=_clipped(edits, length), edits=edits, reference_length=length)
    return MetricResult(name=name, value=max(0.0, 1.0 - rate), items=items)


def _edits(chunk: jiwer.AlignmentChunk) -> int:
    """Edits of one run of an alignment: a substitution counts once, so the longer of its two sides."""
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def _clipped(edits: FloatArray, length: FloatArray) -> FloatArray:
    """max(0, 1 - edits / length) element-wise; where the length is 0: 1 without edits, else 0."""
    rates = np.divide(edits, length, out=(edits > 0).astype(np.float64), where=length > 0)
    inverse: FloatArray = np.maximum(0.0, 1.0 - rates)
    return inverse
