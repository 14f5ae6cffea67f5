"""ranker.scoretable: tables made elsewhere, odd ones included, and what two committees make of the same scores."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranker.cli import main
from ranker.config import Benchmark, RankedBenchmark, load, load_ranking
from ranker.errors import ConfigError, UsageError
from ranker.scoretable import Ranked, TableRanking, key_of, rank_table, read
from ranker.types import Group

CONFIGS = Path(__file__).parent.parent / "configs"
OFFICIAL = Path(__file__).parent / "golden" / "interspeech2026_track_a.csv"
YEAR_2026 = CONFIGS / "interspeech2026.yaml"

# The challenge's baselines as XARES-LLM's README prints them (commit 105be68): per task Dasheng-base, Whisper-base.
BASELINES_A = """
asvspoof2015 .937 .943
cremad .621 .516
esc-50 .755 .635
fluentspeechcommands .984 .817
freemusicarchive .429 .579
fsd50k .063 .092
fsdkaggle2018 .415 .552
gtzan .323 .697
libricount .386 .409
nsynth .675 .638
speechcommandsv1 .655 .694
urbansound8k .829 .737
vocalsound .855 .867
voxceleb1 .974 .762
voxlingua33 .311 .835
"""
BASELINES_B = """
aishell-1 .018 .361
clotho .207 .358
librispeech .103 .385
mecat .60 .624
songdescriber .41 .448
"""

TWO_TASKS = """
name: two
title: Two tasks
description: for tests
ranking_only: true
tracks:
  A: {title: The track, tasks: [{name: esc-50, title: ESC}, {name: word_errors, title: W, worst: 100, best: 0}]}
"""

SECOND_COMMITTEE = """
name: other2027
title: Another committee's year
description: error rates in percent, three times the weight on recognition, hidden tasks at a quarter
ranking_only: true
tracks:
  open:
    title: Open track
    group_weights: {public: 3, hidden: 1}
    tasks:
      - {name: asr, title: ASR, metric: WER, worst: 100, best: 0, weight: 3}
      - {name: tagging, title: Tagging, metric: mAP}
      - {name: quality, title: Opinion score, metric: MOS, worst: 1, best: 5, group: hidden}
  sized:
    title: Sized track
    weights: test_items
    tasks:
      - {name: large, title: Large, test_items: 900}
      - {name: small, title: Small, test_items: 100, group: hidden}
