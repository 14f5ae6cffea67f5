"""The wheel, installed outside the checkout, has with it all that it needs beside Python code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENCODER = """
import torch

class ToneEncoder(torch.nn.Module):
    output_dim = 4

    def forward(self, audio, mask=None):
        frames = audio.unfold(1, 1600, 1600) if audio.shape[1] >= 1600 else audio[:, None, :]
        level = frames.square().mean(-1, keepdim=True)
        return torch.cat([level, level.sqrt(), frames.amax(-1, keepdim=True), frames.amin(-1, keepdim=True)], -1), None
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment of its own with the wheel and what it depends on, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    folder.chmod(0o755)  # pytest's folders are private; environments are not, and the sandbox's user reads this one
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)  # as good as a copy, and done in a moment
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(
        sysconfig.get_path("purelib"),
        packages,
        copy_function=link,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("ranker*", "*ranker.pth", "__pycache__"),
    )
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True)
    return folder


def ranker(installed: Path, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user outside the checkout would."""
    command = [installed / "bin" / "ranker", "--home", home, *arguments]
    return subprocess.run(command, cwd=home, env=outside(), capture_output=True, text=True, check=False)


def outside() -> dict[str, str]:
    """Our environment without what would lead Python or ranker back to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RANKER_HOME"))}


def test_wheel_carries_its_files_inside_its_package(wheel: Path) -> None:
    """A top-level alembic/ or docker/ would overwrite the packages of that name."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ranker", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    inside = {name.removeprefix("ranker/_assets/") for name in names if name.startswith("ranker/_assets/")}
    expected = {"configs/mini.yaml", "configs/service.yaml", "alembic/env.py", "docker/seccomp.json"}
    assert expected <= inside
    assert any(name.startswith("alembic/versions/0001") for name in inside)
    assert any(name.startswith("leaderboard/templates/") for name in inside)
    assert any(name.startswith("leaderboard/static/") for name in inside)
    mails = {f"ranker/replies/templates/{name}.txt" for name in ("_parts", "received", "accepted", "refused", "result")}
    assert mails <= set(names)


@pytest.mark.dear(day=1)
def test_doctor_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """It finds its configuration and migrations, and no part of the checkout."""
    done = ranker(installed, tmp_path, "doctor", "--json")
    assert done.stderr == ""
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert findings["configuration"]["verdict"] == "ok"
    where = subprocess.run(
        [installed / "bin" / "python", "-c", "import ranker; print(ranker.__file__)"],
        cwd=tmp_path,
        env=outside(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout).is_relative_to(installed)


@pytest.mark.usefixtures("bubblewrap")
def test_ingest_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """A submission is unpacked, tried in the sandbox and recorded in a database that was migrated from nothing."""
    with zipfile.ZipFile(tmp_path / "tones.zip", "w") as archive:
        archive.writestr("tone_encoder.py", ENCODER)
    done = ranker(installed, tmp_path, "ingest", "tones.zip", "--sandbox", "bubblewrap", "--json")
    assert done.returncode == 0, done.stderr
    (submission,) = json.loads(done.stdout)
    assert (submission["team"], submission["state"]) == ("tones", "accepted")
    assert submission["check"]["result"]["encoder"]["output_dim"] == 4
    assert (tmp_path / "ranker.db").is_file()
