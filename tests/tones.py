"""Shards of tones, for tests that need audio but do not care what it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ranker.data.shards import write_shard

SAMPLE_RATE_HZ = 16_000


def tone(duration_s: float, frequency_hz: float) -> bytes:
    """A sine as a FLAC file."""
    time_s = np.arange(round(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * frequency_hz * time_s), SAMPLE_RATE_HZ, format="FLAC")
    return file.getvalue()


def write_tones(path: Path, durations_s: Sequence[float], fields: Sequence[dict[str, Any]] | None = None) -> None:
    """One clip per duration, each of another pitch; `fields` are their JSON."""
    labels = fields if fields is not None else [{"label": f"tone {index}"} for index in range(len(durations_s))]
    write_shard(
        path,
        [
            {"__key__": f"c{index:04d}", "flac": tone(duration_s, 200.0 + 40.0 * index), "json": label}
            for index, (duration_s, label) in enumerate(zip(durations_s, labels, strict=True))
        ],
    )