"""


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str | bytes, str], Path]:
    """Write a file of the test's own."""

    def written(content: str | bytes, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


@pytest.fixture
def two(put: Callable[[str, str], Path]) -> RankedBenchmark:
    return load_ranking(put(TWO_TASKS, "two.yaml"))


@pytest.fixture
def ranked(put: Callable[[str | bytes, str], Path], two: RankedBenchmark) -> Callable[[str | bytes], Ranked]:
    """Rank a table on the two tasks of `two`."""
    return lambda content: rank_table(put(content, "table.csv"), two)


def only(ranked: Ranked) -> TableRanking:
    (ranking,) = ranked.rankings
    return ranking


def standing(ranking: TableRanking) -> dict[str, int | None]:
    return {row.team: row.rank for row in ranking.rows}


# -- the official table, and the baselines


def test_the_shipped_2026_configuration_reproduces_the_official_table() -> None:
    """All 23 teams within 6e-5 of the three published averages, in the published order, ranked 1 to 23."""
    with OFFICIAL.open(newline="", encoding="utf-8") as file:
        published = {row["Team"]: row for row in csv.DictReader(file)}
    done = rank_table(OFFICIAL, load_ranking(YEAR_2026), "A")
    rows = only(done).rows
    assert len(rows) == len(published) == 23
    for row in rows:
        printed = published[row.team]
        assert row.groups[Group.PUBLIC] == pytest.approx(float(printed["Public test result"]), abs=6e-5)
        assert row.groups[Group.HIDDEN] == pytest.approx(float(printed["Hidden test result"]), abs=6e-5)
        assert row.score == pytest.approx(float(printed["(Public + Hidden) / 2"]), abs=6e-5)
        assert row.missing == ()
    finals = [float(published[row.team]["(Public + Hidden) / 2"]) for row in rows]
    assert finals == sorted(finals, reverse=True)
    assert [row.rank for row in rows] == list(range(1, 24))
    assert len(done.warnings) == 3  # the averages themselves, which are no tasks


def test_every_starred_column_of_the_official_table_is_hidden_and_no_other() -> None:
    """The configuration's groups are those that the table marks."""
    columns = next(csv.reader(OFFICIAL.read_text(encoding="utf-8").splitlines()))[6:]
    marked = {key_of(name): name.endswith("*") for name in columns}
    tasks = load_ranking(YEAR_2026).track("A").active_tasks
    assert {key_of(task.name): task.group is Group.HIDDEN for task in tasks} == marked
    assert sum(marked.values()) == 6


@pytest.mark.parametrize(
    ("track", "figures", "printed"),
    [("A", BASELINES_A, {"dasheng": (0.614, 3), "whisper": (0.652, 3)}), ("B", BASELINES_B, {"dasheng": (0.27, 2)})],
)
def test_three_of_four_printed_baselines_follow(
    put: Callable[[str, str], Path], track: str, figures: str, printed: dict[str, tuple[float, int]]
) -> None:
    """Their overall is the mean of the public tasks, rounded as printed; without hidden tasks nobody is ranked."""
    tasks, dasheng, whisper = zip(*(line.split() for line in figures.split("\n") if line), strict=True)
    lines = [["team", *tasks], ["dasheng", *dasheng], ["whisper", *whisper]]
    table = put("\n".join(",".join(cells) for cells in lines), "baselines.csv")
    rows = {row.team: row for row in only(rank_table(table, load_ranking(YEAR_2026))).rows}
    assert set(rows) == {"dasheng", "whisper"}
    for team, (overall, digits) in printed.items():
        assert round(rows[team].groups[Group.PUBLIC], digits) == overall
    for row in rows.values():
        assert (row.rank, row.score, row.groups[Group.HIDDEN]) == (None, None, None)
        assert row.missing
    if track == "B":  # printed as .40: the one overall that does not follow from its own rows
        assert round(rows["whisper"].groups[Group.PUBLIC], 4) == 0.4352


# -- other committees


def test_a_second_committee_needs_yaml_only(put: Callable[[str, str], Path]) -> None:
    """Reversed bounds, percent, weights of tasks and of groups: by hand, from the formulas."""
    committee = load_ranking(put(SECOND_COMMITTEE, "other2027.yaml"))
    table = put("TEAM,ASR,Tagging,Quality*\nx,20,0.4,3\ny,10,0.2,5\n", "t.csv")
    (ranking,) = rank_table(table, committee).rankings
    assert ranking.track == "open"
    rows = {row.team: row for row in ranking.rows}
    x_public, y_public = (3 * 0.8 + 0.4) / 4, (3 * 0.9 + 0.2) / 4
    assert rows["x"].groups == {Group.PUBLIC: pytest.approx(x_public), Group.HIDDEN: 0.5}
    assert rows["x"].score == pytest.approx((3 * x_public + 0.5) / 4)
    assert rows["y"].score == pytest.approx((3 * y_public + 1.0) / 4)
    assert standing(ranking) == {"y": 1, "x": 2}


def test_test_set_sizes_can_be_the_weights(put: Callable[[str, str], Path]) -> None:
    """900 items weigh nine times what 100 do, over both groups where no group has a weight of its own."""
    committee = load_ranking(put(SECOND_COMMITTEE, "other2027.yaml"))
    (ranking,) = rank_table(put("team,large,small\nx,0.5,1\ny,0.6,0\n", "t.csv"), committee).rankings
    assert {row.team: row.score for row in ranking.rows} == {"x": pytest.approx(0.55), "y": pytest.approx(0.54)}


def test_one_table_for_both_tracks_gives_two_rankings(put: Callable[[str, str], Path]) -> None:
    """Without a track: each one that the table has columns for; the other's columns are no cause for a warning."""
    committee = load_ranking(put(SECOND_COMMITTEE, "other2027.yaml"))
    table = put("team,asr,tagging,quality,large,small\nx,20,0.4,3,0.5,1\n", "t.csv")
    done = rank_table(table, committee)
    assert [ranking.track for ranking in done.rankings] == ["open", "sized"]
    alone = rank_table(table, committee, "sized")
    assert [ranking.track for ranking in alone.rankings] == ["sized"]
    assert done.warnings == alone.warnings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("test_items: 900", "title: x"), "no test_items: large"),
        (("test_items: 900", "test_items: 900, weight: 2"), "no task has a weight besides: large"),
        (("worst: 1, best: 5", "worst: 5, best: 5"), "could not be normalised"),
        (("{public: 3, hidden: 1}", "{public: 3}"), "group_weights names"),
        (("weights: test_items", "weights: sizes"), "given"),
        (("ranking_only: true", "ranking_only: false"), "recipe: Field required"),
    ],
)
def test_a_committee_s_mistakes_are_named(put: Callable[[str, str], Path], change: tuple[str, str], words: str) -> None:
    """Weights that are asked for and not there, or there twice; bounds that divide by zero; a group without weight."""
    text = SECOND_COMMITTEE.replace(*change).replace(", title: Large, title: x", ", title: x")
    assert text != SECOND_COMMITTEE
    with pytest.raises(ConfigError, match=words):
        load_ranking(put(text, "other2027.yaml"))


