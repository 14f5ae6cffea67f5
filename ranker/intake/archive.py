"""ZIP -> folder. The ZIP is hostile: its headers are not believed, and nothing is written outside the target.

Not covered: archives inside the archive (they stay files), and what the unpacked code does (the sandbox's matter).
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import os
import stat
import struct
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.intake.staging import flush_tree, place, staging_folder
from ranker.settings import ArchiveLimits

MAX_REASONS = 20
_CHUNK = 1 << 20
_MAX_NAME = 255  # bytes of one name: the limit of ext4, XFS, APFS and NTFS
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # APPNOTE.TXT 4.4.4, bits 0, 6 and 13
_METHODS = {
    zipfile.ZIP_BZIP2: "bzip2",
    zipfile.ZIP_LZMA: "LZMA",
    9: "Deflate64 (Windows Explorer's choice for files above 2 GB)",
    93: "Zstandard",
    95: "xz",
}
# What zipfile raises on bytes that are no sound ZIP; found by fuzzing (tests/test_archive.py).
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A complete tree; `digest` is SHA-256 over the sorted (path, SHA-256 of the content) of its files."""

    tree: Path
    files: int
    size_bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class _Member:
    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    is_folder: bool

    @property
    def path(self) -> str:
        return "/".join(self.parts)


class _OutOfRoomError(Exception):
    """The archive has unpacked to more bytes than it may."""


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
                _extract(zip_path, tree, limits)
                for path in [tree, *tree.rglob("*")]:
                    path.chmod(0o755 if path.is_dir() else 0o644)  # whatever the umask, and whatever the archive says
                flush_tree(tree)
                place(tree, target)
    except OSError as error:
        raise InfraError(f"{zip_path} could not be unpacked to {target}: {error}") from error
    return describe(target)


def describe(tree: Path) -> Unpacked:
    """Count and digest the files of an unpacked tree."""
    files = sorted((path.relative_to(tree).as_posix(), path) for path in tree.rglob("*") if path.is_file())
    whole = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as content:
            whole.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return Unpacked(
        tree=tree,
        files=len(files),
        size_bytes=sum(path.stat().st_size for _, path in files),
        digest=whole.hexdigest(),
    )


def odd_characters(text: str) -> str:
    """Controls, direction marks, invisible characters and lone surrogates in `text`, as `U+202E, ...`; "" if none.

    Terminals, shells and pages misread these, and a NUL would end a name early.
    """
    odd = sorted({char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}})
    return ", ".join(f"U+{ord(char):04X}" for char in odd[:5])


class _GuardedFile(io.FileIO):
    """Bounds what zipfile reads while it lists: it takes the directory, of whatever size is stated, in one read."""

    def __init__(self, path: Path, limits: ArchiveLimits) -> None:
        super().__init__(path)
        self.listing = True
        self._max_entries = limits.max_entries
        self._max_bytes = limits.max_entries * (limits.max_path_length + 1024)

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.listing:
            return super().read(size) or b""
        data = super().read(min(size or 0, self._max_bytes + 1)) or b""
        if len(data) > self._max_bytes or data.count(b"PK\x01\x02") > self._max_entries:
            raise ParticipantError(
                f"the archive lists more entries, or longer names, than {self._max_entries:,} entries may have;"
                " leave out what the encoder does not need"
            )
        return data


def _extract(zip_path: Path, tree: Path, limits: ArchiveLimits) -> None:
    size = zip_path.stat().st_size
    if size == 0:
        raise ParticipantError(
            "the archive is empty (0 bytes); expected a ZIP of the encoder's repository; send it again"
        )
    with _GuardedFile(zip_path, limits) as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN as error:
            raise ParticipantError(
                f"the file is not a complete ZIP ({_shown(error)}); expected the ZIP of the encoder's repository;"
                " test it with `python -m zipfile -t FILE.zip` and send it again"
            ) from None
        with archive:
            file.listing = False
            members = _members(archive, file, limits, size)
            _write(archive, members, tree, limits, size)


