"""Clips and their labels in WebDataset shards: tar files in which members of one stem belong together.

Beside each shard lies its index (`<shard>.index.json`): where each clip's audio starts, and what its JSON says, so that
one clip can be read without the others. An index is made on demand, and made again when the shard's size or time of
change is another: tar pads its files, so a corrected label seldom changes the size.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from braceexpand import braceexpand

from ranker.errors import MissingError, OrganizerError

AUDIO_SUFFIXES = frozenset({"flac", "wav", "ogg", "opus", "mp3"})
FALLBACK_KEYS = ("captions", "caption", "text")
_INDEX_FORMAT = 1
_MEMBER = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # WebDataset's rule: the key ends at the first dot


@dataclass(frozen=True, kw_only=True)
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
        """Texts of the first field of `keys` (then of captions, caption, text) that is there, as a list or alone.

        Raises OrganizerError, naming the clip, if there is none or if it is neither text nor number.
        """
        for key in (*keys, *FALLBACK_KEYS):
            value = self.fields.get(key)
            if value is None:
                continue
            found = tuple(value) if isinstance(value, list | tuple) else (value,)
            if not found or not all(isinstance(each, str | int | float) for each in found):
                raise OrganizerError(
                    f"clip {self.id}: field {key!r} holds {value!r}; text, a number or a list of these is needed"
                )
            return tuple(str(each) for each in found)
        raise OrganizerError(
            f"clip {self.id} has no reference: of {', '.join((*keys, *FALLBACK_KEYS))} none is among its fields"
            f" ({', '.join(sorted(self.fields)) or 'it has none'})"
        )


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file's clips, in the order they stand in. `path` is relative to the benchmark's data folder."""

    path: str
    clips: tuple[Clip, ...]


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
    """Read a tar and its audio headers, store the index beside it, and return its clips, whose shard is `path.name`.

    Raises OrganizerError where a member's audio or JSON cannot be read, and where a clip lacks its audio or has two:
    clips are never dropped in silence.
    """
    if not path.is_file():
        raise MissingError(
            f"shard {path} is not there; build it with `ranker data build`, or fetch the benchmark's data"
        )
    state = path.stat()  # before it is read: what changes meanwhile is seen the next time
    plain = _unpack(path)
    clips: list[dict[str, Any]] = []
    try:
        with tarfile.open(plain, "r:") as tar, plain.open("rb") as data:
            groups: dict[str, list[tuple[str, tarfile.TarInfo]]] = {}
            for info in tar:
                match = _MEMBER.match(info.name)
                if info.isreg() and match:
                    groups.setdefault(match[1], []).append((match[2].lower(), info))
            for key, members in groups.items():
                clips.append(_describe(path, key, members, data.fileno()))
    except tarfile.TarError as error:
        raise OrganizerError(f"shard {path} cannot be read as a tar file ({error}); build or fetch it again") from error
    index = {"format": _INDEX_FORMAT, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "clips": clips}
    temporary = path.with_name(f".{path.name}.index.{os.getpid()}")
    temporary.write_text(json.dumps(index, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    temporary.replace(_index_path(path))
    return Shard(path=path.name, clips=tuple(Clip(shard=path.name, **clip) for clip in clips))


def read_split(root: Path, patterns: Sequence[str]) -> list[Shard]:
    """The shards that `patterns` name under a benchmark's data folder, from their indexes (made where missing).

    Raises MissingError where a shard is not there.
    """
    shards = []
    for name in (name for pattern in patterns for name in expand_braces(pattern)):
        path = root / name
        if not path.is_file():
            raise MissingError(
                f"benchmark {root.name}: shard {name} is not under {root};"
                f" run `ranker data build {root.name}`, or fetch the data"
            )
        stored = _stored_index(path)
        clips = stored if stored is not None else [_index_entry(clip) for clip in index_shard(path).clips]
        shards.append(Shard(path=name, clips=tuple(Clip(shard=name, **clip) for clip in clips)))
    return shards


def read_bytes(root: Path, clip: Clip) -> bytes:
    """The clip's audio file as it was stored."""
    path = _plain_path(root / clip.shard)
    if not path.is_file() and (root / clip.shard).is_file():
        _unpack(root / clip.shard)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), clip.size, clip.offset)
    except FileNotFoundError:
        raise MissingError(
            f"clip {clip.id}: {path} is not there any more; run `ranker data build {root.name}`"
        ) from None
    if len(data) != clip.size:
        raise OrganizerError(
            f"clip {clip.id}: {clip.size} bytes were expected in {path}, {len(data)} found; build it again"
        )
    return data


