"""Accuracy: the share of candidates that equal their reference after normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from ranker.metrics.normalize import normalize
from ranker.metrics.values import MetricResult, Pair, item_table
from ranker.types import MetricName


def accuracy(pairs: Sequence[Pair]) -> MetricResult:
    """Exact string match over pairs; an item is 1.0 or 0.0."""
    hits = [float(normalize(pair.reference) == normalize(pair.candidate)) for pair in pairs]
    return MetricResult(name=MetricName.ACCURACY, value=sum(hits) / len(hits), items=item_table(pairs, item=hits))
