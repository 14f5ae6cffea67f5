"""Features that the jobs of a submission share on one machine: what one of them had encoded, no other encodes again.

`features/<submission>/` of a home holds a file for each attempt, which that attempt alone writes, at its end only:

    head     mark, identity, SHA-256 of what follows, length of what follows; then who made it (JSON)
    record   mark, key, SHA-256 of all but the mark, members, D; frames of each member; their numbers, float32

An identity stands for all that the bits of features hang on but the audio (`ranker.shared_features`), a key for the
audio of one call of the encoder. What is taken is of the wanted identity and key, and fits its digest; so it is what
the encoder would say, and no result depends on what is there. A record's mark is written last: who is killed leaves
whole records. A file is removed only while nobody has it open, so that its room is really free then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ranker.errors import ParticipantError
from ranker.pace import PULSE
from ranker.sandbox.base import Audio, Features

log = logging.getLogger("ranker.features")

TakenOver = Callable[[Sequence[Features], Sequence[Callable[[], Audio]]], None]
"""Is told of everything that is taken before it is used: the features, and how to get the audio of each."""

SUFFIX = ".features"
_MARK = b"RKFEAT01"
_HEAD = struct.Struct("<8s32s32sI")
_RECORD_MARK = b"RKFR"
_RECORD = struct.Struct("<4s32s32sII")
_MOST_MEMBERS = 4_096
_STEP_BYTES = 2**23  # by how much a file grows at once: less often than that the sizes of all are looked at
_TRIES, _PAUSE_S = 20, 0.01  # for the lock, which is held for some microseconds: rather share nothing than wait


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one clip's features lie: (frames, D) float32 from `offset` on in an open file."""

    file: int
    offset: int
    frames: int

    def read(self, dim: int) -> Features:
        """The features (frames, dim)."""
        data = os.pread(self.file, self.frames * dim * 4, self.offset)
        return np.frombuffer(data, dtype=np.float32).reshape(self.frames, dim)


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """What one call of the encoder gave earlier, in the order of its clips, and who had it made."""

    features: list[Features]
    places: list[Place]
    maker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    digest: bytes
    dim: int
    frames: tuple[int, ...]
    offset: int  # of the numbers

    @property
    def size(self) -> int:
        """Bytes of all its numbers."""
        return 4 * self.dim * sum(self.frames)

    def places(self, file: int) -> list[Place]:
        """Where in the open `file` the features of each clip of the call lie, in order."""
        found, offset = [], self.offset
        for frames in self.frames:
            found.append(Place(file=file, offset=offset, frames=frames))
            offset += 4 * self.dim * frames
        return found


@dataclass(kw_only=True)
class _Segment:
    """One attempt's file, open; `end`: up to where its records are known."""

    path: Path
    file: int
    maker: str
    end: int
    records: dict[bytes, _Record]
    is_used: bool = False

    def read_on(self) -> None:
        """Learn of the records that were written since; up to the first that is not whole."""
        size = os.fstat(self.file).st_size
        while len(head := os.pread(self.file, _RECORD.size, self.end)) == _RECORD.size:
            mark, key, digest, members, dim = _RECORD.unpack(head)
            if mark != _RECORD_MARK or not 0 < members <= _MOST_MEMBERS:
                return
            lengths = os.pread(self.file, 4 * members, self.end + _RECORD.size)
            if len(lengths) < 4 * members:
                return
            frames = struct.unpack(f"<{members}I", lengths)
            offset = self.end + _RECORD.size + 4 * members
            record = _Record(digest=digest, dim=dim, frames=frames, offset=offset)
            if offset + record.size > size:
                return
            self.records[key] = record
            self.end = offset + record.size


