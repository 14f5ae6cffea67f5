"""ranker.exports: names that would break a table, the same bytes again, and hidden predictions only on request."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from boards import small_board
from pyarrow import parquet
from test_board import Place, benchmark, condition
from test_board import place as place  # noqa: PLC0414  a fixture, found by its name

from ranker import exports
from ranker.board import Board, evidence
from ranker.cli import main
from ranker.errors import UsageError
from ranker.exports import latex, markdown
from ranker.exports.formats import facts
from ranker.types import Export, Group

HOSTILE = (
    r"\input{/etc/passwd}",
    "50% & _more_ $x^2$ ~ #1 {",
    "| a | <b>\n**x**",
    "=cmd()",
    "Žluťoučký kůň",
    "中文 Ελ",
    "ß\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT DOUBLE QUOTATION MARK}",
)
WHATS = (Export.RANKS, Export.SCORES, Export.INTERVALS)


def hostile() -> Board:
    board = small_board()
    rows = tuple(replace(row, team=team) for row, team in zip(board.rows, HOSTILE, strict=False))
    return replace(board, rows=(*rows, *board.rows[len(rows) :]))


@pytest.mark.parametrize("what", WHATS)
def test_latex_is_ascii_without_a_command_of_a_team(what: Export) -> None:
    """Whatever teams are called: ASCII, braces in balance, as many cells in each line as columns, no other command."""
    text = exports.to_latex(hostile(), what)
    assert text.isascii()
    plain = re.sub(r"\\[{}\\&%$#_]", "", text.replace("\\\\\n", "\n"))
    assert plain.count("{") == plain.count("}")
    known = {"usepackage", "providecommand", "rankerchar", "ifdefined", "XeTeXversion", "luatexversion", "char",
             "string", "relax", "else", "fi", "begin", "end", "centering", "caption", "label", "toprule", "midrule",
             "bottomrule", "textbf", "textbackslash", "textasciicircum", "textasciitilde", "textbar", "textless",
             "textgreater", "ss", "v", "r"}  # fmt: skip
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= known
    body = text.split("\\midrule\n")[1].split("    \\bottomrule")[0].splitlines()
    columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1))  # type: ignore[union-attr]
    assert len(body) == len(hostile().rows)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.split(r"(?<!\\)&", line)) == columns
    assert not re.search(r"(?<!\\)[#$^]", re.sub(r"#1(?=\\relax|\])", "", text.replace("[1]", "")))


def test_latex_of_letters() -> None:
    """Accents as LaTeX's own, other scripts by code, nothing dropped but what cannot be printed."""
    assert latex.escaped("Žluť é") == r"\v{Z}lu\v{t} \'{e}"
    assert latex.escaped("ệ") == r"\^{\d{e}}"
    assert (
        latex.escaped("\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT DOUBLE QUOTATION MARK}\N{EN DASH}\N{HORIZONTAL ELLIPSIS}")
        == r"'``--\dots{}"
    )
    assert latex.escaped("中\u202e") == r"\rankerchar{4E2D}"
    assert latex.escaped("\\") == r"\textbackslash{}"
    assert r"\providecommand{\rankerchar}" in exports.to_latex(hostile(), Export.RANKS)
    assert r"\rankerchar" not in exports.to_latex(replace(hostile(), rows=hostile().rows[:5]), Export.RANKS)


@pytest.mark.parametrize("what", WHATS)
def test_markdown_has_as_many_cells_in_every_line(what: Export) -> None:
    """A name with bars, tags or line ends stays in its cell, and is shown as it is."""
    lines = exports.to_markdown(hostile(), what).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == len(hostile().rows) + 2
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in table}) == 1
    assert r"\| a \| \<b\> \*\*x\*\*" in table[4]
    assert markdown.escaped("a_b") == r"a\_b"


