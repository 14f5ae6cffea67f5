"""Text normalisation that every metric applies to references and candidates alike (docs/protocol.md, section 3)."""

from __future__ import annotations

import string
import unicodedata

LABEL_SEPARATOR = ";"

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str, *, keep_punctuation: bool = False) -> str:
    """NFKC, lower case, `-` to a space, ASCII punctuation removed, white space folded to single spaces and stripped.

    `keep_punctuation` is for mAP, whose labels are separated by `;`. The steps run once, in this order: a text in which
    removed punctuation stood between a letter and a combining mark is the only kind that a second pass would change.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("-", " ")
    if not keep_punctuation:
        text = text.translate(_NO_PUNCTUATION)
    return " ".join(text.split())


def split_labels(text: str) -> frozenset[str]:
    """The normalised labels of a multi-label answer: split at `;`, stripped, empty ones dropped."""
    labels = normalize(text, keep_punctuation=True).split(LABEL_SEPARATOR)
    return frozenset(label.strip() for label in labels) - {""}
