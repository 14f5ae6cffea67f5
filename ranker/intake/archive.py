"""ZIP -> folder. The ZIP is hostile: its headers are not believed, and nothing is written outside the target.

Three times through the directory, a few bytes kept of each entry (`archive_layout`, `archive_names`): where things lie,
what they are called, and only if all that is in order, their contents. So memory does not grow with the archive.

Not covered: archives inside the archive (they stay files), and what the unpacked code does (the sandbox's matter).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.intake.archive_layout import (
    ENCRYPTED,
    MAX_REASONS,
    NEWEST,
    PATCHED,
    Directory,
    Entry,
    Extents,
    Reasons,
    content_start,
    entries,
    find_directory,
)
from ranker.intake.archive_names import Member, Places, Separators, faults, member_of
from ranker.intake.staging import flush_tree, place, staging_folder
from ranker.settings import ArchiveLimits

_STORED, _DEFLATED = 0, 8
_READ = 1 << 16
_WRITTEN = 1 << 18
_MORE_PER_ENTRY = 1024  # bytes in the directory beside its name, on average: programs write less than a hundred
_METHODS = {
    9: "Deflate64 (Windows Explorer's choice for files above 2 GB)",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "xz",
}


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A complete tree; `digest` is SHA-256 over the sorted (path, SHA-256 of the content) of its files."""

    tree: Path
    files: int
    size_bytes: int
    digest: str


class _BrokenContentError(Exception):
    """An entry's content is not what the archive says."""


def unpack(zip_path: Path, target: Path, limits: ArchiveLimits) -> Unpacked:
    """Unpack `zip_path` into the new folder `target`; a `target` that exists is complete, and is described as it is.

    Raises ParticipantError with every refusal that was found (the first 20), UsageError where there is no such file,
    and InfraError where our own disk fails. Whenever it is killed, `target` is whole or absent.
    """
    if not target.is_dir() and not zip_path.is_file():
        raise UsageError(f"{zip_path}: there is no such file; expected the ZIP of a submission")
    try:
        with staging_folder(target.parent, f".{target.name}-") as folder:  # sweeps, even where nothing is left to do
            if not target.is_dir():
                tree = folder / "tree"
                tree.mkdir()
                tree.chmod(0o755)
                _extract(zip_path, tree, limits)
                flush_tree(tree)
                place(tree, target)
    except OSError as error:
        raise InfraError(f"{zip_path} could not be unpacked to {target}: {error}") from error
    return describe(target)


def describe(tree: Path) -> Unpacked:
    """Count and digest the files of an unpacked tree."""
    whole, files, size = hashlib.sha256(), 0, 0
    top = os.fsencode(tree)
    for name in _sorted_files(top, b""):
        with open(os.path.join(top, name), "rb") as content:  # noqa: PTH118, PTH123  bytes: see _sorted_files
            whole.update(b"%s\0%s\n" % (name, hashlib.file_digest(content, "sha256").hexdigest().encode()))
            size += os.fstat(content.fileno()).st_size
        files += 1
    return Unpacked(tree=tree, files=files, size_bytes=size, digest=whole.hexdigest())


def _sorted_files(top: bytes, below: bytes) -> Iterator[bytes]:
    """Paths of all files, sorted as whole paths, while only one folder's names at each depth are kept: a folder is
    sorted as its name with a slash. In bytes, for one odd character makes a str four times as large.
    """
    with os.scandir(os.path.join(top, below)) as found:  # noqa: PTH118
        names = sorted(each.name + b"/" if each.is_dir() else each.name for each in found)
    for name in names:
        if name.endswith(b"/"):
            yield from _sorted_files(top, below + name)
        elif os.path.isfile(os.path.join(top, below, name)):  # noqa: PTH113, PTH118
            yield below + name


def _extract(zip_path: Path, tree: Path, limits: ArchiveLimits) -> None:
    with zip_path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise ParticipantError(
                "the archive is empty (0 bytes); expected a ZIP of the encoder's repository; send it again"
            )
        directory = find_directory(file, size)
        if directory.entries > limits.max_entries:
            raise ParticipantError(
                f"the archive has {directory.entries:,} entries; at most {limits.max_entries:,} are accepted; leave out"
                " what the encoder does not need"
            )
        length = directory.end - directory.start
        if length > limits.max_entries * (limits.max_path_length + _MORE_PER_ENTRY):
            raise ParticipantError(
                f"the archive's directory has {length:,} bytes, more than {limits.max_entries:,} entries need, however"
                " long their names; pack the archive again, without extra fields"
            )
        separator = _judge(file, directory, limits, size)
        _write(file, directory, separator, tree)


def _judge(file: BinaryIO, directory: Directory, limits: ArchiveLimits, size: int) -> str:
    """What stands between folders in the archive's names; raises with everything that can be told without unpacking."""
    reasons = Reasons()
    separator = _judge_layout(file, directory, limits, size, reasons)
    places = Places(file, separator, limits, reasons)
    for entry in entries(file, directory):
        member = None
        try:
            member = member_of(entry, separator)
            if member is None:
                continue
            found = [*faults(entry, member, limits), *_method_faults(entry, member)]
        except ParticipantError as refusal:
            found = list(refusal.reasons)
        for each in found:
            reasons.add(each)
        if member is not None and not found:
            places.add(entry, member)
    if not reasons.count and not places.files:
        reasons.add("the archive holds no file; expected the encoder's repository; pack it again")
    reasons.refuse()
    return separator


