"""The benchmark mini: what its clips are, that nothing leaks from training into test, and that labels can be heard."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.audio import prepare
from ranker.data.benchmarks import mini
from ranker.data.shards import Clip, read_audio, read_bytes, read_split
from ranker.home import asset

CONFIG = load(Benchmark, asset("configs") / "mini.yaml")
TASKS = {task.name: task for track in CONFIG.tracks.values() for task in track.tasks}
LABELLED = [task.name for task in CONFIG.track("A").tasks]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole benchmark, built once."""
    root = tmp_path_factory.mktemp("data") / "mini"
    store.build(root, mini.build, version=mini.VERSION)
    return root


def clips(root: Path, split) -> list[Clip]:
    return [clip for shard in read_split(root, split.shards) for clip in shard.clips]


def values(found: list[Clip], field: str) -> set:
    """Every value of a field, lists taken apart."""
    every = [clip.fields[field] for clip in found]
    return {each for value in every for each in (value if isinstance(value, list) else [value])}


@pytest.mark.dear(day=2)
def test_it_is_the_same_when_built_again(tmp_path: Path):
    """Byte for byte, in another folder and after another build in the same process."""
    few = {name: part._replace(train=12, test=6) for name, part in mini.PARTS.items()}
    digests = [
        store.build(tmp_path / name, lambda folder, progress: mini.build(folder, progress, few), version=1)
        for name in "ab"
    ]
    assert digests[0] == digests[1]


@pytest.mark.dear(day=2)
def test_the_configuration_uses_every_shard_that_is_built(root: Path):
    """No shard is missing and none is left over; every clip has references under the task's own keys."""
    splits = [split for task in TASKS.values() for split in (task.train, task.test)]
    used = [shard for split in splits for shard in read_split(root, split.shards)]
    built = {str(path.relative_to(root)) for path in root.rglob("*.tar")}
    assert {shard.path for shard in used} == built
    assert len(used) == len(built)
    assert set(TASKS) == set(mini.PARTS)
    for split in splits:
        for clip in clips(root, split):
            assert split.key[0] in clip.fields
            assert all(clip.references(split.key))


@pytest.mark.dear(day=2)
@pytest.mark.parametrize("name", TASKS)
def test_length_and_level_tell_nothing(root: Path, name: str):
    """All clips of a task are equally long, 16 kHz and mono, and none is silent or clipped."""
    for split in (TASKS[name].train, TASKS[name].test):
        every = [read_audio(root, clip) for clip in clips(root, split)]
        assert {(waveform.shape, rate) for waveform, rate in every} == {
            ((round(mini.PARTS[name].duration_s * 16_000),), 16_000)
        }
        peaks = [float(np.abs(waveform).max()) for waveform, _ in every]
        assert 0.29 < min(peaks) < max(peaks) < 0.91


@pytest.mark.dear(day=2)
def test_no_clip_is_heard_twice(root: Path):
    """All audio of the benchmark differs, within a task and across tasks, training and test."""
    digests = [
        hashlib.sha256(read_bytes(root, clip)).hexdigest()
        for task in TASKS.values()
        for split in (task.train, task.test)
        for clip in clips(root, split)
    ]
    assert len(digests) == sum(part.train + part.test for part in mini.PARTS.values())
    assert len(set(digests)) == len(digests)


@pytest.mark.dear(day=2)
@pytest.mark.parametrize("name", ["keyword", "language", "gender", "speaker_count", "intent", "asr_en", "asr_zh"])
def test_test_voices_are_never_trained_on(root: Path, name: str):
    """Voices of training and test are disjoint, in every speech task."""
    train, test = (values(clips(root, split), "voice") for split in (TASKS[name].train, TASKS[name].test))
    assert len(train) >= 10
    assert len(test) >= 5
    assert not train & test


@pytest.mark.dear(day=2)
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("asr_en", "text"),
        ("asr_zh", "text"),
        ("language", "text"),
        ("instrument", "keys"),
        ("effect", "keys"),
        ("pitch", "velocities"),
    ],
)
def test_what_is_held_out_is_never_trained_on(root: Path, name: str, field: str):
    """Phrases, sentences, keys and velocities of the test are not those of training."""
    train, test = (values(clips(root, split), field) for split in (TASKS[name].train, TASKS[name].test))
    assert len(train) >= 12
    assert len(test) >= 6
    assert not train & test


@pytest.mark.dear(day=2)
def test_figures_of_captions_start_on_held_out_keys(root: Path):
    """The first key of a captioned figure is never one of training's; its further notes may be."""
    train, test = (
        {clip.fields["keys"][0] for clip in clips(root, split)}
        for split in (TASKS["caption"].train, TASKS["caption"].test)
    )
    assert len(test) >= 5
    assert not train & test


@pytest.mark.dear(day=2)
@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_balanced_and_known(root: Path, name: str):
    """Every label comes equally often, within one clip, and a test label is always a trained one."""
    train, test = (
        Counter(clip.fields["label"] for clip in clips(root, split)) for split in (TASKS[name].train, TASKS[name].test)
    )
    assert set(train) == set(test)
    for counts in (train, test):
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.dear(day=2)
def test_captions_are_three_different_sentences(root: Path):
    """Track B's captions have several references, as the protocol's caption tasks do."""
    for clip in clips(root, TASKS["caption"].test):
        assert len(set(clip.references(TASKS["caption"].test.key))) == 3


def bands(root: Path, clip: Clip) -> np.ndarray:
    """Mean and deviation of log energy in 40 bands of equal ratio: the plainest encoder there is."""
    waveform = prepare(*read_audio(root, clip))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, 257, 41).round().astype(int))
    energy = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-6)
    return np.concatenate([energy.mean(axis=0), energy.std(axis=0)])


@pytest.mark.dear(day=2)
@pytest.mark.parametrize("name", LABELLED)
def test_labels_can_be_heard(root: Path, name: str):
    """A linear classifier on spectral means beats guessing in test by three standard errors."""
    from sklearn.linear_model import RidgeClassifier

    task = TASKS[name]
    sets = [clips(root, split) for split in (task.train, task.test)]
    train, test = (np.stack([bands(root, clip) for clip in found]) for found in sets)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    labels = [[clip.fields["label"] for clip in found] for found in sets]
    model = RidgeClassifier(alpha=10.0).fit((train - mean) / deviation, labels[0])
    accuracy = model.score((test - mean) / deviation, labels[1])
    chance = 1 / len(set(labels[1]))
    assert accuracy > chance + 3 * np.sqrt(chance * (1 - chance) / len(labels[1]))
