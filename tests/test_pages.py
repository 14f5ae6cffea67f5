"""Every kind of page in a real Chromium, from file://: quiet, fine for axe-core, by keyboard and on paper; the official
table's numbers, sliders and comparison.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boards import OFFICIAL, official_board
from paper import printed
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from sites import NAMES, Folders, folders, official, shown

from ranker.board import Interval, RankInterval
from ranker.cli import main
from ranker.service import Ranker
from ranker.site import render

pytest_plugins = ["browser"]

KINDS = ("index", "compare", "method", "history", "submission", "preview")
WIDTHS = {1440: 900, 390: 844}

# As axe.run takes it; `preload` would fetch the style sheets once more, which the pages' own policy refuses.
AXE = """
const [rules, done] = arguments;
const only = rules.length ? {runOnly: {type: 'rule', values: rules}} : {};
axe.run(document, {preload: false, resultTypes: ['violations'], ...only}).then((found) => done(
  [found.passes.length, found.violations.map((each) =>
    `${each.id} (${each.impact}): ${each.nodes.map((node) => node.target.join(' ')).slice(0, 5).join(' | ')}`)]));
"""
OF_COLOURS = ("color-contrast", "link-in-text-block")
OF_WIDTHS = (*OF_COLOURS, "scrollable-region-focusable", "target-size", "css-orientation-lock", "label")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return folders(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script, of the package that carries it; what else is in the package is not imported."""
    package = importlib.util.find_spec("axe_playwright_python")
    assert package is not None, "install axe-playwright-python without its dependencies, as the Makefile does"
    assert package.origin is not None
    return Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def page(browser: Chrome) -> Iterator[Chrome]:
    """The browser; afterwards, whatever was shown last has logged no error, and all is as it was."""
    look(browser, 1440, "light")
    yield browser
    assert browser.get_log("browser") == []
    look(browser, 1440, "light")


def look(browser: Chrome, width: int, scheme: str) -> None:
    """A window of this width, in light or dark."""
    size = {"width": width, "height": WIDTHS[width], "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def open_all(browser: Chrome, address: str) -> None:
    """A page anew, with everything on it unfolded."""
    browser.get("about:blank")
    browser.get(address)
    browser.execute_script("""
        document.querySelectorAll('details').forEach((each) => { each.open = true; });
        document.querySelectorAll('[aria-expanded=false]').forEach((each) => each.click());""")


def asked(browser: Chrome) -> list[str]:
    """Every address that was asked for since the last call, also those that a policy refused."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [str(each["params"]["request"]["url"]) for each in messages if each["method"] == "Network.requestWillBeSent"]


# Names behind which a text of the page stands to their left: what turned it round is in the name.
LEAKS = """
return [...document.querySelectorAll('bdi')].filter((each) => {
  const text = each.nextSibling;
  if (text?.nodeType !== Node.TEXT_NODE || !text.data.trim() || !each.checkVisibility()) return false;
  const range = document.createRange();
  range.setStart(text, text.data.search(/\\S/));
  range.setEnd(text, text.data.search(/\\S/) + 1);
  const [own, next] = [[...each.getClientRects()].at(-1), range.getBoundingClientRect()];
  return next.top < own.bottom && next.bottom > own.top && next.left < own.right - 1;
}).map((each) => each.textContent);
"""


def test_every_kind_of_page_is_there(made: Folders) -> None:
    """What the other tests look at is all that is published."""
    site = {path.relative_to(made.site).parts[0] for path in made.site.rglob("*.html")}
    assert site == {"index.html", "compare.html", "method.html", "history.html", "submission"}
    assert tuple(made.pages) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_nobody_and_shows_hostile_names_as_text(page: Chrome, made: Folders, kind: str) -> None:
    """Files of its own folder only, no error; no element, script, title or cut page comes from a name of any kind."""
    asked(page)
    open_all(page, made.pages[kind])
    urls = [url for url in asked(page) if url != "about:blank"]
    folder = (made.preview if kind == "preview" else made.site).as_uri()
    assert any(url.endswith("/site.css") for url in urls)
    assert [url for url in urls if not url.startswith((f"{folder}/", "data:"))] == []
    assert "owned" not in page.title.replace(shown(NAMES[0]), "")
    assert page.execute_script("return document.querySelectorAll('b[onclick], img, body script').length") == 0
    texts = page.execute_script("return [...document.querySelectorAll('bdi')].map((each) => each.textContent)")
    isolated = "\0".join(texts).replace("\n", shown("\n"))
    expected = {"compare": NAMES[:4], "submission": NAMES[2:3]}.get(kind, NAMES)
    assert [name for name in map(shown, expected) if name not in isolated] == []
    assert page.execute_script(LEAKS) == []
    for width in WIDTHS:
        look(page, width, "light")
        assert page.execute_script("return document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(page: Chrome, made: Folders, axe: str, kind: str) -> None:
    """No violation of any of axe-core's rules, with everything unfolded."""
    open_all(page, made.pages[kind])
    page.execute_script(axe)
    passed, violations = page.execute_async_script(AXE, [])
    assert violations == []
    assert passed > 15


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.dear(day=n % 3)) for n, kind in enumerate(KINDS)]
)
def test_axe_finds_nothing_in_the_dark_and_on_a_phone(page: Chrome, made: Folders, axe: str, kind: str) -> None:
    """Nor of those rules that depend on colours and widths, in dark, on a phone, and in both."""
    open_all(page, made.pages[kind])
    page.execute_script(axe)
    for width, scheme, rules in ((1440, "dark", OF_COLOURS), (390, "light", OF_WIDTHS), (390, "dark", OF_WIDTHS)):
        look(page, width, scheme)
        passed, violations = page.execute_async_script(AXE, rules)
        assert violations == [], f"{width} pixels, {scheme}"
        assert passed >= 1


