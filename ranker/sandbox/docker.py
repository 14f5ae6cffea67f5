"""Confinement by Docker: a container without network, rights or a writable root, under the engine's limits and our
seccomp profile.

With the configured image (docker/Dockerfile) the container has a Python of its own. Where that image was not built, a
skeleton of empty folders is imported, and this machine's /usr and Python environment are bound into it, read-only.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests
from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound
from docker.types import LogConfig, Mount, Ulimit

from ranker.errors import MissingError
from ranker.sandbox.base import Availability
from ranker.sandbox.client import Confined
from ranker.sandbox.environment import (
    OPEN_FILES,
    SERVER,
    SOCKET,
    SUBMISSION,
    UID,
    Launch,
    covered,
    python_folders,
    server_file,
)
from ranker.sandbox.faults import Ending, judge_engine, plain
from ranker.sandbox.memory import MemorySource, PeakMemory, group_peak
from ranker.sandbox.owner import is_dead, owner_token
from ranker.sandbox.seccomp import profile_path
from ranker.sandbox.serving import ServedSandbox
from ranker.types import SandboxName

SKELETON = "ranker-skeleton:1"
BOOT_LABEL = "org.ranker.boot"
OWNER_LABEL = "org.ranker.owner"
NATURAL_DEATH_S = 5
ENGINE_TIMEOUT_S = 60.0
DEFAULT_HOST = "unix:///var/run/docker.sock"
Answer = TypeVar("Answer")


class DockerSandbox(ServedSandbox):
    """The first choice. `image` is used if the engine has it, the skeleton otherwise."""

    name = SandboxName.DOCKER

    def __init__(self, *, image: str, hidden: Path | None = None) -> None:
        super().__init__(hidden=hidden)
        self.image = image

    def available(self) -> Availability:
        """Ask the engine for its version; never raises."""
        try:
            with _engine(timeout_s=2) as client:
                version = str(client.version()["Version"])
                with contextlib.suppress(ImageNotFound):
                    client.images.get(self.image)
                    return Availability(ok=True, version=f"{version}, image {self.image}")
                return Availability(
                    ok=True, version=f"{version}, this machine's Python (there is no image {self.image})"
                )
        except MissingError as error:
            return Availability(ok=False, reason=str(error))
        except (DockerException, requests.RequestException, KeyError) as error:
            return Availability(ok=False, reason=f"the Docker engine fails: {plain(str(error), 200)}")

    def reap(self) -> int:
        """See `ServedSandbox.reap`."""
        return super().reap() + reap_orphans()

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Confined]:
        """Start the server in a container of its own, removed at the end."""
        with _engine() as client:
            has_image = _asked(lambda: _has(client, self.image))
            if not has_image:
                _asked(lambda: _import_skeleton(client))
            options = _options(launch, own_python=has_image, cpus=int(_asked(client.info)["NCPU"]))
            command = ["python3" if has_image else sys.executable, "-P", "-s", SERVER]
            command += launch.arguments(tree=SUBMISSION, socket=SOCKET)
            container = _asked(
                lambda: client.containers.create(self.image if has_image else SKELETON, entrypoint=command, **options)
            )
            try:
                _asked(container.start)
                yield _Container(container, launch.limits.log_kb)
            finally:
                _remove(container)


class _Container:
    """A started container. Implements `client.Confined`."""

    def __init__(self, container: Any, log_kb: int) -> None:
        self._container = container
        self._log_kb = log_kb

    def alive(self) -> bool:
        """Whether it still runs."""
        _asked(self._container.reload)
        return bool(self._container.status == "running")

    def end(self, *, kill: bool) -> Ending:
        """Let it finish dying, or kill it, and say how it ended."""
        killed = kill
        if not kill:
            try:
                self._container.wait(timeout=NATURAL_DEATH_S)
            except (requests.RequestException, DockerException):
                killed = True
        if killed:
            with contextlib.suppress(DockerException):  # it ended by itself meanwhile
                self._container.kill()
            with contextlib.suppress(requests.RequestException, DockerException):
                self._container.wait(timeout=ENGINE_TIMEOUT_S)
        _asked(self._container.reload)
        state = self._container.attrs["State"]
        log = _asked(lambda: self._container.logs(tail=50))[-self._log_kb * 1024 :]
        return Ending(
            exit_code=state["ExitCode"],
            killed_by_us=killed,
            out_of_memory=bool(state["OOMKilled"]),
            log=log.decode("utf-8", "replace"),
        )

    def peak_memory(self) -> PeakMemory | None:
        """As the engine counts it (cgroup v1), or as its control group does where that can be seen from here."""
        with contextlib.suppress(requests.RequestException, DockerException, KeyError):
            used = self._container.stats(stream=False, one_shot=True)["memory_stats"]
            if "max_usage" in used:
                return PeakMemory(size_bytes=int(used["max_usage"]), source=MemorySource.GROUP)
            self._container.reload()
            return group_peak(_group_folders(self._container.attrs["State"]["Pid"], self._container.id))
        return None


def _group_folders(pid: int, container_id: str) -> list[Path]:
    """The container's control group under cgroup v2; nothing where the engine counts processes elsewhere than we do."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            controllers, path = line.split(":", 2)[1:]
            if not controllers and container_id in path:
                return [Path("/sys/fs/cgroup") / path.lstrip("/")]
    return []


