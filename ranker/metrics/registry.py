"""From a metric's name to its computation; and the floor that a listening encoder must beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from ranker.errors import MissingError, OrganizerError
from ranker.metrics.accuracy import accuracy
from ranker.metrics.average_precision import mean_average_precision, reweighted_average_precision
from ranker.metrics.caption import CaptionModels, caption_models, fense
from ranker.metrics.error_rate import inverse_character_error_rate, inverse_word_error_rate, reweighted_inverse_rate
from ranker.metrics.values import FloatArray, MetricResult, Pair, weighted_mean
from ranker.types import MetricName


def evaluate(
    metric: MetricName,
    pairs: Sequence[Pair],
    *,
    num_classes: int | None = None,
    models: CaptionModels | None = None,
) -> MetricResult:
    """Score candidates against references.

    `num_classes` goes with mAP; `models` with FENSE (None: what `caption_models` finds). Raises OrganizerError where
    there are no pairs or the references do not fit the metric, MissingError where a metric's models are not there.
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
        case MetricName.FENSE:
            return fense(pairs, models or caption_models())
        case MetricName.DATE:
            raise MissingError(_NO_DATE)


def reweighted(
    metric: MetricName, items: pd.DataFrame, weights: FloatArray, *, num_classes: int | None = None
) -> FloatArray:
    """The metric's value under B weightings of its N items, for the bootstrap.

    items: (N rows) as `evaluate` gave them. weights: (B, N), how often each item is drawn. Returns (B,). Weights of
    one give the value that `evaluate` gave, up to rounding. Raises as `evaluate`.
    """
    match metric:
        case MetricName.ACCURACY | MetricName.FENSE:
            return weighted_mean(items, weights)
        case MetricName.MAP:
            return reweighted_average_precision(items, weights, _columns(num_classes))
        case MetricName.IWER | MetricName.ICER:
            return reweighted_inverse_rate(items, weights)
        case MetricName.DATE:
            raise MissingError(_NO_DATE)


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


_NO_DATE = (
    "the metric DATE cannot be computed yet: its reference models are not part of this version of ranker; "
    "switch the task off (`enabled: false`) or give it the metric FENSE"
)


def _columns(num_classes: int | None) -> int:
    if num_classes is None:
        raise OrganizerError("mAP was asked for without num_classes; the task's configuration must give it")
    return num_classes
