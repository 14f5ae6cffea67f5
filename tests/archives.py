"""ZIPs written byte by byte, with whatever lies a test wants, and what becomes of them."""

from __future__ import annotations

import dataclasses
import io
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranker.errors import ParticipantError
from ranker.intake.archive import Unpacked, unpack
from ranker.settings import ArchiveLimits

LIMITS = ArchiveLimits()
ENCODER = b"class TinyEncoder: ...\n"
FULL = 0xFFFF_FFFF
DOS, UNIX, NTFS = 0, 3, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a hand-made ZIP; what is None is stated truthfully. `local_...`: what its own header says instead.

    `descriptor`: "" for none, else the form of what stands behind the content: "I" 32 and "Q" 64 bits, with "PK" before
    it with its mark. `between`: bytes of no entry that follow. `packed`: the content as it is stored, already packed.
    """

    name: str | bytes
    content: bytes = b""
    method: int = zipfile.ZIP_STORED
    version: int = 20
    flags: int = 0x800  # names are UTF-8
    mode: int = 0
    attributes: int = 0
    host: int = UNIX
    extra: bytes = b""
    comment: bytes = b""
    packed: bytes | None = None
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    local_size: int | None = None
    local_packed: int | None = None
    local_crc: int | None = None
    local_extra: bytes = b""
    stated_size: int | None = None
    stated_packed: int | None = None
    stated_crc: int | None = None
    offset: int | None = None
    descriptor: str = ""
    between: bytes = b""
    disk: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """The end of a hand-made ZIP; what is None is stated truthfully. `zip64`: with a record and locator of that."""

    count: int | None = None
    length: int | None = None
    start: int | None = None
    disk: int = 0
    comment: bytes = b""
    comment_length: int | None = None
    zip64: bool = False
    count64: int | None = None
    length64: int | None = None
    start64: int | None = None
    at64: int | None = None
    more64: bytes = b""
    disks: int = 1
    before: bytes = b""  # between the directory and its end


def extra(kind: int, data: bytes) -> bytes:
    """One extra field."""
    return struct.pack("<HH", kind, len(data)) + data


def unicode_path(name: str, raw: bytes) -> bytes:
    """Info-ZIP's field for a name's Unicode form."""
    return extra(0x7075, struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode())


def deflated(content: bytes) -> bytes:
    """A raw deflate stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def craft(*entries: Entry, end: End = End(), before: bytes = b"", behind: bytes = b"") -> bytes:
    """The bytes of a ZIP as APPNOTE.TXT describes it, with whatever lies the entries and the end tell."""
    body, directory = bytearray(before), bytearray()
    for entry in entries:
        name = entry.name.encode() if isinstance(entry.name, str) else entry.name
        data = entry.packed
        if data is None:
            data = deflated(entry.content) if entry.method == zipfile.ZIP_DEFLATED else entry.content
        flags = entry.flags | (8 if entry.descriptor else 0)
        truth = (zlib.crc32(entry.content), len(data), len(entry.content))
        stated = [
            real if said is None else said
            for said, real in zip((entry.stated_crc, entry.stated_packed, entry.stated_size), truth, strict=True)
        ]
        own = (entry.local_crc, entry.local_packed, entry.local_size)
        usual = [0, 0, 0] if entry.descriptor else stated
        local = [real if said is None else said for said, real in zip(own, usual, strict=True)]
        offset = len(body) if entry.offset is None else entry.offset
        local_name = name if entry.local_name is None else entry.local_name
        local_flags = flags if entry.local_flags is None else entry.local_flags
        local_method = entry.method if entry.local_method is None else entry.local_method
        body += struct.pack(
            "<4s5H3I2H",
            *(b"PK\3\4", 20, local_flags, local_method, 0, 0x21, *local, len(local_name), len(entry.local_extra)),
        )
        body += local_name + entry.local_extra + data
        if entry.descriptor:
            body += entry.descriptor[:-1].replace("PK", "PK\7\10").encode()
            body += struct.pack(f"<I2{entry.descriptor[-1]}", *truth)
        body += entry.between
        lengths = (len(name), len(entry.extra), len(entry.comment))
        made = entry.host << 8 | 20
        places = (entry.disk, 0, entry.mode << 16 | entry.attributes, offset)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", made, entry.version, flags, entry.method, 0, 0x21, *stated, *lengths, *places
        )
        directory += name + entry.extra + entry.comment
    return bytes(body + directory + _ending(end, len(entries), len(directory), len(body)) + behind)


def _ending(end: End, entries: int, length: int, start: int) -> bytes:
    found = end.before
    count, length32, start32 = entries, length, start
    if end.zip64:
        at = start + length + len(end.before) if end.at64 is None else end.at64
        numbers = [
            real if said is None else said
            for said, real in ((end.count64, entries), (end.length64, length), (end.start64, start))
        ]
        found += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44 + len(end.more64), 45, 45, 0, 0, numbers[0], *numbers)
        found += end.more64 + struct.pack("<4sIQI", b"PK\6\7", 0, at, end.disks)
        count, length32, start32 = 0xFFFF, FULL, FULL
    count = count if end.count is None else end.count
    length32 = length32 if end.length is None else end.length
    start32 = start32 if end.start is None else end.start
    comment_length = len(end.comment) if end.comment_length is None else end.comment_length
    found += struct.pack("<4s4H2IH", b"PK\5\6", end.disk, end.disk, count, count, length32, start32, comment_length)
    return found + end.comment


def zip64_extra(*numbers: int) -> bytes:
    """The field that holds what is full in a header, in the order size, packed size, offset."""
    return extra(0x0001, b"".join(struct.pack("<Q", each) for each in numbers))


def reasons(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS) -> tuple[str, ...]:
    """Why `data` is refused; fails if it is not, or if anything at all is left behind."""
    with pytest.raises(ParticipantError) as refusal:
        unpack_bytes(tmp_path, data, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["in.zip"], "a refused archive leaves nothing"
    return refusal.value.reasons


def unpack_bytes(tmp_path: Path, data: bytes, limits: ArchiveLimits = LIMITS) -> Unpacked:
    (tmp_path / "in.zip").write_bytes(data)
    return unpack(tmp_path / "in.zip", tmp_path / "tree", limits)


def contents(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is enough, for tests of many small trees; in place of pytest's `tmp_path`."""
    memory = Path("/dev/shm")
    enough = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(prefix="ranker-test-", dir=memory if enough else None) as folder:
        yield Path(folder)
