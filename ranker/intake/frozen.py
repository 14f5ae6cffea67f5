"""Folders that a sandbox wrote, made ours: looked through, digested, and kept as they are for good.

A frozen folder holds `files/` and `record.json`, and appears whole or not at all. Nobody follows a link in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ranker.durable import flush
from ranker.errors import InfraError, ParticipantError
from ranker.intake.staging import flush_tree, place

FILES = "files"
RECORD = "record.json"
MAX_DEPTH = 64
MAX_PATH_BYTES = 1024  # both far above what caches and packages have, and below what makes readers fail


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds; `digest` is SHA-256 over the sorted (path, SHA-256 of the content, or a link's target)."""

    digest: str
    files: int
    size_bytes: int


def freeze(staged: Path, target: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Move `staged` (on the same file system) into the new folder `target`, with what is recorded about it.

    Returns the record with its `tree`. Raises ParticipantError for what cannot be kept, InfraError where our disk
    fails.
    """
    whole = staged.parent / f".{target.name}"
    try:
        tidy(staged)
        record = record | {"tree": asdict(contents(staged))}
        whole.mkdir()
        staged.rename(whole / FILES)
        (whole / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        flush_tree(whole)
        flush(whole)
        place(whole, target)
    except OSError as error:
        raise InfraError(f"{target} could not be kept: {error}; is the disk full?") from error
    return record


def known(folder: Path) -> dict[str, Any] | None:
    """The record of a frozen folder, whose files are as they were; None if there is no such folder. Raises as
    `must_be`.
    """
    if not folder.is_dir():
        return None
    try:
        text = (folder / RECORD).read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(text)
        digest = record["tree"]["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InfraError(f"{folder}: {RECORD} cannot be read ({error}); restore the folder from a backup") from error
    must_be(folder, digest)
    return record


def must_be(folder: Path, digest: str) -> Path:
    """The files of a frozen folder. Raises InfraError unless they are those that the digest stands for."""
    try:
        found = contents(folder / FILES).digest
    except OSError as error:
        raise InfraError(f"{folder}: what was frozen at intake is gone ({error}); restore it from a backup") from error
    if found != digest:
        raise InfraError(
            f"{folder}: its files are not those that were frozen at intake (digest {found[:12]} instead of "
            f"{digest[:12]}); no run may see others: restore the folder from a backup"
        )
    return folder / FILES


def tidy(folder: Path) -> None:
    """Make all below a folder ours: owner, plain permissions, no special files, no links that lead out. Raises
    ParticipantError, OSError.
    """
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise ParticipantError(f"{folder.name} should be a folder, but is something else; nothing of that kind is kept")
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.lchown(folder, 0, 0)
    odd: list[str] = []
    real = os.path.realpath(folder)
    for path, found in _walk(folder, opened=True):
        below = path.relative_to(folder)
        if len(below.parts) > MAX_DEPTH or len(os.fsencode(below)) > MAX_PATH_BYTES:
            raise ParticipantError(
                f"{_shown(path, folder)} lies in more than {MAX_DEPTH} folders, or its path has more than "
                f"{MAX_PATH_BYTES} bytes; nothing of that kind is kept"
            )
        if os.geteuid() == 0:
            os.lchown(path, 0, 0)
        if stat.S_ISREG(found.st_mode):
            path.chmod(0o755 if found.st_mode & 0o100 else 0o644)
        elif stat.S_ISLNK(found.st_mode):
            # Also over other links; nobody else writes here any more.
            if path.readlink().is_absolute() or not Path(os.path.realpath(path)).is_relative_to(real):
                odd.append(f"the link {_shown(path, folder)} leads out of its folder")
            elif not path.exists() and _loops(path):
                odd.append(f"the link {_shown(path, folder)} leads to itself")
        elif not stat.S_ISDIR(found.st_mode):
            odd.append(f"{_shown(path, folder)} is neither a file nor a folder nor a link")
    if odd:
        raise ParticipantError([f"{each}; nothing of that kind is kept" for each in odd[:5]])


def contents(folder: Path) -> Contents:
    """Count and digest what is below a folder. Raises OSError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder}")
    whole, files, size = hashlib.sha256(), 0, 0
    lines = []
    for path, found in _walk(folder):
        name = os.fsencode(path.relative_to(folder))
        if stat.S_ISREG(found.st_mode):
            files, size = files + 1, size + found.st_size
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as content:
                lines.append((name, b"=" + hashlib.file_digest(content, "sha256").hexdigest().encode()))
        elif stat.S_ISLNK(found.st_mode):
            lines.append((name, b">" + os.fsencode(path.readlink())))
    for name, what in sorted(lines):
        whole.update(b"%s\0%s\n" % (name, what))
    return Contents(digest=whole.hexdigest(), files=files, size_bytes=size)


def _walk(folder: Path, *, opened: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder, folders before what is in them; `opened`: folders are made readable first."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path, found = Path(entry.path), entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    if opened:
                        path.chmod(0o755)
                    waiting.append(path)
                yield path, found


def _loops(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _shown(path: Path, folder: Path) -> str:
    return repr(str(path.relative_to(folder)))[:100]
