"""A sentence model: a BERT whose outputs are averaged over a text's tokens. Runs on the CPU, loaded at its first use.

Each text is run alone, unpadded and on one thread: its embedding depends on its tokens (and their weights) and nothing
else, so that a score does not change in its last digits with what else was scored before, or with what a machine has
besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranker.errors import OrganizerError
from ranker.quiet import quiet

Tokens = npt.NDArray[np.int64]  # (L,) token numbers of one text, those of its beginning and end included
Floats32 = npt.NDArray[np.float32]


class SentenceModel:
    """A folder as sentence-transformers writes it, of a BERT with mean pooling; nothing is read before it is used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._embeddings: dict[tuple[bytes, bytes], Floats32] = {}

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token numbers of each text, cut at the length that the model was made for."""
        return [np.array(self._tokenizer.encode(text).ids, dtype=np.int64) for text in texts]

    def is_word(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Which tokens stand for text: not those of beginning, end and padding."""
        return ~np.isin(tokens, [self._tokenizer.token_to_id(name) for name in ("[PAD]", "[CLS]", "[SEP]")])

    @cached_property
    def word_vectors(self) -> Floats32:
        """The model's table of static word embeddings, (V, D): what goes into its first layer."""
        table: Floats32 = self._network.get_input_embeddings().weight.detach().numpy()
        return table

    def embed(self, texts: Sequence[Tokens], weights: Sequence[Floats32] | None = None) -> Floats32:
        """L2-normalised embeddings (N, D) of N tokenised texts.

        weights: per text (L,), what each token's static word embedding is multiplied with before the first layer.
        """
        keys = [
            (tokens.tobytes(), b"" if weights is None else weights[row].tobytes()) for row, tokens in enumerate(texts)
        ]
        with one_thread():
            for row, key in enumerate(keys):
                if key not in self._embeddings:
                    self._embeddings[key] = self._forward(texts[row], None if weights is None else weights[row])
        return np.stack([self._embeddings[key] for key in keys])

    def _forward(self, tokens: Tokens, weights: Floats32 | None) -> Floats32:
        import torch

        with torch.inference_mode():
            if weights is None:
                given = {"input_ids": torch.from_numpy(tokens)[None]}  # (1, L)
            else:
                vectors = self.word_vectors[tokens] * weights[:, None]  # (L, D)
                given = {"inputs_embeds": torch.from_numpy(vectors)[None]}  # (1, L, D)
            states = self._network(**given).last_hidden_state[0]  # (L, D)
            unit = torch.nn.functional.normalize(states.mean(dim=0), dim=0)
        embedding: Floats32 = unit.numpy()
        return embedding

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        longest = json.loads((self.folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()  # the file may hold what its maker last used
        tokenizer.enable_truncation(longest)
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        from transformers import BertModel

        pooling = json.loads((self.folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        used = [name for name, value in pooling.items() if name.startswith("pooling_mode") and value]
        if used != ["pooling_mode_mean_tokens"]:
            raise OrganizerError(
                f"{self.folder} is no sentence model of the kind that FENSE uses: expected its tokens' mean as the "
                f"embedding, found {', '.join(used) or 'none'} in 1_Pooling/config.json"
            )
        with quiet():
            network: Any = BertModel.from_pretrained(self.folder, dtype="float32", local_files_only=True)
        return network.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute on one thread: sums depend on how they are split."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
