"""Pictures of every kind of page for docs/img: python bench/pictures.py [--out docs/img] [--only NAME].

The pages are those of the official table of 2026 (tests/golden/), imported and published into a home of its own that
goes afterwards, and of a small made-up board with submissions (tests/boards.py), which the official table has none of.
Needs Debian's chromium and chromium-driver, and the extra `test`. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import boards  # noqa: E402
import browser  # noqa: E402
from selenium.webdriver import Chrome  # noqa: E402

from ranker.board.tabled import id_of  # noqa: E402
from ranker.service import Edition, Ranker  # noqa: E402
from ranker.site import render  # noqa: E402

OFFICIAL = ROOT / "tests" / "golden" / "interspeech2026_track_a.csv"
SOURCE = "the organizers' leaderboard page of Track A"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One file: which page, at which address behind its #, in a window of which size, in which colours."""

    name: str
    page: str
    width: int = 1440
    height: int = 900
    scheme: str = "light"


def main() -> None:
    """Make the pages, then a picture of each; prints each file's name and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img")
    parser.add_argument("--only", help="the name of one picture")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ.pop("RANKER_DATABASE", None)
    with tempfile.TemporaryDirectory() as folder:
        official, small = made(Path(folder))
        driver = browser.start()
        try:
            for picture in pictures():
                if given.only not in {None, picture.name}:
                    continue
                site = small if picture.page.startswith("submission/") else official
                target = given.out / f"{picture.name}.png"
                shoot(driver, site, picture, target)
                sys.stdout.write(f"{target} {target.stat().st_size:,} bytes\n")
        finally:
            driver.quit()


def made(folder: Path) -> tuple[Path, Path]:
    """The official table's published site, and the small board's."""
    ranker = Ranker(folder / "home")
    ranker.import_scores(OFFICIAL, "interspeech2026", track="A", source=SOURCE, baselines=())
    ranker.publish(
        Edition(benchmark="interspeech2026"), not_before=None, despite_embargo=False, why="first publication"
    )
    board = boards.small_board()
    return ranker.home.site, render([board], boards.submissions(board), folder / "small").parent


def pictures() -> Iterator[Picture]:
    """One of each kind of page; the front page also dark, and on a phone."""
    submission = f"submission/{boards.small_board().rows[0].submission_id}.html"
    picked = ",".join(id_of("interspeech2026", team) for team in ("THUVoice", "MIT SLS", "WindSpeak"))
    yield Picture(name="leaderboard", page="index.html", height=1000)
    yield Picture(name="leaderboard-dark", page="index.html", height=1000, scheme="dark")
    yield Picture(name="leaderboard-phone", page="index.html", width=500, height=900)
    yield Picture(name="compare", page=f"compare.html#track-a?pick={picked}", height=1000)
    yield Picture(name="method", page="method.html", height=1000)
    yield Picture(name="history", page="history.html", height=600)
    yield Picture(name="submission", page=submission, height=1000)


def shoot(driver: Chrome, site: Path, picture: Picture, target: Path) -> None:
    """Open the page from the disk, and write what the window shows."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1, "mobile": False},
    )
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": picture.scheme}]}
    )
    page, _, address = picture.page.partition("#")
    driver.get("about:blank")
    driver.get((site / page).as_uri() + (f"#{address}" if address else ""))
    driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));")
    driver.save_screenshot(str(target))


if __name__ == "__main__":
    main()
