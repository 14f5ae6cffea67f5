"""The page's folder: what is refused, and how the new one takes the place of the old, kills or not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from boards import small_board, submission, submissions

from ranker.errors import UsageError
from ranker.site import render


@pytest.mark.parametrize("wrong", ["../evil", "a/b", "", "x" * 65, "A B"])
def test_an_id_cannot_name_a_file_elsewhere(tmp_path: Path, wrong: str) -> None:
    """A submission's id becomes a file name, so nothing but digits and letters passes."""
    board = small_board()
    with pytest.raises(ValueError, match="file"):
        render([board], [submission(board.rows[0], board, id=wrong)], tmp_path / "site")
    assert list(tmp_path.iterdir()) == []


def test_two_boards_of_one_track_are_refused(tmp_path: Path) -> None:
    """Two tracks whose names would share a file are refused, not overwritten."""
    with pytest.raises(ValueError, match="one board per track"):
        render([small_board("A"), small_board("a")], [], tmp_path / "site")


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    """`--out` on a folder that is no earlier page is refused, and not a file of it is touched."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a page that ranker made"):
        render([small_board()], [], home)
    assert [path.name for path in home.iterdir()] == ["thesis.txt"]
    (tmp_path / "link").symlink_to(home)
    with pytest.raises(UsageError):
        render([small_board()], [], tmp_path / "link")
    assert (home / "thesis.txt").read_text() == "years of work"


def test_an_old_page_is_replaced_whole(tmp_path: Path) -> None:
    """Nothing of an earlier page survives: a submission that is gone has no page left."""
    board = small_board()
    render([board], submissions(board), tmp_path / "site")
    render([board], [submission(board.rows[0], board)], tmp_path / "site")
    assert [path.name for path in (tmp_path / "site" / "submission").iterdir()] == [
        f"{board.rows[0].submission_id}.html"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


RENDER_FOR_EVER = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from boards import small_board
from ranker.site import render
board = small_board()
print("ready", flush=True)
while True:
    for title in ("Old page", "New page"):
        render([replace(board, benchmark_title=title)], [], Path(sys.argv[2]))
        print(title, flush=True)
"""


def test_a_kill_leaves_a_whole_page(tmp_path: Path) -> None:
    """Readers find one whole page while it is rendered again and again, and after SIGKILL; the next render works."""
    out = tmp_path / "site"
    render([small_board()], [], out)
    for kill_after in (2, 3):
        child = subprocess.Popen(
            [sys.executable, "-c", RENDER_FOR_EVER, str(Path(__file__).parent), str(out)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        try:
            for _ in range(1 + kill_after):
                assert child.stdout.readline()
                for _ in range(40):
                    assert (out / "index.html").read_text(encoding="utf-8").endswith("</html>")
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        page = (out / "index.html").read_text(encoding="utf-8")
        data = json.loads((out / "data.json").read_text(encoding="utf-8"))
        assert data["boards"][0]["benchmark_title"] in page
    render([replace(small_board(), benchmark_title="Third page")], [], out)
    assert "Third page" in (out / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_page_lost_between_two_renames_comes_back(tmp_path: Path) -> None:
    """Without an exchange of folders, a kill between two renames leaves `.site.old`: the next render restores it."""
    out = tmp_path / "site"
    render([small_board()], [], out)
    out.rename(tmp_path / ".site.old")
    with pytest.raises(ValueError, match="zone"):
        render([replace(small_board(), made_at=datetime(2026, 3, 4))], [], out)  # noqa: DTZ001
    assert (out / "index.html").is_file()