def test_tasks_that_look_alike_are_refused(put: Callable[[str, str], Path]) -> None:
    """A column `ESC 50` could be either."""
    text = TWO_TASKS.replace("word_errors", "esc50")
    with pytest.raises(ConfigError, match="esc-50 and esc50 cannot be told apart"):
        rank_table(put("team,esc50\nx,1\n", "t.csv"), load_ranking(put(text, "two.yaml")))


def test_a_measured_benchmark_ranks_tables_too(put: Callable[[str, str], Path]) -> None:
    """`challenge` has data and a recipe; its tasks and weights are as good for a table."""
    names = [line.split()[0] for line in BASELINES_A.split("\n") if line]
    table = put(",".join(["team", *names]) + "\nx" + ",0.5" * 15 + "\n", "t.csv")
    (ranking,) = rank_table(table, load_ranking(CONFIGS / "challenge.yaml"), "A").rankings
    assert [(row.rank, row.score) for row in ranking.rows] == [(1, 0.5)]


# -- odd tables


PLAIN = "team,ESC-50,word errors\nx,0.5,20\ny,0.75,20\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("\n", "\r\n"),
        "\n\n" + PLAIN + "\n,,\n\n",
        PLAIN.replace("team,ESC-50", "\tTeAm , *Esc 50* "),
        PLAIN.replace("ESC-50", '"ESC\n50"'),
        "Affiliation;" + PLAIN.replace(",", ";").replace("\nx", '\n"Here, there";x').replace("\ny", "\nÖ;Y"),
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace("0.5,", " +5e-1 ,").replace("20", "20."),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
    ],
    ids=["plain", "semicolons", "tabs", "crlf", "empty lines", "names", "line break", "commas inside", "trailing comma",
         "numbers", "bom", "utf-16"],
)  # fmt: skip
def test_tables_from_any_program_are_the_same_table(
    ranked: Callable[[str | bytes], Ranked], content: str | bytes
) -> None:
    """Byte order marks, separators, ends of lines, stars, spaces and case change nothing."""
    done = ranked(content)
    assert [(row.team.casefold(), row.rank, row.raw) for row in only(done).rows] == [
        ("y", 1, {"esc-50": 0.75, "word_errors": 20.0}),
        ("x", 2, {"esc-50": 0.5, "word_errors": 20.0}),
    ]
    assert done.warnings == ()


@pytest.mark.parametrize("nothing", ["", "-", "\N{EN DASH}", "n/a", "NaN", " N/A "])
def test_a_missing_score_takes_rank_and_score(ranked: Callable[[str | bytes], Ranked], nothing: str) -> None:
    """However good the rest: no rank, no score, what is missing by name, after everybody who is ranked."""
    ranking = only(ranked(f"team,esc-50,word errors\nbest,1,{nothing}\nlast,0,100\n"))
    alone = {"interval": {"low": 0.0, "high": 0.0}, "rank_interval": {"best": 1, "worst": 1}, "p_first": 1.0,
             "p_next": None, "tier": 1}  # fmt: skip
    assert ranking.to_json() == {
        "track": "A",
        "resampling": "tasks",
        "agreement": None,
        "rows": [
            {"team": "last", "rank": 1, "score": 0.0, "groups": {"public": 0.0, "hidden": None}, "missing": []} | alone,
            {"team": "best", "rank": None, "score": None, "groups": {"public": None, "hidden": None},
             "missing": ["word_errors"]} | dict.fromkeys(alone),
        ],
    }  # fmt: skip


def test_equals_share_a_rank_and_stand_by_name(ranked: Callable[[str | bytes], Ranked]) -> None:
    """`1224`, whatever the order of lines in the file."""
    ranking = only(ranked("team,esc-50,word errors\nd,0.1,0\nC,0.5,0\nb,0.5,0\na,0.9,0\n"))
    assert list(standing(ranking).items()) == [("a", 1), ("b", 2), ("C", 2), ("d", 4)]


