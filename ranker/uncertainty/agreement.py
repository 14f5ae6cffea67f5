"""Do two groups of tasks order the teams alike? Kendall's tau-b (docs/statistics.md, section 9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranker.uncertainty.intervals import interval

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau-b of the means of `first` and of `second`, two groups of tasks, over `teams` ranked submissions.

    `low` and `high`: its 95% percentile interval over the same draws as the board's, the teams held fixed.
    """

    first: str
    second: str
    tau: float
    low: float
    high: float
    teams: int


def tau_b(x: FloatArray, y: FloatArray) -> FloatArray:
    """Kendall's tau-b (1945) over the first axis: (R, ...) and (R, ...) to (...).

    (concordant - discordant) / sqrt((pairs - ties in x) * (pairs - ties in y)); NaN where one of them is constant.
    """
    both, in_x, in_y = (np.zeros(x.shape[1:]) for _ in range(3))
    for i in range(len(x) - 1):
        of_x, of_y = np.sign(x[i] - x[i + 1 :]), np.sign(y[i] - y[i + 1 :])
        both += (of_x * of_y).sum(axis=0)
        in_x += np.abs(of_x).sum(axis=0)
        in_y += np.abs(of_y).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(both / np.sqrt(in_x * in_y))


def agreement(
    names: tuple[str, str], scores: tuple[FloatArray, FloatArray], draws: tuple[FloatArray, FloatArray]
) -> Agreement | None:
    """Of two groups' means: scores (R,) and (R,), draws (R, B) and (R, B). None where tau is not defined."""
    tau = float(tau_b(*scores))
    drawn = tau_b(*draws)
    drawn = drawn[~np.isnan(drawn)]
    if math.isnan(tau) or not len(drawn):
        return None
    low, high = interval(drawn)
    return Agreement(first=names[0], second=names[1], tau=tau, low=low, high=high, teams=len(scores[0]))
