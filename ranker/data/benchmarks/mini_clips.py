"""From what a clip of `mini` shall hold to the bytes of a FLAC file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ranker.data.audio import SAMPLE_RATE_HZ
from ranker.data.benchmarks import soundfont
from ranker.data.benchmarks.espeak import Utterance, speak
from ranker.data.benchmarks.soundfont import Note, Player
from ranker.errors import RankerError

_SILENCE = 0.02  # of the peak; what is quieter at both ends of an utterance is cut off
_SNR_DB = (25.0, 45.0)  # of the white noise that every clip carries
_PEAK = (0.3, 0.9)
_SPEAKER_LEVELS_DB = (-3.0, 3.0)

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One clip: voices that speak at once, or notes (of which the first `skip_s` seconds are left out), and its JSON.

    `may_cut` allows speech that does not fit into the clip to be cut off at both ends.
    """

    fields: dict[str, Any]
    said: tuple[Utterance, ...] = ()
    played: tuple[Note, ...] = ()
    skip_s: float = 0.0
    may_cut: bool = False


def evenly(choices: Sequence[str], count: int, draw: Random) -> list[str]:
    """Every choice equally often (as far as `count` allows), in random order."""
    chosen = [choices[at % len(choices)] for at in range(count)]
    draw.shuffle(chosen)
    return chosen


def render(examples: Sequence[Example], duration_s: float, seed_key: str, step: Callable[[], None]) -> list[bytes]:
    """FLAC files (mono, 16 kHz, 16 bit) of exactly `duration_s`, one for each example; `step` is called after each.

    Places, levels and noise are functions of `seed_key` and the example's position.
    """
    utterances = [utterance for example in examples for utterance in example.said]
    spoken, spoken_hz = speak(utterances) if utterances else ([], SAMPLE_RATE_HZ)
    voices = iter(spoken)
    player = Player() if any(example.played for example in examples) else None
    frames = round(duration_s * SAMPLE_RATE_HZ)
    files = []
    for position, example in enumerate(examples):
        draw = np.random.default_rng(list(hashlib.sha256(f"{seed_key}/{position}".encode()).digest()))
        clip = np.zeros(frames, dtype=np.float32)
        for utterance in example.said:
            voice = _trim(soxr.resample(next(voices), spoken_hz, SAMPLE_RATE_HZ))
            clip += _place(voice, frames, example, utterance, draw)
        if player is not None and example.played:
            whole = player.play(example.played, example.skip_s + duration_s + 0.1)
            heard = whole[round(example.skip_s * soundfont.SAMPLE_RATE_HZ) :]
            clip += soxr.resample(heard, soundfont.SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)[:frames]
        files.append(_flac(_finish(clip, draw)))
        step()
    return files


def _trim(voice: Waveform) -> Waveform:
    loud = np.flatnonzero(np.abs(voice) > _SILENCE * np.abs(voice).max())
    return voice[loud[0] : loud[-1] + 1]


def _place(voice: Waveform, frames: int, example: Example, utterance: Utterance, draw: np.random.Generator) -> Waveform:
    """The voice somewhere in a clip of silence, at a random level."""
    spare = frames - len(voice)
    if spare < 0 and not example.may_cut:
        raise RankerError(
            f"{utterance.text!r} by {utterance.voice} takes {len(voice) / SAMPLE_RATE_HZ:.2f} s,"
            f" but its clip has {frames / SAMPLE_RATE_HZ:.2f} s; shorten the text or raise its rate"
        )
    start = int(draw.integers(0, abs(spare) + 1))
    placed = np.zeros(frames, dtype=np.float32)
    if spare >= 0:
        placed[start : start + len(voice)] = voice
    else:
        placed[:] = voice[start : start + frames]
    level = 10 ** (draw.uniform(*_SPEAKER_LEVELS_DB) / 20)
    return np.asarray(placed * np.float32(level / np.sqrt(np.square(voice).mean())), dtype=np.float32)


def _finish(clip: Waveform, draw: np.random.Generator) -> Waveform:
    """Noise is added and the peak set, both by chance, so that neither level nor floor tells a label."""
    power = float(np.sqrt(np.square(clip).mean()))
    if power == 0.0:
        raise RankerError("a clip of mini is silent: its note or voice gave no sound")
    noise = draw.standard_normal(len(clip), dtype=np.float32) * np.float32(power * 10 ** (-draw.uniform(*_SNR_DB) / 20))
    noisy = clip + noise
    return np.asarray(noisy * np.float32(draw.uniform(*_PEAK) / np.abs(noisy).max()), dtype=np.float32)


def _flac(clip: Waveform) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.round(clip * 32767).astype(np.int16), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()
