"""Where everything in a ZIP lies. Every byte belongs to one thing, so that all who read it see the same entries.

Own code, since zipfile takes the whole directory into memory (140 MB for 50,000 entries with long names and extra
fields), and believes it where entries say otherwise. Here it is read as a stream, as often as it is needed; of each
entry no more is kept than where it lies. Formats are those of PKWARE's APPNOTE.TXT 6.3.10, whose sections are named.

Not covered: what names may be (`archive_names`), and the contents (`archive`).
"""

from __future__ import annotations

import io
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ranker.errors import ParticipantError

MAX_REASONS = 20
ENCRYPTED = 0x1 | 0x40 | 0x2000  # 4.4.4: bits 0, 6 and 13
PATCHED = 0x20  # bit 5
NEWEST = 63  # 4.4.3: the version whose features this format's latest text describes
DESCRIPTOR = 0x8  # bit 3: checksum and sizes stand behind the content
UTF8 = 0x800  # bit 11
ZIP64_EXTRA = 0x0001
_LOCAL = struct.Struct("<4s5H3I2H")  # 4.3.7
_RECORD = struct.Struct("<4s6H3I5H2I")  # 4.3.12
_END = struct.Struct("<4s4H2IH")  # 4.3.16
_END64 = struct.Struct("<4sQ2H2I4Q")  # 4.3.14
_LOCATOR = struct.Struct("<4sIQI")  # 4.3.15
_ONE_OF_ONE = {b"PK\7\10", b"PK00"}  # 8.5.4, 8.5.5: it was to be split, and is one part only
_MAX_COMMENT = 0xFFFF
_FULL = 0xFFFF_FFFF  # stands for "see the ZIP64 field"
_FULL_SHORT = 0xFFFF
_SHOWN = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the directory says of one entry; `place` is where it says so, `start` where the entry itself begins."""

    place: int
    start: int
    host: int
    version: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    raw_name: bytes
    extra: bytes

    @property
    def shown(self) -> str:
        """Its name for messages."""
        return shown(self.raw_name.decode(errors="replace"))


@dataclass(frozen=True, kw_only=True)
class Directory:
    """Where the archive's directory lies, and how many entries it is said to have."""

    start: int
    end: int
    entries: int


class Reasons:
    """The first refusals of an archive; of the others, how many there were."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self.count = 0

    def add(self, reason: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= MAX_REASONS:
            self._kept.append(reason)

    def refuse(self) -> None:
        """Raise ParticipantError if there is any."""
        if self.count > MAX_REASONS:
            self._kept.append(f"and {self.count - MAX_REASONS} more refusals of this archive.")
        if self.count:
            raise ParticipantError(self._kept)


def shown(text: str) -> str:
    """Harmless on a terminal, and short: repr escapes whatever is not printable."""
    short = repr(text[:_SHOWN])
    return short if len(text) <= _SHOWN and len(short) <= _SHOWN else f"{short[: _SHOWN - 3]}..."


def find_directory(file: BinaryIO, size: int) -> Directory:
    """Find the one directory of an archive of `size` bytes. Raises ParticipantError where there is none, or no one."""
    descriptor = file.fileno()
    window = min(size, _END.size + _MAX_COMMENT)
    tail = os.pread(descriptor, window, size - window)
    at = _find_end(tail)
    end_at = size - window + at
    _, disk, first_disk, here, entries, length, start, _ = _END.unpack_from(tail, at)
    numbers: tuple[int, ...] = (disk, first_disk, here, entries, length, start)
    end, on_disk, disks = end_at, 0, 1
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size :].startswith(b"PK\6\7"):
        _, on_disk, end, disks = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        numbers = _zip64_numbers(descriptor, end, end_at - _LOCATOR.size, numbers)
    disk, first_disk, here, entries, length, start = numbers
    if disk or first_disk or here != entries or on_disk or disks > 1:
        raise ParticipantError("the archive is one part of several; expected a single file; pack it without splitting")
    if start + length != end:
        _refuse_moved(start + length, end)
    return Directory(start=start, end=end, entries=entries)


def _find_end(tail: bytes) -> int:
    """Where in the archive's tail its end record begins: exactly one place may look like it."""
    spots = [at for at in _every(b"PK\5\6", tail) if at + _END.size <= len(tail)]
    behind = {at: len(tail) - at - _END.size - _END.unpack_from(tail, at)[-1] for at in spots}
    fitting = [at for at in spots if behind[at] == 0]
    if not fitting:
        if spots and behind[spots[-1]] > 0:
            raise ParticipantError(
                f"the ZIP ends {behind[spots[-1]]:,} bytes before the file does; expected nothing behind it; pack the"
                " archive again and send only that"
            )
        raise ParticipantError(
            "the file is not a complete ZIP (it has no end record); expected the ZIP of the encoder's repository;"
            " test it with `python -m zipfile -t FILE.zip` and send it again"
        )
    if len(fitting) > 1 or spots[-1] != fitting[0]:
        raise ParticipantError(
            "the archive has two end records, so that programs disagree on what is in it; expected one, and none in its"
            " comment; pack the ZIP again, without a comment"
        )
    return fitting[0]