@pytest.mark.dear(day=0)
def test_axe_finds_what_is_wrong(page: Chrome, made: Folders, axe: str) -> None:
    """The check above can fail: faint text, a field without a name, and a region that no key can scroll are found."""
    open_all(page, made.pages["preview"])
    page.execute_script("""
        const main = document.querySelector('main');
        const faint = document.createElement('p'); faint.textContent = 'faint'; faint.style.color = '#ddd';
        main.append(faint, document.createElement('input'));""")
    page.execute_script(axe)
    _, violations = page.execute_async_script(AXE, [])
    assert {each.partition(" ")[0] for each in violations} == {"color-contrast", "label"}


# -- the keyboard

# What Tab can reach, in order; and, at each step, what is wrong with where it is.
STEPS = """
const seen = (each) => each.getClientRects().length && getComputedStyle(each).visibility === 'visible';
window.stops = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
  .filter((each) => seen(each) && !each.disabled && each.tabIndex >= 0);
window.steps = [];
addEventListener('focusin', ({target}) => {
  const style = getComputedStyle(target), box = target.getBoundingClientRect();
  const isOutlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  const isInSight = box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
  window.steps.push([window.stops.indexOf(target), isOutlined, isInSight, target.outerHTML.slice(0, 80)]);
});
return window.stops.length;
"""


def press(page: Chrome, *keys: str) -> None:
    ActionChains(page, duration=0).send_keys(*keys).perform()


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.dear(day=n % 3)) for n, kind in enumerate(KINDS[:5])]
)
def test_tab_reaches_everything_and_shows_where_it_is(page: Chrome, made: Folders, kind: str) -> None:
    """From the skip link on, each control once and in order, in sight, in a visible outline."""
    open_all(page, made.pages[kind])
    page.execute_script("document.activeElement.blur(); scrollTo(0, 0);")
    expected = page.execute_script(STEPS)
    assert expected > 8
    press(page, *[Keys.TAB] * expected)
    steps = page.execute_script("return window.steps")
    assert [step[3] for step in steps if not (step[1] and step[2])] == []
    assert [step[0] for step in steps] == list(range(expected))
    assert "skip" in steps[0][3]


