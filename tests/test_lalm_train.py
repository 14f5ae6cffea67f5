"""Training: the schedule, determinism, resuming, and a golden loss curve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import full_disk
import kills
import lalm
import numpy as np
import pytest
import torch
from effort import todays
from transformers import get_linear_schedule_with_warmup

from ranker.config import Recipe
from ranker.errors import InfraError, ParticipantError
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.train import adopt, build_optimizer, latest_checkpoint, learning_rate_at, train
from ranker.sandbox.base import Features

GOLDEN = Path(__file__).parent / "golden" / "loss_curve.json"


def run(
    recipe: Recipe, folder: Path, *, resume_from: Path | None = None, stop_after: int | None = None
) -> AudioLanguageModel:
    """Train a fresh tiny model; `stop_after` ends it as a kill would, with whatever is on the disk."""

    def on_step(done: int, loss: float) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    model = lalm.build(recipe)
    try:
        train(
            model,
            recipe=recipe,
            steps=recipe.steps,
            random_key="key",
            examples=lambda step: lalm.batch(model, step),
            folder=folder,
            resume_from=resume_from,
            cpu=True,
            on_step=on_step,
        )
    except KeyboardInterrupt:
        assert stop_after is not None
    return model


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


def assert_equal(one: AudioLanguageModel, other: AudioLanguageModel) -> None:
    ours, theirs = one.trained_state(), other.trained_state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def off_the_golden_curve(folder: Path, **changes: object) -> float:
    """The largest relative difference between the recorded losses and those of the golden recipe with `changes`."""
    folder.mkdir(exist_ok=True)
    run(lalm.tiny_recipe(**{"weight_decay": 0.5, **changes}), folder)
    golden = json.loads(GOLDEN.read_text())
    found = losses(folder)[: len(golden)]
    assert len(found) == len(golden) == 12
    assert golden[-1] < golden[0] / 2
    return max(abs(one - other) / other for one, other in zip(found, golden, strict=True))


# Noise of one part in 10^7 on every weight, which is float32's rounding, moves the curve by 5e-6; of one in 10^6, by
# 3e-5. So another machine's order of sums stays far below this bound, and the least mistake below is far above it.
GOLDEN_WITHIN = 2e-4


def test_loss_curve_is_the_recorded_one(tmp_path: Path) -> None:
    """Any change of model, loss, optimizer, schedule or data order moves this curve."""
    assert off_the_golden_curve(tmp_path) < GOLDEN_WITHIN


MISTAKES = [
    {"warmup_steps": 4},
    {"steps": 13},
    {"weight_decay": 0.0},
    {"gradient_clip": 1e9},
    {"epsilon": 1e-7},
    {"layout": "xares_llm"},
]


@pytest.mark.parametrize("mistake", todays("small mistakes in training", MISTAKES))
def test_loss_curve_shows_small_mistakes(tmp_path: Path, mistake: dict[str, object]) -> None:
    """A schedule that is off by one step, decay or clipping that is not applied: each leaves the bound five times."""
    assert off_the_golden_curve(tmp_path, **mistake) > 5 * GOLDEN_WITHIN


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.3}, {"precision": "bf16", "lora_dropout": 0.0}])
def test_same_seed_gives_the_same_bits(tmp_path: Path, changes: dict[str, object]) -> None:
    """Dropout included: its randomness is a function of key and step."""
    recipe = lalm.tiny_recipe(**changes)
    first = run(recipe, tmp_path / "first")
    torch.rand(5)
    assert_equal(first, run(recipe, tmp_path / "second"))


FRESH = """
import hashlib, pathlib, sys, tempfile
import lalm, test_lalm_train
with tempfile.TemporaryDirectory() as folder:
    model = test_lalm_train.run(lalm.tiny_recipe(lora_dropout=0.3, steps=3), pathlib.Path(folder))
