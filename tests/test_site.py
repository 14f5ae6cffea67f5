"""The static page without a browser: what is written, and what is kept out of it."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields, replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from boards import HOSTILE, SMALL_REASONS, official_board, small_board, submission, submissions

from ranker.home import asset
from ranker.site import Sample, TrackRun, charts, export, render, text
from ranker.site.submission_view import standings, submission_view
from ranker.site.track_view import demonstrations, track_view
from ranker.types import Group, Standing, SubmissionState

VOID = {"meta", "link", "col", "input", "br", "img", "line", "rect", "circle", "path", "polyline"}


class Page(HTMLParser):
    """Reads a page: elements with their attributes, all text, and whether every element is closed in its place."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small board's page, rendered once."""
    board = small_board()
    return render([board], submissions(board), tmp_path_factory.mktemp("small") / "site").parent


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official table's page, rendered once."""
    board = official_board()
    return render([board], submissions(board), tmp_path_factory.mktemp("official") / "site").parent


def test_all_files_are_there_and_nothing_else(small: Path) -> None:
    """Exactly the promised files: no left-over, no missing page of a submission."""
    pages = {f"submission/{row.submission_id}.html" for row in small_board().rows}
    found = {str(path.relative_to(small)) for path in small.rglob("*") if path.is_file()}
    statics = {f"static/{path.name}" for path in (asset("leaderboard") / "static").iterdir()}
    whole = {"index.html", "compare.html", "scores.js", "data.json", "data.csv", "track-a.csv", ".ranker-site"}
    assert found - {"method.html"} == pages | statics | whole
    assert [path.name for path in small.parent.iterdir()] == ["site"]


def test_every_page_is_well_formed_and_links_only_to_itself(small: Path, official: Path) -> None:
    """No page refers to another host, and every relative link leads to a file that exists."""
    looked_at = 0
    for page in [*small.rglob("*.html"), *official.rglob("*.html")]:
        read = Page(page)
        for _, attributes in read.elements:
            for name in {"href", "src", "action", "srcset"} & set(attributes):
                target = (attributes[name] or "").partition("#")[0]
                assert "//" not in target
                assert not target or (page.parent / target).resolve().is_file(), target
                looked_at += 1
    assert looked_at > 300
    statics = [path for path in (small / "static").iterdir() if path.suffix in {".css", ".js"}]
    assert len(statics) > 8
    for path in statics:
        content = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, no address
        assert "//" not in content.replace("// ", ""), path
        assert "url(" not in content


def test_the_official_table_shows_every_score_and_team(official: Path) -> None:
    """All 23 teams and all 21 tasks' scores stand in the page, in the official order."""
    board = official_board()
    page = Page(official / "index.html")
    expected = []
    for row in board.rows:
        expected += [row.team, f"{row.rank}", f"{row.score:.4f}"]
        expected += [f"{row.groups[group]:.4f}" for group in ("public", "hidden")]
        expected += [f"{row.cells[column.name].raw:.3f}" for column in board.columns]
    assert len(expected) == 23 * 26
    words = [word for word in page.words if word.strip()]
    start = words.index(board.rows[0].team, words.index(board.columns[-1].name))
    assert sorted(words[start - 1 : start - 1 + len(expected)]) == sorted(expected)
    places = [page.text.index(row.team) for row in board.rows[1:]]
    assert places == sorted(places)


def test_demonstration_is_said_on_every_page(small: Path, official: Path) -> None:
    """Each page of a demonstration says so in its title and gives every reason; one of the whole protocol does not."""
    pages = list(small.rglob("*.html"))
    assert len(pages) >= 11
    for path in pages:
        page = Page(path)
        assert "Demonstration: " in page.text[:40]
        assert all(reason in page.text for reason in SMALL_REASONS)
    assert all("emonstration" not in path.read_text(encoding="utf-8") for path in official.rglob("*.html"))


def test_tracks_with_different_reasons_are_named(tmp_path: Path) -> None:
    """Where only one of two tracks is a demonstration, its banner names that track, not the other."""
    page = Page(render([small_board("A"), replace(small_board("B"), demonstration=())], [], tmp_path / "site"))
    assert f"Track A: {SMALL_REASONS[0]}" in page.text
    assert "Track B: benchmark" not in page.text


