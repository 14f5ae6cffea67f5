"""A run's manifest: whole or not there, and complete enough to say how a score came about."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import full_disk
import kills
import pytest

from ranker.manifest import hardware, peak_memory_gb, read_manifest, software, write_manifest
from ranker.types import digest_json

MANIFEST = {"team": "größe 三", "scores": {"a": {"value": 0.1 + 0.2}}, "long": "x" * 5_000}


def test_what_is_written_is_read_and_its_digest_can_be_checked(tmp_path: Path) -> None:
    """The database keeps the digest; anyone can compute it from the file."""
    digest = write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    assert digest_json(json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))) == digest


def test_manifest_is_whole_or_absent_after_a_kill(tmp_path: Path) -> None:
    """A run counts as complete when its manifest exists, so half of one must never be seen."""
    folder = tmp_path / "run"

    def write(_touch: object) -> None:
        write_manifest(folder, MANIFEST)

    step, was_killed = 0, True
    while was_killed:
        step += 1
        folder.mkdir()
        was_killed = kills.is_killed_at(step, folder, write)
        found = read_manifest(folder)
        assert found in (None, MANIFEST)
        shutil.rmtree(folder)
    assert found == MANIFEST
    assert step > 2


def test_full_disk_makes_no_manifest(tmp_path: Path) -> None:
    """Nor does it damage one that is there."""
    with full_disk.after(1_000), pytest.raises(OSError, match="File too large"):
        write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, {"first": 1})
    with full_disk.after(1_000), pytest.raises(OSError, match="File too large"):
        write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == {"first": 1}


def test_software_names_what_scores_hang_on() -> None:
    """Every package has a version here, and the revision is this checkout's."""
    found = software()
    assert {"torch", "transformers", "tokenizers", "peft", "soxr", "jiwer", "scipy"} <= set(found)
    assert [name for name, version in found.items() if not version and name != "revision"] == []
    root = Path(__file__).parent.parent
    if (root / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        assert found["revision"].removesuffix("+changes") == head.stdout.strip()


def test_hardware_is_measured() -> None:
    """A machine has a processor with a name, cores and memory; and this process uses some of it."""
    found = hardware("cpu")
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_gb"] > peak_memory_gb() > 0.01
