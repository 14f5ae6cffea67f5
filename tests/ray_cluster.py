"""A real Ray cluster on this machine for tests: a head that does no jobs, and two nodes with a CPU each.

Ray's processes belong to this test process alone; `ray stop`, which ends everybody's, is never called. The head keeps
its port, so that a restarted one is found where the first was.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 80 * 2**20  # the least that Ray accepts, about


class TestCluster:
    """The cluster, and what can happen to it."""

    __test__ = False

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._cluster: Any = None
        self.nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray.cluster_utils import Cluster

            head = {"num_cpus": 0, "gcs_server_port": self._port, "include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=head | {"object_store_memory": STORE_BYTES})
            self.complete()

    def complete(self) -> None:
        """Bring it to two living nodes again."""
        while len(self.nodes) < 2:
            self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def kill(self, node_id: str) -> None:
        """Power off one node: no process of it gets a word in."""
        (node,) = [node for node in self.nodes if node.node_id == node_id]
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_everything(self) -> None:
        """Power off the head, and with it, as Ray is without a second head, the nodes."""
        for node in [*self.nodes, self._cluster.head_node]:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self.nodes = []

    def shutdown(self) -> None:
        if self._cluster is not None:
            self._cluster.shutdown()
        self.nodes = []


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[TestCluster]:
    cluster = TestCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster(ray_cluster: TestCluster) -> TestCluster:
    """The cluster, with both of its nodes."""
    ray_cluster.complete()
    return ray_cluster


def node_folder(root: Path) -> Path:
    """Where nodes keep files: each has its own, as if it were a machine of its own."""
    return root / "nodes" / "{node}"