class Shelf:
    """One attempt's view of what its submission's jobs share, and its own part of it. Use as a context.

    `taken` counts the clips that were taken, by who had them made. What an attempt that fails by its encoder's fault
    had made is removed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        maker: str,
        own: str,
        readable: Sequence[str],
        max_bytes: int,
        taken_over: TakenOver,
    ) -> None:
        """`folder`: the submission's, beside those of others. `identity`: a SHA-256 in hex. `maker`: who this attempt
        is, in words. `own`: the circle that may read what it writes; `readable`: the circles that it reads itself.
        `max_bytes`: of all submissions together.
        """
        self.taken: Counter[str] = Counter()
        self._folder = folder
        self._identity = bytes.fromhex(identity)
        self._maker = maker
        self._circle = own
        self._readable = tuple(readable)
        self._max_bytes = max_bytes
        self._taken_over = taken_over
        self._segments: dict[Path, _Segment] = {}
        self._own: _Segment | None = None
        self._reserved = 0
        self._is_writable = max_bytes > 0

    def __enter__(self) -> Shelf:
        if self._folder.parent.is_dir():
            self._make_room(0)  # the bound may have been lowered
        self.look_again()
        return self

    def __exit__(self, _: type[BaseException] | None, raised: BaseException | None, __: TracebackType | None) -> None:
        if self._own is not None:
            with suppress(OSError):
                if isinstance(raised, ParticipantError):
                    self._own.path.unlink(missing_ok=True)
                else:
                    os.ftruncate(self._own.file, self._own.end)
        for segment in self._segments.values():
            os.close(segment.file)
        self._segments.clear()
        self._own = None

    def look_again(self) -> None:
        """Learn of what others have had made since."""
        if self._max_bytes <= 0:
            return
        for circle in self._readable:
            for path in sorted(self._folder.glob(f"{self._identity.hex()[:16]}-{circle}-*{SUFFIX}")):
                if path not in self._segments and (segment := _opened(path, self._identity)) is not None:
                    self._segments[path] = segment
        for segment in self._segments.values():
            if segment is not self._own:
                segment.read_on()

    def take(self, key: bytes, dim: int) -> Shelved | None:
        """The features of this call, if they are here and whole. May be called by another thread."""
        for segment in list(self._segments.values()):
            record = segment.records.get(key)
            if record is None or record.dim != dim:
                continue
            data = os.pread(segment.file, record.size, record.offset)
            if _digest(key, record.dim, record.frames, [data]) != record.digest:
                log.warning("%s is damaged; what it held of a call is encoded again", segment.path)
                del segment.records[key]
                continue
            if not segment.is_used:
                segment.is_used = True
                with suppress(OSError):
                    os.utime(segment.path)  # what is used goes last
            cuts = np.cumsum(record.frames)[:-1]
            features = np.split(np.frombuffer(data, dtype=np.float32).reshape(-1, dim), cuts)
            return Shelved(features=features, places=record.places(segment.file), maker=segment.maker)
        return None

    def account(self, shelved: Shelved, audio: Sequence[Callable[[], Audio]]) -> None:
        """Have what was taken witnessed, as if it had been encoded now; `audio` gives the clips' samples."""
        PULSE.mark()
        self.taken[shelved.maker] += len(shelved.features)
        self._taken_over(shelved.features, audio)

    def put(self, key: bytes, features: Sequence[Features]) -> list[Place] | None:
        """Keep what a call gave, for this attempt and others; None where there is no room for it."""
        dim, frames = features[0].shape[1], tuple(map(len, features))
        numbers = [np.ascontiguousarray(each, dtype="<f4").tobytes() for each in features]
        lengths = struct.pack(f"<{len(frames)}I", *frames)
        need = _RECORD.size + len(lengths) + sum(map(len, numbers))
        try:
            if not self._is_writable or not self._has_room(need):
                return None
            assert self._own is not None
            at = self._own.end
            _write(self._own.file, b"".join([lengths, *numbers]), at + _RECORD.size)
            digest = _digest(key, dim, frames, numbers)
            _write(self._own.file, _RECORD.pack(_RECORD_MARK, key, digest, len(frames), dim), at)
        except OSError as error:  # a full disk, for example: then the attempt keeps to itself
            log.warning("features are shared no more by this attempt: %s", error)
            self._is_writable = False
            return None
        self._own.end = at + need
        record = _Record(digest=digest, dim=dim, frames=frames, offset=at + _RECORD.size + len(lengths))
        self._own.records[key] = record
        return record.places(self._own.file)

    def _has_room(self, need: int) -> bool:
        end = 0 if self._own is None else self._own.end
        return (self._own is not None and end + need <= self._reserved) or self._make_room(need)

    def _make_room(self, need: int) -> bool:
        """Let the own file grow by `need` bytes or more; files of others go if the bound asks for that.

        The bound is of the files' sizes, which a file's growth reserves: all processes look at them under one lock.
        """
        with _locked(self._folder.parent) as is_held:
            if not is_held:
                return False
            sizes = {path: path.lstat() for path in _files(self._folder.parent)}
            free = self._max_bytes - sum(each.st_size for each in sizes.values())
            for path in _oldest_first(sizes, self._folder):
                if free >= need:
                    break
                if _removed(path):
                    free += sizes[path].st_size
            if need == 0 or free < need:
                return False
            if self._own is None:
                head = self._head()
                if free < need + len(head):
                    return False
                self._begin(head)
                free -= len(head)
            assert self._own is not None
            reserved = self._reserved + min(max(need, _STEP_BYTES), free)
            os.ftruncate(self._own.file, reserved)
            self._reserved = reserved
            return True

    def _head(self) -> bytes:
        facts = json.dumps({"maker": self._maker}).encode()
        return _HEAD.pack(_MARK, self._identity, hashlib.sha256(facts).digest(), len(facts)) + facts

    def _begin(self, head: bytes) -> None:
        """Make the own file; the lock is held."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        prefix = f"{self._identity.hex()[:16]}-{self._circle}-"
        file, name = tempfile.mkstemp(prefix=prefix, suffix=SUFFIX, dir=self._folder)
        fcntl.flock(file, fcntl.LOCK_SH)
        _write(file, head, 0)
        self._reserved = len(head)
        self._own = _Segment(path=Path(name), file=file, maker=self._maker, end=len(head), records={})
        self._segments[self._own.path] = self._own


def _digest(key: bytes, dim: int, frames: Sequence[int], numbers: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256(key + struct.pack(f"<II{len(frames)}I", len(frames), dim, *frames))
    for each in numbers:
        digest.update(each)
    return digest.digest()


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _opened(path: Path, identity: bytes) -> _Segment | None:
    """The file, if it is one of ours, of this identity, and has not just been removed."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        status = os.fstat(file)
        head = os.pread(file, _HEAD.size, 0)
        if (
            stat.S_ISREG(status.st_mode)
            and status.st_uid == os.getuid()
            and status.st_nlink
            and len(head) == _HEAD.size
        ):
            mark, theirs, digest, size = _HEAD.unpack(head)
            facts = os.pread(file, min(size, 2**16), _HEAD.size)
            if (mark, theirs, digest) == (_MARK, identity, hashlib.sha256(facts).digest()):
                maker = str(json.loads(facts)["maker"])
                return _Segment(path=path, file=file, maker=maker, end=_HEAD.size + size, records={})
    except (OSError, ValueError, KeyError, TypeError):
        pass
    os.close(file)
    return None


@contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """Hold the lock of all that is shared in a home; whether it was free in time. The system frees a dead process's."""
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        log.warning("features cannot be shared: %s", error)
        yield False
        return
    try:
        yield _is_taken(lock)
    finally:
        os.close(lock)


def _is_taken(lock: int) -> bool:
    for _ in range(_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE_S)
    return False


def _files(root: Path) -> list[Path]:
    return [path for path in root.glob(f"*/*{SUFFIX}") if path.is_file() and not path.is_symlink()]


def _oldest_first(files: dict[Path, os.stat_result], own: Path) -> list[Path]:
    """Files of the submission that was used longest ago come first, those of `own` last."""
    used: dict[Path, float] = {}
    for path, found in files.items():
        used[path.parent] = max(used.get(path.parent, 0.0), found.st_mtime)
    return sorted(files, key=lambda path: (path.parent == own, used[path.parent], files[path].st_mtime, path))


def _removed(path: Path) -> bool:
    """Remove a file, unless a process has it open; the lock is held."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(file)
    with suppress(OSError):
        path.parent.rmdir()
    return True
