"""Archives: real ZIPs, honest and hostile; the hostile ones are written byte by byte."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import resource
import stat
import struct
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest
from archives import ENCODER, LIMITS, Entry, contents, craft, extra, quick_folder, reasons, unpack_bytes, zip_of
from kills import is_killed_at

from ranker.errors import InfraError, UsageError
from ranker.intake.archive import unpack
from ranker.intake.archive_layout import MAX_REASONS
from ranker.settings import ArchiveLimits

tmp_path = pytest.fixture(quick_folder)


def test_an_honest_archive_arrives_whole(tmp_path: Path) -> None:
    """Every file has the content that was packed, stored or deflated, empty ones and Chinese names included."""
    files = {"repo/encoder.py": ENCODER, "repo/weights/权重.bin": os.urandom(3_000_000), "repo/empty/__init__.py": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        place = tmp_path / str(method)
        place.mkdir()
        unpacked = unpack_bytes(place, zip_of(files, method))
        assert contents(unpacked.tree) == files
        assert (unpacked.files, unpacked.size_bytes) == (3, sum(map(len, files.values())))


def test_zip64_archives_are_read(tmp_path: Path) -> None:
    """An archive with ZIP64 records, as large ones have, is no different."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("encoder.py", "w", force_zip64=True) as entry:
        entry.write(ENCODER)
    assert contents(unpack_bytes(tmp_path, out.getvalue()).tree) == {"encoder.py": ENCODER}


def test_litter_of_desktops_is_dropped(tmp_path: Path) -> None:
    """What macOS and Windows add is not written, wherever it lies."""
    names = ["__MACOSX/._encoder.py", "encoder.py", "lib/.DS_Store", "lib/Thumbs.db", ".DS_Store", "lib/x.py"]
    unpacked = unpack_bytes(tmp_path, zip_of(dict.fromkeys(names, ENCODER)))
    assert set(contents(unpacked.tree)) == {"encoder.py", "lib/x.py"}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("/etc/passwd", "absolute"),
        ("C:/encoder.py", "absolute"),
        ("c:encoder.py", "absolute"),
        ("../encoder.py", "climbs with .."),
        ("lib/../../encoder.py", "climbs with .."),
        ("lib/..", "climbs with .."),
        ("lib\\encoder.py", "backslash"),
        ("..\\encoder.py", "backslash"),
        ("lib//encoder.py", "empty part"),
        ("", "empty part"),
        ("encoder.py\0.txt", "U+0000"),
        ("\0", "U+0000"),
        ("enc\noder.py", "U+000A"),
        ("\x1b[2Jencoder.py", "U+001B"),
        ("enc\x9boder.py", "U+009B"),
        ("encoder\u202eyp.txt", "U+202E"),
        ("enc\u200foder.py", "U+200F"),
        ("enc\u2066oder.py", "U+2066"),
        ("enc\u200boder.py", "U+200B"),
        ("enc\u2028oder.py", "U+2028"),
        ("a/" * 40 + "encoder.py", "folders deep"),
        ("x" * 241, "bytes long"),
        ("权" * 81, "243 bytes long"),
    ],
)
def test_a_bad_name_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    """Each name that could escape, mislead or not be stored is refused for that, and shown without its tricks."""
    (reason,) = reasons(tmp_path, craft(Entry(name="encoder.py", content=ENCODER), Entry(name=name, content=b"x")))
    assert complaint in reason
    assert reason.isprintable()


def test_a_name_longer_than_file_systems_take_is_refused(tmp_path: Path) -> None:
    """A generous configured path length does not let a name reach the file system that it cannot hold."""
    limits = ArchiveLimits(max_path_length=2000)
    (reason,) = reasons(tmp_path, craft(Entry(name="x" * 256, content=b"x")), limits)
    assert "above 255 bytes" in reason


@pytest.mark.parametrize(
    ("mode", "complaint"),
    [
        (stat.S_IFLNK | 0o777, "symbolic link"),
        (stat.S_IFIFO | 0o644, "device, pipe or socket"),
        (stat.S_IFCHR | 0o644, "device, pipe or socket"),
        (stat.S_IFBLK | 0o644, "device, pipe or socket"),
        (stat.S_IFSOCK | 0o644, "device, pipe or socket"),
        (stat.S_IFDIR | 0o755, "both as a folder and as a file"),
    ],
)
def test_only_files_and_folders_are_accepted(tmp_path: Path, mode: int, complaint: str) -> None:
    """Links and special files are refused, whatever they point to."""
    (reason,) = reasons(tmp_path, craft(Entry(name="encoder.py", content=b"/etc/passwd", mode=mode)))
    assert complaint in reason


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    """Content behind a folder's name is not dropped in silence."""
    found = reasons(tmp_path, craft(Entry(name="encoder.py", content=ENCODER), Entry(name="lib/", content=b"hidden")))
    assert any("both as a folder and as a file" in reason for reason in found)


