"""The rotation of dear tests: which run on which day, and that none is forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import effort
import pytest

SUITE = """
import pytest

def test_cheap(): pass
@pytest.mark.dear(day=0)
def test_zero(): pass
@pytest.mark.dear(day=1)
def test_one(): pass
@pytest.mark.dear(day=2)
def test_two(): pass
"""
OURS = {effort.WHOLE, effort.DAY, "RANKER_TESTS", "PYTEST_ADDOPTS"}  # of the run that this test is part of
DAYS = {"2026-11-20": "test_two", "2026-11-21": "test_zero", "2026-11-22": "test_one"}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite of four tests, three of them dear."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_suite.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\nmarkers = dear(day): dear\n")
    return folder


def collected(suite: Path, *arguments: str, **environment: str) -> set[str]:
    """The tests that pytest would run there."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    command = [sys.executable, "-m", "pytest", "-p", "effort", "-p", "no:cacheprovider", "--collect-only", "-q"]
    paths = {"PYTHONPATH": str(Path(effort.__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(
        [*command, *arguments], cwd=suite, env=kept | paths | environment, capture_output=True, text=True, check=True
    )
    return {line.partition("::")[2] for line in ended.stdout.splitlines() if "::" in line}


def test_each_dear_test_has_its_day_and_three_days_run_all(suite: Path) -> None:
    """Attacks the rotation: a dear test that no day runs would never fail."""
    for day, dear in DAYS.items():
        assert collected(suite, RANKER_TESTS_DAY=day) == {"test_cheap", dear}


def test_whoever_asks_for_a_file_or_for_all_gets_it(suite: Path) -> None:
    """Attacks the one who mends a dear test and is told that nothing failed, since nothing ran."""
    everything = {"test_cheap", *DAYS.values()}
    assert collected(suite, "test_suite.py", RANKER_TESTS_DAY="2026-11-20") == everything
    assert collected(suite, RANKER_TESTS_DAY="2026-11-20", RANKER_TESTS="long") == everything


def test_the_longest_files_begin_first_and_all_others_keep_their_order() -> None:
    """Attacks the end of a run, at which one process works on a long file and the others have nothing to do; and a list
    that names files which are gone.
    """
    named = ["test_audio.py", effort.LONGEST[1], "test_archive.py", effort.LONGEST[0]]
    assert sorted(named, key=effort.place) == [*effort.LONGEST[:2], "test_audio.py", "test_archive.py"]
    folder = Path(effort.__file__).parent
    assert [name for name in effort.LONGEST if not (folder / name).is_file()] == []
