"""What an encoder took in a run: time, memory, and how fast it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ranker.sandbox.memory import PeakMemory


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an encoder took since it was started. Times are wall clock as seen from outside, waiting for its answers.

    `audio_s`: seconds of audio that were encoded, in `calls` calls. `peak` is None where memory cannot be read,
    `gpu_peak_bytes` where no GPU was given.
    """

    load_s: float
    calls: int
    audio_s: float
    encode_s: float
    peak: PeakMemory | None
    gpu_peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, memory in 10^9 bytes; `audio_s_per_s` is None where nothing was encoded."""
        return {
            "load_s": round(self.load_s, 3),
            "calls": self.calls,
            "audio_s": round(self.audio_s, 3),
            "encode_s": round(self.encode_s, 3),
            "audio_s_per_s": round(self.audio_s / self.encode_s, 2) if self.encode_s and self.calls else None,
            "peak_memory_gb": None if self.peak is None else round(self.peak.size_bytes / 1e9, 3),
            "peak_memory_source": None if self.peak is None else str(self.peak.source),
            "gpu_peak_memory_gb": None if self.gpu_peak_bytes is None else round(self.gpu_peak_bytes / 1e9, 3),
        }


def words(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What `Usage.to_json` gave, for people: (what, how much). Nothing for a run that was made before it was kept."""
    if not values:
        return ()
    found = [("loading", f"{values['load_s']:.1f} s")]
    if values["audio_s_per_s"] is not None:
        speed = f"{values['audio_s_per_s']:,.1f} s of audio per second"
        told = f"{values['audio_s']:,.0f} s in {values['calls']:,} calls took {values['encode_s']:,.0f} s"
        found.append(("encoding", f"{speed} ({told})"))
    if values["peak_memory_gb"] is not None:
        found.append(("peak memory", f"{values['peak_memory_gb']:.2f} GB ({values['peak_memory_source']})"))
    if values["gpu_peak_memory_gb"] is not None:
        found.append(("peak GPU memory", f"{values['gpu_peak_memory_gb']:.2f} GB"))
    return tuple(found)