digest = hashlib.sha256()
for name, weight in sorted(model.trained_state().items()):
    digest.update(name.encode() + weight.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.dear(day=0)
def test_two_fresh_processes_give_the_same_bits() -> None:
    """Nothing of a process (its hash seed, its history) gets into the adapters; the two run at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FRESH],
            cwd=Path(__file__).parent,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0].split()[-1] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert len(first) == 64
    assert first == second


def heard(recipe: Recipe, folder: Path, encoder: Callable[[Example], Features]) -> dict[str, Any]:
    """Train with what this encoder makes of each clip; what it started from, and every dropout mask that was drawn."""
    model = lalm.build(recipe)
    initial = {name: value.clone() for name, value in model.trained_state().items()}
    masks: list[torch.Tensor] = []
    draw = model.dropping

    class Seen:
        def __init__(self, *given: Any) -> None:
            self.drawn = draw(*given)
            self.rate = self.drawn.rate

        def keep(self, *given: Any) -> torch.Tensor | None:
            masks.extend(found := [self.drawn.keep(*given)])
            return found[0]

    model.dropping = Seen  # type: ignore[assignment]

    def examples(step: int) -> list[Example]:
        return [replace(example, features=encoder(example)) for example in lalm.batch(model, step)]

    folder.mkdir()
    train(
        model,
        recipe=recipe,
        steps=recipe.steps,
        random_key="key",
        examples=examples,
        folder=folder,
        resume_from=None,
        cpu=True,
        on_step=lambda done, loss: None,
    )
    return {"initial": initial, "masks": masks, "final": model.trained_state()}


def test_two_encoders_of_one_size_differ_by_their_features_only(tmp_path: Path) -> None:
    """Same initial weights and same dropout, although one of them moves torch's random state at each clip."""

    def rude(example: Example) -> Features:
        return example.features * -3.0 + torch.rand(1).numpy()

    recipe = lalm.tiny_recipe(lora_dropout=0.3, steps=3)
    one = heard(recipe, tmp_path / "one", lambda example: example.features)
    other = heard(recipe, tmp_path / "other", rude)
    assert len(one["masks"]) == len(other["masks"]) == 3 * 7
    assert all(torch.equal(*masks) for masks in zip(one["masks"], other["masks"], strict=True))
    assert all(0 < float(mask.float().mean()) < 1 for mask in one["masks"])
    assert all(torch.equal(value, other["initial"][name]) for name, value in one["initial"].items())
    assert not all(torch.equal(value, other["final"][name]) for name, value in one["final"].items())


@pytest.mark.parametrize("stop_after", todays("steps after which training is stopped and resumed", [5, 8, 11]))
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    """Weights, and so all that follows; also where the last steps before the stop were not yet in a checkpoint."""
    recipe = lalm.tiny_recipe(lora_dropout=0.3)
    whole = run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "stopped", stop_after=stop_after)
    checkpoint = latest_checkpoint([tmp_path / "stopped"])
    assert checkpoint is not None
    assert checkpoint.name == f"step-{stop_after // 4 * 4:08d}"
    assert_equal(whole, run(recipe, tmp_path / "resumed", resume_from=checkpoint))


def test_half_a_checkpoint_is_not_taken_for_one(tmp_path: Path) -> None:
    """A checkpoint is there once it was renamed whole; what a kill left behind is passed over."""
    run(lalm.tiny_recipe(), tmp_path)
    (tmp_path / ".step-killed").mkdir()
    (tmp_path / "step-00000099").mkdir()
    found = latest_checkpoint([tmp_path, tmp_path / "missing"])
    assert found == tmp_path / "step-00000012"
    assert sorted(path.name for path in tmp_path.glob("step-*[0-8]")) == ["step-00000008", "step-00000012"]