@pytest.mark.parametrize("flag", [0x1, 0x1 | 0x40, 0x2000])
def test_encryption_is_refused(tmp_path: Path, flag: int) -> None:
    """Each of the format's marks of encryption is seen, and one sentence speaks for all entries."""
    data = craft(*(Entry(name=f"{i}.py", content=ENCODER, flags=0x800 | flag) for i in range(30)))
    (reason,) = reasons(tmp_path, data)
    assert "30 of 30 entries are encrypted" in reason


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 93, 77])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    """What cannot be unpacked in bounded memory, or at all, is refused by name."""
    (reason,) = reasons(tmp_path, craft(Entry(name="encoder.py", content=ENCODER, method=method)))
    assert "compressed by" in reason


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    """A second entry of the same name cannot replace the first."""
    entry = Entry(name="encoder.py", content=ENCODER)
    (reason,) = reasons(tmp_path, craft(entry, entry))
    assert "twice" in reason


def test_the_same_name_behind_dots_is_refused(tmp_path: Path) -> None:
    """`./encoder.py` and `encoder.py` are one file."""
    found = reasons(
        tmp_path, craft(Entry(name="encoder.py", content=ENCODER), Entry(name="./encoder.py", content=b"x"))
    )
    assert "twice" in found[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("encoder.py", "Encoder.py"),
        ("lib/a.py", "LIB/b.py"),
        (unicodedata.normalize("NFC", "é.py"), unicodedata.normalize("NFD", "é.py")),
        ("straße.py", "STRASSE.py"),
        ("\ufb01le.py", "file.py"),
        ("K.py", "\u212a.py"),
    ],
)
def test_names_that_are_one_on_other_machines_are_refused(tmp_path: Path, first: str, second: str) -> None:
    """Names that differ by case or Unicode form only, in files or in folders, would swallow each other elsewhere."""
    (reason,) = reasons(tmp_path, craft(Entry(name=first, content=b"1"), Entry(name=second, content=b"2")))
    assert "case or Unicode form" in reason


@pytest.mark.parametrize("names", [("lib", "lib/a.py"), ("lib/a.py", "lib"), ("lib/", "lib")])
def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    """A path cannot be both, in either order."""
    found = reasons(tmp_path, craft(*(Entry(name=name) for name in names)))
    assert any("both a file and a folder" in reason for reason in found)


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """Two entries over the same compressed bytes: a bomb that a count of the archive's bytes does not see."""
    zeros = Entry(name="a", content=b"\0" * 100_000, method=zipfile.ZIP_DEFLATED)
    found = reasons(
        tmp_path, craft(zeros, dataclasses.replace(zeros, name="b", local_name=b"a", content=b"", offset=0))
    )
    assert any("share bytes" in reason for reason in found)


def test_quoted_overlap_is_refused(tmp_path: Path) -> None:
    """An entry whose content is the next entry, header and all (the better bomb), is refused before it is unpacked."""
    inner = craft(Entry(name="b", content=b"\0" * 100))
    header = inner[: 30 + 1 + 100]
    outer = bytearray(craft(Entry(name="a", content=header), Entry(name="b", content=b"\0" * 100, offset=31)))
    found = reasons(tmp_path, bytes(outer))
    assert any("share bytes" in reason for reason in found)


def test_an_entry_over_the_directory_is_refused(tmp_path: Path) -> None:
    """Content that runs into the archive's own directory is refused."""
    data = bytearray(craft(Entry(name="a", content=b"x" * 10)))
    at = data.index(b"PK\1\2") + 20
    data[at : at + 8] = struct.pack("<2I", 60, 60)
    found = reasons(tmp_path, bytes(data))
    assert any("share bytes" in reason for reason in found)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("stated", [0, 10, 5_000])
def test_a_size_that_is_a_lie_is_refused(tmp_path: Path, method: int, stated: int) -> None:
    """A header that states fewer or more bytes than there are, with a checksum to match, is found out by counting."""
    content = b"ab" * 1000
    crc = zlib.crc32(content[:stated])
    for stated_crc in (crc, zlib.crc32(content)):
        entry = Entry(name="encoder.py", content=content, method=method, stated_size=stated, stated_crc=stated_crc)
        (reason,) = reasons(tmp_path, craft(entry))
        assert "encoder.py" in reason


def test_bytes_are_counted_as_they_are_written(tmp_path: Path) -> None:
    """A bomb that states a small size stops there: it is neither written out nor cut off in silence."""
    bomb = Entry(name="bomb", content=b"\0" * 5_000_000, method=zipfile.ZIP_DEFLATED, stated_size=10)
    (reason,) = reasons(tmp_path, craft(bomb))
    assert "more than the 10 bytes" in reason


