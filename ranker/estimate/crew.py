"""The measured minute: as many processes as there are workers do a little of everything at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ranker.config import Recipe
from ranker.errors import InfraError
from ranker.estimate.flops import Row
from ranker.executors.gpus import Gpu
from ranker.executors.local import thread_limits
from ranker.lalm.features import Excerpt
from ranker.metrics import Pair
from ranker.settings import Service
from ranker.types import EncoderSource, MetricName, SandboxName

COMMAND = (sys.executable, "-m", "ranker.estimate.measure")
_HANGING_S = 600.0


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """An accepted submission's encoder, as its check found it; `tree` holds its unpacked files, `packages` and
    `weights` what was installed and fetched for it.
    """

    tree: Path
    source: EncoderSource
    output_dim: int
    frames_per_s: float
    batch_invariant: bool
    packages: Path | None = None
    weights: Path | None = None


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderTrial(_Message):
    """Which encoder to try, on which clips. Without `calls` (no data), noise is used."""

    tree: Path
    source: EncoderSource
    output_dim: int
    max_frames: int
    sandbox: SandboxName
    service: Service
    home: Path
    data: Path
    calls: tuple[tuple[Excerpt, ...], ...]
    packages: Path | None = None
    weights: Path | None = None


class MetricTrial(_Message):
    """Which metric to try, on which pairs."""

    metric: MetricName
    num_classes: int | None
    pairs: tuple[Pair, ...]


class Trial(_Message):
    """What one process measures, and for how long. `batches` of training; `chunks` of answering as (rows, length)."""

    recipe: Recipe
    feature_dim: int
    threads: int
    cpu: bool
    batches: tuple[tuple[Row, ...], ...]
    chunks: tuple[tuple[int, int], ...]
    encoder: EncoderTrial | None
    metrics: tuple[MetricTrial, ...]
    train_s: float = 15.0
    generate_s: float = 8.0
    encode_s: float = 8.0


class Step(_Message):
    """A training step, or the reading of a batch of prompts."""

    flops: float
    seconds: float


class Token(_Message):
    """One more token for each of `rows` sequences of `length` tokens."""

    rows: int
    length: int
    seconds: float


class Call(_Message):
    """One call of the encoder, with reading and decoding of its audio."""

    audio_s: float
    seconds: float


class Scoring(_Message):
    """A metric's models loaded, then each pair."""

    metric: MetricName
    load_s: float
    pair_s: float


class Measured(_Message):
    """What one process found. `random_decoder`: the recipe's was not there; one of its shape stood in for it."""

    random_decoder: bool
    load_s: float
    sandbox_s: float | None
    steps: tuple[Step, ...]
    prefills: tuple[Step, ...]
    tokens: tuple[Token, ...]
    calls: tuple[Call, ...]
    scorings: tuple[Scoring, ...]


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The worker processes that evaluations have on this machine: one per GPU, or so many on the CPU."""

    devices: tuple[Gpu, ...]
    workers: int
    cores: int

    @classmethod
    def of(cls, service: Service, devices: tuple[Gpu, ...]) -> Crew:
        """As `executors.local` starts them."""
        cores = len(os.sched_getaffinity(0))
        workers = max(1, min(len(devices) or service.cpu_workers, cores))
        return cls(devices=devices, workers=workers, cores=cores)

    def threads(self, recipe: Recipe, service: Service) -> int:
        """CPU threads of a job, as `evaluation` chooses them."""
        workers = 1 if self.devices else service.cpu_workers
        return max(1, min(recipe.threads, (os.cpu_count() or 1) // workers))

    def measure(self, trial: Trial, processes: int) -> list[Measured]:
        """Let `processes` of the workers measure at the same time. Raises InfraError if one of them fails."""
        number = max(1, min(processes, self.workers))
        with ThreadPoolExecutor(max_workers=number) as threads:
            return list(threads.map(lambda place: _ask(trial, self._environment(place, number)), range(number)))

    def _environment(self, place: int, number: int) -> dict[str, str]:
        environment = dict(os.environ) | thread_limits(self.cores // number)
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[place].uuid
        return environment


def _ask(trial: Trial, environment: dict[str, str], command: Sequence[str] = COMMAND) -> Measured:
    try:
        done = subprocess.run(
            command,
            input=trial.model_dump_json(),
            env=environment,
            capture_output=True,
            text=True,
            timeout=_HANGING_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            f"measuring did not end within {_HANGING_S:.0f} s; `ranker estimate --no-measure` does without"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise InfraError(
            f"measuring ended with exit status {done.returncode}: {last}; run `ranker doctor`, or "
            "`ranker estimate --no-measure`, which does without"
        )
    return Measured.model_validate_json(done.stdout.splitlines()[-1])
