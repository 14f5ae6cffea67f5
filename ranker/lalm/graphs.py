"""CUDA graphs: a piece of a training step, or a step of decoding, is launched as one and not as thousands of kernels.

Each is a function of static tensors in a few fixed shapes. On a GPU it is captured once per shape and replayed; on a
CPU the very same function is called, so that nothing but the capture itself needs a GPU to be tested. Dropout is drawn
outside of the graph, into a buffer that it reads: it then is the generator's own stream, captured or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from ranker.lalm.fixed import Fixed, fixed_loss, masks_size
from ranker.lalm.joined import Joined
from ranker.lalm.merged import Cache, MergedDecoder
from ranker.lalm.model import AudioLanguageModel, Packed

Made = TypeVar("Made")
Work = Callable[[], None]

# Graphs that are kept. Each takes some of the driver's memory for its thousands of nodes, and a capture takes as long
# as a few steps: enough for the shapes that a training meets again and again.
MOST_PIECES, MOST_STEPS = 96, 64
_WARM_UPS = 2  # calls before a capture, in which libraries and the allocator take what they cannot take during one
# Rows and columns that a step of decoding is rounded up to.
_ROWS, _COLUMNS = (1, 2, 4, 8, 16, 32), 128


class Graphs(Generic[Made]):
    """What was made for each key, of which the least recently used is dropped when there are more than `most`.

    The graphs have their intermediate results in one pool, which is safe since no two run at the same time and none
    reads what another left there: inputs and outputs lie elsewhere (PyTorch, "Graph memory management").
    """

    def __init__(self, device: torch.device, most: int, *, capture: bool = True) -> None:
        self._device, self._most = device, most
        self._made: OrderedDict[Hashable, Made] = OrderedDict()
        capture = capture and device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if capture else None  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle() if capture else None

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` made for this key, now or earlier."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        if len(self._made) >= self._most:
            self._wait()
            self._made.popitem(last=False)
        self._made[key] = make()
        return self._made[key]

    def clear(self) -> None:
        """Drop all."""
        self._wait()
        self._made.clear()

    def captured(self, work: Work) -> Work:
        """What does on a GPU what `work` does, without its launches. Before, it calls `work`, which must do no harm."""
        if self._stream is None:
            return work
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                work()
        here.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": another thread pins the memory of coming batches, which is none of this capture's business.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def _wait(self) -> None:
        if self._stream is not None:
            torch.cuda.synchronize(self._device)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A shape's static input, its dropout and what computes its loss and gradients."""

    input: Fixed
    kept: torch.Tensor
    replay: Work


class PieceGraphs:
    """Loss and gradients of training pieces, each shape captured once.

    Gradients are added up in each weight's `.grad`, which stays the same tensor: set it to zero, not to None.
    """

    keeps_gradients = True

    def __init__(
        self, model: AudioLanguageModel, trained: Sequence[torch.nn.Parameter], *, capture: bool = True
    ) -> None:
        """For these weights; without `capture` each operation is launched by itself, on a GPU too, for comparison."""
        self._model, self._trained, self._joined = model, list(trained), Joined.of(model.decoder)
        self._rate = model.lora_dropout if model.training else 0.0
        self._grads = [torch.zeros_like(weight) for weight in self._trained]
        for weight, grad in zip(self._trained, self._grads, strict=True):
            weight.grad = grad
        self._loss = torch.zeros((), device=model.device)
        self._kept = torch.zeros(0, dtype=torch.uint8, device=model.device)
        self._graphs: Graphs[_Piece] = Graphs(model.device, MOST_PIECES, capture=capture)

    def fit(self, piece: Packed) -> Fixed:
        """The piece in its shape, on the host; any thread may call it."""
        return Fixed.of(piece, pinned=self._model.device.type == "cuda")

    def backward(self, piece: Fixed, generator: torch.Generator | None) -> torch.Tensor:
        """Add the gradients of this piece; its loss, which the next call overwrites. `generator` draws dropout."""
        assert all(weight.grad is grad for weight, grad in zip(self._trained, self._grads, strict=True))
        made = self._graphs.get(piece.shape, lambda: self._made(piece))
        made.input.frames.copy_(piece.frames, non_blocking=True)
        made.input.numbers.copy_(piece.numbers, non_blocking=True)
        if self._rate:
            made.kept.bernoulli_(1.0 - self._rate, generator=generator)
        made.replay()
        return self._loss

    def _made(self, like: Fixed) -> _Piece:
        model, shape = self._model, like.shape
        static = Fixed.blank(shape, like.frames.shape[1], model.device)
        kept = self._room(masks_size(self._joined, shape) if self._rate else 0)

        def work() -> None:
            loss = fixed_loss(model, self._joined, static, rate=self._rate, kept=kept)
            # Not `backward`, whose nodes that add to .grad belong to the stream on which they were first met.
            found = torch.autograd.grad(loss, self._trained)
            torch._foreach_add_(self._grads, found)
            self._loss.copy_(loss.detach())

        return _Piece(input=static, kept=kept, replay=self._graphs.captured(work))  # blank: it adds nothing to .grad

    def _room(self, size: int) -> torch.Tensor:
        """So many bytes for dropout, which all shapes share; those captured before keep a smaller buffer alive."""
        if size > len(self._kept):
            self._kept = torch.zeros(max(size, 2 * len(self._kept)), dtype=torch.uint8, device=self._model.device)
        return self._kept[:size]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Tokens and lengths (2, rows) of a step, and what takes it; the table of rotations that it reads."""

    input: torch.Tensor
    replay: Work
    rotations: object


class StepGraphs:
    """Steps of decoding, each captured once for so many rows and columns of a cache."""

    def __init__(self, decoder: MergedDecoder) -> None:
        self._decoder = decoder
        self._graphs: Graphs[_Step] = Graphs(decoder.device, MOST_STEPS)
        self._keys: torch.Tensor | None = None
        self._logits = torch.empty(0)

    def step(self, tokens: Sequence[int], lengths: Sequence[int], cache: Cache) -> torch.Tensor:
        """As `MergedDecoder.step`, from the host's numbers: logits (n, V), which the next call overwrites.

        Rows behind the n are computed along, and leave garbage in the first column of free rows of the cache, which
        whoever takes such a row overwrites.
        """
        if cache.keys[0] is not self._keys:  # cut anew: what was captured points to memory that is gone
            self._graphs.clear()
            self._keys = cache.keys[0]
            self._logits = torch.empty(cache.rows, len(self._decoder.embedding), device=self._decoder.device)
        rows = min(_rounded_rows(len(tokens)), cache.rows)
        columns = min(-(-(max(lengths) + 1) // _COLUMNS) * _COLUMNS, cache.columns)
        given = torch.zeros(2, rows, dtype=torch.long)
        given[:, : len(tokens)] = torch.tensor([tokens, lengths])
        made = self._graphs.get((rows, columns), lambda: self._made(given, cache, columns))
        made.input.copy_(given)
        made.replay()
        return self._logits[: len(tokens)]

    def _made(self, given: torch.Tensor, cache: Cache, columns: int) -> _Step:
        static = given.to(self._decoder.device, copy=True)  # real numbers: what it writes into the cache is right
        logits = self._logits[: given.shape[1]]

        def work() -> None:
            logits.copy_(self._decoder.step(static[0], static[1], cache, columns))

        replay = self._graphs.captured(work)
        return _Step(input=static, replay=replay, rotations=self._decoder.rotations)


def _rounded_rows(live: int) -> int:
    last = _ROWS[-1]
    return next((rows for rows in _ROWS if rows >= live), -(-live // last) * last)
