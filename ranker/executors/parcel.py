"""Files on their way between machines: listed with their digests, checked where they arrive, placed whole.

What arrives is believed only as far as its SHA-256: it waits in a staging folder until all of a delivery is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ranker.digest import file_digest
from ranker.durable import flush, remove_folder
from ranker.errors import InfraError

CHUNK_BYTES = 8 * 2**20
CHECKPOINT = "step-"
NOT_SENT = frozenset({"features.f32"})
"""Files of a run that are of use to nobody else, and large."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One file, or link, of a parcel. `path` is relative to the parcel's folder; `link` is a link's target."""

    path: str
    size: int = 0
    sha256: str = ""
    mode: int = 0o644
    link: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def piece_of(root: Path, path: Path, sha256: str | None = None) -> Piece:
    """What a file or link below `root` is now; `sha256`: of its content, where that is known. Raises OSError."""
    found, name = path.lstat(), path.relative_to(root).as_posix()
    if stat.S_ISLNK(found.st_mode):
        return Piece(path=name, link=str(path.readlink()))
    sha256 = sha256 or _digest(path, found.st_size)
    return Piece(path=name, size=found.st_size, sha256=sha256, mode=stat.S_IMODE(found.st_mode) & 0o755)


def chunks_of(path: Path, size: int) -> Iterator[bytes]:
    """A file's first `size` bytes: what a log grows by after it was announced belongs to the next delivery."""
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(CHUNK_BYTES, size))):
            size -= len(chunk)
            yield chunk


def _digest(path: Path, size: int) -> str:
    whole = hashlib.sha256()
    for chunk in chunks_of(path, size):
        whole.update(chunk)
    return whole.hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, sorted; what begins with a dot is somebody's unfinished work, or a lock."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        elif path.is_symlink() or path.is_file():
            yield path


def is_settled(path: Path, root: Path) -> bool:
    """Whether a file of a run may be sent: no part of its path is temporary, and it is not one that is not sent."""
    parts = path.relative_to(root).parts
    return not any(part.startswith(".") for part in parts) and path.name not in NOT_SENT


