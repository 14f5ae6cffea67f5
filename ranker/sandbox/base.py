"""What a sandbox promises. Backends differ in how they confine; one contract suite runs on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ranker.sandbox.usage import Usage
from ranker.settings import Limits
from ranker.types import EncoderSource, SandboxName

SAMPLE_RATE_HZ = 16_000

Audio = npt.NDArray[np.float32]  # (T,) mono, 16 kHz
Features = npt.NDArray[np.float32]  # (T', D)


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a backend works here; if not, `reason` says why and what to do, in one sentence.

    `busy`: it did not answer in time, which says nothing of whether it works.
    """

    ok: bool
    busy: bool = False
    reason: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One encoder to be served: an unpacked submission tree (mounted read-only) and which class in it.

    `seed` seeds Python, numpy and torch before the submission is imported. `threads` is the number of CPU threads
    (None: as many as the limits' `cpus`, rounded up). `max_frames` bounds the features of one clip of up to 30 s, and
    those of longer ones in proportion (None: the recipe's default). `output_dim` is what the check found; another one
    is a violation (None: not known yet). `packages` and `weights`: what its requirements.txt installed and what its
    constructor fetched, at intake, if anything; both are seen read-only.
    """

    tree: Path
    source: EncoderSource
    seed: int = 42
    threads: int | None = None
    max_frames: int | None = None
    output_dim: int | None = None
    packages: Path | None = None
    weights: Path | None = None


class Encoder(Protocol):
    """A running encoder. Every method raises ParticipantError (theirs) or InfraError (ours), and nothing else on
    purpose.
    """

    @property
    def output_dim(self) -> int:
        """D, the size of one feature frame."""

    @property
    def attribute(self) -> str:
        """Name of the encoder class that was found."""

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """Encode clips in one call of the encoder, right-padded to the longest, with a mask that is 1 on the samples.

        clips: B arrays (T_i,), float32, 16 kHz. Returns B arrays (T'_i, D) float32, finite, masked frames dropped. One
        clip is the canonical call: no padding, a mask of ones. Python, numpy and torch are seeded before each call,
        from the first clip's samples unless `seed` is given. An exception or a violation leaves the encoder usable.
        """


class StartedEncoder(Encoder, Protocol):
    """An encoder of a sandbox's own, which knows what it took."""

    def usage(self) -> Usage:
        """What it has taken so far; never raises."""


class Sandbox(Protocol):
    """A way to confine a process."""

    @property
    def name(self) -> SandboxName:
        """Which backend this is."""

    def available(self) -> Availability:
        """Try the backend, cheaply (under a second); never raises."""

    def start(self, spec: EncoderSpec, limits: Limits) -> AbstractContextManager[StartedEncoder]:
        """Start the encoder server for `spec` under `limits`; leaving the context kills everything that it started.

        Raises ParticipantError with every way in which the loaded encoder breaks its contract, MissingError if the
        backend cannot run here, InfraError if it failed.
        """
