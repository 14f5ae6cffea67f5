"""One contract for docker, bubblewrap and none: what an encoder gets, what it cannot reach, how each failure is told.

Importing torch takes seconds, so most tests share one started encoder per backend. A clip's first sample says how it
behaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import REMAPPED_FROM

from ranker.errors import MissingError, ParticipantError
from ranker.sandbox import owner
from ranker.sandbox.backends import backend
from ranker.sandbox.base import Audio, Encoder, EncoderSpec
from ranker.sandbox.cgroup import PARENT, ROOT, cgroup
from ranker.sandbox.child import running
from ranker.sandbox.client import EncoderClient, accept
from ranker.sandbox.environment import UID
from ranker.sandbox.faults import Phase
from ranker.sandbox.memory import MemorySource
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.wire import peer_of
from ranker.settings import Limits
from ranker.types import EncoderSource, SandboxName

BACKENDS = [SandboxName.NONE, SandboxName.BUBBLEWRAP, SandboxName.DOCKER]
CONFINED = [SandboxName.BUBBLEWRAP, SandboxName.DOCKER]
SOURCE = EncoderSource(root=".", module="encoder.py")
SECRET = "RANKER_TEST_SECRET"
IMAGE = "ranker-encoder:none-such"

# Behaviours, by the value of the first sample.
RAISE, NAN, WRONG_DIM, MANY_FRAMES, WRONG_MASK, BARE, EMPTY, LOOK, HANG, EXIT, MEMORY, JUNK, SPIKE = range(10, 23)

ENCODER = '''
import json, os, socket, subprocess, sys, time
from pathlib import Path
import torch
from helper import frames_of

HERE = Path(__file__).parent
KNOWN = json.loads((HERE / "known.json").read_text())


def works(action):
    try:
        return bool(action())
    except BaseException:
        return False


def connects(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
    return True


def environments():
    found = str(dict(os.environ))
    for file in Path("/proc").glob("[0-9]*/environ"):
        if works(lambda: file.read_bytes()):
            found += file.read_bytes().decode("utf-8", "replace")
    return found


def look():
    """What can be reached, as 0 and 1, in the order of LOOKED_AT."""
    return [
        works(lambda: Path(KNOWN["label"]).read_text()),
        KNOWN["secret"] in environments(),
        works(lambda: connects(socket.AF_INET, ("127.0.0.1", KNOWN["port"]))),
        works(lambda: connects(socket.AF_UNIX, "\\0" + KNOWN["abstract"])),
        works(lambda: (HERE / "written").write_text("x") or True),
        works(lambda: Path("/written").write_text("x") or True),
        works(lambda: Path(KNOWN["home"]).iterdir().__next__()),
        works(lambda: socket.socket(40)),
        works(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL).returncode == 0,
        os.getuid() == 0,
        works(lambda: KNOWN["marker"] in Path(f"/proc/{KNOWN['pid']}/cmdline").read_text()),
        works(lambda: HOSTNAME.write_text(HOSTNAME.read_text()) or True),
    ]


class ToyEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.output_dim = 16
        if (HERE / "leave_daemon").exists():
            command = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", KNOWN["marker"]]
            self.daemon = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
            self.daemon.stdout.readline()

    def forward(self, audio, mask=None):
        how = int(audio[0, 0])
        if how == 10:
            raise ValueError("this clip is not to my taste \\x1b[31m")
        if how == 17:
            return torch.tensor(look() + [False] * 3).float().reshape(1, 1, 16), None
        if how == 18:
            while True:
                time.sleep(0.01)
        if how == 19:
            print("I am leaving")
            os._exit(3)
        if how == 20:
            kept = []
            while True:
                kept.append(torch.ones(16 * 2**20))
        if how == 22:
            taken = torch.ones(64 * 2**20)
            del taken
        if how == 21:
            for file in range(3, 20):
                try:
                    os.write(file, b"HTTP/1.1 200 OK" * 10)
                except OSError:
                    pass
        x = frames_of(audio)
        kept = None if mask is None else mask[:, ::160][:, : x.shape[1]]
        bad = {
            11: (x * float("nan"), kept),
            12: (x[:, :, :5], kept),
            13: (torch.zeros(1, 40_000, 16), None),
            14: (x, torch.ones(1, 7)),
            15: x,
            16: (x, torch.zeros(x.shape[:2])),
        }
        return bad.get(how, (x, kept))
'''
LOOKED_AT = [
    "label",
    "environment",
    "tcp",
    "abstract_socket",
    "write_tree",
    "write_root",
    "home",
    "vsock",
    "netlink",
    "user_namespace",
    "root",
    "host_process",
    "write_sysctl",
]
HELPER = """
import torch
def frames_of(audio):
    windows = audio.unfold(1, 160, 160)
    return windows.reshape(*windows.shape[:2], 16, 10).mean(-1)