def must_stay_below(path: str) -> PurePosixPath:
    """The path, if it leads down from wherever it is taken to begin. Raises InfraError."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InfraError(f"a node named the file {path!r}, which does not lie below its job's folder; nothing is taken")
    return pure


class Cache:
    """Files that came to this machine, by their SHA-256; several processes may share it."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"

    def has(self, piece: Piece) -> bool:
        """Whether the file is here. A file that somebody changed has another size or time, and is not."""
        try:
            found = self._path(piece.sha256).stat()
        except FileNotFoundError:
            return False
        return (found.st_size, found.st_mtime_ns) == (piece.size, 0)

    def keep(self, piece: Piece, chunks: Iterable[bytes]) -> Iterator[None]:
        """Write a file that comes in chunks; yields after each. Raises InfraError if it is not what was announced."""
        path = self._path(piece.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        whole, size = hashlib.sha256(), 0
        try:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    whole.update(chunk)
                    size += len(chunk)
                    if size > piece.size:
                        break
                    file.write(chunk)
                    yield
                file.flush()
                os.fsync(file.fileno())
            if (size, whole.hexdigest()) != (piece.size, piece.sha256):
                raise InfraError(
                    f"{piece.path} changed on its way: {piece.size} bytes with sha256 {piece.sha256[:12]} were sent, "
                    f"{size} with {whole.hexdigest()[:12]} came"
                )
            os.utime(temporary, ns=(0, 0))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def place(self, piece: Piece, root: Path, *, copy: bool = False) -> None:
        """Put a kept file at its path below `root`: the very same file, or with `copy` one that may be changed."""
        target = root / must_stay_below(piece.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if piece.link is not None:
            target.symlink_to(piece.link)
            return
        if not copy and piece.mode in {0o644, 0o444}:
            try:
                os.link(self._path(piece.sha256), target)
            except FileExistsError:
                return  # another job of this machine was quicker
            except OSError:  # another file system
                shutil.copyfile(self._path(piece.sha256), target)
            return
        shutil.copyfile(self._path(piece.sha256), target)
        target.chmod(piece.mode)

    def shrink(self, max_bytes: float) -> None:
        """Remove files that nobody has placed, the least recently used first, until the rest fits."""
        if not self._blobs.is_dir():
            return
        found = [(path, path.stat()) for path in self._blobs.glob("*/*")]
        total = sum(each.st_size for _, each in found)
        for path, each in sorted(found, key=lambda pair: pair[1].st_atime_ns):
            if total <= max_bytes:
                return
            if each.st_nlink == 1:
                path.unlink(missing_ok=True)
                total -= each.st_size

    def _path(self, sha256: str) -> Path:
        return self._blobs / sha256[:2] / sha256


class Courier:
    """Watches a job's folder, and tells which files have appeared or changed since the last delivery."""

    def __init__(self, folder: Path, attempt: str) -> None:
        """`folder`: the job's; `attempt`: the name of this attempt's folder in it. What is there now is known there."""
        self._folder = folder
        self._attempt = attempt
        self._sent: dict[str, str] = {piece.path: piece.sha256 for piece in self._pieces()}
        self._marks = self._landmarks()

    def is_due(self) -> bool:
        """Whether something has come that a successor could go on from: a checkpoint, or a task's scores."""
        return self._landmarks() != self._marks

    def delivery(self) -> list[Piece]:
        """What has changed, in the order in which it may be put in place. Checkpoints come whole, or not yet."""
        self._marks = self._landmarks()
        return [piece for piece in self._pieces() if self._sent.get(piece.path) != piece.sha256]

    def sent(self, pieces: Sequence[Piece]) -> None:
        """These have been delivered."""
        self._sent.update({piece.path: piece.sha256 for piece in pieces})

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that this attempt has now; those that it dropped may be dropped elsewhere too."""
        return sorted(path.name for path in (self._folder / self._attempt).glob(f"{CHECKPOINT}*"))

    def _pieces(self) -> list[Piece]:
        found = []
        for path in files_below(self._folder):
            below = path.relative_to(self._folder).parts
            if not is_settled(path, self._folder) or (len(below) > 1 and below[0] != self._attempt):
                continue
            try:
                found.append(piece_of(self._folder, path))
            except FileNotFoundError:  # a checkpoint that was dropped while we looked
                continue
        return sorted(found, key=lambda piece: _rank(piece.path))

    def _landmarks(self) -> set[str]:
        folder = self._folder / self._attempt
        patterns = (f"{CHECKPOINT}*", "predictions/*.json", "*.witness.npz")
        return {str(path) for pattern in patterns for path in folder.glob(pattern)}


def _rank(path: str) -> tuple[int, str]:
    """What stands for others comes after them: a task's note after its predictions, the manifest last."""
    name = PurePosixPath(path).name
    if name == "manifest.json":
        return 3, path
    if "/predictions/" in path and name.endswith(".json"):
        return 2, path
    return (1 if f"/{CHECKPOINT}" in path else 0), path


class Arrivals:
    """Files of one attempt that come back to its job's folder."""

    def __init__(self, folder: Path, attempt: str, *, max_bytes: float) -> None:
        """`folder`: the job's; `attempt`: the name of this attempt's folder in it, the only one that may be written."""
        self._folder = folder
        self._attempt = attempt
        self._room = max_bytes
        self._max_bytes = max_bytes
        self._staging = folder / attempt / ".incoming"

    def take(self, piece: Piece, offset: int, data: bytes) -> None:
        """Write a chunk of a file into the staging folder. Raises InfraError for what no honest node sends."""
        self._check(piece)
        self._room -= len(data)
        if self._room < 0:
            raise InfraError(
                f"attempt {self._attempt} sent back more than {self._max_bytes / 1e9:.1f} GB of files; if its "
                "checkpoints are that large, raise cluster.max_result_gb in configs/service.yaml"
            )
        self._staging.mkdir(parents=True, exist_ok=True)
        path = self._staging / piece.sha256
        with path.open("r+b" if offset and path.exists() else "wb") as file:
            file.seek(offset)
            file.write(data)
            file.truncate()

    def take_whole(self, piece: Piece, source: Path) -> None:
        """Copy a file that lies in a folder that all nodes see."""
        with source.open("rb") as file:
            offset = 0
            while chunk := file.read(CHUNK_BYTES):
                self.take(piece, offset, chunk)
                offset += len(chunk)
            if not offset:
                self.take(piece, 0, b"")

    def put_in_place(self, pieces: Sequence[Piece], checkpoints: Sequence[str]) -> None:
        """Move a delivery to where it belongs: every digest is checked first, folders of checkpoints appear whole, and
        earlier ones that the node has dropped go. Raises InfraError.
        """
        for piece in pieces:
            self._check(piece)
            staged = self._staging / piece.sha256
            if not staged.is_file() or staged.stat().st_size != piece.size or file_digest(staged) != piece.sha256:
                raise InfraError(f"{piece.path} did not come back as it was sent (sha256 {piece.sha256[:12]})")
        copies = _Copies([piece.sha256 for piece in pieces], self._staging)
        whole: dict[Path, Path] = {}
        for piece in pieces:
            target = self._folder / piece.path
            if target.parent.name.startswith(CHECKPOINT):
                folder = target.parent.with_name(f".{target.parent.name}-coming")
                whole[folder] = target.parent
                target = folder / target.name
            elif len(PurePosixPath(piece.path).parts) == 1 and target.exists():
                continue  # what is fixed for the job at its first attempt stays
            target.parent.mkdir(parents=True, exist_ok=True)
            for each, place in _unfinished(whole, folder=target.parent):
                _complete(each, place)
                del whole[each]
            copies.move(piece, target)
        for each, place in whole.items():
            _complete(each, place)
        for old in (self._folder / self._attempt).glob(f"{CHECKPOINT}*"):
            if old.name not in checkpoints:
                remove_folder(old)
        self.discard()

    def discard(self) -> None:
        """Forget what waits in the staging folder."""
        shutil.rmtree(self._staging, ignore_errors=True)

    def _check(self, piece: Piece) -> None:
        parts = must_stay_below(piece.path).parts
        hidden = any(part.startswith(".") for part in parts)
        digest_is_one = len(piece.sha256) == hashlib.sha256().digest_size * 2 and piece.sha256.isalnum()
        if hidden or piece.link is not None or not digest_is_one or (len(parts) > 1 and parts[0] != self._attempt):
            raise InfraError(f"a node sent {piece.path!r} for {self._attempt}, which no job writes; nothing is taken")


class _Copies:
    """Staged files, some of which are wanted at several places (empty ones, for example)."""

    def __init__(self, digests: Sequence[str], staging: Path) -> None:
        self._left = {digest: digests.count(digest) for digest in digests}
        self._staging = staging

    def move(self, piece: Piece, target: Path) -> None:
        staged = self._staging / piece.sha256
        self._left[piece.sha256] -= 1
        temporary = target.with_name(f".{target.name}.coming")
        if self._left[piece.sha256]:
            shutil.copyfile(staged, temporary)
        else:
            staged.rename(temporary)
        temporary.chmod(piece.mode)
        flush(temporary)
        temporary.replace(target)
        flush(target.parent)


def _unfinished(whole: dict[Path, Path], *, folder: Path) -> list[tuple[Path, Path]]:
    """Checkpoint folders that are complete, since the delivery has gone on to another folder."""
    return [(each, place) for each, place in whole.items() if each != folder]


def _complete(coming: Path, place: Path) -> None:
    if place.exists():
        remove_folder(place)
    coming.rename(place)
    flush(place.parent)


Bring = Callable[[Piece], Iterator[bytes]]
"""The chunks of an announced file, from wherever it is."""
