"""Small shards of synthetic clips for both programs."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ranker.data.shards import write_shard

WORDS = ["red", "green", "blue", "seven", "nine", "cello", "violin", "rain", "wind", "thunder", "三朵花", "hello"]
TEST_CLIPS = 12


def waveforms() -> list[tuple[np.ndarray, int]]:
    """Clips of every kind that audio preparation treats apart; the last one is longer than a crop."""
    noise = np.random.default_rng(0)
    made = []
    for seconds, rate_hz, channels, gain in [
        (0.5, 16_000, 1, 0.5), (2.3, 16_000, 1, 1.6), (3.1, 16_000, 2, 1.2), (1.7, 44_100, 2, 0.5),
        (4.0, 8_000, 1, 0.7), (2.9, 48_000, 1, 1.3), (31.5, 16_000, 1, 0.4),
    ]:  # fmt: skip
        time_s = np.arange(round(seconds * rate_hz))[:, None] / rate_hz
        sines = np.sin(2 * np.pi * time_s * noise.uniform(100, 3000, channels))
        made.append((gain * (sines * 0.9 + noise.normal(0, 0.02, sines.shape)), rate_hz))
    return made


def wave_file(samples: np.ndarray, rate_hz: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype="FLOAT")
    return file.getvalue()


def tone(seconds: float, word: int) -> np.ndarray:
    """Loudness beats as often as the word's number says: what the encoder can hear."""
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    beat = 0.5 + 0.5 * np.sin(2 * np.pi * time_s * (word + 1))
    return 0.4 * beat * np.sin(2 * np.pi * 440 * time_s)


def write_data(work: Path) -> dict[str, Any]:
    """Shards of three tasks (a label, a number, several captions) and of a test, and the peer's words for them."""
    seconds = random.Random(1)

    def clips(count: int, label: Any) -> Iterable[dict[str, Any]]:
        for number in range(count):
            audio = wave_file(tone(seconds.uniform(0.4, 7.0), number % len(WORDS)), 16_000)
            yield {"__key__": f"c{number:04d}", "wav": audio, "json": label(number)}

    def word(number: int) -> str:
        return WORDS[number % len(WORDS)]

    for shard in range(2):
        write_shard(work / f"words-{shard}.tar", clips(24, lambda number: {"label": word(number)}))
    write_shard(work / "counts.tar", clips(20, lambda number: {"count": number % len(WORDS)}))
    captions = [
        {
            "__key__": f"w{number:04d}",
            "wav": wave_file(*waveform),
            "json": {"captions": [f"a sound of {word(number)}", f"{word(number)}, {word(number + 1)}, then silence"]},
        }
        for number, waveform in enumerate(waveforms())
    ]
    write_shard(work / "captions.tar", captions)
    write_shard(work / "test.tar", clips(TEST_CLIPS, lambda number: {"label": word(number)}))
    return {
        "train": {
            "words": {"data": ["words-{0..1}.tar"], "prompt": "Which word?", "key": "label", "prob": 2.0},
            "counts": {"data": ["counts.tar"], "prompt": "How many?", "key": "count", "prob": None},
            "captions": {"data": ["captions.tar"], "prompt": "Describe the sound.", "key": "captions", "prob": 1.0},
        },
        "test": {"data": ["test.tar"], "prompt": "Which word?", "key": "label"},
    }
