"""Files and folders that are there whole or not at all, whenever process or machine stop; and locks."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_S = 1.0
_PIECE = re.compile(r"\.(step-\d+-.+|.+\.tmp)")


def flush(path: Path) -> None:
    """Put a file's content, or a folder's list of names, on the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` once it is on the disk; removed if that fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill with files, which takes the place of `path` once all of it is on the disk."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        for file in temporary.iterdir():
            flush(file)
        flush(temporary)
        if path.exists():
            remove_folder(path)
        temporary.rename(path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder such that nobody ever finds half of it under its name."""
    going = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    path.rename(going)
    shutil.rmtree(going)


def is_piece(path: Path) -> bool:
    """Whether a name is that of something that is being written, or removed, here: half of it may be there."""
    return _PIECE.fullmatch(path.name) is not None


def remove_pieces(folder: Path) -> None:
    """Remove what a process that died was writing, or removing, below a folder that nobody uses any more."""
    for path in [path for path in folder.rglob(".*") if is_piece(path)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock that is this file; the system frees it when a process dies. The file stays.

    While another process holds it, `waiting` is called about once a second; what that raises ends the waiting.
    """
    with path.open("w") as lock:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            waiting()
            time.sleep(POLL_S)
        yield
