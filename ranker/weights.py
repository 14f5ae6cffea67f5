"""Trained weights that several jobs of a submission can share: what is trained once is not trained again.

The parts of a track that ask one model (public and prompted) are two jobs, and so is a track whose test tasks changed.
A finished run's manifest names the training it is of, and its weights by digest.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from ranker.digest import file_digest
from ranker.durable import POLL_S
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
def only_trainer(runs: Path, identity: str, own: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of this training of one submission, for the attempt whose folder is `own` (runs/JOB/attempt-N); the
    system frees it when a process dies.

    Hold it until the manifest is written: before that, nobody else may trust the weights. While another process holds
    it, `waiting` is called about once a second; what that raises ends the waiting. An attempt that has lost its job is
    not waited for: stopped, or hanging where nobody sees it, it would keep its job from ever ending.
    """
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f".training-{identity[:12]}.lock"
    while (lock := _taken(path, own)) is None:
        waiting()
        time.sleep(POLL_S)
    with lock:
        yield


def _taken(path: Path, own: Path) -> IO[str] | None:
    """The open file whose lock we hold now; None if another has it. It tells whose it is."""
    with ExitStack() as stack:
        lock = stack.enter_context(path.open("a+", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            job, _, attempt = lock.read().partition("/")
            if attempt and any(each.name > attempt for each in (path.parent / job).glob("attempt-*")):
                log.warning("%s of job %s has lost its job and still holds %s, which is made anew", attempt, job, path)
                path.unlink(missing_ok=True)  # should two do so at once, both train: that costs time, and nothing else
            return None
        lock.truncate(0)
        lock.write(f"{own.parent.name}/{own.name}")
        lock.flush()
        stack.pop_all()
        return lock
