"""Imported tables: the official one of 2026 as its committee published it, corrected ones, and bad ones."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ranker import events, imports
from ranker.cli import main
from ranker.config import RankedBenchmark, load_ranking
from ranker.db.session import open_database, session
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.home import Home
from ranker.service import Ranker
from ranker.types import Action, Resampling

ROOT = Path(__file__).parent.parent
OFFICIAL = ROOT / "tests" / "golden" / "interspeech2026_track_a.csv"
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
THREE = """\
name: three
title: Three tasks
description: x
ranking_only: true
tracks:
  A:
    title: T
    tasks:
      - {name: keyword, title: Keyword, domain: speech, metric: Accuracy}
      - {name: words, title: Words, domain: speech, metric: WER, worst: 100, best: 0}
      - {name: horn, title: Horn, domain: sound, metric: mAP}
"""
GOOD = "team,keyword,words,horn\nUne équipe,0.9,12,0.5\nB,0.8,20,0.6\nC,0.8,20,0.6\n"


@pytest.fixture
def three(tmp_path: Path) -> RankedBenchmark:
    (tmp_path / "home" / "configs").mkdir(parents=True)
    path = tmp_path / "home" / "configs" / "three.yaml"
    path.write_text(THREE, encoding="utf-8")
    return load_ranking(path)


@pytest.fixture
def bring(tmp_path: Path, three: RankedBenchmark) -> Callable[..., imports.Imported]:
    """Import a table's text or bytes into the home of the test."""
    home = Home(root=tmp_path / "home")

    def imported(content: str | bytes = GOOD, *, source: str = "lab", baselines: tuple[str, ...] = (), hours: int = 0):
        path = tmp_path / "table.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        engine = open_database(home)
        try:
            with session(engine) as writing:
                return imports.import_table(
                    writing, home, three, path, track=None, source=source, baselines=baselines,
                    now=NOW + timedelta(hours=hours),
                )  # fmt: skip
        finally:
            engine.dispose()

    return imported


@pytest.fixture
def ranker(tmp_path: Path) -> Ranker:
    return Ranker(tmp_path / "home")


def logged(ranker: Ranker) -> list[dict[str, Any]]:
    with ranker.reading() as reading:
        return [each.details for each in events.since(reading) if each.action == Action.IMPORT_SCORES]


# -- the official table


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    """A home with nothing but the official table of Track A, imported by the command."""
    home = tmp_path_factory.mktemp("official")
    given = ["--benchmark", "interspeech2026", "--track", "A", "--source", "the organizers' leaderboard page"]
    with pytest.raises(SystemExit) as left:
        main(["--home", str(home), "import-scores", str(OFFICIAL), *given])
    assert not left.value.code
    return Ranker(home)


def test_the_official_table_ranks_as_published(official: Ranker) -> None:
    """All 23 teams in the committee's order, with its displayed scores and group means, two of which are equal."""
    (board,) = official.boards("interspeech2026")
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        lines = {line["Team"]: line for line in csv.DictReader(file)}
    assert len(board.rows) == len(lines) == 23
    shown = [(f"{row.score:.4f}", f"{row.groups['public']:.4f}", f"{row.groups['hidden']:.4f}") for row in board.rows]
    columns = ("(Public + Hidden) / 2", "Public test result", "Hidden test result")
    for row, own in zip(board.rows, shown, strict=True):
        published = [float(lines[row.team][each]) for each in columns]
        assert [float(each) for each in own] == pytest.approx(published, abs=1.01e-4), row.team
    published_order = [float(lines[row.team][columns[0]]) for row in board.rows]
    assert published_order == sorted(published_order, reverse=True)
    assert [row.rank for row in board.rows] == list(range(1, 24))
    assert len(set(published_order)) == 22, "two teams are equal in four digits, and are told apart by more"


def test_a_table_s_certainty_is_over_tasks_and_says_so(official: Ranker) -> None:
    """Every row has an interval, a rank interval and a group; what was drawn, and what is held fixed, is named."""
    (board,) = official.boards("interspeech2026", track="A")
    assert board.intervals.resampling is Resampling.TASKS
    assert board.intervals.given == "given each task's score"
    assert board.condition is None
    assert board.seed is None
    assert board.origin is not None
    assert board.basis == board.origin.digest == hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()
    assert all(row.interval and row.rank_interval and row.tier for row in board.rows)
    assert board.pairs is not None
    assert board.pairs.rows == 23
    assert [len(each) for each in board.pairs.ahead] == list(range(22, 0, -1))
    assert all(cell.interval is None for row in board.rows for cell in row.cells.values())


