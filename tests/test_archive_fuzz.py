"""Archives that were sound, or nearly so, and then had their bytes and fields changed, by the thousand."""

from __future__ import annotations

import dataclasses
import io
import random
import shutil
import stat
import struct
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from archive_corpus import honest, hostile
from archives import DOS, UNIX, End, Entry, contents, craft, extra, quick_folder, unpack_bytes
from effort import count, found

from ranker.errors import ParticipantError
from ranker.settings import ArchiveLimits

tmp_path = pytest.fixture(quick_folder)
SEED = 20_261_120
LIMITS = ArchiveLimits(max_unpacked_bytes=100_000, max_entries=100, max_depth=8, max_path_length=80)
MEMORY_KB = 16 * 1024
BASES = [data for data, _ in honest().values()] + [data for data, _ in hostile().values() if len(data) < 20_000]
NUMBERS = (0, 1, 2, 7, 8, 20, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 2**63)
PIECES = (
    b"../",
    b"/",
    b"\\",
    b"\0",
    b"..",
    b"C:",
    b"PK\5\6",
    b"PK\1\2",
    b"PK\3\4",
    b"PK\6\7",
    b"PK\7\10",
    b"\xe2\x80\xae",
)
PARTS = ("a", "b", "c", "d", "lib", "encoder.py", "w.bin", "\u00e9", "e\u0301", "\u6743", "._a", ".", "x" * 20, "a\\b")
LIES: tuple[dict[str, object], ...] = (
    {"stated_size": 3},
    {"stated_crc": 0},
    {"local_crc": 0},
    {"local_name": b"evil"},
    {"offset": 0},
    {"between": b"PK"},
    {"method": 12},
    {"mode": 0o120777},
    {"flags": 1},
)
# Of each record: its mark, and where its fields stand, with their widths.
FIELDS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": (
        (4, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (34, 2),
        (38, 4),
        (42, 4),
    ),
    b"PK\5\6": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (12, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
    b"PK\7\10": ((4, 4), (8, 4), (12, 4)),
}


def places(data: bytes, mark: bytes) -> list[int]:
    """Wherever a record seems to begin."""
    parts = data.split(mark)
    found, at = [], 0
    for part in parts[:-1]:
        at += len(part)
        found.append(at)
        at += len(mark)
    return found


def change_field(data: bytearray, rng: random.Random) -> None:
    """One field of one record: another number, one near it, or the place of another thing."""
    mark = rng.choice([each for each in FIELDS if each in data] or [b"PK\5\6"])
    at = rng.choice(places(bytes(data), mark) or [0])
    offset, width = rng.choice(FIELDS[mark])
    old = int.from_bytes(data[at + offset : at + offset + width], "little")
    number = rng.choice((*NUMBERS, old + 1, old - 1, old ^ 8, old ^ 0x800, len(data), at)) % 256**width
    data[at + offset : at + offset + width] = number.to_bytes(width, "little")


def change_bytes(data: bytearray, rng: random.Random) -> None:
    """Some bytes somewhere: flipped, cut out, doubled, put in, moved here from another archive, or the tail is gone."""
    at, length = rng.randrange(len(data) + 1), min(int(rng.expovariate(0.02)) + 1, 2000)
    match rng.randrange(7):
        case 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length]
        case 3:
            data[at:at] = rng.choice(PIECES)
        case 4:
            piece = rng.choice(PIECES)
            data[at : at + len(piece)] = piece
        case 5:
            other = rng.choice(BASES)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.choice((0, length))] = other[start : start + length]
        case _:
            del data[at if rng.random() < 0.3 else len(data) - length % 40 :]


def change_name(data: bytearray, rng: random.Random) -> None:
    """A name, in the entry's own header, in the directory or in both, as long as before."""
    records = [(at, 30, 26) for at in places(bytes(data), b"PK\3\4")]
    records += [(at, 46, 28) for at in places(bytes(data), b"PK\1\2")]
    if not records:
        return
    at, header, field = rng.choice(records)
    length = int.from_bytes(data[at + field : at + field + 2], "little")
    old = bytes(data[at + header : at + header + length])
    new = bytearray(old)
    piece = rng.choice(PIECES)
    where = rng.randrange(length + 1)
    new[where : where + len(piece)] = piece
    new = new[:length]
    if rng.random() < 0.7 and old:
        data[:] = data.replace(old, bytes(new))
    else:
        data[at + header : at + header + length] = new


def mend_end(data: bytearray) -> None:
    """Make the end record say where the directory lies, so that what is behind this first question is tried, too."""
    end, start = data.rfind(b"PK\5\6"), data.find(b"PK\1\2")
    if 0 <= start < end <= len(data) - 22:
        struct.pack_into("<2I", data, end + 12, end - start, start)
        struct.pack_into("<2H", data, end + 8, *[data.count(b"PK\1\2", start, end) % 65536] * 2)


