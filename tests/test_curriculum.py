"""What is trained on at each step."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tones import write_tones

from ranker.config import Recipe, Task, Track
from ranker.lalm.curriculum import Sample, curriculum


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, labels in (("high", ("one", "two")), ("low", ("three", "four", "five"))):
        (tmp_path / name).mkdir()
        fields = [{"label": labels[index % len(labels)]} for index in range(12)]
        write_tones(tmp_path / name / "train.tar", [0.2 + 0.05 * (index % 4) for index in range(12)], fields)
    return tmp_path


def track() -> Track:
    tasks = [
        Task.model_validate(
            {
                "name": name,
                "title": name,
                "domain": "sound",
                "metric": "Accuracy",
                "train": {"shards": [f"{name}/train.tar"], "key": ["label"], "prompt": f"Which {name}?"},
                "test": {"shards": [f"{name}/train.tar"], "key": ["label"], "prompt": f"Which {name}?"},
            }
        )
        for name in ("high", "low")
    ]
    return Track(title="Tones", tasks=tuple(tasks))


def plan(data: Path, key: str = "key", steps: int = 20) -> list[tuple[Sample, ...]]:
    recipe = Recipe(batch_size=4, shuffle_window=32, sort_window=16)
    return curriculum(
        track(), recipe, data=data, seed=1, random_key=key, steps=steps, count_tokens=lambda text: len(text.split())
    )


def test_plan_is_a_function_of_key_and_data_alone(data: Path) -> None:
    """Global random states, which a submission could have touched, do not matter; the key does."""
    random.seed(1)
    np.random.default_rng(1)
    first = plan(data)
    random.seed(2)
    assert plan(data) == first
    assert plan(data, "other") != first


def test_fewer_steps_are_the_beginning_of_more(data: Path) -> None:
    """--limit-steps sees what the whole run sees first."""
    assert plan(data, steps=5) == plan(data)[:5]


def test_every_batch_is_full_and_both_tasks_appear(data: Path) -> None:
    """Each sample asks its own task's prompt and carries one of that task's answers."""
    batches = plan(data)
    assert [len(batch) for batch in batches] == [4] * 20
    asked = {(sample.prompt, sample.answer) for batch in batches for sample in batch}
    assert {prompt for prompt, _ in asked} == {"Which high?", "Which low?"}
    assert {answer for prompt, answer in asked if prompt == "Which high?"} == {"one", "two"}