def test_the_official_table_becomes_a_page(official: Ranker) -> None:
    """Published through the gate: every team, task and published mean is on it, and data.json is the board."""
    from ranker.service import Edition

    edition = Edition(benchmark="interspeech2026")
    published = official.publish(edition, not_before=None, despite_embargo=False, why="")
    del published
    site = official.home.site
    html = (site / "index.html").read_text(encoding="utf-8")
    data = json.loads((site / "data.json").read_text(encoding="utf-8"))
    (board,) = official.boards("interspeech2026")
    (said,) = data["boards"]
    assert said["rows"] == json.loads(json.dumps(board.to_json()["rows"]))
    assert (said["condition"], said["origin"]["source"]) == (None, "the organizers' leaderboard page")
    assert data["submissions"] == []
    for row in board.rows:
        assert row.team in html
    for column in board.columns:
        assert column.name in html
    assert "intervals over the tasks: only task scores are known" in html
    assert "seed" not in html.lower().replace("seeds", "")


def test_anonymous_teams_of_a_table_leave_no_name(official: Ranker) -> None:
    """A preview with pseudonyms holds no team's name in any file but the list of who is who, nor an id made of one."""
    from ranker.service import Edition

    index = official.preview(Edition(benchmark="interspeech2026", anonymous=True), None)
    (board,) = official.boards("interspeech2026")
    looked = 0
    for path in [path for path in index.parent.rglob("*") if path.suffix in {".html", ".json", ".csv", ".js"}]:
        if path.name == "who.html":
            continue
        text = path.read_text(encoding="utf-8")
        looked += 1
        for row in board.rows:
            assert row.submission_id not in text, path.name
            assert len(row.team) < 6 or row.team not in text, path.name
    assert looked > 8


# -- what an import keeps


def test_the_same_table_again_changes_nothing(bring: Callable[..., imports.Imported], ranker: Ranker) -> None:
    """One file, one line in the log; from another source, or with another baseline, it is another import."""
    first, again = bring(), bring(hours=1)
    assert (first.new, again.new) == (("A",), ())
    assert first.tables == again.tables
    assert len(logged(ranker)) == 1
    assert bring(source="the same lab").new == ("A",)
    assert bring(source="the same lab", baselines=("B",)).new == ("A",)
    assert [each["baselines"] for each in logged(ranker)] == [[], [], ["B"]]
    assert len(list(ranker.home.tables.iterdir())) == 1


def test_a_corrected_table_takes_the_place_and_the_old_one_is_kept(
    bring: Callable[..., imports.Imported], ranker: Ranker
) -> None:
    """Ranks follow the last import, also back to the first table; the log knows each and what it replaced."""
    first = bring().tables[0].origin
    second = bring(GOOD.replace("C,0.8", "C,1.0"), hours=1).tables[0].origin
    (board,) = ranker.boards("three")
    assert [(row.team, row.rank) for row in board.rows] == [("C", 1), ("Une équipe", 2), ("B", 3)]
    assert (second.supersedes, board.origin) == (first.digest, second)
    assert (ranker.home.tables / f"{first.digest}.csv").read_text(encoding="utf-8") == GOOD
    third = bring(hours=2).tables[0].origin
    assert (third.digest, third.supersedes) == (first.digest, second.digest)
    assert [row.rank for row in ranker.boards("three")[0].rows] == [1, 2, 2]
    assert [each["digest"] for each in logged(ranker)] == [first.digest, second.digest, first.digest]


def test_a_baseline_stands_in_place_without_a_rank(bring: Callable[..., imports.Imported], ranker: Ranker) -> None:
    """Below its equals, counted by nobody's rank, with an interval of its score; an unknown one is refused."""
    bring(baselines=("B",))
    (board,) = ranker.boards("three")
    assert [(row.team, row.rank, row.is_baseline) for row in board.rows] == [
        ("Une équipe", 1, False), ("C", 2, False), ("B", None, True),
    ]  # fmt: skip
    assert board.rows[2].interval == board.rows[1].interval
    with pytest.raises(UsageError, match=r"no team is called 'b', so that it cannot be a baseline"):
        bring(baselines=("b",))


def test_a_team_without_a_score_is_shown_below(bring: Callable[..., imports.Imported], ranker: Ranker) -> None:
    """A cell `nan` is no score: the import names team and task, the board ranks the others."""
    found = bring(GOOD.replace("B,0.8,20,0.6", "B,0.8,nan,0.6"))
    assert [(row.team, row.missing) for row in found.ranked.rankings[0].rows if row.missing] == [("B", ("words",))]
    rows = ranker.boards("three")[0].rows
    assert [(row.team, row.rank, row.missing) for row in rows][-1] == ("B", None, ("words",))
    assert set(rows[-1].cells) == {"keyword", "horn"}


