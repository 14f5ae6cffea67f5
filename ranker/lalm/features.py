"""Features: each excerpt of a clip is encoded once, in calls whose make-up is fixed beforehand, and kept while there
is room.

Which excerpts share a call of the encoder is a function of the benchmark and of what the check found out about the
encoder (`batch_invariant`), never of the cache: a cache of zero bytes gives the same features, only later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from ranker.data.audio import crop_start, prepare
from ranker.data.shards import Clip, read_audio
from ranker.errors import OrganizerError
from ranker.lalm.order import SecretOrder
from ranker.sandbox.base import Audio, Encoder, Features

_CALL_CLIPS = 16
_CALL_SECONDS = 30.0  # what one clip may be in training anyway: no encoder runs out of time or memory by our batching


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A clip, whole (`crop_start_s` None) or the `max_s` seconds from `crop_start_s` on."""

    clip: Clip
    crop_start_s: float | None = None
    max_s: float | None = None

    @property
    def key(self) -> str:
        """What its features are kept under."""
        return self.clip.id if self.crop_start_s is None else f"{self.clip.id}@{self.crop_start_s!r}"

    @property
    def duration_s(self) -> float:
        """Seconds of audio."""
        return self.clip.duration_s if self.max_s is None else min(self.clip.duration_s, self.max_s)

    @property
    def length(self) -> tuple[int, int]:
        """(rate, frames at that rate): excerpts with the same have the same number of samples at 16 kHz."""
        return self.clip.sample_rate_hz, round(self.duration_s * self.clip.sample_rate_hz)


def training_excerpt(clip: Clip, visit: int, *, seed: int, crops: int, max_s: float) -> Excerpt:
    """The excerpt that one visit to a clip trains on: all of it, or one of `crops` random crops of a long one."""
    if clip.duration_s <= max_s:
        return Excerpt(clip=clip)
    start_s = crop_start(seed, clip.id, visit, crops, clip.duration_s, max_s)
    return Excerpt(clip=clip, crop_start_s=start_s, max_s=max_s)


def calls(excerpts: Iterable[Excerpt], *, batch_invariant: bool) -> list[tuple[Excerpt, ...]]:
    """Which excerpts share a call of the encoder.

    Canonical features come from calls with one clip. Encoders that were seen not to mind get clips of exactly equal
    length together. The plan depends on the set of excerpts alone, not on their order.
    """
    unique = {excerpt.key: excerpt for excerpt in excerpts}
    ordered = sorted(unique.values(), key=lambda excerpt: (excerpt.length, excerpt.key))
    if not batch_invariant:
        return [(excerpt,) for excerpt in ordered]
    plan: list[tuple[Excerpt, ...]] = []
    for _, group in groupby(ordered, key=lambda excerpt: excerpt.length):
        members = list(group)
        size = max(1, min(_CALL_CLIPS, int(_CALL_SECONDS / max(members[0].duration_s, 0.01))))
        plan.extend(tuple(members[start : start + size]) for start in range(0, len(members), size))
    return plan


class FeatureStore:
    """Features of a planned set of excerpts, in one append-only file of at most `max_bytes`.

    Use as a context. The file has no name once it is open, so that its room is given back however the process ends.
    """

    def __init__(
        self, *, data: Path, encoder: Encoder, plan: Sequence[tuple[Excerpt, ...]], path: Path, max_bytes: int
    ):
        self._data = data
        self._encoder = encoder
        self._plan = plan
        self._call_of = {excerpt.key: call for call in plan for excerpt in call}
        self._path = path
        self._max_bytes = max_bytes
        self._places: dict[str, tuple[int, int]] = {}  # key -> (offset, frames)
        self._end = 0

    def __enter__(self) -> FeatureStore:
        self._path.unlink(missing_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._path.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def fill(self, on_progress: Callable[[int, int], None]) -> None:
        """Encode the plan in its order until all is kept or the file is full. `on_progress(done, total)` counts
        excerpts.
        """
        total, done = len(self._call_of), 0
        on_progress(0, total)
        for call, features in encode_calls(self._data, self._encoder, self._plan):
            if not self._keep(call, features):
                return
            done += len(call)
            on_progress(done, total)

    def get(self, excerpt: Excerpt) -> Features:
        """Features (T', D) of an excerpt of the plan; encoded again, in its own call, if there was no room for it."""
        place = self._places.get(excerpt.key)
        if place is None:
            call = self._call_of[excerpt.key]
            ((_, features),) = encode_calls(self._data, self._encoder, [call])
            return features[call.index(excerpt)]
        offset, frames = place
        size = frames * self._encoder.output_dim * 4
        return np.frombuffer(os.pread(self._file, size, offset), dtype=np.float32).reshape(frames, -1)

    def get_call(self, call: tuple[Excerpt, ...]) -> list[Features]:
        """Features of all excerpts of one call of the plan, which is encoded again, once, if there was no room."""
        if all(excerpt.key in self._places for excerpt in call):
            return [self.get(excerpt) for excerpt in call]
        ((_, features),) = encode_calls(self._data, self._encoder, [call])
        return features

    def _keep(self, call: Sequence[Excerpt], features: Sequence[Features]) -> bool:
        if self._end + sum(each.nbytes for each in features) > self._max_bytes:
            return False
        for excerpt, each in zip(call, features, strict=True):
            view = each.tobytes()
            written = 0
            while written < len(view):
                written += os.pwrite(self._file, view[written:], self._end + written)
            self._places[excerpt.key] = (self._end, len(each))
            self._end += len(view)
        return True


def encode_calls(
    data: Path, encoder: Encoder, plan: Sequence[tuple[Excerpt, ...]]
) -> Iterator[tuple[tuple[Excerpt, ...], list[Features]]]:
    """Encode call by call, in order; the next call's audio is decoded while the encoder works."""
    if not plan:
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(_read, data, plan[0])
        for index, call in enumerate(plan):
            audio = ahead.result()
            if index + 1 < len(plan):
                ahead = reader.submit(_read, data, plan[index + 1])
            yield call, encoder.encode(audio)


def shuffled(plan: Sequence[tuple[Excerpt, ...]], order: SecretOrder) -> list[tuple[Excerpt, ...]]:
    """The same calls, each with the same excerpts, in the secret order."""
    return order.shuffled(plan, [call[0].key for call in plan])


def encode_secretly(
    data: Path,
    encoder: Encoder,
    plan: Sequence[tuple[Excerpt, ...]],
    *,
    order: SecretOrder,
    path: Path,
    max_bytes: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[tuple[Excerpt, ...], list[Features]]]:
    """What `encode_calls` gives, in the plan's order, of features that were encoded in the secret one.

    They wait in a `FeatureStore` at `path`. What finds no room in `max_bytes` is encoded in the plan's order, by
    length: the order is secret for as many clips as there is room for.
    """
    with FeatureStore(data=data, encoder=encoder, plan=shuffled(plan, order), path=path, max_bytes=max_bytes) as store:
        store.fill(on_progress)
        for call in plan:
            yield call, store.get_call(call)


def _read(data: Path, call: Sequence[Excerpt]) -> list[Audio]:
    audio = []
    for excerpt in call:
        waveform, sample_rate_hz = read_audio(data, excerpt.clip)
        audio.append(prepare(waveform, sample_rate_hz, crop_start_s=excerpt.crop_start_s, max_s=excerpt.max_s))
        if not audio[-1].size:
            raise OrganizerError(
                f"clip {excerpt.clip.id}: its {len(waveform)} samples at {sample_rate_hz} Hz leave none at 16 kHz; "
                "take it out of its shard"
            )
    return audio
