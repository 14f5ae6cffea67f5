"""The fluency checker of FENSE: a BERT that says whether a caption is broken English (Zhou et al. 2022, section 4).

Its checkpoint is a dictionary of `model_type` (the name of its encoder), `num_classes` and `state_dict`. The last class
is "there is some error"; the others say which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranker.errors import OrganizerError
from ranker.metrics.sentence import one_thread
from ranker.quiet import quiet

THRESHOLD = 0.9
"""A caption whose probability of an error lies above is punished."""
PENALTY_FACTOR = 0.1
"""What the similarity of a punished caption is multiplied with."""

_LONGEST = 256  # tokens
_NO_WORD = re.compile(r"[^\w\s]")


class FluencyChecker:
    """The checkpoint `weights`, and the folder of its encoder's configuration and tokenizer; read at its first use."""

    def __init__(self, *, weights: Path, encoder: Path) -> None:
        self.weights = weights
        self.encoder = encoder
        self._probabilities: dict[str, float] = {}

    def factors(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Per text `PENALTY_FACTOR` where an error is all but certain, else 1; (N,)."""
        return np.where(self.error_probabilities(texts) > THRESHOLD, PENALTY_FACTOR, 1.0)

    def error_probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """How certainly each text holds an error, (N,). Raises OrganizerError where the checkpoint is none."""
        with one_thread():
            for text in texts:
                if text not in self._probabilities:
                    self._probabilities[text] = self._probability(text)
        return np.array([self._probabilities[text] for text in texts])

    def _probability(self, text: str) -> float:
        import torch

        tokens = self._tokenizer.encode(_NO_WORD.sub("", text).lower()).ids
        with torch.inference_mode():
            states = self._network["encoder"](torch.tensor([tokens])).last_hidden_state  # (1, L, D)
            logits = self._network["clf"](states[:, 0])  # (1, classes), from the first token's state
        return float(torch.sigmoid(logits[0, -1]))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.encoder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(_LONGEST)
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        import torch
        from transformers import BertConfig, BertModel

        classes, state = self._read()
        with quiet():
            config = BertConfig.from_pretrained(self.encoder, local_files_only=True)
            network = torch.nn.ModuleDict(
                {"encoder": BertModel(config), "clf": torch.nn.Linear(config.hidden_size, classes)}
            )
        try:
            unmatched = network.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise self._wrong(f"its weights do not fit the encoder in {self.encoder}: {error}") from None
        # Nothing reads the pooler; position_ids were weights once, and are none.
        lacking = [name for name in unmatched.missing_keys if not name.startswith("encoder.pooler.")]
        strange = [name for name in unmatched.unexpected_keys if not name.endswith(".position_ids")]
        if lacking or strange:
            raise self._wrong(
                f"of its weights {lacking[:3] or 'none'} are missing, {strange[:3] or 'none'} are unknown"
            )
        return network.eval()

    def _read(self) -> tuple[int, dict[str, Any]]:
        """Number of classes and weights. Only tensors and plain values are read: a pickle could run code."""
        import pickle

        import torch

        try:
            found = torch.load(self.weights, map_location="cpu", weights_only=True)
            return int(found["num_classes"]), found["state_dict"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
            raise self._wrong(f"{type(error).__name__}: {error}") from None

    def _wrong(self, found: str) -> OrganizerError:
        words = " ".join(found.split())[:300]
        return OrganizerError(
            f"{self.weights} is no fluency checker: expected num_classes and a state_dict of encoder and clf, found "
            f"{words}; delete it and run `ranker data fetch challenge`"
        )