def test_a_changed_file_is_found(bring: Callable[..., imports.Imported], ranker: Ranker) -> None:
    """Nobody ranks by a table that is not the one in the log."""
    digest = bring().tables[0].origin.digest
    (ranker.home.tables / f"{digest}.csv").write_text(GOOD.replace("0.9", "0.1"), encoding="utf-8")
    with pytest.raises(OrganizerError, match="was changed; restore the file"):
        ranker.boards("three")


def test_without_a_table_there_is_a_next_step(bring: Callable[..., imports.Imported], ranker: Ranker) -> None:
    """A benchmark that ranks tables says which command brings one."""
    bring()
    with pytest.raises(MissingError, match=r"import-scores TABLE\.csv --benchmark interspeech2026 --track B"):
        ranker.boards("interspeech2026", track="B")


# -- tables with something wrong

BAD = {
    "a task without a column": ("team,keyword,horn\nA,0.9,0.5\n", "no column is called like task words of track A"),
    "no column of a task": ("team,a,b\nA,1,2\n", "no column is called like a task of benchmark three"),
    "no team column": ("name,keyword\nA,1\n", "no column is called `team`; the columns are 'name', 'keyword'"),
    "out of bounds": (
        GOOD.replace("0.9", "90"), "line 2, column keyword: 90 of Une équipe lies outside 0 to 1, the bounds of"
    ),
    "below reversed bounds": (GOOD.replace(",12,", ",-1,"), "line 2, column words: -1 of Une équipe lies outside 0 to"),
    "infinite": (GOOD.replace("0.9", "inf"), "line 2: 'inf' is no score of task keyword"),
    "a word": (GOOD.replace("0.9", "best"), "line 2: 'best' is no score of task keyword"),
    "a team twice": (GOOD + "B,1,2,0.5\n", "team 'B' stands on line 3 and on line 5"),
    "comma decimals": (
        "team;keyword;words;horn\nA;0,9;12;0,5\n", "line 2: '0,9' is no score of task keyword.*write a point"
    ),
    "comma decimals between commas": ("team,keyword,words,horn\nA,0,9,12,0,5\n", "line 2: 6 cells separated by commas"),
    "Windows' encoding": (
        GOOD.encode("cp1252"), r"line 2, column 1: is not text in UTF-8 \(byte 0xe9 .*save the table as CSV UTF-8"
    ),
    "one column twice": ("team,keyword,Keyword,words,horn\nA,1,1,2,1\n", "are both task keyword"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_one_sentence(
    bring: Callable[..., imports.Imported], ranker: Ranker, case: str
) -> None:
    """With line and column, and nothing is kept: neither file nor event."""
    content, words = BAD[case]
    with pytest.raises(UsageError, match=words) as caught:
        bring(content)
    assert "\n" not in str(caught.value)
    assert not ranker.home.tables.exists()
    assert logged(ranker) == []


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.encode("utf-16"), GOOD.replace(",", ";").encode(),
     GOOD.replace("\n", "\r\n").encode(), GOOD.replace("team,keyword", "Team,KEY WORD").encode()],
    ids=["byte order mark", "UTF-16", "semicolons", "Windows' lines", "other spelling"],
)  # fmt: skip
def test_odd_tables_are_the_same_table(bring: Callable[..., imports.Imported], ranker: Ranker, content: bytes) -> None:
    """What can be read in one way only is read."""
    bring(content)
    assert [(row.team, row.rank) for row in ranker.boards("three")[0].rows] == [("Une équipe", 1), ("B", 2), ("C", 2)]


def test_measured_benchmarks_take_no_table(tmp_path: Path, ranker: Ranker) -> None:
    """Boards of measurements and of tables do not mix; the way out is named."""
    with pytest.raises(UsageError, match=r"scores of benchmark mini are measured here.*rank --scores"):
        ranker.import_scores(OFFICIAL, "mini", track=None, source="x", baselines=())
    assert not (tmp_path / "home" / "ranker.db").exists()


def test_the_command_says_what_it_did(official: Ranker, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: digest, source, whether it was new, and who is incomplete."""
    with pytest.raises(SystemExit):
        main(["--home", str(official.home.root), "import-scores", str(OFFICIAL), "-b", "interspeech2026", "-t", "A",
              "--source", "the organizers' leaderboard page", "--json"])  # fmt: skip
    said = capsys.readouterr()
    (found,) = json.loads(said.out)
    assert (found["track"], found["new"], found["teams"], found["incomplete"]) == ("A", False, 23, {})
    assert found["source"] == "the organizers' leaderboard page"
    assert "'Public test result' holds numbers but is no task" in said.err
