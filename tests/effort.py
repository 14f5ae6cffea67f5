"""How many cases a randomised test tries: few in `make test`, many in `make test-long`, which reports how many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

import pytest

REPORT = Path(__file__).parent.parent / "docs" / "results" / "test-long.md"
LONG = os.environ.get("RANKER_TESTS") == "long"

WHOLE = "RANKER_TESTS_WHOLE"  # set for the processes of a run of the whole suite
DAY = "RANKER_TESTS_DAY"  # as 2026-11-20; says which third of the dear cases runs, so that a day can be repeated
# A run of the whole suite gives files to its processes one after another: one that takes long must not begin last.
LONGEST = tuple(
    f"test_{name}.py"
    for name in (
        "end_to_end", "site_browser", "pages", "sandbox_contract", "attacks_exhaust", "build", "hidden", "audit",
        "witness", "sandbox_check", "evaluation", "lalm_train", "lalm_generate", "examples", "mini", "publish",
        "executor_ray", "worker",
    )
)  # fmt: skip
Case = TypeVar("Case")

_counts: dict[str, int] = {}


def count(what: str, *, short: int, long: int) -> int:
    """The number of cases to try of `what`, which names them in the report."""
    number = long if LONG else short
    _counts[what] = number
    return number


def found(what: str, number: int) -> None:
    """Something worth knowing that was counted on the way: it stands in the report too."""
    _counts[what] = number


def pytest_configure(config: pytest.Config) -> None:
    """Fix, for all test processes, what this run collects: which day (midnight may pass), and whether all of it."""
    os.environ.setdefault(DAY, f"{datetime.now(UTC):%Y-%m-%d}")
    if not hasattr(config, "workerinput"):
        os.environ[WHOLE] = "" if config.args_source is pytest.Config.ArgsSource.ARGS else "yes"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests marked `dear`, leave out those of the other two days, and let the longest files begin; whoever names a
    file or a test gets it as it is.
    """
    if LONG or not os.environ[WHOLE]:
        return
    today = date.fromisoformat(os.environ[DAY]).toordinal() % 3
    later = [item for item in items for mark in item.iter_markers("dear") if mark.kwargs["day"] != today]
    config.hook.pytest_deselected(items=later)
    left_out = set(later)
    items[:] = sorted((item for item in items if item not in left_out), key=lambda item: place(item.path.name))


def place(file_name: str) -> int:
    """Where a file stands in a run of the whole suite: those that take longest first, all others as they were."""
    return LONGEST.index(file_name) if file_name in LONGEST else len(LONGEST)


def pytest_report_header() -> str:
    """With what a failure of today's third can be repeated on another day."""
    return f"a third of the dear cases runs each day: this is {DAY}={os.environ[DAY]}"


def third(cases: Sequence[Case], *, day: date) -> list[Case]:
    """Every third case, beginning with another one on each of three days."""
    return list(cases[day.toordinal() % 3 :: 3])


def todays(what: str, cases: Sequence[Case]) -> list[Case]:
    """All cases in `make test-long`, else the day's third; `what` names them in the report."""
    chosen = list(cases) if LONG else third(cases, day=date.fromisoformat(os.environ[DAY]))
    _counts[what] = len(chosen)
    return chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """After a long run of the whole suite, write the report."""
    if LONG and os.environ[WHOLE] and not config.option.collectonly:
        outcomes = {
            name: len(terminalreporter.stats.get(name, ())) for name in ("passed", "failed", "error", "skipped")
        }
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text("\n".join(_report(outcomes)) + "\n", encoding="utf-8")


def _report(outcomes: dict[str, int]) -> Iterator[str]:
    yield "# What `make test-long` tried"
    yield ""
    yield (
        f"Written by it on {datetime.now(UTC):%Y-%m-%d}: "
        + ", ".join(f"{n} {name}" for name, n in outcomes.items())
        + "."
    )
    yield ""
    yield "| cases | of |"
    yield "| ---: | --- |"
    for what, number in sorted(_counts.items()):
        yield f"| {number:,} | {what} |"