@pytest.mark.parametrize(("warmup", "steps"), [(0, 10), (3, 12), (200, 1000), (20, 20)])
def test_schedule_is_the_one_of_transformers(warmup: int, steps: int) -> None:
    """Linear warm-up from 0, then linear to 0, at every step."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
    recipe = lalm.tiny_recipe(warmup_steps=warmup, learning_rate=1e-4)
    for step in range(steps):
        assert learning_rate_at(step, recipe=recipe, steps=steps) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_weight_decay_spares_biases() -> None:
    """Decay pulls matrices, not what has one dimension; together they are all that is trained."""
    recipe = lalm.tiny_recipe()
    model = lalm.build(recipe)
    decayed, spared = build_optimizer(model, recipe).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    assert [weight.shape for weight in spared["params"]] == [model.projector.bias.shape]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(decayed["params"]) + len(spared["params"]) == len(trained)


def train_once(model: AudioLanguageModel, folder: Path, *, loud: float | None = None) -> None:
    """One step and its checkpoint; with `loud`, every feature has that value."""
    recipe = lalm.tiny_recipe(checkpoint_every=1)

    def examples(step: int) -> list[Example]:
        samples = lalm.batch(model, step)
        return samples if loud is None else [replace(s, features=np.full_like(s.features, loud)) for s in samples]

    train(
        model,
        recipe=recipe,
        steps=1,
        random_key="key",
        examples=examples,
        folder=folder,
        resume_from=None,
        cpu=True,
        on_step=lambda done, loss: None,
    )


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """It is said at once, and no checkpoint of it is kept."""
    model = lalm.build(lalm.tiny_recipe())
    with torch.no_grad():
        model.projector.weight.fill_(float("nan"))
    with pytest.raises(InfraError, match="step 1 of 1"):
        train_once(model, tmp_path)
    assert latest_checkpoint([tmp_path]) is None


def test_gradient_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """The loss may still be finite in the step whose gradient spoils the weights; they must not become a checkpoint."""
    model = lalm.build(lalm.tiny_recipe())
    model.projector.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(InfraError, match="gradient"):
        train_once(model, tmp_path)
    assert latest_checkpoint([tmp_path]) is None
    assert torch.isfinite(model.projector.weight).all()


def test_features_that_overflow_are_their_teams_fault(tmp_path: Path) -> None:
    """Nobody can make the organizer's queue retry and stop by features that are finite, but of no use to float32."""
    model = lalm.build(lalm.tiny_recipe(projector_init="torch"))
    with pytest.raises(ParticipantError, match=r"features.*as large as 3\.0e\+38"):
        train_once(model, tmp_path, loud=3e38)
    assert latest_checkpoint([tmp_path]) is None


def test_checkpoint_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """What was half written is removed, or every retry would fill the disk further."""
    model = lalm.build(lalm.tiny_recipe())
    with full_disk.after(100_000), pytest.raises(Exception, match=r"(?i)file too large|os error 27"):
        train_once(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The last checkpoint of an attempt."""
    (tmp_path / "attempt-0001").mkdir()
    train_once(lalm.build(lalm.tiny_recipe()), tmp_path / "attempt-0001")
    return tmp_path / "attempt-0001/step-00000001"


def test_checkpoint_is_taken_over_whole_or_not_at_all(finished: Path, tmp_path: Path) -> None:
    """A kill at any moment of the copying leaves no half checkpoint, which every later attempt would stumble over."""
    kept = {path.name: path.read_bytes() for path in finished.iterdir()}
    folder = tmp_path / "attempt-0002"

    def copy() -> None:
        adopt(finished, folder)

    step = 1
    while True:
        folder.mkdir()
        was_killed = kills.is_killed_at(step, folder, lambda _touch: copy())
        found = latest_checkpoint([folder, finished.parent])
        assert found is not None
        assert {path.name: path.read_bytes() for path in found.iterdir()} == kept
        if not was_killed:
            break
        shutil.rmtree(folder)
        step += 1
    assert found.parent == folder
    assert step > len(kept)


def test_checkpoint_taken_over_on_a_full_disk_leaves_nothing(finished: Path, tmp_path: Path) -> None:
    """Copying the small files and not the large one would make a checkpoint that cannot be loaded."""
    folder = tmp_path / "attempt-0002"
    folder.mkdir()
    with full_disk.after(100_000), pytest.raises(OSError, match="File too large"):
        adopt(finished, folder)
    assert list(folder.iterdir()) == []
