"""A board as a LaTeX table with booktabs, ready for a paper, which compiles with every engine."""

from __future__ import annotations

import re
import unicodedata

from ranker.board import Board
from ranker.exports.shown import Shown, ShownTable, shown
from ranker.types import Export

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "`": r"\`{}",
    "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''", "\N{HORIZONTAL ELLIPSIS}": r"\dots{}", "\N{NO-BREAK SPACE}": "~",
    "\N{MINUS SIGN}": "--", "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "ß": r"\ss{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "æ": r"\ae{}", "Æ": r"\AE{}",
    "œ": r"\oe{}", "Œ": r"\OE{}", "å": r"\aa{}", "Å": r"\AA{}", "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}",
    "¡": r"!`", "¿": r"?`",
}  # fmt: skip
_ACCENTS = {
    0x300: "`", 0x301: "'", 0x302: "^", 0x303: "~", 0x304: "=", 0x306: "u", 0x307: ".", 0x308: '"', 0x30A: "r",
    0x30B: "H", 0x30C: "v", 0x323: "d", 0x327: "c", 0x331: "b",
}  # fmt: skip
_OTHER = (
    r"\providecommand{\rankerchar}[1]{\ifdefined\XeTeXversion\char\string"
    '"#1'
    r"\relax\else\ifdefined\luatexversion\char\string"
    '"#1'
    r"\relax\else[U+#1]\fi\fi}"
)
"""A letter outside of the European ones: itself where the engine knows Unicode, its code where it does not."""


def to_latex(board: Board, what: Export) -> str:
    """A `table` environment with caption and label; needs the package booktabs and nothing else.

    The best of each column is bold. European letters become LaTeX's own commands; of other scripts XeTeX and LuaTeX
    print the letter, provided that the font has it, and pdfTeX prints `[U+4E2D]`: a name is never dropped.
    """
    table = shown(board, what)
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.benchmark}-{board.track}-{what}".lower())
    body = [_row(row) for row in table.rows]
    lines = [
        "% \\usepackage{booktabs}",
        *_definitions("".join(body) + escaped(table.caption)),
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.caption)}. {escaped(table.note)}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{_alignment(table)}}}",
        r"    \toprule",
        "    " + " & ".join(escaped(head) for head in table.heads) + r" \\",
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX source in ASCII: nothing in it is a command, and every letter is there."""
    return "".join(_letter(letter) for letter in unicodedata.normalize("NFC", text) if letter.isprintable())


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if base.isascii() and base.isalpha() and all(ord(mark) in _ACCENTS for mark in marks):
        made = base
        for mark in marks:
            made = f"\\{_ACCENTS[ord(mark)]}{{{made}}}"
        return made
    if letter.isspace():
        return " "
    return rf"\rankerchar{{{ord(letter):04X}}}"


def _definitions(text: str) -> tuple[str, ...]:
    return (_OTHER,) if r"\rankerchar" in text else ()


def _alignment(table: ShownTable) -> str:
    return "".join("l" if cell.is_text else "r" for cell in table.rows[0]) if table.rows else "l" * len(table.heads)


def _row(row: tuple[Shown, ...]) -> str:
    cells = [rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text) for cell in row]
    return "    " + " & ".join(cells) + r" \\"
