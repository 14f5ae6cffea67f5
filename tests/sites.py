"""Whole published folders for tests in the browser: every kind of page, with names that try to be more than text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from boards import HOSTILE, MADE_AT, OFFICIAL, small_board, submission
from test_figures import sure

from ranker.board import Board
from ranker.home import Home
from ranker.publishing import publication
from ranker.publishing.gate import Forbidden
from ranker.service import Edition, Ranker
from ranker.site import render

NAMES = (
    *HOSTILE,
    '</script><script>document.title="owned"</script>',
    "\"'><b onclick=alert(1)>quoted</b>`${document.title='owned'}`",
    "line one\nline two",
    "\N{HEADPHONE} Zu\u0308rich \u05d0\u05d5\u05d6\u05df \u0623\u0630\u0646 \u8033",
)


@dataclass(frozen=True, kw_only=True)
class Folders:
    """`site` was published twice, `preview` is one with who.html; `pages`: one address of each kind of page.

    Of a preview that is who.html: all its others are as published, with the same banner over them.
    """

    site: Path
    preview: Path
    board: Board
    pages: dict[str, str]


def shown(name: str) -> str:
    """A hostile name as pages write it: a control character is made visible."""
    return name.replace("\n", "\N{REPLACEMENT CHARACTER}")


def folders(root: Path) -> Folders:
    """The small board under hostile names, published, and published again after two teams changed places."""
    board = sure(small_board())
    names = (*NAMES, "moonshine", "zeta")
    rows = tuple(replace(row, team=name) for row, name in zip(board.rows, names, strict=True))
    board = replace(board, rows=rows)
    pages = [submission(row, board) for row in board.rows[2:3]]
    first, second = board.rows[:2]
    before = replace(board, rows=(replace(second, rank=1), replace(first, rank=2), *board.rows[2:]))
    home = Home(root=root / "home")
    for day, (each, added) in enumerate(((before, []), (board, pages))):
        material = publication.Material(
            benchmark="mini", boards=[each], pages=added, calibrations=[], forbidden=Forbidden()
        )
        act = publication.Act(now=MADE_AT + timedelta(days=day), by="test", why=NAMES[3])
        assert publication.publish(home, material, act) is not None
    who = [(f"Team {n}", name) for n, name in enumerate(NAMES, start=1)]
    preview = render([board], [], root / "preview", preview=True, who=who).parent
    picked = ",".join(row.submission_id for row in board.rows[:4])
    paths = {
        "index": f"index.html#track-a?w=keyword:2&pick={picked}",
        "compare": f"compare.html#track-a?pick={picked}",
        "method": "method.html",
        "history": "history.html",
        "submission": f"submission/{board.rows[2].submission_id}.html",
    }
    addresses = {kind: f"{home.site.as_uri()}/{path}" for kind, path in paths.items()}
    addresses["preview"] = f"{preview.as_uri()}/who.html"
    return Folders(site=home.site, preview=preview, board=board, pages=addresses)


def official(root: Path) -> Ranker:
    """A home with the official table of 2026, imported and published."""
    made = Ranker(root / "official")
    made.import_scores(OFFICIAL, "interspeech2026", track="A", source="the organizers' leaderboard page", baselines=())
    made.publish(Edition(benchmark="interspeech2026"), not_before=None, despite_embargo=False, why="")
    return made
