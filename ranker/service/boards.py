"""What the scores say: rankings, comparisons, pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from ranker import config
from ranker.errors import UsageError
from ranker.service.imports import Imports
from ranker.types import Standing

if TYPE_CHECKING:
    from ranker.board import Board
    from ranker.calibration import Calibration
    from ranker.comparison import Comparison
    from ranker.metrics.recompute import Recomputed
    from ranker.reweighing import Weights
    from ranker.scoretable import Ranked


class Boards(Imports):
    """What the scores say: rankings, comparisons, pages."""

    def boards(
        self,
        name: str | None,
        *,
        track: str | None = None,
        condition: str | None = None,
        including: Collection[Standing] = (),
        weights: Weights | None = None,
    ) -> list[Board]:
        """The benchmark's boards, one per track. Raises MissingError where there is none, or not the one asked for.

        `including`: standings that are taken as if they were ranked. `weights`: other ones than the benchmark's.
        """
        from ranker import board

        if self.ranks_only(name):
            return self.table_boards(name, track=track, condition=condition, including=including, weights=weights)
        benchmark = self.benchmark(name)
        with self.reading() as reading:
            now = datetime.now(UTC)
            tracks = _tracks(reading, benchmark, track, including)
            if weights is not None:
                _refuse_several(tracks)
            return [
                board.assemble(
                    reading,
                    self.home,
                    benchmark,
                    each,
                    condition=condition,
                    including=including,
                    weights=weights,
                    now=now,
                )
                for each in tracks
            ]

    def rank_table(
        self, table: Path, benchmark: str | None, *, track: str | None, weights: Weights | None = None
    ) -> Ranked:
        """Rank a table of raw scores that was made elsewhere; looks at neither database nor data.

        `benchmark` is a benchmark's name, or the path of a YAML file (with a folder or `.yaml` in it). `weights`: other
        ones than the benchmark's. Raises UsageError, ConfigError.
        """
        from ranker.scoretable import rank_table

        if benchmark is not None and (Path(benchmark).suffix in {".yaml", ".yml"} or "/" in benchmark):
            ranking = self._with_hidden(config.load_ranking(Path(benchmark)))
        else:
            ranking = self.ranking_config(benchmark)
        if weights is not None:
            tracks = [track] if track is not None else list(ranking.tracks)
            _refuse_several(tracks)
            weighed = {each: weights.applied(ranking.track(each)) for each in tracks}
            ranking = ranking.model_copy(update={"tracks": weighed})
        return rank_table(table, ranking, track)

    def compare(
        self, names: Sequence[str], benchmark: str | None, *, track: str | None, condition: str | None
    ) -> list[Comparison]:
        """By how much two to four submissions differ, or teams of a table, per track (or on `track` alone)."""
        from ranker import comparison, overview

        comparison.check_count(names)
        if self.ranks_only(benchmark):
            return self.compare_tables(names, benchmark, track=track)
        measured = self.benchmark(benchmark)
        with self.reading() as reading:
            found = overview.find(reading, names)
            if len(found) < len(names):
                raise UsageError(f"{' and '.join(map(repr, names))} are not all different submissions; name each once")
            shown = dict(zip((view.submission.id for view in found), names, strict=True))
            return [
                comparison.compare(reading, self.home, measured, each, submissions=shown, condition=condition)
                for each in _tracks(reading, measured, track, tuple(Standing))
            ]

    def calibrations(self, name: str | None, *, asked: Sequence[int] = ()) -> list[Calibration]:
        """Each track's published figures beside what was measured in the jobs `asked`; without these, on its board."""
        from ranker import board, calibration
        from ranker.db.models import Job

        benchmark = self.benchmark(name)
        found = []
        everything = tuple(Standing)  # what a baseline measures does not depend on who sent it, or when
        with self.reading() as reading:
            digests = {reading.get_one(Job, job).condition_digest for job in asked}
            for track in calibration.tracks(benchmark):
                choices = board.conditions(reading, benchmark, track, including=everything)
                known = [choice.condition.digest for choice in choices]
                digest = next((each for each in known if each in digests or not asked), None)
                made = (
                    board.assemble(
                        reading,
                        self.home,
                        benchmark,
                        track,
                        condition=digest,
                        including=everything,
                        now=datetime.now(UTC),
                    )
                    if digest is not None
                    else None
                )
                found.append(calibration.assess(reading, benchmark, track, made))
        return [each for each in found if each is not None]

    def results(self, name: str | None, remarks: Path | None, *, including: Collection[Standing] = ()) -> str:
        """Ranking, scores, hardware and durations of a benchmark as Markdown; `remarks` is put below."""
        from ranker import overview
        from ranker.results import markdown

        boards = self.boards(name, including=including)
        with self.reading() as reading:
            pages = overview.pages(reading, self.home, boards, including=including)
            digests = {condition.digest for each in boards for condition in each.conditions}
            shown = {row.submission_id for each in boards for row in each.rows}
            spreads = {
                view.submission.team: [spread for spread in view.spreads if spread.condition in digests]
                for view in overview.submissions(reading)
                if view.submission.id in shown
            }
        return markdown(boards, pages, None if remarks is None else remarks.read_text(encoding="utf-8"), spreads)

    def metric(self, name: str, file: Path, arguments: Mapping[str, str]) -> Recomputed:
        """A metric, by its name as computed, of a file of predictions. Raises UsageError, MissingError."""
        from ranker.metrics.recompute import recompute

        return recompute(name, file, arguments)


def _ready(reading: Session, benchmark: config.Benchmark, including: Collection[Standing]) -> list[str]:
    """The tracks that have a board."""
    from ranker import board

    return [track for track in benchmark.tracks if board.conditions(reading, benchmark, track, including=including)]


def _tracks(
    reading: Session, benchmark: config.Benchmark, asked: str | None, including: Collection[Standing]
) -> list[str]:
    """The track that is asked for; else those that have a board, or one that says that there is none yet."""
    return [asked] if asked else _ready(reading, benchmark, including) or list(benchmark.tracks)[:1]


def _refuse_several(tracks: Sequence[str]) -> None:
    if len(tracks) > 1:
        raise UsageError(f"other weights are one track's; name it with --track, one of {', '.join(tracks)}")
