"""Which features an attempt may take over: those of the same encoder under the same circumstances, had made by jobs
that its own may tell of.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ranker
from ranker.config import TrackPart
from ranker.data.decoding import DECODER
from ranker.digest import file_digest
from ranker.intake.receive import ENVIRONMENT_NAME, WEIGHTS_NAME
from ranker.job import JobContext
from ranker.lalm.shelf import Shelf
from ranker.manifest import hardware
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.serving import ServedSandbox
from ranker.sandbox.witness import Witness
from ranker.types import Group, Part, digest_json

# What stands between a stored clip and the numbers that come back, beside the encoder.
_CODE = ("data/audio.py", "data/decoding.py", "data/shards.py", "sandbox/client.py", "sandbox/encoder_server.py")


def shelf_of(
    context: JobContext, part: TrackPart, *, sandbox: ServedSandbox, spec: EncoderSpec, encoder: Witness
) -> Shelf:
    """What the jobs of this submission share in this home, as one attempt sees it.

    A job that asks nothing but public tasks takes nothing over from jobs that ask hidden ones, nor does one that asks
    both from one that asks hidden ones alone: how much it found, and how soon it was done, is published, and would tell
    of the hidden clips.
    """
    claim, condition = context.claim, context.claim.condition
    assert condition is not None
    circles = ["public", "joined", "hidden"]
    if condition.part is Part.PUBLIC:
        circles = circles[: 1 if all(task.group is Group.PUBLIC for task in part.tasks) else 2]
    return Shelf(
        context.home.features / context.submission.id,
        identity=features_identity(context, sandbox, spec),
        maker=f"track {condition.track}, {condition.part} part, seed {claim.seed}, attempt {claim.attempt}",
        own=circles[-1],
        readable=circles,
        max_bytes=int(context.service.shared_features_gb * 1e9),
        taken_over=encoder.taken_over,
    )


def features_identity(context: JobContext, sandbox: ServedSandbox, spec: EncoderSpec) -> str:
    """SHA-256 of all that the bits of features hang on, but the audio and which clips share a call: the frozen encoder,
    what it is run by, and on which processor.
    """
    condition, check = context.claim.condition, context.submission.check
    assert condition is not None
    assert check is not None
    root = Path(ranker.__file__).parent
    return digest_json(
        {
            "frozen": {name: _tree(check, name) for name in ("", ENVIRONMENT_NAME, WEIGHTS_NAME)},
            "source": asdict(spec.source),
            "run": {name: getattr(spec, name) for name in ("seed", "threads", "max_frames", "output_dim")},
            "sandbox": {
                "name": sandbox.name,
                "software": sandbox.software(),
                "gpu_gb": context.service.limits.gpu_memory_gb,
            },
            "audio": {"decoder": DECODER, "python": platform.python_version(), "soxr": version("soxr")},
            "code": {name: file_digest(root / name) for name in _CODE},
            "processor": {"device": condition.device, "cpu": hardware(condition.device)["cpu"]},
        }
    )


def _tree(check: dict[str, Any], name: str) -> str | None:
    """Digest of the submission's files, or of what an earlier phase froze for it; None where it froze nothing."""
    found = check if not name else check.get(name)
    return None if found is None or "tree" not in found else str(found["tree"]["digest"])
