"""A run's manifest: what was run on what, written last. A run without one is not complete."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ranker
from ranker.durable import whole_file
from ranker.types import digest_json

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "gguf",
    "safetensors",
    "accelerate",
    "peft",
    "numpy",
    "soxr",
    "soundfile",
    "webdataset",
    "jiwer",
    "scikit-learn",
    "scipy",
)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> str:
    """Write `folder/manifest.json` by temporary file, fsync and rename; returns the SHA-256 of its content."""
    digest = digest_json(manifest)
    with whole_file(folder / "manifest.json") as file, file.open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=2, sort_keys=True, ensure_ascii=False)
    return digest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete run, or None."""
    try:
        value: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return value


def software() -> dict[str, str]:
    """Versions of Python, of ranker (with its git revision where it is run from a checkout) and of what scores hang
    on.
    """
    found = {"python": platform.python_version(), "ranker": ranker.__version__, "revision": _revision()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, memory and accelerator of this machine."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "device": device,
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(pages * page_bytes / 1e9, 1),
    }


def peak_memory_gb() -> float:
    """Largest resident size of this process so far, in 10^9 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str:
    """Commit of the checkout that ranker runs from, `+changes` where files differ; empty for an installed wheel."""
    root = Path(ranker.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
