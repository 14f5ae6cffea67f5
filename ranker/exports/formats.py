"""Tables for programs: CSV, JSON and Parquet of ranks, scores or intervals."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ranker.board import Board
from ranker.types import Export

FORMAT = 1
"""Counted up when a column or key changes its meaning or goes."""
_ENDS = ("score.low", "score.high", "rank.low", "rank.high")
_WHO = ("rank", "team", "submission")
_STATE = ("missing", "standing", "baseline")
_WHOLE_NUMBERS = {"rank", "rank.low", "rank.high", "tier"}
_TEXTS = {"track", "team", "submission", "missing", "standing", "task", "clip", "reference", "candidate", "cluster"}
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def frame(board: Board, what: Export) -> pd.DataFrame:
    """The board's columns for `what`, rows in the board's order: names and values as of `Board.to_frame`."""
    whole = board.to_frame()
    means = [name for name in map(str, whole) if name.startswith("mean.")]
    tasks = [column.name for column in board.columns]
    wide = [name for task in tasks for name in (task, f"{task}.low", f"{task}.high")]
    chosen = {
        Export.RANKS: (*_WHO, "score", *_ENDS, "p_first", "p_next", "tier", *means, *_STATE),
        Export.SCORES: (*_WHO, "score", *means, *tasks, *_STATE),
        Export.INTERVALS: (*_WHO, "score", *_ENDS, *wide),
    }[what]
    return whole[list(chosen)]


def facts(board: Board, what: Export) -> dict[str, str]:
    """What a file says of itself, whatever its format; `board` is the digest of what the scores hang on."""
    found = {
        "format": str(FORMAT),
        "what": what.value,
        "benchmark": board.benchmark,
        "track": board.track,
        "board": board.basis,
        "resampling": board.intervals.resampling.value,
        "resamples": str(board.intervals.resamples),
        "given": board.intervals.given,
    }
    if board.origin is not None:
        found["source"] = board.origin.source
    if board.demonstration:
        found["demonstration"] = "; ".join(board.demonstration)
    return found


def to_csv(table: pd.DataFrame) -> str:
    """Lines end with a line feed; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    table = table.copy()
    for name in _TEXTS & set(table):
        table[name] = table[name].map(_inert)
    return str(table.to_csv(index=False, lineterminator="\n"))


def to_json(tables: Sequence[tuple[Mapping[str, str], pd.DataFrame]]) -> str:
    """A list with one object per board: its `facts`, and its `rows`; what is not there is null."""
    found = [{**facts, "rows": [_plain(row) for row in table.to_dict(orient="records")]} for facts, table in tables]
    return json.dumps(found, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def to_parquet(facts: Mapping[str, str], table: pd.DataFrame) -> bytes:
    """One board, compressed with zstd; each of `facts` stands in the schema's metadata, as `ranker.NAME`."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [
        pa.array(table[name].tolist(), type=_type(pa, str(name), table[name]), from_pandas=True) for name in table
    ]
    metadata = {f"ranker.{name}": value for name, value in sorted(facts.items())}
    made = pa.table(columns, names=[str(name) for name in table]).replace_schema_metadata(metadata)
    file = io.BytesIO()
    parquet.write_table(made, file, compression="zstd")
    return file.getvalue()


def _type(pa: Any, name: str, values: pd.Series[Any]) -> Any:
    if name in _TEXTS:
        return pa.string()
    if name in _WHOLE_NUMBERS:
        return pa.int64()
    if values.dtype == bool:
        return pa.bool_()
    return pa.float64()


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
