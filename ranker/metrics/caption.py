"""FENSE and DATE: how close a caption's meaning is to its reference's; for DATE, closer than to other clips' too.

FENSE: Zhou et al. 2022. DATE and its constants: the package mecat 1.1.0. Both are computed over pairs of one candidate
and one reference, or, as `FENSE[clip]` and `DATE[clip]`, over clips, whose references' embeddings are averaged. What is
made with other models than the reference implementation's says so in its name: `FENSE[minilm]`, `DATE[clip,minilm]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranker.errors import OrganizerError, UsageError
from ranker.metrics.caption_models import CaptionModels
from ranker.metrics.normalize import normalize
from ranker.metrics.sentence import Floats32, SentenceModel
from ranker.metrics.soft_frequency import word_weights
from ranker.metrics.values import FloatArray, MetricResult, Pair, item_table, weighted_mean
from ranker.types import MetricModels, MetricName

DELTA = 0.1703
"""d of DATE for long captions: references this near (half of it to either side) are not told apart."""

_EPSILON = 1e-8
_VALUES_AT_ONCE = 8_000_000  # 64 MB of float64
_PER_CLIP = {MetricName.FENSE_CLIP, MetricName.DATE_CLIP}


def parse_name(text: str) -> tuple[MetricName, MetricModels]:
    """The metric and its models that a name as computed stands for: the inverse of `computed_name`, in any case.

    Raises UsageError, naming all that there are.
    """
    known = {metric.value: (metric, MetricModels.REFERENCE) for metric in MetricName} | {
        computed_name(metric, models): (metric, models)
        for metric in MetricName
        for models in MetricModels
        if metric.is_caption
    }
    folded = "".join(text.split()).lower()
    for name, found in known.items():
        if name.lower() == folded:
            return found
    raise UsageError(f"there is no metric {text!r}; there are {', '.join(sorted(known))}")


@dataclass(frozen=True, kw_only=True)
class _Items:
    """What is scored: N candidates, and for each of R references the candidate (its row) that it belongs to."""

    candidates: list[str]
    references: list[str]
    owner: npt.NDArray[np.int64]  # (R,)


def caption_score(metric: MetricName, pairs: Sequence[Pair], models: CaptionModels) -> MetricResult:
    """FENSE or DATE, over pairs or over clips as the metric's name says; the value is the mean over those.

    Items: one row per pair, with `item`, its pair's or its clip's score, and what that is made of. An item of FENSE is
    between -1 and 1. One of DATE is between 0 and 1 where its similarity is positive, and may be anything where it is
    negative, as the definition has it. Raises OrganizerError where a clip has two candidates.
    """
    items = _by_clip(pairs) if metric in _PER_CLIP else _by_pair(pairs)
    factors = np.ones(len(items.candidates)) if models.checker is None else models.checker.factors(items.candidates)
    weighted = metric in {MetricName.DATE, MetricName.DATE_CLIP}
    candidates = _embeddings(models.sentence, items.candidates, weighted=weighted)  # (N, D)
    references = _means(_embeddings(models.sentence, items.references, weighted=weighted), items.owner)  # (N, D)
    similarity = factors * np.einsum("nd,nd->n", candidates, references)
    columns = {"fluency": factors}
    scores = similarity
    if weighted:
        rank = discrimination(candidates * factors[:, None], references, similarity)
        scores = 2 * similarity * rank / (similarity + rank + _EPSILON)
        columns |= {"similarity": similarity, "discrimination": rank}
    table = item_table(pairs, item=scores[items.owner], **{name: each[items.owner] for name, each in columns.items()})
    return MetricResult(name=computed_name(metric, models.name), value=float(scores.mean()), items=table)


def reweighted_caption_score(metric: MetricName, items: pd.DataFrame, weights: FloatArray) -> FloatArray:
    """The mean of items under each row of `weights` (B, N); over clips, a clip counts once, not once per reference.

    For DATE this holds the items as they are: each depends on which other clips are in the set, and is not computed
    again for another draw of them.
    """
    return weighted_mean(items, caption_weights(metric, items, weights))


def caption_weights(metric: MetricName, items: pd.DataFrame, weights: FloatArray) -> FloatArray:
    """What each item counts under each row of `weights` (B, N)."""
    if metric not in _PER_CLIP:
        return weights
    shared: FloatArray = weights / items.groupby("clip")["clip"].transform("size").to_numpy(dtype=np.float64)
    return shared


def discrimination(candidates: FloatArray, references: FloatArray, own: FloatArray) -> FloatArray:
    """R of DATE: the share of references that are clearly less similar to a candidate than its own one is; (N,).

    candidates: (N, D), penalty included; references: (N, D); own: (N,), the similarity of each candidate to its own.
    R_i = 1 - #{j : M_ij >= own_i - DELTA / 2} / N, where only some rows of M = candidates @ references^T exist at a
    time.
    """
    count = len(candidates)
    shares = np.empty(count)
    rows = max(1, _VALUES_AT_ONCE // count)
    for start in range(0, count, rows):
        here = slice(start, start + rows)
        near = candidates[here] @ references.T >= (own[here] - DELTA / 2)[:, None]  # (rows, N)
        shares[here] = 1 - near.sum(axis=1) / count
    return shares


def _embeddings(model: SentenceModel, texts: Sequence[str], *, weighted: bool) -> FloatArray:
    """Unit vectors (N, D) in float64; `weighted`: with the words weighed by how rare they are among these texts."""
    tokens = model.tokenize(texts)
    weights: list[Floats32] | None = None
    if weighted:
        weights = word_weights(tokens, [model.is_word(each) for each in tokens], model.word_vectors)
    return model.embed(tokens, weights).astype(np.float64)


def _means(vectors: FloatArray, owner: npt.NDArray[np.int64]) -> FloatArray:
    """Mean over the rows of each owner, not normalised again."""
    sums = np.zeros((int(owner.max()) + 1, vectors.shape[1]))
    np.add.at(sums, owner, vectors)
    means: FloatArray = sums / np.bincount(owner)[:, None]
    return means


def _by_pair(pairs: Sequence[Pair]) -> _Items:
    return _Items(
        candidates=[normalize(pair.candidate) for pair in pairs],
        references=[normalize(pair.reference) for pair in pairs],
        owner=np.arange(len(pairs)),
    )


def _by_clip(pairs: Sequence[Pair]) -> _Items:
    """Clips in the order in which they first come."""
    candidates: dict[str, str] = {}
    for pair in pairs:
        if candidates.setdefault(pair.clip, pair.candidate) != pair.candidate:
            raise OrganizerError(
                f"clip {pair.clip} has two candidates, {candidates[pair.clip]!r} and {pair.candidate!r}; a metric over "
                "clips needs one, the same in each of the clip's rows"
            )
    place = {clip: row for row, clip in enumerate(candidates)}
    return _Items(
        candidates=[normalize(text) for text in candidates.values()],
        references=[normalize(pair.reference) for pair in pairs],
        owner=np.array([place[pair.clip] for pair in pairs]),
    )


def computed_name(metric: MetricName, models: MetricModels) -> str:
    """What a metric of captions is called when it is made with these models, such as `FENSE[clip,minilm]`."""
    base = metric.value.partition("[")[0]
    remarks = ["clip"] * (metric in _PER_CLIP) + [models.value] * (models is not MetricModels.REFERENCE)
    return f"{base}[{','.join(remarks)}]" if remarks else base
