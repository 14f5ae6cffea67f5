"""The decoder over packed sequences, for training: no padding, no logits, and no gradient of a frozen weight.

All sequences of a batch stand one after another in one matrix; linear layers see no boundary between them, attention
stays within each, and each token has the position that its layout gives it. Forward and backward of what lies between
two attentions are written out, so that of each layer only what its backward needs is kept: what is cheap is computed
again (norms, activations), and dropout is kept as bytes. The adapters' weights stay peft's own parameters.

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
from ranker.lalm.frozen import Frozen, product

Grads = tuple[torch.Tensor | None, ...]
Masks = Sequence[torch.Tensor | None]


class Dropping(Protocol):
    """Draws what LoRA's dropout leaves out, anew at each call."""

    @property
    def rate(self) -> float:
        """The share of inputs that is left out."""

    def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
        """1 (T, width), as bytes, where an input is kept, else 0; of these `rows` only, if given; None if all are."""


class Adapted:
    """A frozen linear layer and its adapter a (R, I), b (O, R), which enters in the dtype of the layer, for one pass
    forward and back.
    """

    def __init__(self, frozen: Frozen, a: torch.Tensor, b: torch.Tensor, *, scale: float, dtype: torch.dtype) -> None:
        self._frozen = frozen
        self._scale = scale
        self._a = a.detach().to(dtype)
        self._scaled = (b.detach().T * scale).to(dtype)  # (R, O)

    def apply(self, x: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer makes of x (T, I): (T, O); and the bottleneck (T, R)."""
        bottleneck = product(x if kept is None else x * kept, self._a)
        return self._frozen.apply(x).addmm_(bottleneck, self._scaled), bottleneck

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, bottleneck: torch.Tensor, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, a and b from that of the output (T, O); the adapter's in float32."""
        of_bottleneck = product(grad, self._scaled)  # (T, R)
        of_b = product(bottleneck.T.contiguous(), grad.T).float().mul_(self._scale).T
        of_x = self._frozen.back(grad)
        turned = of_bottleneck.T.contiguous()
        if kept is None:
            return of_x.addmm_(of_bottleneck, self._a), product(turned, x.T).float(), of_b
        factor = kept.to(x.dtype)
        of_a = product(turned, (x * factor).T).float()
        return of_x.addcmul_(product(of_bottleneck, self._a.T), factor), of_a, of_b


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


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021) in halves: x (T, heads, 2 E), cos and sin (T, 1, E)."""
    first, second = x.chunk(2, -1)
    turned = torch.empty_like(x)
    left, right = turned.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return turned


@dataclass(frozen=True, kw_only=True)
class Block:
    """What does not change of a block: its norms and frozen layers, and how many features a head has."""

    norm: Norm
    mlp_norm: Norm
    before: tuple[Frozen, Frozen, Frozen]  # queries, keys, values
    after: tuple[Frozen, Frozen, Frozen, Frozen]  # output, gate, up, down
    head_dim: int

    @classmethod
    def of(cls, block: Any) -> Block:
        """A block of peft's Llama."""
        attention, mlp = block.self_attn, block.mlp

        def norm(module: Any) -> Norm:
            return Norm(weight=module.weight, epsilon=module.variance_epsilon)

        def frozen(layer: Any) -> Frozen:
            return Frozen(layer.base_layer.weight)

        return cls(
            norm=norm(block.input_layernorm),
            mlp_norm=norm(block.post_attention_layernorm),
            before=(frozen(attention.q_proj), frozen(attention.k_proj), frozen(attention.v_proj)),
            after=(frozen(attention.o_proj), frozen(mlp.gate_proj), frozen(mlp.up_proj), frozen(mlp.down_proj)),
            head_dim=attention.head_dim,
        )


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one pass over a block has besides: the adapters' scale, dropout masks, rotations."""

    block: Block
    scale: float
    kept: Masks
    turn: tuple[torch.Tensor, torch.Tensor] | None = None

    def adapted(self, layers: Sequence[Frozen], adapters: Sequence[torch.Tensor], dtype: torch.dtype) -> list[Adapted]:
        """The layers with `adapters` (a, b, a, b, ...)."""
        return [
            Adapted(frozen, a, b, scale=self.scale, dtype=dtype)
            for frozen, a, b in zip(layers, adapters[::2], adapters[1::2], strict=True)
        ]


