"""Each clip is encoded and answered once, and its company is never a reason for another answer."""

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
from ranker.lalm import generate as generation
from ranker.lalm.answers import answer
from ranker.lalm.generate import generate
from ranker.lalm.merged import MergedDecoder
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


def ask(model: AudioLanguageModel, clips: Sequence[Clip], data: Path, frames_per_s: int) -> dict[str, str]:
    done: list[int] = []
    found = answer(
        MergedDecoder(model, RECIPE),
        Frames(frames_per_s),
        clips,
        data=data,
        prompt="What is heard?",
        max_new_tokens=NEW_TOKENS,
        recipe=RECIPE,
        batch_invariant=True,
        on_progress=done.append,
    )
    assert done == list(range(1, len(clips) + 1))
    return found


def test_every_clip_is_answered_once_whatever_its_company(
    model: AudioLanguageModel, clips: tuple[Clip, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together or one by one, in any order, of a coarse encoder or a fine one: the same clips, the same answers."""
    for frames_per_s in (50, 2_000):
        together = ask(model, clips, tmp_path, frames_per_s)
        monkeypatch.setitem(generation.MOST_ROWS, "cpu", 1)
        alone = ask(model, clips[::-1], tmp_path, frames_per_s)
        monkeypatch.undo()
        assert together == alone
        assert len(set(together.values())) > 1
        assert set(together) == {clip.id for clip in clips}


def test_one_answer_per_clip_gives_the_scores_of_one_per_pair(model: AudioLanguageModel, tmp_path: Path) -> None:
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
    once = ask(model, clips, tmp_path, 30)
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
    for metric in (MetricName.ACCURACY, MetricName.IWER, MetricName.ICER):
        first, second = evaluate(metric, per_clip), evaluate(metric, per_pair)
        assert first.value == second.value
        assert 0 < first.value < 1
        assert first.items.equals(second.items)
