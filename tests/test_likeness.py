"""Comparing weights of teams of which one is hostile: its files stop nobody's comparison, and cost little."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_audit import team, weights

from ranker import likeness
from ranker.cli.audit import likeness_table
from ranker.cli.options import out
from ranker.likeness import alike_share, compare, read_weights


def torch_file(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A ZIP as torch writes it, with this as its pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", pickled)
    return path


def safetensors_file(path: Path, header: bytes) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(40_000))
    return path


def test_hostile_weight_files_cost_neither_memory_nor_days(tmp_path: Path) -> None:
    """Attacks the comparison of all teams by one team's file: what readers raise, what decompresses without end, arrays
    that lie on each other, a directory of a million entries. Each is called unread.
    """
    entry = '"a%d":{"dtype":"F32","shape":[9000],"data_offsets":[0,36000]}'
    noise = np.random.default_rng(0).bytes(3_000) * 3
    bombs = {
        "infinite": safetensors_file(
            tmp_path / "i.safetensors", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}'
        ),
        "overlapping": safetensors_file(
            tmp_path / "o.safetensors", ("{" + ",".join(entry % at for at in range(2)) + "}").encode()
        ),
        "nested": safetensors_file(tmp_path / "n.safetensors", b"[" * 90_000),
        "compressed": torch_file(tmp_path / "b.pt", bytes(200_000_000), zipfile.ZIP_BZIP2),
    }
    for name, kind in {"deflated": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA}.items():
        bombs[name] = torch_file(tmp_path / f"{name}.pt", noise, kind)
        raw = bytearray(bombs[name].read_bytes())
        raw[60:90] = b"\xff" * 30
        bombs[name].write_bytes(raw)
    crowd = tmp_path / "crowd.pt"
    with zipfile.ZipFile(crowd, "w") as archive:
        archive.writestr("m/data.pkl", b"")
    raw = bytearray(crowd.read_bytes())
    start = raw.index(b"PK\x01\x02")
    one, end = bytes(raw[start : start + 46 + 10]), bytearray(raw[start + 46 + 10 :])
    count = likeness.MAX_HEADER_BYTES // len(one) + 1
    end[12:16] = (count * len(one)).to_bytes(4, "little")
    crowd.write_bytes(bytes(raw[:start]) + one * count + bytes(end))
    bombs["crowded"] = crowd
    assert zipfile.is_zipfile(crowd)
    for name, path in bombs.items():
        tracemalloc.start()
        found = read_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert not found.is_read, name
        assert peak < 60_000_000, (name, peak)
    sound = safetensors_file(tmp_path / "s.safetensors", ("{" + entry % 0 + "}").encode())
    assert read_weights(sound).is_read


def test_a_cache_of_odd_names_and_links_stops_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attacks `ranker audit --weights` by what a constructor may leave: loops, and names that are markup or move the
    cursor.
    """
    numbers = weights(1)
    members = []
    for name in ("one", "two"):
        cache = tmp_path / "submissions" / name / "weights" / "files"
        cache.mkdir(parents=True)
        (cache / "loop.pt").symlink_to("loop.pt")
        (cache / "\x1b[2J[").mkdir()
        (cache / "\x1b[2J[" / "red].onnx").write_bytes(b"12345")
        (cache / os.fsdecode(b"\xff[bold].onnx")).write_bytes(b"123456")
        members.append(team(tmp_path, name, file="model.safetensors", numbers=numbers))
    found = compare(members)
    out.print(likeness_table(found))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[2J[/red].onnx" in "".join(shown.split())
    assert "model.safetensors" in shown


def test_many_arrays_of_one_length_are_compared_in_parts() -> None:
    """Attacks memory by a product of sketches that is as large as the square of their number."""
    count = 5_000
    sketches = np.eye(64, dtype=np.float32)[np.arange(count) % 64]
    files = [likeness.WeightFile(name="a", digest="", size_bytes=1, sketches={4_096: sketches}, is_read=True)]
    tracemalloc.start()
    assert alike_share(files, files) == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * count * 4 / 2
