"""Notes of recorded instruments: the SoundFont in the package `pretty_midi` (TimGM6mb), played by `tinysoundfont`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranker.errors import MissingError

# The recordings are up to 44.1 kHz and the player interpolates linearly: rendered at three times the rate that is kept.
SAMPLE_RATE_HZ = 48_000


@dataclass(frozen=True, kw_only=True)
class Note:
    """A MIDI key pressed at `start_s` and let go at `stop_s`; General MIDI `program` 0 to 127, `velocity` 1 to 127."""

    program: int
    key: int
    velocity: int
    start_s: float = 0.0
    stop_s: float = 60.0


class Player:
    """Renders notes; opening it reads the SoundFont. Raises MissingError where one of the two packages is missing."""

    def __init__(self) -> None:
        if importlib.util.find_spec("tinysoundfont") is None:
            raise MissingError("the package tinysoundfont is not installed; run `make demo`, or see docs/operator.md")
        import tinysoundfont

        self._synth: Any = tinysoundfont.Synth(samplerate=SAMPLE_RATE_HZ)
        self._font = self._synth.sfload(str(_soundfont_path()))

    def play(self, notes: Sequence[Note], duration_s: float) -> npt.NDArray[np.float32]:
        """The notes together, mono float32 (duration_s * 48000,); the peak is whatever the recordings give."""
        events = sorted(
            [(note.start_s, 1, channel) for channel, note in enumerate(notes)]
            + [(note.stop_s, 0, channel) for channel, note in enumerate(notes)]
        )
        synth = self._synth
        synth.sounds_off()
        synth.generate(SAMPLE_RATE_HZ // 2)  # what was played before fades out unheard
        pieces, now = [], 0
        for time_s, press, channel in [*events, (duration_s, 0, -1)]:
            until = min(round(time_s * SAMPLE_RATE_HZ), round(duration_s * SAMPLE_RATE_HZ))
            if until > now:
                pieces.append(np.frombuffer(synth.generate(until - now), dtype=np.float32).reshape(-1, 2).mean(axis=1))
                now = until
            if channel < 0 or now >= round(duration_s * SAMPLE_RATE_HZ):
                break
            note = notes[channel]
            if press:
                synth.program_select(channel, self._font, 0, note.program)
                synth.noteon(channel, note.key, note.velocity)
            else:
                synth.noteoff(channel, note.key)
        return np.concatenate(pieces)


def _soundfont_path() -> Path:
    # Found, not imported: pretty_midi's own dependencies are not needed for its SoundFont.
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.origin).parent / "TimGM6mb.sf2" if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise MissingError(
            "the SoundFont in the package pretty_midi is not installed; run `make demo`, or see docs/operator.md"
        )
    return path
