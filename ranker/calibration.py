"""Does this machine measure what others have published? The baselines' own scores on a board, beside their figures.

Nothing of this is stored: a calibration follows from a board and the benchmark's file, like the ranking itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker.baseline import Baseline
from ranker.board import Board
from ranker.config import Benchmark
from ranker.db.models import Job, Submission
from ranker.errors import UsageError
from ranker.types import JobKind, Status

_ROUNDING = 1e-9
_SAID = 4


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published raw score of `metric`, and what was measured here.

    `computed` is the metric that was computed here, None where nothing was; `measured` its value, None where that is
    another metric than the published one.
    """

    baseline: str
    task: str
    metric: str
    published: float
    tolerance: float
    computed: str | None
    measured: float | None

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        return None if self.measured is None else self.measured - self.published

    @property
    def within(self) -> bool:
        """Whether it was measured, and lies no farther off than the tolerance."""
        return self.difference is not None and abs(self.difference) <= self.tolerance + _ROUNDING

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what follows from them."""
        return asdict(self) | {"difference": self.difference, "within": self.within}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One track's published figures under one condition (None where nothing was evaluated at all).

    `reasons` say, for everybody, why it is not calibrated; `advice` is for the organizer. `measured_at`: when the last
    evaluation of a baseline ended.
    """

    track: str
    condition: str | None
    figures: tuple[Figure, ...]
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    measured_at: datetime | None

    @property
    def calibrated(self) -> bool:
        """Whether every published figure was measured and is within its tolerance."""
        return not self.reasons

    @property
    def label(self) -> str:
        """In one or two words."""
        return "Calibrated" if self.calibrated else "Not calibrated"

    @property
    def sentence(self) -> str:
        """Why, by a few reasons where there are many; times are UTC."""
        if self.reasons:
            more = len(self.reasons) - _SAID
            return "; ".join(self.reasons[:_SAID]) + (f"; and {more} more" if more > 0 else "") + "."
        names = list(dict.fromkeys(figure.baseline for figure in self.figures))
        when = f", last on {self.measured_at:%Y-%m-%d} (UTC)" if self.measured_at is not None else ""
        return (
            f"the {len(self.figures)} published figures of {' and '.join(names)} were measured here within their "
            f"tolerances{when}."
        )

    def to_json(self) -> dict[str, Any]:
        """What `ranker calibrate --json` and data.json say of a track; times in ISO 8601 with their zone."""
        return {
            "track": self.track,
            "condition": self.condition,
            "calibrated": self.calibrated,
            "measured_at": None if self.measured_at is None else self.measured_at.isoformat(),
            "reasons": list(self.reasons),
            "figures": [figure.to_json() for figure in self.figures],
        }


def tracks(benchmark: Benchmark) -> list[str]:
    """The tracks that have published figures."""
    return [track for track in benchmark.tracks if any(track in each.published for each in benchmark.baselines)]


def found(session: Session, benchmark: Benchmark) -> dict[str, Submission]:
    """The submissions of those baselines that were taken in and passed their check, by the baseline's name.

    Raises UsageError where a baseline's `submission` fits several.
    """
    checked = select(Job.submission_id).where(Job.kind == JobKind.CHECK, Job.status == Status.SUCCEEDED)
    accepted = list(session.scalars(select(Submission).where(Submission.id.in_(checked)).order_by(Submission.id)))
    submissions: dict[str, Submission] = {}
    for baseline in benchmark.baselines:
        fitting = [each for each in accepted if baseline.fits(each.team, each.digest)]
        if len(fitting) > 1:
            raise UsageError(
                f"benchmark {benchmark.name}: {len(fitting)} submissions fit baseline {baseline.name} (submission: "
                f"{baseline.submission}): {', '.join(each.id for each in fitting)}; put the id of the right one there"
            )
        if fitting:
            submissions[baseline.name] = fitting[0]
    return submissions