def test_the_best_of_a_column_is_bold() -> None:
    """The highest, the lowest where less is better, among ranked ones only, all of equals, and none where all are."""
    board = small_board()
    board = replace(board, rows=board.rows[:3])
    falls = replace(board.columns[0], worst=100.0, best=0.0)
    same = {row.submission_id: replace(row.cells["secret"], raw=0.5) for row in board.rows}
    rows = tuple(replace(row, cells={**row.cells, "secret": same[row.submission_id]}) for row in board.rows)
    board = replace(board, columns=(falls, *board.columns[1:]), rows=rows)
    table = [
        line.split(" | ") for line in exports.to_markdown(board, Export.SCORES).splitlines() if line.startswith("| ")
    ]
    heads, _, *body = table
    column = heads.index("keyword")
    lowest = min(range(3), key=lambda i: rows[i].cells["keyword"].raw)
    assert [i for i, line in enumerate(body) if "**" in line[column]] == [lowest]
    assert not any("**" in line[heads.index("secret |")] for line in body)
    assert "**" in body[0][heads.index("Score")]


@pytest.mark.parametrize("what", WHATS)
def test_programs_read_what_the_board_says(what: Export) -> None:
    """CSV, JSON and Parquet hold the same; Parquet's types do not hang on the rows; twice gives the same bytes."""
    board = small_board()
    table, said = exports.frame(board, what), facts(board, what)
    csv_text, json_text, binary = (
        exports.to_csv(table),
        exports.to_json([(said, table)]),
        exports.to_parquet(said, table),
    )
    again = exports.frame(board, what)
    assert (exports.to_csv(again), exports.to_parquet(said, again)) == (csv_text, binary)
    (found,) = json.loads(json_text)
    assert found["board"] == board.basis
    assert len(found["rows"]) == 9
    read = parquet.read_table(io.BytesIO(binary))
    assert read.schema.metadata[b"ranker.board"].decode() == board.basis
    assert read.to_pylist() == found["rows"]
    empty = exports.to_parquet(said, table.head(0))
    assert parquet.read_schema(io.BytesIO(empty)).equals(read.schema)
    from_csv = pd.read_csv(io.StringIO(csv_text))
    assert from_csv["score"].tolist()[:7] == table["score"].tolist()[:7]
    assert from_csv["team"][7].startswith("'="), "a formula is inert in a spreadsheet"


def test_predictions_of_hidden_tasks_only_on_request(place: Place) -> None:
    """All pairs of public tasks, in the board's order; hidden ones only with the word for it."""
    bench = benchmark()
    place.evaluate(place.submit("b"), condition(bench), {"keyword": 30, "pitch": 20})
    place.evaluate(place.submit("a"), condition(bench), {"keyword": 50, "pitch": 30})
    board = place.board(bench)
    board = replace(board, columns=(board.columns[0], replace(board.columns[1], group=Group.HIDDEN)))
    found = evidence(place.session, place.home, bench, "A", condition=None, seed=None)
    public = exports.prediction_frame(board, found, place.home, with_hidden=False)
    everything = exports.prediction_frame(board, found, place.home, with_hidden=True)
    assert (set(public["task"]), set(everything["task"])) == ({"keyword"}, {"keyword", "pitch"})
    assert list(dict.fromkeys(public["team"])) == ["a", "b"]
    assert len(everything) == 2 * (60 + 40)
    assert public.groupby("team")["item"].sum().to_dict() == {"a": 50.0, "b": 30.0}
    assert list(public["clip"][:60]) == sorted(public["clip"][:60])


def test_the_command(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """From an imported table to each format, the same bytes in a file as on the output; what cannot be is told."""
    official = Path(__file__).parent / "golden" / "interspeech2026_track_a.csv"

    def typed(*arguments: str) -> tuple[int | str | None, bytes, bytes]:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), *arguments, "-b", "interspeech2026"])
        said = capsysbinary.readouterr()
        return left.value.code, said.out, said.err

    assert not typed("import-scores", str(official), "--track", "A")[0]
    code, printed, _ = typed("export", "--format", "csv", "--what", "scores")
    assert not code
    assert not typed("export", "--format", "csv", "--what", "scores", "--out", str(tmp_path / "scores.csv"))[0]
    assert (tmp_path / "scores.csv").read_bytes() == printed
    assert printed.count(b"\n") == 24
    assert b"NTUST\\_NLPLab" in typed("export", "--format", "latex")[1]
    code, _, told = typed("export", "--what", "predictions")
    assert code == UsageError.exit_code
    assert b"is of an imported table: it has scores, and no predictions" in told
    code, _, told = typed("export", "--what", "predictions", "--format", "latex")
    assert code == UsageError.exit_code
    assert b"predictions are no table to print" in told
