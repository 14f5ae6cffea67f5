"""The benchmark `mini`: eleven small tasks, synthesised in seconds from Python packages, the same bytes every time.

Speech is espeak-ng's, instruments and effects come from a SoundFont. It shows that the machinery works and lets
encoders be told apart; it says little about how well they hear recorded sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ranker.data.benchmarks import mini_sound, mini_speech
from ranker.data.benchmarks.mini_clips import Example, render
from ranker.data.shards import write_shard

VERSION = 1  # of what is built; another version is other data, and never shares a board with this one
CLIPS_PER_SHARD = 64


class Part(NamedTuple):
    """One task: who chooses its examples, how long each clip is, and how many there are."""

    choose: Callable[[str, int, Random], list[Example]]
    duration_s: float
    train: int
    test: int


PARTS = {
    "keyword": Part(mini_speech.keyword, 1.2, 256, 80),
    "language": Part(mini_speech.language, 1.6, 320, 80),
    "gender": Part(mini_speech.gender, 1.2, 192, 72),
    "speaker_count": Part(mini_speech.speaker_count, 1.2, 256, 72),
    "intent": Part(mini_speech.intent, 1.6, 256, 80),
    "instrument": Part(mini_sound.instrument, 1.2, 256, 80),
    "pitch": Part(mini_sound.pitch, 1.2, 256, 72),
    "effect": Part(mini_sound.effect, 1.2, 256, 80),
    "asr_en": Part(mini_speech.asr_en, 1.6, 384, 64),
    "asr_zh": Part(mini_speech.asr_zh, 1.6, 384, 64),
    "caption": Part(mini_sound.caption, 1.6, 320, 60),
}


def build(root: Path, progress: Callable[[int, int], None], parts: Mapping[str, Part] = PARTS) -> None:
    """Write `<task>/{train,test}-NN.tar` under `root`. `progress` gets clips done and clips in all.

    Raises MissingError where a package that the sounds come from is not installed.
    """
    total = sum(part.train + part.test for part in parts.values())
    done = count(1)
    for task, part in parts.items():
        (root / task).mkdir()
        for split, wanted in (("train", part.train), ("test", part.test)):
            seed_key = f"mini/{task}/{split}"
            examples = part.choose(split, wanted, Random(seed_key))
            files = render(examples, part.duration_s, seed_key, lambda: progress(next(done), total))
            samples = list(_samples(examples, files, split))
            for shard, start in enumerate(range(0, wanted, CLIPS_PER_SHARD)):
                write_shard(root / task / f"{split}-{shard:02d}.tar", samples[start : start + CLIPS_PER_SHARD])


def _samples(examples: list[Example], files: list[bytes], split: str) -> Iterator[dict[str, Any]]:
    for at, (example, flac) in enumerate(zip(examples, files, strict=True)):
        yield {"__key__": f"{split}-{at:04d}", "flac": flac, "json": example.fields}
