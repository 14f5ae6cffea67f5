"""docs/data.md, made from the dataclasses behind the page: `python -m ranker.site.reference > docs/data.md`.

A test compares, and fails where a field has no words.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

from ranker.board import (
    Board,
    Cell,
    Interval,
    IntervalBasis,
    Origin,
    RankInterval,
    Repeats,
    Row,
    TaskColumn,
)
from ranker.calibration import Calibration, Figure
from ranker.site.export import FORMAT
from ranker.site.pages import Sample, SubmissionPage, TrackRun
from ranker.site.tidy import COLUMNS, QUANTITIES
from ranker.types import Condition
from ranker.uncertainty import Agreement, Alternative, Pairs

CLASSES = (
    Board, IntervalBasis, Condition, Origin, TaskColumn, Row, Interval, RankInterval, Cell, Repeats, Alternative,
    Agreement, Pairs, Calibration, Figure, SubmissionPage, TrackRun, Sample,
)  # fmt: skip
LEFT_OUT = {("Calibration", "advice"), ("TrackRun", "predictions")}
"""Fields that no page and no file of a site has."""
ADDED = {
    "Board": {"basis": ("string", "SHA-256 of what the scores hang on: the condition's digest, or the table's.")},
    "Calibration": {"calibrated": ("true or false", "Whether every figure was measured, and within its tolerance.")},
    "Figure": {
        "difference": ("number or null", "Measured minus published."),
        "within": ("true or false", "Whether it is no larger than the tolerance."),
    },
}
"""Fields of the JSON that follow from others."""
WORDS = {
    "Board.benchmark": "Its name, as of its file under configs/.",
    "Board.benchmark_title": "Its name for readers.",
    "Board.track": "Its name, such as `A`.",
    "Board.track_title": "Its name for readers.",
    "Board.demonstration": "Why it is no result of the challenge, in sentences; empty if it is one.",
    "Board.columns": "The tasks, in the benchmark's order.",
    "Board.rows": "The submissions, in the board's order.",
    "Board.made_at": "When it was put together.",
    "Board.seed": "The training seed; null on a board of an imported table.",
    "Board.condition": "Under what the track's public part was measured; null on a board of an imported table.",
    "Board.others": "The conditions of the track's other parts.",
    "Board.intervals": "How all intervals were made: their label.",
    "Board.origin": "Where an imported table comes from; null where scores were measured.",
    "IntervalBasis.level": "Between 0 and 1.",
    "IntervalBasis.resamples": "How many draws.",
    "Condition.benchmark": "The benchmark's name.",
    "Condition.track": "The track's name.",
    "Condition.decoder_layers": "How many of the decoder's layers are used.",
    "Condition.steps": "Training steps.",
    "Condition.precision": "Arithmetic of the decoder's matrix products.",
    "Condition.sandboxed": "Whether encoders ran in a sandbox.",
    "Origin.imported_at": "When.",
    "TaskColumn.name": "The task's name, the key of `Row.cells`.",
    "TaskColumn.title": "Its name for readers.",
    "TaskColumn.domain": "What it listens to.",
    "TaskColumn.group": "Whether participants can preview it.",
    "TaskColumn.worst": "The raw score that counts 0; larger than `best` where less is better.",
    "TaskColumn.best": "The raw score that counts 1.",
    "TaskColumn.weight": "What it counts in its group's mean, or the track's; null where it is the number of test "
    "items and nobody was scored yet.",
    "TaskColumn.items": "Scored test pairs.",
    "TaskColumn.blind": "The score of answering every clip with the commonest training answer.",
    "TaskColumn.confound": "What else the label goes with, in a sentence; null where nothing is known of.",
    "Row.rank": "Competition rank, at full precision: equals share it, and the next ranks are left out.",
    "Row.team": "The team's name as shown.",
    "Row.submission_id": "The submission's id, the same everywhere in this file.",
    "Row.score": "The track score.",
    "Row.cells": "Its scores, by task.",
    "Cell.raw": "The metric's value.",
    "Cell.normalized": "The same between the task's `worst` (0) and `best` (1).",
    "Row.missing": "Active tasks without a score.",
    "Row.interval": "Of the score.",
    "Row.rank_interval": "95% interval of the rank; null without a rank.",
    "Row.p_first": "Share of draws in which nobody is ahead; null without a rank.",
    "Row.p_next": "p-value that the next ranked row's score is as good, corrected by Holm's method for all neighbours.",
    "Row.distinct_from_next": "Whether `p_next` is below 0.05; null for the last one.",
    "Row.tier": "Significance group, from 1; its members are not told apart from its first one; null without a rank.",
    "Row.standing": "What the rules make of it.",
    "Row.pending": "What the rules still ask of it, in words for everybody.",
    "RankInterval.best": "The best rank in it, a small number.",
    "RankInterval.worst": "The worst rank in it.",
    "Interval.low": "Its lower end.",
    "Interval.high": "Its upper end.",
    "Repeats.seeds": "The training seeds.",
    "Alternative.choice": "What would have been chosen otherwise (docs/statistics.md, section 8).",
    "Alternative.task": "Of which task, if it is one task's.",
    "Alternative.ranks": "Competition ranks of the board's ranked rows, in the board's order.",
    "Agreement.first": "The first group's name.",
    "Agreement.second": "The other group's name.",
    "Agreement.teams": "Over how many ranked submissions.",
    "Agreement.tau": "Kendall's tau-b.",
    "Calibration.track": "The track's name.",
    "Calibration.condition": "Digest of the condition under which it was measured; null before.",
    "Calibration.figures": "Each published figure, beside what was measured.",
    "Figure.baseline": "The baseline's name.",
    "Figure.metric": "Of which metric the published figure is.",
    "Figure.published": "The published raw score.",
    "Figure.tolerance": "The largest difference that is let pass.",
    "Figure.task": "The task's name.",
    "SubmissionPage.id": "Its id, as in `Row.submission_id`.",
    "SubmissionPage.team": "The team's name as shown.",
    "SubmissionPage.digest": "SHA-256 of the ZIP; null of an anonymous team's.",
    "SubmissionPage.received_at": "When it came; null of an anonymous team's.",
    "SubmissionPage.state": "How far it has come.",
    "TrackRun.track": "The track's name.",
    "TrackRun.part": "Which of the track's models.",
    "TrackRun.samples": "Some scored items of each public task.",
    "Sample.item": "The clip's name.",
    "Sample.reference": "The right answer.",
    "Sample.candidate": "What the model said.",
}
"""What a docstring need not say to who reads the program, but docs/data.md to who reads the file."""
_PLAIN = {str: "string", int: "whole number", float: "number", bool: "true or false", datetime: "time, ISO 8601"}
_INTRODUCTION = f"""\
# data.json and data.csv

