"""Which clips are answered in one batch: bounded by what a batch costs, and never a reason for another answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lalm
import numpy as np
import pytest
from tones import write_tones

from ranker.data.shards import Clip, index_shard
from ranker.lalm import answers as answering
from ranker.lalm.answers import answer
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Audio, Features

RECIPE = lalm.tiny_recipe()


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
    return lalm.build(RECIPE).eval()


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
        prompt="What?",
        max_new_tokens=2,
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
