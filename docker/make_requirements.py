"""Writes the locked requirements of the base image: every package that the named ones need, with the digests of all of
its wheels for Python 3.11 on Linux, x86_64 and aarch64, as the package index tells them.

    python docker/make_requirements.py > docker/requirements.txt

Versions follow constraints.txt. torch and onnxruntime stand in requirements-cpu.txt and requirements-cuda.txt.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from ranker.intake.index import index_of
from ranker.settings import BuildPhase

# flatbuffers and protobuf for onnxruntime, which like torch has one build for each kind of machine.
NAMED = ("numpy", "scipy", "soundfile", "soxr", "safetensors", "transformers", "torch", "flatbuffers", "protobuf")
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
LINK = re.compile(r'href="[^"#]*?([^/"#]+\.whl)#sha256=([0-9a-f]{64})"')
SYSTEMS = ("-any.whl", "x86_64.whl", "aarch64.whl")
PYTHONS = ("-cp311-cp311-", "-abi3-", "-py3-none-", "-py2.py3-none-")


def index_url() -> str:
    """The index that pip uses here."""
    return index_of(BuildPhase()).url.rstrip("/")


def resolved() -> list[tuple[str, str]]:
    """Name and version of every package that the named ones need."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--only-binary", ":all:", "--report", str(report)]
        pip = [sys.executable, "-m", "pip", "install", *options, "--constraint", str(CONSTRAINTS), *NAMED]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return sorted((item["metadata"]["name"].lower(), item["metadata"]["version"]) for item in found)


def hashes(name: str, version: str) -> list[str]:
    """SHA-256 of the wheels of one version that a base image could use."""
    with urllib.request.urlopen(f"{index_url()}/{name.replace('_', '-').replace('.', '-')}/", timeout=60) as answer:  # noqa: S310  ours
        links = LINK.findall(answer.read().decode())
    project = name.replace("-", "_").replace(".", "_")
    start = f"{project}-{version}-".lower()
    wheels = {
        digest
        for file, digest in links
        if file.lower().startswith(start)
        and file.endswith(SYSTEMS)
        and any(tag in file for tag in PYTHONS)
        and not any(system in file for system in ("macosx", "musllinux", "win"))
    }
    if not wheels:
        raise SystemExit(f"the index has no wheel of {name} {version} for Python 3.11 on Linux")
    return sorted(wheels)


def main() -> None:
    """Print the file."""
    sys.stdout.write(
        "# Made by docker/make_requirements.py; torch and onnxruntime: requirements-cpu.txt, requirements-cuda.txt.\n"
    )
    for name, version in resolved():
        if name != "torch":
            lines = [f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in hashes(name, version))]
            sys.stdout.write(" \\\n    ".join(lines) + "\n")


if __name__ == "__main__":
    main()
