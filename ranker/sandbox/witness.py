"""Whether an encoder did in the evaluation what it promised in the check: some clips are encoded again, alone.

The check's clips can be told from a benchmark's. So an encoder could keep its promises there and break them later:
count calls, look at the other clips of a batch, ask the clock. Of each stage of an evaluation (training, each task) a
few clips, drawn so that nobody can foresee them, are kept with their features, and in the end encoded one by one, in
another order, by a fresh process. Kept on disk: what a killed attempt did is looked at too, before its successor's
score counts.

Not covered: an encoder that cheats on less than a quarter of a stage's clips, and one that knows clips by heart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ranker.errors import ParticipantError
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, Encoder, EncoderSpec, Features, Sandbox
from ranker.sandbox.check import TOLERANCE, near
from ranker.settings import Limits

SAMPLES = 8
# Looser than the check's: real clips in real batches round further than two probes, and a refusal here comes late.
WITNESS_TOLERANCE = 10 * TOLERANCE
# Quantised features flip a whole code where a sum rounds the other way: rare in honest encoders, and not a quarter.
MAX_DIFFERING = 0.25
SUFFIX = ".witness.npz"


class Witness:
    """An encoder that remembers a fair sample of what it was asked and answered. Implements `base.Encoder`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._draw = random.SystemRandom()  # a seed could be foreseen; no result depends on it
        self._seen = 0
        self._kept: list[tuple[Audio, Features]] = []

    @property
    def output_dim(self) -> int:
        """See `base.Encoder`."""
        return self._encoder.output_dim

    @property
    def attribute(self) -> str:
        """See `base.Encoder`."""
        return self._encoder.attribute

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """See `base.Encoder`. Each clip of a stage has the same chance to be kept (reservoir sampling)."""
        found = self._encoder.encode(clips, seed=seed)
        for clip, features in zip(clips, found, strict=True):
            self._seen += 1
            if len(self._kept) < SAMPLES:
                self._kept.append((clip, features))
            elif (place := self._draw.randrange(self._seen)) < SAMPLES:
                self._kept[place] = (clip, features)
        return found

    def end_stage(self, folder: Path, stage: str) -> None:
        """Write the sample to `folder/<stage>.witness.npz`, and begin another. Call it before the stage's result is
        kept.
        """
        arrays = {
            f"{kind}{i}": array for i, pair in enumerate(self._kept) for kind, array in zip("cf", pair, strict=True)
        }
        temporary = folder / f".{stage}{SUFFIX}"
        np.savez(temporary, allow_pickle=False, **arrays)
        temporary.rename(folder / f"{stage}{SUFFIX}")
        self._seen, self._kept = 0, []


def confirm(sandbox: Sandbox, spec: EncoderSpec, limits: Limits, folders: Sequence[Path]) -> None:
    """Encode the samples in these folders (attempts of one job) once more. Raises ParticipantError if they differ.

    Raises as `Sandbox.start` and `Encoder.encode` do, too. The samples are deleted when all is well.
    """
    files = [path for folder in folders for path in sorted(folder.glob(f"[!.]*{SUFFIX}"))]
    samples = [(path, *pair) for path in files for pair in _read(path)]
    if samples:
        random.SystemRandom().shuffle(samples)
        differing: dict[Path, list[Audio]] = {path: [] for path in files}
        with sandbox.start(spec, limits) as encoder:
            for path, clip, features in samples:
                if not near(encoder.encode([clip])[0], features, WITNESS_TOLERANCE):
                    differing[path].append(clip)
        for path, clips in differing.items():
            asked = sum(each is path for each, _, _ in samples)
            if len(clips) > MAX_DIFFERING * asked:
                raise ParticipantError(_sentence(path.name.removesuffix(SUFFIX), clips, asked))
    for path in files:
        path.unlink()


def _read(path: Path) -> list[tuple[Audio, Features]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [(arrays[f"c{i}"], arrays[f"f{i}"]) for i in range(len(arrays) // 2)]


def _sentence(stage: str, clips: Sequence[Audio], asked: int) -> str:
    return (
        f"a clip's features must depend on the clip alone, but in the stage {stage} of the evaluation {len(clips)} of "
        f"{asked} clips (the first of {len(clips[0]) / SAMPLE_RATE_HZ:.2f} s) got other features than alone in a fresh "
        "process; keep no state between calls, and look at no other clip of the batch, nor at the time"
    )
