"""Jobs on the machines of a Ray cluster: scheduling only, by the extra `ranker[ray]`.

A coordinator process on the database's own host (`ranker.coordinator`) claims jobs, keeps their leases and records how
they ended; Ray decides on which machine each is done. Neither this process nor a cluster's machines load what they need
not: ray is imported in the coordinator alone, which may die with its cluster and is started again.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranker.errors import InfraError, MissingError
from ranker.executors.base import run_processes
from ranker.executors.node import ASKS_PER_LEASE, Errand, Word, attempt, describe, shared_path
from ranker.executors.parcel import CHUNK_BYTES, Bring, Piece
from ranker.home import Home
from ranker.queue import Claim
from ranker.settings import ClusterSettings, Service

COORDINATOR = (sys.executable, "-m", "ranker.coordinator")
GIB = 2**30
CPUS_BESIDE_A_GPU = 2
CONNECT_TIMEOUT_S = 10.0
# How long Ray's own library waits for a head that is gone before it ends its process, which is then started again.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "20", "RAY_COLOR_PREFIX": "0"}


@dataclass(frozen=True, kw_only=True)
class Ray:
    """The executor of a cluster. `workers`: at most so many jobs at a time; None: as many as the cluster has room for.

    `command` is the coordinator, `performer` what does a job on a node (None: `ranker.perform`).
    """

    address: str = "auto"
    workers: int | None = None
    command: Sequence[str] = COORDINATOR
    performer: Sequence[str] | None = None

    def devices(self, service: Service) -> tuple[str, ...]:
        """See `Executor`. Raises MissingError without the extra, InfraError if the cluster does not answer."""
        del service
        must_be_installed()
        answer = subprocess.run(
            [*self.command, "--address", self.address, "--nodes"],
            env=dict(os.environ) | QUIET,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            lines = [line for line in answer.stderr.splitlines() if line.strip()]
            raise InfraError(lines[-1] if lines else f"asking {self.address} ended with {answer.returncode}")
        nodes = json.loads(answer.stdout.splitlines()[-1])
        return tuple(sorted({name for node in nodes for name in node["gpus"]}))

    def run(
        self,
        home: Home,
        service: Service,
        job_ids: Collection[int],
        *,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """See `Executor`. Raises MissingError without the extra."""
        if not job_ids:
            return
        must_be_installed()
        command = [*self.command, "--address", self.address]
        if self.workers is not None:
            command += ["--workers", str(self.workers)]
        if self.performer is not None:
            command += ["--performer", json.dumps(list(self.performer))]
        environment = dict(os.environ) | QUIET
        run_processes(home, service, job_ids, command=command, environments=[environment], on_tick=on_tick)


def must_be_installed() -> None:
    """Raises MissingError unless ray can be imported; does not import it."""
    if importlib.util.find_spec("ray") is None:
        raise MissingError(
            "--executor ray needs Ray, which is not installed: `pip install 'ranker[ray]'` here and on every node of "
            "the cluster, in the same version (docs/cluster.md)"
        )


class Depot:
    """An actor on the coordinator's machine, of which nodes ask the files that they lack, and how old their leases are;
    it gives nothing else. It ends with the coordinator.
    """

    def __init__(self) -> None:
        self._offered: dict[str, Path] = {}
        self._held: dict[tuple[int, int], float] = {}

    def hold(self, job: int, attempt: int) -> None:
        """The lease of this attempt was prolonged just now."""
        self._held[job, attempt] = time.monotonic()

    def let_go(self, job: int, attempt: int) -> None:
        """There is no lease of this attempt any more."""
        self._held.pop((job, attempt), None)

    def age_s(self, job: int, attempt: int) -> float | None:
        """How long ago the lease of this attempt was prolonged; None if it has none."""
        at = self._held.get((job, attempt))
        return None if at is None else time.monotonic() - at

    def offer(self, sources: Mapping[str, str]) -> None:
        """Files that may be asked for from now on, by their SHA-256."""
        self._offered.update({digest: Path(path) for digest, path in sources.items()})

    def read(self, sha256: str, offset: int) -> bytes:
        """A chunk of a file; empty at its end."""
        with self._offered[sha256].open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much of a cluster one job takes, and how many jobs fit."""

    cpus: int
    gpus: float
    jobs: int


