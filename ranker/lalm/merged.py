"""The decoder for answering: LoRA added into its weights, no padding before a token, a cache of fixed size.

Not covered: training, and decoders other than Llama's (root-mean-square norms, rotary positions, grouped heads, gated
units). A test holds its tokens against transformers' own generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ranker.config import Recipe
from ranker.lalm.frozen import Product, laid_out
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features
from ranker.types import Precision

_ROUND = 64  # columns that attention looks at: few different shapes, and aligned ones
_TABLE = 4_096  # positions whose rotations are computed at a time


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One block: queries, keys and values in one product, gate and up in another."""

    norm: torch.Tensor
    qkv: Product
    out: Product
    mlp_norm: torch.Tensor
    gate_up: Product
    down: Product


class Cache:
    """Keys and values of up to `rows` sequences of up to `columns` tokens, allocated once."""

    def __init__(self, decoder: MergedDecoder, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._shape = (decoder.kv_heads, decoder.head_dim)
        shape = (rows, decoder.kv_heads, columns, decoder.head_dim)
        # Zeros: what is masked still meets a factor of 0, which a NaN of unused memory would survive.
        self.keys, self.values = (
            [torch.zeros(shape, dtype=decoder.dtype, device=decoder.device) for _ in decoder.layers] for _ in range(2)
        )

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row over another."""
        for each in (*self.keys, *self.values):
            each[target, :, :length] = each[source, :, :length]

    def resize(self, rows: int, columns: int, *, kept: int, length: int) -> None:
        """Another shape, with the first `kept` rows' first `length` tokens; one layer at a time, to double nothing."""
        heads, dim = self._shape
        for part in (self.keys, self.values):
            for at, old in enumerate(part):
                part[at] = old.new_zeros(rows, heads, columns, dim)
                part[at][:kept, :, :length] = old[:kept, :, :length]
        self.rows, self.columns = rows, columns


class MergedDecoder:
    """A trained model's decoder, frozen as it now is, to be asked: `prefill` begins rows, `step` goes on with them."""

    def __init__(self, model: AudioLanguageModel, recipe: Recipe, *, graphs: bool = False) -> None:
        """Copies the weights: W + (alpha / r) BA, summed in float32. Products are made in the recipe's precision.

        `graphs` is for a GPU: few launches, by steps in fixed shapes (ranker.lalm.graphs) and padded reading.
        """
        self.graphs = graphs
        body = model.body
        config = body.config
        self.model = model
        self.device = model.device
        self.dtype = torch.bfloat16 if recipe.precision is Precision.BF16 else torch.float32
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = body.layers[0].self_attn.head_dim
        self.epsilon = config.rms_norm_eps
        with torch.inference_mode():
            self.layers = [self._layer(block) for block in body.layers]
            self.norm = body.norm.weight.float()
            self.embedding = body.embed_tokens.weight
            self.head = _linear([model.head], self.dtype)
            self._activation = body.layers[0].mlp.act_fn
            self._rotations = self._rotation_table(_TABLE)

    @property
    def bytes_per_token(self) -> int:
        """What the cache takes for one token of one row, in all layers."""
        return 2 * len(self.layers) * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def rotations(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The table that positions are looked up in; a longer one takes its place where it is too short."""
        return self._rotations

    @torch.inference_mode()
    def embed(self, clip: Features, prompt: torch.Tensor) -> torch.Tensor:
        """Features (T', D) and an embedded prompt (L, H) to what is answered: (T' + L, H), float32."""
        (audio,) = self.model.embed_audio([clip])
        return torch.cat([audio.float(), prompt.float()])

    @torch.inference_mode()
    def prefill(self, sequences: Sequence[torch.Tensor], cache: Cache, first: int) -> torch.Tensor:
        """Read sequences [(S_i, H)] into rows `first`, `first` + 1, ... of the cache; logits (B, V) of what follows.

        All linear layers see all sequences one behind the other, attention sees each alone: there is no padding.
        """
        lengths = [len(sequence) for sequence in sequences]
        hidden = torch.cat(list(sequences))  # (N, H)
        cos, sin = self._rotate_at(torch.cat([torch.arange(length) for length in lengths]).to(self.device))
        last = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        rows = slice(first, first + len(sequences))
        places = torch.cat([torch.arange(length) + row * max(lengths) for row, length in enumerate(lengths)])
        places = places.to(self.device)
        for index, layer in enumerate(self.layers):
            queries, keys, values = self._qkv(layer, hidden, cos, sin)
            attended, start = [], 0
            if self.graphs:
                into = (cache.keys[index][rows], cache.values[index][rows])
                attended.append(self._read_together((queries, keys, values), into, lengths, places))
            for row, length in enumerate(() if self.graphs else lengths, start=first):
                here = slice(start, start + length)
                own_keys, own_values = keys[here].transpose(0, 1), values[here].transpose(0, 1)  # (kv heads, S, d)
                cache.keys[index][row, :, :length] = own_keys
                cache.values[index][row, :, :length] = own_values
                if layer is not self.layers[-1]:
                    attended.append(self._attend_all(queries[here], own_keys, own_values))
                start += length
            if layer is self.layers[-1]:  # nothing but the last token's output is ever used
                mask = self._mask(torch.tensor(lengths, device=self.device))
                hidden = hidden[last]
                attended = [self._attend_one(queries[last], cache, index, rows, mask)]
            hidden = self._finish(layer, hidden, torch.cat(attended))
        return self._logits(hidden)

    @torch.inference_mode()
    def step(
        self, tokens: torch.Tensor, lengths: torch.Tensor, cache: Cache, columns: int | None = None
    ) -> torch.Tensor:
        """Append a token (n,) to each of the first n rows, `lengths` (n,) tokens long; logits (n, V) of the next.

        `columns`, more than any of the lengths, is how many of the cache are looked at (None: as many as are needed);
        with it, nothing is read from the device.
        """
        hidden = self.embedding[tokens].float()
        cos, sin = self._rotate_at(lengths, columns)
        rows = torch.arange(len(tokens), device=self.device)
        mask = self._mask(lengths + 1, columns)
        for index, layer in enumerate(self.layers):
            queries, keys, values = self._qkv(layer, hidden, cos, sin)
            cache.keys[index][rows, :, lengths] = keys
            cache.values[index][rows, :, lengths] = values
            attended = self._attend_one(queries, cache, index, slice(0, len(tokens)), mask)
            hidden = self._finish(layer, hidden, attended)
        return self._logits(hidden)

    def _layer(self, block: Any) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        return _Layer(
            norm=block.input_layernorm.weight.float(),
            qkv=_linear([attention.q_proj, attention.k_proj, attention.v_proj], self.dtype),
            out=_linear([attention.o_proj], self.dtype),
            mlp_norm=block.post_attention_layernorm.weight.float(),
            gate_up=_linear([mlp.gate_proj, mlp.up_proj], self.dtype),
            down=_linear([mlp.down_proj], self.dtype),
        )

    def _rotation_table(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.arange(positions, device=self.device)[None]
        cos, sin = self.model.body.rotary_emb(torch.zeros(1, device=self.device), at)
        return cos[0], sin[0]  # (P, d) each

    def _rotate_at(self, positions: torch.Tensor, below: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines (N, 1, d) at these positions, which are all below `below`, if that is given."""
        needed = int(positions.max()) + 1 if below is None else below
        if needed > len(self._rotations[0]):
            self._rotations = self._rotation_table(-(-needed // _TABLE) * _TABLE)
        cos, sin = self._rotations
        return cos[positions][:, None], sin[positions][:, None]

    def _qkv(
        self, layer: _Layer, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries and keys, and values, of hidden states (N, H): (N, heads, d) and twice (N, kv heads, d)."""
        joined = layer.qkv(self._normed(hidden, layer.norm)).view(len(hidden), -1, self.head_dim)
        turned = joined[:, : self.heads + self.kv_heads].float()
        half = self.head_dim // 2
        crossed = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
        turned = (turned * cos + crossed * sin).to(self.dtype)
        return turned[:, : self.heads], turned[:, self.heads :], joined[:, self.heads + self.kv_heads :]

    def _attend_all(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Causal attention within one sequence. queries (S, heads, d), keys and values (kv heads, S, d)."""
        found = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None], keys[None], values[None], is_causal=True, enable_gqa=True
        )
        return found[0].transpose(0, 1).flatten(1)  # (S, heads * d)

    def _read_together(
        self,
        given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        into: tuple[torch.Tensor, torch.Tensor],
        lengths: Sequence[int],
        places: torch.Tensor,
    ) -> torch.Tensor:
        """What the loop over sequences does, padded at their ends, which causal attention does not see: few launches.

        `given`: queries, keys and values (N, heads, d); `into`: the cache's rows, which get 0 behind a sequence's end;
        `places` (N,) are those of the padded sequences.
        """
        longest = max(lengths)

        def padded(each: torch.Tensor) -> torch.Tensor:
            filled = each.new_zeros(len(lengths) * longest, *each.shape[1:]).index_copy_(0, places, each)
            return filled.view(len(lengths), longest, *each.shape[1:]).transpose(1, 2)  # (B, heads, S, d)

        asked, *own = (padded(each) for each in given)
        for rows, each in zip(into, own, strict=True):
            rows[:, :, :longest] = each
        keys, values = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in own)
        found = functional.scaled_dot_product_attention(asked, keys, values, is_causal=True)
        return found.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, places)

    def _attend_one(
        self, queries: torch.Tensor, cache: Cache, index: int, rows: slice, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention of one token (n, heads, d) of each row to all of its row.

        The heads that share keys stand in the place of several tokens, so that no key is copied for each of them.
        """
        columns = mask.shape[-1]
        grouped = queries.reshape(len(queries), self.kv_heads, -1, self.head_dim)  # (n, kv heads, group, d)
        found = functional.scaled_dot_product_attention(
            grouped,
            cache.keys[index][rows, :, :columns],
            cache.values[index][rows, :, :columns],
            attn_mask=mask.expand(-1, -1, grouped.shape[2], -1),
        )
        return found.flatten(1)

    def _mask(self, lengths: torch.Tensor, width: int | None = None) -> torch.Tensor:
        """(n, 1, 1, columns): 0 on the first `lengths` (n,) columns of each row, minus infinity behind them."""
        columns = torch.arange(columns_for(int(lengths.max())) if width is None else width, device=self.device)
        mask = torch.zeros(len(lengths), len(columns), dtype=self.dtype, device=self.device)
        return mask.masked_fill_(columns >= lengths[:, None], -torch.inf)[:, None, None]

    def _finish(self, layer: _Layer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        hidden = hidden + layer.out(attended)
        gate, up = layer.gate_up(self._normed(hidden, layer.mlp_norm)).chunk(2, dim=-1)
        return hidden + layer.down(self._activation(gate) * up)

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.epsilon).to(self.dtype)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(self._normed(hidden, self.norm)).float()


def columns_for(tokens: int) -> int:
    """Columns that a cache needs for so many tokens of a row."""
    return -(-tokens // _ROUND) * _ROUND


def _linear(modules: Sequence[Any], dtype: torch.dtype) -> Product:
    """Several linear layers of one input as one, their adapters added in; outputs one behind the other."""
    weight = torch.cat([_merged(module) for module in modules]).to(dtype)
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat([each.detach() for each in biases]).to(dtype)
    return laid_out(weight, bias)


def _merged(module: Any) -> torch.Tensor:
    """A linear layer's weight with its adapter, if it has one, in float32."""
    if not hasattr(module, "get_delta_weight"):
        plain: torch.Tensor = module.weight.detach().float()
        return plain
    (adapter,) = module.active_adapters
    weight: torch.Tensor = module.get_base_layer().weight.detach().float()
    before, after = (each[adapter].weight.detach().float() for each in (module.lora_A, module.lora_B))
    return weight.addmm(after, before, alpha=module.scaling[adapter])
