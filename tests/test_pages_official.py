"""The official table of 2026, imported and published by commands, as a real Chromium shows it from file://."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boards import OFFICIAL, official_board
from paper import printed
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from sites import official

from ranker.board import Interval, RankInterval
from ranker.cli import main
from ranker.service import Ranker
from ranker.site import render

pytest_plugins = ["browser"]

TOTAL, PUBLIC, HIDDEN = "(Public + Hidden) / 2", "Public test result", "Hidden test result"
TABLE = """
return [...document.querySelectorAll('#track-a tbody.ranked tr')].filter((row) => !row.hidden).map((row) =>
  [row.querySelector('.team bdi').textContent,
   ...[...row.cells].filter((cell) => !cell.matches('.team')).map((cell) => cell.innerText.trim())])"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    return official(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def page(browser: Chrome, published: Ranker) -> Iterator[Chrome]:
    """The ranking's page, freshly opened; it logs no error."""
    browser.get("about:blank")
    browser.get((published.home.site / "index.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, str]]:
    """The committee's table by team."""
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        return {line["Team"]: line for line in csv.DictReader(file)}


def test_the_pages_numbers_are_the_committees(page: Chrome, lines: dict[str, dict[str, str]]) -> None:
    """Order, scores, means and all 483 task scores; names beyond ASCII; equal scores are told apart by their digits."""
    shown = {team: cells for team, *cells in page.execute_script(TABLE)}
    by_score = sorted(lines, key=lambda team: -float(lines[team][TOTAL]))
    assert sorted(lines, key=list(shown).index) == list(shown)
    assert [float(lines[team][TOTAL]) for team in shown] == [float(lines[team][TOTAL]) for team in by_score]
    tasks = list(next(iter(lines.values())))[6:]
    looked_at = 0
    for team, cells in shown.items():
        own = lines[team]
        score = re.match(r"\d\.\d+", cells[1])
        assert score is not None
        assert float(score[0]) == pytest.approx(float(own[TOTAL]), abs=1.01e-4)
        means = [float(value) for value in cells[5:7]]
        assert means == pytest.approx([float(own[PUBLIC]), float(own[HIDDEN])], abs=1.01e-4)
        for task, cell in zip(tasks, cells[7:], strict=True):
            assert float(cell) == pytest.approx(float(own[task]), abs=5.01e-4), (team, task)
            looked_at += 1
    assert looked_at == 23 * 21
    assert [cells[0] for cells in shown.values()] == [str(rank) for rank in range(1, 24)]


def test_columns_that_are_all_one_or_all_zero_tell_nobody_apart(
    browser: Chrome, tmp_path: Path, lines: dict[str, dict[str, str]]
) -> None:
    """Where everybody is equal nobody is the best or shaded darker, and sorting by the column changes nothing."""
    table = tmp_path / "table.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["Team", *list(lines["CORE"])[6:]], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(line | {"esc-50": "1.0000", "gtzan": "0.0000"} for line in lines.values())
    made = Ranker(tmp_path / "home")
    made.import_scores(table, "interspeech2026", track="A", source="a test", baselines=())
    (board,) = made.boards("interspeech2026")
    browser.get(render([board], [], tmp_path / "site").as_uri())
    keys = browser.execute_script("return [...document.querySelectorAll('.heads th')].map((each) => each.dataset.key)")
    script = "return [...document.querySelectorAll('tbody.ranked tr')].map((r) => [...r.cells].map((c) => c.className))"
    classes = browser.execute_script(script)
    before = browser.execute_script(TABLE)
    for task, value in (("esc-50", "1.000"), ("gtzan", "0.000")):
        place = keys.index(task)
        assert {row[place] for row in classes} == {"h0"}, task
        assert {row[place] for row in before} == {value}
        browser.execute_script("document.querySelector(`[data-key='${arguments[0]}'] button`).click()", task)
        assert browser.execute_script(TABLE) == before
    assert any("best" in each for row in classes for each in row)
    assert browser.get_log("browser") == []


WEIGHED = """
const state = address.parse(location.hash, SCORES, table.columns);
return ranking.rank(SCORES[0], state.weights).map((each) => [each.row.team, each.rank, each.score, each.groups])"""


def test_sliders_rank_as_the_command_does(page: Chrome, published: Ranker, capsys: pytest.CaptureFixture[str]) -> None:
    """What sliders give is what the command shown beside them prints: ranks, scores to 1e-9; the table shows it."""
    page.find_element(By.CSS_SELECTOR, ".open-what-if").click()
    for task, keys in (("gtzan", [Keys.END]), ("cremad", [Keys.HOME]), ("king-asr-876", [Keys.ARROW_LEFT] * 7)):
        page.find_element(By.CSS_SELECTOR, f"input[data-task='{task}']").send_keys(*keys)
    page.find_element(By.CSS_SELECTOR, ".share input").send_keys(*[Keys.ARROW_RIGHT] * 13)
    command = page.find_element(By.CSS_SELECTOR, ".command code").text.split()
    assert command[0] == "ranker"
    assert {"gtzan=4", "cremad=0", "king-asr-876=0.65", "hidden=0.63"} < set(command)
    found = {team: (rank, score, groups) for team, rank, score, groups in page.execute_script(WEIGHED)}
    with pytest.raises(SystemExit):
        main(["--home", str(published.home.root), *command[1:], "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == len(found) == 23
    for row in rows:
        rank, score, groups = found[row["team"]]
        assert rank == row["rank"]
        assert score == pytest.approx(row["score"], abs=1e-9, rel=0)
        for group, value in groups.items():
            assert value == pytest.approx(row["groups"][group], abs=1e-9, rel=0)
    table = page.execute_script(TABLE)
    assert [line[0] for line in table] == [row["team"] for row in rows]
    assert [line[2].split()[0] for line in table] == [f"{row['score']:.4f}" for row in rows]
    official_ranks = {row.team: row.rank for row in published.boards("interspeech2026")[0].rows}
    assert any(row["rank"] != official_ranks[row["team"]] for row in rows)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_teams_are_compared_by_the_committees_numbers(
    browser: Chrome, published: Ranker, lines: dict[str, dict[str, str]], count: int
) -> None:
    """Two, three and four by a deep link: every task's scores, and who is ahead of the next by how much."""
    rows = published.boards("interspeech2026")[0].rows[2 : 2 + count]
    browser.get("about:blank")
    picked = ",".join(row.submission_id for row in rows)
    browser.get(f"{(published.home.site / 'compare.html').as_uri()}#track-a?pick={picked}")
    script = """return [...document.querySelectorAll('.versus tbody tr:not(.total)')].map((row) =>
        [row.querySelector('small').textContent.split(' ')[0],
         [...row.querySelectorAll('td.n')].map((cell) => cell.innerText.split('\\n')[0].trim())])"""
    shown = dict(browser.execute_script(script))
    tasks = list(lines["CORE"])[6:]
    assert shown == {
        task.rstrip("*").lower(): [f"{float(lines[row.team][task]):.4f}" for row in rows] for task in tasks
    }
    assert len(browser.find_elements(By.CSS_SELECTOR, ".pairs li")) == count * (count - 1) // 2
    assert browser.get_log("browser") == []


def test_all_of_it_is_on_paper(page: Chrome, lines: dict[str, dict[str, str]]) -> None:
    """23 teams on 21 tasks as PDF: every team, every score and mean, none beyond the sheet's edge."""
    words = printed(page)
    wanted = Counter(
        number for _, *cells in page.execute_script(TABLE) for cell in cells[5:] for number in cell.split()
    )
    assert wanted.total() == 23 * 23
    assert wanted - Counter(word for word, _, _ in words) == Counter()
    assert {part for team in lines for part in team.split()} <= {word for word, _, _ in words}
    assert [word for word, x, y in words if not (0.01 < x < 0.975 and 0.01 < y < 0.985)] == []


def test_a_page_of_200_teams_is_small(tmp_path: Path) -> None:
    """At 200 teams and 21 tasks, with all intervals, index.html stays below 600 KB (time: bench/page_speed.py)."""
    board = official_board()
    model = board.rows[0]
    cells = {
        task: replace(cell, raw=cell.raw * 0.98765, interval=Interval(low=cell.raw - 0.0123, high=cell.raw + 0.0117))
        for task, cell in model.cells.items()
    }
    rows = tuple(
        replace(
            model, rank=place, team=f"Team {place} of a university", submission_id=f"{place:012x}", cells=cells,
            score=0.9 - place / 1000, interval=Interval(low=0.3, high=0.8), tier=1 + place // 6, p_first=1 / place**2,
            rank_interval=RankInterval(best=place, worst=place + 3), p_next=0.3, distinct_from_next=False,
        )
        for place in range(1, 201)
    )  # fmt: skip
    content = render([replace(board, rows=rows)], [], tmp_path / "site").read_text(encoding="utf-8")
    assert content.count("<tr data-row=") == 200
    assert content.count("0.987") + content.count("0.9") > 200
    assert len(content.encode()) < 600_000