@dataclass(kw_only=True)
class Cluster:
    """A connection of this process to a Ray cluster. Import of ray is what building one costs (about a second)."""

    settings: ClusterSettings
    ray: Any
    depot: Any
    _described: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def connect(cls, address: str, settings: ClusterSettings) -> Cluster:
        """Connect to the cluster whose head is at `address`. Raises InfraError if it does not answer as it should."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        try:
            _must_answer(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, namespace="ranker")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            why = str(error).strip().split("\n")[0]
            raise InfraError(
                f"no Ray cluster answers at {address} ({why}); start one with `ray start --head` here and "
                "`ray start --address HEAD:6379` on the others, or give another --address (docs/cluster.md)"
            ) from error
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": here, "max_concurrency": 4}
        return cls(settings=settings, ray=ray, depot=ray.remote(Depot).options(**options).remote())

    def nodes(self) -> list[dict[str, Any]]:
        """The machines that can be given jobs: what `node.describe` says of each, with its `id`, `cpus` and number of
        `gpu_slots`. Raises InfraError for one without ranker, or with another version of it.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        import ranker

        alive = {each["NodeID"]: each["Resources"] for each in self.ray.nodes() if each["Alive"]}
        asked = {
            node: self.ray.remote(describe)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote()
            for node, resources in alive.items()
            if node not in self._described and resources.get("CPU", 0) > 0
        }
        for node, answer in asked.items():
            try:
                found = self.ray.get(answer, timeout=self.settings.start_timeout_s)
            except (self.ray.exceptions.NodeDiedError, self.ray.exceptions.TaskUnschedulableError):
                continue
            except self.ray.exceptions.RayError as error:
                why = str(error).strip().split("\n")[-1]
                raise InfraError(f"node {node[:12]} of the cluster cannot run ranker: {why}") from error
            if found["version"] != ranker.__version__:
                raise InfraError(
                    f"node {found['host']} has ranker {found['version']}, and this machine {ranker.__version__}; a "
                    "score must not depend on the machine: install the same on all"
                )
            self._described[node] = found
        return [
            found | {"id": node, "cpus": alive[node].get("CPU", 0), "gpu_slots": alive[node].get("GPU", 0)}
            for node, found in self._described.items()
            if node in alive
        ]

    def room(self, service: Service, *, on_gpu: bool) -> Room:
        """What one job asks of the cluster, and for how many there is room now. Raises as `nodes`."""
        nodes = [node for node in self.nodes() if not on_gpu or node["gpu_slots"] >= 1]
        if not on_gpu:
            least = min((int(node["cpus"]) for node in nodes), default=1)
            cpus = self.settings.cpus_per_job or max(1, least // service.cpu_workers)
            return Room(cpus=cpus, gpus=0.0, jobs=sum(int(node["cpus"] // cpus) for node in nodes))
        cpus = self.settings.cpus_per_job or CPUS_BESIDE_A_GPU
        per_gpu = service.workers_per_gpu or min((_fits(node, service) for node in nodes), default=1)
        jobs = sum(min(int(node["gpu_slots"]) * per_gpu, int(node["cpus"] // cpus)) for node in nodes)
        return Room(cpus=cpus, gpus=1.0 / per_gpu, jobs=jobs)

    def start(self, errand: Errand, room: Room) -> Any:
        """Place an attempt; returns the stream of what it tells. Ray never retries it: the queue decides."""
        claim = errand.order.claim
        self.ray.get(self.depot.hold.remote(claim.job_id, claim.attempt))
        task = self.ray.remote(_attempt).options(
            num_cpus=room.cpus, num_gpus=room.gpus, max_retries=0, num_returns="streaming"
        )
        return task.remote(errand, self.depot)

    def hold(self, claim: Claim) -> None:
        """Let the node know that its lease was prolonged; not waited for."""
        self.depot.hold.remote(claim.job_id, claim.attempt)

    def let_go(self, claim: Claim) -> None:
        """Let the node know that its attempt is over; not waited for."""
        self.depot.let_go.remote(claim.job_id, claim.attempt)

    def offer(self, sources: Mapping[str, Path]) -> None:
        """Let nodes ask for these files."""
        self.ray.get(self.depot.offer.remote({digest: str(path) for digest, path in sources.items()}))

    def heard(self, streams: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of these streams on which something was told, or which have ended."""
        ready, _ = self.ray.wait(list(streams), num_returns=len(streams), timeout=timeout_s)
        return list(ready)

    def next(self, stream: Any) -> Word | None:
        """What is told next; None at the end. Raises InfraError if the node, or the process there, has died."""
        try:
            word: Word = self.ray.get(next(stream))
        except StopIteration:
            return None
        except self.ray.exceptions.RayError as error:
            raise InfraError(_died(error)) from error
        return word

    def end(self, stream: Any, *, by_force: bool = False) -> None:
        """Interrupt an attempt, whatever it does."""
        self.ray.cancel(stream, force=by_force)


def _must_answer(address: str) -> None:
    """Raises OSError if nobody listens there: Ray's own library would wait for a while, and then end this process."""
    if address == "auto":
        last = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"  # where `ray start` notes it for `auto`
        address = os.environ.get("RAY_ADDRESS") or (last.read_text(encoding="utf-8").strip() if last.is_file() else "")
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _attempt(errand: Errand, depot: Any) -> Iterator[Word]:
    """An attempt, as a task of Ray."""
    import ray

    claim, patience_s = errand.order.claim, errand.order.service.lease_s / ASKS_PER_LEASE

    def ask() -> float | None:
        age: float | None = ray.get(depot.age_s.remote(claim.job_id, claim.attempt), timeout=patience_s)
        return age

    yield from attempt(errand, _bring(errand, depot), ray.get_runtime_context().get_node_id(), ask)


def _bring(errand: Errand, depot: Any) -> Bring:
    """Where files come from: the folder that all see, or the coordinator's depot; the hidden file from there always."""
    import ray

    def from_depot(piece: Piece) -> Iterator[bytes]:
        offset = 0
        while offset < piece.size:
            chunk = ray.get(depot.read.remote(piece.sha256, offset))
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    def from_folder(piece: Piece) -> Iterator[bytes]:
        assert errand.shared is not None
        with shared_path(errand.shared, piece).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    return lambda piece: (from_depot if errand.shared is None or piece == errand.hidden else from_folder)(piece)


def _fits(node: Mapping[str, Any], service: Service) -> int:
    """How many jobs a GPU of this node has memory for."""
    return max(1, int((node["gpu_bytes"] or 0) // (service.gpu_job_memory_gb * GIB)))


def _died(error: Exception) -> str:
    text = " ".join(line.strip() for line in str(error).strip().splitlines())
    return f"{type(error).__name__} on the cluster: {text[:300]}"