def _remove(container: Any) -> None:
    """Kill and remove; where the engine cannot, `reap_orphans` will."""
    with contextlib.suppress(requests.RequestException, DockerException):
        container.remove(force=True, v=True)


@contextmanager
def _engine(timeout_s: float = ENGINE_TIMEOUT_S) -> Iterator[DockerClient]:
    """A client of the engine that DOCKER_HOST names. Raises MissingError if none answers."""
    try:
        _knock(os.environ.get("DOCKER_HOST") or DEFAULT_HOST)
        client = DockerClient.from_env(timeout=timeout_s)
    except (OSError, DockerException) as error:
        reason = f"no Docker engine answers ({plain(str(error), 200)}); install and start docker.io, or set DOCKER_HOST"
        raise MissingError(reason) from None
    with contextlib.closing(client):
        yield client


def _knock(host: str) -> None:
    """Connect and hang up, where the engine is a unix socket: the SDK leaks one if nobody is there. Raises OSError."""
    scheme, _, path = host.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(path)


def _asked(question: Callable[[], Answer]) -> Answer:
    """The engine's answer; what it refuses becomes an error of ours. Raises InfraError, OrganizerError or
    MissingError.
    """
    try:
        return question()
    except (DockerException, requests.RequestException) as error:
        raise judge_engine(str(error)) from error


def _has(client: DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _import_skeleton(client: DockerClient) -> None:
    """An image of empty folders, for this machine's /usr and Python to be bound into."""
    if _has(client, SKELETON):
        return
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode in [(n, 0o755) for n in ("usr", "proc", "sys", "dev", "etc", "submission", "server")] + [
            ("tmp", 0o1777)
        ]:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            if (Path("/") / name).is_symlink():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, str((Path("/") / name).readlink())
                archive.addfile(link)
    repository, _, tag = SKELETON.partition(":")
    client.api.import_image_from_data(buffer.getvalue(), repository=repository, tag=tag)


def _options(launch: Launch, *, own_python: bool, cpus: int) -> dict[str, Any]:
    limits = launch.limits
    memory = int(limits.memory_gb * 2**30)
    mounts = [_bind(launch.tree, SUBMISSION), _bind(server_file(), SERVER), _bind(launch.socket, SOCKET)]
    tmpfs = {"/tmp": f"rw,noexec,nosuid,nodev,size={limits.scratch_mb}m"}  # noqa: S108
    if not own_python:
        folders = python_folders()
        folders += [
            path
            for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64"))
            if path.is_dir() and not path.is_symlink()
        ]
        mounts += [_bind(folder, str(folder)) for folder in folders]
        if Path("/etc/ld.so.cache").exists():
            mounts.append(_bind(Path("/etc/ld.so.cache"), "/etc/ld.so.cache"))
        tmpfs |= {str(folder): "ro,size=4k" for folder in covered(folders, launch.hidden)}
    return {
        "environment": launch.environment() if not own_python else _image_environment(launch),
        "working_dir": SUBMISSION,
        "user": f"{UID}:{UID}",
        "hostname": "encoder",
        "network_mode": "none",
        "ipc_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={profile_path().read_text(encoding='utf-8')}"],
        "pids_limit": limits.pids,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(min(limits.cpus, cpus) * 1e9),
        "mounts": mounts,
        "tmpfs": tmpfs,
        "ulimits": [Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES), Ulimit(name="core", soft=0, hard=0)],
        "log_config": LogConfig(type="json-file", config={"max-size": f"{limits.log_kb}k", "max-file": "1"}),
        "labels": {BOOT_LABEL: _boot(), OWNER_LABEL: owner_token()},
        "stdin_open": False,
    }


def _image_environment(launch: Launch) -> dict[str, str]:
    """An image keeps its own PATH."""
    return {name: value for name, value in launch.environment().items() if name != "PATH"}


def _bind(source: Path, target: str) -> Mount:
    return Mount(target=target, source=str(source), type="bind", read_only=True)


def _boot() -> str:
    """An engine may serve several machines, or have served this one before it was started anew."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def reap_orphans() -> int:
    """Remove this machine's encoder containers whose owner is dead; how many there were. Raises as `launch` does."""
    count = 0
    with _engine() as client:
        found = _asked(lambda: client.containers.list(all=True, filters={"label": f"{BOOT_LABEL}={_boot()}"}))
        for container in found:
            if is_dead(container.labels[OWNER_LABEL]):
                _remove(container)
                count += 1
    return count