def test_a_stated_total_above_the_limit_is_refused_unwritten(tmp_path: Path) -> None:
    """What already states too much is refused from the directory, and many small entries count together."""
    data = craft(*(Entry(name=f"{i}.bin", content=b"x" * 1000) for i in range(11)))
    (reason,) = reasons(tmp_path, data, ArchiveLimits(max_unpacked_bytes=10_999))
    assert "states 11,000 bytes" in reason
    assert unpack_bytes(tmp_path, data, ArchiveLimits(max_unpacked_bytes=11_000)).size_bytes == 11_000


def test_the_ratio_is_judged_over_the_whole_archive(tmp_path: Path) -> None:
    """Many entries below the floor cannot together exceed the ratio; below the floor nothing is said."""
    zeros = [Entry(name=f"{i}", content=b"\0" * 1_000_000, method=zipfile.ZIP_DEFLATED) for i in range(20)]
    limits = ArchiveLimits(max_ratio=200, ratio_floor_bytes=3_000_000)
    (reason,) = reasons(tmp_path, craft(*zeros), limits)
    assert "at most 200 to 1" in reason
    assert unpack_bytes(tmp_path, craft(*zeros[:3]), limits).files == 3


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    """The number of entries is bounded, and the bound itself is accepted."""
    data = craft(*(Entry(name=f"{i}.py") for i in range(11)))
    (reason,) = reasons(tmp_path, data, ArchiveLimits(max_entries=10))
    assert "11 entries; at most 10" in reason
    assert unpack_bytes(tmp_path, data, ArchiveLimits(max_entries=11)).files == 11


