"""What a run gets of the phases that came before it: the folders that the check froze, as they were."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.errors import InfraError
from ranker.intake.frozen import must_be
from ranker.intake.receive import ENVIRONMENT_NAME, WEIGHTS_NAME


@dataclass(frozen=True, kw_only=True)
class FrozenFolders:
    """`packages`: what requirements.txt installed; `weights`: what the constructor fetched; None where nothing was."""

    packages: Path | None
    weights: Path | None


def frozen_folders(folder: Path, check: Mapping[str, Any]) -> FrozenFolders:
    """Those below a submission's `folder` that its check's result names. Raises InfraError if one is not as it was.

    A check of an earlier ranker knew no such folders.
    """
    environment, fetched = check.get(ENVIRONMENT_NAME), check.get(WEIGHTS_NAME)
    packages = None
    if environment is not None and environment["installed"]:
        packages = must_be(folder / ENVIRONMENT_NAME, environment["tree"]["digest"])
    kept = None if fetched is None else must_be(folder / WEIGHTS_NAME, fetched["tree"]["digest"])
    return FrozenFolders(packages=packages, weights=kept)


def require_same(folder: Path, earlier: Mapping[str, Any] | None, name: str, found: Mapping[str, Any] | None) -> None:
    """What was frozen must be what an earlier check of the submission froze, if one did; else it is thrown away.

    Raises InfraError.
    """
    before = None if earlier is None else earlier.get(name)
    if before is None or (found is not None and found["tree"]["digest"] == before["tree"]["digest"]):
        return
    shutil.rmtree(folder / name, ignore_errors=True)
    digest = before["tree"]["digest"][:12]
    raise InfraError(
        f"{folder / name} was lost, and what came instead is not what was accepted (digest {digest}); "
        "restore the folder from a backup"
    )
