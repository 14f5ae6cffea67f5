"""What a sandbox gets that may talk to a few hosts: a proxy of ours, and one folder to keep what it fetched."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranker.sandbox.client import Confined
from ranker.sandbox.owner import make_folder
from ranker.sandbox.proxy import Journal, Policy, Resolve, proxy, resolve

MAX_FILES = 200_000
ENTRY_BYTES = 4096  # that an entry counts for at least: some file systems say nothing of what names and folders take
LOOK_EVERY_S = 0.25
_HIDDEN = {errno.ENAMETOOLONG, errno.EACCES}  # whatever is in there would not be counted


@dataclass(kw_only=True)
class Network:
    """One phase's way out. `room` is the folder that the sandbox may write to, for `max_bytes` in all.

    `overflow`: the sentence why the watch killed the sandbox, `lost`: whether that was because the disk lost far more
    than the folder holds (files that were removed while they are open, or another process of ours); None and False as
    long as all is well.
    """

    proxy: Path
    journal: Journal
    room: Path
    max_bytes: int
    hub_url: str | None = None
    overflow: str | None = None
    lost: bool = False


@contextmanager
def network(
    policy: Policy,
    room: Path,
    *,
    max_bytes: int,
    hub_url: str | None = None,
    resolve: Resolve = resolve,
    home: Path | None = None,
) -> Iterator[Network]:
    """A proxy with this policy, until the block ends. What runs in the sandbox may write to `room`, a new folder.
    `home`: whose it is.
    """
    with make_folder(home) as folder:
        path = Path(folder) / "proxy"
        with proxy(path, policy, resolve) as journal:
            yield Network(proxy=path, journal=journal, room=room, max_bytes=max_bytes, hub_url=hub_url)


@contextmanager
def watched(found: Network, process: Confined) -> Iterator[None]:
    """Kill the process once its folder holds too much. No kernel bounds a folder, so it is measured, a few times per
    second: it can be exceeded by what a disk takes in that time.
    """
    ended, free = threading.Event(), free_bytes(found.room)

    def look() -> None:
        while not ended.wait(LOOK_EVERY_S):
            size, files = measure(found.room, found.max_bytes)
            if size > found.max_bytes or files > MAX_FILES:
                found.overflow = (
                    f"it wrote more than the {found.max_bytes:,} bytes or {MAX_FILES:,} files that it may, or made "
                    "folders that cannot be looked into"
                )
            elif free - free_bytes(found.room) > 2 * found.max_bytes + 2**30:
                found.overflow, found.lost = "the disk lost far more room than the sandbox's folder holds", True
            else:
                continue
            process.end(kill=True)
            return

    watch = threading.Thread(target=look, name="sandbox-room", daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def measure(folder: Path, enough: int) -> tuple[int, int]:
    """Bytes and entries below a folder that others write to meanwhile, no link followed; counting ends above `enough`
    bytes, or it would never catch up with who makes ever more. A folder that cannot be looked into counts as too many.
    """
    size, files, waiting = 0, 0, [str(folder)]
    while waiting and files <= MAX_FILES and size <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    if files > MAX_FILES or size > enough:
                        break
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        if error.errno in _HIDDEN:
                            return size, MAX_FILES + 1
                        continue  # gone meanwhile
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    size += max(found.st_blocks * 512, ENTRY_BYTES)
        except OSError as error:
            if error.errno in _HIDDEN:
                return size, MAX_FILES + 1
    return size, files


def free_bytes(folder: Path) -> int:
    """What is left of a folder's disk."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
