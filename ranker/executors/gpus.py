"""The GPUs of this machine as its driver tells of them: names, UUIDs, MIG parts, and how much memory is free."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import InfraError

MIB = 2**20
DRIVER_TIMEOUT_S = 30
# Lines of `nvidia-smi -L`: `GPU 0: NVIDIA H100 (UUID: GPU-1..)`, and below a GPU that is divided into MIG instances
# `  MIG 1g.10gb     Device  0: (UUID: MIG-2..)` (NVIDIA Multi-Instance GPU User Guide, "CUDA visible devices").
_WHOLE = re.compile(r"^GPU\s+\d+: .* \(UUID: (\S+)\)$")
_MIG = re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-\S+)\)$")
_MIG_GB = re.compile(r"\.(\d+)gb")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, or a MIG instance of one, as the driver names it. `uuid` is what CUDA_VISIBLE_DEVICES takes; the name of
    an instance is the one that torch gives it.
    """

    uuid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a GPU's memory: what it has, and what no process holds now."""

    total: int
    free: int


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that jobs of this process can use: `driver_gpus`, if the installed torch can use any."""
    return driver_gpus() if torch_has_cuda() else ()


def own_gpu() -> str | None:
    """The UUID of the GPU that this process's encoders are handed: the first that it can use itself."""
    return next((gpu.uuid for gpu in gpus()), None)


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build with CUDA, judged by its libraries; torch is not loaded."""
    found = importlib.util.find_spec("torch")
    folders = found.submodule_search_locations if found is not None else None
    return any((Path(folder) / "lib" / "libtorch_cuda.so").is_file() for folder in folders or ())


def driver_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order; empty without a driver.

    Each instance of a GPU that is divided by MIG counts as one. Raises InfraError if the driver is there and does not
    answer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    answer = _ask("--query-gpu=uuid,name", "--format=csv,noheader")
    if answer is None:
        return ()
    found = [Gpu(uuid=uuid, name=name) for uuid, name in (line.split(", ", 1) for line in answer)]
    instances = _instances(found)
    parts = [instances.get(gpu.uuid) or [gpu] for gpu in found]
    if visible is None:
        return tuple(part for each in parts for part in each)
    # CUDA reads the list up to the first entry that names no device; of a divided GPU it takes the first instance.
    chosen = []
    for entry in (word.strip() for word in visible.split(",")):
        named = [*((str(index), gpu.uuid, each[0]) for index, (gpu, each) in enumerate(zip(found, parts, strict=True)))]
        named += [("", part.uuid, part) for each in instances.values() for part in each]
        match = [part for index, uuid, part in named if entry and (entry == index or uuid.startswith(entry))]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return tuple(chosen)


def memory(devices: Sequence[Gpu]) -> dict[str, Memory]:
    """Of each of these GPUs whose memory the driver tells, by UUID. A MIG instance counts as free: nobody else has it.

    Raises InfraError if the driver does not answer.
    """
    answer = _ask("--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits") or []
    told = {}
    for line in answer:
        uuid, *numbers = line.split(", ")
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):  # some answer [N/A]
            total, free = (int(number) * MIB for number in numbers)
            told[uuid] = Memory(total=total, free=free)
    for gpu in devices:
        size = _MIG_GB.search(gpu.name) if gpu.uuid.startswith("MIG-") else None
        if size is not None:
            told[gpu.uuid] = Memory(total=int(size[1]) * 10**9, free=int(size[1]) * 10**9)
    return {gpu.uuid: told[gpu.uuid] for gpu in devices if gpu.uuid in told}


def _instances(found: Sequence[Gpu]) -> dict[str, list[Gpu]]:
    """The MIG instances of those GPUs that are divided, by the UUID of the whole."""
    names, whole = {gpu.uuid: gpu.name for gpu in found}, ""
    instances: dict[str, list[Gpu]] = {}
    for line in _ask("-L") or []:
        if match := _WHOLE.match(line):
            whole = match[1]
        elif (match := _MIG.match(line)) and whole in names:
            instances.setdefault(whole, []).append(Gpu(uuid=match[2], name=f"{names[whole]} MIG {match[1]}"))
    return instances


def _ask(*arguments: str) -> list[str] | None:
    """The lines that nvidia-smi answers with; None where it is not there, or says that there is no GPU."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            f"nvidia-smi did not answer within {DRIVER_TIMEOUT_S} s; look at the driver, or set CUDA_VISIBLE_DEVICES=''"
        ) from error
    return answer.stdout.splitlines() if answer.returncode == 0 else None
