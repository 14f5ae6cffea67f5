"""Training: one visible loop, and checkpoints from which it goes on to the very same weights.

The loop has no state besides step number, weights and optimizer: batches are a function of the benchmark and the
seed, and dropout is seeded anew at each step. So a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from ranker.config import Recipe
from ranker.durable import remove_folder, whole_folder
from ranker.errors import InfraError, ParticipantError
from ranker.lalm.ahead import made_ahead
from ranker.lalm.graphs import PieceGraphs
from ranker.lalm.model import AudioLanguageModel, Example, Packed, seed_of

LOG_NAME = "train.jsonl"
_KEPT_CHECKPOINTS = 2
_OVERFLOWING = 1e9  # norms square and cube what they see: far above any feature in use, far below float32's own end


def learning_rate_at(step: int, *, recipe: Recipe, steps: int) -> float:
    """Linear warm-up from 0 over `warmup_steps`, then linear to 0 at `steps`; `step` counts from 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    return recipe.learning_rate * max(0.0, (steps - step) / max(1, steps - recipe.warmup_steps))


def build_optimizer(model: AudioLanguageModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over the trained weights; biases and norms (all that has one dimension) are not decayed."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True)


def train(
    model: AudioLanguageModel,
    *,
    recipe: Recipe,
    steps: int,
    random_key: str,
    examples: Callable[[int], Sequence[Example]],
    folder: Path,
    resume_from: Path | None,
    cpu: bool,
    on_step: Callable[[int, float], None],
    graphs: bool = False,
) -> None:
    """Train projector and LoRA in place for `steps` steps.

    `examples(step)` gives the batch of a step; another thread calls it, ahead of time. `random_key` names the
    randomness of dropout. Checkpoints go to `folder/step-<n>` every `checkpoint_every` steps and at the end;
    `resume_from` is one of an earlier attempt. `cpu` keeps it off a GPU that is there. `graphs` computes in fixed
    shapes, captured as CUDA graphs where there is a GPU (ranker.lalm.graphs): other sums and other dropout.
    `on_step(done, loss)` is called after each step. One line per step goes to `folder/train.jsonl`, and is on the disk
    before the step's checkpoint is: whoever goes on from a checkpoint finds the lines of all its steps. But for the
    times (`seconds`, `examples_per_s`, `waited_s`) they are the same as without an interruption.
    Raises ParticipantError or InfraError if loss or gradient are not finite; no checkpoint holds such weights.
    """
    # accelerate keeps the first precision and device of a process for ever; a worker does one job after another.
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001
    accelerator = Accelerator(cpu=cpu)  # bf16 is the decoder's own: nothing is cast on the way
    optimizer = build_optimizer(model, recipe)
    model, optimizer = accelerator.prepare(model, optimizer)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    first = _restore(resume_from, model, optimizer) if resume_from else 0
    model.train()
    dropout = torch.Generator(model.device)
    way = PieceGraphs(model, trained) if graphs else _Eager(model=model, accelerator=accelerator)
    coming = made_ahead(lambda step: _Batch.of(model, examples(step), way), range(first, steps))
    taken: list[_Taken] = []
    with (folder / LOG_NAME).open("a", encoding="utf-8", buffering=1) as log, closing(coming):
        for step in range(first, steps):
            started = time.perf_counter()
            rate = learning_rate_at(step, recipe=recipe, steps=steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch, waited_s = next(coming)
            dropout.manual_seed(seed_of(random_key, "dropout", step))
            loss = torch.zeros((), device=model.device)
            for piece in batch.pieces:
                loss += way.backward(piece, dropout)
            norm = accelerator.clip_grad_norm_(trained, recipe.gradient_clip)
            taken.append(_Taken(step=step, batch=batch, rate=rate, waited_s=waited_s, numbers=_Numbers(loss, norm)))
            saving = (step + 1) % recipe.checkpoint_every == 0 or step + 1 == steps
            if saving:  # before the weights take the step, so that none with other than finite numbers is kept
                taken[-1].check(model, steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=not way.keeps_gradients)
            taken[-1].seconds = time.perf_counter() - started
            # A GPU goes on while the numbers of the step before are read.
            known = taken if saving or model.device.type == "cpu" else taken[:-1]
            for each in known:
                each.check(model, steps)
                log.write(json.dumps(each.line()) + "\n")
            if saving:
                os.fsync(log.fileno())
                _save(folder, step + 1, model, optimizer)
            for each in known:
                on_step(each.step + 1, each.numbers.loss)
            taken = taken[len(known) :]
    model.eval()


@dataclass(frozen=True, kw_only=True)
class _Eager:
    """Loss and gradients of pieces, each operation launched as it comes; `PieceGraphs` is the other way."""

    model: AudioLanguageModel
    accelerator: Accelerator
    keeps_gradients = False

    def fit(self, piece: Packed) -> Packed:
        return piece

    def backward(self, piece: Packed, generator: torch.Generator) -> torch.Tensor:
        part = self.model.loss(piece, generator)
        self.accelerator.backward(part)
        return part.detach()


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """A batch, and the pieces that it is computed in, as its way of computing wants them."""

    examples: Sequence[Example]
    pieces: Sequence[Any]

    @classmethod
    def of(cls, model: AudioLanguageModel, examples: Sequence[Example], way: _Eager | PieceGraphs) -> _Batch:
        return cls(examples=examples, pieces=[way.fit(piece) for piece in model.pack(examples)])


class _Numbers:
    """Loss and gradient norm of a step, copied from the device without waiting; to be read later."""

    def __init__(self, loss: torch.Tensor, norm: torch.Tensor) -> None:
        found = torch.stack([loss, norm.to(loss.dtype)])
        self._copied = None
        if found.device.type == "cuda":
            found = torch.empty_like(found, device="cpu", pin_memory=True).copy_(found, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()
        self._found = found

    @cached_property
    def _read(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        read: list[float] = self._found.tolist()
        return read

    @property
    def loss(self) -> float:
        return self._read[0]

    @property
    def norm(self) -> float:
        return self._read[1]


@dataclass(kw_only=True)
class _Taken:
    """A step whose numbers may not be known yet. `step` counts from 0."""

    step: int
    batch: _Batch
    rate: float
    waited_s: float
    numbers: _Numbers
    seconds: float = 0.0

    def check(self, model: AudioLanguageModel, steps: int) -> None:
        """Raise if loss or gradient is not finite."""
        loss, norm = self.numbers.loss, self.numbers.norm
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss {loss} and gradient norm {norm} at step {self.step + 1} of {steps}"
            raise _diverged(model, self.batch.examples, what)

    def line(self) -> dict[str, float]:
        """What the log says of it; `waited_s` of its `seconds` the device had no batch."""
        examples = len(self.batch.examples)
        return {
            "step": self.step + 1,
            "loss": self.numbers.loss,
            "learning_rate": self.rate,
            "gradient_norm": self.numbers.norm,
            "examples": examples,
            "seconds": round(self.seconds, 4),
            "examples_per_s": round(examples / max(self.seconds, 1e-9), 2),
            "waited_s": round(self.waited_s, 4),
        }


def latest_checkpoint(folders: Sequence[Path]) -> Path | None:
    """The complete checkpoint with the most steps in any of these folders (attempts of one job), or None."""
    found = [path for folder in folders for path in folder.glob("step-*") if (path / "state.json").is_file()]
    return max(found, key=lambda path: path.name, default=None)


def adopt(checkpoint: Path, folder: Path) -> Path:
    """Copy an earlier attempt's checkpoint into `folder`, whole or not at all; returns the copy."""
    with whole_folder(folder / checkpoint.name) as temporary:
        for path in checkpoint.iterdir():
            shutil.copyfile(path, temporary / path.name)
    return folder / checkpoint.name


def _diverged(model: AudioLanguageModel, batch: Sequence[Example], what: str) -> Exception:
    """Whose fault it is that training gave numbers that are not finite: all but the features is the same for all."""
    frames = torch.from_numpy(np.concatenate([example.features for example in batch])).to(model.device)
    largest = float(((frames - model.feature_mean) * model.feature_scale).abs().max())
    if largest > _OVERFLOWING:
        return ParticipantError(
            [
                f"training on the encoder's features failed with {what}: they are as large as {largest:.1e}, and "
                f"float32 needs them below {_OVERFLOWING:.0e}; scale them down"
            ]
        )
    return InfraError(f"training failed with {what}, though no feature is larger than {largest:.1e}")


def _save(folder: Path, step: int, model: AudioLanguageModel, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint whole or not at all, then drop all but the last few."""
    moments = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    with whole_folder(folder / f"step-{step:08d}") as temporary:
        model.save_trained(temporary / "trained.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    for old in sorted(folder.glob("step-*"))[:-_KEPT_CHECKPOINTS]:
        remove_folder(old)


def _restore(checkpoint: Path, model: AudioLanguageModel, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and optimizer; returns the number of steps that were done."""
    model.load_trained(checkpoint / "trained.safetensors")
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in load_file(checkpoint / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    step: int = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"]
    return step
