"""ranker.uncertainty: intervals against scipy, few units, seeds, and coverage in simulated benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable

import effort
import numpy as np
import pandas as pd
import pytest
import simulated
from scipy import stats

from ranker import config
from ranker.config import RankedTask, RankedTrack, Task
from ranker.metrics import Pair, evaluate, left_out_average_precisions, reweighted, reweighted_all
from ranker.scoring import combine
from ranker.types import Domain, Group, MetricName
from ranker.uncertainty import (
    draws_over_tasks,
    effective_units,
    interval,
    t_quantile,
    tail_of,
    task_draws,
    units_of,
    with_seeds,
)


def task(metric: MetricName, name: str = "t", **fields: object) -> Task:
    cluster = fields.pop("cluster", None)
    test = config.TestSplit(shards=("test.tar",), key=("label",), prompt="?", cluster=cluster)
    return Task(name=name, title=name, domain=Domain.SOUND, metric=metric, test=test, **fields)


def clips(count: int) -> list[str]:
    return [f"clip{i:05d}" for i in range(count)]


def table(count: int, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"clip": clips(count), "reference": "r", "candidate": "c"} | columns)


# -- against scipy


def mean_of(column: str) -> Callable[[pd.DataFrame], Callable[[np.ndarray], float]]:
    return lambda items: lambda drawn: float(items[column].to_numpy()[drawn].mean())


def error_rate(items: pd.DataFrame) -> Callable[[np.ndarray], float]:
    edits, lengths = items["edits"].to_numpy(), items["reference_length"].to_numpy()
    return lambda drawn: max(0.0, 1 - edits[drawn].sum() / lengths[drawn].sum())


def average_precision(items: pd.DataFrame) -> Callable[[np.ndarray], float]:
    def value(drawn: np.ndarray) -> float:
        chosen = items.iloc[drawn]
        pairs = [
            Pair(clip=str(place), reference=row.reference, candidate=row.candidate)
            for place, row in enumerate(chosen.itertuples())
        ]
        return evaluate(MetricName.MAP, pairs, num_classes=3).value

    return value


def scored(metric: MetricName) -> pd.DataFrame:
    """Sixty made-up items of a metric."""
    rng = np.random.default_rng(3)
    if metric is MetricName.ACCURACY:
        return table(60, item=(rng.random(60) < 0.7).astype(float))
    if metric is MetricName.IWER:
        lengths = rng.integers(2, 30, 60)
        return table(60, item=0.0, reference_length=lengths, edits=rng.binomial(lengths, 0.3))
    if metric is MetricName.MAP:
        truth, other = rng.integers(3, size=60), rng.integers(3, size=60)
        said = np.where(rng.random(60) < 0.6, truth, other)
        return table(60, item=0.0, reference=[f"l{i}" for i in truth], candidate=[f"l{i}" for i in said])
    return table(60, item=rng.beta(4, 2, 60))


STATISTICS = {
    MetricName.ACCURACY: mean_of("item"),
    MetricName.FENSE: mean_of("item"),
    MetricName.DATE: mean_of("item"),
    MetricName.IWER: error_rate,
    MetricName.MAP: average_precision,
}


@pytest.mark.parametrize("metric", list(STATISTICS))
def test_intervals_are_those_of_scipy(metric: MetricName) -> None:
    """On the same random state scipy computes the statistic of each resample anew: the same percentiles."""
    items = scored(metric)
    tested = task(metric, num_classes=3 if metric is MetricName.MAP else None)
    draws = task_draws(tested, {"x": items}, seed=5, resamples=100)["x"]
    data, settings = (np.arange(60),), {"method": "percentile", "vectorized": False, "n_resamples": 100}
    theirs = stats.bootstrap(data, STATISTICS[metric](items), rng=np.random.default_rng(5), **settings)
    expected = np.array(theirs.confidence_interval)
    if metric is MetricName.MAP:  # a resample's is too high on average, and varies too little (docs/statistics.md)
        value = STATISTICS[metric](items)
        left_out = np.array([value(np.delete(np.arange(60), i)) for i in range(60)])
        theirs_sd, jackknife = theirs.bootstrap_distribution.std(), math.sqrt(59 * left_out.var())
        centre = theirs.bootstrap_distribution.mean()
        assert value(np.arange(60)) < centre - 0.005
        assert 1.05 < jackknife / theirs_sd < 1.2
        stretch = math.sqrt(59 / 60) * jackknife / theirs_sd
        expected = value(np.arange(60)) + stretch * (expected - centre)
    assert interval(draws) == pytest.approx(list(expected), abs=1e-9)


def test_a_jackknife_leaves_out_whole_units() -> None:
    """In closed form what weights of 0 for one speaker's clips give, also where a class is left without positives."""
    items = scored(MetricName.MAP)
    items.loc[:2, "reference"] = "only here"
    units = np.arange(60) // 3
    weights = (units[None, :] != np.arange(20)[:, None]).astype(float)
    other = items.assign(candidate=items["candidate"].iloc[::-1].to_numpy())
    found = left_out_average_precisions([items, other], units, 20, 4)
    np.testing.assert_allclose(
        found, reweighted_all(MetricName.MAP, [items, other], weights, num_classes=4), atol=1e-12
    )