def test_reasons_that_tracks_share_are_said_once() -> None:
    """A reader meets each reason once, with the track's name where it is only that track's."""
    first, second = small_board("A"), small_board("B")
    common = first.demonstration[0]
    parts = demonstrations([replace(first, demonstration=(common, "own")), replace(second, demonstration=(common,))])
    assert [(part.scope, part.reasons) for part in parts] == [("", (common,)), ("Track A", ("own",))]


def test_each_task_says_whether_it_carries_a_signal() -> None:
    """Yes, no, or nothing where it is not known: in the line under the table."""
    board = small_board()
    columns = [replace(column, signal=each) for column, each in zip(board.columns, (True, False, None), strict=False)]
    (signal,) = (foot for foot in track_view(replace(board, columns=tuple(columns)), {}).feet if foot.label == "Signal")
    assert signal.values[:3] == ("yes", "no", text.NONE)


def test_rates_keep_their_unit() -> None:
    """`frames_per_s` is no duration."""
    shown = text.fact("frames_per_s", 10.42)
    assert (shown.label, shown.text) == ("frames", "10.4 per second")


def test_hostile_names_are_text(small: Path) -> None:
    """Markup in a team's name arrives as its own text, in no page as an element."""
    for path in small.rglob("*.html"):
        page = Page(path)
        assert page.of("img") == []
        sources = [script["src"] or "" for script in page.of("script")]
        assert sources
        assert all(source.removeprefix("../").startswith(("static/", "scores.js")) for source in sources)
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    index = Page(small / "index.html")
    assert all(name in " ".join(index.words) for name in HOSTILE)


def test_names_that_cannot_be_seen(tmp_path: Path) -> None:
    """A name of invisible characters is replaced by the id; control characters are made visible."""
    board = small_board()
    odd = ("\u200b\u202e \u2060", "a\x00b\x1b[31m")
    rows = tuple(replace(row, team=team) for row, team in zip(board.rows, odd, strict=False))
    changed = replace(board, rows=rows)
    page = Page(render([changed], submissions(changed), tmp_path / "site"))
    assert rows[0].submission_id in page.text
    assert "a\N{REPLACEMENT CHARACTER}b" in page.text


def test_hidden_tasks_predictions_never_leave(small: Path) -> None:
    """Items of hidden and of unknown tasks are in no file, though they were handed over; those of public tasks are."""
    board = small_board()
    page = submission(board.rows[0], board)
    assert "secret" in page.runs[0].samples
    for path in small.rglob("*.*"):
        content = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert "reference-of-secret" not in content
        assert "clip-secret" not in content
    assert "reference-of-keyword" in (small / "data.json").read_text(encoding="utf-8")
    assert "reference-of-keyword" in (small / f"submission/{page.id}.html").read_text(encoding="utf-8")


def test_predictions_are_published_on_request(tmp_path: Path) -> None:
    """The public task's file stands beside the page, byte for byte, and is linked; the hidden task's stays away."""
    board = small_board()
    page = submission(board.rows[0], board)
    files = {task: tmp_path / f"{task}.parquet" for task in page.runs[0].samples}
    for task, path in files.items():
        path.write_bytes(f"predictions of {task}".encode())
    assert set(files) == {"keyword", "secret"}
    site = render([board], [replace(page, runs=(replace(page.runs[0], predictions=files),))], tmp_path / "site").parent
    (published,) = site.rglob("*.parquet")
    assert published.read_bytes() == b"predictions of keyword"
    html = (site / f"submission/{page.id}.html").read_text(encoding="utf-8")
    assert f'href="../{published.relative_to(site)}"' in html


def test_samples_of_a_track_without_a_board_never_leave(tmp_path: Path) -> None:
    """Without a board nothing says that a task is public, so nothing of it is shown."""
    board = small_board()
    render([], [submission(board.rows[0], board)], tmp_path / "site")
    assert "reference-of" not in (tmp_path / "site" / "data.json").read_text(encoding="utf-8")


def test_shape_of_data_json(small: Path) -> None:
    """data.json has the documented keys, and says of the board exactly what Board.to_json says."""
    data = json.loads((small / "data.json").read_text(encoding="utf-8"))
    board = small_board()
    assert list(data) == ["format", "boards", "calibrations", "submissions"]
    assert data["format"] == export.FORMAT
    assert data["boards"] == json.loads(json.dumps([board.to_json()]))
    assert set(data["boards"][0]) == {each.name for each in fields(board)} | {"basis"}
    first = data["submissions"][0]
    assert list(first) == ["id", "team", "digest", "received_at", "state", "reasons", "standing", "encoder", "runs"]
    assert list(first["runs"][0]) == ["track", "part", "manifest", "curve", "gradient_norms", "samples"]
    assert first["runs"][0]["samples"]["keyword"][0] == {
        "item": "clip-keyword-0000", "reference": "reference-of-keyword", "candidate": "yes", "score": 0.0,
        "pick": Sample(item="", reference="", candidate="", score=None).pick,
    }  # fmt: skip
    assert first["runs"][0]["curve"][-1][0] == 300
    assert len(data["submissions"]) == 9


