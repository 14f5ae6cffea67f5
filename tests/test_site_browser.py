"""The static page in a real Chromium, opened from file://."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boards import HOSTILE, official_board, small_board, submission
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from ranker.site import render

pytest_plugins = ["browser"]

RANKED = "#track-a tbody.ranked tr"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small/`: two tracks, with oddities; `official/`: 23 teams; `large/`: 500 teams, five tasks."""
    root = tmp_path_factory.mktemp("sites")
    first, second = small_board("A"), small_board("B")
    pages = [
        submission(row, first, runs=submission(row, first).runs + submission(row, second).runs) for row in first.rows
    ]
    render([first, second], pages, root / "small")
    official = official_board()
    render([official], [submission(row, official) for row in official.rows], root / "official")
    model = first.rows[0]
    rows = tuple(
        replace(model, rank=n, team=f"team {n}", submission_id=f"{n:012x}", score=0.9 - n / 1000, interval=None)
        for n in range(1, 501)
    )
    render([replace(first, rows=rows)], [], root / "large")
    return root


@pytest.fixture
def page(browser: Chrome, site: Path) -> Iterator[Chrome]:
    """The small page, freshly opened at desktop size, in light colours and with nothing stored."""
    size(browser, 1440, 900)
    browser.get((site / "small" / "index.html").as_uri())
    if browser.execute_script("const kept = localStorage.length; localStorage.clear(); return kept"):
        browser.get((site / "small" / "index.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []


def size(browser: Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def teams(browser: Chrome, rows: str = RANKED) -> list[str]:
    """Names in the order in which they stand, those that the filter hides left out."""
    script = """return [...document.querySelectorAll(arguments[0])].filter(r => !r.hidden && !r.matches('.divider'))
                .map(r => r.querySelector('.team bdi').textContent)"""
    return list(browser.execute_script(script, rows))


def head(browser: Chrome, name: str) -> WebElement:
    """The button of the visible track's column."""
    buttons = browser.find_elements(By.CSS_SELECTOR, "#track-a .heads button")
    return next(button for button in buttons if button.text.split("\n")[0].rstrip("†") == name)


def sort_state(browser: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('#track-a .heads th')].map(h => h.getAttribute('aria-sort'))"
    return [state for state in browser.execute_script(script) if state != "none"]


def test_sorting_by_click(page: Chrome) -> None:
    """The first click on a number sorts it downwards, the second upwards; incomplete rows stay below, on their own."""
    board = small_board()
    ranked = [row for row in board.rows if row.rank is not None]
    best_first = [row.team for row in sorted(ranked, key=lambda row: -row.cells["instrument"].raw)]
    assert best_first != [row.team for row in ranked]
    head(page, "instrument").click()
    assert teams(page) == best_first
    assert sort_state(page) == ["descending"]
    head(page, "instrument").click()
    assert teams(page) == best_first[::-1]
    assert sort_state(page) == ["ascending"]
    head(page, "#").click()
    assert teams(page) == [row.team for row in ranked]
    head(page, "secret").click()
    assert teams(page, "#track-a tbody.unranked tr") == ["zeta", "=cmd|' /C calc'!A0"]  # the other has no score there


def test_sorting_by_keyboard(page: Chrome) -> None:
    """A column's head can be reached with Tab and sorts with Enter and with Space."""
    page.find_element(By.CSS_SELECTOR, "#track-a .scroll").click()
    button = head(page, "Team")
    head(page, "#").send_keys(Keys.TAB)
    assert page.switch_to.active_element == button
    button.send_keys(Keys.ENTER)
    assert sort_state(page) == ["ascending"]
    upwards = teams(page)
    button.send_keys(Keys.SPACE)
    assert sort_state(page) == ["descending"]
    assert teams(page) == upwards[::-1]
    assert upwards.index("logmel") < upwards.index("moonshine") < upwards.index("noise")


def test_tiers_are_joined_in_the_order_of_ranks_only(page: Chrome) -> None:
    """The bracket of a tier goes once another order or a filter makes its members strangers; its number stays."""
    joined = "return getComputedStyle(document.querySelector('#track-a .tier-first .tier'), '::before').borderLeftStyle"
    assert page.execute_script(joined) == "solid"
    head(page, "keyword").click()
    assert page.execute_script(joined) == "none"
    assert page.find_element(By.CSS_SELECTOR, f"{RANKED} .tier").text != ""
    head(page, "#").click()
    assert page.execute_script(joined) == "solid"
    page.find_element(By.CSS_SELECTOR, "#track-a input").send_keys("o")
    assert page.execute_script(joined) == "none"


def test_filter_by_team(page: Chrome) -> None:
    """Typing leaves the rows whose name contains it, says how many, and Escape brings all back."""
    field = page.find_element(By.CSS_SELECTOR, "#track-a input")
    field.send_keys("MOON")
    assert teams(page) == ["moonshine"]
    assert page.find_element(By.CSS_SELECTOR, "#track-a .count").text == "1 of 9 teams"
    field.send_keys("!!")
    assert teams(page) == []
    assert page.find_element(By.CSS_SELECTOR, "#track-a .none").is_displayed()
    field.send_keys(Keys.ESCAPE)
    assert len(teams(page)) == 7
    field.send_keys("<script>")
    assert teams(page) == [HOSTILE[0]]


def test_dark_toggle_is_kept(page: Chrome, site: Path) -> None:
    """The toggle turns the page dark, names what it does next, and holds on the next page."""
    background = "return getComputedStyle(document.body).backgroundColor"
    button = page.find_element(By.CSS_SELECTOR, ".theme")
    light = page.execute_script(background)
    assert button.get_attribute("aria-label") == "Switch to dark colours"
    button.click()
    dark = page.execute_script(background)
    assert dark != light
    assert button.get_attribute("aria-label") == "Switch to light colours"
    page.find_element(By.CSS_SELECTOR, f"{RANKED} a").click()
    assert page.current_url.endswith("/submission/000000000001.html")
    assert page.execute_script(background) == dark


def test_the_systems_dark_mode_is_followed(page: Chrome) -> None:
    """Without a choice the page follows the system, and the button offers the other one."""
    light = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    prefer(page, "dark")
    try:
        assert page.execute_script("return getComputedStyle(document.body).backgroundColor") != light
        # The media query's event comes with the next frame that the browser draws, not with the command.
        WebDriverWait(page, 30).until(lambda shown: shown.find_element(By.CSS_SELECTOR, ".theme").text == "Light")
    finally:
        prefer(page, "light")


def prefer(browser: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_tabs(page: Chrome) -> None:
    """Tracks are tabs: by click, by arrow key, and by the address; one panel shows at a time."""
    tabs = page.find_elements(By.CSS_SELECTOR, "[role=tab]")
    panels = page.find_elements(By.CSS_SELECTOR, "[role=tabpanel]")

    def shown() -> list[bool]:
        return [panel.is_displayed() for panel in panels]

    assert shown() == [True, False]
    tabs[1].click()
    assert shown() == [False, True]
    assert page.current_url.endswith("#track-b")
    page.refresh()
    tabs = page.find_elements(By.CSS_SELECTOR, "[role=tab]")
    panels = page.find_elements(By.CSS_SELECTOR, "[role=tabpanel]")
    assert shown() == [False, True]
    tabs[1].send_keys(Keys.ARROW_RIGHT)
    assert shown() == [True, False]
    assert page.switch_to.active_element == tabs[0]
    assert [tab.get_attribute("aria-selected") for tab in tabs] == ["true", "false"]


def requests(browser: Chrome) -> list[str]:
    """Every address that the browser asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        str(message["params"]["request"]["url"])
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_nothing_is_asked_of_another_host_and_nothing_goes_wrong(page: Chrome, site: Path) -> None:
    """Each kind of page loads files of its own folder only, runs its script, and logs no error."""
    requests(page)
    for name in ("small/index.html", "small/submission/000000000003.html", "official/index.html"):
        page.get((site / name).as_uri())
        asked = requests(page)
        assert any(url.endswith("site.css") for url in asked)
        assert all(url.startswith(f"{site.as_uri()}/") for url in asked)
        assert page.find_element(By.CSS_SELECTOR, ".theme").is_displayed()
        assert page.get_log("browser") == []


def test_the_policy_refuses_what_an_injection_would_try(page: Chrome) -> None:
    """Were markup ever to slip through, inline scripts do not run and other hosts are not asked."""
    page.execute_script("""
        const script = document.createElement('script'); script.textContent = 'document.title = "owned"';
        const image = document.createElement('img'); image.src = 'https://example.invalid/x.png';
        document.body.append(script, image);""")
    assert page.title == "Demonstration: Mini"
    errors = [entry["message"] for entry in page.get_log("browser")]
    assert len(errors) == 2
    assert all("Content Security Policy" in error for error in errors)


def test_hostile_names_break_nothing(page: Chrome, site: Path) -> None:
    """Names with markup, direction marks or 300 characters are text, and leave widths and heights as they are."""
    assert page.title == "Demonstration: Mini"
    assert teams(page)[2:5] == list(HOSTILE)
    heights = page.execute_script(f"return [...document.querySelectorAll('{RANKED}')].map(r => r.offsetHeight)")
    assert max(heights) <= min(heights) + 8
    for number in (3, 4, 5):
        page.get((site / "small" / "submission" / f"{number:012x}.html").as_uri())
        assert page.find_element(By.CSS_SELECTOR, "h1 bdi").get_attribute("textContent") == HOSTILE[number - 3]
        assert overflow(page) == 0
    page.get((site / "small" / "submission" / "000000000003.html").as_uri())
    assert page.title == f"Demonstration: {HOSTILE[0]} \N{EN DASH} Mini"


def overflow(browser: Chrome) -> int:
    """By how many pixels the page, as opposed to its tables, is wider than the window."""
    return int(browser.execute_script("const it = document.documentElement; return it.scrollWidth - it.clientWidth"))


@pytest.mark.parametrize("name", ["small/index.html", "official/index.html", "small/submission/000000000005.html"])
def test_a_phone_scrolls_tables_not_the_page(page: Chrome, site: Path, name: str) -> None:
    """On a phone the page fits; tables scroll sideways, with rank and team staying in sight."""
    size(page, 390, 844)
    page.get((site / name).as_uri())
    assert overflow(page) == 0
    if name.endswith("index.html"):
        script = """const box = document.querySelector('.card .scroll'); box.scrollLeft = 400;
                    const left = c => box.querySelector('.ranked ' + c).getBoundingClientRect().left;
                    return [left('.rank'), left('.team')]"""
        rank, team = page.execute_script(script)
        assert 0 <= rank < team < 60
        assert page.execute_script("return document.querySelector('.card .scroll').scrollLeft") == 400


def test_five_hundred_teams_keep_their_heads_in_sight(page: Chrome, site: Path) -> None:
    """With many rows the table scrolls in itself under its heads, and sorting still orders all of them."""
    page.get((site / "large" / "index.html").as_uri())
    assert len(teams(page)) == 500
    script = """const box = document.querySelector('.card .scroll'); box.scrollTop = 9000;
                return [box.scrollTop, box.querySelector('.heads').getBoundingClientRect().top
                        - box.getBoundingClientRect().top]"""
    scrolled, top = page.execute_script(script)
    assert scrolled == 9000
    assert 0 <= top < 60
    page.execute_script("document.querySelector('.heads .score button').click()")
    page.execute_script("document.querySelector('.heads .score button').click()")
    assert teams(page) == [f"team {n}" for n in range(500, 0, -1)]


CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgb(colour, under) {
  canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}
function behind(element) {
  const chain = []; for (let e = element; e; e = e.parentElement) chain.unshift(e);
  return chain.reduce((under, e) => rgb(getComputedStyle(e).backgroundColor, under), [255, 255, 255]);
}
const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest('.hidden, .skip, option, script') || !e.getClientRects().length) continue;
  const under = behind(e), [a, b] = [light(rgb(getComputedStyle(e).color, under)), light(under)].sort((x, y) => y - x);
  found.push([(a + .05) / (b + .05), e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["small/index.html", "small/submission/000000000001.html"])
def test_all_text_has_contrast(page: Chrome, site: Path, name: str, scheme: str) -> None:
    """Every visible text stands out by 4.5 to 1 (WCAG 2.2, level AA), in each shade of the heat map, light and dark."""
    prefer(page, scheme)
    try:
        page.get((site / name).as_uri())
        page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        found: list[tuple[float, Any]] = page.execute_script(CONTRAST)
    finally:
        prefer(page, "light")
    assert len(found) > 80
    assert [entry for entry in found if entry[0] < 4.5] == []


def test_the_table_is_told_to_screen_readers(page: Chrome) -> None:
    """Caption, column and row heads, names for regions and controls, and a skip link that leads to the content."""
    table = page.find_element(By.CSS_SELECTOR, "#track-a table.board")
    assert "7 teams ranked" in str(table.find_element(By.TAG_NAME, "caption").get_attribute("textContent"))
    assert len(table.find_elements(By.CSS_SELECTOR, "tbody.ranked th[scope=row]")) == 7
    assert len(table.find_elements(By.CSS_SELECTOR, ".heads th[scope=col][aria-sort]")) == 14
    assert page.find_element(By.CSS_SELECTOR, "#track-a input").accessible_name == "Filter by team name"
    assert page.find_element(By.CSS_SELECTOR, ".demonstration").accessible_name == "Demonstration"
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = page.switch_to.active_element
    assert skip.text == "Skip to the content"
    skip.send_keys(Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "main"


def reopened(page: Chrome) -> Chrome:
    """The same address, as somebody gets it who follows a link."""
    address = page.current_url
    page.get("about:blank")
    page.get(address)
    return page


def shown_columns(page: Chrome) -> list[str]:
    script = """return [...document.querySelectorAll('#track-a .heads th')].filter(h => h.offsetParent)
                .map(h => h.dataset.key)"""
    return list(page.execute_script(script))


def test_the_address_keeps_what_was_chosen(page: Chrome) -> None:
    """Order, filter, columns and ticked teams come back with the address; the back button undoes them one by one."""
    head(page, "instrument").click()
    order = teams(page)
    press(page, "[aria-controls=track-a-columns]")
    press(page, ".columns-panel input[value=effects]")
    press(page, "tr[data-row='0'] .pick")
    field = page.find_element(By.CSS_SELECTOR, "#track-a .filter input")
    field.send_keys("e")
    field.send_keys("s", Keys.TAB)
    kept = [team for team in order if "es" in team.casefold()]
    assert teams(page) == kept
    assert 0 < len(kept) < len(order)
    reopened(page)
    assert teams(page) == kept
    assert sort_state(page) == ["descending"]
    assert "effects" not in shown_columns(page)
    assert page.find_element(By.CSS_SELECTOR, "#track-a tr[data-row='0'] .pick").is_selected()
    page.back()  # the blank page
    page.back()  # back on the page that typed; typing was one step
    assert teams(page) == kept
    page.back()
    assert teams(page) == order
    assert page.find_element(By.CSS_SELECTOR, "#track-a tr[data-row='0'] .pick").is_selected()
    page.back()
    assert not page.find_element(By.CSS_SELECTOR, "#track-a tr[data-row='0'] .pick").is_selected()
    page.back()
    assert "effects" in shown_columns(page)
    assert teams(page) == order
    page.back()
    assert teams(page) == [row.team for row in small_board().rows[:7]]


def press(page: Chrome, selector: str) -> None:
    """A click on the visible track's element."""
    page.find_element(By.CSS_SELECTOR, f"#track-a {selector}").click()


def test_columns_leave_with_all_their_cells(page: Chrome) -> None:
    """Heads, cells, foot and the headings above span what is left; "All columns" brings everything back."""
    everything = shown_columns(page)
    press(page, "[aria-controls=track-a-columns]")
    press(page, "[data-only=speech]")
    assert shown_columns(page) == [*everything[:8], "keyword", "language", "speaker_count"]
    script = """return [...document.querySelectorAll('#track-a .board tr:not(.divider)')]
                .map(r => [...r.cells].reduce((n, c) => n + (c.offsetParent ? c.colSpan : 0), 0))"""
    assert set(page.execute_script(script)) == {11}
    press(page, ".all-columns")
    assert shown_columns(page) == everything
    assert set(page.execute_script(script)) == {14}


def test_other_weights_rank_anew_and_the_official_ranking_comes_back(page: Chrome) -> None:
    """A slider moves teams, keeps the official score beside, and its address and reset do what they say."""
    official = teams(page)
    press(page, ".open-what-if")
    slider = page.find_element(By.CSS_SELECTOR, "#track-a input[data-task=language]")
    assert slider.accessible_name == "language"
    for name in ("keyword", "speaker_count", "instrument", "effects", "secret"):
        page.find_element(By.CSS_SELECTOR, f"#track-a input[data-task={name}]").send_keys(Keys.HOME)
    board = small_board()
    rows = [row for row in board.rows if "language" in row.cells]
    best_first = [row.team for row in sorted(rows, key=lambda row: -row.cells["language"].raw)]
    assert teams(page) == best_first != official
    assert page.find_element(By.CSS_SELECTOR, "#track-a .not-official").is_displayed()
    assert "--weight keyword=0" in page.find_element(By.CSS_SELECTOR, "#track-a .command code").text
    first = page.find_element(By.CSS_SELECTOR, RANKED)
    assert f"official {board.rows[0].score:.3f}" in page.find_element(By.CSS_SELECTOR, "tr[data-row='0'] .score").text
    assert first.find_element(By.CSS_SELECTOR, ".rank").text.startswith("1")
    reopened(page)
    assert teams(page) == best_first
    press(page, ".reset")
    assert teams(page) == official
    assert not page.find_element(By.CSS_SELECTOR, "#track-a .not-official").is_displayed()
    assert page.find_elements(By.CSS_SELECTOR, "#track-a .other") == []


def test_ticked_teams_are_compared(page: Chrome) -> None:
    """Four boxes at most; the link leads to their comparison, whose numbers are the board's, hostile names as text."""
    for row in (2, 0, 3, 4):
        press(page, f"tr[data-row='{row}'] .pick")
    assert not page.find_element(By.CSS_SELECTOR, "#track-a tr[data-row='1'] .pick").is_enabled()
    press(page, ".compare-link")
    board = small_board()
    chosen = [board.rows[place] for place in (2, 0, 3, 4)]
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    assert page.execute_script(script, ".cards h2 bdi") == [row.team for row in chosen]
    keyword = page.find_element(By.XPATH, "//table[@class='versus']//tr[th/small[starts-with(., 'keyword ')]]")
    shown = [cell.text.split("\n")[0] for cell in keyword.find_elements(By.CSS_SELECTOR, "td.n")]
    assert shown == [f"{row.cells['keyword'].raw:.4f}" for row in chosen]
    raws = sorted((row.cells["keyword"].raw for row in chosen), reverse=True)
    assert f"by {raws[0] - raws[1]:.4f}" in keyword.find_element(By.CSS_SELECTOR, ".ahead").text
    assert len(page.find_elements(By.CSS_SELECTOR, ".pairs li")) == 6
    assert overflow(page) == 0
    page.execute_script("""const s = document.querySelectorAll('.pick-teams select')[3];
                           s.value = ''; s.dispatchEvent(new Event('change'));""")
    assert page.execute_script(script, ".cards h2 bdi") == [row.team for row in chosen[:3]]
    page.back()
    assert len(page.execute_script(script, ".cards h2 bdi")) == 4
