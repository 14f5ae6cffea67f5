"""The protocol's way from a stored clip to what the encoder hears."""

import random

import numpy as np
import pytest

from ranker.data.audio import SAMPLE_RATE_HZ, crop_start, prepare


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_channels_are_averaged():
    """Mono is the mean of the channels, not their sum nor the first."""
    stereo = np.stack([np.full(800, 0.6), np.full(800, -0.2)], axis=1).astype(np.float32)
    np.testing.assert_allclose(prepare(stereo, SAMPLE_RATE_HZ), np.full(800, 0.2), rtol=1e-6)


def test_only_a_peak_above_one_is_divided():
    """A loud clip is brought to peak 1; a quiet one is left as it is."""
    loud = np.array([0.5, -4.0, 1.0], dtype=np.float32)
    np.testing.assert_allclose(prepare(loud, SAMPLE_RATE_HZ), [0.125, -1.0, 0.25])
    quiet = np.array([0.5, -0.9, 0.1], dtype=np.float32)
    np.testing.assert_array_equal(prepare(quiet, SAMPLE_RATE_HZ), quiet)


def test_the_peak_is_the_averaged_signals():
    """The mean comes before the peak: channels that cancel each other are not divided."""
    stereo = np.stack([np.full(10, 3.0), np.full(10, -2.5)], axis=1).astype(np.float32)
    np.testing.assert_allclose(prepare(stereo, SAMPLE_RATE_HZ), np.full(10, 0.25))


def test_the_peak_counts_outside_the_crop_too():
    """The division comes before the crop."""
    clip = np.full(SAMPLE_RATE_HZ * 2, 0.5, dtype=np.float32)
    clip[0] = 2.0
    cropped = prepare(clip, SAMPLE_RATE_HZ, crop_start_s=1.0, max_s=0.5)
    np.testing.assert_array_equal(cropped, np.full(SAMPLE_RATE_HZ // 2, 0.25))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_the_crop_is_cut_at_the_native_rate(rate: int):
    """Cropping and then resampling is the resampled crop, sample for sample."""
    clip = tone(3.0, rate)
    start, length = round(0.7 * rate), round(1.1 * rate)
    expected = prepare(clip[start : start + length], rate)
    np.testing.assert_array_equal(prepare(clip, rate, crop_start_s=0.7, max_s=1.1), expected)
    assert abs(len(expected) - 1.1 * SAMPLE_RATE_HZ) <= 1
    assert expected.dtype == np.float32


def test_a_crop_that_would_run_over_the_end_is_moved_back():
    """Rounding of the crop's start never shortens it."""
    clip = np.arange(16_000, dtype=np.float32) / 16_000
    np.testing.assert_array_equal(prepare(clip, SAMPLE_RATE_HZ, crop_start_s=0.75, max_s=0.5), clip[8_000:])


def test_resampling_may_overshoot():
    """Nothing is clipped after the resampling: a full-scale square wave at 44.1 kHz exceeds 1 at 16 kHz."""
    square = np.sign(tone(0.5, 44_100, 1000.0)).astype(np.float32)
    assert np.abs(prepare(square, 44_100)).max() > 1.05


def test_resampling_keeps_the_pitch():
    """A tone of 440 Hz at 44.1 kHz is one of 440 Hz at 16 kHz."""
    heard = prepare(tone(1.0, 44_100), 44_100)
    assert np.abs(np.fft.rfft(heard)).argmax() == 440


def test_crops_are_a_function_of_seed_clip_and_visit_alone():
    """Visits repeat after K; seeds, clips and visits below K differ; no global random state plays a part."""
    random.seed(1)
    starts = [crop_start(42, "a.tar:x", visit, 8, 100.0, 30.0) for visit in range(16)]
    random.seed(2)
    assert starts == [crop_start(42, "a.tar:x", visit, 8, 100.0, 30.0) for visit in range(16)]
    assert starts[:8] == starts[8:]
    assert len(set(starts)) == 8
    assert all(0.0 <= start <= 70.0 for start in starts)
    assert starts[0] != crop_start(43, "a.tar:x", 0, 8, 100.0, 30.0)
    assert starts[0] != crop_start(42, "a.tar:y", 0, 8, 100.0, 30.0)


def test_a_short_clip_is_not_cropped():
    """A clip that fits starts at its beginning."""
    assert crop_start(42, "a.tar:x", 3, 8, 30.0, 30.0) == 0.0
