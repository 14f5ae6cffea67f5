"""Fixtures that give tests a real Docker engine and a real bubblewrap: those of the machine, else a private engine of
our own.

The private engine needs root and the package docker.io. One SIGKILL to its first process removes it with all that it
started. Where CI is set, a missing engine fails the test; elsewhere it skips, saying why.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.sandbox.docker import DockerSandbox

START_TIMEOUT_S = 60
REMAPPED_FROM = 231_072
TEST_IMAGE = "ranker-encoder:latest"


def missing(what: str) -> None:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; in CI the real thing must be there", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[str]:
    """The address of an engine that answers, which DOCKER_HOST names while the fixture lives."""
    sandbox = DockerSandbox(image=TEST_IMAGE)
    if sandbox.available().ok:
        yield os.environ.get("DOCKER_HOST", "default")
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing(f"no Docker engine, and none can be started: {sandbox.available().reason}")
    with private_engine() as address, docker_host(address):
        yield address


@pytest.fixture
def remapping_engine() -> Iterator[str]:
    """An engine of our own that maps the users of containers to others (dockerd --userns-remap)."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("an engine that remaps users can be started by root alone, and needs dockerd")
    with private_engine(first_id=REMAPPED_FROM) as address, docker_host(address):
        yield address


@pytest.fixture(scope="session")
def bubblewrap() -> Bubblewrap:
    """A bubblewrap that works here."""
    sandbox = Bubblewrap()
    availability = sandbox.available()
    if not availability.ok:
        missing(availability.reason)
    return sandbox


@contextlib.contextmanager
def docker_host(address: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        yield


@contextlib.contextmanager
def private_engine(first_id: int | None = None) -> Iterator[str]:
    """With `first_id`, users of containers are so many ids further up outside."""
    parent = f"ranker-test-{uuid.uuid4().hex[:12]}"
    folder = Path(tempfile.mkdtemp(prefix="ranker-engine-"))
    address = f"unix://{folder}/docker.sock"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave", "--pid", "--fork"]
    command += ["--kill-child=SIGKILL", "--mount-proc", "--net"]
    if first_id is not None:
        folder.chmod(0o711)  # the containers' root, nobody outside, has its files there
        (folder / "ids").write_text(f"daemon:{first_id}:65536\n")
        script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@" --userns-remap=daemon'
        command += ["sh", "-c", script, f"{folder}/ids"]
    command += ["dockerd", "--host", address]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"]
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    command += ["--cgroup-parent", f"/{parent}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait(process, address, folder / "log")
        yield address
    finally:
        process.kill()
        process.wait()
        for place in [*Path("/sys/fs/cgroup").glob(f"*/{parent}"), Path("/sys/fs/cgroup") / parent]:
            with contextlib.suppress(OSError):
                place.rmdir()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with docker_host(address):
        while time.monotonic() < deadline and process.poll() is None:
            if DockerSandbox(image=TEST_IMAGE).available().ok:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    missing(f"a private Docker engine did not start: {log.read_text(errors='replace')[-600:]}")
