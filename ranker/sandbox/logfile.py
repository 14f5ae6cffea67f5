"""A file for what an encoder prints: its end is kept, and however much it prints, no more than a bound."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class BoundedLog:
    """Appends to `path`; at half of `max_bytes` the file is renamed to `<name>.1`, over the one before, and begun anew.

    So the two hold at least the last half of the bound, or all. A disk that fails or is full costs the log, nothing
    else. Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self._path = path
        self._half = max(max_bytes // 2, 1)

    def write(self, printed: bytes) -> None:
        """Keep what was printed, as it is: it is hostile until somebody makes it visible."""
        if self._path is None or not printed:
            return
        with suppress(OSError):
            end = printed[-2 * self._half :]
            for start in range(0, len(end), self._half):
                self._append(self._path, end[start : start + self._half])

    def _append(self, path: Path, printed: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size + len(printed) > self._half:
                path.replace(path.with_name(f"{path.name}.1"))
                os.close(descriptor)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            os.write(descriptor, printed)
        finally:
            os.close(descriptor)
