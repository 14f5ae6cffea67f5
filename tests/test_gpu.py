"""Handing a GPU to an encoder, as far as it can be tried without one: what Docker is asked for, and the watch over its
memory, with a program in the driver's place.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ranker.sandbox import gpu
from ranker.sandbox.docker import GPU_OPEN_FILES, _options
from ranker.sandbox.environment import OPEN_FILES, Launch
from ranker.sandbox.gpu import CONTEXT_BYTES, GpuWatch, used_bytes
from ranker.settings import Limits

UUID = "GPU-8f6d1f7e-1b1c-7d5c-0000-5b1f4c1a2b3c"
GIB = 2**30
OURS = {101, 102}.__contains__


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file whose lines stand for what the driver says of the GPU; `nvidia-smi` fails for any other GPU or query."""
    answer = tmp_path / "answer"
    query = "--query-compute-apps=pid,used_gpu_memory --format=csv,noheader,nounits"
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$*" = "--id={UUID} {query}" ] && exec cat {answer}\nexit 9\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return answer


def launch(uuid: str | None) -> Launch:
    here = Path(__file__).parent
    return Launch(tree=here, root=".", socket=here / "s", seed=1, threads=1, limits=Limits(gpu_memory_gb=16), gpu=uuid)


def test_docker_is_asked_for_one_gpu_by_its_uuid() -> None:
    """An index can mean another card after a reboot; without a GPU none is asked for, and limits stay a CPU's."""
    with_gpu, without = (_options(launch(uuid), own_python=True, cpus=2) for uuid in (UUID, None))
    (request,) = with_gpu["device_requests"]
    assert (request["DeviceIDs"], request["Capabilities"]) == ([UUID], [["gpu"]])
    assert without["device_requests"] == []
    files = [next(limit.soft for limit in found["ulimits"] if limit.name == "nofile") for found in (with_gpu, without)]
    assert files == [GPU_OPEN_FILES, OPEN_FILES]
    assert ["noexec" in found["tmpfs"]["/tmp"] for found in (with_gpu, without)] == [False, True]


def test_the_server_is_told_its_share_of_the_gpu() -> None:
    """The fraction is set inside, from bytes; a server without a GPU is told nothing."""
    given, none = (launch(uuid).command("python3") for uuid in (UUID, None))
    assert given[given.index("--gpu-memory-bytes") + 1] == str(16 * GIB)
    assert "--gpu-memory-bytes" not in none


def test_memory_is_that_of_our_processes_only(driver: Path) -> None:
    """The trainer has memory on the same card: only processes of the sandbox count, all of them."""
    driver.write_text("101, 1024\n7, 30000\n102, 512\n")
    assert used_bytes(UUID, OURS) == 1536 * 2**20
    driver.write_text("")
    assert used_bytes(UUID, OURS) == 0


@pytest.mark.parametrize("said", ["101, [N/A]\n", "No devices were found\n"])
def test_a_driver_that_does_not_tell_is_no_verdict(driver: Path, said: str) -> None:
    """What cannot be read is neither nothing nor too much."""
    driver.write_text(said)
    assert used_bytes(UUID, OURS) is None
    assert used_bytes("GPU-another", OURS) is None


def test_the_watch_ends_who_takes_too_much(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, in its own time; CUDA's own context is not counted against the encoder, and the peak is kept."""
    monkeypatch.setattr(gpu, "POLL_S", 0.01)
    ended = threading.Event()
    watch = GpuWatch(UUID, limit_bytes=16 * GIB, is_ours=OURS, end=ended.set)
    driver.write_text(f"101, {(16 * GIB + CONTEXT_BYTES) // 2**20}\n")
    watch.look()
    assert (watch.exceeded, ended.is_set(), watch.peak_bytes) == (False, False, 17 * GIB)
    driver.write_text(f"101, {(16 * GIB + CONTEXT_BYTES) // 2**20 + 1}\n")
    with watch.watching():
        assert ended.wait(20)
    assert watch.exceeded
    driver.write_text("101, 1\n")
    watch.look()
    assert watch.peak_bytes == 17 * GIB + 2**20
