"""A benchmark's folder is there whole or not at all, and says so when a byte of it has changed."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ranker.data import store
from ranker.data.shards import read_split, scored_clips, training_data, write_shard
from ranker.errors import MissingError, OrganizerError


def make(level: float = 0.1, parts: int = 2):
    def builder(root: Path, progress: store.ProgressHook) -> None:
        file = io.BytesIO()
        soundfile.write(file, np.full(80, level), 16_000, format="WAV")
        for part in range(parts):
            (root / f"task{part}").mkdir()
            write_shard(
                root / f"task{part}/train-00.tar", [{"__key__": "a", "wav": file.getvalue(), "json": {"n": part}}]
            )
            progress(part + 1, parts)

    return builder


def test_what_is_built_is_there_and_verifies(tmp_path: Path):
    """A build has a manifest with each shard's digest, bytes and clips; verify finds nothing wrong."""
    root = tmp_path / "toy"
    seen: list[tuple[int, int]] = []
    assert not store.is_built(root)
    digest = store.build(root, make(), version=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert store.is_built(root, 3)
    assert not store.is_built(root, 4)
    assert store.verify(root) == []
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["digest"] == digest
    assert {name: entry["clips"] for name, entry in manifest["shards"].items()} == {
        "task0/train-00.tar": 1,
        "task1/train-00.tar": 1,
    }
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["toy"]


def test_the_same_build_has_the_same_digest_and_another_has_not(tmp_path: Path):
    """Digests follow the content, not the folder's name or the time."""
    digests = [
        store.build(tmp_path / name, make(level), version=1) for name, level in (("a", 0.1), ("b", 0.1), ("c", 0.2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_data_digest_covers_its_own_shards_only(tmp_path: Path):
    """A track's digest changes with its shards, and stays when another task's change."""
    store.build(tmp_path / "a", make(), version=1)
    store.build(tmp_path / "b", make(parts=3), version=1)
    one, two = (store.data_digest(tmp_path / name, ["task{0,1}/train-00.tar"]) for name in "ab")
    assert one == two
    assert one != store.data_digest(tmp_path / "b", ["task{0..2}/train-00.tar"])
    with pytest.raises(MissingError, match=r"task9/train-00\.tar is not in"):
        store.data_digest(tmp_path / "a", ["task9/train-00.tar"])


@pytest.mark.parametrize("old", [False, True])
def test_a_killed_build_leaves_what_was_there(tmp_path: Path, old: bool):
    """SIGKILL in the middle of a build leaves the older benchmark, or none; the next build goes through."""
    root = tmp_path / "toy"
    if old:
        store.build(root, make(0.3), version=1)
    code = f"""
import os, signal
from pathlib import Path
from ranker.data import store
def make(root, progress):
    (root / "task0").mkdir()
    (root / "task0" / "train-00.tar").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
store.build(Path({str(root)!r}), make, version=1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert store.is_built(root) is old
    if old:
        assert store.verify(root) == []
    assert store.build(root, make(0.2), version=1) == store.build(tmp_path / "other", make(0.2), version=1)
    assert store.verify(root) == []


def test_a_build_that_fails_leaves_what_was_there(tmp_path: Path):
    """An exception in the builder goes to the caller and does not touch the older benchmark."""
    digest = store.build(tmp_path / "toy", make(), version=1)

    def fail(root: Path, progress: store.ProgressHook) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.build(tmp_path / "toy", fail, version=1)
    assert json.loads((tmp_path / "toy/manifest.json").read_text())["digest"] == digest
    assert store.verify(tmp_path / "toy") == []


def test_a_builder_that_makes_nothing_is_an_error(tmp_path: Path):
    """An empty benchmark is never put in place."""
    with pytest.raises(OrganizerError, match="made no shard"):
        store.build(tmp_path / "toy", lambda root, progress: None, version=1)
    assert not store.is_built(tmp_path / "toy")


def test_verify_names_what_is_wrong(tmp_path: Path):
    """A changed byte, a missing shard, a stray shard and an edited manifest are each one sentence."""
    root = tmp_path / "toy"
    store.build(root, make(parts=3), version=1)
    changed = root / "task0/train-00.tar"
    data = bytearray(changed.read_bytes())
    data[700] ^= 1
    changed.write_bytes(data)
    (root / "task1/train-00.tar").unlink()
    (root / "task2/train-01.tar").write_bytes(b"")
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "digest": "0" * 64}))
    problems = store.verify(root)
    assert len(problems) == 4
    for words in (
        "task0/train-00.tar has changed",
        "task1/train-00.tar is missing",
        "task2/train-01.tar is not in",
        "edited",
    ):
        assert sum(words in problem for problem in problems) == 1


def test_what_is_not_built_says_what_to_run(tmp_path: Path):
    """The message names the command; a damaged manifest is the organizer's fault, not a traceback."""
    with pytest.raises(MissingError, match="ranker data fetch toy"):
        store.verify(tmp_path / "toy")
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/manifest.json").write_text("{")
    with pytest.raises(OrganizerError, match="is damaged"):
        store.verify(tmp_path / "toy")


@pytest.mark.parametrize("read", [scored_clips, training_data])
def test_a_shard_that_is_not_the_recorded_one_is_not_read(tmp_path: Path, read: Callable[..., object]):
    """Conditions name what the manifest records, so another shard in its place would share a board with the first.

    Attacks a label that was corrected by hand: same size, nothing broken, and an index that is made anew for it.
    """
    root = tmp_path / "toy"
    store.build(root, make(), version=1)
    path = root / "task0/train-00.tar"
    assert read(root, ["task0/train-00.tar"], ["n"])
    changed = path.read_bytes().replace(b'{"n": 0}', b'{"n": 1}')
    assert len(changed) == path.stat().st_size
    path.write_bytes(changed)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # a coarse clock may not have moved on since it was made
    found = r"shard task0/train-00\.tar has changed: sha256 \w{12} was recorded in .*manifest\.json, \w{12} is there"
    with pytest.raises(OrganizerError, match=found):
        read(root, ["task0/train-00.tar"], ["n"])
    assert read_split(root, ["task1/train-00.tar"]), "the other shards are what they were"


@pytest.mark.parametrize(("name", "advice"), [("mini", "ranker data build mini --again"), ("own", "ranker data fetch")])
def test_advice_on_a_changed_shard_is_what_restores_it(tmp_path: Path, name: str, advice: str):
    """`data build` leaves alone what is built, so the advice has to say `--again`; of others it is a fetch."""
    root = tmp_path / name
    store.build(root, make(), version=1)
    (root / "task0/train-00.tar").write_bytes((root / "task1/train-00.tar").read_bytes())
    with pytest.raises(OrganizerError, match=advice):
        read_split(root, ["task0/train-00.tar"])
