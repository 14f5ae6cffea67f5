"""The corpus of archives: honest ones in the styles of the programs that people pack with, and hostile ones."""

from __future__ import annotations

import dataclasses
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from archives import DOS, ENCODER, FULL, NTFS, End, Entry, craft, deflated, extra, unicode_path, zip64_extra, zip_of

GOOD = Entry(name="encoder.py", content=ENCODER)
DEFLATE = zipfile.ZIP_DEFLATED
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(40)
WEIGHTS = bytes(range(256)) * 8
PDF = b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
GIF = b"GIF89a\1\0\1\0\0\0\0;"
PROGRAM = b"MZ" + bytes(510)

# Names that no archive may hold, and what is said of them; the first entry beside them is in order.
BAD_NAMES = {
    "..": "climbs with ..",
    "../encoder2.py": "climbs with ..",
    "lib/../../encoder2.py": "climbs with ..",
    "__MACOSX/../encoder2.py": "climbs with ..",
    "..\\encoder2.py": "backslash",
    "\\\\server\\share\\x": "backslash",
    "//server/share/x": "absolute",
    "/etc/passwd": "absolute",
    "C:/encoder2.py": "absolute",
    "C:encoder2.py": "absolute",
    "%2e%2e/encoder2.py": "some programs read as '..'",
    "%2E%2e%2Fencoder2.py": "some programs read as '../encoder2.py'",
    "lib%5cencoder2.py": "some programs read as",
    "lib%00.py": "some programs read as",
    "\uff0e\uff0e/encoder2.py": "some programs read as '..'",
    "\u2025/encoder2.py": "some programs read as '..'",
    "lib\uff0fencoder2.py": "some programs read as 'lib/encoder2.py'",
    "lib\uff3cencoder2.py": "some programs read as",
    ".../encoder2.py": "ends in a dot or space",
    "encoder2.py.": "ends in a dot or space",
    "lib /encoder2.py": "ends in a dot or space",
    "encoder.py::$DATA": "colon",
    "encoder2.py:stream": "colon",
    "CON": "takes for a device",
    "lib/nul.txt": "takes for a device",
    "Aux.tar.gz": "takes for a device",
    "com1/encoder2.py": "takes for a device",
    "lpt\u00b9": "takes for a device",
    "prn .txt": "takes for a device",
    "a\0/../../encoder2.py": "U+0000",
    "lib//encoder2.py": "empty part",
    ".": "is a folder's",
    "lib/.": "is a folder's",
}


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Archives that are more than they seem, as name, bytes and complaint."""
    zeros = Entry(name="a", content=bytes(100_000), method=DEFLATE)
    twin = dataclasses.replace(zeros, name="b", local_name=b"a", content=b"", offset=0)
    yield "one content for two entries", craft(zeros, twin), "share bytes"
    kernel = deflated(bytes(50_000))
    first = Entry(name="0", packed=kernel, content=bytes(50_000), method=DEFLATE)
    same = [dataclasses.replace(first, name=f"{i}", offset=0) for i in range(1, 300)]
    yield "three hundred entries, one place", _without_bodies(first, same), "another name"
    inner = craft(Entry(name="b", content=bytes(100)))[: 30 + 1 + 100]
    quoted = craft(Entry(name="a", content=inner), Entry(name="b", content=bytes(100), offset=31))
    yield "an entry quoted by another", quoted, "share bytes"
    yield "quotes of deflate blocks", quoted_deflate(20), "share bytes"
    sparse = Entry(name="sparse.bin", packed=deflated(b""), method=DEFLATE, stated_size=10 * 2**30, local_size=FULL)
    huge = dataclasses.replace(
        sparse, stated_size=FULL, extra=zip64_extra(10 * 2**30), local_extra=zip64_extra(10 * 2**30, 2)
    )
    yield "ten gigabytes stated", craft(huge), "at most 200 to 1"
    yield "an exabyte stated", craft(dataclasses.replace(huge, extra=zip64_extra(2**60))), "bytes unpacked"
    many = [Entry(name=f"{i}", packed=b"x", content=b"", stated_size=2**31 - 1) for i in range(20)]
    yield "forty gigabytes in small entries", craft(*many), "bytes unpacked"
    liar = Entry(name="bomb", content=bytes(3_000_000), method=DEFLATE, stated_size=10, stated_crc=0)
    yield "a size that is too small", craft(liar), "more than the 10 bytes"


def _without_bodies(first: Entry, others: list[Entry]) -> bytes:
    """The first entry, and a directory that names many at its place."""
    body = craft(first)
    start = body.index(b"PK\1\2")
    records = [craft(each) for each in (first, *others)]
    directory = b"".join(data[data.index(b"PK\1\2") : data.index(b"PK\5\6")] for data in records)
    count = 1 + len(others)
    return body[:start] + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)


def quoted_deflate(number: int) -> bytes:
    """Each entry's deflate stream begins with a stored block that quotes the next entry's header; the last unpacks."""
    kernel = deflated(bytes(30_000))
    entries: list[Entry] = []
    header = struct.Struct("<4s5H3I2H")
    tail = kernel
    content = bytes(30_000)
    pieces: list[tuple[bytes, bytes]] = []  # from the last to the first: name, header
    for index in reversed(range(number)):
        name = b"%02d" % index
        own = header.pack(b"PK\3\4", 20, 0, 8, 0, 0x21, zlib.crc32(content), len(tail), len(content), len(name), 0)
        entries.append(Entry(name=name.decode(), flags=0, method=DEFLATE, packed=tail, content=content))
        pieces.append((name, own))
        whole = own + name
        tail = b"\0" + struct.pack("<HH", len(whole), len(whole) ^ 0xFFFF) + whole + tail
        content = whole + content
    body = tail[5:]  # the first entry is quoted by none
    at, directory = 0, b""
    for entry in reversed(entries):
        made = craft(dataclasses.replace(entry, offset=at))
        directory += made[made.index(b"PK\1\2", len(made) - 46 - 2 - 22) : -22]
        at += 30 + 2 + 5
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def lies() -> Iterator[tuple[str, bytes, str]]:
    """Entries whose own header says another thing than the directory, or whose content does."""
    for name, changed, complaint in (
        ("name", {"local_name": b"../evil.py"}, "another name"),
        ("method", {"local_method": 8}, "another compression"),
        ("flags", {"local_flags": 0x801}, "another set of flags"),
        ("checksum", {"local_crc": 1}, "another checksum"),
        ("size", {"local_size": 1}, "another size"),
        ("packed size", {"local_packed": 1}, "another size"),
        ("ZIP64 size", {"local_size": FULL, "local_extra": zip64_extra(7)}, "another size"),
        ("checksum of the content", {"stated_crc": 1}, "checksum is wrong"),
        ("descriptor that is not there", {"flags": 0x808}, "no data descriptor"),
        ("bytes behind the descriptor", {"descriptor": "PKI", "between": b"x"}, "no data descriptor"),
        ("checksum with a descriptor", {"descriptor": "PKI", "local_crc": 7}, "another checksum"),
        ("two ZIP64 fields", {"stated_size": FULL, "extra": zip64_extra(23) * 2}, "two ZIP64 fields"),
        ("short ZIP64 field", {"stated_size": FULL, "extra": extra(1, b"1234")}, "too short"),
        ("extra field over its end", {"extra": struct.pack("<HH", 9, 99)}, "run over their end"),
    ):
        yield f"{name} lies", craft(dataclasses.replace(GOOD, **changed)), complaint
    packed = deflated(ENCODER)
    entry = Entry(name="encoder.py", content=ENCODER, method=DEFLATE, packed=packed)
    yield "bytes behind a deflate stream", craft(dataclasses.replace(entry, packed=packed + b"x")), "there is more"
    yield "a deflate stream cut off", craft(dataclasses.replace(entry, packed=packed[:-3])), "ends too early"
    yield "no deflate stream", craft(dataclasses.replace(entry, packed=b"\xff" * 9)), "damaged"
    yield "half of a stored file", craft(dataclasses.replace(GOOD, packed=ENCODER[:5])), "unpacks to 5 bytes"
    lying = dataclasses.replace(entry, descriptor="PKI", stated_size=9)
    yield "a descriptor that lies", craft(lying), "no data descriptor"
    yield "an offset into nothing", craft(dataclasses.replace(GOOD, offset=2**31)), "is not where"
    yield "an offset at the directory", craft(dataclasses.replace(GOOD, offset=63)), "is not where"


def layouts() -> Iterator[tuple[str, bytes, str]]:
    """Archives that hold more, or less, than one ZIP; most are read by some program."""
    sound = craft(GOOD)
    second = craft(Entry(name="evil.py", content=b"x"))
    for name, data in (("PDF", PDF), ("GIF", GIF), ("program", PROGRAM)):
        yield f"{name} and ZIP", data + sound, "stands before the ZIP"
        yield f"{name} and ZIP that knows", craft(GOOD, before=data), "before the first entry belong to no entry"
        yield f"ZIP and {name}", sound + data, "before the file does"
    yield "hidden between entries", craft(dataclasses.replace(GOOD, between=GIF), Entry(name="b")), "belong to no entry"
    yield "hidden before the end", craft(GOOD, end=End(before=b"hidden")), "stands before the ZIP"
    yield "two archives", sound + second, "stands before the ZIP"
    yield "two ends", sound + sound[-22:], "stands before the ZIP"
    yield "an archive in the comment", craft(GOOD, end=End(comment=second)), "two end records"
    yield "an end mark in the comment", craft(GOOD, end=End(comment=b"PK\5\6" + bytes(30))), "two end records"
    yield "two fitting ends", craft(Entry(name="a", content=_end_that_fits()), end=End()), "two end records"
    yield "a comment cut off", craft(GOOD, end=End(comment_length=9)), "no end record"
    yield "a comment too long", craft(GOOD, end=End(comment=b"123", comment_length=1)), "before the file does"
    yield "cut off", sound[:-9], "no end record"
    yield "an entry more than counted", craft(GOOD, Entry(name="b"), end=End(count=1)), "more than the entries"
    yield "an entry less than counted", craft(GOOD, end=End(count=2)), "fewer entries"
    yield "a directory too short", craft(GOOD, end=End(length=40)), "stands before the ZIP"
    yield "a directory too long", craft(GOOD, end=End(length=400)), "over its own end"
    yield "a directory elsewhere", craft(GOOD, end=End(start=2**31)), "over its own end"
    yield "another disk", craft(GOOD, end=End(disk=1)), "one part of several"
    yield "an entry on another disk", craft(dataclasses.replace(GOOD, disk=2)), "one part of several"
    long_name = craft(GOOD)
    at = long_name.index(b"PK\1\2") + 28
    long_name = long_name[:at] + struct.pack("<H", 999) + long_name[at + 2 :]
    yield "a name over the directory's end", long_name, "runs over its end"
    for name, changed, complaint in (
        ("many disks", {"disks": 2}, "one part of several"),
        ("a record elsewhere", {"at64": 0}, "not where the archive says"),
        ("a record behind", {"at64": 2**60}, "not where the archive says"),
        ("a record with more", {"more64": b"more"}, "not where the archive says"),
        ("another count", {"count": 5}, "disagree"),
        ("another start", {"start": 5}, "disagree"),
        ("another length", {"length": 5}, "disagree"),
        ("2**60 entries", {"count64": 2**60}, "entries; at most"),
        ("2**63 bytes", {"length64": 2**63}, "over its own end"),
    ):
        yield f"ZIP64: {name}", craft(GOOD, end=End(zip64=True, **changed)), complaint


def _end_that_fits() -> bytes:
    """An end record whose comment is all that follows it: the real directory and its end."""
    behind = len(craft(Entry(name="a"))) - 31  # directory and end of an archive with one entry of that name
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, 0, behind)


def kinds() -> Iterator[tuple[str, bytes, str]]:
    """Links and devices by all the marks that some program writes or believes; names that programs differ on."""
    link = stat.S_IFLNK | 0o777
    asi = struct.pack("<IHIHH", 0, link, 0, 0, 0) + b"/etc/passwd"
    pkware = struct.pack("<IIHH", 0, 0, 0, 0) + b"/etc/passwd"
    for name, changed, complaint in (
        ("link by mode", {"mode": link}, "symbolic link"),
        ("link by mode, packed on DOS", {"mode": link, "host": DOS}, "symbolic link"),
        ("link by ASi field", {"extra": extra(0x756E, asi)}, "symbolic link"),
        ("link by PKWARE's Unix field", {"extra": extra(0x000D, pkware)}, "symbolic link"),
        ("reparse point", {"attributes": 0x400, "host": NTFS}, "symbolic link"),
        ("volume label", {"attributes": 0x8, "host": DOS}, "device"),
        ("DOS device", {"attributes": 0x40, "host": DOS}, "device"),
        ("pipe", {"mode": stat.S_IFIFO | 0o644}, "device, pipe or socket"),
        ("folder by attribute", {"attributes": 0x10, "host": DOS}, "both as a folder and as a file"),
        ("folder by ASi field", {"extra": extra(0x756E, struct.pack("<IH", 0, 0o40755))}, "both as a folder"),
        ("another name in Unicode", {"extra": unicode_path("../evil.py", b"encoder.py")}, "in its Unicode field"),
        ("a stale Unicode name", {"extra": unicode_path("encoder.py", b"other")}, "in its Unicode field"),
        ("a program of the future", {"version": 100}, "asks for a program of version 10"),
        ("patched data", {"flags": 0x820}, "or that patches"),
        ("a short Unicode field", {"extra": extra(0x7075, b"\1")}, "in its Unicode field"),
    ):
        yield name, craft(dataclasses.replace(GOOD, **changed)), complaint
    overlong = Entry(name=b"\xc0\xae\xc0\xae/evil.py", content=b"x")
    yield "overlong UTF-8", craft(GOOD, overlong), "marked as UTF-8 and is not"
    hidden = Entry(name=b"caf\x82.py", flags=0, extra=unicode_path("../caf\u00e9.py", b"caf\x82.py"))
    yield "climbs by its Unicode name", craft(GOOD, hidden), "climbs with .."
    for name, complaint in (
        ("..\\evil.py", "climbs with .."),
        ("\\evil.py", "absolute"),
        ("\\\\server\\share\\evil.py", "absolute"),
        ("C:\\evil.py", "absolute"),
        ("lib\\\\evil.py", "empty part"),
    ):
        bad = Entry(name=name, content=b"x", flags=0, host=DOS)
        yield f"{name} from Windows", craft(dataclasses.replace(bad, name="a\\b"), bad), complaint
    mixed = [Entry(name=name, content=b"x", flags=0, host=DOS) for name in ("lib\\a.py", "lib/b.py")]
    yield "slashes and backslashes", craft(*mixed), "backslash"
    yield "backslashes of Unix", craft(Entry(name="lib\\a.py", content=b"x")), "backslash"
    half = Entry(name="\u8868.py".encode("shift-jis"), content=b"x", flags=0, host=DOS)
    yield "half a character that is a backslash", craft(half), "backslash"


def hostile() -> dict[str, tuple[bytes, str]]:
    """All of them by name: bytes, and what is to be said."""
    found = {f"name {name!r}": (craft(GOOD, Entry(name=name)), said) for name, said in BAD_NAMES.items()}
    for corpus in (bombs(), lies(), layouts(), kinds()):
        for name, data, complaint in corpus:
            assert name not in found
            found[name] = (data, complaint)
    return found


def honest() -> dict[str, tuple[bytes, dict[str, bytes]]]:
    """By the program in whose style they are written: bytes, and the files that they hold."""
    files = {"repo/encoder.py": ENCODER, "repo/lib/w.bin": WEIGHTS, "repo/\u6743\u91cd.txt": b"x" * 500}
    plain = {name: content for name, content in files.items() if name.isascii()}

    def each(*, of: dict[str, bytes] = files, separator: str = "/", **fields: object) -> list[Entry]:
        return [
            Entry(name=name.replace("/", separator), content=content, method=DEFLATE, **fields)
            for name, content in of.items()
        ]

    apple: dict[str, object] = {"flags": 0, "attributes": 0x4000, "mode": 0o100644, "descriptor": "PKI"}
    litter = [
        Entry(name=name, content=APPLE_DOUBLE, method=DEFLATE, **apple)
        for name in (
            "__MACOSX/repo/._encoder.py",
            "__MACOSX/._repo",
            "repo/.DS_Store",
            "repo/lib/._w.bin",
            "repo/Icon\r",
        )
    ]
    old = Entry(name=b"repo/caf\x82.txt", content=b"x", flags=0, host=DOS)
    named = dataclasses.replace(old, extra=unicode_path("repo/caf\u00e9.txt", b"repo/caf\x82.txt"))
    inner = zip_of({"bomb.bin": bytes(1_000_000)})
    return {
        "macOS": (craft(Entry(name="repo/", mode=0o40755, flags=0), *each(**apple), *litter), files),
        "Windows Explorer": (craft(*each(host=DOS, attributes=0x20)), files),
        "Windows, backslashes": (craft(*each(of=plain, separator="\\", host=DOS, flags=0)), plain),
        "Windows, backslashes, with folders": (
            craft(
                Entry(name="repo\\", host=DOS, flags=0, attributes=0x10),
                *each(of=plain, separator="\\", host=NTFS, flags=0),
            ),
            plain,
        ),
        "7-Zip": (craft(*each(extra=extra(0x000A, bytes(32)), mode=0o100644, attributes=0x8020)), files),
        "git archive": (craft(Entry(name="repo/"), *each(), end=End(comment=b"0" * 40)), files),
        "ZIP64": (craft(*each(), end=End(zip64=True)), files),
        "ZIP64 without full fields": (craft(*each(), end=End(zip64=True, count=3)), files),
        "ZIP64 entries": (
            craft(
                Entry(
                    name="a.py",
                    content=ENCODER,
                    stated_size=FULL,
                    stated_packed=FULL,
                    extra=zip64_extra(23, 23),
                    local_extra=zip64_extra(23, 23),
                )
            ),
            {"a.py": ENCODER},
        ),
        "a pipe": (craft(*each(descriptor="I")), files),
        "a pipe, marked": (craft(*each(descriptor="PKI")), files),
        "a pipe, ZIP64": (craft(*each(descriptor="Q", local_size=FULL, local_packed=FULL)), files),
        "a pipe, ZIP64, marked": (craft(*each(descriptor="PKQ")), files),
        "zip -s that needs one part": (craft(*each(), before=b"PK\7\10"), files),
        "code page 437": (craft(GOOD, old), {"encoder.py": ENCODER, "repo/caf\u00e9.txt": b"x"}),
        "Unicode field": (craft(GOOD, named), {"encoder.py": ENCODER, "repo/caf\u00e9.txt": b"x"}),
        "nested": (craft(GOOD, Entry(name="data.zip", content=inner)), {"encoder.py": ENCODER, "data.zip": inner}),
        "no top folder": (zip_of({"encoder.py": ENCODER, "lib/a.py": b"x"}), {"encoder.py": ENCODER, "lib/a.py": b"x"}),
        "Python, a pipe": (piped(files), files),
    }


class _Pipe(io.RawIOBase):
    """A file that cannot seek, as a pipe."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, part: object) -> int:
        assert isinstance(part, bytes | bytearray | memoryview)
        self.data += part
        return len(part)


def piped(files: dict[str, bytes]) -> bytes:
    """What Python's zipfile writes into a pipe, with and without ZIP64."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", DEFLATE) as archive:
        for number, (name, content) in enumerate(files.items()):
            with archive.open(name, "w", force_zip64=bool(number % 2)) as entry:
                entry.write(content)
    return bytes(pipe.data)
