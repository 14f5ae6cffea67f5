"""Training: the schedule, determinism, resuming, and a golden loss curve."""

from __future__ import annotations

import json
from pathlib import Path

import lalm
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from ranker.config import Recipe
from ranker.errors import InfraError
from ranker.lalm.model import AudioLanguageModel
from ranker.lalm.train import build_optimizer, latest_checkpoint, learning_rate_at, train

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


def test_loss_curve_is_the_recorded_one(tmp_path: Path) -> None:
    """Any change of model, loss, optimizer, schedule or data order moves this curve."""
    run(lalm.tiny_recipe(), tmp_path)
    golden = json.loads(GOLDEN.read_text())
    assert losses(tmp_path) == pytest.approx(golden, rel=2e-3)
    assert golden[-1] < golden[0] / 2


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.3}, {"precision": "bf16", "lora_dropout": 0.0}])
def test_same_seed_gives_the_same_bits(tmp_path: Path, changes: dict[str, object]) -> None:
    """Dropout included: its randomness is a function of key and step."""
    recipe = lalm.tiny_recipe(**changes)
    first = run(recipe, tmp_path / "first")
    torch.rand(5)
    assert_equal(first, run(recipe, tmp_path / "second"))


@pytest.mark.parametrize("stop_after", [5, 8, 11])
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


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    """It is said at once, and no checkpoint of it is kept."""
    recipe = lalm.tiny_recipe()
    model = lalm.build(recipe)
    with torch.no_grad():
        model.projector.weight.fill_(float("nan"))
    with pytest.raises(InfraError, match="step 1 of 12"):
        train(
            model,
            recipe=recipe,
            steps=12,
            random_key="key",
            examples=lambda step: lalm.batch(model, step),
            folder=tmp_path,
            resume_from=None,
            cpu=True,
            on_step=lambda done, loss: None,
        )
    assert latest_checkpoint([tmp_path]) is None
