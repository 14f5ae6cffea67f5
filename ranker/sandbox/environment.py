"""What is visible inside a sandbox, and the command and environment of the server there: the same for every backend."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.sandbox.network import Network
from ranker.settings import Limits

SUBMISSION = "/submission"  # the unpacked tree, read-only
SERVER = "/server/encoder_server.py"
SOCKET = "/server/socket"
DOOR = "/server/door.py"
PROXY = "/server/proxy"
PACKAGES = "/packages"  # what the submission's requirements.txt installed, read-only
WEIGHTS = "/weights"  # what its constructor fetched: read-only, but for the phase that fetches it
OUTPUT = "/output"  # the folder of a program that is run instead of the encoder server
CERTIFICATES = "/etc/ssl/certs"  # whom to believe that they are who they say: for what may talk to a few hosts
UID = 10001  # not 65534: that one may be allowed the reserved blocks of a file system
OPEN_FILES = 256


@dataclass(frozen=True, kw_only=True)
class Bind:
    """One thing of ours that is seen inside, at `target`."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One encoder server to be started, or one other Python program, in a sandbox.

    `tree` is the submission's unpacked tree, `root` its root folder relative to it; `socket` listens already. `hidden`
    is a folder that must not be seen inside, wherever it lies (the organizer's home, with its labels). `packages` and
    `weights` are what earlier phases froze. With `network` a few hosts can be reached, and its room can be written to:
    as the cache of weights, or as the working folder of `program` (arguments for Python; it needs a network).
    `log_file` is where the end of what is printed is kept, outside.
    """

    tree: Path | None
    root: str
    socket: Path | None
    seed: int
    threads: int
    limits: Limits
    hidden: Path | None = None
    packages: Path | None = None
    weights: Path | None = None
    network: Network | None = None
    program: tuple[str, ...] | None = None
    gpu: str | None = None
    log_file: Path | None = None

    def binds(self) -> list[Bind]:
        """What is seen inside beside the Python environment."""
        room = OUTPUT if self.program is not None else WEIGHTS
        found = [
            (self.tree, SUBMISSION),
            (server_file() if self.program is None else None, SERVER),
            (self.socket, SOCKET),
            (self.packages, PACKAGES),
            (self.weights, WEIGHTS),
            (None if self.network is None else self.network.proxy, PROXY),
            (None if self.network is None else door_file(), DOOR),
        ]
        binds = [Bind(source=source, target=target) for source, target in found if source is not None]
        if self.network is not None:
            binds.append(Bind(source=self.network.room, target=room, writable=True))
        return binds

    def seen(self, target: str, *, confined: bool = True) -> str:
        """Where something that is bound to `target` is found: there, or, without confinement, where it lies."""
        return target if confined else str(next(bind.source for bind in self.binds() if bind.target == target))

    def folder(self) -> str:
        """The working folder inside."""
        return SUBMISSION if self.program is None else OUTPUT

    def command(self, python: str, *, confined: bool = True, step_down: Sequence[str] = ()) -> list[str]:
        """What is started. `step_down`: options for who must leave root and lower limits where the sandbox has not."""
        start = [python, "-P", "-s"]
        door = []
        if self.network is not None:
            proxy = self.seen(PROXY, confined=confined)
            door = [*start, self.seen(DOOR, confined=confined), "--proxy", proxy, *step_down]
        if self.program is not None:
            return [*door, "--", *start, *self.program]
        server = [*start, self.seen(SERVER, confined=confined), *self._arguments(confined=confined), *step_down]
        return [*door, "--as-is", "--", *server] if door else server

    def _arguments(self, *, confined: bool) -> list[str]:
        root = str(Path(self.seen(SUBMISSION, confined=confined)) / self.root)
        socket = self.seen(SOCKET, confined=confined)
        found = ["--socket", socket, "--root", root, "--seed", str(self.seed), "--threads", str(self.threads)]
        if self.gpu is not None:
            found += ["--gpu-memory-bytes", str(int(self.limits.gpu_memory_gb * 2**30))]
        return found if self.packages is None else [*found, "--packages", self.seen(PACKAGES, confined=confined)]

    def environment(self, *, confined: bool = True) -> dict[str, str]:
        """Every variable that the server gets. Nothing of ours is inherited."""
        threads = str(self.threads)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",  # noqa: S108  the sandbox's own
            "LANG": "C.UTF-8",
            **self._caches(confined=confined),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONHASHSEED": str(self.seed % 2**32),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
        }

    def _caches(self, *, confined: bool) -> dict[str, str]:
        """Where libraries look for weights, and whether they may ask for more."""
        if self.program is not None:
            return {"TMPDIR": self.seen(OUTPUT, confined=confined), "PIP_CONFIG_FILE": os.devnull}
        found = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self.network is not None:
            # Its own protocol asks more hosts, and not through this proxy.
            found = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
            if self.network.hub_url is not None:
                found["HF_ENDPOINT"] = self.network.hub_url
        if self.weights is not None or self.network is not None:
            place = self.seen(WEIGHTS, confined=confined)
            found |= {"XDG_CACHE_HOME": place, "HF_HOME": f"{place}/huggingface", "TORCH_HOME": f"{place}/torch"}
        return found


def server_file() -> Path:
    """The encoder server, as it lies on this machine."""
    return Path(__file__).with_name("encoder_server.py")


def door_file() -> Path:
    """What opens the way to the proxy inside, as it lies on this machine."""
    return Path(__file__).with_name("door.py")


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