def _every(needle: bytes, text: bytes) -> Iterator[int]:
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + 1)


def _zip64_numbers(descriptor: int, at: int, end: int, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of the ZIP64 end record, which must lie right before its locator and agree with the other one."""
    record = os.pread(descriptor, _END64.size, at) if at < end else b""
    if at + _END64.size != end or not record.startswith(b"PK\6\6"):
        raise ParticipantError("the ZIP64 end record is not where the archive says; pack the archive again and send it")
    _, length, _, _, *larger = _END64.unpack(record)
    full = (_FULL_SHORT,) * 4 + (_FULL,) * 2
    agree = (small in {large, limit} for small, large, limit in zip(numbers, larger, full, strict=True))
    if length != _END64.size - 12 or not all(agree):
        raise ParticipantError("the archive's two end records (ZIP and ZIP64) disagree; pack the archive again")
    return tuple(larger)


def _refuse_moved(stated: int, found: int) -> None:
    if stated < found:
        raise ParticipantError(
            f"the archive's directory ends {found - stated:,} bytes earlier than it says: something stands before the"
            " ZIP or inside it (a program that unpacks itself, another file); expected the ZIP alone; pack it again"
        )
    raise ParticipantError(
        "the archive's directory runs over its own end; expected a complete ZIP; archives above 4 GB made by macOS are"
        " like this: pack with `zip -r` or `python -m zipfile -c FILE.zip FOLDER` and send it again"
    )


def entries(file: BinaryIO, directory: Directory) -> Iterator[Entry]:
    """Every entry as the directory tells of it, in its order, from the disk. Raises ParticipantError where it breaks.

    The file's position is the generator's while it runs; all else here reads by offset.
    """
    at = directory.start
    with io.BufferedReader(io.FileIO(file.fileno(), closefd=False)) as stream:
        stream.seek(at)
        for _ in range(directory.entries):
            header = stream.read(_RECORD.size) if at + _RECORD.size <= directory.end else b""
            if len(header) < _RECORD.size or not header.startswith(b"PK\1\2"):
                raise ParticipantError(_broken("it has fewer entries than it says"))
            fields = _RECORD.unpack(header)
            named, more, comment = fields[10:13]
            length = _RECORD.size + named + more + comment
            if at + length > directory.end:
                raise ParticipantError(_broken("an entry's name runs over its end"))
            yield _entry(at, fields, stream.read(named), stream.read(more))
            stream.seek(comment, io.SEEK_CUR)
            at += length
    if at != directory.end:
        raise ParticipantError(_broken("it has more than the entries that it counts"))


def entry_at(file: BinaryIO, place: int) -> Entry:
    """The entry of which the directory tells at `place`, read once more."""
    fields = _RECORD.unpack(os.pread(file.fileno(), _RECORD.size, place))
    named, more = fields[10:12]
    rest = os.pread(file.fileno(), named + more, place + _RECORD.size)
    return _entry(place, fields, rest[:named], rest[named:])


def _broken(how: str) -> str:
    return f"the archive's directory is broken ({how}); expected a complete ZIP; pack the archive again and send it"


def _entry(place: int, fields: tuple[Any, ...], raw_name: bytes, extra: bytes) -> Entry:
    _, made_by, version, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, start = fields
    if _FULL in {packed, size, start}:
        size, packed, start = _larger(extra, (size, packed, start))
    if disk not in {0, _FULL_SHORT}:
        raise ParticipantError("the archive is one part of several; expected a single file; pack it without splitting")
    return Entry(
        place=place,
        start=start,
        host=made_by >> 8,
        version=version & 0xFF,
        flags=flags,
        method=method,
        crc=crc,
        packed=packed,
        size=size,
        attributes=attributes,
        raw_name=raw_name,
        extra=extra,
    )


def _larger(extra: bytes, fields: tuple[int, ...]) -> list[int]:
    """Header fields, those that are full replaced by the ones of the ZIP64 extra field, in their order (4.5.3)."""
    found = [data for kind, data in extra_fields(extra) if kind == ZIP64_EXTRA]
    if len(found) > 1:
        raise ParticipantError(_broken("an entry has two ZIP64 fields"))
    data = found[0] if found else b""
    larger = []
    for field in fields:
        if field == _FULL and found:
            if len(data) < 8:
                raise ParticipantError(_broken("an entry's ZIP64 field is too short"))
            field, data = int.from_bytes(data[:8], "little"), data[8:]  # noqa: PLW2901
        larger.append(field)
    return larger


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each extra field (4.5.1); up to three bytes behind the last are padding."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if at + 4 + length > len(extra):
            raise ParticipantError(_broken("an entry's extra fields run over their end"))
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length


def content_start(file: BinaryIO, entry: Entry) -> int:
    """Where an entry's content begins, behind its own header."""
    named, more = struct.unpack("<HH", os.pread(file.fileno(), 4, entry.start + 26))
    return int(entry.start + _LOCAL.size + named + more)


class Extents:
    """Compares each entry's own header with the directory, and keeps where the entry begins and ends."""

    def __init__(self, file: BinaryIO, directory: Directory, reasons: Reasons) -> None:
        self._file = file
        self._directory = directory
        self._reasons = reasons
        self._starts, self._ends, self._places = array("Q"), array("Q"), array("Q")
        self._describes = bytearray()  # whether a data descriptor stands behind the content

    def add(self, entry: Entry) -> None:
        """Look at one entry's own header."""
        header = b""
        if entry.start < self._directory.start:
            header = os.pread(self._file.fileno(), _LOCAL.size, entry.start)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            self._reasons.add(
                f"{entry.shown} is not where the archive's directory says; expected a whole archive; pack it again, if"
                " it has more than 4 GB with `zip -r` or `python -m zipfile -c FILE.zip FOLDER`"
            )
            return
        _, _, flags, method, _, _, crc, packed, size, named, more = _LOCAL.unpack(header)
        rest = os.pread(self._file.fileno(), named + more, entry.start + _LOCAL.size)
        differing = _differing(entry, rest[:named], (flags, method, crc, packed, size), rest[named:])
        if differing:
            self._reasons.add(
                f"{entry.shown} has another {' and '.join(differing)} in its own header than in the archive's"
                " directory, so that programs disagree on what it is; expected the same; pack the archive again"
            )
        self._starts.append(entry.start)
        self._ends.append(min(entry.start + _LOCAL.size + named + more + entry.packed, 2**63))
        self._places.append(entry.place)
        self._describes.append(bool(entry.flags & DESCRIPTOR))

    def check(self) -> None:
        """Add entries that share bytes (how a bomb hides from a count of bytes), and bytes of no entry (where other
        files hide).
        """
        reached, before = 0, -1
        for number in [*sorted(range(len(self._starts)), key=self._starts.__getitem__), -1]:
            start = self._directory.start if number < 0 else self._starts[number]
            if start < reached:
                self._reasons.add(
                    f"{self._shown(before)} and {self._shown(number)} share bytes of the archive; expected each its"
                    " own; pack the archive again"
                )
            else:
                self._check_between(before, reached, start)
            if number >= 0:
                reached, before = max(reached, self._ends[number]), number

    def _check_between(self, before: int, reached: int, start: int) -> None:
        if before >= 0 and self._describes[before]:
            entry = entry_at(self._file, self._places[before])
            found = os.pread(self._file.fileno(), 25, reached)[: start - reached]
            if found not in _descriptors(entry):
                self._reasons.add(
                    f"{entry.shown} has no data descriptor behind it that says what the archive's directory says;"
                    " expected one; pack the archive again"
                )
            return
        if before < 0 and start == 4 and os.pread(self._file.fileno(), 4, 0) in _ONE_OF_ONE:
            return
        if start > reached:
            where = "before the first entry" if before < 0 else f"behind {self._shown(before)}"
            self._reasons.add(
                f"{start - reached:,} bytes {where} belong to no entry (a program that unpacks itself, another file, an"
                " entry that was removed); expected entries only; pack the archive anew"
            )

    def _shown(self, number: int) -> str:
        return "the archive's directory" if number < 0 else entry_at(self._file, self._places[number]).shown


def _differing(entry: Entry, name: bytes, header: tuple[int, ...], extra: bytes) -> list[str]:
    """What an entry's own header says otherwise than the directory; sizes that stand behind the content are not there
    yet: none, or full.
    """
    flags, method, crc, packed, size = header
    found = ["name"] if name != entry.raw_name else []
    judged = ENCRYPTED | DESCRIPTOR | (0 if name.isascii() else UTF8)
    if (flags ^ entry.flags) & judged:
        found.append("set of flags")
    if method != entry.method:
        found.append("compression")
    try:
        size, packed = _larger(extra, (size, packed)) if _FULL in {size, packed} else (size, packed)
    except ParticipantError:
        found.append("ZIP64 field")
    later = bool(flags & DESCRIPTOR)
    if crc != entry.crc and not (later and crc == 0):
        found.append("checksum")
    stated = ((size, entry.size), (packed, entry.packed))
    if any(here != there and not (later and here in {0, _FULL}) for here, there in stated):
        found.append("size")
    return found


def _descriptors(entry: Entry) -> list[bytes]:
    """The four ways in which programs write it: with and without its mark, in 32 and in 64 bits (4.3.9)."""
    found = [struct.pack("<IQQ", entry.crc, entry.packed, entry.size)]
    if max(entry.packed, entry.size) <= _FULL:
        found.append(struct.pack("<III", entry.crc, entry.packed, entry.size))
    return [*found, *(b"PK\7\10" + each for each in found)]