def test_intervals_of_clusters_are_those_of_scipy() -> None:
    """Speakers of unequal numbers of clips: scipy draws speakers, and the score is that of all their clips."""
    rng = np.random.default_rng(8)
    speakers = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    items = table(len(speakers), item=(rng.random(len(speakers)) < 0.6).astype(float), cluster=speakers.astype(str))
    tested = task(MetricName.ACCURACY, cluster="speaker")
    units = units_of(tested, [items])
    assert (units.kind, units.count) == ("speaker", 12)
    draws = task_draws(tested, {"x": items}, seed=5, resamples=300)["x"]
    hits, sizes = (np.bincount(speakers, weights=weights) for weights in (items["item"], np.ones(len(speakers))))
    theirs = stats.bootstrap(
        (np.arange(12),), lambda drawn: hits[drawn].sum() / sizes[drawn].sum(), rng=np.random.default_rng(5),
        method="percentile", vectorized=False, n_resamples=300,
    )  # fmt: skip
    assert interval(draws) == pytest.approx(list(theirs.confidence_interval), abs=1e-9)


def test_clusters_of_one_evaluation_hold_for_all() -> None:
    """A submission that was evaluated before the field was named is drawn by the clusters that another one's table has;
    where none has any, by clips.
    """
    named = task(MetricName.ACCURACY, cluster="speaker")
    early = table(40, item=np.r_[np.ones(20), np.zeros(20)])
    late = early.assign(cluster=[f"s{i // 10}" for i in range(40)])
    both = task_draws(named, {"early": early, "late": late}, seed=1, resamples=50)
    np.testing.assert_array_equal(both["early"], both["late"])
    alone = task_draws(named, {"early": early}, seed=1, resamples=50)["early"]
    assert np.unique(both["early"]).size <= 5 < np.unique(alone).size
    assert units_of(named, [early]).kind == "clip"


@pytest.mark.parametrize("metric", list(STATISTICS))
def test_many_tables_at_once_give_what_each_gives_alone(metric: MetricName) -> None:
    """The products of matrices for all submissions together are the formula of one, and equal tables tie."""
    items = scored(metric)
    other = items.assign(item=1 - items["item"], candidate=items["candidate"].sample(frac=1, random_state=1).to_numpy())
    weights = np.random.default_rng(1).integers(1, 4, size=(7, 60)).astype(float)
    together = reweighted_all(metric, [items, other, items], weights, num_classes=3)
    alone = [reweighted(metric, each, weights, num_classes=3) for each in (items, other, items)]
    np.testing.assert_allclose(together, alone, atol=1e-12)


# -- few units, and seeds


def test_the_expansion_of_t_is_scipys_t() -> None:
    """Degrees of freedom from 3 up, whole and not: within 0.2%; fewer: never above it."""
    for freedom in (3, 4, 5.5, 9, 30, 200, 5000):
        assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)
    for freedom in (1, 2):
        assert 0.85 < t_quantile(0.975, freedom) / stats.t.ppf(0.975, freedom) < 1


def test_few_units_widen_an_interval_as_t_does() -> None:
    """Normal draws of a mean of 8: half its width becomes t * sqrt(8 / 7) deviations; one unit: every draw."""
    draws = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    low, high = interval(draws, units=8)
    assert high == pytest.approx(stats.t.ppf(0.975, 7) * math.sqrt(8 / 7), rel=5e-3)
    assert low == pytest.approx(-high)
    assert interval(draws, units=1) == (draws.min(), draws.max())
    assert tail_of(None) == pytest.approx(0.025)
    assert tail_of(100_000) == pytest.approx(0.025, rel=1e-3)