"""


def expected(clip: Audio) -> np.ndarray:
    """What the toy encoder computes, without torch: means of tenths of 10 ms windows."""
    count = len(clip) // 160
    return clip[: count * 160].reshape(count, 16, 10).mean(-1)


def clip(seconds: float = 1.0, *, how: int = 0, seed: int = 0) -> Audio:
    wave = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)).astype(np.float32)
    wave[0] = how
    return wave


class Outside:
    """What the encoder must not reach: a label, a variable, two servers, a home folder, a process."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.tree = self.home / "submissions" / "tree"
        self.tree.mkdir(parents=True)
        (self.home / "labels.txt").write_text("dog")
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.abstract = socket.socket(socket.AF_UNIX)
        self.marker = f"ranker-test-{os.getpid()}-{folder.name}"
        self.abstract.bind("\0" + self.marker)
        self.abstract.listen()
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", self.marker])
        known = {
            "label": str(self.home / "labels.txt"),
            "home": str(self.home),
            "secret": SECRET,
            "port": self.tcp.getsockname()[1],
            "abstract": self.marker,
            "pid": self.process.pid,
            "marker": self.marker,
        }
        write_submission(self.tree, known)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.tcp.close()
        self.abstract.close()


def write_submission(tree: Path, known: dict[str, object]) -> None:
    (tree / "encoder.py").write_text(ENCODER)
    (tree / "helper.py").write_text(HELPER)
    (tree / "known.json").write_text(json.dumps(known))
    for folder in (tree, *tree.parents):
        if folder.owner() == "root" and "pytest-" in str(folder):
            folder.chmod(0o755)


def open_backend(name: SandboxName, request: pytest.FixtureRequest, home: Path | None = None) -> ServedSandbox:
    if name is SandboxName.DOCKER:
        request.getfixturevalue("docker_engine")
    if name is SandboxName.BUBBLEWRAP:
        request.getfixturevalue("bubblewrap")
    return backend(name, image=IMAGE, home=home)


LIMITS = Limits(memory_gb=2.0, cpus=1.0, load_timeout_s=60, call_timeout_s=60)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    os.environ[SECRET] = SECRET
    found = Outside(tmp_path_factory.mktemp("outside"))
    yield found
    del os.environ[SECRET]
    found.close()


@pytest.fixture(scope="module", params=BACKENDS)
def started(request: pytest.FixtureRequest, outside: Outside) -> Iterator[tuple[SandboxName, EncoderClient]]:
    sandbox = open_backend(request.param, request, outside.home)
    with sandbox.connect(EncoderSpec(tree=outside.tree, source=SOURCE), LIMITS) as encoder:
        assert encoder.load(SOURCE).violations() == []
        yield request.param, encoder


def test_features_are_those_of_the_encoder_on_every_backend(started: tuple[SandboxName, Encoder]) -> None:
    """Numbers, shape and dtype against a computation without torch, so all backends agree with it."""
    _, encoder = started
    assert (encoder.output_dim, encoder.attribute) == (16, "ToyEncoder")
    features = encoder.encode([clip(0.5)])
    assert [one.dtype for one in features] == [np.float32]
    np.testing.assert_allclose(features[0], expected(clip(0.5)), atol=1e-6)


