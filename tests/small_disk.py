"""A disk of its own for a test: so small that it can be full, or read-only. Needs root, as mount(8) does."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size in memory, mounted at a new folder; skips the test where that may not be done."""
    path.mkdir(parents=True)
    options = f"size={size_bytes},mode=755"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"a tmpfs cannot be mounted here: {done.stderr}")
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def make_read_only(path: Path, *, yes: bool) -> None:
    """Mount the disk anew, for reading alone or for writing again."""
    options = f"remount,{'ro' if yes else 'rw'}"
    subprocess.run(["mount", "-o", options, str(path)], check=True)


def fill(path: Path, *, leave: int) -> Path:
    """Fill the disk but for so many bytes (in whole pages); returns the file to remove. Others may write meanwhile."""
    ballast = path / "ballast"
    with ballast.open("wb") as file:
        while (wanted := _free(path) - leave) > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, wanted)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                break
    return ballast


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
