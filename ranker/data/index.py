"""The index of a shard: where each clip's audio lies, what its JSON says, what its sound is, and what is broken.

It lies beside its shard (`<shard>.index.jsonl`: a line about the shard, then one per clip), is made on demand, and made
again when the shard's size or time of change is another: tar pads its files, so a corrected label seldom changes the
size. Every clip is decoded whole when the index is made, once for all runs, so that what cannot be used is known before
anything is trained or scored, and is the same for every team.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from ranker.data.decoding import DECODED_SUFFIXES, DECODER, OTHER_SUFFIXES, Sound, examine, foreign_codec
from ranker.data.tarball import Member, is_compressed, members, unpack
from ranker.errors import InfraError, MissingError, OrganizerError
from ranker.types import DefectKind

_FORMAT = 3
_JSON_SUFFIXES = ("json", "jsonl")
_ALONE_BELOW = 32_000_000  # bytes of shards that are not worth starting processes for


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A clip that can be read. `offset` and `size` say where in the plain tar the audio file `member` lies.

    `sha256` is the digest of that file, `pcm` that of its samples with rate and channels: the same sound stored in two
    formats has two of the one and one of the other.
    """

    key: str
    member: str
    offset: int
    size: int
    duration_s: float
    sample_rate_hz: int
    channels: int
    codec: str
    sha256: str
    pcm: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """A clip that cannot be used, and why, in words that follow "clip so-and-so: "."""

    shard: str
    key: str
    kind: DefectKind
    why: str

    @property
    def clip(self) -> str:
        """The clip's name: `shard:key`."""
        return f"{self.shard}:{self.key}"


@dataclass(frozen=True, kw_only=True)
class Index:
    """All clips of one shard, in their order, all that is broken in it, and the digest of the shard's own bytes."""

    sha256: str
    entries: tuple[Entry, ...]
    defects: tuple[Defect, ...]


def index_of(path: Path, shard: str) -> Index:
    """The index of the shard at `path`, called `shard`: the stored one, or one made and stored now.

    Raises MissingError where there is no such file, OrganizerError where it is no whole tar.
    """
    if not path.is_file():
        raise MissingError(
            f"shard {path} is not there; build it with `ranker data build`, or fetch the benchmark's data"
        )
    stored = _read(path, shard)
    if stored is not None:
        return stored
    _make(path)
    made = _read(path, shard)
    if made is None:
        raise OrganizerError(f"shard {path} changed while it was read; wait until it is written, and run this again")
    return made


def is_indexed(path: Path) -> bool:
    """Whether a stored index fits the shard."""
    with suppress(OSError, ValueError), _index_path(path).open(encoding="utf-8") as file:
        return _fits(json.loads(file.readline()), path)
    return False


def index_shards(
    paths: Sequence[Path], on_progress: Callable[[int, int], None] = lambda *_: None
) -> dict[Path, OrganizerError]:
    """Make the indexes that are missing, in as many processes as there are cores; returns the shards that failed.

    `on_progress(done, total)` counts bytes of shards. Raises MissingError where a shard is not there, InfraError where
    a process was killed.
    """
    for path in paths:
        if not path.is_file():
            raise MissingError(f"shard {path} is not there; build or fetch the benchmark's data")
    todo = {path: path.stat().st_size for path in paths if not is_indexed(path)}
    done, total, failed = 0, sum(todo.values()), dict[Path, OrganizerError]()
    on_progress(0, total)
    for path, error in _made(todo):
        if error is not None:
            failed[path] = error
        done += todo[path]
        on_progress(done, total)
    return failed


def _made(todo: Mapping[Path, int]) -> Iterator[tuple[Path, OrganizerError | None]]:
    """Each shard as its index is made, with what was wrong with it."""
    workers = min(len(os.sched_getaffinity(0)), len(todo))
    if workers < 2 or sum(todo.values()) < _ALONE_BELOW:
        for path in todo:
            yield path, _try(path)
        return
    # Largest first, so that no big one is left to a single process at the end.
    ordered = sorted(todo, key=lambda path: -todo[path])
    others = set(active_children())
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(_try, path): path for path in ordered}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            raise InfraError(
                f"a process that decoded audio ended without a word, at one of {len(todo)} shards near {ordered[0]}: "
                f"out of memory, or a file that {DECODER} cannot bear"
            ) from None
        except BaseException:  # Ctrl-C: a big shard takes minutes, and its index is written whole or not at all
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _try(path: Path) -> OrganizerError | None:
    try:
        _make(path)
    except OrganizerError as error:
        return error
    return None