def test_a_padded_batch_gives_each_clip_its_own_frames(started: tuple[SandboxName, Encoder]) -> None:
    """Clips of unlike length share a call, padded and masked; masked frames are dropped."""
    _, encoder = started
    clips = [clip(0.5, seed=1), clip(1.0, seed=2), clip(0.25, seed=3)]
    features = encoder.encode(clips)
    assert [len(one) for one in features] == [50, 100, 25]
    for one, other in zip(features, clips, strict=True):
        np.testing.assert_allclose(one, expected(other), atol=1e-6)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            RAISE,
            r"raised an exception on a clip of 1\.00 s: ValueError: this clip is not to my .* \(encoder\.py:\d+ in",
        ),
        (NAN, "finite, but 1600 of 1600 numbers are NaN"),
        (WRONG_DIM, "output_dim = 16 values per frame, but have 5"),
        (MANY_FRAMES, "at most 4000 frames for one clip, but have 40000"),
        (WRONG_MASK, r"mask must have the shape \[1, 100\].*but has \[1, 7\]"),
        (BARE, r"must return \(features, mask\), a tuple or list of two, but returned a Tensor \(a bare tensor"),
        (EMPTY, "must keep at least one frame"),
    ],
)
def test_a_violation_is_the_participants_and_says_what_it_was(
    started: tuple[SandboxName, Encoder], how: int, words: str
) -> None:
    """One violating call: ParticipantError with a printable sentence of the cause; the encoder goes on working."""
    _, encoder = started
    with pytest.raises(ParticipantError, match=words) as caught:
        encoder.encode([clip(how=how)])
    assert all(reason.isprintable() for reason in caught.value.reasons)
    assert encoder.encode([clip()])[0].shape == (100, 16)


def test_memory_that_was_given_back_stands_in_the_peak(started: tuple[SandboxName, EncoderClient]) -> None:
    """256 MiB taken for a moment raise it by as much, read from outside the process; and it says what was read."""
    name, encoder = started
    before = encoder.peak_memory()
    encoder.encode([clip(how=SPIKE)])
    after = encoder.peak_memory()
    assert before is not None
    assert after is not None
    assert after.size_bytes - before.size_bytes > 2**28 - 2**26
    assert after.size_bytes < 2 * 2**30
    grouped = name is SandboxName.DOCKER or (name is SandboxName.BUBBLEWRAP and os.geteuid() == 0)
    assert after.source is (MemorySource.GROUP if grouped else MemorySource.PROCESSES)


def test_time_and_audio_are_counted(started: tuple[SandboxName, EncoderClient]) -> None:
    """Attacks the figures of the manifest: each call's audio is counted once, and loading is no encoding."""
    _, encoder = started
    before = encoder.usage()
    encoder.encode([clip(0.5), clip(1.0)])
    after = encoder.usage()
    assert (after.calls - before.calls, after.audio_s - before.audio_s) == (1, 1.5)
    assert after.encode_s > before.encode_s
    assert after.load_s == before.load_s > 0
    assert after.peak is not None


def test_nothing_of_the_host_can_be_reached(started: tuple[SandboxName, Encoder], outside: Outside) -> None:
    """Labels, variables, network, home, processes, writable places; without a sandbox most can be (the control)."""
    name, encoder = started
    row = encoder.encode([clip(how=LOOK)])[0][0]
    reached = {what for what, value in zip(LOOKED_AT, row, strict=False) if value}
    if name is SandboxName.NONE:
        assert {"label", "environment", "tcp", "abstract_socket", "write_tree", "home", "host_process"} <= reached
        (outside.tree / "written").unlink()
    else:
        assert reached == set()


# -- failures that end the server: each has a server of its own


def own_tree(folder: Path, *, daemon: str | None = None) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    marker = daemon or "none"
    known = {"label": "", "home": "", "secret": "", "port": 0, "abstract": "", "pid": 0, "marker": marker}
    write_submission(tree, known)
    if daemon:
        (tree / "leave_daemon").write_text("")
    return tree