class _BeforeAttention(torch.autograd.Function):
    """x (T, H) to turned queries, turned keys and values, each (T, heads, E)."""

    @staticmethod
    def forward(ctx: Any, this: _Pass, x: torch.Tensor, *adapters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = this.adapted(this.block.before, adapters, x.dtype)
        normed, inverse = this.block.norm.apply(x)
        made = [layer.apply(normed, kept) for layer, kept in zip(layers, this.kept, strict=True)]
        ctx.this, ctx.layers = this, layers
        ctx.save_for_backward(x, inverse, *(bottleneck for _, bottleneck in made))
        query, key, value = (out.view(len(x), -1, this.block.head_dim) for out, _ in made)
        assert this.turn is not None
        return turn(query, *this.turn), turn(key, *this.turn), value

    @staticmethod
    def backward(ctx: Any, of_query: torch.Tensor, of_key: torch.Tensor, of_value: torch.Tensor) -> Grads:
        this: _Pass = ctx.this
        x, inverse, *bottlenecks = ctx.saved_tensors
        normed = this.block.norm.again(x, inverse)
        assert this.turn is not None
        cos, sin = this.turn
        grads = (turn(of_query, cos, -sin), turn(of_key, cos, -sin), of_value)
        total: torch.Tensor | None = None
        of_adapters: list[torch.Tensor] = []
        for layer, grad, bottleneck, kept in zip(ctx.layers, grads, bottlenecks, this.kept, strict=True):
            of_x, *of_adapter = layer.backward(grad.reshape(len(x), -1), normed, bottleneck, kept)
            total = of_x if total is None else total.add_(of_x)
            of_adapters += of_adapter
        assert total is not None
        return None, this.block.norm.backward(total, x, inverse).to(x.dtype), *of_adapters


class _AfterAttention(torch.autograd.Function):
    """x (T, H) and what was attended to (T, heads E) to the block's output (T, H)."""

    @staticmethod
    def forward(
        ctx: Any, this: _Pass, x: torch.Tensor, attended: torch.Tensor, *adapters: torch.Tensor
    ) -> torch.Tensor:
        layers = output, gate, up, down = this.adapted(this.block.after, adapters, x.dtype)
        middle, of_output = output.apply(attended, this.kept[0])
        middle += x
        normed, inverse = this.block.mlp_norm.apply(middle)
        gated, of_gate = gate.apply(normed, this.kept[1])
        raised, of_up = up.apply(normed, this.kept[2])
        made, of_down = down.apply(functional.silu(gated).mul_(raised), this.kept[3])
        made += middle
        ctx.this, ctx.layers = this, layers
        ctx.save_for_backward(attended, middle, inverse, gated, raised, of_output, of_gate, of_up, of_down)
        return made

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Grads:
        this: _Pass = ctx.this
        attended, middle, inverse, gated, raised, of_output, of_gate, of_up, of_down = ctx.saved_tensors
        output, gate, up, down = ctx.layers
        active = functional.silu(gated)
        of_product, *grads_down = down.backward(grad, active * raised, of_down, this.kept[3])
        of_raised = active.mul_(of_product)
        of_gated = torch.ops.aten.silu_backward(of_product.mul_(raised), gated)
        normed = this.block.mlp_norm.again(middle, inverse)
        of_normed, *grads_gate = gate.backward(of_gated, normed, of_gate, this.kept[1])
        of_normed_up, *grads_up = up.backward(of_raised, normed, of_up, this.kept[2])
        of_middle = this.block.mlp_norm.backward(of_normed.add_(of_normed_up), middle, inverse)
        of_middle = of_middle.add_(grad).to(grad.dtype)
        of_attended, *grads_output = output.backward(of_middle, attended, of_output, this.kept[0])
        return None, of_middle, of_attended, *grads_output, *grads_gate, *grads_up, *grads_down


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The frozen layers of a Llama in peft's LoRA as training wants them; on a CPU, two copies of their weights."""

    blocks: Sequence[Block]
    head: Frozen

    @classmethod
    def of(cls, decoder: Any) -> Prepared:
        """On the device where they are."""
        model = decoder.base_model.model
        return cls(blocks=[Block.of(block) for block in model.model.layers], head=Frozen(model.lm_head.weight))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normed hidden states (N, H) to logits (N, V)."""
        found: torch.Tensor = _Head.apply(self.head, hidden)  # type: ignore[no-untyped-call]
        return found


class _Head(torch.autograd.Function):
    """A frozen layer by itself."""

    @staticmethod
    def forward(ctx: Any, head: Frozen, hidden: torch.Tensor) -> torch.Tensor:
        ctx.head = head
        return head.apply(hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Grads:
        return None, ctx.head.back(grad)


def run(
    decoder: Any,
    prepared: Prepared,
    embedded: torch.Tensor,
    *,
    lengths: Sequence[int],
    positions: torch.Tensor,
    wanted: torch.Tensor,
    dropping: Dropping,
) -> torch.Tensor:
    """Last hidden states, normed, of the rows `wanted` (N,): (N, H).

    `decoder` is a Llama in peft's LoRA, `prepared` its frozen layers; `embedded` (T, H) has the sequences of
    these `lengths` one after another, `positions` (T,) the position of each row in its own. Rows that are not wanted
    pass the last block only as far as the others attend to them.
    """
    body = decoder.base_model.model.model
    cos, sin = body.rotary_emb(embedded, positions[None])
    half = cos.shape[-1] // 2
    turn = (cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous())
    hidden = embedded
    for index, (module, block) in enumerate(zip(body.layers, prepared.blocks, strict=True)):
        attention, mlp = module.self_attn, module.mlp
        before = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = _BeforeAttention.apply(  # type: ignore[no-untyped-call]
            _pass(block, before, dropping, None, turn=turn), hidden, *_adapters(before)
        )
        attended = attend(query, key, value, lengths)  # (T, heads E)
        rows = wanted if index + 1 == len(prepared.blocks) else None
        if rows is not None:
            hidden, attended = hidden[rows], attended[rows]
        after = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        hidden = _AfterAttention.apply(  # type: ignore[no-untyped-call]
            _pass(block, after, dropping, rows), hidden, attended, *_adapters(after)
        )
    normed: torch.Tensor = body.norm(hidden)
    return normed


def _pass(block: Block, layers: Sequence[Any], dropping: Dropping, rows: torch.Tensor | None, **rest: Any) -> _Pass:
    return _Pass(
        block=block,
        scale=layers[0].scaling["default"] / (1.0 - dropping.rate),
        kept=tuple(dropping.keep(layer.in_features, rows) for layer in layers),
        **rest,
    )


def _adapters(layers: Sequence[Any]) -> list[nn.Parameter]:
    return [side["default"].weight for layer in layers for side in (layer.lora_A, layer.lora_B)]
