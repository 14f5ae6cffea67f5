"""Clips and their labels in WebDataset shards: tar files in which members of one stem belong together.

Beside each shard lies its index (`ranker.data.index`), so that one clip can be read without the others, and so that
what is broken in a shard is known before it is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from braceexpand import braceexpand

from ranker.data.decoding import decode
from ranker.data.index import Defect, Entry, Index, index_of, index_shards
from ranker.data.origin import how_to_get
from ranker.data.recorded import recorded, require_recorded
from ranker.data.tarball import is_compressed, unpack
from ranker.errors import MissingError, OrganizerError
from ranker.types import DefectKind

FALLBACK_KEYS = ("captions", "caption", "text")
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One piece of audio and what its JSON says of it.

    `shard` is the tar's path relative to the benchmark's data folder; `offset` and `size` say where in the (unpacked)
    tar the bytes of the audio file `member` lie.
    """

    shard: str
    key: str
    member: str
    offset: int
    size: int
    duration_s: float
    sample_rate_hz: int
    fields: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The clip's name in predictions and error messages: `shard:key`."""
        return f"{self.shard}:{self.key}"

    def references(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Texts of the first field of `keys` (then of captions, caption, text) that holds any, as a list or alone.

        As XARES-LLM reads them (docs/protocol.md, section 2): text is taken as it is, also empty text; numbers and
        booleans as Python writes them (`3`, `3.0`, `True`); each element of a list is a reference of its own. A field
        that is null, an empty list or an object is passed over. Raises OrganizerError, naming the clip, if no field is
        left, or if a list holds what is neither text nor number.
        """
        for key in (*keys, *FALLBACK_KEYS):
            value = self.fields.get(key)
            match value:
                case str() | int() | float():
                    return self._texts(key, [value])
                case [_, *_] if not all(isinstance(each, str | int | float) for each in value):
                    raise OrganizerError(
                        f"clip {self.id}: field {key!r} holds {value!r}; text, a number or a list of these is needed"
                    )
                case [_, *_]:
                    return self._texts(key, value)
        raise OrganizerError(
            f"clip {self.id} has no reference: of {', '.join((*keys, *FALLBACK_KEYS))} none is among its fields"
            f" ({', '.join(sorted(self.fields)) or 'it has none'})"
        )

    def _texts(self, key: str, values: Sequence[str | int | float]) -> tuple[str, ...]:
        texts = tuple(map(str, values))
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:  # JSON may write such a half as \\ud83d; no tokenizer takes it, and no file
            raise OrganizerError(
                f"clip {self.id}: field {key!r} holds {texts if len(texts) > 1 else texts[0]!r}, in which half of a "
                "surrogate pair stands alone; correct its JSON"
            ) from None
        return texts


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file's clips, in the order they stand in, and those that are broken. `path` is relative to the
    benchmark's data folder.
    """

    path: str
    clips: tuple[Clip, ...]
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What can be trained on, shard by shard, and what is skipped, with the reasons."""

    shards: tuple[Shard, ...]
    skipped: tuple[Defect, ...]


def expand_braces(pattern: str) -> list[str]:
    """Names that a pattern stands for, as bash expands it: `{a,b}`, `{00..17}` (zero padding kept), nested.

    Raises OrganizerError where braces do not match, which bash would pass over.
    """
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise OrganizerError(f"shard pattern {pattern!r}: braces do not match; correct the benchmark's YAML") from error


def write_shard(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Write WebDataset samples, for example `{"__key__": "c0001", "flac": b"...", "json": {"label": "dog"}}`.

    The same samples give the same bytes on every machine: no times, a fixed owner, JSON with sorted keys.
    """
    import webdataset

    with (
        path.open("wb") as file,
        webdataset.TarWriter(file, user="ranker", group="ranker", mtime=0, compress=False, encoder=False) as tar,
    ):
        for sample in samples:
            fields = json.dumps(sample["json"], sort_keys=True, ensure_ascii=False).encode()
            tar.write({**sample, "json": fields})


def index_shard(path: Path) -> Shard:
    """Index a tar, and return its clips; its name is `path.name`. Raises OrganizerError where the tar is not whole."""
    return _shard(index_of(path, path.name), path.name)


def read_split(root: Path, patterns: Sequence[str]) -> list[Shard]:
    """The shards that `patterns` name under a benchmark's data folder, from their indexes (made where missing).

    Broken clips are among `Shard.defects` and not among its clips; `training_data` and `scored_clips` say what to do
    about them. Raises MissingError where a shard is not there, OrganizerError where one is no whole tar, or not the
    one that the benchmark's manifest records.
    """
    paths = shard_paths(root, patterns)
    for error in index_shards(list(paths.values())).values():
        raise error
    known, found = recorded(root), []
    for name, path in paths.items():
        index = index_of(path, name)
        require_recorded(root, name, index.sha256, known)
        found.append(_shard(index, name))
    return found


def shard_paths(root: Path, patterns: Sequence[str]) -> dict[str, Path]:
    """Name and place of each shard that `patterns` stand for, in their order. Raises MissingError where one is not
    there.
    """
    found = {name: root / name for pattern in patterns for name in expand_braces(pattern)}
    missing = [name for name, path in found.items() if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MissingError(
            f"benchmark {root.name}: shard {missing[0]}{more} is not under {root}; {how_to_get(root.name)}"
        )
    return found


def training_data(root: Path, patterns: Sequence[str], keys: Sequence[str]) -> TrainingData:
    """A task's training shards without the clips that are broken or have no reference: these are skipped, and named.

    What is skipped is a function of the shards' bytes and of `keys`, and so the same for every team. Raises
    OrganizerError where a clip is of a codec that cannot be decoded: nothing is wrong with it but our decoder, and
    another training set would come out than the benchmark's.
    """
    shards, skipped = [], list[Defect]()
    for shard in read_split(root, patterns):
        kept, faulty = _labelled(shard, keys)
        shards.append(replace(shard, clips=kept, defects=()))
        skipped += faulty
    _refuse([defect for defect in skipped if defect.kind is DefectKind.CODEC], "training")
    return TrainingData(shards=tuple(shards), skipped=tuple(skipped))


def scored_clips(root: Path, patterns: Sequence[str], keys: Sequence[str]) -> list[Clip]:
    """All clips of a task's test shards. Raises OrganizerError, naming them, if any is broken or has no reference: a
    test set is whole, or no score is made of it.
    """
    clips, defects = list[Clip](), list[Defect]()
    for shard in read_split(root, patterns):
        kept, faulty = _labelled(shard, keys)
        clips += kept
        defects += faulty
    _refuse(defects, "test")
    return clips


def clusters(clips: Sequence[Clip], field: str) -> list[str]:
    """What the `field` of each clip's JSON says, as text: clips with the same value there are not independent.

    Raises OrganizerError, naming the first, where a clip has neither text nor a number there.
    """
    for clip in clips:
        if not isinstance(clip.fields.get(field), str | int | float):
            raise OrganizerError(
                f"clip {clip.id}: field {field!r}, by which the benchmark's file groups test clips (`cluster`), holds "
                f"{clip.fields.get(field)!r}; text or a number is needed, so correct the shards, or the file"
            )
    return [str(clip.fields[field]) for clip in clips]


def _labelled(shard: Shard, keys: Sequence[str]) -> tuple[tuple[Clip, ...], tuple[Defect, ...]]:
    """The clips of a shard that have a reference, and the defects of the others."""
    kept, defects = [], list(shard.defects)
    for clip in shard.clips:
        try:
            clip.references(keys)
        except OrganizerError as error:
            why = str(error).removeprefix(f"clip {clip.id}").lstrip(": ")
            defects.append(Defect(shard=shard.path, key=clip.key, kind=DefectKind.LABEL, why=why))
        else:
            kept.append(clip)
    return tuple(kept), tuple(defects)


def _refuse(defects: Sequence[Defect], purpose: str) -> None:
    if not defects:
        return
    named = "; ".join(f"clip {defect.clip}: {defect.why}" for defect in defects[:_NAMED])
    more = f"; and {len(defects) - _NAMED} more" if len(defects) > _NAMED else ""
    raise OrganizerError(
        f"{len(defects)} {purpose} clips cannot be used: {named}{more}. Correct or fetch the shards again; "
        "`ranker data inspect` lists all of them"
    )


def _shard(index: Index, name: str) -> Shard:
    return Shard(path=name, clips=tuple(clip_of(name, entry) for entry in index.entries), defects=index.defects)


def clip_of(shard: str, entry: Entry) -> Clip:
    """The clip that an entry of a shard's index stands for."""
    return Clip(
        shard=shard,
        key=entry.key,
        member=entry.member,
        offset=entry.offset,
        size=entry.size,
        duration_s=entry.duration_s,
        sample_rate_hz=entry.sample_rate_hz,
        fields=entry.fields,
    )


def read_bytes(root: Path, clip: Clip) -> bytes:
    """The clip's audio file as it was stored."""
    path = root / clip.shard
    try:
        with (unpack(path) if is_compressed(path) else path).open("rb") as file:
            data = os.pread(file.fileno(), clip.size, clip.offset)
    except FileNotFoundError:
        raise MissingError(f"clip {clip.id}: {path} is not there any more; {how_to_get(root.name)}") from None
    if len(data) != clip.size:
        raise OrganizerError(
            f"clip {clip.id}: {clip.size} bytes were expected in {path}, {len(data)} found; build it again"
        )
    return data


def read_audio(root: Path, clip: Clip) -> tuple[npt.NDArray[np.float32], int]:
    """The decoded clip, (frames[, channels]) float32, and its rate in Hz. Raises OrganizerError naming the clip."""
    return decoded(clip, read_bytes(root, clip))


def decoded(clip: Clip, stored: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """As `read_audio`, of a clip whose audio file was read already."""
    try:
        waveform, sample_rate_hz = decode(stored)
    except OrganizerError as error:
        raise OrganizerError(
            f"clip {clip.id}: {clip.member} cannot be decoded ({error}); build or fetch its shard again"
        ) from error
    if not waveform.size or not np.isfinite(waveform).all():
        raise OrganizerError(f"clip {clip.id}: {clip.member} holds no samples, or samples that are not finite numbers")
    return waveform, sample_rate_hz
