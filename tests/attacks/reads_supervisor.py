"""Tries to use the process that watches it, which holds the socket and runs none of its code: memory, open files."""

import os
from pathlib import Path

import spy

WATCHER = Path(f"/proc/{os.getppid()}")


def memory():
    start = int((WATCHER / "maps").read_text().split("-")[0], 16)
    with (WATCHER / "mem").open("rb", buffering=0) as file:
        file.seek(start)
        return len(file.read(16))


def open_files():
    return len(list((WATCHER / "fd").iterdir()))


class WatcherEncoder(spy.Spy):
    attempts = (memory, open_files)
