"""Names for things that must not outlive the process that made them, so that a later one can tell and tidy up."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_TOKEN = re.compile(r"(\d+)-(\d+)-(\d+)")
_FOLDER_PREFIX = "ranker-socket-"


def owner_token() -> str:
    """What names the calling process for good: pid, start time in the kernel's ticks, process namespace."""
    return f"{os.getpid()}-{_started(os.getpid())}-{_namespace()}"


def is_dead(token: str) -> bool:
    """Whether the owner is known to be dead; False for what is no token, or of another process namespace."""
    match = _TOKEN.match(token)
    return match is not None and match[3] == _namespace() and _started(int(match[1])) != match[2]


def make_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for a socket, for this user alone (mode 0700)."""
    return tempfile.TemporaryDirectory(prefix=f"{_FOLDER_PREFIX}{owner_token()}-")


def reap_folders() -> int:
    """Remove such folders whose owner is dead; how many there were."""
    left = [path for path in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*") if is_dead(_owner_of(path))]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _owner_of(path: Path) -> str:
    return path.name.removeprefix(_FOLDER_PREFIX)


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)