def clip_digest(root: Path, clip: Clip) -> str:
    """SHA-256 (hex) of the clip's audio file."""
    return hashlib.sha256(read_bytes(root, clip)).hexdigest()


def read_audio(root: Path, clip: Clip) -> tuple[npt.NDArray[np.float32], int]:
    """The decoded clip, (frames[, channels]) float32, and its rate in Hz. Raises OrganizerError naming the clip."""
    try:
        waveform, sample_rate_hz = soundfile.read(io.BytesIO(read_bytes(root, clip)), dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise OrganizerError(
            f"clip {clip.id}: {clip.member} cannot be decoded ({error}); build or fetch its shard again"
        ) from error
    if not waveform.size or not np.isfinite(waveform).all():
        raise OrganizerError(f"clip {clip.id}: {clip.member} holds no samples, or samples that are not finite numbers")
    return waveform, int(sample_rate_hz)


def _describe(path: Path, key: str, members: Sequence[tuple[str, tarfile.TarInfo]], descriptor: int) -> dict[str, Any]:
    """One clip's entry in the index."""
    name = f"clip {path.name}:{key}"
    kinds = [kind for kind, _ in members]
    audio = [info for kind, info in members if kind.rpartition(".")[2] in AUDIO_SUFFIXES]
    if len(audio) != 1 or len(set(kinds)) != len(kinds):
        raise OrganizerError(
            f"{name}: one audio file and at most one JSON were expected; {', '.join(kinds)} found in {path}"
        )
    try:
        header = soundfile.info(io.BytesIO(os.pread(descriptor, audio[0].size, audio[0].offset_data)))
        texts = [os.pread(descriptor, info.size, info.offset_data) for kind, info in members if kind == "json"]
        fields = json.loads(texts[0]) if texts else {}
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise OrganizerError(
            f"{name}: its audio or JSON cannot be read ({error}); build or fetch {path} again"
        ) from error
    if not isinstance(fields, dict):
        raise OrganizerError(f"{name}: its JSON is a {type(fields).__name__}; an object was expected in {path}")
    return {
        "key": key,
        "member": audio[0].name,
        "offset": audio[0].offset_data,
        "size": audio[0].size,
        "duration_s": header.frames / header.samplerate,
        "sample_rate_hz": header.samplerate,
        "fields": fields,
    }


def _index_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.json")


def _index_entry(clip: Clip) -> dict[str, Any]:
    entry = asdict(clip)
    del entry["shard"]
    return entry


def _stored_index(path: Path) -> list[dict[str, Any]] | None:
    """The stored index's clips, or None where there is none that fits the shard."""
    try:
        index = json.loads(_index_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    state = path.stat()
    if (index["format"], index["bytes"], index.get("mtime_ns")) != (_INDEX_FORMAT, state.st_size, state.st_mtime_ns):
        return None
    clips: list[dict[str, Any]] = index["clips"]
    return clips


def _plain_path(path: Path) -> Path:
    """Where the uncompressed tar lies: a compressed one has no offsets to seek to."""
    return path.with_name(f"{path.name}.plain.tar") if path.name.endswith((".tar.gz", ".tgz")) else path


def _unpack(path: Path) -> Path:
    """Write a compressed shard's plain tar beside it, whole or not at all; a plain shard is returned as it is."""
    plain = _plain_path(path)
    if plain == path:
        return path
    temporary = path.with_name(f".{plain.name}.{os.getpid()}")
    try:
        with gzip.open(path) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, EOFError) as error:
        temporary.unlink(missing_ok=True)
        raise OrganizerError(
            f"shard {path} cannot be unpacked ({error}); fetch it again, and see that the disk has room"
        ) from error
    temporary.replace(plain)
    return plain
