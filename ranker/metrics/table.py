"""Reading predictions from a file: one row per clip and reference, as anyone may write them or ranker has."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import UsageError
from ranker.metrics.values import Pair

COLUMNS = ("clip", "reference", "candidate")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabulators", "|": "bars"}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The pairs of a file, in its order, and in words what a reader should know of it."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def clips(self) -> int:
        """How many clips there are."""
        return len({pair.clip for pair in self.pairs})


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Column names, and rows with the place where each stands."""

    columns: list[str]
    rows: Iterable[tuple[str, Sequence[object]]]


def read_predictions(path: Path) -> Predictions:
    """Pairs from a `.csv` (UTF-8, with a header) or `.parquet` file with the columns clip, reference and candidate.

    Columns may come in any order, and others beside them. A clip with several references has a row for each, all with
    the same candidate. Raises UsageError, naming the first place that is wrong.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; expected a .csv or .parquet file of predictions")
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    places, notes = _places(path, table.columns)
    pairs, candidates = [], dict[str, tuple[str, str]]()
    for where, row in table.rows:
        pair = Pair(**{name: _text(path, where, name, row[place]) for name, place in places.items()})
        if not pair.clip.strip():
            raise UsageError(f"{path}, {where}: the cell of column clip is empty; expected the clip's name")
        known, first = candidates.setdefault(pair.clip, (pair.candidate, where))
        if known != pair.candidate:
            raise UsageError(
                f"{path}, {where}: clip {pair.clip} has the candidate {pair.candidate!r}, but {known!r} in {first}; a "
                "clip is answered once, so its rows (one per reference) must agree"
            )
        pairs.append(pair)
    if not pairs:
        raise UsageError(f"{path}: holds no row below its header; expected one per clip and reference")
    return Predictions(pairs=tuple(pairs), notes=(*notes, *_empty_texts(pairs)))


def _empty_texts(pairs: Sequence[Pair]) -> Iterator[str]:
    for name, count in (
        ("reference", sum(not pair.reference.strip() for pair in pairs)),
        ("candidate", sum(not pair.candidate.strip() for pair in pairs)),
    ):
        if count:
            yield f"{count} of {len(pairs)} {name}s are empty; they were scored as empty texts"


def _places(path: Path, columns: list[str]) -> tuple[dict[str, int], list[str]]:
    """Where each of the three columns stands, and a note on those that are not looked at."""
    names = [name.strip().lower() for name in columns]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        found = ", ".join(repr(name) for name in columns) or "none"
        raise UsageError(
            f"{path}: has no column {' and no column '.join(missing)}; expected the columns {', '.join(COLUMNS)}, "
            f"found {found}{_hint(columns)}"
        )
    double = [name for name in COLUMNS if names.count(name) > 1]
    if double:
        raise UsageError(f"{path}: has the column {double[0]} {names.count(double[0])} times; expected each once")
    others = [name for name, known in zip(columns, names, strict=True) if known not in COLUMNS]
    notes = [f"not looked at: column{'s' * (len(others) > 1)} {', '.join(others)}"] if others else []
    return {name: names.index(name) for name in COLUMNS}, notes


def _hint(columns: list[str]) -> str:
    if len(columns) == 1:
        for separator, words in _OTHER_SEPARATORS.items():
            if separator in columns[0]:
                return f"; its columns seem to be separated by {words}: write it with commas"
    return ""


def _text(path: Path, where: str, column: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = "nothing (null)" if value is None or value != value else f"{value!r}"  # noqa: PLR0124  # NaN alone differs
    raise UsageError(
        f"{path}, {where}: column {column} holds {found}; expected a text, and an empty one where there is no answer"
    )


def _csv(path: Path) -> _Table:
    rows = _lines(path)
    _, header = next(rows, ("", []))
    return _Table(columns=[str(name) for name in header], rows=_of_width(path, rows, len(header)))


def _of_width(
    path: Path, rows: Iterator[tuple[str, Sequence[object]]], width: int
) -> Iterator[tuple[str, Sequence[object]]]:
    for where, row in rows:
        if len(row) != width:
            raise UsageError(
                f"{path}, {where}: has {len(row)} cells, but the header has {width}; a text that holds a comma, a "
                'quotation mark or a line break must stand in quotation marks ("), those inside it doubled'
            )
        yield where, row


def _lines(path: Path) -> Iterator[tuple[str, Sequence[object]]]:
    """Rows of a CSV file with the line in which each ends; empty lines are skipped, and a byte order mark too."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            yield from ((f"line {reader.line_num}", row) for row in reader if row)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path}: is not UTF-8 ({error.reason} at byte {error.start} of a part); save it as UTF-8"
            ) from None
        except csv.Error as error:
            raise UsageError(f"{path}, line {reader.line_num}: is not CSV: {error}") from None


def _parquet(path: Path) -> _Table:
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        cells = [file.read([name]).column(0).to_pylist() for name in columns if name.strip().lower() in COLUMNS]
    except (ArrowException, OSError) as error:
        raise UsageError(f"{path}: is no readable Parquet file: {' '.join(str(error).split())[:200]}") from None
    wanted = iter(cells)
    filled = [next(wanted) if name.strip().lower() in COLUMNS else itertools.repeat(None) for name in columns]
    rows = zip(*filled, strict=False) if cells else iter(())
    return _Table(columns=columns, rows=((f"row {number}", row) for number, row in enumerate(rows, start=1)))
