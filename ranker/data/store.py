"""A benchmark's folder: shards, and the manifest that says which bytes belong in them.

A benchmark is there if and only if its `manifest.json` is: it is built in a sibling folder, flushed to the disk,
described by its manifest last, and then renamed into place. A kill at any moment leaves the old benchmark, or none, but
never half of one.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ranker.data.origin import how_to_get
from ranker.data.recorded import MANIFEST, read_manifest
from ranker.data.shards import expand_braces, index_shard
from ranker.digest import file_digest
from ranker.durable import flush, whole_file
from ranker.errors import MissingError, OrganizerError
from ranker.types import Buildable, digest_json

_ELSE = {
    True: ", and if that makes no such shard, correct its name: a benchmark that is built here has no others",
    False: ", with --hidden FILE if it is a hidden task's",
}
"""What else may be wrong where a shard is not recorded, by whether its benchmark is built here."""

ProgressHook = Callable[[int, int], None]


def is_built(root: Path, version: int | None = None) -> bool:
    """Whether a whole benchmark lies under `root`; with `version`, whether that builder version made it."""
    if not (root / MANIFEST).is_file():
        return False
    return version is None or read_manifest(root)["version"] == version


def build(
    root: Path,
    make: Callable[[Path, ProgressHook], Mapping[str, Any] | None],
    *,
    version: int,
    progress: ProgressHook = lambda *_: None,
) -> str:
    """Let `make` fill a new folder with shards, describe them, and put the folder at `root`; returns its digest.

    An older benchmark at `root` stays until the new one is whole. Builders of one benchmark wait for each other.
    `progress` is called with what is done and the total, in the builder's own unit. What `make` returns (plain values:
    for example the versions of what it read) is kept in the manifest as `made_from`, outside the digest.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(root):
        fresh, old = root.with_name(f".{root.name}.building"), root.with_name(f".{root.name}.old")
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir()
        made_from = make(fresh, progress)
        digest = record(fresh, _describe(fresh, root.name), made_from=made_from, version=version, name=root.name)
        if root.exists():
            root.rename(old)
        fresh.rename(root)
        flush(root.parent)
        shutil.rmtree(old, ignore_errors=True)
    return digest


def record(
    root: Path,
    shards: Mapping[str, Mapping[str, Any]],
    *,
    made_from: Mapping[str, Any] | None,
    version: int = 1,
    name: str | None = None,
) -> str:
    """Write the manifest of a folder whose shards are on the disk, each with its `sha256` and `bytes`; returns the
    digest. `name`: the benchmark's, where the folder is not called so yet.
    """
    digest = _digest(shards)
    manifest = {
        "benchmark": name or root.name,
        "version": version,
        "shards": shards,
        "digest": digest,
        "made_from": made_from,
    }
    with whole_file(root / MANIFEST) as file:
        file.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return digest


def data_digest(root: Path, patterns: Sequence[str]) -> str:
    """SHA-256 over the names and contents of the shards that `patterns` stand for, as the manifest records them.

    Raises MissingError where the benchmark is not built, or a shard is not part of it.
    """
    shards = read_manifest(root)["shards"]
    names = sorted({name for pattern in patterns for name in expand_braces(pattern)})
    for name in names:
        if name not in shards:
            raise MissingError(
                f"benchmark {root.name}: shard {name} is not in {root / MANIFEST}; {how_to_get(root.name)}"
                f"{_ELSE[root.name in set(Buildable)]}"
            )
    return digest_json({name: shards[name]["sha256"] for name in names})


def digest(root: Path) -> str:
    """The digest of a built benchmark. Raises MissingError where it is not built."""
    return str(read_manifest(root)["digest"])


def verify(root: Path) -> list[str]:
    """In what the folder differs from its manifest, one sentence each; reads every byte. Empty: all is well."""
    manifest = read_manifest(root)
    problems = []
    for name, expected in manifest["shards"].items():
        path = root / name
        if not path.is_file():
            problems.append(f"shard {name} is missing")
        elif (found := file_digest(path)) != expected["sha256"]:
            problems.append(
                f"shard {name} has changed: sha256 {expected['sha256'][:12]} was recorded, {found[:12]} is there"
            )
    problems += [
        f"shard {name} is not in the manifest" for name in _shard_names(root) if name not in manifest["shards"]
    ]
    if manifest["digest"] != _digest(manifest["shards"]):
        problems.append(f"{MANIFEST} was edited: its digest does not fit its shards")
    return problems


def _describe(root: Path, name: str) -> dict[str, dict[str, Any]]:
    """What the manifest is to say of a folder's shards; indexes them on the way."""
    shards = {}
    for shard in _shard_names(root):
        path = root / shard
        clips = len(index_shard(path).clips)
        flush(path)
        shards[shard] = {"sha256": file_digest(path), "bytes": path.stat().st_size, "clips": clips}
    if not shards:
        raise OrganizerError(f"the builder of benchmark {name} made no shard; its folder would be empty")
    return shards


def _digest(shards: Mapping[str, Mapping[str, Any]]) -> str:
    return digest_json({name: entry["sha256"] for name, entry in shards.items()})


def _shard_names(root: Path) -> list[str]:
    """Shards under `root`, as relative paths; plain copies of compressed ones are not shards."""
    found = [path for path in root.rglob("*") if path.name.endswith((".tar", ".tar.gz", ".tgz")) and path.is_file()]
    return sorted(str(path.relative_to(root)) for path in found if not path.name.endswith(".plain.tar"))


@contextmanager
def _only_builder(root: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of one benchmark's builders; the system frees it when a builder dies."""
    with root.with_name(f".{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
