"""Numbers, times and strangers' names as readers see them. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NONE = "\N{EN DASH}"
_DIGEST = re.compile(r"[0-9a-f]{32,128}")
_SHOWN_DIGEST = 12


def number(value: float | None, digits: int = 3) -> str:
    """A score with a fixed number of decimals, so that a column lines up; a dash where there is none."""
    if value is None:
        return NONE
    shown = f"{value:.{digits}f}"
    return shown.lstrip("-") if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def compact(value: float | None) -> str:
    """A bound or weight without needless zeros: 1, 0.5, 0.03125."""
    return NONE if value is None else f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def moment(value: datetime) -> str:
    """Date, time and zone. A time without a zone is a programming error and raises ValueError."""
    if value.tzinfo is None:
        raise ValueError("a time without a zone cannot be shown")
    return f"{value.day} {value:%B %Y, %H:%M %Z}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.42 s, 12.3 s, 4 min 05 s, 3 h 12 min."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def team_name(name: str, otherwise: str) -> str:
    """A team's name with control characters made visible; `otherwise` where nothing of it could be seen.

    Letters of every script stay. So do direction marks, which some scripts need: templates isolate names with <bdi>.
    """
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in name)
    visible = any(unicodedata.category(c) not in {"Cf", "Zs", "Zl", "Zp", "Mn"} for c in shown)
    return shown if visible else otherwise


def plain(name: str) -> str:
    """A name for where nothing isolates it, as in a window's title: without invisible and direction-changing marks."""
    return "".join(c for c in name if unicodedata.category(c) not in {"Cf", "Zl", "Zp"})


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of a list of facts. `full` is the whole value where `text` is shortened, else empty."""

    label: str
    text: str
    full: str = ""


@dataclass(frozen=True, kw_only=True)
class FactGroup:
    """Facts under one heading."""

    title: str
    facts: tuple[Fact, ...]


_ABBREVIATIONS = re.compile(r"\b(cpu|gpu)\b")
_UNITS: Mapping[str, Callable[[float], str]] = {
    "_s_per_audio_s": lambda value: f"{value:.3g} s per second of audio",
    "_s_per_s": lambda value: f"{value:.3g} s per second",
    "_per_s": lambda value: f"{value:.3g} per second",
    "_s": duration,
    "_bytes": size,
    "_gb": lambda value: f"{value:.3g} GB",
    "_mb": lambda value: f"{value:.3g} MB",
    "_hz": lambda value: f"{value:,} Hz",
}


def fact(key: str, value: Any) -> Fact:
    """A JSON value under its key; a unit at the key's end (_s, _per_s, _bytes, _gb, _hz) goes to the value."""
    label = key
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif value is None:
        label, text = next((key.removesuffix(suffix) for suffix in _UNITS if key.endswith(suffix)), key), NONE
    elif isinstance(value, int | float):
        for suffix, shown in _UNITS.items():
            if key.endswith(suffix):
                label, text = key.removesuffix(suffix), shown(value)
                break
        else:
            text = str(value) if isinstance(value, int) else compact(value)
    elif isinstance(value, str):
        text = _time(value) or NONE if key.endswith("_at") else value or NONE
    else:
        text = json.dumps(value, ensure_ascii=False)
    label = _ABBREVIATIONS.sub(lambda found: found[0].upper(), label.replace("_", " "))
    if _DIGEST.fullmatch(text):
        return Fact(label=label, text=text[:_SHOWN_DIGEST], full=text)
    return Fact(label=label, text=text)


def _time(value: str) -> str:
    """A time as JSON says it, for people; anything else as it is."""
    try:
        return moment(datetime.fromisoformat(value))
    except ValueError:
        return value


def fact_groups(values: Mapping[str, Any], title: str) -> tuple[FactGroup, ...]:
    """A nested mapping as headed lists: its own plain values under `title`, then one list per mapping inside it."""
    own = [fact(key, value) for key, value in values.items() if not isinstance(value, Mapping)]
    groups = [FactGroup(title=title, facts=tuple(own))] if own else []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            inner = [_one(name, item) for name, item in _flat(value)]
            groups.append(FactGroup(title=key.replace("_", " "), facts=tuple(inner)))
    return tuple(groups)


def _one(path: tuple[str, ...], value: Any) -> Fact:
    made = fact(path[-1], value)
    prefix = " \N{MIDDLE DOT} ".join(part.replace("_", " ") for part in path[:-1])
    return Fact(label=f"{prefix} \N{MIDDLE DOT} {made.label}", text=made.text, full=made.full) if prefix else made


def _flat(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.extend(_flat(value, (*above, key)))
        else:
            found.append(((*above, key), value))
    return found
