"""A submission's page: which predictions stand on it, what it says of a rank, and its browser of predictions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from boards import HOSTILE, small_board, submission
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from test_figures import sure

from ranker import overview
from ranker.board import Interval, Repeats
from ranker.site import Sample, render
from ranker.site.submission_view import standings, submission_view
from ranker.types import Pick

pytest_plugins = ["browser"]


def items(count: int = 100, score: float | None = None) -> pd.DataFrame:
    scores = [n / count for n in range(count)] if score is None else [score] * count
    return pd.DataFrame(
        {
            "clip": [f"c{n:03d}" for n in range(count)],
            "reference": "r",
            "candidate": "said",
            "item": scores,
        }
    )


def chosen(samples: tuple[Sample, ...], pick: Pick) -> list[str]:
    return [each.item for each in samples if each.pick is pick]


def test_worst_best_and_random_predictions_whatever_order_they_come_in() -> None:
    """A shuffled file gives the same 25 pairs: the lowest and highest by score, others without regard to it."""
    found = overview.samples(items())
    assert chosen(found, Pick.WORST) == [f"c{n:03d}" for n in range(5)]
    assert chosen(found, Pick.BEST) == [f"c{n:03d}" for n in range(99, 94, -1)]
    others = chosen(found, Pick.RANDOM)
    assert len(others) == len(set(others)) == 15
    assert 0.2 < sum(int(each[1:]) for each in others) / 1500 < 0.8
    assert set(overview.samples(items().sample(frac=1, random_state=3))) == set(found)


def test_random_predictions_are_the_same_pairs_of_every_submission() -> None:
    """Two submissions can be compared clip by clip: their own scores move nothing but the extremes."""
    first, second = items(), items().assign(item=items()["item"].to_numpy()[::-1])
    extremes = {f"c{n:03d}" for n in (*range(5), *range(95, 100))}
    one, other = (set(chosen(overview.samples(each), Pick.RANDOM)) - extremes for each in (first, second))
    assert one == other


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (7, 7), (25, 25), (26, 25)])
def test_small_and_unscored_test_sets(count: int, expected: int) -> None:
    """No pair twice, none that is not there, and without scores of items all are random."""
    found = overview.samples(items(count))
    assert len({each.item for each in found}) == len(found) == expected
    unscored = overview.samples(items(count).assign(item=float("nan")))
    assert {each.pick for each in unscored} <= {Pick.RANDOM}
    assert len(unscored) == expected


def test_a_rank_says_how_sure_it_is_and_what_it_hangs_on() -> None:
    """Interval, share of draws, group, and the one choice of two under which the rank is another."""
    board = sure(small_board())
    row = replace(board.rows[1], p_first=0.125, tier=2, distinct_from_next=False, p_next=0.2, repeats=Repeats(
        seeds=(42, 43), values=(0.661, 0.65), deviation=0.0078, freedom=1, interval=Interval(low=0.5, high=0.8)
    ))  # fmt: skip
    board = replace(board, rows=(board.rows[0], row, *board.rows[2:]))
    (run,) = submission_view(submission(row, board), [standings(board)]).runs
    said = dict(run.sure)
    assert said["Rank interval"] == "1\N{EN DASH}3"
    assert said["First in"] == "12.5% of the draws"
    assert said["Significance group"] == "2"
    assert said["From the next"] == "not told apart (p = 0.200)"
    assert [(change.rank, change.choice) for change in run.changes] == [(6, "mean of the ranks on each task")]
    assert run.choices == 2
    assert [(each.what, each.values) for each in run.repeats] == [
        ("Track score", ((42, "0.661"), (43, "0.650"))),
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    board = sure(small_board())
    hostile = [
        Sample(item=f"clip {n}", reference=name, candidate="\u0645\u0631\u062d\u0628\u0627", score=n / 4, pick=pick)
        for n, (name, pick) in enumerate(zip((*HOSTILE, "Gr\u00fc\u00dfe"), (*Pick, Pick.RANDOM), strict=True))
    ]
    other = [Sample(item="lone", reference="x", candidate="y", score=None)]
    own = submission(board.rows[0], board)
    secret = {"secret": (Sample(item="h", reference="hidden-reference", candidate="z", score=1.0),)}
    samples = {"keyword": tuple(hostile), "effects": tuple(other), **secret}
    page = replace(own, runs=(replace(own.runs[0], samples=samples, gradient_norms=own.runs[0].curve),))
    return render([board], [page], tmp_path_factory.mktemp("submission") / "site").parent / "submission"


@pytest.fixture
def page(browser: Chrome, site: Path) -> Iterator[Chrome]:
    browser.get(next(site.glob("*.html")).as_uri())
    yield browser
    assert browser.get_log("browser") == []


def shown(browser: Chrome) -> list[str]:
    """Clips of the predictions that are to be seen, in their order."""
    rows = "[...document.querySelectorAll('.browser tbody tr')]"
    script = f"return {rows}.filter(r => !r.hidden).map(r => r.cells[1].textContent)"
    return list(browser.execute_script(script))


def test_hidden_predictions_are_nowhere_and_names_are_text(site: Path) -> None:
    """Nothing of a hidden task's pairs, no element made by a reference, no style attribute, each id once."""
    source = next(site.glob("*.html")).read_text(encoding="utf-8")
    assert "hidden-reference" not in source
    assert "<img" not in source
    assert " style=" not in source
    ids = re.findall(r' id="([^"]+)"', source)
    assert len(ids) == len(set(ids)) > 10
    assert source.count('<svg class="figure"') == 5


def test_predictions_are_filtered_searched_and_sorted(page: Chrome) -> None:
    """By task, by why they were chosen, by any of their words without regard to accents, and by score both ways."""
    task, pick = (Select(each) for each in page.find_elements(By.CSS_SELECTOR, ".browser-tools select"))
    assert shown(page) == ["clip 0", "clip 1", "clip 2", "clip 3"]
    task.select_by_value("")
    assert shown(page) == ["clip 0", "clip 1", "clip 2", "clip 3", "lone"]
    button = page.find_element(By.CSS_SELECTOR, ".browser th button")
    button.click()
    button.click()
    assert shown(page) == ["clip 3", "clip 2", "clip 1", "clip 0", "lone"]  # what has no score stays last
    pick.select_by_visible_text("worst")
    assert shown(page) == ["clip 0"]
    pick.select_by_visible_text("any")
    search = page.find_element(By.CSS_SELECTOR, ".browser-tools input")
    search.send_keys("gru\u00dfe")
    assert shown(page) == ["clip 3"]
    search.send_keys("nothing of it")
    assert page.find_element(By.CSS_SELECTOR, ".browser-none").is_displayed()
    search.send_keys(Keys.ESCAPE)
    assert len(shown(page)) == 5
    assert page.find_element(By.CSS_SELECTOR, ".browser-count").text == "5 of 5"


def test_a_phone_never_scrolls_sideways_and_charts_fit(page: Chrome) -> None:
    """At 360 pixels the page is as wide as the screen, and no chart is wider than its card."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    widths = page.execute_script(
        "return [document.documentElement.scrollWidth, ...[...document.querySelectorAll('svg.figure')].map("
        "s => s.getBoundingClientRect().right)]"
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(widths) == 6
    assert max(widths) <= 360
