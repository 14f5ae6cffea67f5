"""The decoder over packed sequences, for training: no padding, no logits, and no gradient of a frozen weight.

All sequences of a batch stand one after another in one matrix; linear layers see no boundary between them, attention
stays within each, and each token has the position that its layout gives it. Forward and backward of what lies between
two attentions are written out, so that of each layer only what its backward needs is kept: what is cheap is computed
again (norms, activations), and dropout is kept as bytes. On a CPU that happens for some rows at a time, so that what is
made of them is still in its cache when it is used. The adapters' weights stay peft's own parameters.

Not covered: biases, and anything but a Llama with peft's LoRA on all seven linear layers of its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from ranker.lalm.attention import attend
from ranker.lalm.frozen import Frozen, product

Grads = tuple[torch.Tensor | None, ...]
Masks = Sequence[torch.Tensor | None]

# Rows that go through half a block together on a CPU: enough for products at full speed, few enough for a cache.
ROWS = 256


class Dropping(Protocol):
    """Draws what LoRA's dropout leaves out, anew at each call."""

    @property
    def rate(self) -> float:
        """The share of inputs that is left out."""

    def keep(self, width: int, rows: torch.Tensor | None) -> torch.Tensor | None:
        """1 (T, width), as bytes, where an input is kept, else 0; of these `rows` only, if given; None if all are."""


