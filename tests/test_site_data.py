"""docs/data.md, data.json and data.csv: every field of the files is described, and none that is not there."""

from __future__ import annotations

import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from boards import small_board, submissions

from ranker.board import Board, Origin
from ranker.board.tabled import of_table
from ranker.calibration import Calibration, Figure
from ranker.config import load_ranking
from ranker.scoretable import rank_table
from ranker.site import reference, tidy
from ranker.site.export import to_json

ROOT = Path(__file__).parent.parent
OFFICIAL = ROOT / "tests" / "golden" / "interspeech2026_track_a.csv"
PAGE = ROOT / "docs" / "data.md"


@pytest.fixture(scope="module")
def table_board() -> Board:
    """The official table's board, with alternatives, agreement and pairs."""
    benchmark = load_ranking(ROOT / "configs" / "interspeech2026.yaml")
    (ranking,) = rank_table(OFFICIAL, benchmark, "A").rankings
    now = datetime(2026, 11, 20, tzinfo=UTC)
    return of_table(
        ranking, benchmark.track("A"), Origin(digest="ab" * 32, source="the organizers", imported_at=now), now=now
    )


def test_the_page_is_what_the_program_says() -> None:
    """`python -m ranker.site.reference > docs/data.md` was run after the last change."""
    assert PAGE.read_text(encoding="utf-8") == reference.markdown()


def documented() -> dict[str, set[str]]:
    """Fields by class, as the page's tables have them."""
    found: dict[str, set[str]] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n### ")[1:]:
        found[section.split("\n")[0]] = set(
            re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], flags=re.MULTILINE)
        )
    return found


def test_every_field_of_data_json_is_described(table_board: Board) -> None:
    """In a file with everything in it, each object has exactly the fields of its class on the page."""
    small = small_board("B")
    figure = Figure(baseline="b", task="t", metric="mAP", published=0.1, tolerance=0.1, computed="mAP", measured=0.1)
    calibration = Calibration(
        track="A", condition="ab", figures=(figure,), reasons=(), advice=("for organizers",), measured_at=None
    )
    data = json.loads(to_json([small, table_board], submissions(small), [calibration]))
    whole, imported = data["boards"]
    row = whole["rows"][0]
    pairs: list[tuple[str, Any]] = [
        ("Board", whole), ("Board", imported), ("Condition", whole["condition"]), ("Origin", imported["origin"]),
        ("IntervalBasis", whole["intervals"]), ("TaskColumn", whole["columns"][0]), ("Row", row),
        ("Cell", row["cells"]["keyword"]), ("Interval", row["interval"]),
        ("RankInterval", imported["rows"][0]["rank_interval"]), ("Alternative", imported["alternatives"][0]),
        ("Agreement", imported["agreement"]), ("Pairs", imported["pairs"]), ("Calibration", data["calibrations"][0]),
        ("Figure", data["calibrations"][0]["figures"][0]), ("SubmissionPage", data["submissions"][0]),
        ("TrackRun", data["submissions"][0]["runs"][0]),
        ("Sample", data["submissions"][0]["runs"][0]["samples"].popitem()[1][0]),
    ]  # fmt: skip
    described = documented()
    assert {name for name, _ in pairs} | {"Repeats"} == set(described)
    for name, value in pairs:
        assert set(value) == described[name], name
    assert "for organizers" not in json.dumps(data)


def test_every_quantity_of_data_csv_is_described(table_board: Board) -> None:
    """Each quantity stands on the page, words in capitals apart; each number of the board is found again."""
    lines = list(csv.DictReader(tidy.to_csv([table_board]).splitlines()))
    page = PAGE.read_text(encoding="utf-8").split("## data.csv")[1]
    quantities = {re.sub(r"\.(if|of)\.\w+$", r".\1.", line["quantity"]) for line in lines}
    quantities = {re.sub(r"(group_weight|mean)\.\w+$", r"\1.GROUP", each) for each in quantities}
    said = " ".join(re.findall(r"`([^`]+)`", page))
    ends = {"rank.low", "rank.high", "score.low", "score.high", "agreement.low", "agreement.high"}
    missing = [each for each in quantities - ends if each not in said]
    assert missing == []
    assert len(quantities) > 30
    values = {(line["submission"], line["task"], line["quantity"]): line["value"] for line in lines}
    assert len(values) == len(lines)
    first, second = table_board.rows[:2]
    assert table_board.pairs is not None
    assert float(values[first.submission_id, "", f"ahead.of.{second.submission_id}"]) == table_board.pairs.ahead[0][0]
    left_out = next(each for each in table_board.alternatives if each.task == "gtzan")
    assert int(values[first.submission_id, "gtzan", "rank.if.left_out"]) == left_out.ranks[0]
    assert float(values["", "gtzan", "tau.if.left_out"]) == left_out.tau
    assert float(values[second.submission_id, "cremad", "score"]) == second.cells["cremad"].raw
