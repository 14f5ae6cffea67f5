"""Scores that were made elsewhere: tables taken in, and what is ranked by them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ranker import config
from ranker.errors import MissingError, UsageError
from ranker.service.opened import Opened
from ranker.types import Standing

if TYPE_CHECKING:
    from ranker.board import Board
    from ranker.comparison import Comparison
    from ranker.imports import Imported
    from ranker.reweighing import Weights


class Imports(Opened):
    """Scores that were made elsewhere: tables taken in, and what is ranked by them."""

    def import_scores(
        self, table: Path, name: str | None, *, track: str | None, source: str, baselines: Collection[str]
    ) -> Imported:
        """Take in a table for a benchmark that only ranks; see `ranker.imports.import_table`.

        Raises UsageError where scores of the benchmark are measured here: its boards would be of two kinds.
        """
        from ranker import imports
        from ranker.db.session import session

        benchmark = self.ranking_config(name)
        if not benchmark.ranking_only:
            raise UsageError(
                f"scores of benchmark {benchmark.name} are measured here, so that no table is imported for it; `ranker "
                f"rank --scores {table} --benchmark {benchmark.name}` ranks one, and a file under configs/ that says "
                "`ranking_only: true` makes a benchmark of tables"
            )
        with self.open() as engine, session(engine) as writing:
            return imports.import_table(
                writing,
                self.home,
                benchmark,
                table,
                track=track,
                source=source,
                baselines=baselines,
                now=datetime.now(UTC),
            )

    def ranks_only(self, name: str | None) -> bool:
        """Whether the benchmark ranks imported tables only. Raises UsageError, ConfigError."""
        return config.is_ranking_only(self._config_of(name)[1])

    def table_boards(
        self,
        name: str | None,
        *,
        track: str | None = None,
        condition: str | None = None,
        including: Collection[Standing] = (),
        weights: Weights | None = None,
    ) -> list[Board]:
        """The boards of a benchmark's imported tables, one per track. Arguments and errors as of `Ranker.boards`."""
        from ranker import imports

        benchmark = self.ranking_config(name)
        if condition is not None or including:
            raise UsageError(
                "--condition and --with choose among what was measured here; an imported table has neither conditions "
                "nor standings"
            )
        self._refuse_without_tables(benchmark)
        with self.reading() as reading:
            tracks = [track] if track else imports.tracks(reading, benchmark) or list(benchmark.tracks)[:1]
            if weights is not None and len(tracks) > 1:
                raise UsageError(f"other weights are one track's; name it with --track, one of {', '.join(tracks)}")
            now = datetime.now(UTC)
            return [imports.board(reading, self.home, benchmark, each, weights=weights, now=now) for each in tracks]

    def compare_tables(self, names: Sequence[str], benchmark: str | None, *, track: str | None) -> list[Comparison]:
        """By how much teams of imported tables differ. Arguments and errors as of `Ranker.compare`."""
        from ranker import comparison, imports

        ranked = self.ranking_config(benchmark)
        self._refuse_without_tables(ranked)
        with self.reading() as reading:
            tracks = [track] if track else imports.tracks(reading, ranked) or list(ranked.tracks)[:1]
            return [comparison.compare_table(reading, self.home, ranked, each, teams=names) for each in tracks]

    def _refuse_without_tables(self, benchmark: config.RankedBenchmark) -> None:
        """Raises MissingError in a home without a database: what only looks makes no files."""
        if not self.has_database():
            raise MissingError(
                f"no table was imported into {self.home.root} yet; run `ranker import-scores TABLE.csv --benchmark "
                f"{benchmark.name}`"
            )