@pytest.mark.dear(day=1)
def test_a_reader_without_a_mouse_ranks_anew_and_compares(page: Chrome, made: Folders) -> None:
    """Skip link, search, a panel opened, a slider moved, a box ticked and the comparison followed: by keys alone."""
    page.get("about:blank")
    page.get(made.pages["index"].partition("#")[0])

    def tab_to(selector: str) -> None:
        page.execute_script(STEPS)
        script = """const at = window.stops.indexOf(document.activeElement);
                    return window.stops.findIndex((each, n) => n > at && each.matches(arguments[0])) - at"""
        press(page, *[Keys.TAB] * page.execute_script(script, selector))
        assert page.execute_script("return document.activeElement.matches(arguments[0])", selector)

    press(page, Keys.TAB, Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "main"
    press(page, Keys.TAB)
    assert page.execute_script("return document.activeElement.type") == "search"
    press(page, "moon")
    assert page.find_element(By.CSS_SELECTOR, ".count").text == "1 of 9 teams"
    press(page, Keys.ESCAPE)
    tab_to(".open-what-if")
    press(page, Keys.SPACE)
    tab_to("input[data-task=keyword]")
    press(page, Keys.ARROW_RIGHT)
    assert page.current_url.partition("#")[2] == "track-a?w=keyword:1.05"
    tab_to(".pick")
    press(page, Keys.SPACE)
    chosen = page.execute_script("return document.activeElement.closest('tr').dataset.row")
    assert "(1)" in page.find_element(By.CSS_SELECTOR, ".compare-link").text
    page.find_element(By.CSS_SELECTOR, ".compare-link").send_keys(Keys.ENTER)
    assert page.current_url.partition("#")[2] == f"track-a?pick={made.board.rows[int(chosen)].submission_id}"


# -- paper

NUMBERS = """
return [...document.querySelectorAll('main :is(td, th)')].filter((each) => each.checkVisibility())
  .flatMap((each) => each.innerText.match(/\\d\\.\\d{3,}/g) ?? []);
"""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.dear(day=n % 3)) for n, kind in enumerate(KINDS[1:5])]
)
def test_nothing_is_cut_on_paper(page: Chrome, made: Folders, kind: str) -> None:
    """As PDF, also of a dark page: every number of every table stands on a sheet, and no word beyond its edge."""
    look(page, 1440, "dark")
    page.get("about:blank")
    page.get(made.pages[kind])
    words = printed(page)
    wanted = Counter(page.execute_script(NUMBERS))
    assert wanted.total() > (0 if kind == "history" else 20)
    found = Counter(number for word, _, _ in words for number in re.findall(r"\d\.\d{3,}", word))
    assert wanted - found == Counter()
    assert [word for word, x, y in words if not (0.01 < x < 0.985 and 0.01 < y < 0.985)] == []


# -- the official table of 2026, imported and published by commands

TOTAL, PUBLIC, HIDDEN = "(Public + Hidden) / 2", "Public test result", "Hidden test result"
TABLE = """
return [...document.querySelectorAll('#track-a tbody.ranked tr')].filter((row) => !row.hidden).map((row) =>
  [row.querySelector('.team bdi').textContent,
   ...[...row.cells].filter((cell) => !cell.matches('.team')).map((cell) => cell.innerText.trim())])"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    return official(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def ranking(page: Chrome, published: Ranker) -> Chrome:
    """The ranking's page, freshly opened."""
    page.get("about:blank")
    page.get((published.home.site / "index.html").as_uri())
    return page


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, str]]:
    """The committee's table by team."""
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        return {line["Team"]: line for line in csv.DictReader(file)}


