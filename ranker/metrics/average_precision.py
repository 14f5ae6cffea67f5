"""mAP over answers that list labels: macro average precision of 0/1 predictions (docs/protocol.md, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranker.errors import OrganizerError
from ranker.metrics.normalize import split_labels
from ranker.metrics.values import FloatArray, MetricResult, Pair, item_table
from ranker.types import MetricName


def mean_average_precision(pairs: Sequence[Pair], num_classes: int) -> MetricResult:
    """scikit-learn's average precision per class, averaged over `num_classes` columns.

    Classes are the labels seen in the references; predicted labels that are none of them are dropped. A column that no
    reference uses has an average precision of 0, as scikit-learn gives it, and counts in the mean. An item is the F1
    of the two label sets, to read by: the value is no mean of items. Raises OrganizerError where the references hold
    no label, or more labels than `num_classes`.
    """
    from sklearn.metrics import average_precision_score

    truth, predicted = _matrices([pair.reference for pair in pairs], [pair.candidate for pair in pairs], num_classes)
    seen = np.atleast_1d(average_precision_score(truth, predicted, average=None))
    scores = [_f1(split_labels(pair.reference), split_labels(pair.candidate)) for pair in pairs]
    return MetricResult(
        name=MetricName.MAP, value=float(seen.sum()) / num_classes, items=item_table(pairs, item=scores)
    )


def reweighted_average_precision(items: pd.DataFrame, weights: FloatArray, num_classes: int) -> FloatArray:
    """The value under each row of `weights` (B, N) over the items; returns (B,).

    A 0/1 prediction has two thresholds, so with n the total weight, p that of the class's positives, k that of its
    predictions and t that of the true ones among these, AP = t/p * t/k + (1 - t/p) * p/n: scikit-learn's step-wise sum
    in closed form. A class whose positives all have weight 0 was not measured by this draw: it gets the mean of the
    classes that were, not 0, or every interval would lie too low.
    """
    values: FloatArray = reweighted_average_precisions([items], weights, num_classes)[0]
    return values


def reweighted_average_precisions(tables: Sequence[pd.DataFrame], weights: FloatArray, num_classes: int) -> FloatArray:
    """`reweighted_average_precision` of S tables with the same references in the same rows: (S, B)."""
    truth, index = _truth(list(tables[0]["reference"]), num_classes)
    positive, total = weights @ truth, weights.sum(axis=1)  # (B, classes), (B,)
    values = np.empty((len(tables), len(weights)))
    for row, table in enumerate(tables):
        predicted = _indicator([split_labels(text) for text in table["candidate"]], index)
        values[row] = _macro(positive, weights @ predicted, weights @ (truth * predicted), total, num_classes)
    return values


def left_out_average_precisions(
    tables: Sequence[pd.DataFrame], units: npt.NDArray[np.int64], count: int, num_classes: int
) -> FloatArray:
    """The values of S tables without each of `count` units, of which `units` (N,) says to which a row belongs: (S, U).

    What a jackknife needs. A class whose positives are all in the unit left out is treated as in a draw without them.
    """
    truth, index = _truth(list(tables[0]["reference"]), num_classes)

    def without(columns: FloatArray) -> FloatArray:
        own = np.zeros((count, columns.shape[1]))
        np.add.at(own, units, columns)
        return np.asarray(columns.sum(axis=0) - own)

    positive = without(truth)  # (U, classes)
    total = len(units) - np.bincount(units, minlength=count).astype(np.float64)
    values = np.empty((len(tables), count))
    for row, table in enumerate(tables):
        predicted = _indicator([split_labels(text) for text in table["candidate"]], index)
        values[row] = _macro(positive, without(predicted), without(truth * predicted), total, num_classes)
    return values


def _macro(
    positive: FloatArray, called: FloatArray, both: FloatArray, total: FloatArray, num_classes: int
) -> FloatArray:
    """Mean average precision (B,) from weights (B, classes) of what is true, was predicted, and is both; of all: (B,).

    Classes without positives take the mean of the others; those that no reference ever uses count as 0.
    """
    measured = positive > 0
    prevalence = positive / total[:, None]
    share = positive.shape[1] / num_classes / np.maximum(measured.sum(axis=1), 1)  # (B,)
    recall = np.divide(both, positive, out=np.zeros_like(both), where=measured)
    precision = np.divide(both, called, out=np.zeros_like(both), where=called > 0)
    scores = np.where(measured, recall * precision + (1 - recall) * prevalence, 0.0)
    return np.asarray(scores.sum(axis=1) * share)


def _matrices(references: Sequence[str], candidates: Sequence[str], num_classes: int) -> tuple[FloatArray, FloatArray]:
    """0/1 matrices (pairs, classes seen in the references) of what is true and what was predicted."""
    truth, index = _truth(references, num_classes)
    return truth, _indicator([split_labels(text) for text in candidates], index)


def _truth(references: Sequence[str], num_classes: int) -> tuple[FloatArray, dict[str, int]]:
    """0/1 matrix (pairs, classes) of what is true, and each class's column."""
    true_labels = [split_labels(text) for text in references]
    classes = sorted(frozenset().union(*true_labels))
    if not classes:
        raise OrganizerError(f"mAP needs labels, but none of the {len(references)} references holds one; check the key")
    if len(classes) > num_classes:
        raise OrganizerError(
            f"the references hold {len(classes)} different labels, but the task's num_classes is {num_classes}"
        )
    index = {label: column for column, label in enumerate(classes)}
    return _indicator(true_labels, index), index


def _indicator(labels: Sequence[frozenset[str]], index: dict[str, int]) -> npt.NDArray[np.float64]:
    matrix = np.zeros((len(labels), len(index)))
    for row, names in enumerate(labels):
        matrix[row, [index[name] for name in names if name in index]] = 1.0
    return matrix


def _f1(reference: frozenset[str], candidate: frozenset[str]) -> float:
    size = len(reference) + len(candidate)
    return 2 * len(reference & candidate) / size if size else 1.0
