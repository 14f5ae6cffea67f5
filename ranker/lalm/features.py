"""Features: each excerpt of a clip is encoded once, in calls whose make-up is fixed beforehand, and kept while there
is room.

Which excerpts share a call of the encoder is a function of the benchmark and of what the check found out about the
encoder (`batch_invariant`), never of the cache, nor of what other jobs had encoded before (`ranker.lalm.shelf`):
without any of it the same features come, only later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from ranker.data.audio import crop_start, prepare
from ranker.data.shards import Clip, decoded, read_bytes
from ranker.errors import OrganizerError
from ranker.lalm.ahead import made_ahead
from ranker.lalm.order import SecretOrder
from ranker.lalm.shelf import Place, Shelf, Shelved
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

    @property
    def alike(self) -> tuple[tuple[int, int], str]:
        """Excerpts with the same may share a call."""
        return self.length, self.clip.shard


def training_excerpt(clip: Clip, visit: int, *, seed: int, crops: int, max_s: float) -> Excerpt:
    """The excerpt that one visit to a clip trains on: all of it, or one of `crops` random crops of a long one."""
    if clip.duration_s <= max_s:
        return Excerpt(clip=clip)
    start_s = crop_start(seed, clip.id, visit, crops, clip.duration_s, max_s)
    return Excerpt(clip=clip, crop_start_s=start_s, max_s=max_s)


def calls(excerpts: Iterable[Excerpt], *, batch_invariant: bool) -> list[tuple[Excerpt, ...]]:
    """Which excerpts share a call of the encoder.

    Canonical features come from calls with one clip. Encoders that were seen not to mind get clips of exactly equal
    length together, of one shard: shards are read whole, so that another seed, which reads others too, makes the same
    calls of those. The plan depends on the set of excerpts alone, not on their order.
    """
    unique = {excerpt.key: excerpt for excerpt in excerpts}
    ordered = sorted(unique.values(), key=lambda excerpt: (*excerpt.alike, excerpt.key))
    if not batch_invariant:
        return [(excerpt,) for excerpt in ordered]
    plan: list[tuple[Excerpt, ...]] = []
    for _, group in groupby(ordered, key=lambda excerpt: excerpt.alike):
        members = list(group)
        size = max(1, min(_CALL_CLIPS, int(_CALL_SECONDS / max(members[0].duration_s, 0.01))))
        plan.extend(tuple(members[start : start + size]) for start in range(0, len(members), size))
    return plan


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What is known of a call before the encoder is asked: its key, and what was taken over or the audio to encode."""

    key: bytes
    shelved: Shelved | None = None
    audio: list[Audio] | None = None


