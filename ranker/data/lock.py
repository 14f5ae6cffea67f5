"""The lock file of a benchmark: which commit of each repository counts, and which bytes each file must have.

It is written by the first fetch and read by every later one, here and wherever the file is taken: two organizers who
share it have the same data, or an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ranker.durable import whole_file
from ranker.errors import ConfigError
from ranker.types import RepoKind

_COMMIT = re.compile(r"[0-9a-f]{40}")

Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository of the hub, and the revision that is asked for: a commit, a branch or a tag."""

    kind: RepoKind
    repo: str
    revision: str

    @property
    def key(self) -> str:
        """Its name in the lock file."""
        return f"{self.kind}:{self.repo}"

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{self.kind} {self.repo}"


class LockedFile(BaseModel):
    """A file's size and digest. The hub gives the SHA-256 of large files; of small ones it gives git's own digest
    (SHA-1), beside which the SHA-256 is put once they have been fetched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: Sha256 | None = None
    git_sha1: Sha1 | None = None

    @property
    def name(self) -> str:
        """A short name of exactly this content."""
        return (self.sha256 or self.git_sha1 or "")[:16]

    def describes(self, path: Path) -> bool:
        """Whether these are the file's bytes; reads all of them."""
        return path.is_file() and path.stat().st_size == self.bytes and self.accepts(*digests(path))

    def accepts(self, sha256: str, git_sha1: str) -> bool:
        """Whether a content of these digests is the one that is meant."""
        return sha256 == self.sha256 if self.sha256 is not None else git_sha1 == self.git_sha1


class LockedRepository(BaseModel):
    """What one repository held at one commit: as much of it as was ever needed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: str
    commit: Sha1
    files: dict[str, LockedFile] = {}


class Lock(BaseModel):
    """The whole file; repositories by `Source.key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    repositories: dict[str, LockedRepository] = {}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a lock file; one without repositories where there is no file. Raises ConfigError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise ConfigError(
                f"the lock file {path} is damaged ({where}: {first['msg']}); "
                "take it from a copy, or delete it to pin anew"
            ) from None

    def of(self, source: Source, path: Path) -> LockedRepository | None:
        """What is pinned for `source`, or None. Raises ConfigError where it was pinned for another revision."""
        found = self.repositories.get(source.key)
        if found is not None and source.revision not in {found.revision, found.commit}:
            raise ConfigError(
                f"the {source} is wanted at revision {source.revision}, but {path} has it pinned at {found.commit} "
                f"(from {found.revision}); correct the revision, or delete that entry to pin it anew"
            )
        return found

    def with_repository(self, source: Source, pinned: LockedRepository) -> Lock:
        """The lock with one repository put in or replaced."""
        return Lock(repositories={**self.repositories, source.key: pinned})

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; sorted, so that two that say the same are the same bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(mode="json", exclude_none=True), indent=1, sort_keys=True)
        with whole_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


class Digests:
    """Both digests of a content that comes in pieces; git's covers the size too, which must be known before."""

    def __init__(self, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(piece)
        self._git.update(piece)

    def values(self) -> tuple[str, str]:
        """SHA-256, and git's SHA-1, in hex."""
        return self._sha256.hexdigest(), self._git.hexdigest()


def digests(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and git's SHA-1 of it, in hex."""
    both = Digests(path.stat().st_size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            both.update(piece)
    return both.values()
