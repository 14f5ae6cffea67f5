"""Where things are: the organizer's home folder, the shared cache of models, and the files that ship with ranker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder that holds one challenge's database, submissions, runs and page.

    `hidden`: the file of hidden tasks, which lies elsewhere; None where there is none to be known of.
    """

    root: Path
    hidden: Path | None = None

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.root / "ranker.db"

    @property
    def submissions(self) -> Path:
        """`submissions/<sha256>/`: the bytes as they came, and the unpacked tree."""
        return self.root / "submissions"

    @property
    def mail(self) -> Path:
        """`mail/<sha256>.eml`: messages, as they came."""
        return self.root / "mail"

    @property
    def outbox(self) -> Path:
        """`outbox/<key>.eml`: answers to senders, drafted and sent."""
        return self.root / "outbox"

    @property
    def runs(self) -> Path:
        """`runs/<submission id>/<job key>/attempt-0001/`: checkpoints, predictions, manifest."""
        return self.root / "runs"

    @property
    def features(self) -> Path:
        """`features/<submission id>/`: what a submission's jobs had encoded, for each other. May go at any time."""
        return self.root / "features"

    @property
    def data(self) -> Path:
        """`data/<benchmark>/`: shards and their manifest."""
        return self.root / "data"

    @property
    def links(self) -> Path:
        """`links/<part of a digest>/`: what has come so far of files behind links."""
        return self.root / "links"

    @property
    def tables(self) -> Path:
        """`tables/<sha256>.csv`: imported tables of scores, as they came."""
        return self.root / "tables"

    @property
    def site(self) -> Path:
        """The page that is published."""
        return self.root / "leaderboard" / "site"

    @property
    def preview(self) -> Path:
        """The page as organizers see it before it is published."""
        return self.root / "leaderboard" / "preview"

    @property
    def versions(self) -> Path:
        """`leaderboard/versions/0001/`: each page that was published, whole."""
        return self.root / "leaderboard" / "versions"

    @property
    def pseudonyms(self) -> Path:
        """Who is who among teams that stay unknown."""
        return self.root / "leaderboard" / "pseudonyms.json"

    def config_path(self, name: str) -> Path:
        """`configs/<name>.yaml` of this home if it is there, else the one that ships with ranker (which may not
        exist).
        """
        own = self.root / "configs" / f"{name}.yaml"
        return own if own.is_file() else asset("configs") / f"{name}.yaml"


def model_cache() -> Path:
    """Folder for converted models, shared between homes: `RANKER_CACHE`, else `~/.cache/ranker`."""
    configured = os.environ.get("RANKER_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "ranker"


def asset(name: str) -> Path:
    """A folder that ships with ranker (`configs`, `alembic`, `leaderboard`, `docker`): packed in a wheel, or beside
    the package.

    They are packed under `ranker/_assets/`, since a top-level `alembic` or `docker` in a wheel would overwrite those
    packages.
    """
    packed = Path(__file__).parent / "_assets" / name
    return packed if packed.is_dir() else Path(__file__).parent.parent / name
