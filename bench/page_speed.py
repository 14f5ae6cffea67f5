"""How heavy the ranking's page is: `python bench/page_speed.py [--loads 7] [--write docs/results/page_speed.md]`.

Boards of made-up teams on 21 tasks, all with intervals, opened as files in headless Chromium. `bytes`: index.html, and
with its scripts, styles and scores. `ready`: until DOMContentLoaded has been dealt with, so until every control answers
(wall clock, median). The other columns are the main thread's own time (CPU, the least of all loads), which other work
on the machine lengthens less: to load and lay out all of the page; to sort by a task; to weigh a task otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from selenium.webdriver import Chrome

from ranker.board import Board, Cell, Interval, RankInterval, Row
from ranker.site import render

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import browser
from boards import official_board

TEAMS = (23, 200, 1000)
SORT = "document.querySelector('.heads .task button').click(); return document.body.offsetHeight"
WEIGH = """const slider = document.querySelector('.slider input[data-task]'); slider.value = Number(slider.value) + 0.5;
           slider.dispatchEvent(new Event('input', {bubbles: true})); return document.body.offsetHeight"""
READY = "return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def board(teams: int) -> Board:
    """So many teams on the official tasks, best first."""
    rng = random.Random(teams)
    official = official_board()
    rows = []
    for place in range(1, teams + 1):
        raws = {each.name: min(max(1 - place / teams + rng.gauss(0, 0.03), 0.0), 1.0) for each in official.columns}
        cells = {
            name: Cell(raw=raw, normalized=raw, interval=Interval(low=raw - 0.0123, high=raw + 0.0117))
            for name, raw in raws.items()
        }
        score = statistics.fmean(raws.values())
        rows.append(
            Row(
                rank=place, team=f"Team {place} of a university", submission_id=f"{place:012x}", score=score,
                interval=Interval(low=score - 0.01, high=score + 0.01), groups={"public": score, "hidden": score},
                cells=cells, missing=(), p_next=0.3, distinct_from_next=False,
                rank_interval=RankInterval(best=max(1, place - 2), worst=min(teams, place + 2)),
                p_first=1 / place**2, tier=1 + place // 6,
            )
        )  # fmt: skip
    shares = {"public": 0.5, "hidden": 0.5}
    return replace(official, rows=tuple(rows), group_weights=shares)


def main_thread_s(driver: Chrome) -> float:
    """CPU seconds of the page's main thread so far."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def measure(driver: Chrome, teams: int, loads: int) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        index = render([board(teams)], [], Path(folder) / "site")
        names = ("site.css", "site.js", "ranking.js", "address.js", "table.js", "whatif.js", "index.js")
        others = [index.with_name("scores.js"), *(index.parent / "static" / name for name in names)]
        size = index.stat().st_size
        whole = size + sum(path.stat().st_size for path in others)
        ready: list[float] = []
        load: list[float] = []
        sort: list[float] = []
        weigh: list[float] = []
        for _ in range(loads):
            driver.get("about:blank")
            driver.get(index.as_uri())
            driver.execute_script("return document.body.offsetHeight")
            ready.append(driver.execute_script(READY))
            load.append(main_thread_s(driver))
            for script, found in ((SORT, sort), (WEIGH, weigh)):
                before = main_thread_s(driver)
                driver.execute_script(script)
                found.append(main_thread_s(driver) - before)
    least = " | ".join(f"{min(each) * 1000:.0f} ms" for each in (load, sort, weigh))
    return f"| {teams} | {size / 1000:.0f} kB, {whole / 1000:.0f} kB | {statistics.median(ready):.0f} ms | {least} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=7)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    driver = browser.start()
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        lines = [measure(driver, teams, options.loads) for teams in TEAMS]
    finally:
        driver.quit()
    words = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    load = os.getloadavg()[0]
    text = "\n".join(
        [
            "# How heavy the ranking's page is",
            "",
            f"Written by `python bench/page_speed.py --loads {options.loads}`, with {load:.1f} other processes waiting "
            f"for {os.cpu_count()} cores. {words}",
            "",
            "| teams | bytes: index, with all it loads | ready | load, all | sort | weigh a task otherwise |",
            "|---:|---|---:|---:|---:|---:|",
            *lines,
            "",
        ]
    )
    print(text)
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
