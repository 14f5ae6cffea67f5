"""Which bytes belong in a benchmark's shards: what its `manifest.json` records of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ranker.data.origin import how_to_get, how_to_restore
from ranker.errors import MissingError, OrganizerError

MANIFEST = "manifest.json"


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of the benchmark under `root`. Raises MissingError where there is none, OrganizerError where it is
    damaged.
    """
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(
            f"the data of benchmark {root.name} is not there: {path} is missing; {how_to_get(root.name)}"
        ) from None
    except ValueError as error:
        raise OrganizerError(f"{path} is damaged ({error}); delete it, and {how_to_get(root.name)}") from error
    return manifest


def recorded(root: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each shard (`sha256`, `bytes`); nothing where there is no manifest."""
    return dict(read_manifest(root)["shards"]) if (root / MANIFEST).is_file() else {}


def require_recorded(root: Path, name: str, sha256: str, known: dict[str, dict[str, Any]]) -> None:
    """Raise OrganizerError if the shard called `name`, whose bytes have this digest, is `known` to have had others.

    Conditions name the recorded digests, so scores of other bytes would stand on the board of the recorded ones.
    """
    if name in known and known[name]["sha256"] != sha256:
        raise OrganizerError(
            f"benchmark {root.name}: shard {name} has changed: sha256 {known[name]['sha256'][:12]} was recorded in "
            f"{root / MANIFEST}, {sha256[:12]} is there, and scores of both would share a board; "
            f"{how_to_restore(root.name)}"
        )
