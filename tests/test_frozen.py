"""What a sandbox wrote, looked through and frozen: no links that lead out, no special files, no change unseen."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ranker.errors import InfraError, ParticipantError
from ranker.intake.frozen import FILES, RECORD, contents, freeze, known, must_be
from ranker.intake.staging import remove_tree, staging_folder
from ranker.sandbox.network import MAX_FILES, measure


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A folder as a hub's client leaves one."""
    folder = tmp_path / "staging" / "room"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "abc").write_bytes(b"weights")
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "model").symlink_to("../blobs/abc")
    return folder


def test_a_frozen_folder_is_known_again(staged: Path, tmp_path: Path) -> None:
    """Content, links and record come back; permissions are ours, whatever they were."""
    (staged / "blobs" / "abc").chmod(0o4777)
    (staged / "blobs").chmod(0o700)
    record = freeze(staged, tmp_path / "weights", {"from": "here"})
    assert record["tree"]["files"] == 1
    assert known(tmp_path / "weights") == record
    files = must_be(tmp_path / "weights", record["tree"]["digest"])
    assert (files / "snapshots" / "model").read_bytes() == b"weights"
    assert (files / "blobs" / "abc").stat().st_mode & 0o7777 == 0o755
    assert (files / "blobs").stat().st_mode & 0o7777 == 0o755
    assert known(tmp_path / "other") is None


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda files: (files / "blobs" / "abc").write_bytes(b"Weights"),
    "a new file": lambda files: (files / "more").write_bytes(b""),
    "a missing file": lambda files: (files / "blobs" / "abc").unlink(),
    "another name": lambda files: (files / "blobs" / "abc").rename(files / "blobs" / "abd"),
    "a link's target": lambda files: [
        (files / "snapshots" / "model").unlink(),
        (files / "snapshots" / "model").symlink_to("../blobs/other"),
    ],
    "a file for a link": lambda files: [
        (files / "snapshots" / "model").unlink(),
        (files / "snapshots" / "model").write_bytes(b"weights"),
    ],
    "all": lambda files: files.rename(files.parent / "gone"),
    "no record": lambda files: (files.parent / RECORD).unlink(),
    "no sound record": lambda files: (files.parent / RECORD).write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_our_failure_before_any_run(staged: Path, tmp_path: Path, change: str) -> None:
    """Attacks by other weights after the check: each kind of change is seen, and blamed on nobody's submission."""
    record = freeze(staged, tmp_path / "weights", {})
    CHANGES[change](tmp_path / "weights" / FILES)
    with pytest.raises(InfraError, match="backup"):
        known(tmp_path / "weights")
    if "record" not in change:
        with pytest.raises(InfraError, match="backup"):
            must_be(tmp_path / "weights", record["tree"]["digest"])


def special(folder: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(folder / "odd")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(folder / "odd"))
    else:
        (folder / "odd").symlink_to(kind)


@pytest.mark.parametrize("kind", ["fifo", "socket", "/etc/passwd", "..", "../../labels", "snapshots/../../labels"])
def test_nothing_that_leads_out_is_kept(staged: Path, tmp_path: Path, kind: str) -> None:
    """Attacks whoever reads the folder outside: absolute and climbing links, pipes that would block a reader."""
    special(staged, kind)
    with pytest.raises(ParticipantError, match="nothing of that kind is kept"):
        freeze(staged, tmp_path / "weights", {})
    assert not (tmp_path / "weights").exists()


def test_the_folder_itself_may_be_no_link(staged: Path, tmp_path: Path) -> None:
    """Attacks our own chmod and rename by putting a link where the folder is expected."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (staged / "target").symlink_to(outside)
    with pytest.raises(ParticipantError, match="something else"):
        freeze(staged / "target", tmp_path / "weights", {})
    assert outside.stat().st_mode & 0o777 == 0o700


def test_the_digest_is_of_names_and_bytes_alone(staged: Path, tmp_path: Path) -> None:
    """The same files elsewhere, at another time, with other permissions, are the same."""
    before = contents(staged)
    for path in staged.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)
    (staged / "blobs" / "abc").chmod(0o600)
    moved = staged.rename(tmp_path / "moved")
    assert contents(moved) == before


def test_no_link_leads_out_over_another(staged: Path, tmp_path: Path) -> None:
    """Attacks a check of the links' words alone: `../up/..` stays inside by its words, and leads out on the disk."""
    (staged / "a" / "b").mkdir(parents=True)
    (staged / "a" / "up").symlink_to("..")
    (staged / "a" / "b" / "fine").symlink_to("../up/blobs/abc")
    freeze_copy = staged.parent / "copy"
    shutil.copytree(staged, freeze_copy, symlinks=True)
    assert freeze(freeze_copy, tmp_path / "fine", {})["tree"]["files"] == 1
    (staged / "a" / "b" / "out").symlink_to("../up/..")
    with pytest.raises(ParticipantError, match="leads out of its folder"):
        freeze(staged, tmp_path / "weights", {})


def test_no_link_leads_to_itself(staged: Path, tmp_path: Path) -> None:
    """Attacks readers that follow links to their end."""
    (staged / "loop").symlink_to("loop")
    with pytest.raises(ParticipantError, match="leads to itself"):
        freeze(staged, tmp_path / "weights", {})


def nested(folder: Path, depth: int, name: str = "d") -> None:
    """Folders in folders, deeper than their path could be said, with a file in the last."""
    inside = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=inside)
        deeper = os.open(name, os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inside))
    os.close(inside)


@pytest.mark.parametrize(("depth", "name"), [(65, "d"), (1500, "d"), (40, "n" * 250)])
def test_folders_without_end_are_refused_and_removed(staged: Path, tmp_path: Path, depth: int, name: str) -> None:
    """Attacks whoever walks through the folder by recursion, or says its paths: us, when we throw it away."""
    nested(staged, depth, name)
    with pytest.raises(ParticipantError, match="nothing of that kind is kept"):
        freeze(staged, tmp_path / "weights", {})
    remove_tree(staged.parent)
    assert not staged.parent.exists()


def test_a_staging_folder_ends_whatever_is_in_it(tmp_path: Path) -> None:
    """Attacks the tidying up, of the same and of a killed process: deep folders, closed ones, links that lead out."""
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)

    def fill(folder: Path) -> None:
        nested(folder, 3000)
        (folder / "closed" / "inner").mkdir(parents=True)
        (folder / "link").symlink_to(outside)
        os.mkfifo(folder / "closed" / "pipe")
        (folder / "closed" / "inner").chmod(0)
        (folder / "closed").chmod(0)

    with staging_folder(tmp_path / "all", ".room-") as folder:
        fill(folder)
    left = tmp_path / "all" / ".room-of-a-killed-process"
    left.mkdir()
    fill(left)
    with staging_folder(tmp_path / "all", ".room-") as folder:
        assert list((tmp_path / "all").iterdir()) == [folder]
    assert not list((tmp_path / "all").iterdir())
    assert (outside / "kept").is_dir()


def test_what_cannot_be_looked_into_counts_as_too_much(tmp_path: Path) -> None:
    """Attacks the bound on a folder that a sandbox writes to, by bytes where no path leads."""
    assert measure(tmp_path, 10**9)[1] == 0
    nested(tmp_path, 40, "n" * 250)
    assert measure(tmp_path, 10**9)[1] > MAX_FILES
