"""Archives that are as large as their format lets them, written without taking memory themselves."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from archives import Entry, craft, deflated, zip64_extra

ENTRIES = 50_000


def make(folder: Path, *, more: bool) -> dict[str, str]:
    """Write them below `folder`; by name, what is said of each. `more`: with the dear ones, of which one is sound."""
    bad = (b"../x", b"")
    made = {
        "names": ("climbs with ..", _long_names(ENTRIES - 1), bad),
        "folders": ("make more than 50,000 folders", _deep_names(ENTRIES), None),
        "extras": (
            "climbs with ..",
            ((b"%d" % i, struct.pack("<HH", 9, 65_531) + bytes(65_531)) for i in range(300)),
            bad,
        ),
    }
    if more:
        made["wide"] = ("climbs with ..", _wide_names(ENTRIES - 1), bad)
        made["faults"] = ("climbs with ..", ((b"../%d" % i, b"") for i in range(ENTRIES)), None)
        made["accepted"] = ("accepted", _long_names(ENTRIES), None)
        made["flat"] = ("accepted", _wide_names(ENTRIES), None)
        made["damaged"] = ("checksum is wrong", _wide_names(ENTRIES - 1), (b"x", b""))
    for name, (_, entries, last) in made.items():
        _write(folder / f"{name}.zip", itertools.chain(entries, [last] if last else []), crc=int(name == "damaged"))
    zeros = Entry(name="zeros", packed=deflated(bytes(60_000_000)), content=b"", method=8)
    (folder / "content.zip").write_bytes(craft(_stating(zeros, 60_000_000, zlib.crc32(bytes(60_000_000)))))
    huge = Entry(name="a", extra=zip64_extra(2**62), stated_size=0xFFFF_FFFF, local_size=0xFFFF_FFFF)
    (folder / "claims.zip").write_bytes(craft(huge))
    (folder / "counts.zip").write_bytes(_claiming(ENTRIES))
    said = {name: complaint for name, (complaint, *_) in made.items()}
    return said | {"content": "accepted", "claims": "another size", "counts": "fewer entries"}


def _stating(entry: Entry, size: int, crc: int) -> Entry:
    import dataclasses

    return dataclasses.replace(entry, stated_size=size, stated_crc=crc)


def _long_names(number: int) -> Iterator[tuple[bytes, bytes]]:
    """Each in a folder of its own."""
    return ((f"{i:06d}/{'é' * 110}".encode(), b"") for i in range(number))


def _wide_names(number: int) -> Iterator[tuple[bytes, bytes]]:
    """Of characters that take four bytes each in memory, and of one that unfolds to eighteen."""
    return ((f"{i:06d}\ufdfa\U0001f600{'x' * 220}".encode(), b"") for i in range(number))


def _deep_names(number: int) -> Iterator[tuple[bytes, bytes]]:
    """Each below thirty folders that no other name has."""
    return ((b"%06d" % i + b"/a" * 31, b"") for i in range(number))


def _write(path: Path, entries: Iterable[tuple[bytes, bytes]], *, crc: int) -> None:
    """An archive of empty files, from their names and extra fields; `crc` is the checksum of those called x."""
    directory, count, at = bytearray(), 0, 0
    with path.open("wb") as file:
        for name, more in entries:
            fields = (20, 0x800, 0, 0, 0x21, crc if name == b"x" else 0, 0, 0, len(name))
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", *fields, 0) + name)
            directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0x314, *fields, len(more), 0, 0, 0, 0, at) + name + more
            at += 30 + len(name)
            count += 1
        file.write(directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), at, 0))


def _claiming(count: int) -> bytes:
    """One entry, and an end with the longest comment that claims many."""
    comment = b"c" * 65_535
    data = craft(Entry(name="a"))
    return data[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, 47, 31, len(comment)) + comment
