"""Products with weights that do not change, laid out once as the processor wants them, and small ones as they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

Product = Callable[[torch.Tensor], torch.Tensor]


def _by_onednn(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Matrices x (T, I) and weight (O, I), however they lie in memory, to (T, O).

    On a CPU by oneDNN: where a matrix has a few columns, as an adapter's have, torch's own takes up to five times as
    long in float32.
    """
    if not _by_onednn(x):
        return x @ weight.T
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")  # noqa: SLF001
    return found


def laid_out(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Product:
    """`x @ weight.T + bias` for a weight (O, I) that is not changed any more: x (..., I) to (..., O).

    On a CPU it is copied as oneDNN wants it: products with it are a fifth faster than torch's own in float32, and in
    bf16 with few rows twice as fast.
    """
    if not _by_onednn(weight):
        return partial(functional.linear, weight=weight, bias=bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 as torch's own compiler does
    multiply = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
    return lambda x: multiply(x, packed, bias, "none", [], "")


class Frozen:
    """A frozen linear layer without a bias: `apply` takes x (T, I) to (T, O), `back` a gradient (T, O) to (T, I).

    On a CPU both hold a copy of the weight.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """Of a weight (O, I)."""
        self.apply = laid_out(weight.detach())
        self.back = laid_out(weight.detach().T.contiguous() if _by_onednn(weight) else weight.detach().T)