def test_a_task_without_a_column_is_missing_for_all(ranked: Callable[[str | bytes], Ranked]) -> None:
    """Said once, not guessed away by a mean over the rest."""
    done = ranked("team,esc-50\nx,0.5\n")
    assert standing(only(done)) == {"x": None}
    assert only(done).rows[0].missing == ("word_errors",)
    (warning,) = done.warnings
    assert "no column for word_errors" in warning


def test_columns_of_numbers_that_count_for_nothing_are_warned_about(ranked: Callable[[str | bytes], Ranked]) -> None:
    """A misspelt task would otherwise look like one nobody was scored on; texts and teams' remarks are let be."""
    done = ranked('team,esc-50,word errors,word-error,note,,paper\nx,1,2,3,4%,5,PDF\ny,1,2,-,"7,5",,6\n')
    assert [warning.partition(" holds")[0] for warning in done.warnings] == [
        "column 'word-error'", "column 'note'", "column 6, which has no name,",
    ]  # fmt: skip


def test_a_column_of_a_task_that_is_off_is_warned_about(put: Callable[[str, str], Path]) -> None:
    """Pitch was named for the challenge and is not ranked; who has scores for it should know."""
    done = rank_table(put("team,esc-50,nsynth_pitch\nx,0.5,0.9\n", "t.csv"), load_ranking(YEAR_2026), "A")
    assert "is task nsynth-pitch, which is switched off" in done.warnings[0]


def test_values_that_no_task_gives_are_warned_about_not_scaled(ranked: Callable[[str | bytes], Ranked]) -> None:
    """95.3 may be a percentage or a slip; it is ranked as given, and said, with team and bounds."""
    done = ranked("team,esc-50,word errors\nx,95.3,0\ny,0.5,101\nz,-0.5,-1\n")
    assert only(done).rows[0].raw["esc-50"] == 95.3
    assert [warning.partition(" bounds")[0] for warning in done.warnings] == [
        "task esc-50: 95.3 of x, -0.5 of z outside its",
        "task word_errors: 101 of y, -1 of z outside its",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("team,esc-50\nx,0.1\ny,1\nx,0.2\n", "team 'x' stands on line 2 and on line 4"),
        ("team,esc-50,ESC50\nx,0.1,0.2\n", r"'esc-50' \(column 2\) and 'ESC50' \(column 3\) are both task esc-50"),
        ("Team,team,esc-50\nx,y,0.1\n", "more than one column is called `team`"),
        ("name,esc-50\nx,0.1\n", "no column is called `team`; the columns are 'name', 'esc-50'"),
        ("team,esc-50\n,0.1\n", "line 2: there is no team's name"),
        ("team,esc-50\na\x1b[2Jb,0.1\n", r"line 2: the team's name 'a\\x1b\[2Jb' holds control"),
        ("team,esc-50\nx,0.1,2\n", "line 2: 3 cells separated by commas, expected 2"),
        ("team;esc-50;note\nx;0,1\n", "line 2: 2 cells separated by semicolons, expected 3"),
        ("team;esc-50\nx;0,75\n", "line 2: '0,75' is no score of task esc-50; .* write a point before decimals"),
        ('team,word errors\nx,"1,234.5"\n', "'1,234.5' is no score of task word_errors.*nothing between thousands"),
        ("team,esc-50\nx,95%\n", "'95%' is no score"),
        ("team,esc-50\nx,inf\n", "'inf' is no score"),
        ("team,esc-50\nx,1e999\n", "'1e999' is no score"),
        ("team,esc-50\nx,0.5*\n", "'0.5[*]' is no score"),
        ("team,esc-50\nx,\N{ARABIC-INDIC DIGIT ONE}\n", "is no score"),
        ('team,esc-50,by\nx,0.5,"me\ny,0.6,you\n', "line 3: the quotes do not fit"),
        ("team,esc-50\n", "a header and no teams below it"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("team,accuracy\nx,1\n", "no column is called like a task of benchmark two; its tasks are esc-50, word_errors"),
        (b"team,esc-50\n\xd6,1\n", r"line 2, column 1: is not text in UTF-8 \(byte 0xd6"),
        (b"PK\x03\x04\x00", "no column is called `team`"),
    ],
)  # fmt: skip
def test_tables_that_could_be_read_in_two_ways_are_refused(
    ranked: Callable[[str | bytes], Ranked], content: str | bytes, words: str
) -> None:
    """Each with what is wrong, and where."""
    with pytest.raises(UsageError, match=words):
        ranked(content)


