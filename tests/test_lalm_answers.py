"""Which clips are answered in one batch: bounded by what a batch costs, and never a reason for another answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lalm
import numpy as np
import pytest
import torch
from tones import write_tones

from ranker.data.audio import prepare
from ranker.data.shards import Clip, index_shard, read_audio
from ranker.lalm import answers as answering
from ranker.lalm.answers import answer, together
from ranker.lalm.features import Excerpt
from ranker.lalm.generate import generate
from ranker.lalm.model import AudioLanguageModel
from ranker.metrics import Pair, evaluate
from ranker.sandbox.base import Audio, Features
from ranker.types import MetricName

RECIPE = lalm.tiny_recipe(decoder_layers=2)
NEW_TOKENS = 6


class Frames:
    """An encoder in this process, with a given number of frames per second."""

    output_dim = 8
    attribute = "Frames"

    def __init__(self, frames_per_s: int) -> None:
        self.frames_per_s = frames_per_s

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        found = []
        for clip in clips:
            random = np.random.default_rng(round(float(np.abs(clip).sum()) * 1000))
            frames = max(1, len(clip) * self.frames_per_s // 16_000)
            found.append(random.normal(size=(frames, 8)).astype(np.float32))
        return found


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    """Its adapters pushed off zero, so that it says something, and not the same of every clip."""
    built = lalm.build(RECIPE).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        built.projector.weight.mul_(60.0)
    return built


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Clip, ...]:
    write_tones(tmp_path / "tones.tar", [0.1 + 0.05 * (index % 5) for index in range(20)])
    return index_shard(tmp_path / "tones.tar").clips


def ask(model: AudioLanguageModel, clips: Sequence[Clip], data: Path, frames_per_s: int) -> tuple[dict[str, str], int]:
    """Answers, and in how many batches they were given."""
    done: list[int] = []
    found = answer(
        model,
        Frames(frames_per_s),
        clips,
        data=data,
        prompt="What is heard?",
        max_new_tokens=NEW_TOKENS,
        recipe=RECIPE,
        batch_invariant=True,
        on_progress=done.append,
    )
    assert done[-1] == len(clips)
    assert done == sorted(set(done))
    return found, len(done)


def test_every_clip_is_answered_once_whatever_its_company(
    model: AudioLanguageModel, clips: tuple[Clip, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch or one clip per batch: the same clips, the same answers."""
    together, batches = ask(model, clips, tmp_path, 50)
    assert batches == 1
    monkeypatch.setattr(answering, "_TOGETHER", 1)
    alone, batches = ask(model, clips[::-1], tmp_path, 50)
    assert batches == len(clips)
    assert together == alone
    assert len(set(together.values())) > 1
    assert set(together) == {clip.id for clip in clips}


def test_many_frames_make_smaller_batches(
    model: AudioLanguageModel, clips: tuple[Clip, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder with a hundred times the frames must not take a hundred times our memory; its answers still come."""
    monkeypatch.setattr(answering, "_TOGETHER_FRAMES", 100)
    assert ask(model, clips, tmp_path, 10)[1] == 1
    dense, batches = ask(model, clips, tmp_path, 200)
    assert 6 < batches < len(clips)
    assert ask(model, clips, tmp_path, 2_000)[1] == len(clips)
    assert len(dense) == len(clips)


@pytest.mark.parametrize(
    ("frames", "dim", "rows"),
    [(500, 768, 64), (20_000, 768, 1), (5_000, 4, 4), (7_000, 4, 2), (1_200, 4, 50), (400, 20_000, 15), (1, 1, 64)],
)
def test_no_batch_outgrows_the_memory(frames: int, dim: int, rows: int) -> None:
    """Frames kept, mask and features are each bounded, whatever an encoder returns; every clip is there, in order."""
    excerpts = [
        Excerpt(
            clip=Clip(shard="s", key=str(key), member="", offset=0, size=0, duration_s=0.5, sample_rate_hz=1, fields={})
        )
        for key in range(130)
    ]
    taken_by_nothing = np.broadcast_to(np.float32(0), (frames, dim))
    chunks = list(together(((excerpt,), [taken_by_nothing]) for excerpt in excerpts))
    assert [excerpt for chunk in chunks for excerpt, _ in chunk] == excerpts
    assert {len(chunk) for chunk in chunks[:-1]} == {rows}
    assert 0 < len(chunks[-1]) <= rows
    if rows > 1:
        assert rows * frames <= 60_000
        assert rows * frames**2 * 4 <= 400e6
        assert rows * frames * dim * 4 <= 500e6


def test_one_long_clip_among_short_ones_pads_few() -> None:
    """A batch is bounded by its padded size: short clips beside a long one count as long ones."""
    clip = Clip(shard="s", key="k", member="", offset=0, size=0, duration_s=0.1, sample_rate_hz=1, fields={})
    lengths = [9_000, *[1] * 40]
    stream = (((Excerpt(clip=clip),), [np.zeros((length, 1), np.float32)]) for length in lengths)
    chunks = [[len(frames) for _, frames in chunk] for chunk in together(stream)]
    assert chunks == [[9_000], [1] * 40]


@pytest.mark.parametrize("metric", [MetricName.ACCURACY, MetricName.IWER, MetricName.ICER])
def test_one_answer_per_clip_gives_the_scores_of_one_per_pair(
    model: AudioLanguageModel, tmp_path: Path, metric: MetricName
) -> None:
    """Where a clip has several references, generating again for each of them gives the same pairs and score."""
    counts = (1, 3, 2, 5, 1, 2, 4)
    probe = np.random.default_rng(0)
    write_tones(
        tmp_path / "tones.tar",
        [0.1 + 0.1 * index for index in range(len(counts))],
        [{"captions": [f"tone {index} said {take}" for take in range(count)]} for index, count in enumerate(counts)],
    )
    clips = index_shard(tmp_path / "tones.tar").clips
    encoder = Frames(30)
    once, _ = ask(model, clips, tmp_path, 30)
    per_clip, per_pair = [], []
    for clip in clips:
        references = list(clip.references(["captions"]))
        references[probe.integers(len(references))] = once[clip.id]  # or else every score would be zero
        waveform, _ = read_audio(tmp_path, clip)
        features = encoder.encode([prepare(waveform, 16_000)])
        again = generate(
            model, features * len(references), prompt="What is heard?", max_new_tokens=NEW_TOKENS, recipe=RECIPE
        )
        for reference, candidate in zip(references, again, strict=True):
            per_clip.append(Pair(clip=clip.id, reference=reference, candidate=once[clip.id]))
            per_pair.append(Pair(clip=clip.id, reference=reference, candidate=candidate))
    assert len(per_pair) == sum(counts)
    assert len(set(once.values())) > 1
    first, second = evaluate(metric, per_clip), evaluate(metric, per_pair)
    assert first.value == second.value
    assert 0 < first.value < 1
    assert first.items.equals(second.items)