What stands beside every page that `ranker leaderboard` and `ranker publish` write, for programs: all that the pages
show. This file is written by `python -m ranker.site.reference > docs/data.md` from the program's own descriptions; a
test fails where the two differ.

| file | what |
|---|---|
| `data.json` | everything, as below; UTF-8, no NaN: what is not a finite number is null |
| `data.csv` | every number of every board in long form: one line each |
| `track-a.csv`, ... | one board as its table stands: one line per submission, one column per task |

## data.json

Schema version {FORMAT} (`format`). It is counted up when a field changes its meaning or goes; new fields may come
without it.

| field | type | what |
|---|---|---|
| `format` | whole number | the schema's version |
| `boards` | list of Board | one per track |
| `calibrations` | list of Calibration | at most one per track: baselines' published figures beside measured ones |
| `submissions` | list of SubmissionPage | everything that has a page of its own |
"""


def markdown() -> str:
    """The whole page. Raises KeyError for a field without words."""
    parts = [_INTRODUCTION]
    parts += ["\n".join(_class(each)) + "\n" for each in CLASSES]
    parts.append("\n".join(_tidy()) + "\n")
    return "\n".join(parts)


def words_of(owner: type, name: str) -> str:
    """What there is to say of a field: its own words here, else the sentences of the docstring that name it."""
    own = WORDS.get(f"{owner.__name__}.{name}")
    if own is not None:
        return own
    text = " ".join((inspect.getdoc(owner) or "").split())
    sentences = re.split(r"(?<=[.]) (?=[A-Z`])", text)
    found = [sentence for sentence in sentences if re.search(rf"`(\w+\.)?{re.escape(name)}`", sentence)]
    if not found:
        raise KeyError(f"{owner.__name__}.{name}: neither its docstring nor WORDS says what it is")
    words = re.sub(r"\bNone\b", "null", " ".join(found)).removeprefix(f"`{name}`: ")
    return words[0].upper() + words[1:]


def _class(owner: type) -> Iterator[str]:
    hints = get_type_hints(owner)
    yield f"### {owner.__name__}"
    yield ""
    yield " ".join((inspect.getdoc(owner) or "").split("\n\n")[0].split())
    yield ""
    yield "| field | type | what |"
    yield "|---|---|---|"
    for field in fields(owner):
        if (owner.__name__, field.name) not in LEFT_OUT:
            yield f"| `{field.name}` | {_type(hints[field.name])} | {_cell(words_of(owner, field.name))} |"
    for name, (kind, words) in ADDED.get(owner.__name__, {}).items():
        yield f"| `{name}` | {kind} | {_cell(words)} |"


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if each is type(None) else _type(each) for each in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return f"object of {_type(arguments[1])}"
    if origin is not None and issubclass(origin, Sequence):
        if len(arguments) == 2 and arguments[1] is not Ellipsis:
            return f"pair ({', '.join(map(_type, arguments))})"
        return f"list of {_type(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "one of " + ", ".join(f"`{each}`" for each in hint)
    return _PLAIN.get(hint, "any JSON" if hint is Any else hint.__name__)


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _tidy() -> Iterator[str]:
    yield "## data.csv"
    yield ""
    yield f"Columns {', '.join(f'`{each}`' for each in COLUMNS)}. Lines without a submission are of the board, or of a"
    yield "task; lines without a task are of the whole track. What is not known has no line. A text that a spreadsheet"
    yield "would run as a formula begins with an apostrophe, here and in the tracks' tables."
    yield ""
    yield "| quantity | what |"
    yield "|---|---|"
    for name, words in QUANTITIES.items():
        yield f"| `{name}` | {_cell(words)} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