def grown(rng: random.Random) -> bytes:
    """An archive of a few entries in any style, of which one may lie."""
    entries = []
    for _ in range(rng.randrange(1, 6)):
        name = "/".join(rng.choice(PARTS) for _ in range(rng.choice((1, 2, 2, 3))))
        descriptor = rng.choice(("", "", "", "I", "PKI", "Q", "PKQ"))
        changed = rng.choice(LIES) if rng.random() < 0.1 else {}
        entry = Entry(
            name=name if rng.random() < 0.9 else f"{name}/",
            content=b"" if rng.random() < 0.2 else rng.randbytes(rng.randrange(99)) * rng.choice((1, 50)),
            method=rng.choice((0, 8)),
            flags=rng.choice((0, 0x800)),
            host=rng.choice((DOS, UNIX)),
            mode=rng.choice((0, 0o100644, 0o40755 if name.endswith("/") else 0)),
            descriptor=descriptor,
            extra=rng.choice((b"", extra(0x5455, b"\1abcd"), b"\0\0\0")),
            comment=rng.choice((b"", b"PK")),
        )
        entries.append(dataclasses.replace(entry, **changed))  # type: ignore[arg-type]
    rng.shuffle(entries)
    return craft(*entries, end=End(zip64=rng.random() < 0.3, comment=rng.choice((b"", b"", b"a comment"))))


def mutated(seed: int) -> bytes:
    """The archive of a seed."""
    rng = random.Random(seed)
    is_grown = rng.random() < 0.4
    data = bytearray(grown(rng) if is_grown else rng.choice(BASES))
    for _ in range(rng.choice((0, 0, 1)) if is_grown else rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice((change_field, change_field, change_bytes, change_name))(data, rng)
    if rng.random() < 0.5:
        mend_end(data)
    return bytes(data)


def seen_by_zipfile(data: bytes) -> dict[str, bytes]:
    """The files that Python's own reader finds, under the names that everybody should read."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        separator = "/" if any("/" in info.orig_filename for info in infos) else "\\"
        files = {}
        for info in infos:
            name = info.orig_filename
            if not info.flag_bits & 0x800:
                raw = name.encode("cp437")
                name = raw.decode("utf-8", "ignore") if raw.decode("utf-8", "ignore").encode() == raw else name
            name = name.replace(separator, "/")
            parts = [part for part in name.removesuffix("/").split("/") if part != "."] or [""]
            litter = parts[0] == "__MACOSX" or parts[-1].startswith("._")
            if not name.endswith("/") and not litter and parts[-1] not in {".DS_Store", "Icon\r"}:
                files["/".join(parts)] = archive.read(info)
    return files


def io_bytes() -> int:
    """Bytes that this process has read and written so far, from and to anything."""
    return sum(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines()[:2])


def memory(name: str) -> int:
    """Of this process, in kB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)


def tried(room: Path, data: bytes) -> str:
    """Unpack one archive; whatever comes of it, look at everything that it must not do."""
    before = io_bytes()
    said: tuple[str, ...] = ()
    try:
        unpack_bytes(room, data, LIMITS)
    except ParticipantError as refusal:
        said = refusal.reasons
    assert io_bytes() - before < 25 * len(data) + 3 * LIMITS.max_unpacked_bytes + 200_000
    assert all(reason.isprintable() for reason in said)
    assert sorted(path.name for path in room.iterdir()) == (["in.zip"] if said else ["in.zip", "tree"])
    if said:
        return "refused"
    for path in room.rglob("*"):
        assert stat.S_IFMT(path.lstat().st_mode) in {stat.S_IFREG, stat.S_IFDIR}
    files = contents(room / "tree")
    assert sum(map(len, files.values())) <= LIMITS.max_unpacked_bytes
    other = seen_by_zipfile(data)
    if b"up" in data:  # it may have a name in its Unicode field, which zipfile does not read
        assert sorted(files.values()) == sorted(other.values())
    else:
        assert files == other
    shutil.rmtree(room / "tree")
    return "accepted"


def test_no_mutated_archive_does_harm(tmp_path: Path) -> None:
    """Whatever is done to an archive: it is unpacked inside the target, as another reader finds it, or it is refused
    and leaves nothing; no other error, no byte outside, and no more reading, writing and memory than its size allows.
    """
    number = count("mutated archives", short=500, long=20_000)
    room = tmp_path / "room"
    room.mkdir()
    tried(room, BASES[0])
    Path("/proc/self/clear_refs").write_text("5")
    before, outcomes = memory("VmRSS"), Counter[str]()
    for seed in range(SEED, SEED + number):
        try:
            outcomes[tried(room, mutated(seed))] += 1
        except BaseException as error:
            error.add_note(f"with the archive of seed {seed}")
            raise
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert memory("VmHWM") - before < MEMORY_KB
    assert min(outcomes["accepted"], outcomes["refused"]) > number // 50
    found("mutated archives that were accepted, and read alike by zipfile", outcomes["accepted"])
