"""What `ranker data inspect` finds in shards that were spoilt on purpose, one way each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console
from tones import tone

from ranker.cli.inspect import tables_of
from ranker.config import Benchmark
from ranker.data.shards import write_shard
from ranker.errors import MissingError, UsageError
from ranker.inspection import TaskInspection, inspect
from ranker.types import Concern

SPLITS = ("train", "test")


def task(name: str, metric: str = "Accuracy", **fields: Any) -> dict[str, Any]:
    split = {"key": ["label"], "prompt": "?"}
    return {
        "name": name,
        "title": name,
        "domain": "sound",
        "metric": metric,
        "train": {**split, "shards": [f"{name}/train.tar"]},
        "test": {**split, "shards": [f"{name}/test.tar"]},
        **fields,
    }


def benchmark(*tasks: dict[str, Any], **recipe: Any) -> Benchmark:
    return Benchmark.model_validate(
        {
            "name": "toy",
            "title": "Toy",
            "description": "toy",
            "whole_protocol": False,
            "recipe": recipe,
            "tracks": {"A": {"title": "a", "tasks": list(tasks)}},
        }
    )


def sample(key: str, pitch: float, label: Any, *, seconds: float = 0.1, kind: str = "flac") -> dict[str, Any]:
    return {"__key__": key, kind: tone(seconds, pitch), "json": {"label": label}}


def write(root: Path, name: str, **splits: list[dict[str, Any]]) -> None:
    for split in SPLITS:
        (root / name).mkdir(exist_ok=True)
        write_shard(root / name / f"{split}.tar", splits[split])


def usual() -> dict[str, list[dict[str, Any]]]:
    """Two labels, four training clips, two test clips; nothing wrong."""
    return {
        "train": [sample(f"a{i}", 200.0 + 40 * i, ("cat", "dog")[i % 2]) for i in range(4)],
        "test": [sample(f"b{i}", 900.0 + 40 * i, ("Cat", "dog.")[i % 2]) for i in range(2)],
    }


def remarks(found: TaskInspection) -> list[tuple[Concern, str]]:
    return [(remark.concern, remark.text) for remark in found.remarks]


def the_remark(found: TaskInspection, word: str) -> Concern:
    """The concern of the only remark that holds `word`."""
    (concern,) = [concern for concern, text in remarks(found) if word in text]
    return concern


def test_nothing_is_said_of_data_in_which_nothing_is_wrong(tmp_path: Path):
    """Counts are right, labels are compared as the metric reads them, and there is no remark: words mean something."""
    write(tmp_path, "t", **usual())
    (found,) = inspect(benchmark(task("t", labels=2)), tmp_path)
    assert remarks(found) == []
    assert not found.is_spoilt
    assert found.train is not None
    assert (found.train.clips, found.train.pairs, found.train.labels, found.test.clips) == (4, 4, 2, 2)
    assert (found.labels_found, found.labels_expected) == (2, 2)
    assert found.train.hours == pytest.approx(0.4 / 3600)
    assert found.train.sample_rates_hz == {16_000: 4}
    assert found.train.codecs == {"flac": 4}
    assert found.test.longest_s == pytest.approx(0.1)


@pytest.mark.parametrize("same_bytes", [True, False])
def test_a_test_clip_that_was_trained_on_spoils_the_score(tmp_path: Path, same_bytes: bool):
    """Also if it is stored in another format there, under another name and with another label."""
    data = usual()
    leaked = data["test"][1]
    if same_bytes:
        again = {"flac": leaked["flac"]}
    else:
        waveform, rate = soundfile.read(io.BytesIO(leaked["flac"]), dtype="int16")
        file = io.BytesIO()
        soundfile.write(file, waveform, rate, format="WAV", subtype="PCM_16")
        again = {"wav": file.getvalue()}
    data["train"].append({"__key__": "zzz", **again, "json": {"label": "cat"}})
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t")), tmp_path)
    (heard,) = found.overlap
    assert (heard.test_clip, heard.training_task) == ("t/test.tar:b1", "t")
    assert (heard.training_clip, heard.same_bytes) == ("t/train.tar:zzz", same_bytes)
    assert the_remark(found, "training clips too") is Concern.SPOILS
    assert found.is_spoilt


def test_a_clip_that_another_task_trains_on_is_a_warning(tmp_path: Path):
    """One model is trained on all tasks of a track: it has heard this sound, though under another question."""
    data, other = usual(), usual()
    other["train"] = [sample("x", 900.0, "cat"), sample("y", 4_000.0, "dog")]
    other["test"] = [sample("v", 5_000.0, "cat"), sample("w", 5_100.0, "dog")]
    write(tmp_path, "t", **data)
    write(tmp_path, "u", **other)
    found = {each.task: each for each in inspect(benchmark(task("t"), task("u")), tmp_path)}
    assert [(heard.test_clip, heard.training_clip) for heard in found["t"].overlap] == [
        ("t/test.tar:b0", "u/train.tar:x")
    ]
    assert the_remark(found["t"], "of task u of the same track") is Concern.WARNING
    assert not found["t"].is_spoilt
    assert found["u"].overlap == ()


def test_names_in_common_are_a_hint_only(tmp_path: Path):
    """The folder of a key does not count; a name may be a mere number."""
    data = usual()
    data["train"][0]["__key__"] = "speaker/b0"
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t")), tmp_path)
    assert found.same_names == 1
    assert the_remark(found, "called like") is Concern.NOTE


@pytest.mark.parametrize("side", SPLITS)
def test_broken_clips_are_named_and_weigh_by_their_side(tmp_path: Path, side: str):
    """In a test set they stop every evaluation; in training they are skipped."""
    data = usual()
    data[side] += [{"__key__": "cut", "flac": tone(0.1, 50.0)[:-200], "json": {}}, sample("mute", 60.0, None)]
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t")), tmp_path)
    facts = getattr(found, side)
    assert [(defect.clip, str(defect.kind)) for defect in facts.defects] == [
        (f"t/{side}.tar:cut", "audio"),
        (f"t/{side}.tar:mute", "label"),
    ]
    expected = Concern.SPOILS if side == "test" else Concern.WARNING
    assert the_remark(found, f"t/{side}.tar:cut") is the_remark(found, f"t/{side}.tar:mute") is expected
    assert found.is_spoilt is (side == "test")


def test_a_shard_that_is_cut_is_a_remark_and_the_others_are_looked_at(tmp_path: Path):
    """The reason of the index is passed on; one bad shard does not hide what the others hold."""
    write(tmp_path, "t", **usual())
    write(tmp_path, "u", **usual())
    path = tmp_path / "t/train.tar"
    path.write_bytes(path.read_bytes()[:2048])
    found = {each.task: each for each in inspect(benchmark(task("t"), task("u")), tmp_path)}
    assert found["t"].train is not None
    assert list(found["t"].train.unreadable_shards) == ["t/train.tar"]
    assert the_remark(found["t"], "t/train.tar") is Concern.SPOILS
    assert not found["u"].is_spoilt
    assert found["u"].test.clips == 2


@pytest.mark.parametrize(
    ("metric", "fields", "test_labels", "word"),
    [
        ("Accuracy", {"labels": 3}, ["cat", "dog"], "3 labels were expected, 2 are"),
        ("Accuracy", {"labels": 2}, ["cat", "dog", "cow"], "2 labels were expected, 3 are"),
        ("mAP", {"num_classes": 2}, ["cat", "cat"], "can have more than 0.500"),
        ("mAP", {"num_classes": 3}, ["cat", "dog;cat"], "3 labels were expected, 2 are"),
    ],
)
def test_another_number_of_labels_than_announced_spoils(
    tmp_path: Path, metric: str, fields: dict[str, int], test_labels: list[str], word: str
):
    """A misspelt label is one more; a class that is never tested makes 1.0 unreachable for mAP."""
    data = usual()
    data["test"] = [sample(f"b{i}", 900.0 + 40 * i, label) for i, label in enumerate(test_labels)]
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t", metric, **fields)), tmp_path)
    assert the_remark(found, word) is Concern.SPOILS


def test_labels_on_one_side_only_are_told(tmp_path: Path):
    """The model cannot answer what it was never taught; what is never asked is only noted."""
    data = usual()
    data["test"][0]["json"] = {"label": "cow"}
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t", labels=3)), tmp_path)
    assert (found.labels_untrained, found.labels_untested) == (("cow",), ("cat",))
    assert the_remark(found, "(1 of 2 pairs) are never seen in training: cow") is Concern.WARNING
    assert the_remark(found, "never tested: cat") is Concern.NOTE


def test_several_references_empty_ones_and_test_sizes(tmp_path: Path):
    """Pairs are counted, not clips; a list of labels under mAP is told, since each is asked for on its own."""
    data = usual()
    data["test"][0]["json"] = {"label": ["cat", "dog", " . "]}
    write(tmp_path, "t", **data)
    (captions,) = inspect(benchmark(task("t", "FENSE", test_items=5)), tmp_path)
    assert (captions.test.clips, captions.test.pairs, captions.labels_found) == (2, 4, None)
    assert the_remark(captions, "5 test pairs, 4 are there") is Concern.WARNING
    assert the_remark(captions, "1 test references hold no text") is Concern.WARNING
    (labels,) = inspect(benchmark(task("t", "mAP", num_classes=3)), tmp_path)
    assert the_remark(labels, "come in lists") is Concern.WARNING


def test_duplicates_weigh_more_where_they_contradict_each_other(tmp_path: Path):
    """The same sound with two labels cannot be learnt; with one it only counts twice."""
    data = usual()
    data["train"] += [sample("again", 200.0, "cat"), sample("liar", 240.0, "cat")]
    data["test"].append(sample("twice", 900.0, "cat"))
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t")), tmp_path)
    assert found.train is not None
    assert (found.train.duplicates, found.train.contradictions) == (2, 1)
    assert the_remark(found, "1 training clips are, sample by sample") is Concern.WARNING
    assert (found.test.duplicates, found.test.contradictions) == (1, 0)
    assert the_remark(found, "1 test clips are there more than once") is Concern.WARNING


def test_long_clips_and_other_formats_are_noted(tmp_path: Path):
    """The share of training clips that are cropped, and a difference in format that an encoder could hear."""
    data = usual()
    data["train"].append(sample("long", 700.0, "cat", seconds=0.5))
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(4_410) / 9), 44_100, format="WAV", subtype="PCM_16")
    data["test"] = [{"__key__": f"b{i}", "wav": file.getvalue(), "json": {"label": "cat"}} for i in range(2)]
    write(tmp_path, "t", **data)
    (found,) = inspect(benchmark(task("t"), max_audio_s=0.3), tmp_path)
    assert found.train is not None
    assert (found.train.too_long, found.train.longest_clip) == (1, "t/train.tar:long")
    assert the_remark(found, "(20.0%) are cropped") is Concern.NOTE
    assert the_remark(found, "sample rates differ: 16000 in training, 44100 in the test") is Concern.NOTE
    assert the_remark(found, "codecs differ") is Concern.NOTE


def test_one_task_can_be_looked_at_alone(tmp_path: Path):
    """Then only its shards need be there; an unknown task is told with those that exist."""
    write(tmp_path, "t", **usual())
    both = benchmark(task("t"), task("u"))
    assert [found.task for found in inspect(both, tmp_path, task="t")] == ["t"]
    with pytest.raises(MissingError, match=r"u/train\.tar"):
        inspect(both, tmp_path)
    with pytest.raises(UsageError, match=r"has no task 'v' .*it has t, u"):
        inspect(both, tmp_path, task="v")


def test_a_second_look_decodes_nothing(tmp_path: Path):
    """What was found is kept beside each shard: nothing is left to be done, and the same comes out."""
    write(tmp_path, "t", **usual())
    seen: list[tuple[int, int]] = []
    first = inspect(benchmark(task("t")), tmp_path, on_progress=lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1] > 0
    seen.clear()
    assert inspect(benchmark(task("t")), tmp_path, on_progress=lambda *done: seen.append(done)) == first
    assert seen == [(0, 0)]


def test_the_table_fits_a_terminal_and_says_it_all(tmp_path: Path):
    """At 80 columns no number is cut off, and every remark's text is there whole."""
    data = usual()
    data["train"].append({"__key__": "[bold]", "flac": data["test"][0]["flac"], "json": {"label": "cat"}})
    write(tmp_path, "t", **data)
    found = inspect(benchmark(task("t", labels=7)), tmp_path)
    console = Console(width=80, file=io.StringIO(), highlight=False)
    with console.capture() as capture:
        console.print(tables_of(found))
    printed = capture.get()
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "…" not in printed
    flat = "".join(printed.split())
    texts = [text for each in found for _, text in remarks(each)]
    assert len(texts) == 2
    assert all("".join(text.split()) in flat for text in texts)
    assert "train.tar:[bold]" in flat, "a clip's name is no markup"
    assert "spoilt on 1 of 1 tasks: t" in printed


def test_the_command_prints_json_and_exits_with_1_if_a_score_would_be_spoilt(tmp_path: Path, capfd):
    """For programs: the same facts; the exit code says whether to go on."""
    from ranker.cli.app import main

    home = tmp_path / "home"
    (home / "configs").mkdir(parents=True)
    (home / "data" / "toy").mkdir(parents=True)
    (home / "configs" / "toy.yaml").write_text(json.dumps(benchmark(task("t")).model_dump(mode="json")))
    data = usual()
    write(home / "data" / "toy", "t", **data)
    for spoilt in (False, True):
        if spoilt:
            write(home / "data" / "toy", "t", train=data["train"] + data["test"], test=data["test"])
        with pytest.raises(SystemExit) as exit_:
            main(["--home", str(home), "data", "inspect", "toy", "--json"])
        assert exit_.value.code == int(spoilt)
        (found,) = json.loads(capfd.readouterr().out)
        assert (found["task"], found["is_spoilt"], len(found["overlap"])) == ("t", spoilt, 2 * spoilt)
