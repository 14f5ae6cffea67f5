"""Files and folders that arrive whole or not at all: made in a hidden folder beside their place, flushed, renamed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ranker.durable import flush


@contextmanager
def staging_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder `parent/<prefix>…`, removed at the end; what is to stay is moved out with `place`.

    The folder is locked while its process lives, so that one whose lock is free was left by a killed process: those
    of the same prefix are removed first. Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent, prefix)
    folder, lock = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        remove_tree(folder)
        os.close(lock)


def place(staged: Path, target: Path) -> None:
    """Rename a flushed file or folder to its place and flush the place's folder. Raises OSError."""
    staged.rename(target)
    flush(target.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it; what cannot be removed stays. Nobody follows a link.

    Sandboxes wrote there: folders may be nested deeper than shutil.rmtree recurses (it raises), or than a path can
    say, and one may hold fifty thousand long names. So each one is moved up to the first, under a short name, before it
    is emptied.
    """
    with suppress(OSError):
        top = _opened(str(folder))
        try:
            prefix, moved = f".{secrets.token_hex(8)}-", 0
            waiting = _empty(top, top, f"{prefix}{moved}-")
            while waiting:
                name = waiting.pop()
                with suppress(OSError):
                    one = _opened(name, top)
                    moved += 1
                    try:
                        found = _empty(one, top, f"{prefix}{moved}-")
                    finally:
                        os.close(one)
                    waiting += found
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        folder.rmdir()


def _opened(name: str, parent: int | None = None) -> int:
    """A folder, made ours to read and write first. Raises OSError, also for a link."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{found}", 0o700)  # noqa: PTH101  its name may be too long to say
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(found)


def _empty(folder: int, top: int, prefix: str) -> list[str]:
    """Remove the files of an open folder, and move its folders to `top`; the folders' names there, which begin with
    `prefix`. Nothing is listed first, since the names may be many; so it looks again until nothing is left to do.
    """
    found: list[str] = []
    is_changed = True
    while is_changed:
        is_changed = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    continue
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=folder)
                    else:
                        os.close(_opened(entry.name, folder))
                        kept = f"{prefix}{len(found)}"
                        os.rename(entry.name, kept, src_dir_fd=folder, dst_dir_fd=top)
                        found.append(kept)
                    is_changed = True
    return found


def flush_tree(folder: Path) -> None:
    """Make all that was written below a folder survive a power cut: syncfs(2), one call for fifty thousand files."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process swept it between its making and its opening
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # swept between its opening and its locking


def sweep(parent: Path, prefix: str) -> None:
    """Remove the staging folders of killed processes. Raises OSError."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # its owner has just finished
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(folder)
        except BlockingIOError:
            pass  # in use
        finally:
            os.close(lock)
