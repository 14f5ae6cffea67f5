"""What a score's identity depends on, and what it must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tones import write_tones

from ranker import config
from ranker.conditions import condition_for
from ranker.config import Benchmark, Recipe, Task, Track
from ranker.data import store
from ranker.errors import MissingError, UsageError
from ranker.home import Home
from ranker.lalm.decoder import STAND_IN_DECODER
from ranker.types import Condition, Domain, Group, Layout, MetricModels, MetricName, Part, Precision, Trained

NOT_MEASURED = {"checkpoint_every", "feature_cache_gb", "answer_memory_gb", "threads", "metric_models"}
OTHER: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value / 2 + 0.125,
    str: lambda value: f"{value}x",
    tuple: lambda value: (*value[:-1], other(value[-1])),
    Part: lambda value: Part.HIDDEN if value is Part.PUBLIC else Part.PUBLIC,
    Precision: lambda value: Precision.BF16 if value is Precision.FP32 else Precision.FP32,
    Layout: lambda value: Layout.XARES_LLM if value is Layout.RANKER else Layout.RANKER,
    MetricModels: lambda _: MetricModels.MINILM,
    type(None): lambda _: 1,
}
CONDITION = Condition(
    benchmark="tiny",
    track="A",
    measurement="m",
    data="d",
    decoder="w",
    decoder_layers=30,
    metric_models="",
    steps=100,
    precision=Precision.FP32,
    device="cpu",
    sandboxed=True,
    demonstration=("mini",),
)


def other(value: Any) -> Any:
    """Another value of the same kind."""
    return OTHER[type(value)](value)


def task(name: str, **changes: Any) -> Task:
    split = {"shards": [f"{name}.tar"], "key": ["label"], "prompt": "Which?"}
    values = {"name": name, "title": name, "domain": "music", "metric": "Accuracy", "train": split, "test": split}
    return Task.model_validate(values | changes)


def benchmark(*tasks: Task, **changes: Any) -> Benchmark:
    tracks = {
        "A": Track(title="A", tasks=tasks or (task("one"), task("two"))),
        "B": Track(title="B", tasks=(task("b"),)),
    }
    values: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "description": "",
        "whole_protocol": False,
        "recipe": Recipe(decoder=STAND_IN_DECODER, decoder_layers=2),
        "tracks": tracks,
    }
    return Benchmark.model_validate(values | changes)


@pytest.mark.parametrize("name", [field.name for field in fields(Condition)])
def test_condition_digest_reacts_to_every_field_but_the_words(name: str) -> None:
    """A field that is added and forgotten in the digest would let two conditions share a board."""
    changed = replace(CONDITION, **{name: other(getattr(CONDITION, name))})
    assert (changed.digest == CONDITION.digest) == (name == "demonstration")
    assert Condition.from_json(changed.to_json()) == changed


@pytest.mark.parametrize("name", list(Recipe.model_fields))
def test_measurement_reacts_to_every_field_of_the_recipe_that_moves_a_score(name: str) -> None:
    """Checkpoints, cache and threads are how a run is done, not what it computes; metric models have a field of their
    own in the condition; all else is.
    """
    plain = benchmark()
    changed = plain.model_copy(
        update={"recipe": plain.recipe.model_copy(update={name: other(getattr(plain.recipe, name))})}
    )
    assert changed.recipe != plain.recipe
    assert (changed.measurement_digest("A") == plain.measurement_digest("A")) == (name in NOT_MEASURED)


SAME = {
    "title": "Other",
    "domain": Domain.SPEECH,
    "worst": -1.0,
    "best": 2.0,
    "weight": 3.0,
    "test_items": 100,
    "labels": 7,
    "trained": Trained.NONE,  # which a public task cannot be; see test_hidden.py
    "note": "a note",
    "confound": "the room",
}
DIFFERENT = {
    "name": "three",
    "metric": MetricName.IWER,
    "num_classes": 7,
    "group": Group.HIDDEN,  # asked of another model
    "enabled": False,
    "train": None,
    "test": config.TestSplit(shards=("other.tar",), key=("label",), prompt="Which?"),
}


def test_measurement_knows_every_field_of_a_task() -> None:
    """Bounds, weights and words belong to the ranking, and cost no run; the rest asks for one."""
    assert set(SAME) | set(DIFFERENT) == set(Task.model_fields)
    plain = benchmark().measurement_digest("A")
    for name, value in (SAME | DIFFERENT).items():
        track = (
            benchmark()
            .track("A")
            .model_copy(update={"tasks": (task("one").model_copy(update={name: value}), task("two"))})
        )
        changed = benchmark().model_copy(update={"tracks": {"A": track}})
        assert (changed.measurement_digest("A") == plain) == (name in SAME), name


@pytest.mark.parametrize(("kind", "side"), [(config.TrainSplit, "train"), (config.TestSplit, "test")])
def test_measurement_reacts_to_every_field_of_a_split(kind: type[BaseModel], side: str) -> None:
    """Shards, keys, prompt, mixture weight and the cap of an answer's length; by what clips are grouped moves intervals
    alone, and costs no run.
    """
    plain = benchmark()
    seen = 0
    for name in kind.model_fields:
        split = getattr(task("one"), side)
        changed = split.model_copy(update={name: other(getattr(split, name))})
        assert changed != split
        moved = benchmark(task("one").model_copy(update={side: changed}), task("two"))
        assert (moved.measurement_digest("A") == plain.measurement_digest("A")) == (name == "cluster"), name
        seen += name != "cluster"
    assert seen == 4


def test_measurement_is_the_tracks_own() -> None:
    """Names that people read, the ranking's weights, tasks that are off and the other track change nothing; another
    order of tasks does, since it is the mixture's.
    """
    plain = benchmark()
    off = task("three", enabled=False, note="no data")
    weighted = Track(title="Z", tasks=(task("one"), task("two"), off), group_weights={Group.PUBLIC: 2.0})
    other_track = Track(title="B", tasks=(task("c"),))
    same = benchmark(title="T", description="D", whole_protocol=True, tracks={"A": weighted, "B": other_track})
    assert same.measurement_digest("A") == plain.measurement_digest("A")
    assert same.measurement_digest("B") != plain.measurement_digest("B")
    turned = benchmark(task("two"), task("one"))
    assert turned.measurement_digest("A") != plain.measurement_digest("A")
    assert benchmark(name="other").measurement_digest("A") != plain.measurement_digest("A")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose benchmark is built."""
    found = Home(root=tmp_path)
    build(found, 0.25)
    return found


