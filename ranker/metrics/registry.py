"""From a metric's name to its computation; and the floor that a listening encoder must beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ranker.errors import OrganizerError
from ranker.metrics.accuracy import accuracy
from ranker.metrics.average_precision import (
    mean_average_precision,
    reweighted_average_precision,
    reweighted_average_precisions,
)
from ranker.metrics.caption import caption_score, caption_weights, reweighted_caption_score
from ranker.metrics.caption_models import CaptionModels
from ranker.metrics.error_rate import inverse_character_error_rate, inverse_word_error_rate, reweighted_inverse_rate
from ranker.metrics.values import FloatArray, MetricResult, Pair, weighted_mean, weighted_means
from ranker.types import MetricName


def evaluate(
    metric: MetricName,
    pairs: Sequence[Pair],
    *,
    num_classes: int | None = None,
    models: CaptionModels | None = None,
) -> MetricResult:
    """Score candidates against references.

    `num_classes` goes with mAP, and `models` with the metrics of captions (see `caption_models`). Raises OrganizerError
    where one of these is missing, where there are no pairs or where they do not fit the metric.
    """
    if not pairs:
        raise OrganizerError(f"{metric} was asked for without a single test pair; check the task's test shards")
    match metric:
        case MetricName.ACCURACY:
            return accuracy(pairs)
        case MetricName.MAP:
            return mean_average_precision(pairs, _columns(num_classes))
        case MetricName.IWER:
            return inverse_word_error_rate(pairs)
        case MetricName.ICER:
            return inverse_character_error_rate(pairs)
        case MetricName.FENSE | MetricName.FENSE_CLIP | MetricName.DATE | MetricName.DATE_CLIP:
            if models is None:
                raise OrganizerError(f"{metric} was asked for without language models; see caption_models")
            return caption_score(metric, pairs, models)


def reweighted(
    metric: MetricName, items: pd.DataFrame, weights: FloatArray, *, num_classes: int | None = None
) -> FloatArray:
    """The metric's value under B weightings of its N items, for the bootstrap.

    items: (N rows) as `evaluate` gave them. weights: (B, N), how often each item is drawn. Returns (B,). Weights of
    one give the value that `evaluate` gave, up to rounding. DATE is conditional on the whole set: its items are held.
    Raises as `evaluate`.
    """
    match metric:
        case MetricName.ACCURACY:
            return weighted_mean(items, weights)
        case MetricName.FENSE | MetricName.FENSE_CLIP | MetricName.DATE | MetricName.DATE_CLIP:
            return reweighted_caption_score(metric, items, weights)
        case MetricName.MAP:
            return reweighted_average_precision(items, weights, _columns(num_classes))
        case MetricName.IWER | MetricName.ICER:
            return reweighted_inverse_rate(items, weights)


def reweighted_all(
    metric: MetricName, tables: Sequence[pd.DataFrame], weights: FloatArray, *, num_classes: int | None = None
) -> FloatArray:
    """`reweighted` of S tables that have the same clips and references in the same rows, in one go: (S, B)."""
    match metric:
        case MetricName.ACCURACY:
            return weighted_means(tables, weights)
        case MetricName.FENSE | MetricName.FENSE_CLIP | MetricName.DATE | MetricName.DATE_CLIP:
            return weighted_means(tables, caption_weights(metric, tables[0], weights))
        case MetricName.MAP:
            return reweighted_average_precisions(tables, weights, _columns(num_classes))
        case MetricName.IWER | MetricName.ICER:
            return np.stack([reweighted_inverse_rate(table, weights) for table in tables])


def blind_answer(training_references: Iterable[str]) -> str:
    """The commonest training answer; of equally common ones the first by text. Raises OrganizerError without any."""
    counts = Counter(training_references)
    if not counts:
        raise OrganizerError("the commonest training answer was asked for, but there are no training references")
    return min(counts, key=lambda text: (-counts[text], text))


def blind_value(
    metric: MetricName,
    pairs: Sequence[Pair],
    answer: str,
    *,
    num_classes: int | None = None,
    models: CaptionModels | None = None,
) -> float:
    """The metric's value if every test clip of `pairs` were given the one `answer` (see `blind_answer`)."""
    deaf = [Pair(clip=pair.clip, reference=pair.reference, candidate=answer) for pair in pairs]
    return evaluate(metric, deaf, num_classes=num_classes, models=models).value


def _columns(num_classes: int | None) -> int:
    if num_classes is None:
        raise OrganizerError("mAP was asked for without num_classes; the task's configuration must give it")
    return num_classes
