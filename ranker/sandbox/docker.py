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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from ranker.errors import MissingError
from ranker.sandbox.base import Availability
from ranker.sandbox.client import Confined
from ranker.sandbox.environment import (
    CERTIFICATES,
    OPEN_FILES,
    UID,
    Launch,
    covered,
    python_folders,
)
from ranker.sandbox.faults import Ending, judge_engine, plain
from ranker.sandbox.gpu import GpuWatch
from ranker.sandbox.logfile import BoundedLog
from ranker.sandbox.memory import MemorySource, PeakMemory, group_peak
from ranker.sandbox.owner import home_mark, is_dead, owner_token
from ranker.sandbox.seccomp import profile_text
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.wire import Peer
from ranker.types import SandboxName

SKELETON = "ranker-skeleton:1"
BOOT_LABEL = "org.ranker.boot"
OWNER_LABEL = "org.ranker.owner"
HOME_LABEL = "org.ranker.home"
NATURAL_DEATH_S = 5
ENGINE_TIMEOUT_S = 60.0
GPU_OPEN_FILES = 4096
DEFAULT_HOST = "unix:///var/run/docker.sock"
Answer = TypeVar("Answer")


class DockerSandbox(ServedSandbox):
    """The first choice. `image` is used if the engine has it, the skeleton otherwise.

    `runtime` is what the engine is to start containers with (None: its default); with `remap` an engine that does not
    map the containers' users to others is not good enough.
    """

    name = SandboxName.DOCKER

    def __init__(
        self, *, image: str, hidden: Path | None = None, runtime: str | None = None, remap: bool = False
    ) -> None:
        super().__init__(hidden=hidden)
        self.image = image
        self.runtime = runtime
        self.remap = remap

    def available(self) -> Availability:
        """Ask the engine for its version, and whether it is as configured; never raises."""
        try:
            with _engine(timeout_s=10) as client:
                version = str(client.version()["Version"])
                self._require(client.info())
                with contextlib.suppress(ImageNotFound):
                    client.images.get(self.image)
                    return Availability(ok=True, version=f"{version}, image {self.image}")
                return Availability(
                    ok=True, version=f"{version}, this machine's Python (there is no image {self.image})"
                )
        except MissingError as error:
            return Availability(ok=False, reason=str(error))
        except requests.Timeout as error:
            return Availability(ok=False, busy=True, reason=f"the Docker engine is slow: {plain(str(error), 200)}")
        except (DockerException, requests.RequestException, KeyError) as error:
            return Availability(ok=False, reason=f"the Docker engine fails: {plain(str(error), 200)}")

    def _require(self, engine: dict[str, Any]) -> None:
        """Raises MissingError where the engine is not what the configuration asks for."""
        runtimes = engine["Runtimes"]
        if self.runtime is not None and self.runtime not in runtimes:
            raise MissingError(
                f"the Docker engine has no runtime {self.runtime}, which docker_runtime in configs/service.yaml asks "
                f"for; it has {', '.join(sorted(runtimes))}: install {self.runtime} and register it in daemon.json"
            )
        if self.remap and not remaps_users(engine):
            raise MissingError(
                "the Docker engine does not remap users, which docker_remap in configs/service.yaml asks for; "
                'start dockerd with --userns-remap=default, or "userns-remap": "default" in daemon.json'
            )

    def gaps(self) -> tuple[str, ...]:
        """See `ServedSandbox.gaps`."""
        with _engine(timeout_s=5) as client:
            return engine_gaps(_asked(client.info))

    def software(self) -> str:
        """See `ServedSandbox.software`: the image, if the engine has it."""
        with _engine() as client:
            if _asked(lambda: _has(client, self.image)):
                return str(_asked(lambda: client.images.get(self.image)).id)
        return super().software()

    def reap(self) -> int:
        """See `ServedSandbox.reap`."""
        return super().reap() + reap_orphans()

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Confined]:
        """Start the server in a container of its own, removed at the end."""
        with _engine() as client:
            engine = _asked(client.info)
            self._require(engine)
            has_image = _asked(lambda: _has(client, self.image))
            if not has_image:
                _asked(lambda: _import_skeleton(client))
            options = _options(launch, own_python=has_image, cpus=int(engine["NCPU"]))
            if self.runtime is not None:
                options["runtime"] = self.runtime
            command = launch.command("python3" if has_image else sys.executable)
            container = _asked(
                lambda: client.containers.create(self.image if has_image else SKELETON, entrypoint=command, **options)
            )
            try:
                _asked(container.start)
                # gVisor's own process connects in the container's stead, as a user of gVisor's choice.
                uid = None if self.runtime == "runsc" else server_uid(engine, int(options["user"].split(":")[0]))
                yield from _watched(_Container(container, launch.limits.log_kb, uid), launch)
            finally:
                _keep_log(container, launch)
                _remove(container)


