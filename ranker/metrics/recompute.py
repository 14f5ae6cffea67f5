"""A metric of predictions in a file: so that anyone can compute a published score again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.errors import OrganizerError, UsageError
from ranker.metrics.caption import parse_name
from ranker.metrics.caption_models import caption_models
from ranker.metrics.registry import evaluate
from ranker.metrics.table import read_predictions
from ranker.types import MetricName


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """`metric` is the name as computed; `models` the set of language models and its digest, where there is one."""

    metric: str
    value: float
    pairs: int
    clips: int
    models: tuple[str, str] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; the value in full precision."""
        models = None if self.models is None else {"name": self.models[0], "digest": self.models[1]}
        return {
            "metric": self.metric,
            "value": self.value,
            "pairs": self.pairs,
            "clips": self.clips,
            "models": models,
            "notes": list(self.notes),
        }


def recompute(name: str, path: Path, arguments: Mapping[str, str]) -> Recomputed:
    """The metric called `name` (as computed: `FENSE[minilm]`) of a file of predictions.

    Raises UsageError for a wrong name, argument or file, MissingError where the metric's models are not there.
    """
    metric, which = parse_name(name)
    num_classes = _num_classes(metric, arguments)
    predictions = read_predictions(path)
    models = caption_models(which) if metric.is_caption else None
    try:
        result = evaluate(metric, predictions.pairs, num_classes=num_classes, models=models)
    except OrganizerError as error:  # of a benchmark's own data it would be our fault; here it is the file's
        if models is not None:  # or that of the models' files
            raise
        raise UsageError(f"{path}: {error}") from None
    return Recomputed(
        metric=result.name,
        value=result.value,
        pairs=len(predictions.pairs),
        clips=predictions.clips,
        models=None if models is None else (models.name.value, models.digest),
        notes=predictions.notes,
    )


def _num_classes(metric: MetricName, arguments: Mapping[str, str]) -> int | None:
    """The one argument that a metric has; mAP needs it."""
    wanted = {"num_classes"} if metric is MetricName.MAP else set()
    wrong = sorted(set(arguments) - wanted)
    if wrong:
        takes = "num_classes only" if wanted else "no argument"
        raise UsageError(f"{metric} takes {takes}; found {', '.join(wrong)}")
    if not wanted:
        return None
    if "num_classes" not in arguments:
        raise UsageError(
            "mAP needs the number of classes that it is the mean over (a task's num_classes): --arg num_classes=41"
        )
    text = arguments["num_classes"]
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"num_classes must be a whole number of at least 1, not {text!r}")
    return int(text)