def test_nan_becomes_null(tmp_path: Path) -> None:
    """A loss that was not finite does not make data.json invalid, nor the curve's drawing."""
    board = small_board()
    run = TrackRun(track="A", manifest={"rate": math.inf}, curve=((1, 2.0), (2, math.nan), (3, 1.0)))
    index = render([board], [submission(board.rows[0], board, runs=(run,))], tmp_path / "site")
    content = (index.parent / "data.json").read_text(encoding="utf-8")
    assert json.loads(content)["submissions"][0]["runs"][0] == {
        "track": "A", "part": "public", "manifest": {"rate": None}, "curve": [[1, 2.0], [3, 1.0]],
        "gradient_norms": [], "samples": {},
    }  # fmt: skip
    assert "nan" not in "".join(path.read_text(encoding="utf-8") for path in index.parent.rglob("submission/*.html"))


def test_csv_files(small: Path) -> None:
    """data.csv has one line per number, track-a.csv one per submission; no team name is a formula for a spreadsheet."""
    board = small_board()
    lines = list(csv.DictReader(io.StringIO((small / "data.csv").read_text(encoding="utf-8"))))
    found = {(line["submission"], line["task"], line["quantity"]): line["value"] for line in lines}
    assert len(found) == len(lines) > 300
    row = board.rows[1]
    cell = row.cells["instrument"]
    assert cell.interval is not None
    assert float(found[row.submission_id, "instrument", "score"]) == cell.raw
    assert float(found[row.submission_id, "instrument", "score.low"]) == cell.interval.low
    assert found[row.submission_id, "", "rank"] == "2"
    assert [found["", "instrument", each] for each in ("weight", "items", "blind", "signal")] == [
        "2.0", "180", "0.08", "true",
    ]  # fmt: skip
    assert found["", "", "basis"] == board.basis
    assert found[board.rows[7].submission_id, "", "missing"] == "effects secret"
    assert (board.rows[7].submission_id, "", "rank") not in found
    table = list(csv.DictReader(io.StringIO((small / "track-a.csv").read_text(encoding="utf-8"))))
    assert [line["rank"] for line in table] == ["1", "2", "3", "4", "4", "6", "7", "", ""]
    assert float(table[1]["instrument"]) == cell.raw
    assert table[7]["missing"] == "effects secret"
    assert len({line["team"] for line in table}) == 9
    values = [value for line in [*lines, *table] for name, value in line.items() if name != "value"]
    assert not any(value.startswith(("=", "+", "-", "@")) for value in values)


def test_incomplete_rows_have_no_rank_and_say_what_is_missing(small: Path) -> None:
    """An incomplete submission comes after the ranked ones, without rank, score, or shade."""
    page = Page(small / "index.html")
    assert page.text.index("Incomplete, not ranked") > page.text.index("noise")
    assert "missing: effects, secret" in page.text
    view = track_view(small_board(), {})
    assert [row.rank for row in view.incomplete] == [None, None]
    assert {cell.heat for row in view.incomplete for cell in row.cells} == {None}
    assert {row.mark for row in view.incomplete} == {None}


def test_columns_without_signal_carry_no_shade_and_no_best(small: Path) -> None:
    """Where no team beats the blind floor, the page neither colours the numbers nor calls one the best."""
    view = track_view(small_board(), {})
    for row in view.ranked:
        flat, other = row.cells[2], row.cells[0]
        assert (flat.heat, flat.best) == (None, False)
        assert other.heat is not None
    assert Page(small / "index.html").text.count("no signal") == 2  # the column's head, and the words that explain it


