"""Floating-point operations of the decoder, counted from its shape. A multiplication and an addition are two.

After Kaplan et al. 2020 (arXiv:2001.08361, section 2.1): a product with a weight matrix of n numbers costs 2 n per
token forward, and attention 4 S H per layer and token. Backward costs as much again for the gradient of the inputs, and
as much again for that of the weights: frozen weights (all but LoRA and the projector) do without the latter. Attention
is counted over the whole square where answers read; a kernel that skips what the causal mask hides does half of that.

Not counted: norms, activations, softmax, rotary positions, the optimizer and the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Row = tuple[int, int, int]
"""One sequence of a training batch: audio frames, prompt tokens, target tokens with EOS."""

_BLOCK = 128  # queries together, as in ranker.lalm.attention, which is not imported: it needs torch


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Sizes of a Llama decoder with LoRA on every linear layer but the head. `kv`: numbers per key (or value)."""

    layers: int
    hidden: int
    intermediate: int
    kv: int
    vocabulary: int
    lora_rank: int

    @property
    def linear(self) -> int:
        """Numbers in the weight matrices of one layer."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.kv
        return attention + 3 * self.hidden * self.intermediate

    @property
    def lora(self) -> int:
        """Numbers in the low-rank matrices of one layer: r (in + out) for each linear layer."""
        attention = 2 * 2 * self.hidden + 2 * (self.hidden + self.kv)
        return self.lora_rank * (attention + 3 * (self.hidden + self.intermediate))

    def training_step(self, rows: Sequence[Row], feature_dim: int) -> float:
        """Forward and backward of one batch, without padding. The last layer is computed where a token is to be told
        only, but for its queries, keys and values. Attention goes block by block, up to each block's own end.
        """
        tokens, told = sum(sum(row) for row in rows), sum(target for _, _, target in rows)
        attention = 4.0 * self.hidden * self.layers * sum(_seen(sum(row)) for row in rows)
        joined = self.hidden * (self.hidden + 2 * self.kv)
        joined_lora = self.lora_rank * (3 * self.hidden + self.hidden + 2 * self.kv)
        linear = 2.0 * self.linear * (self.layers - 1) * tokens + 2.0 * (
            joined * tokens + (self.linear - joined) * told
        )
        lora = 2.0 * self.lora * (self.layers - 1) * tokens
        lora += 2.0 * (joined_lora * tokens + (self.lora - joined_lora) * told)
        head = 2.0 * self.hidden * self.vocabulary * told
        projector = 2.0 * feature_dim * self.hidden * sum(frames for frames, _, _ in rows)
        return 2 * linear + 3 * attention + 3 * lora + 2 * head + 2 * projector

    def prefill(self, rows: int, length: int, feature_dim: int) -> float:
        """Reading `rows` sequences of `length` tokens (audio and prompt), and one token chosen for each.

        LoRA is merged; the last layer is computed for each row's last token only, but for its queries, keys and values.
        """
        tokens = rows * length
        joined = self.hidden * (self.hidden + 2 * self.kv)
        layer = 2.0 * self.linear + 4.0 * self.hidden * length
        layers = (self.layers - 1) * tokens * layer + 2.0 * joined * tokens + rows * (layer - 2.0 * joined)
        return layers + 2.0 * self.hidden * self.vocabulary * rows + 2.0 * feature_dim * self.hidden * tokens

    def next_token(self, rows: int, length: int) -> float:
        """One more token for each of `rows` sequences that are `length` tokens long."""
        layers = self.layers * (2.0 * self.linear + 4.0 * self.hidden * length)
        return rows * (layers + 2.0 * self.hidden * self.vocabulary)


def _seen(length: int) -> int:
    """Pairs of a query and a key that attention computes in a sequence, as `ranker.lalm.attention` cuts it."""
    size = -(-length // max(1, round(length / _BLOCK)))
    return sum((min(start + size, length) - start) * min(start + size, length) for start in range(0, length, size))


def smollm2_135m(layers: int | None, lora_rank: int) -> DecoderShape:
    """The shape of SmolLM2-135M (`config.json` of HuggingFaceTB/SmolLM2-135M), which its stand-in has too."""
    return DecoderShape(
        layers=layers or 30, hidden=576, intermediate=1536, kv=192, vocabulary=49_152, lora_rank=lora_rank
    )
