"""Trained weights that several jobs of a submission can share: what is trained once is not trained again.

The parts of a track that ask one model (public and prompted) are two jobs, and so is a track whose test tasks changed.
A finished run's manifest names the training it is of, and its weights by digest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from ranker.digest import file_digest
from ranker.durable import locked
from ranker.manifest import read_manifest
from ranker.types import Condition, EncoderSource, digest_json

log = logging.getLogger("ranker.weights")


def training_identity(random_key: str, condition: Condition, source: EncoderSource) -> str:
    """Digest of all that a submission's trained weights depend on. Runs of equal identity have equal weights.

    `random_key` stands for mixture, recipe, data and seed (`ranker.conditions.training_key`).
    """
    return digest_json(
        {
            "random_key": random_key,
            "circumstances": condition.circumstances,
            "steps": condition.steps,
            "source": asdict(source),
        }
    )


def finished_weights(runs: Path, identity: str, steps: int) -> Path | None:
    """The last checkpoint of a finished run under `runs` (one submission's) of this training, or None.

    Its weights are those that the run's manifest names, byte for byte.
    """
    for path in sorted(runs.glob("*/attempt-*/manifest.json")):
        try:
            manifest = read_manifest(path.parent)
        except ValueError:  # a power failure can leave an empty file
            continue
        if manifest is None or "training" not in manifest or manifest["training"] != identity:
            continue
        checkpoint = path.parent / f"step-{steps:08d}"
        weights = checkpoint / "trained.safetensors"
        if (checkpoint / "state.json").is_file() and file_digest(weights) == manifest["weights"]:
            return checkpoint
        log.warning("%s no longer holds the weights that its manifest names, so they are trained anew", checkpoint)
    return None


@contextmanager
def only_trainer(runs: Path, identity: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of this training of one submission; the system frees it when a process dies.

    Hold it until the manifest is written: before that, nobody else may trust the weights. While another process holds
    it, `waiting` is called about once a second; what that raises ends the waiting.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with locked(runs / f".training-{identity[:12]}.lock", waiting):
        yield