def test_a_bracket_joins_the_members_of_a_tier() -> None:
    """From its first to its last member, by a baseline between them; who is alone in a tier has none."""
    board = small_board()
    assert [row.bracket for row in track_view(board, {}).ranked] == ["", "first", "last", "first", "in", "last", ""]
    rows = list(board.rows)
    rows[4] = replace(rows[4], rank=None, tier=None, is_baseline=True)
    between = track_view(replace(board, rows=tuple(rows)), {}).ranked
    assert [(row.tier, row.bracket) for row in between[3:6]] == [(3, "first"), (None, "in"), (3, "last")]


def test_the_scripts_have_every_figure_whole(small: Path) -> None:
    """scores.js holds what rankings are computed from at full precision, and names as text that ends no script."""
    board = small_board()
    said = (small / "scores.js").read_text(encoding="utf-8")
    (value,) = json.loads(said.removeprefix('"use strict";\nconst SCORES = ').removesuffix(";\n"))
    assert [task["weight"] for task in value["tasks"]] == [column.weight for column in board.columns]
    for row, given in zip(board.rows, value["rows"], strict=True):
        cells = [row.cells.get(column.name) for column in board.columns]
        assert given["raw"] == [None if cell is None else cell.raw for cell in cells]
        assert (given["id"], given["team"], given["rank"]) == (row.submission_id, row.team, row.rank)


def test_rows_without_a_page_have_no_link(tmp_path: Path) -> None:
    """A team whose page was not handed over is named without a link that leads nowhere."""
    board = small_board()
    page = Page(render([board], [submission(board.rows[0], board)], tmp_path / "site"))
    links = [link["href"] for link in page.of("a") if (link["href"] or "").startswith("submission/")]
    assert links == [f"submission/{board.rows[0].submission_id}.html"]


def test_refused_submission_shows_its_reasons(tmp_path: Path) -> None:
    """A submission on no board is listed with its state, and its page gives every reason."""
    board = small_board()
    page = submission(
        board.rows[0], board, id="feedface0000", state=SubmissionState.REFUSED, encoder=None, runs=(),
        reasons=("output_dim is 12, features have 13", "NaN in <clip 3>"),
    )  # fmt: skip
    index = render([board], [page], tmp_path / "site")
    assert "Submissions on no board" in Page(index).text
    shown = Page(index.parent / "submission/feedface0000.html").text
    assert "output_dim is 12, features have 13 NaN in <clip 3>" in shown


def test_a_submissions_page_has_the_checks_probes(tmp_path: Path) -> None:
    """What was found, what follows and what the run took stand there; what came from the team is text, not markup."""
    board = small_board()
    encoder = {"attribute": "MyEncoder", "batch_invariant": False, "shortest_clip_s": 0.25,
               "refused_clips": {"0.1 s": "ValueError: <b>short</b>"}}  # fmt: skip
    index = render([board], [submission(board.rows[0], board, encoder=encoder)], tmp_path / "site")
    page = Page(index.parent / f"submission/{board.rows[0].submission_id}.html")
    assert "in a batch of clips of one length other features clips are encoded one by one" in page.text
    assert "0.25 s accepted; 0.1 s: ValueError: <b>short</b>" in page.text
    assert "MyEncoder" in page.text
    assert "encoding 31.3 s of audio per second (2,480 s in 310 calls took 79 s)" in page.text
    assert "peak memory 0.81 GB (control group)" in page.text


def test_no_boards_and_empty_boards_are_friendly(tmp_path: Path) -> None:
    """Nothing to rank yet is said in words; no table without rows."""
    assert "No ranking yet" in Page(render([], [], tmp_path / "none")).text
    page = Page(render([replace(small_board(), rows=())], [], tmp_path / "empty"))
    assert "No team yet" in page.text
    assert page.of("table") == []