class FeatureStore:
    """Features of a planned set of excerpts: those that others had encoded, and its own in an append-only file of at
    most `max_bytes`, where `shelf` has no room for them.

    Use as a context. The file has no name once it is open, so that its room is given back however the process ends.
    """

    def __init__(
        self,
        *,
        data: Path,
        encoder: Encoder,
        plan: Sequence[tuple[Excerpt, ...]],
        path: Path,
        max_bytes: int,
        shelf: Shelf | None = None,
    ):
        self._data = data
        self._encoder = encoder
        self._plan = plan
        self._call_of = {excerpt.key: call for call in plan for excerpt in call}
        self._path = path
        self._max_bytes = max_bytes
        self._shelf = shelf
        self._places: dict[str, Place] = {}
        self._end = 0
        self._is_full = False

    def __enter__(self) -> FeatureStore:
        self._path.unlink(missing_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._path.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def fill(self, on_progress: Callable[[int, int], None]) -> None:
        """Take over or encode the plan in its order until all is there or the file is full; then take over what can be.

        `on_progress(done, total)` counts excerpts.
        """
        total, done = len(self._call_of), 0
        on_progress(0, total)
        if self._shelf is not None:
            self._shelf.look_again()
        with closing(made_ahead(lambda at: self._prepared(self._plan[at]), range(len(self._plan)))) as coming:
            for call, (made, _) in zip(self._plan, coming, strict=False):
                if made.shelved is not None:
                    self._take_over(call, made.shelved)
                elif (
                    self._is_full or made.audio is None or not self._keep(call, made, self._encoder.encode(made.audio))
                ):
                    self._is_full = True
                    if self._shelf is None:
                        return
                    continue
                done += len(call)
                on_progress(done, total)

    def get(self, excerpt: Excerpt) -> Features:
        """Features (T', D) of an excerpt of the plan; encoded again, in its own call, if there was no room for it."""
        place = self._places.get(excerpt.key)
        if place is not None:
            return place.read(self._encoder.output_dim)
        call = self._call_of[excerpt.key]
        ((_, features),) = encode_calls(self._data, self._encoder, [call])
        return features[call.index(excerpt)]

    def get_call(self, call: tuple[Excerpt, ...]) -> list[Features]:
        """Features of all excerpts of one call of the plan, which is encoded again, once, if there was no room."""
        if all(excerpt.key in self._places for excerpt in call):
            return [self.get(excerpt) for excerpt in call]
        ((_, features),) = encode_calls(self._data, self._encoder, [call])
        return features

    def _prepared(self, call: Sequence[Excerpt]) -> _Prepared:
        """Done ahead, by another thread."""
        stored = [read_bytes(self._data, excerpt.clip) for excerpt in call]
        key = b""
        if self._shelf is not None:
            key = _key(call, stored)
            shelved = self._shelf.take(key, self._encoder.output_dim)
            if shelved is not None or self._is_full:
                return _Prepared(key=key, shelved=shelved)
        return _Prepared(key=key, audio=[_heard(*each) for each in zip(call, stored, strict=True)])

    def _take_over(self, call: Sequence[Excerpt], shelved: Shelved) -> None:
        assert self._shelf is not None
        self._shelf.account(shelved, [partial(_audio, self._data, excerpt) for excerpt in call])
        self._places |= {excerpt.key: place for excerpt, place in zip(call, shelved.places, strict=True)}

    def _keep(self, call: Sequence[Excerpt], made: _Prepared, features: Sequence[Features]) -> bool:
        places = None if self._shelf is None else self._shelf.put(made.key, features)
        if places is None:
            if self._end + sum(each.nbytes for each in features) > self._max_bytes:
                return False
            places = [self._append(each) for each in features]
        self._places |= {excerpt.key: place for excerpt, place in zip(call, places, strict=True)}
        return True

    def _append(self, features: Features) -> Place:
        view, place = features.tobytes(), Place(file=self._file, offset=self._end, frames=len(features))
        written = 0
        while written < len(view):
            written += os.pwrite(self._file, view[written:], self._end + written)
        self._end += len(view)
        return place


def encode_calls(
    data: Path, encoder: Encoder, plan: Sequence[tuple[Excerpt, ...]]
) -> Iterator[tuple[tuple[Excerpt, ...], list[Features]]]:
    """Encode call by call, in order; the next calls' audio is decoded while the encoder works."""
    with closing(made_ahead(lambda at: [_audio(data, each) for each in plan[at]], range(len(plan)))) as coming:
        for call, (audio, _) in zip(plan, coming, strict=True):
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
    shelf: Shelf | None = None,
) -> Iterator[tuple[tuple[Excerpt, ...], list[Features]]]:
    """What `encode_calls` gives, in the plan's order, of features that were encoded in the secret one.

    They wait in a `FeatureStore` at `path`, or on the shelf. What finds no room in `max_bytes` is encoded in the plan's
    order, by length: the order is secret for as many clips as there is room for.
    """
    secret = shuffled(plan, order)
    with FeatureStore(data=data, encoder=encoder, plan=secret, path=path, max_bytes=max_bytes, shelf=shelf) as store:
        store.fill(on_progress)
        for call in plan:
            yield call, store.get_call(call)


def _key(call: Sequence[Excerpt], stored: Sequence[bytes]) -> bytes:
    """What a call's features are shared under: digest of its clips' files and of what is cut from them, in order."""
    digest = hashlib.sha256()
    for excerpt, data in zip(call, stored, strict=True):
        digest.update(hashlib.sha256(data).digest())
        digest.update(f"{excerpt.crop_start_s!r}/{excerpt.max_s!r}\n".encode())
    return digest.digest()


def _audio(data: Path, excerpt: Excerpt) -> Audio:
    return _heard(excerpt, read_bytes(data, excerpt.clip))


def _heard(excerpt: Excerpt, stored: bytes) -> Audio:
    """What the encoder hears of an excerpt. Raises OrganizerError, naming the clip, if that is nothing."""
    waveform, sample_rate_hz = decoded(excerpt.clip, stored)
    audio = prepare(waveform, sample_rate_hz, crop_start_s=excerpt.crop_start_s, max_s=excerpt.max_s)
    if not audio.size:
        raise OrganizerError(
            f"clip {excerpt.clip.id}: its {len(waveform)} samples at {sample_rate_hz} Hz leave none at 16 kHz; "
            "take it out of its shard"
        )
    return audio
