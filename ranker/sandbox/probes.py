"""What the check's probes found, as rows for people: what was tried, what came out, and what follows from it.

Reads the plain values of a `CheckResult`, of any version of it: what was not recorded has no row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LONG_CLIP_S = 60.0
# Below this share of the frames that its length promises, a long clip was not heard to its end.
WHOLE = 0.75


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One row. `follows` says what the evaluation, or its organizer, makes of it."""

    name: str
    found: str
    follows: str


Values = Mapping[str, Any]


def _invariance(values: Values, key: str, name: str, yes: str, no: str) -> Probe:
    kept = bool(values[key])
    return Probe(name=name, found="same features" if kept else "other features", follows=yes if kept else no)


def _batch(values: Values) -> Probe:
    return _invariance(
        values,
        "batch_invariant",
        "in a batch of clips of one length",
        "clips of one length share a call",
        "clips are encoded one by one, which is slower",
    )


def _padding(values: Values) -> Probe:
    return _invariance(
        values,
        "padding_invariant",
        "padded, beside a longer clip",
        "nothing: the evaluation never pads",
        "nothing: the evaluation never pads, so that no score depends on it",
    )


def _none_mask(values: Values) -> Probe:
    return _invariance(
        values,
        "none_mask_equal",
        "None for a mask of ones",
        "nothing: the evaluation always gives a mask",
        "nothing: the evaluation always gives a mask, though both mean the same",
    )


def _repeats(values: Values) -> Probe:
    same = bool(values["bit_identical"])
    return Probe(
        name="in a second fresh process",
        found="same bits" if same else "same but for rounding",
        follows="features are kept and computed again at will" + ("" if same else "; scores may differ by rounding"),
    )


def _short(values: Values) -> Probe:
    shortest = values["shortest_clip_s"]
    refusals = [f"{length}: {why}" for length, why in _refused(values).items() if length != _seconds(LONG_CLIP_S)]
    return Probe(
        name="short clips",
        found=f"{_seconds(shortest)} accepted" + "".join(f"; {each}" for each in refusals),
        follows="a benchmark with shorter clips would fail its evaluation" if refusals else "nothing",
    )


def _long(values: Values) -> Probe:
    name, frames = f"a clip of {_seconds(LONG_CLIP_S)}", values["long_clip_frames"]
    if frames is None:
        why = _refused(values)[_seconds(LONG_CLIP_S)]
        follows = "test clips are never cropped: a benchmark with clips of this length would fail its evaluation"
        return Probe(name=name, found=f"not accepted: {why}", follows=follows)
    rate = frames / LONG_CLIP_S
    if rate < WHOLE * values["frames_per_s"]:
        found = f"{frames} frames, {rate:g} per second against {values['frames_per_s']:g} for 10 s"
        return Probe(
            name=name, found=found, follows="test clips are never cropped, and it may not hear the end of them"
        )
    return Probe(name=name, found=f"{frames} frames", follows="nothing")


def _levels(_: Values) -> Probe:
    return Probe(name="silence, full scale, peaks of 1.05", found="accepted", follows="nothing")


def _memory(values: Values) -> Probe:
    peak, long = values["peak_memory_mb"], values["long_clip_peak_memory_mb"]
    if peak is None:
        return Probe(name="peak memory", found="not measured", follows="this sandbox cannot tell")
    found = f"{peak:,.0f} MB for clips up to 10 s"
    if long is not None:
        found += f", {long:,.0f} MB for {_seconds(LONG_CLIP_S)}"
    found += f" ({values['peak_memory_source']})"
    limit = values["memory_limit_gb"] * 2**30 / 1e6
    share = max(peak, long or 0.0) / limit
    follows = f"{share:.0%} of the {values['memory_limit_gb']:g} GB that it may have"
    return Probe(name="peak memory", found=found, follows=follows)


def _speed(values: Values) -> Probe:
    seconds = values["encode_s_per_audio_s"]
    threads = f" with {values['threads']} CPU threads" if "threads" in values else ""
    rate = f"{1 / seconds:,.3g}" if seconds else "more than 100,000"
    found = f"{rate} s of audio per second{threads}"
    return Probe(
        name="speed", found=found, follows=f"an hour of audio takes {_duration(3600 * seconds)} on that machine"
    )


def _frames(values: Values) -> Probe:
    rate = values["frames_per_s"]
    follows = f"30 s are {30 * rate:,.0f} frames for the language model"
    return Probe(name="frame rate", found=f"{rate:g} per second", follows=follows)


def _habits(values: Values) -> Probe | None:
    if not values["old_habits"]:
        return None
    return Probe(
        name="attributes of an older checker",
        found=" and ".join(values["old_habits"]),
        follows="they are not read: audio comes at 16 kHz, whatever they say",
    )


# The recorded values that a row tells of, and the row.
_ROWS: tuple[tuple[tuple[str, ...], Callable[[Values], Probe | None]], ...] = (
    (("frames_per_s",), _frames),
    (("batch_invariant",), _batch),
    (("padding_invariant",), _padding),
    (("none_mask_equal",), _none_mask),
    (("bit_identical",), _repeats),
    (("shortest_clip_s",), _short),
    (("long_clip_frames", "refused_clips", "frames_per_s"), _long),
    (("levels_accepted",), _levels),
    (("peak_memory_mb", "long_clip_peak_memory_mb", "peak_memory_source", "memory_limit_gb"), _memory),
    (("encode_s_per_audio_s",), _speed),
    (("old_habits",), _habits),
)
_TOLD = {key for keys, _ in _ROWS for key in keys} | {"threads"}


def rows(values: Values) -> tuple[Probe, ...]:
    """The probes that these values of a `CheckResult` tell of, in a fixed order."""
    found = [row(values) for keys, row in _ROWS if all(key in values for key in keys)]
    return tuple(row for row in found if row is not None)


def identity(values: Values) -> dict[str, Any]:
    """What is left: which encoder it was, and with what it was checked."""
    shown = {key for keys, _ in _ROWS if all(key in values for key in keys) for key in keys}
    return {key: value for key, value in values.items() if key not in shown | (_TOLD if shown else set())}


def _refused(values: Values) -> Mapping[str, str]:
    found: Mapping[str, str] = values.get("refused_clips", {})
    return found


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