def test_the_pages_numbers_are_the_committees(ranking: Chrome, lines: dict[str, dict[str, str]]) -> None:
    """Order, scores, means and all 483 task scores; names beyond ASCII; equal scores are told apart by their digits."""
    shown = {team: cells for team, *cells in ranking.execute_script(TABLE)}
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


@pytest.mark.dear(day=0)
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


def test_sliders_rank_as_the_command_does(
    ranking: Chrome, published: Ranker, capsys: pytest.CaptureFixture[str]
) -> None:
    """What sliders give is what the command shown beside them prints: ranks, scores to 1e-9; the table shows it."""
    ranking.find_element(By.CSS_SELECTOR, ".open-what-if").click()
    for task, keys in (("gtzan", [Keys.END]), ("cremad", [Keys.HOME]), ("king-asr-876", [Keys.ARROW_LEFT] * 7)):
        ranking.find_element(By.CSS_SELECTOR, f"input[data-task='{task}']").send_keys(*keys)
    ranking.find_element(By.CSS_SELECTOR, ".share input").send_keys(*[Keys.ARROW_RIGHT] * 13)
    command = ranking.find_element(By.CSS_SELECTOR, ".command code").text.split()
    assert command[0] == "ranker"
    assert {"gtzan=4", "cremad=0", "king-asr-876=0.65", "hidden=0.63"} < set(command)
    found = {team: (rank, score, groups) for team, rank, score, groups in ranking.execute_script(WEIGHED)}
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
    table = ranking.execute_script(TABLE)
    assert [line[0] for line in table] == [row["team"] for row in rows]
    assert [line[2].split()[0] for line in table] == [f"{row['score']:.4f}" for row in rows]
    official_ranks = {row.team: row.rank for row in published.boards("interspeech2026")[0].rows}
    assert any(row["rank"] != official_ranks[row["team"]] for row in rows)


@pytest.mark.dear(day=2)
def test_teams_are_compared_by_the_committees_numbers(
    page: Chrome, published: Ranker, lines: dict[str, dict[str, str]]
) -> None:
    """Four by a deep link, then three and two as the others are left out: every task's scores, and every pair."""
    rows = published.boards("interspeech2026")[0].rows[2:6]
    page.get("about:blank")
    picked = ",".join(row.submission_id for row in rows)
    page.get(f"{(published.home.site / 'compare.html').as_uri()}#track-a?pick={picked}")
    script = """return [...document.querySelectorAll('.versus tbody tr:not(.total)')].map((row) =>
        [row.querySelector('small').textContent.split(' ')[0],
         [...row.querySelectorAll('td.n')].map((cell) => cell.innerText.split('\\n')[0].trim())])"""
    tasks = {task.rstrip("*").lower(): task for task in list(lines["CORE"])[6:]}
    for count in (4, 3, 2):
        expected = [[f"{float(lines[row.team][task]):.4f}" for row in rows[:count]] for task in tasks.values()]
        assert dict(page.execute_script(script)) == dict(zip(tasks, expected, strict=True))
        assert len(page.find_elements(By.CSS_SELECTOR, ".pairs li")) == count * (count - 1) // 2
        Select(page.find_elements(By.CSS_SELECTOR, ".pick-teams select")[count - 1]).select_by_value("")


@pytest.mark.dear(day=1)
def test_all_of_it_is_on_paper(ranking: Chrome, lines: dict[str, dict[str, str]]) -> None:
    """23 teams on 21 tasks as PDF: every team, every score and mean, none beyond the sheet's edge."""
    words = printed(ranking)
    wanted = Counter(
        number for _, *cells in ranking.execute_script(TABLE) for cell in cells[5:] for number in cell.split()
    )
    assert wanted.total() == 23 * 23
    assert wanted - Counter(word for word, _, _ in words) == Counter()
    assert {part for team in lines for part in team.split()} <= {word for word, _, _ in words}
    assert [word for word, x, y in words if not (0.01 < x < 0.975 and 0.01 < y < 0.985)] == []


@pytest.mark.dear(day=2)
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