def _watched(container: _Container, launch: Launch) -> Iterator[Confined]:
    """The container; with its GPU memory watched, if it was handed a GPU."""
    if launch.gpu is None:
        yield container
        return
    limit_bytes = int(launch.limits.gpu_memory_gb * 2**30)
    container.watch = GpuWatch(launch.gpu, limit_bytes=limit_bytes, is_ours=container.holds, end=container.kill)
    with container.watch.watching():
        yield container


class _Container:
    """A started container. Implements `client.Confined`."""

    def __init__(self, container: Any, log_kb: int, uid: int | None) -> None:
        """`uid`: who the server is on the host; None where that is not known."""
        self._container = container
        self._log_kb = log_kb
        self._uid = uid
        self.watch: GpuWatch | None = None

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
            self.kill()
            with contextlib.suppress(requests.RequestException, DockerException):
                self._container.wait(timeout=ENGINE_TIMEOUT_S)
        _asked(self._container.reload)
        state = self._container.attrs["State"]
        log = _asked(lambda: self._container.logs(tail=50))[-self._log_kb * 1024 :]
        return Ending(
            exit_code=state["ExitCode"],
            killed_by_us=killed,
            out_of_memory=bool(state["OOMKilled"]),
            out_of_gpu_memory=self.watch is not None and self.watch.exceeded,
            log=log.decode("utf-8", "replace"),
        )

    def kill(self) -> None:
        """End it now, unless it has ended by itself meanwhile."""
        with contextlib.suppress(requests.RequestException, DockerException):
            self._container.kill()

    def gpu_peak(self) -> int | None:
        """As the driver told it; None without a GPU."""
        return None if self.watch is None else self.watch.peak_bytes

    def holds(self, pid: int) -> bool:
        """Whether a process of this machine is in its control group. Raises OSError if it cannot be seen."""
        return self._container.id in Path(f"/proc/{pid}/cgroup").read_text()

    def owns(self, peer: Peer) -> bool:
        """Whether it is the container's user and, where we can see the process, in the container's control group."""
        if self._uid not in {None, peer.uid}:
            return False
        try:
            return self.holds(peer.pid)
        except OSError:  # the engine's processes are another machine's, or hidden from us
            return self._uid is not None

    def peak_memory(self) -> PeakMemory | None:
        """As the engine counts it (cgroup v1), or as its control group does where that can be seen from here."""
        with contextlib.suppress(requests.RequestException, DockerException, KeyError):
            used = self._container.stats(stream=False, one_shot=True)["memory_stats"]
            if "max_usage" in used:
                return PeakMemory(size_bytes=int(used["max_usage"]), source=MemorySource.GROUP)
            self._container.reload()
            return group_peak(_group_folders(self._container.attrs["State"]["Pid"], self._container.id))
        return None


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """How an engine runs containers."""

    default_runtime: str
    remaps_users: bool


def engine_facts() -> EngineFacts | None:
    """Of the engine that DOCKER_HOST names; None if none answers."""
    try:
        with _engine(timeout_s=2) as client:
            found = client.info()
    except (MissingError, DockerException, requests.RequestException):
        return None
    return EngineFacts(default_runtime=found["DefaultRuntime"], remaps_users=remaps_users(found))


_SWITCHES = {
    "MemoryLimit": "memory_gb does not hold: the kernel's memory controller is off",
    "SwapLimit": "memory_gb does not count swap: start the kernel with swapaccount=1, or switch swap off",
    "PidsLimit": "pids does not hold: the kernel's pids controller is off",
    "CpuCfsQuota": "cpus does not hold: the kernel has no CPU quota",
}


def engine_gaps(engine: dict[str, Any]) -> tuple[str, ...]:
    """What an engine cannot promise, by what `docker info` says."""
    found = [words for switch, words in _SWITCHES.items() if not engine[switch]]
    if not any(option.startswith("name=seccomp") for option in engine["SecurityOptions"] or []):
        found.append("system calls are not filtered: the engine was built, or the kernel is, without seccomp")
    return tuple(found)


def remaps_users(engine: dict[str, Any]) -> bool:
    """Whether root in a container is somebody else outside, by what `docker info` says."""
    options = engine["SecurityOptions"] or []
    return any(option.startswith(("name=userns", "name=rootless")) for option in options)


