"""Each publication, kept whole: `leaderboard/versions/NNNN/` with the page in `site/` and its `version.json` beside it.

A publication happens in this order: `.NNNN.new` is filled and put on the disk, with version.json as its last file; the
page takes the place of the one that everybody sees, in one step; `.NNNN.new` becomes `NNNN`. Whatever is stopped in
between, `settle` finds out by the page whether it was seen, and ends it, or removes what nobody saw.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ranker.durable import flush
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.home import Home

FORMAT = 1
SITE, RECORD, HISTORY_PAGE, HISTORY = "site", "version.json", "history.html", "history"
_NUMBER = re.compile(r"\d{4,}")
_TEXTS = frozenset({".html", ".json", ".csv", ".svg"})


@dataclass(frozen=True, kw_only=True)
class Version:
    """One publication: who made it when, and the SHA-256 of its data.json and of all of its files.

    `changed`: what is otherwise than in the version before it, in sentences. `rollback_of`: the older version
    whose page it shows again.
    """

    number: int
    published_at: datetime
    published_by: str
    benchmark: str
    data: str
    files: Mapping[str, str]
    size_bytes: int
    changed: tuple[str, ...]
    why: str = ""
    rollback_of: int | None = None
    is_anonymous: bool = False
    despite_embargo: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT} | asdict(self) | {"published_at": self.published_at.isoformat()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Version:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on anything else."""
        fields = {key: item for key, item in value.items() if key != "format"}
        fields["published_at"] = datetime.fromisoformat(fields["published_at"])
        fields["changed"] = tuple(fields["changed"])
        return cls(**fields)


def folder(home: Home, number: int) -> Path:
    """Where a version is kept."""
    return home.versions / f"{number:04d}"


def pending(home: Home, number: int) -> Path:
    """Where a version is made."""
    return home.versions / f".{number:04d}.new"


def kept(home: Home) -> list[Version]:
    """All versions, the first one first. Raises OrganizerError where a record is damaged."""
    if not home.versions.is_dir():
        return []
    names = sorted((path.name for path in home.versions.iterdir() if _NUMBER.fullmatch(path.name)), key=int)
    return [_recorded(home.versions / name / RECORD) for name in names]


def one(home: Home, number: int) -> Version:
    """The version of that number, whole. Raises UsageError where there is none, OrganizerError where it was changed."""
    known = kept(home)
    found = next((each for each in known if each.number == number), None)
    if found is None:
        listed = ", ".join(str(each.number) for each in known) or "none yet"
        raise UsageError(f"there is no version {number}; there are: {listed}")
    root = folder(home, number) / SITE
    there = digests(root)
    wrong = sorted(name for name in {*there, *found.files} if there.get(name) != found.files.get(name))
    if wrong:
        raise OrganizerError(
            f"version {number} is not what was published: {', '.join(wrong[:3])} differ{'s' * (len(wrong) == 1)} from "
            f"its record; restore {root} from a backup, or choose another version"
        )
    return found


def _recorded(path: Path) -> Version:
    try:
        return Version.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OrganizerError(
            f"{path}: expected the record of a publication, found none that can be read ({error}); restore it from a "
            "backup"
        ) from None


def data_of(home: Home, number: int) -> dict[str, Any]:
    """A version's data.json. Raises MissingError."""
    return load_data(folder(home, number) / SITE / "data.json")


def load_data(path: Path) -> dict[str, Any]:
    """A data.json. Raises MissingError where it is gone or none."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    except (OSError, ValueError) as error:
        raise MissingError(f"{path} cannot be read ({error}); restore it from a backup") from None


def taken_back(versions: Sequence[Version]) -> frozenset[int]:
    """The numbers of versions that a later one took back: what lay between it and the older one that it shows again."""
    found: set[int] = set()
    for version in versions:
        if version.rollback_of is not None:
            found |= set(range(version.rollback_of + 1, version.number))
            found.discard(version.rollback_of)
    return frozenset(found)


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path there."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files(root)}


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Each file below a folder, with its path there, in order."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield path.relative_to(root).as_posix(), path


def contents(root: Path, times: Collection[str]) -> dict[str, str]:
    """Digests of a page's files but for its history, made as if `times` stood nowhere: equal for pages that differ only
    in when they were made.
    """
    found = {}
    for name, path in files(root):
        if name == HISTORY_PAGE or name.startswith(f"{HISTORY}/"):
            continue
        content = path.read_bytes()
        if path.suffix in _TEXTS:
            for time in times:
                content = content.replace(time.encode(), b"")
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def write_record(room: Path, version: Version) -> None:
    """Put all of a version on the disk, its record last. The files cannot be written to any more."""
    for _, path in files(room / SITE):
        path.chmod(0o444)
        flush(path)
    for path in (room / SITE).rglob("*"):
        if path.is_dir():
            flush(path)
    flush(room / SITE)
    record = room / RECORD
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(version.to_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.chmod(0o444)
    flush(temporary)
    temporary.rename(record)
    flush(room)


def settle(home: Home) -> None:
    """End what a stopped publication began: a version whose page is seen is kept, another one removed."""
    if not home.versions.is_dir():
        return
    for room in sorted(home.versions.glob(".*.new")):
        number = room.name.removeprefix(".").removesuffix(".new")
        if (room / RECORD).is_file() and _is_seen(room, home.site) and not (home.versions / number).exists():
            room.rename(home.versions / number)
        else:
            shutil.rmtree(room)
    flush(home.versions)


def _is_seen(room: Path, site: Path) -> bool:
    """Whether the page is that of this version: no two versions have the same history."""
    try:
        return (site / HISTORY_PAGE).read_bytes() == (room / SITE / HISTORY_PAGE).read_bytes()
    except FileNotFoundError:
        return False