def _judge_layout(file: BinaryIO, directory: Directory, limits: ArchiveLimits, size: int, reasons: Reasons) -> str:
    extents, separators = Extents(file, directory, reasons), Separators()
    stated = encrypted = 0
    first = ""
    for entry in entries(file, directory):
        extents.add(entry)
        separators.add(entry)
        stated += entry.size
        if entry.flags & ENCRYPTED:
            encrypted, first = encrypted + 1, first or entry.shown
    extents.check()
    if encrypted:
        reasons.add(
            f"{encrypted} of {directory.entries} entries are encrypted ({first} first); expected none; pack the archive"
            " without a password"
        )
    if stated > limits.max_unpacked_bytes:
        reasons.add(
            f"the archive states {stated:,} bytes of content; at most {limits.max_unpacked_bytes:,} bytes unpacked are"
            " accepted; leave out what the encoder does not need"
        )
    elif stated > max(limits.ratio_floor_bytes, limits.max_ratio * size):
        reasons.add(
            f"the archive of {size:,} bytes states {stated:,} bytes of content; at most {limits.max_ratio:g} to 1 is"
            f" accepted above {limits.ratio_floor_bytes:,}; leave out the files that compress so well"
        )
    return separators.separator


def _method_faults(entry: Entry, member: Member) -> Iterator[str]:
    if entry.method not in {_STORED, _DEFLATED} and not entry.flags & ENCRYPTED:
        # bzip2 and LZMA cannot be unpacked in bounded memory, and the others not by Python.
        method = _METHODS.get(entry.method, f"method {entry.method}")
        yield (
            f"{member.shown} is compressed by {method}; expected deflate;"
            " pack with `python -m zipfile -c FILE.zip FOLDER`"
        )
    if entry.flags & PATCHED or entry.version > NEWEST:
        yield (
            f"{member.shown} asks for a program of version {entry.version / 10:g}, or that patches; expected at most"
            f" {NEWEST / 10:g}; pack with `python -m zipfile -c FILE.zip FOLDER`"
        )


def _write(file: BinaryIO, directory: Directory, separator: str, tree: Path) -> None:
    reasons = Reasons()
    made: set[tuple[str, ...]] = {()}
    for entry in entries(file, directory):
        member = member_of(entry, separator)
        if member is None:
            continue
        folder = member.parts if member.is_folder else member.parts[:-1]
        if folder not in made:
            _make_folders(tree, folder)
            made = {(), folder}  # the last one: files of a folder mostly come together
        if member.is_folder:
            continue
        try:
            _copy(file, entry, tree.joinpath(*member.parts))
        except _BrokenContentError as error:
            reasons.add(
                f"{member.shown} cannot be unpacked ({error}); expected a whole archive; pack and send it again"
            )
            if reasons.count > MAX_REASONS:
                break
    reasons.refuse()


def _make_folders(tree: Path, parts: tuple[str, ...]) -> None:
    path = tree
    for part in parts:
        path /= part
        try:
            path.mkdir()
        except FileExistsError:
            continue
        path.chmod(0o755)  # whatever the umask, and whatever the archive says


def _copy(file: BinaryIO, entry: Entry, destination: Path) -> None:
    """Write one entry, counting. Raises _BrokenContentError where it is not exactly what the archive says."""
    written = crc = 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(destination, flags, 0o600), "wb", buffering=0) as output:
        for part in _content(file, entry):
            written += len(part)
            if written > entry.size:
                raise _BrokenContentError(f"it unpacks to more than the {entry.size:,} bytes that the archive states")
            crc = zlib.crc32(part, crc)
            _write_all(output, part)
        os.fchmod(output.fileno(), 0o644)
    if written != entry.size:
        raise _BrokenContentError(f"it unpacks to {written:,} bytes; the archive states {entry.size:,}")
    if crc != entry.crc:
        raise _BrokenContentError("its checksum is wrong")


def _write_all(output: BinaryIO, part: bytes) -> None:
    left = memoryview(part)
    while left:
        left = left[output.write(left) :]


def _content(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """An entry's content, unpacked, in parts of at most 256 KiB; deflate must end exactly where the entry does."""
    packed = _packed(file, entry)
    if entry.method == _STORED:
        yield from packed
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while not inflate.eof:
            given = inflate.unconsumed_tail or next(packed, b"")
            part = inflate.decompress(given, _WRITTEN)
            if not part and not given and not inflate.eof:
                raise _BrokenContentError("its compressed data ends too early")
            yield part
    except zlib.error as error:
        raise _BrokenContentError(f"its compressed data is damaged: {str(error).split(': ')[-1]}") from None
    if inflate.unused_data or next(packed, b""):
        raise _BrokenContentError("there is more behind its compressed data")


def _packed(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    at = content_start(file, entry)
    left = entry.packed
    while left:
        part = os.pread(file.fileno(), min(left, _READ if entry.method else _WRITTEN), at)
        if not part:
            raise _BrokenContentError("it is cut off")
        yield part
        at += len(part)
        left -= len(part)
