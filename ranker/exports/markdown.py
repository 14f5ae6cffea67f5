"""A board as a Markdown table, for a README or a wiki."""

from __future__ import annotations

from ranker.board import Board
from ranker.exports.shown import Shown, shown
from ranker.types import Export

_ESCAPED = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]<>#|~!&$"})


def to_markdown(board: Board, what: Export) -> str:
    """A heading, the table with the best of each column in bold, and a line that says what the intervals are."""
    table = shown(board, what)
    first = table.rows[0] if table.rows else tuple(Shown(text="") for _ in table.heads)
    lines = [
        f"### {escaped(table.caption)}",
        "",
        _line([escaped(head) for head in table.heads]),
        _line(["---" if cell.is_text else "---:" for cell in first]),
        *(
            _line([f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in row])
            for row in table.rows
        ),
        "",
        escaped(table.note),
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is markup, HTML or a cell's end; in one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split()).translate(_ESCAPED)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