def _members(archive: zipfile.ZipFile, file: io.FileIO, limits: ArchiveLimits, size: int) -> list[_Member]:
    """What is to be written, in the archive's order; raises with everything that the directory alone tells."""
    entries = archive.infolist()
    reasons = [*_archive_faults(entries, limits), *_overlaps(entries, file, archive.start_dir, size)]
    members: list[_Member] = []
    for info in entries:
        if _is_litter(info):
            continue
        faults = [*_name_faults(info, limits), *_kind_faults(info)]
        reasons += faults
        if not faults:
            parts = tuple(part for part in info.orig_filename.removesuffix("/").split("/") if part != ".")
            if parts:
                members.append(_Member(info=info, parts=parts, is_folder=_is_folder(info)))
    reasons += _collisions(members)
    if not reasons and all(member.is_folder for member in members):
        reasons.append("the archive holds no file; expected the encoder's repository; pack it again")
    _refuse(reasons)
    return members


def _refuse(reasons: Sequence[str]) -> None:
    if len(reasons) > MAX_REASONS:
        reasons = [*reasons[:MAX_REASONS], f"and {len(reasons) - MAX_REASONS} more refusals of this archive."]
    if reasons:
        raise ParticipantError(reasons)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.orig_filename.endswith("/")  # ZipInfo.is_dir() fails on a name that begins with NUL


def _is_litter(info: zipfile.ZipInfo) -> bool:
    """What macOS and Windows add behind the user's back: neither written nor judged."""
    parts = info.orig_filename.split("/")
    return parts[0] == "__MACOSX" or parts[-1] in {".DS_Store", "Thumbs.db"}


def _archive_faults(entries: Sequence[zipfile.ZipInfo], limits: ArchiveLimits) -> Iterator[str]:
    if len(entries) > limits.max_entries:
        yield (
            f"the archive has {len(entries):,} entries; at most {limits.max_entries:,} are accepted; leave out what the"
            " encoder does not need"
        )
    encrypted = [info for info in entries if info.flag_bits & _ENCRYPTED]
    if encrypted:
        yield (
            f"{len(encrypted)} of {len(entries)} entries are encrypted ({_shown(encrypted[0].orig_filename)} first);"
            " expected none; pack the archive without a password"
        )
    stated = sum(info.file_size for info in entries)
    if stated > limits.max_unpacked_bytes:
        yield _too_large(f"states {stated:,} bytes of content", limits)


def _too_large(found: str, limits: ArchiveLimits) -> str:
    return (
        f"the archive {found}; at most {limits.max_unpacked_bytes:,} bytes unpacked are accepted;"
        " leave out what the encoder does not need"
    )


def _name_faults(info: zipfile.ZipInfo, limits: ArchiveLimits) -> Iterator[str]:
    name, shown = info.orig_filename, _shown(info.orig_filename)
    parts = name.removesuffix("/").split("/")
    odd = odd_characters(name)
    if odd:
        yield f"the name {shown} has control or invisible characters ({odd}); expected printable ones; rename it"
    if "\\" in name:
        yield f"the name {shown} has a backslash; expected / between folders; rename it, or pack with another tool"
    if name.startswith("/") or (name[1:2] == ":" and name[0].isascii() and name[0].isalpha()):
        yield f"the path {shown} is absolute; expected one relative to the archive; pack the repository's own folder"
    elif "" in parts:
        yield f"the path {shown} has an empty part; expected a name between every two /; pack the archive again"
    if ".." in parts:
        yield f"the path {shown} climbs with ..; expected paths inside the archive; pack the repository's own folder"
    if len(parts) > limits.max_depth:
        yield f"the path {shown} is {len(parts)} folders deep; at most {limits.max_depth} are accepted; flatten it"
    length = len(name.encode(errors="replace"))
    if length > limits.max_path_length:
        yield f"the path {shown} is {length} bytes long; at most {limits.max_path_length} are accepted; shorten it"
    elif any(len(part.encode(errors="replace")) > _MAX_NAME for part in parts):
        yield f"the path {shown} has a name above {_MAX_NAME} bytes, which file systems refuse; shorten it"


