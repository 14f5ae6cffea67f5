"""How much each word of a text matters among many texts: TF-IDF in which similar words count for each other.

DATE's way to weigh words, as the package mecat 1.1.0 computes it. With s(u, t) the cosine of two words' static
embeddings, T_d the words of text d and N the number of texts:

    tf_d(t) = sum over t' in T_d of s(t, t')^2
    df(t)   = sum over all texts d of min(1, sum over t' in T_d of s(t, t')^2)
    w_d(t)  = tf_d(t) * (1 + log((N + 1) / (df(t) + 1))),   divided by its mean over T_d

The token that begins a text gets the text's largest weight, the one that ends it the smallest. Embeddings, cosines,
their sums and the weights are rounded to half precision, as there: DATE compares similarities with a threshold, and
without the same rounding some of them would fall to its other side (5e-5 of DATE on 200 clips).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ranker.metrics.sentence import Floats32, Tokens

_VALUES_AT_ONCE = 8_000_000  # 32 MB of float32


def word_weights(
    texts: Sequence[Tokens], are_words: Sequence[npt.NDArray[np.bool_]], vectors: Floats32
) -> list[Floats32]:
    """A weight (L,) for each token of each of N texts.

    are_words: per text (L,), False at what begins, ends or pads it. vectors: (V, D), static word embeddings by token
    number. A text without a word keeps weights of one. The N texts weigh each other: other texts, other weights.
    """
    words = [tokens[mask] for tokens, mask in zip(texts, are_words, strict=True)]
    vocabulary, flat = np.unique(np.concatenate(words), return_inverse=True)
    unit = _half(vectors[vocabulary])
    unit = _half(unit / _half(np.linalg.norm(unit, axis=1, keepdims=True)))
    places = np.split(flat, np.cumsum([len(each) for each in words])[:-1])  # per text, where its words stand in `unit`
    rarity = 1.0 + np.log((len(texts) + 1) / (_soft_document_frequency(places, unit) + 1))
    return [_weights(mask, place, unit, rarity) for mask, place in zip(are_words, places, strict=True)]


def _weights(
    mask: npt.NDArray[np.bool_], place: npt.NDArray[np.int64], unit: Floats32, rarity: npt.NDArray[np.float64]
) -> Floats32:
    weights = np.ones(len(mask), dtype=np.float32)
    if not len(place):
        return weights
    of_words = _half(_squared_cosines(unit[place], unit[place]).sum(axis=1)) * rarity[place]
    of_words /= of_words.mean()
    weights[mask] = of_words
    weights[0], weights[-1] = of_words.max(), of_words.min()
    return _half(weights)


def _soft_document_frequency(places: Sequence[npt.NDArray[np.int64]], unit: Floats32) -> npt.NDArray[np.float64]:
    """The df of each of V words; some rows of the (V, V) and (V, N) matrices at a time."""
    from scipy.sparse import csr_matrix

    flat = np.concatenate(places)
    text_of = np.repeat(np.arange(len(places)), [len(place) for place in places])
    ones = np.ones(len(flat), dtype=np.float32)
    counts = csr_matrix((ones, (text_of, flat)), shape=(len(places), len(unit)))  # (N, V), how often a word is there
    frequency = np.empty(len(unit))
    rows = max(1, _VALUES_AT_ONCE // (len(unit) + len(places)))
    for start in range(0, len(unit), rows):
        inside = _half(counts @ _squared_cosines(unit, unit[start : start + rows]))  # (N, rows)
        frequency[start : start + rows] = np.minimum(inside, 1.0).sum(axis=0, dtype=np.float64)
    return frequency


def _squared_cosines(first: Floats32, second: Floats32) -> Floats32:
    """(A, D) and (B, D) unit vectors to (A, B)."""
    return _half(np.square(_half(first @ second.T)))


def _half(values: npt.NDArray[np.floating]) -> Floats32:
    """Values as half precision would hold them."""
    return values.astype(np.float16).astype(np.float32)
