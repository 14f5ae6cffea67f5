"""Tar files, compressed or not: what lies where in them, and whether they are whole.

Python's tarfile takes a file that ends between two members, or turns to noise there, for a shorter tar. Here a tar is
whole only if its end mark (a block of zeros) stands where the members end, and nothing but zeros behind it.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import OrganizerError

_BLOCK = 512
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """The regular files of a plain tar, in order; one at a time is in memory.

    Raises OrganizerError where the tar is none, or, once its members are through, where it is not whole.
    """
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="backslashreplace") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if info.isreg():
                    yield Member(name=info.name, offset=info.offset_data, size=info.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise OrganizerError(f"shard {path} cannot be read as a tar file ({error}); build or fetch it again") from error
    _require_end(path, end)


def is_compressed(path: Path) -> bool:
    """Whether the file is compressed by gzip, whatever its name says."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def plain_path(path: Path) -> Path:
    """Where the plain copy of a compressed tar lies: a compressed one has no offsets to seek to."""
    return path.with_name(f"{path.name}.plain.tar")


def unpack(path: Path) -> Path:
    """The plain tar of a compressed one, beside it, written whole or not at all; it bears the same time of change.

    A copy that is there and bears that time is taken as it is. Who unpacks the same shard at the same time waits, and
    what a killed process left is overwritten. Raises OrganizerError where the compressed file is cut or damaged (gzip
    ends with a checksum and a length), and where the disk is full.
    """
    plain, changed_ns = plain_path(path), path.stat().st_mtime_ns
    if _is_of(plain, changed_ns):
        return plain
    temporary = path.with_name(f".{plain.name}.tmp")
    try:
        with temporary.open("ab") as target:
            fcntl.flock(target, fcntl.LOCK_EX)
            if _is_of(plain, changed_ns):  # somebody else was quicker
                temporary.unlink(missing_ok=True)
                return plain
            target.truncate(0)
            with gzip.open(path) as source:
                shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.utime(temporary, ns=(changed_ns, changed_ns))
            os.fsync(target.fileno())
            temporary.replace(plain)
    except (OSError, EOFError, zlib.error) as error:
        temporary.unlink(missing_ok=True)
        raise OrganizerError(
            f"shard {path} cannot be unpacked ({error}); fetch it again, and see that the disk has room"
        ) from error
    return plain


def _is_of(plain: Path, changed_ns: int) -> bool:
    """Whether the plain copy is there, and is of the compressed file that was changed then."""
    return plain.is_file() and plain.stat().st_mtime_ns == changed_ns


def _require_end(path: Path, end: int) -> None:
    """Raise OrganizerError unless zeros, one block of them at least, are all that follows the last member."""
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(_BLOCK)
        if len(mark) == _BLOCK and not any(mark):
            while block := file.read(1 << 20):
                if block.count(0) != len(block):
                    raise OrganizerError(
                        f"shard {path} has an end mark at byte {end} and more files behind it: two tars in one, or a "
                        "gap in a download; build or fetch it again"
                    )
            return
    found = "the end of the file" if not mark else f"{len(mark)} bytes that are neither file nor end mark"
    raise OrganizerError(
        f"shard {path} is not whole: a file or the tar's end mark (512 zeros) was expected at byte {end}, {found} "
        "found; build or fetch it again"
    )
