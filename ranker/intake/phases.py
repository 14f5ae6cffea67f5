"""What a run gets of the phases that came before it: the folders that the check froze, as they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.intake import build, weights
from ranker.intake.frozen import must_be


@dataclass(frozen=True, kw_only=True)
class FrozenFolders:
    """`packages`: what requirements.txt installed; `weights`: what the constructor fetched; None where nothing was."""

    packages: Path | None
    weights: Path | None


def frozen_folders(folder: Path, check: Mapping[str, Any]) -> FrozenFolders:
    """Those below a submission's `folder` that its check's result names. Raises InfraError if one is not as it was.

    A check of an earlier ranker knew no such folders.
    """
    environment, fetched = check.get("environment"), check.get("weights")
    packages = None
    if environment is not None and environment["installed"]:
        packages = must_be(folder / build.FOLDER, environment["tree"]["digest"])
    kept = None if fetched is None else must_be(folder / weights.FOLDER, fetched["tree"]["digest"])
    return FrozenFolders(packages=packages, weights=kept)