class Places(Protocol):
    """Attention and the choice of rows in a fixed shape, as CUDA graphs need them (ranker.lalm.fixed)."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """As `ranker.lalm.attention.attend`, of the sequences that it knows."""

    def choose(self, x: torch.Tensor) -> torch.Tensor:
        """The rows that are wanted of x (T, H)."""


class Adapted:
    """A frozen linear layer and its adapter a (R, I), b (O, R), for one pass over the rows.

    The adapter enters in the dtype of the layer; `sums` are the gradients of a and b, in float32.
    """

    def __init__(self, frozen: Frozen, a: torch.Tensor, b: torch.Tensor, *, scale: float, dtype: torch.dtype) -> None:
        self._frozen = frozen
        self._scale = scale
        self._a = a.to(dtype)
        self._b = b.to(dtype) * scale
        self._a_turned, self._b_turned = self._a.T.contiguous(), self._b.T.contiguous()
        self._of_a, self._of_b = (torch.zeros(each.T.shape, dtype=torch.float32, device=a.device) for each in (a.T, b))

    @property
    def sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What `backward` found so far."""
        return self._of_a, self._of_b.T

    def apply(self, x: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer makes of x (T, I): (T, O); and the bottleneck (T, R)."""
        bottleneck = product(x if kept is None else x * kept, self._a)
        return self._frozen.apply(x).addmm_(bottleneck, self._b_turned), bottleneck

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, bottleneck: torch.Tensor, kept: torch.Tensor | None
    ) -> torch.Tensor:
        """The gradient of x (T, I) from that of the output (T, O); those of a and b are added to the sums."""
        of_bottleneck = product(grad, self._b_turned)  # (T, R)
        self._of_b.add_(product(bottleneck.T.contiguous(), grad.T), alpha=self._scale)
        of_x = self._frozen.back(grad)
        if kept is None:
            self._of_a.add_(product(of_bottleneck.T.contiguous(), x.T))
            return of_x.addmm_(of_bottleneck, self._a)
        factor = kept.to(x.dtype)
        self._of_a.add_(product(of_bottleneck.T.contiguous(), (x * factor).T))
        return of_x.addcmul_(product(of_bottleneck, self._a_turned), factor)


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


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, turned: torch.Tensor) -> None:
    """Rotary embedding (Su et al. 2021) in halves: x (T, heads, 2 E) to `turned`; cos and sin (T, 1, E)."""
    first, second = x.chunk(2, -1)
    left, right = turned.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)


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

    def rows(self, x: torch.Tensor) -> Iterator[slice]:
        """Which rows of x go together."""
        parts = round(len(x) / ROWS) if x.device.type == "cpu" else 1
        step = max(1, -(-len(x) // max(1, parts)))  # as evenly as it can be
        for start in range(0, len(x), step):
            yield slice(start, start + step)

    def turned(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of these rows."""
        assert self.turn is not None
        return self.turn[0][rows], self.turn[1][rows]

    def masks(self, rows: slice) -> Masks:
        """Those of these rows, of each layer."""
        return [None if mask is None else mask[rows] for mask in self.kept]

    def adapted(self, layers: Sequence[Frozen], adapters: Sequence[torch.Tensor], dtype: torch.dtype) -> list[Adapted]:
        """The layers with `adapters` (a, b, a, b, ...)."""
        return [
            Adapted(frozen, a, b, scale=self.scale, dtype=dtype)
            for frozen, a, b in zip(layers, adapters[::2], adapters[1::2], strict=True)
        ]


def _sums(layers: Sequence[Adapted]) -> list[torch.Tensor]:
    return [each for layer in layers for each in layer.sums]


class _BeforeAttention(torch.autograd.Function):
    """x (T, H) to turned queries, turned keys and values, each (T, heads, E)."""

    @staticmethod
    def forward(ctx: Any, this: _Pass, x: torch.Tensor, *adapters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        norm, head_dim = this.block.norm, this.block.head_dim
        layers = this.adapted(this.block.before, adapters, x.dtype)
        made = [x.new_empty(len(x), len(b) // head_dim, head_dim) for b in adapters[1::2]]
        ctx.this, ctx.made = this, []
        for rows in this.rows(x):
            normed, inverse = norm.apply(x[rows])
            found = [layer.apply(normed, mask) for layer, mask in zip(layers, this.masks(rows), strict=True)]
            query, key, value = (out.view(len(out), -1, head_dim) for out, _ in found)
            _turn(query, *this.turned(rows), made[0][rows])
            _turn(key, *this.turned(rows), made[1][rows])
            made[2][rows] = value
            ctx.made.append((inverse, [bottleneck for _, bottleneck in found]))
        ctx.save_for_backward(x, *adapters)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, of_query: torch.Tensor, of_key: torch.Tensor, of_value: torch.Tensor) -> Grads:
        this: _Pass = ctx.this
        norm = this.block.norm
        x, *adapters = ctx.saved_tensors
        layers = this.adapted(this.block.before, adapters, x.dtype)
        of_x = torch.empty_like(x)
        for rows, (inverse, bottlenecks) in zip(this.rows(x), ctx.made, strict=True):
            own = x[rows]
            normed = norm.again(own, inverse)
            cos, sin = this.turned(rows)
            query, key = torch.empty_like(of_query[rows]), torch.empty_like(of_key[rows])
            _turn(of_query[rows], cos, -sin, query)
            _turn(of_key[rows], cos, -sin, key)
            total: torch.Tensor | None = None
            for layer, grad, bottleneck, mask in zip(
                layers, (query, key, of_value[rows]), bottlenecks, this.masks(rows), strict=True
            ):
                found = layer.backward(grad.flatten(1), normed, bottleneck, mask)
                total = found if total is None else total.add_(found)
            assert total is not None
            of_x[rows] = norm.backward(total, own, inverse)
        ctx.made = None
        return None, of_x, *_sums(layers)


class _AfterAttention(torch.autograd.Function):
    """x (T, H) and what was attended to (T, heads E) to the block's output (T, H)."""

    @staticmethod
    def forward(
        ctx: Any, this: _Pass, x: torch.Tensor, attended: torch.Tensor, *adapters: torch.Tensor
    ) -> torch.Tensor:
        output, gate, up, down = this.adapted(this.block.after, adapters, x.dtype)
        result = torch.empty_like(x)
        ctx.this, ctx.made = this, []
        for rows in this.rows(x):
            masks = this.masks(rows)
            middle, of_output = output.apply(attended[rows], masks[0])
            middle += x[rows]
            normed, inverse = this.block.mlp_norm.apply(middle)
            gated, of_gate = gate.apply(normed, masks[1])
            raised, of_up = up.apply(normed, masks[2])
            made, of_down = down.apply(functional.silu(gated).mul_(raised), masks[3])
            torch.add(made, middle, out=result[rows])
            ctx.made.append((middle, inverse, gated, raised, of_output, of_gate, of_up, of_down))
        ctx.save_for_backward(attended, *adapters)
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Grads:
        this: _Pass = ctx.this
        norm = this.block.mlp_norm
        attended, *adapters = ctx.saved_tensors
        layers = this.adapted(this.block.after, adapters, attended.dtype)
        output, gate, up, down = layers
        of_x, of_attended = torch.empty_like(grad), torch.empty_like(attended)
        for rows, made in zip(this.rows(grad), ctx.made, strict=True):
            middle, inverse, gated, raised, of_output, of_gate, of_up, of_down = made
            masks = this.masks(rows)
            active = functional.silu(gated)
            of_product = down.backward(grad[rows], active * raised, of_down, masks[3])
            of_raised = active.mul_(of_product)
            of_gated = torch.ops.aten.silu_backward(of_product.mul_(raised), gated)
            normed = norm.again(middle, inverse)
            of_normed = gate.backward(of_gated, normed, of_gate, masks[1])
            of_normed += up.backward(of_raised, normed, of_up, masks[2])
            torch.add(norm.backward(of_normed, middle, inverse), grad[rows], out=of_x[rows])
            of_attended[rows] = output.backward(of_x[rows], attended[rows], of_output, masks[0])
        ctx.made = None
        return None, of_x, of_attended, *_sums(layers)


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
    places: Places | None = None,
) -> torch.Tensor:
    """Last hidden states, normed, of the rows `wanted` (N,): (N, H).

    `decoder` is a Llama in peft's LoRA, `prepared` its frozen layers; `embedded` (T, H) has the sequences of
    these `lengths` one after another, `positions` (T,) the position of each row in its own. Rows that are not wanted
    pass the last block only as far as the others attend to them. `places`, if given, tells how rows attend and which
    are wanted, in a fixed shape.
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
        attended = places.attend(query, key, value) if places else attend(query, key, value, lengths)  # (T, heads E)
        rows = wanted if index + 1 == len(prepared.blocks) else None
        if rows is not None:
            hidden, attended = (places.choose(each) if places else each[rows] for each in (hidden, attended))
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
