"""All blocks of a decoder as one function, in few kernels: what ranker.lalm.packed computes, for a GPU's fixed shapes.

On a GPU a small operation costs as much as its launch, captured or not, and a step has thousands. So layers that read
one input are one product, their adapters stand side by side on the diagonal of one matrix, those of all blocks are
gathered and scattered at once, and nothing that is kept is computed again but the activations.

Not covered: as in `ranker.lalm.packed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from ranker.lalm.packed import turn

# Places in a block's seven layers (queries, keys, values, output, gate, up, down) of those that read one input.
GROUPS = ((0, 1, 2), (3,), (4, 5), (6,))
Saved = tuple[torch.Tensor, ...]


class Places(Protocol):
    """Attention and the choice of rows in a fixed shape, and backward (`ranker.lalm.fixed`)."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, Saved]:
        """(T, heads, E) and twice (T, groups, E) to (T, heads E); and what `attend_back` needs."""

    def attend_back(self, saved: Saved, grad: torch.Tensor) -> Saved:
        """Gradients of queries, keys and values."""

    def choose(self, x: torch.Tensor) -> torch.Tensor:
        """The rows that are wanted of x (T, H)."""

    def choose_back(self, grad: torch.Tensor) -> torch.Tensor:
        """The gradient of x."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Norms and layers of one block, each weight (O, I); `layers` as in GROUPS."""

    norms: tuple[torch.Tensor, torch.Tensor]
    epsilon: float
    layers: tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A decoder's frozen blocks and its adapters' parameters, 14 of each block: a (R, I), b (O, R) of each layer."""

    blocks: Sequence[Frozen]
    adapters: Sequence[nn.Parameter]
    scale: float
    head_dim: int
    rotated: int  # heads of queries and keys
    heads: int

    @classmethod
    def of(cls, decoder: Any) -> Joined:
        """Of a Llama in peft's LoRA; the frozen weights are copied."""
        blocks, adapters = [], []
        modules = decoder.base_model.model.model.layers
        for block in modules:
            own, mlp = block.self_attn, block.mlp
            layers = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            weights = [layer.base_layer.weight.detach() for layer in layers]
            adapters += [side["default"].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
            blocks.append(
                Frozen(
                    norms=(block.input_layernorm.weight.detach(), block.post_attention_layernorm.weight.detach()),
                    epsilon=block.input_layernorm.variance_epsilon,
                    layers=tuple(torch.cat([weights[place] for place in group]) for group in GROUPS),
                )
            )
        first = modules[0].self_attn
        heads, keys = (len(layer.base_layer.weight) // first.head_dim for layer in (first.q_proj, first.k_proj))
        return cls(
            blocks=blocks, adapters=adapters, scale=first.q_proj.scaling["default"], head_dim=first.head_dim,
            rotated=heads + keys, heads=heads,
        )  # fmt: skip

    def masks(self, rows: int, labels: int) -> list[tuple[int, int]]:
        """Shapes of the dropout masks of a pass, four of each block."""
        last = len(self.blocks) - 1
        return [
            (labels if index == last and number else rows, len(group) * width)
            for index, block in enumerate(self.blocks)
            for number, (group, width) in enumerate(zip(GROUPS, (each.shape[1] for each in block.layers), strict=True))
        ]

    def run(
        self, x: torch.Tensor, *, places: Places, cos: torch.Tensor, sin: torch.Tensor, rate: float, kept: Sequence[Any]
    ) -> torch.Tensor:
        """Hidden states of the wanted rows behind the last block: x (T, H) to (L, H).

        `cos` and `sin` (T, 1, E / 2) turn queries and keys; `kept` are the `masks`, bytes, or None where nothing is
        left out.
        """
        this = _Pass(joined=self, places=places, cos=cos, sin=sin, scale=self.scale / (1.0 - rate), kept=kept)
        found: torch.Tensor = _Blocks.apply(this, x, *self.adapters)  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True, kw_only=True)
class _Pass:
    joined: Joined
    places: Places
    cos: torch.Tensor
    sin: torch.Tensor
    scale: float
    kept: Sequence[torch.Tensor | None]


@dataclass(frozen=True, kw_only=True)
class _Adapted:
    """Layers of one input with their adapters a (n R, n I) and b (O, n R), and where the gradients of these go."""

    weight: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    kept: torch.Tensor | None
    of_a: torch.Tensor | None = None
    of_b: torch.Tensor | None = None

    @property
    def count(self) -> int:
        return self.a.shape[1] // self.weight.shape[1]

    def heard(self, x: torch.Tensor) -> torch.Tensor:
        """What each adapter hears of x (T, I), side by side: (T, n I)."""
        if self.kept is None:
            return x.repeat(1, self.count)
        return (x[:, None] * self.kept.view(len(x), self.count, -1)).flatten(1)

    def apply(self, x: torch.Tensor, base: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layers make of x (T, I), added to `base`: (T, O); and the bottleneck (T, n R)."""
        bottleneck = self.heard(x) @ self.a.T
        out = x @ self.weight.T if base is None else torch.addmm(base, x, self.weight.T)
        return out.addmm_(bottleneck, self.b.T), bottleneck

    def backward(self, grad: torch.Tensor, x: torch.Tensor, bottleneck: torch.Tensor) -> torch.Tensor:
        """The gradient of x (T, I) from that of the output (T, O); those of a and b are written where they go."""
        assert self.of_a is not None
        assert self.of_b is not None
        of_bottleneck = grad @ self.b
        torch.mm(grad.T, bottleneck, out=self.of_b)
        torch.mm(of_bottleneck.T, self.heard(x), out=self.of_a)
        of_x = of_bottleneck @ self.a
        if self.kept is not None:
            of_x.mul_(self.kept)
        if self.count > 1:
            of_x = of_x.view(len(x), self.count, -1).sum(1)
        return of_x.addmm_(grad, self.weight)


class _Blocks(torch.autograd.Function):
    """x (T, H) and all adapters to hidden states (L, H)."""

    @staticmethod
    def forward(ctx: Any, this: _Pass, x: torch.Tensor, *adapters: torch.Tensor) -> torch.Tensor:
        sides = _gathered(adapters, x.dtype, this.scale)
        ctx.this, ctx.made = this, []
        for index in range(len(this.joined.blocks)):
            x, made = _forward(this, index, _of_block(this, index, sides), x)
            ctx.made.append(made)
        ctx.save_for_backward(*adapters)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        this: _Pass = ctx.this
        adapters = ctx.saved_tensors
        sides = _gathered(adapters, grad.dtype, this.scale)
        into = [(torch.empty_like(a), torch.empty_like(b)) for a, b in sides]
        for index in reversed(range(len(this.joined.blocks))):
            grad = _backward(this, index, _of_block(this, index, sides, into), grad, ctx.made.pop())
        return None, grad, *_scattered(adapters, into, this.scale)


def _of_block(
    this: _Pass,
    index: int,
    sides: Sequence[tuple[torch.Tensor, torch.Tensor]],
    into: Sequence[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> list[_Adapted]:
    weights = this.joined.blocks[index].layers
    kept = this.kept[4 * index : 4 * index + 4]
    made = []
    for number, ((a, b), weight, mask) in enumerate(zip(sides, weights, kept, strict=True)):
        grads = {} if into is None else {"of_a": into[number][0][index], "of_b": into[number][1][index]}
        made.append(_Adapted(weight=weight, a=a[index], b=b[index], kept=mask, **grads))
    return made


def _forward(this: _Pass, index: int, layers: Sequence[_Adapted], x: torch.Tensor) -> tuple[torch.Tensor, Any]:
    block, joined, places = this.joined.blocks[index], this.joined, this.places
    qkv, output, gate_up, down = layers
    normed, inverse = _norm(x, block, 0)
    states, of_qkv = qkv.apply(normed)
    by_head = states.view(len(x), -1, joined.head_dim)
    turned, value = turn(by_head[:, : joined.rotated], this.cos, this.sin), by_head[:, joined.rotated :]
    attended, saved = places.attend(turned[:, : joined.heads], turned[:, joined.heads :], value)
    first = (x, normed, inverse, of_qkv, saved)
    if index + 1 == len(joined.blocks):
        x, attended = places.choose(x), places.choose(attended)
    middle, of_output = output.apply(attended, x)
    raised, its_inverse = _norm(middle, block, 1)
    gated, of_gated = gate_up.apply(raised)
    active = _active(gated)
    made, of_down = down.apply(active, middle)
    return made, (first, (attended, of_output, middle, raised, its_inverse, gated, of_gated, of_down))


def _backward(this: _Pass, index: int, layers: Sequence[_Adapted], grad: torch.Tensor, made: Any) -> torch.Tensor:
    block, joined, places = this.joined.blocks[index], this.joined, this.places
    qkv, output, gate_up, down = layers
    (x, normed, inverse, of_qkv, saved), after = made
    attended, of_output, middle, raised, its_inverse, gated, of_gated, of_down = after
    gate, up = gated.chunk(2, -1)
    of_active = down.backward(grad, _active(gated), of_down)
    of_both = torch.empty_like(gated)
    of_gate, of_up = of_both.chunk(2, -1)
    torch.mul(of_active, functional.silu(gate), out=of_up)
    of_gate.copy_(torch.ops.aten.silu_backward(of_active.mul_(up), gate))
    of_raised = gate_up.backward(of_both, raised, of_gated)
    of_middle = _norm_back(of_raised, middle, raised, its_inverse, block.norms[1]).add_(grad)
    of_attended = output.backward(of_middle, attended, of_output)
    if index + 1 == len(joined.blocks):
        of_middle, of_attended = places.choose_back(of_middle), places.choose_back(of_attended)
    of_query, of_key, of_value = places.attend_back(saved, of_attended)
    of_turned = turn(torch.cat([of_query, of_key], 1), this.cos, -this.sin)
    of_states = torch.cat([of_turned, of_value], 1).flatten(1)
    of_normed = qkv.backward(of_states, normed, of_qkv)
    return _norm_back(of_normed, x, normed, inverse, block.norms[0]).add_(of_middle)


def _active(gated: torch.Tensor) -> torch.Tensor:
    gate, up = gated.chunk(2, -1)
    return functional.silu(gate).mul_(up)


def _norm(x: torch.Tensor, block: Frozen, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Root mean square norm, and one over the root of each row (T, 1) in float32."""
    weight = block.norms[number]
    found: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten._fused_rms_norm(x, weight.shape, weight, block.epsilon)  # noqa: SLF001
    return found


def _norm_back(
    grad: torch.Tensor, x: torch.Tensor, normed: torch.Tensor, inverse: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    along = (grad * normed).float().mean(-1, keepdim=True).mul_(inverse)  # (T, 1)
    scaled = (grad * weight).float()
    return scaled.addcmul_(x.float(), along, value=-1).mul_(inverse).to(x.dtype)


def _gathered(
    adapters: Sequence[torch.Tensor], dtype: torch.dtype, scale: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each group: a (blocks, n R, n I) and scaled b (blocks, O, n R), with those of its layers on the diagonal."""
    made = []
    for group in GROUPS:
        sides = [[torch.stack([*adapters[2 * place + side :: 14]]).to(dtype) for place in group] for side in range(2)]
        made.append((_diagonal(sides[0]), _diagonal(sides[1]).mul_(scale)))
    return made


def _diagonal(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Matrices (blocks, r, c) along the diagonal of one for each block."""
    if len(parts) == 1:
        return parts[0]
    rows, columns = (sum(part.shape[side] for part in parts) for side in (1, 2))
    made = parts[0].new_zeros(len(parts[0]), rows, columns)
    for part, (row, column) in zip(parts, _corners(parts), strict=True):
        made[:, row : row + part.shape[1], column : column + part.shape[2]] = part
    return made


def _corners(parts: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    row = column = 0
    found = []
    for part in parts:
        found.append((row, column))
        row, column = row + part.shape[-2], column + part.shape[-1]
    return found


def _scattered(
    adapters: Sequence[torch.Tensor], into: Sequence[tuple[torch.Tensor, torch.Tensor]], scale: float
) -> list[torch.Tensor]:
    """Gradients of the adapters from those of what `_gathered` made, in float32."""
    found: list[torch.Tensor] = [*adapters]
    for group, sides in zip(GROUPS, into, strict=True):
        for side, (whole, factor) in enumerate(zip(sides, (1.0, scale), strict=True)):
            parts = [adapters[2 * place + side] for place in group]
            for place, part, (row, column) in zip(group, parts, _corners(parts), strict=True):
                own = whole[:, row : row + part.shape[0], column : column + part.shape[1]]
                found[2 * place + side :: 14] = (own.to(torch.float32, copy=True) * factor).contiguous().unbind()
    return found
