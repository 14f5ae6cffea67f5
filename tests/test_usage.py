"""What an encoder took: the figures of a manifest, and the words for people."""

from __future__ import annotations

from ranker.sandbox.memory import MemorySource, PeakMemory
from ranker.sandbox.usage import Usage, words

PEAK = PeakMemory(size_bytes=1_234_000_000, source=MemorySource.GROUP)


def test_throughput_is_audio_by_time() -> None:
    """Attacks the figure that is compared between teams: seconds of audio by seconds of waiting, loading apart."""
    value = Usage(load_s=100, calls=4, audio_s=600, encode_s=30, peak=PEAK, gpu_peak_bytes=2_500_000_000).to_json()
    assert value["audio_s_per_s"] == 20
    assert (value["peak_memory_gb"], value["gpu_peak_memory_gb"]) == (1.234, 2.5)
    assert words(value) == (
        ("loading", "100.0 s"),
        ("encoding", "20.0 s of audio per second (600 s in 4 calls took 30 s)"),
        ("peak memory", "1.23 GB (control group)"),
        ("peak GPU memory", "2.50 GB"),
    )


def test_what_is_not_known_is_not_told() -> None:
    """Attacks division by zero and made-up figures: nothing encoded, no memory read, a run that did not keep it."""
    value = Usage(load_s=1, calls=0, audio_s=0, encode_s=0, peak=None).to_json()
    assert value["audio_s_per_s"] is None
    assert words(value) == (("loading", "1.0 s"),)
    assert words({}) == ()
