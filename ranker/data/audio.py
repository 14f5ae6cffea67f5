"""From a clip as it was stored to what an encoder hears: mono, 16 kHz, float32."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

SAMPLE_RATE_HZ = 16_000

Waveform = npt.NDArray[np.float32]


def prepare(
    waveform: npt.NDArray[np.floating[Any]],
    sample_rate_hz: int,
    *,
    crop_start_s: float | None = None,
    max_s: float | None = None,
) -> Waveform:
    """(frames[, channels]) to (T,) at 16 kHz, in the protocol's order (docs/protocol.md, section 2).

    Mono by mean; divided by the peak if the peak exceeds 1; cropped at the native rate to `max_s` seconds from
    `crop_start_s` (None: from the start; no `max_s`: not cropped); resampled. Resampling can overshoot 1, and nothing
    is clipped afterwards.
    """
    mono = np.asarray(waveform, dtype=np.float32)
    if mono.ndim == 2:
        mono = mono.mean(axis=1, dtype=np.float32)
    peak = float(np.abs(mono).max(initial=0.0))
    if peak > 1.0:
        mono = mono / np.float32(peak)
    if max_s is not None:
        frames = round(max_s * sample_rate_hz)
        start = round((crop_start_s or 0.0) * sample_rate_hz)
        start = max(0, min(start, mono.shape[0] - frames))
        mono = mono[start : start + frames]
    if sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, sample_rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono, dtype=np.float32)


def crop_start(  # noqa: PLR0917 all of its arguments are the function's point
    seed: int, clip_id: str, visit: int, crops: int, duration_s: float, max_s: float
) -> float:
    """Where the crop of one visit to a clip starts, in seconds: a function of its arguments and of nothing else.

    A clip has `crops` different crops, taken in turn, so that features of a long clip can be kept and used again.
    """
    if duration_s <= max_s:
        return 0.0
    # A string seeds random.Random through SHA-512: the same in every process, on every machine.
    return random.Random(f"{seed}/crop/{clip_id}/{visit % crops}").uniform(0.0, duration_s - max_s)
