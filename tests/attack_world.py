"""What the submissions of tests/attacks are let loose on: an organizer's home with labels and scores, servers on the
host, another submission's process; and the folder that holds all attacks as one submission.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ranker.sandbox.base import Audio, EncoderSpec, Features
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.environment import UID
from ranker.settings import Limits
from ranker.types import EncoderSource

ATTACKS = Path(__file__).parent / "attacks"
LIMITS = Limits(memory_gb=1.5, cpus=1.0, pids=48, scratch_mb=16, log_kb=64, load_timeout_s=60, call_timeout_s=60)
BRIEF = LIMITS.model_copy(update={"call_timeout_s": 1.0})
SECRET = "RANKER_ATTACKED_SECRET"
LABEL = "the label of this clip: dog"
HARM = "import os\nos._exit(3)\n"
HARMFUL = ("torch", "numpy", "json", "struct", "socket", "encoder_server", "sitecustomize", "usercustomize", "conftest")
NO_IMAGE = "ranker-encoder:none-such"


class World:
    """Everything outside, as folders and sockets of our own; `known.json` in the tree says where it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.shelf = folder / "library"
        self.tree = folder / "tree"
        self.scratch = folder / "scratch"
        self.name = f"ranker-attacked-{os.getpid()}-{folder.name}"
        self.ipc_key = int(hashlib.sha256(self.name.encode()).hexdigest()[:7], 16)
        self._make_folders()
        self._echo = Echo(self.name, self.home / "engine.sock")
        # As if another submission's encoder ran beside: the same user, where we may choose it.
        who = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
        command, variables = [self.name, "600"], {self.name: "1"}
        self.other = subprocess.Popen(command, executable="/usr/bin/sleep", env=variables, **who)  # type: ignore[call-overload]
        (self.tree / "known.json").write_text(json.dumps(self.known()))
        for file in ATTACKS.glob("*.py"):
            shutil.copy(file, self.tree)
        for name in (*HARMFUL, "ranker"):
            (self.tree / f"{name}.py").write_text(HARM)
        (self.tree / "evil.pth").write_text("import os; os._exit(3)\n")
        for place in (self.shelf, self.scratch, self.tree, *folder.rglob("*")):
            place.chmod(0o777)  # what keeps the attacks from it must be the sandbox, not the rights of files

    def _make_folders(self) -> None:
        for above in (self.folder, *self.folder.parents):
            if above.owner() == "root" and "pytest-" in str(above):
                above.chmod(0o755)
        (self.home / "runs" / "attempt-0001").mkdir(parents=True)
        (self.home / "submissions" / "other").mkdir(parents=True)
        (self.home / ".ssh").mkdir()
        for place in (self.shelf, self.tree, self.scratch):
            place.mkdir()
        (self.home / "ranker-labels.csv").write_text("clip,label\n1,dog\n")
        (self.home / "ranker.db").write_bytes(b"SQLite format 3\0")
        (self.home / ".ssh" / "id_ed25519").write_text("a key")
        (self.home / "submissions" / "other" / "weights.bin").write_bytes(b"weights")
        (self.shelf / "jiwer.py").write_text("def wer(truth, said): ...\n")

    def known(self) -> dict[str, object]:
        """What an attacker may have found out beforehand."""
        return {
            "home": str(self.home),
            "labels": str(self.home / "ranker-labels.csv"),
            "library": str(self.shelf),
            "engine": str(self.home / "engine.sock"),
            "tcp": self._echo.tcp.getsockname()[1],
            "udp": self._echo.udp.getsockname()[1],
            "abstract": self.name,
            "marker": self.name,
            "pid": self.other.pid,
            "secret_name": SECRET,
            "label_length": len(LABEL),
            "label_sha256": hashlib.sha256(LABEL.encode()).hexdigest(),
            "ipc_key": self.ipc_key,
        }

    def close(self) -> None:
        self.other.kill()
        self.other.wait()
        self._echo.close()
        libc = ctypes.CDLL(None)
        left = libc.shmget(self.ipc_key, 0, 0)  # by the control of leaves_messages
        if left >= 0:
            libc.shmctl(left, 0, None)


class Echo:
    """Servers of the host, which send back what they get: TCP, UDP, AF_UNIX by an abstract name and by a path."""

    def __init__(self, abstract: str, path: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self._unix = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        for one, address in zip(self._unix, ("\0" + abstract, str(path)), strict=True):
            one.bind(address)
            one.listen()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="echo")
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as waiting:
            for one in (self.tcp, self.udp, *self._unix, self._woken):
                waiting.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    if key.fileobj is self._woken:
                        return
                    if key.fileobj is self.udp:
                        self.udp.sendto(*self.udp.recvfrom(2000))
                        continue
                    with contextlib.suppress(OSError), key.fileobj.accept()[0] as caller:  # type: ignore[union-attr]
                        caller.settimeout(5)
                        caller.sendall(caller.recv(2000))

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for one in (self.tcp, self.udp, *self._unix, self._wake, self._woken):
            one.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for a module of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, "1")
        found = World(tmp_path_factory.mktemp("attacked"))
        yield found
        found.close()


def spec(world: World, attack: str, output_dim: int | None = None) -> EncoderSpec:
    return EncoderSpec(tree=world.tree, source=EncoderSource(root=".", module=f"{attack}.py"), output_dim=output_dim)


def seeded(world: World, attack: str, seed: int) -> EncoderSpec:
    """Its seed stands in the command lines of the server and of all that it forks."""
    return dataclasses.replace(spec(world, attack), seed=seed)


def clip(how: int = 0, seconds: float = 1.0) -> Audio:
    wave = np.random.default_rng(how).standard_normal(round(16_000 * seconds)).astype(np.float32)
    wave[0] = how
    return wave


def honest(wave: Audio) -> Features:
    """What the honest encoder computes, without torch."""
    count = len(wave) // 320
    return wave[: count * 320].reshape(count, 16, 20).mean(-1)


def load(client: EncoderClient, attack: str) -> list[str]:
    return client.load(EncoderSource(root=".", module=f"{attack}.py")).violations()


def findings(client: EncoderClient, attack: str) -> list[float]:
    """What each attempt of an attack got, as it tells in its features (tests/attacks/spy.py)."""
    assert load(client, attack) == []
    *found, ran = client.encode([clip()])[0][0].tolist()
    attempts = round(ran) - 100
    assert 1 <= attempts <= 15, (attack, ran)
    assert found[attempts:] == [0.0] * (15 - attempts), attack
    return found[:attempts]


def assert_next_one_runs(client: EncoderClient) -> None:
    assert load(client, "honest") == []
    np.testing.assert_allclose(client.encode([clip()])[0], honest(clip()), atol=1e-5)


def processes_with(words: str) -> list[str]:
    """Names of the folders in /proc of processes whose command line holds the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
