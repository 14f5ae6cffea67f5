"""Names for things that must not outlive the process that made them, so that a later one can tell and tidy up."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

_TOKEN = re.compile(r"(\d+)-(\d+)-(\d+)(?:-([0-9a-f]{12}|any)-)?")
SOCKET_PREFIX = "ranker-socket-"
SCRATCH_PREFIX = "ranker-scratch-"
_PREFIXES = (SOCKET_PREFIX, SCRATCH_PREFIX)


def owner_token() -> str:
    """What names the calling process for good: pid, start time in the kernel's ticks, process namespace."""
    return f"{os.getpid()}-{_started(os.getpid())}-{_namespace()}"


def is_dead(token: str) -> bool:
    """Whether the owner is known to be dead; False for what is no token, or of another process namespace."""
    match = _TOKEN.match(token)
    return match is not None and match[3] == _namespace() and _started(int(match[1])) != match[2]


def home_mark(home: Path | None) -> str:
    """What tells one home's things from another's on the same machine: 12 hex digits of the SHA-256 of its path."""
    return "any" if home is None else hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]


def owned_name(home: Path | None) -> str:
    """How the name of a thing begins that the calling process makes for a home."""
    return f"{owner_token()}-{home_mark(home)}-"


def is_of(name: str, home: Path) -> bool:
    """Whether something so named was made for this home."""
    match = _TOKEN.match(name)
    return match is not None and match[4] == home_mark(home)


def make_folder(home: Path | None = None, *, prefix: str = SOCKET_PREFIX) -> tempfile.TemporaryDirectory[str]:
    """A folder for a socket, for this user alone (mode 0700)."""
    return tempfile.TemporaryDirectory(prefix=f"{prefix}{owned_name(home)}")


def dead_folders() -> list[Path]:
    """Such folders whose owner is dead."""
    made = [path for prefix in _PREFIXES for path in Path(tempfile.gettempdir()).glob(f"{prefix}*")]
    return sorted(path for path in made if is_dead(owner_of(path)))


def reap_folders() -> int:
    """Remove them; how many there were."""
    left = dead_folders()
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def owner_of(path: Path) -> str:
    """What of a folder's name tells whose it is."""
    return path.name.removeprefix(SOCKET_PREFIX).removeprefix(SCRATCH_PREFIX)


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)
