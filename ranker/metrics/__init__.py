"""Metrics as pure functions: (references, candidates) to a value and its per-item parts."""

from ranker.metrics.average_precision import left_out_average_precisions
from ranker.metrics.caption import computed_name, parse_name
from ranker.metrics.caption_models import CaptionModels, caption_models
from ranker.metrics.registry import blind_answer, blind_value, evaluate, reweighted, reweighted_all
from ranker.metrics.table import Predictions, read_predictions
from ranker.metrics.values import MetricResult, Pair

__all__ = [
    "CaptionModels",
    "MetricResult",
    "Pair",
    "Predictions",
    "blind_answer",
    "blind_value",
    "caption_models",
    "computed_name",
    "evaluate",
    "left_out_average_precisions",
    "parse_name",
    "read_predictions",
    "reweighted",
    "reweighted_all",
]
