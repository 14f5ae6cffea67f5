"""What the sandbox costs: writes docs/results/sandbox_cost.md.

    python bench/sandbox_cost.py [--rounds 30] [--starts 5] [--threads 1] [--samples .make/samples] [--out FILE]

An encoder is called on batches of 16 clips of 10 s, in this process and through each sandbox that works here, in turn,
so that whatever else the machine does falls on all of them alike; the fastest call of each counts, which is the one
that was disturbed least. Beside it stands the processor time of all processes that take part, which other load moves
little. In process, the same is done as the server does: a padded batch is made of the clips, the
encoder called without gradients, and its features are taken apart, clip by clip, as numpy arrays. What is on top in the
sandbox: both sockets, and that nothing that comes back is believed. The samples are what `make demo` packs; the
machine's own Docker is used, else, for root, one that is started for this.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker.durable import whole_file
from ranker.sandbox.backends import backend
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, EncoderSpec, Features
from ranker.sandbox.processes import PROC, is_below
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.wire import peer_of
from ranker.settings import Limits, Service
from ranker.types import EncoderSource, SandboxName

ROOT = Path(__file__).parent.parent
CLIPS, SECONDS = 16, 10
WARM_UP = 2  # calls that do not count
ENCODERS = {"logmel": "cheap", "moonshine": "realistic"}
TARGET_SHARE, TARGET_START_S = 0.05, 2.0
IMPORT = "`python3 -c 'import numpy, torch'`"
Encode = Callable[[Sequence[Audio]], list[Features]]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Calls of one encoder in one place: wall-clock and processor seconds of each, and the bytes of its features."""

    encoder: str
    place: str
    wall: tuple[float, ...]
    processor: tuple[float, ...]
    feature_bytes: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """Starts of a warm sandbox without the encoder's own loading: wall-clock and processor seconds of each."""

    place: str
    wall: tuple[float, ...]
    processor: tuple[float, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="calls of each encoder in each place")
    parser.add_argument("--starts", type=int, default=5, help="starts of each sandbox")
    parser.add_argument("--threads", type=int, default=1, help="threads of the encoder, in each place")
    parser.add_argument("--samples", type=Path, default=ROOT / ".make" / "samples")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "sandbox_cost.md")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory(prefix="ranker-cost-") as folder, docker_engine():
        sandboxes = [
            found for name in (SandboxName.BUBBLEWRAP, SandboxName.DOCKER) if (found := working(name)) is not None
        ]
        Path(folder).chmod(0o755)
        costs = [
            cost
            for name in ENCODERS
            for cost in compared(name, unpacked(asked.samples, name, Path(folder)), sandboxes, asked)
        ]
        starts = [*started(unpacked(asked.samples, "logmel", Path(folder)), sandboxes, asked)]
    lines = list(report(costs, starts, asked))
    with whole_file(asked.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def working(name: SandboxName) -> ServedSandbox | None:
    """The backend, if it works here."""
    sandbox = backend(name, image=Service().docker_image)
    return sandbox if sandbox.available().ok else None


@contextlib.contextmanager
def docker_engine() -> Iterator[None]:
    """The machine's Docker; else one that the tests' own fixture starts for root, or none."""
    if working(SandboxName.DOCKER) is not None or os.geteuid() != 0 or shutil.which("dockerd") is None:
        yield
        return
    sys.path.insert(0, str(ROOT / "tests"))
    import engine

    with engine.private_engine() as address, engine.docker_host(address):
        yield


def unpacked(samples: Path, name: str, folder: Path) -> Path:
    """The folder of a sample submission's files."""
    tree = folder / name
    if not tree.is_dir():
        with zipfile.ZipFile(samples / f"{name}.zip") as archive:
            archive.extractall(tree)
        tops = list(tree.iterdir())
        return tops[0] if len(tops) == 1 and tops[0].is_dir() else tree
    return tree


def source_of(tree: Path) -> EncoderSource:
    (file,) = tree.glob("*_encoder.py")
    return EncoderSource(root=".", module=file.name)


def in_process(tree: Path) -> Encode:
    """The encoder as it would be used without a sandbox."""
    file = tree / source_of(tree).module
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (name,) = (name for name in vars(module) if name.endswith("Encoder"))
    encoder = getattr(module, name)().eval()

    def encode(clips: Sequence[Audio]) -> list[Features]:
        audio = torch.from_numpy(np.stack(clips))
        with torch.inference_mode():
            features, mask = encoder(audio, torch.ones(audio.shape, dtype=torch.int32))
        kept = [row[keep.bool()] for row, keep in zip(features, mask, strict=True)]
        return [row.float().numpy() for row in kept]

    return encode


def timed(encode: Encode, clips: Sequence[Audio], server: Sequence[int]) -> tuple[list[Features], float, float]:
    """One call: its features, and its seconds by the wall clock and of processor time, the server's included."""
    before = server_s(server)
    own, since = time.process_time(), time.perf_counter()
    found = encode(clips)
    wall, own = time.perf_counter() - since, time.process_time() - own
    return found, wall, own + server_s(server) - before


def server_s(server: Sequence[int]) -> float:
    """Seconds of processor time so far of these processes, with all their threads (proc(5), schedstat)."""
    files = [file for pid in server for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def below(ancestor: int) -> list[int]:
    pids = [int(path.name) for path in PROC.glob("[0-9]*")]
    return [pid for pid in pids if is_below(pid, ancestor)]


def compared(name: str, tree: Path, sandboxes: Sequence[ServedSandbox], asked: argparse.Namespace) -> Iterator[Cost]:
    """The encoder's calls in each place, taken in turn, on other noise each time."""
    random = np.random.default_rng(0)
    spec = EncoderSpec(tree=tree, source=source_of(tree), threads=asked.threads)
    limits = Limits(cpus=max(1.0, asked.threads))
    with contextlib.ExitStack() as stack:
        places: dict[str, Encode] = {"in process": in_process(tree)}
        servers: dict[str, list[int]] = {}
        for sandbox in sandboxes:
            encoder = stack.enter_context(sandbox.start(spec, limits))
            places[sandbox.name] = encoder.encode
            servers[sandbox.name] = below(peer_of(encoder._connection).pid)  # type: ignore[attr-defined]  # noqa: SLF001
        wall: dict[str, list[float]] = {place: [] for place in places}
        processor: dict[str, list[float]] = {place: [] for place in places}
        for number in range(asked.rounds + WARM_UP):
            clips = [random.standard_normal(SECONDS * SAMPLE_RATE_HZ).astype(np.float32) * 0.1 for _ in range(CLIPS)]
            order = list(places)
            found = {}
            for place in order[number % len(order) :] + order[: number % len(order)]:
                found[place], wall_s, processor_s = timed(places[place], clips, servers.get(place, []))
                if number >= WARM_UP:
                    wall[place].append(wall_s)
                    processor[place].append(processor_s)
            for features in found.values():
                for one, other in zip(features, found["in process"], strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    size = sum(each.nbytes for each in found["in process"])
    for place in places:
        yield Cost(
            encoder=name,
            place=place,
            wall=tuple(wall[place]),
            processor=tuple(processor[place]),
            feature_bytes=size,
        )


def started(tree: Path, sandboxes: Sequence[ServedSandbox], asked: argparse.Namespace) -> Iterator[Start]:
    """Starts, in turn, of a fresh interpreter that imports torch and of each sandbox, which does the same."""
    spec = EncoderSpec(tree=tree, source=source_of(tree), threads=asked.threads)
    found: dict[str, list[tuple[float, float]]] = {IMPORT: [], **{each.name: [] for each in sandboxes}}
    for _ in range(asked.starts + 1):
        used, since = children_s(), time.perf_counter()
        subprocess.run([sys.executable, "-P", "-s", "-c", "import numpy, torch"], check=True)
        found[IMPORT].append((time.perf_counter() - since, children_s() - used))
        for sandbox in sandboxes:
            own, since = time.process_time(), time.perf_counter()
            with sandbox.start(spec, Limits(cpus=max(1.0, asked.threads))) as encoder:
                load_s = encoder.usage().load_s
                wall = time.perf_counter() - since - load_s
                server = below(peer_of(encoder._connection).pid)  # type: ignore[attr-defined]  # noqa: SLF001
                found[sandbox.name].append((wall, time.process_time() - own + server_s(server)))
    for place, values in found.items():
        wall_s, processor_s = zip(*values[1:], strict=True)  # the first ones warm up
        yield Start(place=place, wall=wall_s, processor=processor_s)


def children_s() -> float:
    """Processor seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(costs: Sequence[Cost], starts: Sequence[Start], asked: argparse.Namespace) -> Iterator[str]:
    """The Markdown file."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    yield "# What the sandbox costs"
    yield ""
    yield (
        f"Written by `python bench/sandbox_cost.py` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, "
        f"{cores} cores, no GPU, torch {torch.__version__}, encoders on {asked.threads} thread"
        f"{'s' * (asked.threads > 1)}; load of the machine at the end {load:.1f}."
    )
    size = CLIPS * SECONDS * SAMPLE_RATE_HZ * 4 / 1e6
    yield f"Batches of {CLIPS} clips of {SECONDS} s ({size:.1f} MB of samples), {asked.rounds} calls in each place, in"
    yield "turn; of each, the smallest counts. The wall clock is fair on an idle machine. Where more waits to"
    yield "run than there are cores, processor time is judged: of this process and the sandbox's, together."
    yield ""
    yield "| encoder | features | where | wall clock | ratio | processor | ratio | on top, per call | at most 1.05 |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for cost in costs:
        (own,) = (each for each in costs if each.encoder == cost.encoder and each.place == "in process")
        by_wall = min(cost.wall) / min(own.wall)
        by_processor = min(cost.processor) / min(own.processor)
        judged = by_processor if load > cores else by_wall
        verdict = "" if cost is own else "yes" if judged <= 1 + TARGET_SHARE else "no"
        yield (
            f"| {cost.encoder} ({ENCODERS[cost.encoder]}) | {cost.feature_bytes / 1e6:.1f} MB | {cost.place} | "
            f"{min(cost.wall) * 1e3:.1f} ms | {by_wall:.3f} | "
            f"{min(cost.processor) * 1e3:.1f} ms | {by_processor:.3f} | "
            f"{(min(cost.processor) - min(own.processor)) * 1e3:.1f} ms | {verdict} |"
        )
    yield ""
    yield "## Start of a warm sandbox"
    yield ""
    yield f"From nothing to the first call, less the encoder's own loading; {asked.starts} starts each, in turn. Most"
    yield "of it is the import of torch, which stands beside it. Processor time is that of this process and the"
    yield "sandbox's, with what its encoder loads and without the engine's own; it is judged where the machine is busy."
    yield ""
    yield "| what | fastest | median | processor, least | under 2 s |"
    yield "| --- | ---: | ---: | ---: | --- |"
    for start in starts:
        judged = min(start.processor if load > cores else start.wall)
        verdict = "" if start.place == IMPORT else "yes" if judged < TARGET_START_S else "no"
        yield (
            f"| {start.place} | {min(start.wall):.2f} s | {statistics.median(start.wall):.2f} s | "
            f"{min(start.processor):.2f} s | {verdict} |"
        )


if __name__ == "__main__":
    sys.exit(main())