def assess(session: Session, benchmark: Benchmark, track: str, board: Board | None) -> Calibration | None:
    """What the board (None: there is none yet) says of the track's published figures; None where it has none.

    Raises UsageError as `found`.
    """
    baselines = [each for each in benchmark.baselines if track in each.published]
    if not baselines:
        return None
    submissions = found(session, benchmark)
    figures: list[Figure] = []
    reasons: list[str] = []
    advice: list[str] = []
    for baseline in baselines:
        submission = submissions.get(baseline.name)
        own = list(_figures(baseline, benchmark, board, submission, track))
        figures += own
        reasons += _reasons(baseline, own)
        if submission is None:
            advice.append(f"{baseline.name} has not been taken in: {baseline.how}")
        elif any(figure.computed is None for figure in own):
            advice.append(
                f"{baseline.name} lacks scores: `ranker calibrate --benchmark {benchmark.name}` runs what is missing, "
                f"and `ranker show {submission.id}` says what failed"
            )
    return Calibration(
        track=track,
        condition=None if board is None else board.basis,
        figures=tuple(figures),
        reasons=tuple(reasons),
        advice=tuple(advice),
        measured_at=None if board is None else _measured_at(session, board, list(submissions.values())),
    )


def refuse_uncalibrated(benchmark: Benchmark, calibrations: Sequence[Calibration]) -> None:
    """Raise UsageError if the benchmark says `needs_calibration` and a track is not calibrated."""
    if benchmark.needs_calibration:
        wrong = [f"track {each.track}: {'; '.join(each.reasons)}" for each in calibrations if not each.calibrated]
        if wrong:
            raise UsageError(
                f"benchmark {benchmark.name} says `needs_calibration: true`, and nothing is published before its "
                f"baselines score as published: {'; '.join(wrong)}; `ranker calibrate --benchmark {benchmark.name}` "
                "measures them"
            )


def _figures(
    baseline: Baseline, benchmark: Benchmark, board: Board | None, submission: Submission | None, track: str
) -> Iterator[Figure]:
    metrics = {task.name: task.metric.value for task in benchmark.track(track).active_tasks} | baseline.metrics
    columns = {column.name: column.metric for column in board.columns} if board is not None else {}
    rows = board.rows if board is not None and submission is not None else ()
    cells = next((row.cells for row in rows if submission is not None and row.submission_id == submission.id), {})
    for task, published in baseline.published[track].items():
        computed = columns[task] if task in cells else None
        yield Figure(
            baseline=baseline.name,
            task=task,
            metric=metrics[task],
            published=published,
            tolerance=baseline.tolerance_of(task),
            computed=computed,
            measured=cells[task].raw if computed == metrics[task] else None,
        )


def _reasons(baseline: Baseline, figures: Sequence[Figure]) -> Iterator[str]:
    absent = [figure.task for figure in figures if figure.computed is None]
    if len(absent) == len(figures):
        yield f"{baseline.name} was not measured under this condition"
    elif absent:
        yield f"{baseline.name} was not measured on {', '.join(absent)}"
    for figure in figures:
        if figure.computed is not None and figure.measured is None:
            yield f"{figure.task} of {baseline.name} is {figure.computed} here, published as {figure.metric}"
        elif figure.measured is not None and not figure.within:
            yield (
                f"{figure.task} of {baseline.name} is {figure.measured:.3f}, published {figure.published:.3f} "
                f"\N{PLUS-MINUS SIGN} {figure.tolerance:g}"
            )


def _measured_at(session: Session, board: Board, submissions: Sequence[Submission]) -> datetime | None:
    query = (
        select(Job.finished_at)
        .where(Job.kind == JobKind.EVALUATE, Job.status == Status.SUCCEEDED, Job.seed == board.seed)
        .where(Job.condition_digest == board.basis)
        .where(Job.submission_id.in_([each.id for each in submissions]))
    )
    return max((moment for moment in session.scalars(query) if moment is not None), default=None)