def test_a_huge_directory_costs_no_memory(tmp_path: Path) -> None:
    """An archive that is all directory is refused before any of it is read."""
    data = craft(*(Entry(name=f"{i}") for i in range(20_000)))
    tracemalloc.start()
    try:
        reasons(tmp_path, data, ArchiveLimits(max_entries=1000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000


def test_a_directory_of_extra_fields_is_refused(tmp_path: Path) -> None:
    """What is read several times, in small pieces, cannot be made large: names and their fields have a bound."""
    data = craft(Entry(name="encoder.py", content=ENCODER, extra=extra(9, bytes(1300))))
    (reason,) = reasons(tmp_path, data, ArchiveLimits(max_entries=1))
    assert "without extra fields" in reason
    assert unpack_bytes(tmp_path, data, ArchiveLimits(max_entries=2)).files == 1


def test_large_content_costs_no_memory(tmp_path: Path) -> None:
    """Content is streamed: 24 MB unpack in two."""
    data = craft(Entry(name="zeros", content=b"\0" * 24_000_000, method=zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    try:
        assert unpack_bytes(tmp_path, data).size_bytes == 24_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"this is not a zip",
        b"PK\3\4" + b"\0" * 100,
        zip_of({"encoder.py": ENCODER})[:-30],
        b"%PDF-1.7\n" * 50,
    ],
)
def test_what_is_no_zip_is_refused_in_one_sentence(tmp_path: Path, data: bytes) -> None:
    """Empty, truncated and foreign files are the sender's matter, told in one sentence."""
    (reason,) = reasons(tmp_path, data)
    assert "ZIP" in reason


def test_an_archive_of_nothing_is_refused(tmp_path: Path) -> None:
    """A valid ZIP without a file is no submission, with and without folders and litter."""
    for data in (craft(), craft(Entry(name="lib/")), craft(Entry(name=".DS_Store", content=b"x"))):
        (reason,) = reasons(tmp_path, data)
        assert "holds no file" in reason


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """No file is the operator's matter, not the team's."""
    with pytest.raises(UsageError, match="no such file"):
        unpack(tmp_path / "in.zip", tmp_path / "tree", LIMITS)


def test_a_full_disk_is_our_matter(tmp_path: Path) -> None:
    """Where our disk refuses bytes (here by a limit on file sizes), no team is blamed and nothing is left."""
    (tmp_path / "in.zip").write_bytes(zip_of({"a": b"x", "weights.bin": b"\0" * 1_000_000}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InfraError, match="could not be unpacked"):
            unpack(tmp_path / "in.zip", tmp_path / "tree", LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["in.zip"]


def test_damaged_content_is_refused(tmp_path: Path) -> None:
    """A flipped bit in the content is found by its checksum, and the file is named."""
    data = bytearray(craft(Entry(name="encoder.py", content=ENCODER)))
    data[data.index(ENCODER) + 3] ^= 1
    (reason,) = reasons(tmp_path, bytes(data))
    assert "'encoder.py' cannot be unpacked" in reason


def test_all_refusals_come_together_and_are_bounded(tmp_path: Path) -> None:
    """One answer names every fault, and a thousand faults do not make a thousand sentences."""
    mixed = craft(
        Entry(name="/abs", content=b"x"),
        Entry(name="link", content=b"x", mode=stat.S_IFLNK),
        Entry(name="a", content=b"x"),
        Entry(name="A", content=b"x"),
    )
    found = reasons(tmp_path, mixed)
    assert len(found) == 3
    for word in ("absolute", "symbolic link", "case or Unicode form"):
        assert any(word in reason for reason in found), word
    many = reasons(tmp_path, craft(*(Entry(name=f"../{i}") for i in range(1000))))
    assert len(many) == MAX_REASONS + 1
    assert many[-1].startswith("and 980 more")


def test_modes_are_fixed(tmp_path: Path) -> None:
    """No bit of the archive's modes survives, least of all setuid, and the umask has no say."""
    data = craft(
        Entry(name="run.sh", content=b"x", mode=stat.S_IFREG | 0o6777),
        Entry(name="lib/", mode=stat.S_IFDIR | 0o7777),
        Entry(name="lib/secret", content=b"x", mode=stat.S_IFREG | 0o000),
    )
    before = os.umask(0o077)
    try:
        tree = unpack_bytes(tmp_path, data).tree
    finally:
        os.umask(before)
    modes = {path.relative_to(tree).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in [tree, *tree.rglob("*")]}
    assert modes == {".": 0o755, "run.sh": 0o644, "lib": 0o755, "lib/secret": 0o644}


def test_the_digest_is_of_paths_and_contents_alone(tmp_path: Path) -> None:
    """Order, compression and dates of the archive do not count; a moved byte or name does. Formula worked by hand."""
    digests = []
    for case, files in enumerate([{"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"}, {"a": b"2", "b": b"1"}, {"a": b"1"}]):
        place = tmp_path / str(case)
        place.mkdir()
        digests.append(unpack_bytes(place, zip_of(files, [0, 8, 0, 8][case])).digest)
    expected = "".join(f"{name}\0{hashlib.sha256(text).hexdigest()}\n" for name, text in (("a", b"1"), ("b", b"2")))
    assert digests[0] == digests[1] == hashlib.sha256(expected.encode()).hexdigest()
    assert len(set(digests)) == 3


def test_a_complete_tree_is_used_again(tmp_path: Path) -> None:
    """A tree under its final name is complete, so it is described, not written anew."""
    first = unpack_bytes(tmp_path, zip_of({"encoder.py": ENCODER}))
    inode = first.tree.stat().st_ino
    assert unpack_bytes(tmp_path, zip_of({"encoder.py": ENCODER})) == first
    assert first.tree.stat().st_ino == inode


def test_leftovers_of_a_killed_run_are_removed_and_a_living_one_is_not(tmp_path: Path) -> None:
    """What a process killed half-way leaves, the next run sweeps; what is locked belongs to a living one."""
    (tmp_path / "in.zip").write_bytes(zip_of({"encoder.py": ENCODER}))
    script = (
        "import os, sys; from pathlib import Path; from ranker.intake.staging import staging_folder\n"
        "with staging_folder(Path(sys.argv[1]), '.tree-') as folder:\n"
        "    (folder / 'half').write_text('x'); print(folder.name, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        name = living.stdout.readline().strip()
        unpack(tmp_path / "in.zip", tmp_path / "tree", LIMITS)
        assert (tmp_path / name / "half").is_file(), "a living process keeps its folder"
        living.kill()
    assert (tmp_path / name).is_dir(), "SIGKILL leaves the folder"
    (tmp_path / "tree").rename(tmp_path / "old")
    unpack(tmp_path / "in.zip", tmp_path / "tree", LIMITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zip", "old", "tree"]


def test_a_kill_at_any_step_leaves_no_half_tree(tmp_path: Path) -> None:
    """SIGKILL before each file operation: the final name is absent or whole, and the next run sweeps what is left."""
    files = {"repo/encoder.py": ENCODER, "repo/weights.bin": os.urandom(2_000_000)}
    data, step, is_placed = zip_of(files), 0, False
    while not is_placed:  # afterwards the tree is only read
        step += 1
        place = tmp_path / str(step)
        place.mkdir()
        (place / "in.zip").write_bytes(data)
        assert is_killed_at(step, place, lambda _, place=place: unpack(place / "in.zip", place / "tree", LIMITS))
        is_placed = (place / "tree").exists()
        if is_placed:
            assert contents(place / "tree") == files
        assert contents(unpack(place / "in.zip", place / "tree", LIMITS).tree) == files
        assert sorted(path.name for path in place.iterdir()) == ["in.zip", "tree"]
    assert step > 10, "the steps of an extraction were seen"