def build(home: Home, duration_s: float) -> None:
    def shards(folder: Path, _: store.ProgressHook) -> None:
        for name in ("one", "two"):
            write_tones(folder / f"{name}.tar", [duration_s] * 2)
        write_tones(folder / "b.tar", [0.25])

    store.build(home.data / "tiny", shards, version=1)


def condition(home: Home, track: str = "A", limit_steps: int | None = None, **changes: Any) -> Condition:
    return condition_for(home, benchmark(**changes), track, limit_steps=limit_steps, sandboxed=True, device="cpu")


def test_condition_follows_the_tracks_own_data(home: Home) -> None:
    """Other shards of the track are another condition; shards of another track are not its business."""
    before = {track: condition(home, track) for track in "AB"}
    build(home, 0.5)
    after = {track: condition(home, track) for track in "AB"}
    assert after["A"].data != before["A"].data
    assert after["B"] == before["B"]


def test_cuda_graphs_are_another_condition_on_a_gpu_and_none_on_a_cpu(home: Home) -> None:
    """Other sums and other dropout share no board and no weights; a CPU has no graphs, whatever the home says."""
    asked = [
        condition_for(home, benchmark(), "A", limit_steps=None, sandboxed=True, device=device, cuda_graphs=graphs)
        for device in ("cpu", "NVIDIA H200")
        for graphs in (False, True)
    ]
    assert [each.cuda_graphs for each in asked] == [False, False, False, True]
    assert len({each.digest for each in asked}) == len({each.circumstances for each in asked}) == 3


def test_more_steps_than_the_recipe_has_are_no_other_condition(home: Home) -> None:
    """`--limit-steps` limits: above the recipe's steps it changes nothing, below it is said, and zero is refused."""
    whole = condition(home)
    assert condition(home, limit_steps=10**9) == whole
    fewer = condition(home, limit_steps=7)
    assert (fewer.steps, fewer.measurement) == (7, whole.measurement)
    assert set(fewer.demonstration) - set(whole.demonstration) == {
        "training stopped after 7 of 100000 steps (--limit-steps)"
    }
    with pytest.raises(UsageError, match="at least 1"):
        condition(home, limit_steps=0)


def test_every_departure_from_the_protocol_is_said(home: Home) -> None:
    """Stand-in decoder, fewer layers, another benchmark, stand-in metric, no sandbox: each has its sentence."""
    tasks = (task("one", metric="FENSE"), task("two", metric="DATE[clip]"))
    recipe = Recipe(decoder=STAND_IN_DECODER, decoder_layers=2, metric_models=MetricModels.MINILM)
    small = benchmark(*tasks, recipe=recipe)
    found = condition_for(home, small, "A", limit_steps=None, sandboxed=False, device="cpu")
    words = " / ".join(found.demonstration)
    for each in (
        "“Tiny”",
        "stand-in for SmolLM2-135M",
        "first 2 of the decoder's 30",
        "FENSE[minilm], a stand-in for FENSE",
        "DATE[clip,minilm], a stand-in for DATE[clip]",
        "without a sandbox",
    ):
        assert each in words
    assert len(found.demonstration) == 6
    assert found.metric_models != condition(home).metric_models == ""


def test_captions_without_the_reference_models_are_refused_before_training(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks a fallback in silence: where they are missing, the default recipe scores no caption with another model.

    And a track without captions asks for none.
    """
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path / "empty"))
    captions = benchmark(task("one", metric="FENSE[clip]"), task("two"))
    with pytest.raises(MissingError, match="ranker data fetch challenge"):
        condition_for(home, captions, "A", limit_steps=None, sandboxed=True, device="cpu")
    assert condition_for(home, benchmark(), "A", limit_steps=None, sandboxed=True, device="cpu").metric_models == ""


def test_missing_data_is_said_before_anything_is_queued(tmp_path: Path) -> None:
    """With the command that builds it."""
    with pytest.raises(MissingError, match="ranker data fetch tiny"):
        condition(Home(root=tmp_path))
