"""What is visible inside a sandbox, and the command and environment of the server there: the same for every backend."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from ranker.settings import Limits

SUBMISSION = "/submission"  # the unpacked tree, read-only
SERVER = "/server/encoder_server.py"
SOCKET = "/server/socket"
UID = 10001  # not 65534: that one may be allowed the reserved blocks of a file system
OPEN_FILES = 256


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One server to be started. `root` is the submission's root folder relative to `tree`; `socket` listens already.

    `hidden` is a folder that must not be seen inside, wherever it lies (the organizer's home, with its labels).
    """

    tree: Path
    root: str
    socket: Path
    seed: int
    threads: int
    limits: Limits
    hidden: Path | None = None

    def arguments(self, *, tree: str, socket: str) -> list[str]:
        """The server's arguments, for the places where tree and socket are seen inside."""
        root = str(Path(tree) / self.root)
        return ["--socket", socket, "--root", root, "--seed", str(self.seed), "--threads", str(self.threads)]

    def environment(self) -> dict[str, str]:
        """Every variable that the server gets. Nothing of ours is inherited."""
        threads = str(self.threads)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",  # noqa: S108  the sandbox's own
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONHASHSEED": str(self.seed % 2**32),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
        }


def server_file() -> Path:
    """The encoder server, as it lies on this machine."""
    return Path(__file__).with_name("encoder_server.py")


def threads_for(limits: Limits, threads: int | None) -> int:
    """The number given, or as many threads as the limits have CPUs."""
    return threads if threads is not None else max(1, math.ceil(limits.cpus))


def python_folders() -> list[Path]:
    """The folders that our Python environment needs to be seen at their own paths: /usr, the environment and its base.

    They may lie under a user's home folder; only they are shown, not what is around them.
    """
    wanted = {Path("/usr")}
    for prefix in (sys.prefix, sys.base_prefix):
        wanted |= {Path(prefix), Path(prefix).resolve()}
    return sorted(wanted)


def covered(folders: list[Path], hidden: Path | None) -> list[Path]:
    """`hidden`, as a list of one, if showing `folders` would show it; else nothing."""
    if hidden is None:
        return []
    place = hidden.resolve()
    return [place] if any(place.is_relative_to(folder) for folder in folders) else []
