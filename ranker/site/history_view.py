"""The page of all publications: what its template sees, and how it comes into a page that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ranker.site import text
from ranker.site.navigation import HISTORY, links
from ranker.site.render import environment
from ranker.site.track_view import Demonstration


@dataclass(frozen=True, kw_only=True)
class MoveView:
    """A team whose rank or score changed; `direction` is of its rank: up, down, or empty."""

    team: str
    rank_before: str
    rank: str
    direction: str
    score_before: str
    score: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ChangeView:
    """What changed on one track."""

    track: str
    sentences: tuple[str, ...]
    moves: tuple[MoveView, ...]


@dataclass(frozen=True, kw_only=True)
class VersionView:
    """One publication. `data_href` is empty where its data is not shown: it was taken back, or had other names.

    `note` says which of these, or whose page it shows again, or why. `teams`: how many it names.
    """

    number: int
    at: datetime
    is_current: bool
    is_open: bool
    note: str
    teams: int
    changes: tuple[ChangeView, ...]
    data_href: str

    @property
    def when(self) -> str:
        """Its time, for people."""
        return text.moment(self.at)


def write_history(
    folder: Path, versions: Sequence[VersionView], *, benchmark: str, demonstrations: Sequence[Demonstration]
) -> None:
    """Put history.html into a page's folder, the newest version first; it leads to what pages the folder has."""
    templates = environment(preview=False, has_history=True)
    there = [link for link in links(has_history=True) if (folder / link.href).is_file() or link == HISTORY]
    html = templates.get_template("history.html").render(
        versions=sorted(versions, key=lambda version: -version.number),
        benchmark=benchmark,
        demonstrations=demonstrations,
        navigation=there,
        here=HISTORY.href,
        root="",
    )
    (folder / HISTORY.href).write_text(html, encoding="utf-8", newline="\n")