def _begin(parent: int) -> None:
    """Ctrl-C, and the death of the parent, end this process at once: it has nothing to finish.

    Inside a decoder's call-back Python would only print a Ctrl-C. And the mp3 decoder writes to standard error about
    damaged files, in the middle of the progress bar.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def _make(path: Path) -> None:
    """Read the shard, decode its clips, and store the index."""
    state = _state(path)  # before it is read: what changes meanwhile is seen the next time
    plain = unpack(path) if is_compressed(path) else path
    groups: dict[str, list[Member]] = {}
    for member in members(plain):
        key, suffix = _split(member.name)
        if key and suffix:
            groups.setdefault(key, []).append(member)
    with path.open("rb") as shard:
        lines = [json.dumps(state | {"sha256": hashlib.file_digest(shard, "sha256").hexdigest()})]
    with plain.open("rb") as data:
        for key, group in groups.items():
            found = _describe(path.name, key, group, data.fileno())
            if found is not None:
                kind = "defect" if isinstance(found, Defect) else "clip"
                lines.append(json.dumps({kind: asdict(found)}, ensure_ascii=False))
    lines.append(json.dumps({"end": len(lines) - 1}))
    temporary = path.with_name(f".{path.name}.index.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(f"{line}\n" for line in lines)
        temporary.replace(_index_path(path))
    except OSError as error:
        raise OrganizerError(f"the index of shard {path} cannot be written beside it: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, shard: str) -> Index | None:
    """The stored index, or None where there is none that is whole and fits the shard."""
    entries: list[Entry] = []
    defects: list[Defect] = []
    try:
        with _index_path(path).open(encoding="utf-8", errors="surrogatepass") as file:
            head = json.loads(file.readline())
            if not _fits(head, path):
                return None
            for line in file:
                match json.loads(line):
                    case {"clip": found}:
                        entries.append(Entry(**found))
                    case {"defect": found}:
                        defects.append(Defect(**{**found, "shard": shard, "kind": DefectKind(found["kind"])}))
                    case {"end": count} if count == len(entries) + len(defects):
                        return Index(sha256=head["sha256"], entries=tuple(entries), defects=tuple(defects))
    except (OSError, ValueError, TypeError):
        return None
    return None


def _fits(head: Mapping[str, Any], path: Path) -> bool:
    """Whether a stored index that begins so is the index of this file, made by this reader."""
    return {name: value for name, value in head.items() if name != "sha256"} == _state(path)


def _state(path: Path) -> dict[str, Any]:
    """What tells one state of the file, and one reader, from another."""
    state = path.stat()
    return {"format": _FORMAT, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "decoder": DECODER}


def _index_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.jsonl")


def _split(name: str) -> tuple[str, str]:
    """A member's key and its suffix in lower case, by WebDataset's rule: the key ends at the last part's first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (folder + slash + stem if stem else ""), suffix.lower()


class _BrokenError(OrganizerError):
    """Why one clip cannot be used; becomes its Defect."""

    def __init__(self, kind: DefectKind, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def _describe(shard: str, key: str, group: Sequence[Member], descriptor: int) -> Entry | Defect | None:
    """One clip of a shard; None for files that are neither a clip's audio nor its JSON."""
    try:
        chosen = _audio_and_text(group)
        if chosen is None:
            return None
        audio, text = chosen
        data = os.pread(descriptor, audio.size, audio.offset)
        sound = _sound(audio.name, data)
        return Entry(
            key=key,
            member=audio.name,
            offset=audio.offset,
            size=audio.size,
            duration_s=sound.frames / sound.sample_rate_hz,
            sample_rate_hz=sound.sample_rate_hz,
            channels=sound.channels,
            codec=sound.codec,
            sha256=hashlib.sha256(data).hexdigest(),
            pcm=sound.pcm,
            fields=_fields(text.name, os.pread(descriptor, text.size, text.offset)),
        )
    except _BrokenError as error:
        return Defect(shard=shard, key=key, kind=error.kind, why=str(error))


def _audio_and_text(group: Sequence[Member]) -> tuple[Member, Member] | None:
    """The files of one clip that count; None where there is neither."""
    kinds = {_split(member.name)[1]: member for member in group}
    if len(kinds) < len(group):
        raise _BrokenError(
            DefectKind.MEMBERS, f"a file is there twice among {', '.join(member.name for member in group[:4])}"
        )
    audio, text = _choose(kinds, DECODED_SUFFIXES), _choose(kinds, _JSON_SUFFIXES)
    for found in (audio, text):
        if len(found) > 1:
            names = ", ".join(member.name for member in found[:3])
            raise _BrokenError(
                DefectKind.MEMBERS,
                f"one audio file and one JSON were expected, but {len(found)} files ({names}) have the same name up to "
                "the first dot; rename them",
            )
    audio = audio or [member for kind, member in kinds.items() if kind.rpartition(".")[2] in OTHER_SUFFIXES]
    if not audio:
        if not text:
            return None
        raise _BrokenError(DefectKind.MEMBERS, f"it has no audio file, only {', '.join(kinds)}")
    if not text:
        raise _BrokenError(DefectKind.FIELDS, f"it has audio ({audio[0].name}) but no JSON")
    return audio[0], text[0]


def _sound(name: str, data: bytes) -> Sound:
    try:
        return examine(data)
    except OrganizerError as error:
        suffix = _split(name)[1].rpartition(".")[2]
        codec = foreign_codec(data) or (suffix if suffix in OTHER_SUFFIXES else None)
        if codec is not None:
            raise _BrokenError(DefectKind.CODEC, _refusal(name, codec)) from error
        raise _BrokenError(DefectKind.AUDIO, f"{name} cannot be decoded: {error}") from error


def _fields(name: str, data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _BrokenError(DefectKind.FIELDS, f"{name} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _BrokenError(DefectKind.FIELDS, f"{name} holds a {type(fields).__name__}; an object was expected")
    return fields


def _choose(kinds: Mapping[str, Member], suffixes: Sequence[str]) -> list[Member]:
    """The file with the first of `suffixes` that is there (`k.flac`); else those that end in one (`k.audio.flac`)."""
    for suffix in suffixes:
        if suffix in kinds:
            return [kinds[suffix]]
    return [member for kind, member in kinds.items() if kind.rpartition(".")[2] in suffixes]


def _refusal(name: str, codec: str) -> str:
    return (
        f"{name} is {codec}, which ranker cannot decode (it can {', '.join(DECODED_SUFFIXES)}); re-encode the audio of "
        "its shards to flac"
    )
