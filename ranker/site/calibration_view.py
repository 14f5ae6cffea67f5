"""What the front page says of a track's baselines: one line, and the published scores beside those measured here."""

from __future__ import annotations

from dataclasses import dataclass

from ranker.calibration import Calibration, Figure
from ranker.site import text


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """One line of the table, as text."""

    baseline: str
    task: str
    metric: str
    published: str
    measured: str
    difference: str
    tolerance: str
    verdict: str
    within: bool


@dataclass(frozen=True, kw_only=True)
class CalibrationView:
    """A label of one or two words, the sentence after it, and the figures."""

    calibrated: bool
    label: str
    sentence: str
    figures: tuple[FigureView, ...]


def calibration_view(value: Calibration) -> CalibrationView:
    """A track's calibration as its section shows it."""
    return CalibrationView(
        calibrated=value.calibrated,
        label=value.label,
        sentence=value.sentence,
        figures=tuple(map(_figure, value.figures)),
    )


def _figure(figure: Figure) -> FigureView:
    if figure.measured is not None:
        verdict = "within" if figure.within else "off"
    else:
        verdict = "not measured" if figure.computed is None else f"{figure.computed} here"
    return FigureView(
        baseline=figure.baseline,
        task=figure.task,
        metric=figure.metric,
        published=text.number(figure.published),
        measured=text.number(figure.measured),
        difference=text.NONE if figure.difference is None else f"{figure.difference:+.3f}",
        tolerance=text.compact(figure.tolerance),
        verdict=verdict,
        within=figure.within,
    )