def server_uid(engine: dict[str, Any], user: int) -> int | None:
    """The host's id for what is `user` in a container; None where an engine does not tell.

    An engine that remaps users (not one without root) keeps its files in a folder that is called after the first ids
    of its range: /var/lib/docker/100000.100000.
    """
    if not remaps_users(engine):
        return user
    first, _, group = Path(engine["DockerRootDir"]).name.partition(".")
    return int(first) + user if first.isdecimal() and group.isdecimal() else None


def _group_folders(pid: int, container_id: str) -> list[Path]:
    """The container's control group under cgroup v2; nothing where the engine counts processes elsewhere than we do."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            controllers, path = line.split(":", 2)[1:]
            if not controllers and container_id in path:
                return [Path("/sys/fs/cgroup") / path.lstrip("/")]
    return []


def _keep_log(container: Any, launch: Launch) -> None:
    """The engine holds it as long as there is the container, and bounds it."""
    if launch.log_file is not None:
        with contextlib.suppress(requests.RequestException, DockerException):
            BoundedLog(launch.log_file, launch.limits.log_kb * 1024).write(container.logs())


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
    mounts = [_bind(bind.source, bind.target, writable=bind.writable) for bind in launch.binds()]
    # CUDA opens more files, and what compiles kernels runs them from /tmp.
    files, execute = (GPU_OPEN_FILES, "exec") if launch.gpu is not None else (OPEN_FILES, "noexec")
    tmpfs = {"/tmp": f"rw,{execute},nosuid,nodev,size={limits.scratch_mb}m"}  # noqa: S108
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
        if launch.network is not None and Path(CERTIFICATES).exists():
            mounts.append(_bind(Path(CERTIFICATES), CERTIFICATES))
        tmpfs |= {str(folder): "ro,size=4k" for folder in covered(folders, launch.hidden)}
    return {
        "environment": launch.environment() if not own_python else _image_environment(launch),
        "working_dir": launch.folder(),
        "user": _user(launch),
        "hostname": "encoder",
        "network_mode": "none",
        "ipc_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges", f"seccomp={profile_text(internet=launch.network is not None)}"],
        "pids_limit": limits.pids,
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(min(limits.cpus, cpus) * 1e9),
        "mounts": mounts,
        "tmpfs": tmpfs,
        "ulimits": [Ulimit(name="nofile", soft=files, hard=files), Ulimit(name="core", soft=0, hard=0)],
        "log_config": LogConfig(type="json-file", config={"max-size": f"{limits.log_kb}k", "max-file": "1"}),
        "labels": {BOOT_LABEL: _boot(), OWNER_LABEL: owner_token(), HOME_LABEL: home_mark(launch.hidden)},
        "stdin_open": False,
        "device_requests": _device_requests(launch.gpu),
    }


def _device_requests(gpu: str | None) -> list[DeviceRequest]:
    """One GPU by its UUID, through the NVIDIA container toolkit; a number could mean another one tomorrow."""
    return [] if gpu is None else [DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])]


def _image_environment(launch: Launch) -> dict[str, str]:
    """An image keeps its own PATH."""
    return {name: value for name, value in launch.environment().items() if name != "PATH"}


def _user(launch: Launch) -> str:
    """Nobody of this machine; but where files are to come out, and we are not root, ourselves: else they would not be
    ours to move.
    """
    if launch.network is not None and os.geteuid() != 0:
        return f"{os.geteuid()}:{os.getegid()}"
    return f"{UID}:{UID}"


def _bind(source: Path, target: str, *, writable: bool = False) -> Mount:
    return Mount(target=target, source=str(source), type="bind", read_only=not writable)


def _boot() -> str:
    """An engine may serve several machines, or have served this one before it was started anew."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def reap_orphans() -> int:
    """Remove this machine's encoder containers whose owner is dead; how many there were. Raises as `launch` does."""
    with _engine() as client:
        found = _dead_containers(client, None)
        for container in found:
            _remove(container)
        return len(found)


def dead_containers(home: Path) -> list[str]:
    """Ids of the containers that dead processes made for this home. Raises MissingError where no engine answers."""
    with _engine(timeout_s=10) as client:
        return [container.id for container in _dead_containers(client, home)]


def remove_container(home: Path, container_id: str) -> bool:
    """Remove one of `dead_containers`; False if it is none of them (any more). Raises as `launch` does."""
    with _engine() as client:
        for container in _dead_containers(client, home):
            if container.id == container_id:
                _remove(container)
                return True
    return False


def _dead_containers(client: DockerClient, home: Path | None) -> list[Any]:
    wanted = [f"{BOOT_LABEL}={_boot()}"] + ([] if home is None else [f"{HOME_LABEL}={home_mark(home)}"])
    found = _asked(lambda: client.containers.list(all=True, filters={"label": wanted}))
    return [container for container in found if is_dead(container.labels[OWNER_LABEL])]
