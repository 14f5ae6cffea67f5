"""Every kind of page in a real Chromium, from file://: quiet, readable with axe-core, by keyboard and on paper."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from paper import printed
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from sites import NAMES, Folders, folders, shown

pytest_plugins = ["browser"]

KINDS = ("index", "compare", "method", "history", "submission", "preview", "who")
WIDTHS = {1440: 900, 390: 844}

# As axe.run takes it; `preload` would fetch the style sheets once more, which the pages' own policy refuses.
AXE = """
const done = arguments[0];
axe.run(document, {preload: false, resultTypes: ['violations']}).then((found) => done(
  [found.passes.length, found.violations.map((each) =>
    `${each.id} (${each.impact}): ${each.nodes.map((node) => node.target.join(' ')).slice(0, 5).join(' | ')}`)]));
"""


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
    """A window of this width, in light or dark; nothing scrolls slowly."""
    size = {"width": width, "height": WIDTHS[width], "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    asked_for = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": asked_for})


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


def test_every_kind_of_page_is_there(made: Folders) -> None:
    """What the other tests look at is all that is published, and both pages of a preview."""
    site = {path.relative_to(made.site).parts[0] for path in made.site.rglob("*.html")}
    assert site == {"index.html", "compare.html", "method.html", "history.html", "submission"}
    assert tuple(made.pages) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_asks_nobody_and_shows_hostile_names_as_text(page: Chrome, made: Folders, kind: str) -> None:
    """Files of its own folder only, no error; no element, script, title or cut page comes from a name of any kind."""
    asked(page)
    open_all(page, made.pages[kind])
    urls = [url for url in asked(page) if url != "about:blank"]
    folder = (made.preview if kind in {"preview", "who"} else made.site).as_uri()
    assert any(url.endswith("/site.css") for url in urls)
    assert [url for url in urls if not url.startswith((f"{folder}/", "data:"))] == []
    assert "owned" not in page.title.replace(shown(NAMES[0]), "")
    assert page.execute_script("return document.querySelectorAll('b[onclick], img, body script').length") == 0
    texts = page.execute_script("return [...document.querySelectorAll('bdi')].map((each) => each.textContent)")
    isolated = "\0".join(texts).replace("\n", shown("\n"))
    expected = {"compare": NAMES[:4], "submission": NAMES[2:3]}.get(kind, NAMES)
    assert [name for name in map(shown, expected) if name not in isolated] == []
    for width in WIDTHS:
        look(page, width, "light")
        assert page.execute_script("return document.documentElement.scrollWidth - innerWidth") == 0, width


@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(page: Chrome, made: Folders, axe: str, kind: str) -> None:
    """No violation of any of axe-core's rules, on a desk in light and on a phone in dark, with all unfolded."""
    _without_violations(page, made.pages[kind], axe, ((1440, "light"), (390, "dark")))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.dear(day=n % 3)) for n, kind in enumerate(KINDS)]
)
def test_axe_finds_nothing_the_other_way_round(page: Chrome, made: Folders, axe: str, kind: str) -> None:
    """Nor on a desk in dark, nor on a phone in light."""
    _without_violations(page, made.pages[kind], axe, ((1440, "dark"), (390, "light")))


def _without_violations(page: Chrome, address: str, axe: str, looks: tuple[tuple[int, str], ...]) -> None:
    open_all(page, address)
    page.execute_script(axe)
    for width, scheme in looks:
        look(page, width, scheme)
        passed, violations = page.execute_async_script(AXE)
        assert violations == [], f"{width} pixels, {scheme}"
        assert passed > 15


def test_axe_finds_what_is_wrong(page: Chrome, made: Folders, axe: str) -> None:
    """The check above can fail: faint text, a field without a name, and a region that no key can scroll are found."""
    open_all(page, made.pages["who"])
    page.execute_script("""
        const main = document.querySelector('main');
        const faint = document.createElement('p'); faint.textContent = 'faint'; faint.style.color = '#ddd';
        main.append(faint, document.createElement('input'));""")
    page.execute_script(axe)
    _, violations = page.execute_async_script(AXE)
    assert {each.partition(" ")[0] for each in violations} == {"color-contrast", "label"}


# -- the keyboard

STOPS = """
const seen = (each) => each.getClientRects().length && getComputedStyle(each).visibility === 'visible';
return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
  .filter((each) => seen(each) && !each.disabled && each.tabIndex >= 0).length;
"""
FOCUS = """
const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
window.stops ??= [];
const again = window.stops.includes(at);
window.stops.push(at);
const inSight = box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight;
return [at === document.body, again, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
        inSight, `${at.tagName} ${at.className} ${at.textContent.slice(0, 30)}`];
"""


@pytest.mark.parametrize("kind", ["index", "compare", "submission", "method"])
def test_tab_reaches_everything_and_shows_where_it_is(page: Chrome, made: Folders, kind: str) -> None:
    """From the skip link on, each control once, in sight, inside a visible outline; none holds the focus captive."""
    open_all(page, made.pages[kind])
    page.execute_script("document.activeElement.blur(); scrollTo(0, 0);")
    expected = page.execute_script(STOPS)
    assert expected > 12
    for place in range(expected):
        ActionChains(page, duration=0).send_keys(Keys.TAB).perform()
        is_body, again, outlined, in_sight, what = page.execute_script(FOCUS)
        assert not is_body, f"{place} of {expected}"
        assert (again, outlined, in_sight) == (False, True, True), what
    first = page.execute_script("return stops[0].className")
    assert first == "skip"


def test_a_reader_without_a_mouse_ranks_anew_and_compares(page: Chrome, made: Folders) -> None:
    """Skip link, a panel opened, a slider moved by arrow keys, a box ticked and the comparison followed: keys alone."""
    page.get("about:blank")
    page.get(made.pages["index"].partition("#")[0])

    def press(*keys: str) -> None:
        ActionChains(page, duration=0).send_keys(*keys).perform()

    press(Keys.TAB, Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "main"
    press(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("type") == "search"
    press("moon")
    assert page.find_element(By.CSS_SELECTOR, ".count").text == "1 of 9 teams"
    press(Keys.ESCAPE, Keys.TAB, Keys.TAB)
    assert page.switch_to.active_element.text.startswith("What if")
    press(Keys.SPACE)
    while page.switch_to.active_element.get_attribute("data-task") != "keyword":
        press(Keys.TAB)
    press(Keys.ARROW_RIGHT)
    assert page.current_url.partition("#")[2] == "track-a?w=keyword:1.05"
    while "pick" not in (page.switch_to.active_element.get_attribute("class") or "").split():
        press(Keys.TAB)
    press(Keys.SPACE)
    chosen = page.execute_script("return document.activeElement.closest('tr').dataset.row")
    assert "(1)" in page.find_element(By.CSS_SELECTOR, ".compare-link").text
    page.find_element(By.CSS_SELECTOR, ".compare-link").send_keys(Keys.ENTER)
    assert "compare.html" in page.current_url
    assert made.board.rows[int(chosen)].submission_id in page.current_url


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
