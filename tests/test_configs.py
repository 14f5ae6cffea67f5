"""The configurations that ship with ranker: each validates, and the challenge's is the challenge's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ranker.config import Benchmark, Recipe, Task, is_ranking_only, load, load_ranking
from ranker.data.shards import expand_braces
from ranker.settings import Service
from ranker.types import Group, Part, TrackKind

CONFIGS = Path(__file__).parent.parent / "configs"
FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "golden" / "challenge_facts.yaml").read_text())
TASK_FACTS = [(track, facts) for track, tasks in FACTS["tasks"].items() for facts in tasks]


def challenge_task(track: str, name: str) -> Task:
    tasks = load(Benchmark, CONFIGS / "challenge.yaml").track(track).tasks
    (task,) = [task for task in tasks if task.name == name]
    return task


def test_every_config_validates():
    """No shipped file holds a field that is unknown, missing or out of range, and a benchmark bears its file's name."""
    paths = sorted(CONFIGS.glob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        if path.stem == "service":
            load(Service, path)
        else:
            assert load_ranking(path).name == path.stem


def test_every_task_of_a_benchmark_is_asked_as_it_was_trained():
    """A prompt that differs between training and test would measure the prompt; keys may differ, prompts may not."""
    seen = 0
    for path in sorted(CONFIGS.glob("*.yaml")):
        if path.stem == "service" or is_ranking_only(path):
            continue
        for track in load(Benchmark, path).tracks.values():
            for task in track.tasks:
                assert task.train is None or task.train.prompt == task.test.prompt, task.name
                seen += 1
    assert seen >= 22


def test_shipped_service_is_the_default():
    """service.yaml documents the defaults, so it must say what a home without that file gets."""
    assert load(Service, CONFIGS / "service.yaml") == Service()


def test_service_config_names_every_field():
    """A default that is missing from the shipped file would be documented nowhere."""
    written = yaml.safe_load((CONFIGS / "service.yaml").read_text())
    assert set(written) == set(Service.model_fields)
    assert set(written["limits"]) == set(type(Service().limits).model_fields)
    assert set(written["archive"]) == set(type(Service().archive).model_fields)


def test_challenge_spells_out_the_whole_recipe():
    """The challenge's recipe names every field, has the published values, and is what Recipe's defaults claim to be."""
    written = yaml.safe_load((CONFIGS / "challenge.yaml").read_text())["recipe"]
    assert set(written) == set(Recipe.model_fields)
    assert len(FACTS["recipe"]) == 20
    assert {name: written[name] for name in FACTS["recipe"]} == FACTS["recipe"]
    assert written["decoder_layers"] is None
    assert load(Benchmark, CONFIGS / "challenge.yaml").recipe == Recipe()


def test_challenge_has_exactly_the_published_tasks():
    """Fifteen and five tasks are switched on, in the order of the published mixture; two more are there and off."""
    benchmark = load(Benchmark, CONFIGS / "challenge.yaml")
    assert benchmark.whole_protocol
    assert set(benchmark.tracks) == set(FACTS["tasks"]) == {"A", "B"}
    assert [len(FACTS["tasks"][track]) for track in "AB"] == [15, 5]
    for name, track in benchmark.tracks.items():
        assert [task.name for task in track.active_tasks] == [facts["task"] for facts in FACTS["tasks"][name]]
        switched_off = [task.name for task in track.tasks if not task.enabled]
        assert switched_off == FACTS["not_shipped"].get(name, [])
        assert (track.kind, track.recipe, track.group_weights) == (TrackKind.LALM, {}, None)


def test_challenge_counts_labels_as_the_official_table():
    """Every task of Track A, switched on or not, says how many labels it should have; those of Track B have none."""
    benchmark = load(Benchmark, CONFIGS / "challenge.yaml")
    counted = {task.name: task.labels for track in benchmark.tracks.values() for task in track.tasks if task.labels}
    assert len(counted) == 17
    assert counted == FACTS["labels"]
    for task in benchmark.track("A").tasks:
        assert task.num_classes in {None, task.labels}


def test_what_is_switched_off_says_what_it_needs():
    """The two tasks without shards: an organizer reads in the file what to do; `enabled: true` is all that lacks."""
    tasks = [task for task in load(Benchmark, CONFIGS / "challenge.yaml").track("A").tasks if not task.enabled]
    for task in tasks:
        assert "To switch it on:" in (task.note or "")
        assert task.train is not None
        assert task.model_copy(update={"enabled": True}).part is Part.PUBLIC
    assert len(tasks) == 2


@pytest.mark.parametrize(("track", "facts"), TASK_FACTS, ids=[facts["task"] for _, facts in TASK_FACTS])
def test_challenge_task_is_as_published(track: str, facts: dict[str, Any]):
    """Metric, keys, prompts, weights and shards of one task are the published ones, field by field."""
    benchmark, task = load(Benchmark, CONFIGS / "challenge.yaml"), challenge_task(track, facts["task"])
    assert task.metric == facts["metric"]
    assert task.num_classes == facts.get("num_classes")
    assert (task.worst, task.best, task.weight, task.group) == (0.0, 1.0, 1.0, Group.PUBLIC)
    assert (task.part, task.test.max_new_tokens, task.test_items) == (Part.PUBLIC, None, None)
    assert task.train is not None
    assert task.train.mixture_weight == facts["train"]["mixture_prob"]
    for split, published in ((task.train, facts["train"]), (task.test, facts["test"])):
        folder = published["repo"].removeprefix("mispeech/")
        assert benchmark.repositories[folder].repo == published["repo"]
        assert list(split.shards) == [f"{folder}/{shard}" for shard in published["shards"]]
        assert list(split.key) == published["key"].split(";")
        assert split.prompt == published["prompt"]


@pytest.mark.parametrize(("track", "facts"), TASK_FACTS, ids=[facts["task"] for _, facts in TASK_FACTS])
def test_challenge_patterns_name_every_shard(track: str, facts: dict[str, Any]):
    """Patterns expand to as many different files as were published, zero padding kept, none in both splits."""
    task = challenge_task(track, facts["task"])
    assert task.train is not None
    train = [name for pattern in task.train.shards for name in expand_braces(pattern)]
    test = [name for pattern in task.test.shards for name in expand_braces(pattern)]
    assert (len(set(train)), len(set(test))) == (len(train), len(test))
    assert (len(train), len(test)) == (facts["train"]["files"], facts["test"]["files"])
    assert not set(train) & set(test)
    assert not [name for name in train + test if set(name) & set("{}")]


def test_padding_of_brace_ranges_is_kept():
    """A pattern of mixed prefix and range gives the file names that are on the hub, first and last."""
    (pattern,) = challenge_task("A", "asvspoof2015").test.shards
    names = expand_braces(pattern)
    assert names[0] == "xares_llm_data/ASVSpoof2015/test/asvspoof_eval_000000.tar.gz"
    assert names[-1] == "xares_llm_data/ASVSpoof2015/test/asvspoof_eval_000193.tar.gz"