def test_units_of_a_sum() -> None:
    """Equal parts of 10 units add up; one that hardly varies leaves the other's; without variance, none."""
    assert effective_units([1.0, 1.0], [10, 10]) == pytest.approx(19)
    assert effective_units([1.0, 1e-9], [10, 1000]) == pytest.approx(10)
    assert effective_units([0.0, 0.0], [10, 10]) is None
    assert effective_units([1.0, 1.0], [1, 10]) is None


def test_seeds_and_items_add_as_squares() -> None:
    """3 and 4 make 5, on each side by itself; without a deviation the interval stays what it was."""
    t = t_quantile(0.975, 5)
    low, high = with_seeds(0.5, 0.47, 0.54, deviation=0.04 / t, freedom=5)
    assert (low, high) == pytest.approx((0.5 - 0.05, 0.5 + 0.04 * math.sqrt(2)))
    assert with_seeds(0.5, 0.47, 0.54, deviation=0.0, freedom=5) == pytest.approx((0.47, 0.54))


# -- resampling of tasks


def test_draws_over_tasks_keep_groups_and_weights() -> None:
    """Each group is drawn from itself and keeps its share; a group of one task does not vary; without group weights all
    tasks are drawn together; equal rows tie to the bit.
    """
    tasks = [RankedTask(name=f"t{i}", title="t", weight=1.0 + i) for i in range(4)]
    tasks.append(RankedTask(name="h", title="h", group=Group.HIDDEN))
    track = RankedTrack(title="t", tasks=tuple(tasks), group_weights={Group.PUBLIC: 3, Group.HIDDEN: 1})
    values = np.array([[0.1, 0.5, 0.7, 0.2, 0.9], [0.1, 0.5, 0.7, 0.2, 0.9], [0.6, 0.6, 0.6, 0.6, 0.0]])
    means = draws_over_tasks(values, track, seed=1, resamples=4000)
    np.testing.assert_array_equal(means.track[0], means.track[1])
    np.testing.assert_allclose(means.groups[Group.HIDDEN][0], 0.9)
    np.testing.assert_allclose(means.track[2], 0.45)
    np.testing.assert_allclose(means.track, (3 * means.groups[Group.PUBLIC] + means.groups[Group.HIDDEN]) / 4)
    expected = combine(values, track)
    assert means.track.mean(axis=1) == pytest.approx(expected.track, abs=0.02)
    drawn = {round(0.1 * a + 1.0 * b + 2.1 * c + 0.8 * d, 9) / (a + 2 * b + 3 * c + 4 * d)
             for a in range(5) for b in range(5 - a) for c in range(5 - a - b) for d in [4 - a - b - c]}  # fmt: skip
    found = np.unique(np.round(means.groups[Group.PUBLIC][0], 9))
    assert len(found) > 25
    assert all(min(abs(each - other) for other in drawn) < 1e-8 for each in found)
    alone = draws_over_tasks(values, track.model_copy(update={"group_weights": None}), seed=1, resamples=500)
    assert alone.groups[Group.HIDDEN][0][~np.isnan(alone.groups[Group.HIDDEN][0])] == pytest.approx(0.9)
    assert np.isnan(alone.groups[Group.HIDDEN]).any()
    assert not np.isnan(alone.track).any()


# -- coverage


def test_intervals_cover_the_truth_in_simulated_benchmarks() -> None:
    """Of task and of track score: 95% intervals hold the encoder's true value in 93 to 97% of the cases.

    The bounds leave room for chance: four standard errors of a share of that many cases.
    """
    count = effort.count("simulated benchmarks whose intervals were held against the truth", short=25, long=2000)
    resamples, sets = (1000, 4000) if effort.LONG else (300, 300)
    held = simulated.held(range(count), simulated.truth(sets), resamples=resamples)
    of_tasks = sum(each.inside for name, each in held.items() if name != simulated.TRACK_SCORE)
    tasks = len(simulated.TRACK.tasks)
    effort.found(f"of them whose track score's interval held the truth (its {tasks} tasks: {of_tasks:,} of "
                 f"{count * tasks:,})", held[simulated.TRACK_SCORE].inside)  # fmt: skip
    for cases, number in [(count, each.inside) for each in held.values()] + [(count * tasks, of_tasks)]:
        room = 4 * math.sqrt(0.05 * 0.95 / cases)
        assert 0.93 - room <= number / cases <= 0.97 + room, held
