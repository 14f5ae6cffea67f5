"""The corpus of archives, and the memory that they take: what people send is unpacked, and what attacks is refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import archive_giants
import pytest
from archive_corpus import honest, hostile
from archives import ENCODER, contents, quick_folder, reasons, unpack_bytes
from effort import LONG, found
from engine import missing

from ranker.intake.archive import describe
from ranker.sandbox.check import root_folder

tmp_path = pytest.fixture(quick_folder)
HOSTILE = hostile()
HONEST = honest()
MEMORY_KB = 64 * 1024


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_for_what_it_is(tmp_path: Path, name: str) -> None:
    """Each attack of the corpus is seen, told in sentences that are harmless themselves, and leaves nothing."""
    data, complaint = HOSTILE[name]
    said = reasons(tmp_path, data)
    assert any(complaint in reason for reason in said), said
    assert all(reason.isprintable() and len(reason) < 500 for reason in said)


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_archive_of_any_program_is_unpacked(tmp_path: Path, name: str) -> None:
    """What people pack with writes ZIPs in many styles: each arrives whole, without litter, and its root is found."""
    data, files = HONEST[name]
    unpacked = unpack_bytes(tmp_path, data)
    assert contents(unpacked.tree) == files
    tops = {path.partition("/")[0] for path in files}
    assert root_folder(unpacked.tree) == ("repo" if tops == {"repo"} else ".")


def packed_by_tools(folder: Path) -> dict[str, Path]:
    """The same repository, packed by the programs of this machine."""
    files = {
        "repo/encoder.py": ENCODER,
        "repo/lib/w.bin": os.urandom(5000),
        "repo/\u6743.txt": b"x" * 99,
        "repo/e": b"",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    commands = {
        "zip": ["zip", "-qr", "zip.zip", "repo"],
        "zip-stored": ["zip", "-q0r", "zip-stored.zip", "repo"],
        "zip-zip64": ["zip", "-q", "-fz", "-r", "zip-zip64.zip", "repo"],
        "zip-pipe": ["sh", "-c", "zip -qr - repo > zip-pipe.zip"],
        "zip-split": ["zip", "-q", "-s", "10m", "-r", "zip-split.zip", "repo"],
        "zipfile": [sys.executable, "-m", "zipfile", "-c", "zipfile.zip", "repo"],
        "git": ["sh", "-c", "git init -q . && git add repo && git archive --format=zip -o git.zip $(git write-tree)"],
    }
    for command in commands.values():
        if shutil.which(command[0]) is None:
            missing(f"the program {command[0]} is not installed")
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    shutil.make_archive(str(folder / "shutil"), "zip", folder, "repo")
    return {name: folder / f"{name}.zip" for name in (*commands, "shutil")}


def test_archives_of_real_programs_are_unpacked(tmp_path: Path) -> None:
    """Not only archives in the style of zip, git and Python, but theirs."""
    packed = packed_by_tools(tmp_path)
    expected = {f"repo/{name}": content for name, content in contents(tmp_path / "repo").items()}
    assert len(expected) == 4
    for name, path in packed.items():
        place = tmp_path / name
        place.mkdir()
        assert contents(unpack_bytes(place, path.read_bytes()).tree) == expected, name


def test_the_digest_sorts_whole_paths(tmp_path: Path) -> None:
    """`a.b` comes before `a/b` and `a0` behind it, as in a sorted list: trees of the past keep their digests."""
    for name in ("a/b", "a.b", "a0", "a/c/d", "b"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_bytes(name.encode())
    names = sorted(("a/b", "a.b", "a0", "a/c/d", "b"))
    rows = (f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names)
    assert describe(tmp_path / "t").digest == hashlib.sha256("".join(rows).encode()).hexdigest()


MEASURE = """
import pathlib, sys
from ranker.errors import ParticipantError
from ranker.intake.archive import unpack
from ranker.intake.staging import remove_tree
from ranker.settings import ArchiveLimits

def peak():
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))

folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    open("/proc/self/clear_refs", "w").write("5")
    try:
        unpack(folder / f"{name}.zip", folder / name, ArchiveLimits())
        said = "accepted"
    except ParticipantError as refusal:
        said = refusal.reasons[0]
    print(name, peak(), said, sep="\\t")
    remove_tree(folder / name)
"""


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    """No archive takes the whole process above 64 MB: not fifty thousand long names, whose folders are all different,
    not extra fields or comments as large as can be, not a directory of gigabytes that is only claimed, nor content.
    """
    made = archive_giants.make(tmp_path, more=LONG)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), *made]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert [name for name, _, _ in rows] == list(made)
    for name, peak, said in rows:
        assert made[name] in said
        assert int(peak) < MEMORY_KB, f"{name} took {peak} kB"
    found("kB that the hungriest giant archive took, of 65,536", max(int(peak) for _, peak, _ in rows))


def test_zipfile_agrees_with_the_corpus() -> None:
    """The honest corpus is honest: Python's own reader finds the same contents in it."""
    for name, (data, files) in HONEST.items():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            read = [archive.read(info) for info in archive.infolist() if info.file_size]
        assert all(content in read for content in files.values()), name