def processes_of(marker: str) -> list[int]:
    """Processes of this machine, in whatever namespace, whose command line holds the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until_gone(pids: list[int]) -> list[int]:
    """Those that still live after a generous time."""
    left = []
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not select.select([handle], [], [], 20)[0]:
            left.append(pid)
        os.close(handle)
    return left


@pytest.mark.parametrize("name", BACKENDS)
def test_a_call_that_never_returns_is_ended_with_all_it_started(
    name: SandboxName, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The error names the limit; a process that the encoder left in a session of its own is gone, in a sandbox."""
    marker = f"daemon-{os.getpid()}-{name}"
    sandbox = open_backend(name, request)
    spec = EncoderSpec(tree=own_tree(tmp_path, daemon=marker), source=SOURCE)
    with sandbox.start(spec, Limits(memory_gb=2.0, cpus=1.0, call_timeout_s=0.5)) as encoder:
        daemons = processes_of(marker)
        assert len(daemons) == 1
        with pytest.raises(ParticipantError, match=r"no answer within 0\.5 s .* a clip of 1\.00 s"):
            encoder.encode([clip(how=HANG)])
    if name is SandboxName.NONE:
        os.kill(daemons[0], signal.SIGKILL)
    assert wait_until_gone(daemons) == []


def test_the_sum_of_all_calls_is_limited_too(tmp_path: Path) -> None:
    """Each call keeps its own limit, but all together take too long: ended, and told which limit it was."""
    sandbox = backend(SandboxName.NONE, image=IMAGE)
    spec = EncoderSpec(tree=own_tree(tmp_path), source=SOURCE)
    limits = LIMITS.model_copy(update={"run_timeout_s": 10.0})
    with sandbox.connect(spec, limits) as encoder:
        encoder.load(SOURCE)
        encoder._seconds[Phase.ENCODING] = 9.9 - encoder.usage().load_s
        with pytest.raises(ParticipantError, match="used up the 10 s that all loading and calls of one job may take"):
            encoder.encode([clip(how=HANG)])


