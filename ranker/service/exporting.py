"""Boards as files for papers and notebooks."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ranker.errors import UsageError
from ranker.service.boards import Boards
from ranker.types import Export, FileFormat, Standing

if TYPE_CHECKING:
    import pandas as pd

    from ranker.board import Board


class Exporting(Boards):
    """Boards as files for papers and notebooks."""

    def export(
        self,
        name: str | None,
        what: Export,
        file_format: FileFormat,
        *,
        track: str | None = None,
        condition: str | None = None,
        including: Collection[Standing] = (),
        with_hidden_predictions: bool = False,
    ) -> bytes:
        """A file's content: UTF-8 text, or Parquet. The same boards give the same bytes.

        Raises UsageError for predictions of an imported table, or as a table for readers, and for several tracks in a
        format that has room for one; else as `boards`.
        """
        from ranker import exports
        from ranker.exports.formats import facts

        boards = self.boards(name, track=track, condition=condition, including=including)
        if len(boards) > 1 and file_format in {FileFormat.CSV, FileFormat.PARQUET}:
            tracks = ", ".join(board.track for board in boards)
            raise UsageError(f"a {file_format} file has room for one track; name it with --track, one of {tracks}")
        if file_format in {FileFormat.LATEX, FileFormat.MARKDOWN}:
            if what is Export.PREDICTIONS:
                raise UsageError(f"predictions are no table to print; --format csv, json or parquet, not {file_format}")
            make = exports.to_latex if file_format is FileFormat.LATEX else exports.to_markdown
            return "\n".join(make(board, what) for board in boards).encode()
        tables = [
            (facts(board, what), self._frame(board, what, including, with_hidden_predictions)) for board in boards
        ]
        if file_format is FileFormat.JSON:
            return exports.to_json(tables).encode()
        ((said, table),) = tables
        return exports.to_csv(table).encode() if file_format is FileFormat.CSV else exports.to_parquet(said, table)

    def _frame(self, board: Board, what: Export, including: Collection[Standing], with_hidden: bool) -> pd.DataFrame:
        from ranker import exports
        from ranker.board import evidence

        if what is not Export.PREDICTIONS:
            return exports.frame(board, what)
        if board.condition is None:
            raise UsageError(f"track {board.track} is of an imported table: it has scores, and no predictions")
        with self.reading() as reading:
            found = evidence(
                reading,
                self.home,
                self.benchmark(board.benchmark),
                board.track,
                condition=board.condition.digest,
                seed=board.seed,
                including=including,
            )
            return exports.prediction_frame(board, found, self.home, with_hidden=with_hidden)