def _kind_faults(info: zipfile.ZipInfo) -> Iterator[str]:
    shown = _shown(info.orig_filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        yield f"{shown} is a symbolic link; expected files and folders only; pack the file itself (zip without -y)"
    elif kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        yield f"{shown} is a device, pipe or socket; expected files and folders only; remove it"
    elif (kind == stat.S_IFREG or info.file_size) if _is_folder(info) else kind == stat.S_IFDIR:
        yield f"{shown} is marked both as a folder and as a file; expected one of them; pack the archive again"
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # bzip2 and LZMA cannot be unpacked in bounded memory; Python reads no others.
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        yield f"{shown} is compressed by {method}; expected deflate; pack with `python -m zipfile -c FILE.zip FOLDER`"


def _collisions(members: Sequence[_Member]) -> Iterator[str]:
    spellings: dict[str, str] = {}  # as a case-blind, form-blind file system sees it -> as it was first spelled
    folders: dict[str, bool] = {}
    listed: set[str] = set()
    for member in members:
        prefixes = ["/".join(member.parts[:depth]) for depth in range(1, len(member.parts))]
        for path in [*prefixes, member.path]:
            is_folder = path != member.path or member.is_folder
            if path not in folders:
                folders[path] = is_folder
                key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
                first = spellings.setdefault(key, path)
                if first != path:
                    yield (
                        f"{_shown(first)} and {_shown(path)} differ by case or Unicode form only, and are one file on"
                        " some machines; expected names that differ there too; rename one"
                    )
            elif folders[path] != is_folder:
                yield f"{_shown(path)} is both a file and a folder; expected one of them; rename one"
        if member.path in listed:
            yield f"{_shown(member.path)} is in the archive twice; expected each name once; pack the archive again"
        listed.add(member.path)


def _overlaps(entries: Sequence[zipfile.ZipInfo], file: io.FileIO, directory: int, size: int) -> Iterator[str]:
    """Entries that share bytes, with each other or with the directory: how a bomb hides from a count of bytes."""
    extents: list[tuple[int, int, str]] = []
    for info in entries:
        shown = _shown(info.orig_filename)
        header = b""
        if 0 <= info.header_offset < size:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            yield f"{shown} is not where the archive's directory says; expected a whole archive; pack and send it again"
            continue
        name_length, extra_length = struct.unpack_from("<HH", header, 26)
        end = info.header_offset + 30 + name_length + extra_length + info.compress_size
        extents.append((info.header_offset, end, shown))
    extents.sort()
    extents.append((directory, size, "the archive's directory"))
    for (_, end, shown), (start, _, next_shown) in itertools.pairwise(extents):
        if end > start:
            yield f"{shown} and {next_shown} share bytes of the archive; expected each its own; pack the archive again"


def _write(archive: zipfile.ZipFile, members: Sequence[_Member], tree: Path, limits: ArchiveLimits, size: int) -> None:
    allowance = int(min(limits.max_unpacked_bytes, max(limits.ratio_floor_bytes, limits.max_ratio * size)))
    room = allowance
    reasons: list[str] = []
    for member in members:
        destination = tree.joinpath(*member.parts)
        if member.is_folder:
            destination.mkdir(parents=True, exist_ok=True)
            continue
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            written = _copy(archive, member.info, destination, room)
        except _OutOfRoomError:
            if allowance == limits.max_unpacked_bytes:
                reasons.append(_too_large(f"unpacks to more, reached in {_shown(member.path)}", limits))
            else:
                reasons.append(
                    f"the archive unpacks from {size:,} to more than {allowance:,} bytes, in {_shown(member.path)};"
                    f" at most {limits.max_ratio:g} to 1 is accepted; leave out the files that compress so well"
                )
            break
        except _BROKEN as error:
            reasons.append(
                f"{_shown(member.path)} cannot be unpacked ({_shown(error)}); expected a whole archive;"
                " pack and send it again"
            )
            continue
        room -= written
        if written != member.info.file_size:
            reasons.append(
                f"{_shown(member.path)} unpacks to {written:,} bytes; expected {member.info.file_size:,}, as the"
                " archive states; pack the archive again"
            )
    _refuse(reasons)


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, destination: Path, room: int) -> int:
    """Write one entry; the number of bytes. Raises _OutOfRoomError above `room`, and whatever is in _BROKEN."""
    whole = copy.copy(info)
    whole.file_size = (
        sys.maxsize
    )  # zipfile stops silently at the stated size: unbounded, it finds the stream's real end
    written = 0
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as output, archive.open(whole) as source:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > room:
                raise _OutOfRoomError
            output.write(chunk)
    return written


def _shown(value: object) -> str:
    """Harmless on a terminal, and short: repr escapes whatever is not printable."""
    text = repr(value) if isinstance(value, str) else repr(str(value))[1:-1]
    return text if len(text) <= 100 else f"{text[:97]}..."