@pytest.mark.parametrize("name", BACKENDS)
def test_an_encoder_that_exits_is_told_its_code_and_last_words(
    name: SandboxName, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Leaving early is no success: ParticipantError with exit code and the end of what it printed."""
    sandbox = open_backend(name, request)
    spec = EncoderSpec(tree=own_tree(tmp_path), source=SOURCE)
    with sandbox.start(spec, LIMITS) as encoder, pytest.raises(ParticipantError, match=r"exit code 3 .*I am leaving"):
        encoder.encode([clip(how=EXIT)])


@pytest.mark.parametrize("name", CONFINED)
def test_filling_memory_is_told_with_the_limit(
    name: SandboxName, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The kernel kills it inside its own limit, and the sentence names that limit, not a mysterious signal 9."""
    sandbox = open_backend(name, request)
    limits = Limits(memory_gb=0.75, cpus=1.0)
    spec = EncoderSpec(tree=own_tree(tmp_path), source=SOURCE)
    words = r"more than the 0\.75 GB of memory"
    with sandbox.start(spec, limits) as encoder, pytest.raises(ParticipantError, match=words):
        encoder.encode([clip(how=MEMORY)])


def test_memory_is_limited_without_a_control_group_too(
    bubblewrap: ServedSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no group can be made (not root, or inside a container), an rlimit makes the allocation fail, told alike."""
    monkeypatch.setattr("ranker.sandbox.bubblewrap.cgroup", lambda *_: contextlib.nullcontext())
    spec = EncoderSpec(tree=own_tree(tmp_path), source=SOURCE)
    words = r"more than the 0\.75 GB of memory that it may have, while it encoded a clip of 1\.00 s: RuntimeError"
    limits = Limits(memory_gb=0.75, cpus=1.0)
    with bubblewrap.start(spec, limits) as encoder, pytest.raises(ParticipantError, match=words):
        encoder.encode([clip(how=MEMORY)])


def test_sandboxes_together_weigh_as_much_as_the_cores() -> None:
    """Beside a busy machine's other processes, a group that counts as one of them would starve all encoders."""
    parent = ROOT / "cpu" / PARENT
    with cgroup(LIMITS) as group:
        if group is None or not parent.is_dir():
            pytest.skip("there is no group of cgroup v1 here")
        assert (parent / "cpu.shares").read_text().strip() == str(1024 * (os.cpu_count() or 1))


def test_writing_to_the_servers_socket_is_nonsense(tmp_path: Path) -> None:
    """The submission can find the socket and write to it; the client says so, and blames it."""
    sandbox = backend(SandboxName.NONE, image=IMAGE)
    spec = EncoderSpec(tree=own_tree(tmp_path), source=SOURCE)
    words = "wrote to the server's own connection"
    with sandbox.start(spec, LIMITS) as encoder, pytest.raises(ParticipantError, match=words):
        encoder.encode([clip(how=JUNK)])


OWNER = """
import sys
from pathlib import Path
from ranker.settings import Limits
from ranker.sandbox.backends import backend
from ranker.sandbox.base import EncoderSpec
from ranker.types import EncoderSource, SandboxName
import numpy as np

sandbox = backend(SandboxName(sys.argv[1]), image="ranker-encoder:none-such")
spec = EncoderSpec(tree=Path(sys.argv[2]), source=EncoderSource(root=".", module="encoder.py"))
with sandbox.start(spec, Limits(memory_gb=2.0, cpus=1.0)) as encoder:
    print("ready", flush=True)
    clip = np.zeros(1600, dtype=np.float32)
    clip[0] = 18
    encoder.encode([clip])
"""


@pytest.mark.parametrize("name", CONFINED)
def test_nothing_outlives_an_owner_that_is_killed(
    name: SandboxName, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """After SIGKILL of our process, an encoder that is in an endless loop and has left a daemon is gone, by itself."""
    sandbox = open_backend(name, request)
    marker = f"orphan-{os.getpid()}-{name}"
    command = [sys.executable, "-c", OWNER, name, str(own_tree(tmp_path, daemon=marker))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"ready\n"
        daemons = processes_of(marker)
        killed.kill()
    assert len(daemons) == 1
    assert wait_until_gone(daemons) == []
    assert sandbox.reap() > 0
    assert sandbox.reap() == 0


@pytest.mark.engine
def test_containers_of_a_dead_owner_are_reaped_and_no_others(docker_engine: str) -> None:
    """Only containers whose owner is dead go: those of this process and of other machines stay."""
    from docker.client import DockerClient
    from docker.types import Mount

    from ranker.sandbox import docker as ours

    client = DockerClient.from_env()
    ours._import_skeleton(client)
    ours.reap_orphans()
    alive = {ours.BOOT_LABEL: ours._boot(), ours.OWNER_LABEL: owner.owner_token()}
    dead = {**alive, ours.OWNER_LABEL: dead_token()}
    elsewhere = {**dead, ours.BOOT_LABEL: "another"}
    mount = Mount("/usr", "/usr", type="bind", read_only=True)
    made = [
        client.containers.create(ours.SKELETON, "true", labels=one, mounts=[mount]) for one in (alive, dead, elsewhere)
    ]
    try:
        assert ours.reap_orphans() == 1
        left = {one.id for one in client.containers.list(all=True)}
        assert [one.id in left for one in made] == [True, False, True]
    finally:
        for one in (made[0], made[2]):
            one.remove(force=True)
        client.close()


def dead_token() -> str:
    """The calling process, started at another time: as if its number had been given out again."""
    pid, started, namespace = owner.owner_token().split("-")
    return f"{pid}-{int(started) - 1}-{namespace}"


def test_folders_of_a_dead_owner_are_reaped_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of this process, one of another process namespace and a stranger's stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pid, started, namespace = dead_token().split("-")
    names = [owner.owner_token(), dead_token(), f"{pid}-{started}-{int(namespace) + 1}", "mine"]
    for name in names:
        (tmp_path / f"ranker-socket-{name}-abc").mkdir()
    assert owner.reap_folders() == 1
    assert {path.name for path in tmp_path.iterdir()} == {f"ranker-socket-{names[i]}-abc" for i in (0, 2, 3)}


def test_who_connects_in_the_servers_stead_is_hung_up_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process of the same user that is not the sandbox's is quicker than the server: it is not spoken with."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as impostor:
        listener.bind(str(path))
        listener.listen(2)
        impostor.connect(str(path))
        code = (
            f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); s.sendall(b'own'); s.recv(1)"
        )
        with running([sys.executable, "-c", code], environment={}, folder=tmp_path, log_bytes=1000) as child:
            with accept(listener, child, LIMITS, 20) as connection:
                assert connection.recv(3) == b"own"
            assert impostor.recv(1) == b""
    assert f"pid {os.getpid()}, uid {os.geteuid()}" in caplog.text


def test_a_containers_user_is_known_under_a_remap() -> None:
    """The kernel names the host's id of whoever connects: that of the container's user, moved by the engine's range."""
    from ranker.sandbox.docker import remaps_users, server_uid

    plain: dict[str, Any] = {"SecurityOptions": ["name=seccomp,profile=default"], "DockerRootDir": "/var/lib/docker"}
    options = ["name=seccomp,profile=default", "name=userns"]
    remapped = {"SecurityOptions": options, "DockerRootDir": "/var/lib/docker/231072.231072"}
    rootless = {"SecurityOptions": ["name=rootless"], "DockerRootDir": "/home/me/.local/share/docker"}
    assert [remaps_users(engine) for engine in (plain, remapped, rootless)] == [False, True, True]
    assert [server_uid(engine, 10001) for engine in (plain, remapped, rootless)] == [10001, 241073, None]
    assert not remaps_users({**plain, "SecurityOptions": None})


@pytest.mark.parametrize(
    ("wanted", "words"),
    [({"runtime": "runsc"}, "has no runtime runsc, which docker_runtime"), ({"remap": True}, "--userns-remap=default")],
)
def test_an_engine_that_is_not_as_configured_is_not_used(
    docker_engine: str, wanted: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Without gVisor, or without a remap of users, one sentence says what is missing; nothing is started instead."""
    sandbox = backend(SandboxName.DOCKER, image=IMAGE, **wanted)
    found = sandbox.available()
    if found.ok:
        pytest.skip("this machine's engine has it")
    assert words in found.reason
    with pytest.raises(MissingError, match=words), sandbox.start(EncoderSpec(tree=tmp_path, source=SOURCE), LIMITS):
        pass


def test_users_may_be_remapped(remapping_engine: str, tmp_path: Path) -> None:
    """Under --userns-remap an encoder is served as ever, and whoever connects is known by its id outside."""
    sandbox = backend(SandboxName.DOCKER, image=IMAGE, remap=True)
    with sandbox.start(EncoderSpec(tree=own_tree(tmp_path), source=SOURCE), LIMITS) as encoder:
        np.testing.assert_allclose(encoder.encode([clip(0.5)])[0], expected(clip(0.5)), atol=1e-6)
        connection = encoder._connection  # type: ignore[attr-defined]
        assert peer_of(connection).uid == REMAPPED_FROM + UID


def test_a_missing_engine_is_missing_not_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No engine behind DOCKER_HOST: `available` says so, and starting raises an error that is not the participant's."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    sandbox = backend(SandboxName.DOCKER, image=IMAGE)
    assert not sandbox.available().ok
    assert "docker.io" in sandbox.available().reason
    spec = EncoderSpec(tree=tmp_path, source=SOURCE)
    with pytest.raises(MissingError, match="no Docker engine answers"), sandbox.start(spec, LIMITS):
        pass