def test_times_have_a_zone(small: Path, tmp_path: Path) -> None:
    """The page names the zone; a time without one is refused before anything is replaced."""
    assert "4 March 2026, 16:30 UTC" in Page(small / "index.html").text
    naive = replace(small_board(), made_at=datetime(2026, 3, 4, 16, 30))  # noqa: DTZ001
    first = render([small_board()], [], tmp_path / "site").read_bytes()
    with pytest.raises(ValueError, match="zone"):
        render([naive], [], tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_bytes() == first


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "\N{EN DASH}"), (0.12345, "0.123"), (-0.0001, "0.000"), (1.0, "1.000"), (-0.5, "\N{MINUS SIGN}0.500")],
)
def test_numbers(value: float | None, shown: str) -> None:
    """Three decimals, a true minus sign, and no negative zero."""
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0.40 s"),
        (59.94, "59.9 s"),
        (59.99, "60.0 s"),
        (119.7, "2 min 00 s"),
        (3599.9, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    """Rounding never gives 60 seconds within minutes, nor 60 minutes within hours."""
    assert text.duration(seconds) == shown


def test_scores_that_would_look_the_same_get_a_fourth_decimal() -> None:
    """Two different track scores never print alike at four decimals where three would hide the difference."""
    board = small_board()
    close = tuple(replace(row, score=0.5 + index / 5000) for index, row in enumerate(board.rows[:3]))
    shown = [row.score.text for row in track_view(replace(board, rows=close), {}).ranked]
    assert shown == ["0.5000", "0.5002", "0.5004"]


def test_heat_does_not_blow_up_small_differences() -> None:
    """A field within a hundredth of the scale stays pale; a wide one uses all shades, the best the darkest."""
    assert charts.heat(0.51, [0.50, 0.51]) == 0
    assert [charts.heat(value, [0.1, 0.5, 0.9]) for value in (0.1, 0.5, 0.9)] == [0, 2, 8]


def test_long_curves_are_thinned_but_end_where_they_end() -> None:
    """A hundred thousand steps become a few hundred points, the last one kept."""
    curve = [(step, 1 / step) for step in range(1, 100_001)]
    points = charts.thinned(curve)
    assert 300 <= len(points) <= 400
    assert points[-1] == curve[-1]


def test_places_per_task_share_ties_and_count_incomplete_rows() -> None:
    """A team's place on a task is one more than the number of better ones; the field is everyone with a score there."""
    board = small_board()
    first, second, *others = board.rows
    tied = replace(second, cells=second.cells | {"keyword": first.cells["keyword"]})
    standing = standings(replace(board, rows=(first, tied, *others)))
    places = [submission_view(submission(row, board), [standing]).runs[0].tasks[0].place for row in (first, tied)]
    assert places == ["1 of 8", "1 of 8"]  # one of the nine has no score on this task
    scores = sorted((row.cells["keyword"].raw for row in (first, *others) if "keyword" in row.cells), reverse=True)
    last = next(row for row in others if "keyword" in row.cells and row.cells["keyword"].raw == scores[-1])
    assert submission_view(submission(last, board), [standing]).runs[0].tasks[0].place == "8 of 8"


def test_what_the_rules_leave_open_stands_below_and_says_so(tmp_path: Path) -> None:
    """A pending submission is neither ranked nor called incomplete; one that was asked for bears its standing."""
    board = small_board()
    words = "its technical report is missing, or cannot be accepted as it is"
    pending = replace(
        board.rows[0], rank=None, score=None, interval=None, standing=Standing.PENDING, pending=(words,),
        submission_id="f" * 12, team="lab",
    )  # fmt: skip
    late = replace(board.rows[1], standing=Standing.LATE)
    shown = replace(board, rows=(board.rows[0], late, pending))
    pages = [submission(row, shown) for row in shown.rows]
    pages[2] = replace(pages[2], standing=f"It is not ranked yet: {words}.")
    folder = render([shown], pages, tmp_path / "site").parent
    index = Page(folder / "index.html").text
    assert f"Pending, not ranked yet \N{EN DASH} lab not ranked yet: {words} pending" in index
    assert "Incomplete" not in index
    assert "Teams ranked 2 Pending 1" in index
    assert f"{late.team} late" in index
    page = Page(folder / f"submission/{'f' * 12}.html").text
    assert f"It is not ranked yet: {words}." in page
    assert "Not ranked" in page
    data = json.loads((folder / "data.json").read_text())
    assert [row["standing"] for row in data["boards"][0]["rows"]] == ["ranked", "late", "pending"]
    assert data["submissions"][2]["standing"].startswith("It is not ranked yet")


def test_only_long_tables_of_many_tasks_are_boxes_that_can_be_skipped() -> None:
    """The official table stays a table; with twice its rows it is swift, unless a heading spans more than is known."""
    board = official_board()
    assert not track_view(board, {}).swift
    again = tuple(replace(row, submission_id=f"b{row.submission_id[1:]}") for row in board.rows)
    long = replace(board, rows=(*board.rows, *again))
    assert track_view(long, {}).swift
    many = [replace(each, name=f"{each.name}{n}", group=Group.PUBLIC) for n in range(3) for each in board.columns]
    assert not track_view(replace(long, columns=(*many, board.columns[-1])), {}).swift
