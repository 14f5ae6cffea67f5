"""What field does to its recordings before they go into shards: arithmetic on the clip alone, nothing is random."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ranker.errors import OrganizerError

LEVEL_DB = -23.0  # root mean square, relative to full scale
NOISE_DB = -30.0  # of the noise floor that speech gets on field's telephone, relative to the speech
TELEPHONE_HZ = 8_000
TELEPHONE_BAND_HZ = (300.0, 3_400.0)  # ITU-T G.712
_SPOKEN_HZ = 22_050  # espeak-ng's rate

Waveform = npt.NDArray[np.float32]


def read(path: Path) -> tuple[Waveform, int]:
    """A recording as mono float32 (T,), and its rate in Hz. Raises OrganizerError where it cannot be decoded."""
    try:
        waveform, sample_rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise OrganizerError(f"{path.name} cannot be decoded ({error}); fetch its package again") from error
    return waveform.mean(axis=1, dtype=np.float32), int(sample_rate_hz)


def flac(waveform: Waveform, sample_rate_hz: int) -> bytes:
    """A FLAC file of 16 bits; samples must lie in [-1, 1]."""
    buffer = io.BytesIO()
    samples = np.clip(np.rint(waveform * 32767.0), -32768, 32767).astype(np.int16)
    soundfile.write(buffer, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def trimmed(waveform: Waveform, sample_rate_hz: int, below_db: float = 40.0) -> Waveform:
    """Without beginning and end that are quieter, in frames of 20 ms, than `below_db` under the loudest frame."""
    frame = max(1, sample_rate_hz // 50)
    count = waveform.shape[0] // frame
    if count == 0:
        return waveform
    power = np.square(waveform[: count * frame].reshape(count, frame)).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below_db / 10))
    if loud.size == 0:
        return waveform
    return waveform[loud[0] * frame : (loud[-1] + 1) * frame]


def levelled(waveform: Waveform) -> Waveform:
    """At LEVEL_DB, or as near to it as the peak allows (0.99)."""
    rms = float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))
    if rms == 0.0:
        return waveform
    gain = min(10 ** (LEVEL_DB / 20) / rms, 0.99 / float(np.abs(waveform).max()))
    return (waveform * gain).astype(np.float32)


def over_the_telephone(waveform: Waveform, sample_rate_hz: int, seed: str) -> Waveform:
    """Speech through one channel, whatever it came from: (T,) at TELEPHONE_HZ.

    Resampled up to espeak-ng's rate and down to 8 kHz, cut to the band of G.712, trimmed, levelled, and given a floor
    of white noise that is a function of `seed`. What is left is the voice: bandwidth, rate, loudness, digital silence
    and the pauses at both ends no longer tell a recording from a synthesis.
    """
    wide = soxr.resample(waveform, sample_rate_hz, _SPOKEN_HZ)
    narrow = soxr.resample(wide, _SPOKEN_HZ, TELEPHONE_HZ).astype(np.float64)
    spectrum = np.fft.rfft(narrow)
    hertz = np.fft.rfftfreq(narrow.shape[0], 1 / TELEPHONE_HZ)
    low, high = TELEPHONE_BAND_HZ
    # Edges of 200 Hz: steeper ones would ring through the silence that is cut next.
    passed = np.interp(hertz, [low - 200, low, high, high + 200], [0.0, 1.0, 1.0, 0.0])
    speech = np.fft.irfft(spectrum * passed, n=narrow.shape[0]).astype(np.float32)
    speech = levelled(trimmed(speech, TELEPHONE_HZ))
    rms = float(np.sqrt(np.square(speech, dtype=np.float64).mean()))
    noise = np.random.default_rng(int(hashlib.sha256(seed.encode()).hexdigest()[:16], 16))
    floor = noise.standard_normal(speech.shape[0]) * rms * 10 ** (NOISE_DB / 20)
    heard: Waveform = np.clip(speech + floor, -1.0, 1.0).astype(np.float32)
    return heard