def test_a_table_that_is_not_there(tmp_path: Path, two: RankedBenchmark) -> None:
    """A path that cannot be read is a wrong command, not a crash."""
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="benchmark two has no track 'C'; it has A"):
        rank_table(OFFICIAL, two, "C")


# -- the command


def typed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr()
    assert (left.value.code or 0) == code, said
    return said.out, said.err


def test_the_command_prints_exactly_the_json_that_is_promised() -> None:
    """In a fresh process, in an empty folder: no home, no data, no torch; warnings do not reach standard output."""
    code = (
        "import sys\nfrom ranker.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = ["rank", "--scores", str(OFFICIAL), "--benchmark", str(YEAR_2026), "--track", "A", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    assert set(value) == {"track", "resampling", "agreement", "rows"}
    assert value["track"] == "A"
    assert len(value["rows"]) == 23
    for row in value["rows"]:
        sure = {"interval", "rank_interval", "p_first", "p_next", "tier"}
        assert set(row) == {"team", "rank", "score", "groups", "missing"} | sure
        assert set(row["groups"]) == {"public", "hidden"}
    assert value["rows"][0]["team"] == "THUVoice"
    assert done.stderr.count("warning:") == 3
    assert done.stderr.endswith("False\n")


def test_ranking_leaves_no_home_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table is ranked where nothing is installed, and nothing is there afterwards."""
    home = tmp_path / "nowhere"
    out, err = typed(
        capsys, "--home", str(home), "rank", "--scores", str(OFFICIAL), "-b", "interspeech2026", "--track", "A"
    )
    assert not home.exists()
    assert out.index("THUVoice") < out.index("trans-encoder") < out.index("AICIS")
    assert "0.912" in out
    assert "voxlingua33" in out
    assert "Public test result" in err


def test_several_tracks_print_a_list(put: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """As `ranker rank --json` does for boards."""
    yaml = put(SECOND_COMMITTEE, "other2027.yaml")
    table = put("team,asr,tagging,quality,large,small\nx,20,0.4,3,0.5,1\n", "t.csv")
    out, _ = typed(capsys, "rank", "--scores", str(table), "--benchmark", str(yaml), "--json")
    assert [ranking["track"] for ranking in json.loads(out)] == ["open", "sized"]


@pytest.mark.parametrize("command", [["evaluate", "--all"], ["calibrate"]])
def test_nothing_can_be_measured_on_a_benchmark_that_only_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """One sentence, with what to type instead."""
    _, err = typed(capsys, "--home", str(tmp_path), *command, "--benchmark", "interspeech2026", code=2)
    assert err.count("\n") == 1
    assert "only ranks tables that were made elsewhere" in err
    assert "ranker rank --scores TABLE.csv --benchmark interspeech2026" in err


@pytest.mark.parametrize("command", [["rank"], ["results"], ["compare", "a", "b"], ["export"]])
def test_without_an_imported_table_the_next_step_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Also where there is no home yet; looking makes none."""
    _, err = typed(capsys, "--home", str(tmp_path), *command, "--benchmark", "interspeech2026", code=4)
    assert err.count("\n") == 1
    assert "run `ranker import-scores TABLE.csv --benchmark interspeech2026`" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scores", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["--scores", str(OFFICIAL), "--benchmark", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["--scores", str(OFFICIAL), "--benchmark", "maxi"], "no benchmark 'maxi'"),
        (["--scores", str(OFFICIAL), "--benchmark", "mini"], "no column is called like a task of benchmark mini"),
        (
            ["--scores", str(OFFICIAL), "--condition", "ab"],
            "a table made elsewhere has neither conditions nor standings",
        ),
        (["--scores", str(OFFICIAL), "-b", "interspeech2026", "-t", "B"], "a task of track B of interspeech2026"),
    ],
)
def test_wrong_commands_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """With exit code 2, and no traceback."""
    _, err = typed(capsys, "--home", str(tmp_path), "rank", *arguments, code=2)
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_a_file_that_only_ranks_is_no_benchmark_to_measure_on(put: Callable[[str, str], Path]) -> None:
    """Whoever loads it as one is told which field says so."""
    path = put(TWO_TASKS, "two.yaml")
    assert load(RankedBenchmark, path) == load_ranking(path)
    with pytest.raises(ConfigError, match="ranking_only: Input should be False"):
        load(Benchmark, path)
