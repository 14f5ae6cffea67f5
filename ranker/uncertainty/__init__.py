"""How sure scores and ranks are. Formulas, sources, and what each figure does not say: docs/statistics.md."""

from ranker.uncertainty.agreement import Agreement, agreement, tau_b
from ranker.uncertainty.intervals import LEVEL, difference, effective_units, interval, t_quantile, tail_of, with_seeds
from ranker.uncertainty.pairs import MOST_PAIRED, Pairs, pairs
from ranker.uncertainty.ranks import ALPHA, Certainty, certainties, holm, p_values, rank_draws
from ranker.uncertainty.resampling import (
    CLUSTER,
    RESAMPLES,
    Draws,
    Units,
    draws_over_tasks,
    seed_of,
    task_draws,
    track_draws,
    track_means,
    units_of,
)
from ranker.uncertainty.sensitivity import Alternative, alternatives

__all__ = [
    "ALPHA",
    "CLUSTER",
    "LEVEL",
    "MOST_PAIRED",
    "RESAMPLES",
    "Agreement",
    "Alternative",
    "Certainty",
    "Draws",
    "Pairs",
    "Units",
    "agreement",
    "alternatives",
    "certainties",
    "difference",
    "draws_over_tasks",
    "effective_units",
    "holm",
    "interval",
    "p_values",
    "pairs",
    "rank_draws",
    "seed_of",
    "t_quantile",
    "tail_of",
    "task_draws",
    "tau_b",
    "track_draws",
    "track_means",
    "units_of",
    "with_seeds",
]
