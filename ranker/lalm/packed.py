"""The decoder over packed sequences, for training: no padding, no logits, and no gradient of a frozen weight.

All sequences of a batch stand one after another in one matrix; linear layers see no boundary between them, attention
stays within each, and each token has the position that its layout gives it. Forward and backward of what lies between
two attentions are written out, so that of each layer only what its backward needs is kept: what is cheap is computed
again (norms, activations), and dropout is kept as a bit mask. The adapters' weights stay peft's own parameters.

Not covered: biases, and anything but a Llama with peft's LoRA on all seven linear layers of its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from ranker.lalm.attention import attend

Grads = tuple[torch.Tensor | None, ...]


class Dropping(Protocol):
    """Draws what LoRA's dropout leaves out, anew at each call."""

    @property
    def rate(self) -> float:
        """The share of inputs that is left out."""

    def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
        """1 (T, width), as bytes, where an input is kept, else 0; of these `rows` only, if given; None if all are."""


def _linear() -> Any:
    """`x @ weight.T` of float32 matrices on a CPU: oneDNN's where torch has it, which on the processors measured
    is a fifth faster than what `@` takes.
    """
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return None if found is None or not torch.backends.mkldnn.is_available() else found.default  # type: ignore[no-untyped-call]


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Matrices x (T, I) and weight (O, I), however it lies in memory, to (T, O)."""
    linear = _linear() if x.device.type == "cpu" and x.dtype is torch.float32 else None
    if linear is None:
        return x @ weight.T
    found: torch.Tensor = linear(x, weight, None, "none", [], "")
    return found


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A frozen linear layer `weight` (O, I) and its adapter `a` (R, I), `b` (O, R), in the dtype of the layer."""

    weight: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def apply(self, x: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer makes of x (T, I): (T, O); and the bottleneck (T, R)."""
        bottleneck = product(_only(x, kept), self.a)
        return product(x, self.weight).addmm_(bottleneck, self.b.T, alpha=self.scale), bottleneck

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, bottleneck: torch.Tensor, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, a and b from that of the output (T, O)."""
        of_bottleneck = product(grad, self.b.T).mul_(self.scale)  # (T, R)
        of_b = (bottleneck.T @ grad).mul_(self.scale).T
        of_a = of_bottleneck.T @ _only(x, kept)
        of_x = product(grad, self.weight.T)
        if kept is None:
            of_x.addmm_(of_bottleneck, self.a)
        else:
            of_x.addcmul_(of_bottleneck @ self.a, kept.to(x.dtype))
        return of_x, of_a.float(), of_b.float()


def _only(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """X where it is kept, else 0. (A product: filling by a mask takes ten times as long on a CPU.)"""
    return x if kept is None else x * kept.to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Root mean square norm (Zhang and Sennrich 2019), computed in float32 as transformers does."""

    weight: torch.Tensor
    epsilon: float

    def apply(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normed x (T, H), and one over the root of each row (T, 1)."""
        inverse = x.float().square().mean(-1, keepdim=True).add_(self.epsilon).rsqrt_()
        return self.again(x, inverse), inverse

    def again(self, x: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Normed x, from what `apply` found."""
        return (x.float() * inverse).to(x.dtype).mul_(self.weight)

    def backward(self, grad: torch.Tensor, x: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        """Gradient of x, in float32."""
        unit = x.float() * inverse
        scaled = (grad * self.weight).float()
        along = (scaled * unit).mean(-1, keepdim=True)
        return scaled.addcmul_(unit, along, value=-1).mul_(inverse)


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021) in halves: x (T, heads, 2 E), cos and sin (T, 1, E)."""
    first, second = x.chunk(2, -1)
    turned = torch.empty_like(x)
    left, right = turned.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return turned


@dataclass(frozen=True, kw_only=True)
class _Half:
    """What half a block needs besides tensors with gradients: its norm, layers, their scale and dropout masks."""

    norm: Norm
    weights: tuple[torch.Tensor, ...]
    scale: float
    kept: tuple[torch.Tensor | None, ...]
    heads: int = 0  # features per head
    turn: tuple[torch.Tensor, torch.Tensor] | None = None

    def layers(self, adapters: Sequence[torch.Tensor]) -> list[Adapted]:
        """The layers with `adapters` (a, b, a, b, ...)."""
        return [
            Adapted(weight=weight, a=a.to(weight.dtype), b=b.to(weight.dtype), scale=self.scale)
            for weight, a, b in zip(self.weights, adapters[::2], adapters[1::2], strict=True)
        ]


class _BeforeAttention(torch.autograd.Function):
    """x (T, H) to turned queries, turned keys and values, each (T, heads, E)."""

    @staticmethod
    def forward(ctx: Any, half: _Half, x: torch.Tensor, *adapters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        normed, inverse = half.norm.apply(x)
        made = [layer.apply(normed, kept) for layer, kept in zip(half.layers(adapters), half.kept, strict=True)]
        ctx.half, ctx.count = half, len(adapters)
        ctx.save_for_backward(x, inverse, *adapters, *(bottleneck for _, bottleneck in made))
        query, key, value = (out.view(len(x), -1, half.heads) for out, _ in made)
        assert half.turn is not None
        return _turn(query, *half.turn), _turn(key, *half.turn), value

    @staticmethod
    def backward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Grads:
        half: _Half = ctx.half
        x, inverse, *kept = ctx.saved_tensors
        adapters, bottlenecks = kept[: ctx.count], kept[ctx.count :]
        normed = half.norm.again(x, inverse)
        assert half.turn is not None
        cos, sin = half.turn
        grads = (_turn(query, cos, -sin), _turn(key, cos, -sin), value)
        total: torch.Tensor | None = None
        of_adapters: list[torch.Tensor] = []
        for layer, grad, bottleneck, mask in zip(half.layers(adapters), grads, bottlenecks, half.kept, strict=True):
            of_x, *of_adapter = layer.backward(grad.reshape(len(x), -1), normed, bottleneck, mask)
            total = of_x if total is None else total.add_(of_x)
            of_adapters += of_adapter
        assert total is not None
        return None, half.norm.backward(total, x, inverse).to(x.dtype), *of_adapters


class _AfterAttention(torch.autograd.Function):
    """x (T, H) and what was attended to (T, heads E) to the block's output (T, H)."""

    @staticmethod
    def forward(
        ctx: Any, half: _Half, x: torch.Tensor, attended: torch.Tensor, *adapters: torch.Tensor
    ) -> torch.Tensor:
        output, gate, up, down = half.layers(adapters)
        middle, of_output = output.apply(attended, half.kept[0])
        middle += x
        normed, inverse = half.norm.apply(middle)
        gated, of_gate = gate.apply(normed, half.kept[1])
        raised, of_up = up.apply(normed, half.kept[2])
        made, of_down = down.apply(functional.silu(gated).mul_(raised), half.kept[3])
        made += middle
        ctx.half = half
        bottlenecks = (of_output, of_gate, of_up, of_down)
        ctx.save_for_backward(attended, middle, inverse, gated, raised, *bottlenecks, *adapters)
        return made

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Grads:
        half: _Half = ctx.half
        attended, middle, inverse, gated, raised, *kept = ctx.saved_tensors
        (of_output, of_gate, of_up, of_down), adapters = kept[:4], kept[4:]
        output, gate, up, down = half.layers(adapters)
        active = functional.silu(gated)
        of_product, *grads_down = down.backward(grad, active * raised, of_down, half.kept[3])
        of_raised = active.mul_(of_product)
        of_gated = torch.ops.aten.silu_backward(of_product.mul_(raised), gated)
        normed = half.norm.again(middle, inverse)
        of_normed, *grads_gate = gate.backward(of_gated, normed, of_gate, half.kept[1])
        of_normed_up, *grads_up = up.backward(of_raised, normed, of_up, half.kept[2])
        of_middle = half.norm.backward(of_normed.add_(of_normed_up), middle, inverse).add_(grad).to(grad.dtype)
        of_attended, *grads_output = output.backward(of_middle, attended, of_output, half.kept[0])
        return None, of_middle, of_attended, *grads_output, *grads_gate, *grads_up, *grads_down


def run(
    decoder: Any,
    embedded: torch.Tensor,
    *,
    lengths: Sequence[int],
    positions: torch.Tensor,
    wanted: torch.Tensor,
    dropping: Dropping,
) -> torch.Tensor:
    """Last hidden states, normed, of the rows `wanted` (N,): (N, H).

    `decoder` is a Llama in peft's LoRA; `embedded` (T, H) has the sequences of these `lengths` one after another,
    `positions` (T,) the position of each row in its own. Rows that are not wanted pass the last block only as far as
    the others attend to them.
    """
    body = decoder.base_model.model.model
    cos, sin = body.rotary_emb(embedded, positions[None])
    half_width = cos.shape[-1] // 2
    turn = (cos[0, :, None, :half_width].contiguous(), sin[0, :, None, :half_width].contiguous())
    hidden = embedded
    for index, block in enumerate(body.layers):
        attention, mlp = block.self_attn, block.mlp
        before = (attention.q_proj, attention.k_proj, attention.v_proj)
        half = _half(block.input_layernorm, before, dropping, None, heads=attention.head_dim, turn=turn)
        query, key, value = _BeforeAttention.apply(half, hidden, *_adapters(before))  # type: ignore[no-untyped-call]
        attended = attend(query, key, value, lengths)  # (T, heads E)
        rows = wanted if index + 1 == len(body.layers) else None
        if rows is not None:
            hidden, attended = hidden[rows], attended[rows]
        after = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        half = _half(block.post_attention_layernorm, after, dropping, rows)
        hidden = _AfterAttention.apply(half, hidden, attended, *_adapters(after))  # type: ignore[no-untyped-call]
    normed: torch.Tensor = body.norm(hidden)
    return normed


def _half(norm: Any, layers: Sequence[Any], dropping: Dropping, rows: torch.Tensor | None, **rest: Any) -> _Half:
    return _Half(
        norm=Norm(weight=norm.weight, epsilon=norm.variance_epsilon),
        weights=tuple(layer.base_layer.weight for layer in layers),
        scale=layers[0].scaling["default"] / (1.0 - dropping.rate),
        kept=tuple(dropping.keep(layer.in_features, rows) for layer in layers),
        **rest,
    )


def _adapters(layers: Sequence[Any]) -> list[nn.Parameter]:
    return [side["default"].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
