"""What each deviation changes: two runs that differ in one point, over the same steps, and their finished adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer.findings import Findings
from peer.frame_encoder import FrameEncoder
from peer.ours import Ours, alone, samples
from torch.nn.utils.rnn import pad_sequence

from ranker.types import Layout

# Arguments of the encoder in each of the peer's runs.
SCENARIOS: dict[str, dict[str, Any]] = {
    "masked": {},
    "unmasked": {"mask": False},
    "training mode": {"dropout": 0.1, "norm": True},
    "unfrozen": {"grad": True},
    "other constructor": {"draws": 3},
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run: the loss of each step, the loss on held-out clips, and the answers about them."""

    losses: Sequence[float]
    held_out: float
    answers: list[list[int]]


def drifts(found: Findings, decoder: Path, recorded: dict[str, Any]) -> None:
    runs, prompt = recorded["scenarios"], recorded["spec"]["prompt"]
    steps = recorded["spec"]["steps"]

    def compare(what: str, there: Outcome, here: Outcome, besides: str = "") -> None:
        apart = np.abs(np.array(there.losses) - np.array(here.losses))
        changed = sum(one != other for one, other in zip(there.answers, here.answers, strict=True))
        figures = [f"{value:.4f}" for value in (apart.mean(), apart.max(), there.held_out, here.held_out)]
        found.drift(what, *figures, f"{changed} of {len(here.answers)}", besides)

    def finish(
        ours: Ours, losses: Sequence[float], tests: Sequence[dict[str, Any]], *, padded: bool = False
    ) -> Outcome:
        answers = ours.answers(tests, prompt, padded=padded)
        return Outcome(losses=losses, held_out=ours.held_out(tests, padded=padded), answers=answers)

    def theirs(name: str) -> Outcome:
        ours = Ours(decoder, runs[name], Layout.XARES_LLM, steps)
        ours.load(runs[name]["final"])
        losses = [step["loss"] for step in runs[name]["steps"]]
        return finish(ours, losses, runs[name]["tests"], padded=name == "unmasked")

    base = runs["masked"]
    plain = theirs("masked")
    ours = Ours(decoder, base, Layout.RANKER, steps)
    log = ours.train([samples(batch) for batch in base["steps"]])
    here = finish(ours, [line["loss"] for line in log], base["tests"])
    heard = sum(int(batch["frames"].sum()) for batch in base["steps"])
    padding = 1 - heard / sum(batch["frames"].numel() for batch in base["steps"])
    share = f"{padding:.0%} of the frames are padding"
    compare("text follows the padding, which counts in positions", plain, here, share)
    compare("the same, and padded frames are attended to: the encoder gives no mask", theirs("unmasked"), here, share)

    run = runs["training mode"]
    encoder = FrameEncoder(**SCENARIOS["training mode"])
    ours = Ours(decoder, run, Layout.XARES_LLM, steps)
    log = ours.train([samples(batch, features=alone(batch, encoder)) for batch in run["steps"]])
    tests = [
        batch | {"features": pad_sequence(list(map(torch.from_numpy, alone(batch, encoder))), batch_first=True)}
        for batch in run["tests"]
    ]
    calm = finish(ours, [line["loss"] for line in log], tests)
    compare("the encoder is in training mode (here with dropout 0.1 and batch norm)", theirs("training mode"), calm)

    weight = "audio_encoder.weight"
    moved = float((runs["unfrozen"]["final"][weight] - runs["unfrozen"]["initial"][weight]).abs().max())
    text = f"its weights, 1 at first, move by up to {moved:.1e}"
    compare("an encoder that turns gradients on is trained", theirs("unfrozen"), plain, text)

    run = runs["other constructor"]
    start = max(float((run["initial"][name] - value).abs().max()) for name, value in base["initial"].items())
    same = sum(_equal(one, other) for one, other in zip(run["steps"], base["steps"], strict=True))
    text = f"initial weights differ by up to {start:.1e}; {same} of {steps} batches are the same"
    compare("the encoder's constructor draws three random numbers", theirs("other constructor"), plain, text)

    text_positions = sum(batch["input_ids"].numel() for batch in base["steps"])
    positions = text_positions + sum(batch["features"][..., 0].numel() for batch in base["steps"])
    labels = sum(int((batch["labels"] != -100).sum()) for batch in base["steps"])
    found.check("logits: positions at which they are computed", f"{labels} here, {positions} there")


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = ("input_ids", "audio")
    return all(one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in names)
