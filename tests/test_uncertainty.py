"""ranker.uncertainty: what an interval covers, what is paired, and what a seed decides."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ranker import config
from ranker.config import Task, Track
from ranker.errors import OrganizerError
from ranker.metrics import Pair, evaluate, reweighted
from ranker.types import Domain, Group, MetricName
from ranker.uncertainty import difference, interval, seed_of, task_draws, track_draws


def task(metric: MetricName = MetricName.ACCURACY, name: str = "t", **fields: object) -> Task:
    test = config.TestSplit(shards=("test.tar",), key=("label",), prompt="?")
    return Task(name=name, title=name, domain=Domain.SOUND, metric=metric, test=test, **fields)


def scored(item: np.ndarray, clips: list[str] | None = None) -> pd.DataFrame:
    """Items of accuracy with the given scores."""
    clips = clips or [f"clip{i:05d}" for i in range(len(item))]
    return pd.DataFrame({"clip": clips, "reference": "r", "candidate": "c", "item": item})


def test_intervals_cover_the_truth() -> None:
    """Of 300 simulated test sets of 150 clips with a true accuracy of 0.7, about 95% of the intervals hold 0.7."""
    rng = np.random.default_rng(1)
    held = 0
    for simulation in range(300):
        items = scored((rng.random(150) < 0.7).astype(float))
        low, high = interval(task_draws(task(), {"x": items}, seed=simulation, resamples=400)["x"])
        held += low <= 0.7 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_intervals_of_differences_cover_the_truth() -> None:
    """The same for the paired difference of two encoders that mostly err on the same clips: 0.8 against 0.7."""
    rng = np.random.default_rng(2)
    held, unpaired_width, paired_width = 0, 0.0, 0.0
    for simulation in range(300):
        hardness, other = rng.random(150), rng.random(150)
        y_hardness = np.where(rng.random(150) < 0.2, other, hardness)
        items = {"x": scored((hardness < 0.8).astype(float)), "y": scored((y_hardness < 0.7).astype(float))}
        draws = task_draws(task(), items, seed=simulation, resamples=400)
        low, high = difference(draws["x"], draws["y"])
        held += low <= 0.1 <= high
        paired_width += high - low
        unpaired = difference(draws["x"], np.roll(draws["y"], 1))
        unpaired_width += unpaired[1] - unpaired[0]
    assert 0.91 <= held / 300 <= 0.98
    assert paired_width < 0.8 * unpaired_width


def test_pairs_of_a_clip_go_together() -> None:
    """Five equal pairs per clip carry one clip's information: the interval is the clips', sqrt(5) times wider."""
    rng = np.random.default_rng(5)
    hits = (rng.random(200) < 0.5).astype(float)
    alone = interval(task_draws(task(), {"x": scored(hits)}, seed=1)["x"])
    clips = [f"clip{i:05d}" for i in range(200) for _ in range(5)]
    five = interval(task_draws(task(), {"x": scored(np.repeat(hits, 5), clips)}, seed=1)["x"])
    taken_apart = interval(task_draws(task(), {"x": scored(np.repeat(hits, 5))}, seed=1)["x"])
    assert five == pytest.approx(alone)
    assert five[1] - five[0] == pytest.approx(5**0.5 * (taken_apart[1] - taken_apart[0]), rel=0.15)


def test_submissions_share_their_draws() -> None:
    """A submission one clip better never falls below in any resample, though both intervals overlap almost wholly."""
    worse = (np.arange(100) < 60).astype(float)
    better = (np.arange(100) < 61).astype(float)
    draws = task_draws(task(), {"x": scored(better), "y": scored(worse)}, seed=7)
    assert (draws["x"] >= draws["y"]).all()
    assert (draws["x"] > draws["y"]).any()
    assert difference(draws["x"], draws["x"]) == (0.0, 0.0)
    assert interval(draws["x"])[0] < 0.6


def test_row_order_does_not_matter_and_company_does_not_either() -> None:
    """Pairs are matched by clip and reference; adding a submission leaves the others' draws as they were."""
    rng = np.random.default_rng(8)
    items = scored((rng.random(50) < 0.5).astype(float))
    other = scored((rng.random(50) < 0.5).astype(float))
    draws = task_draws(task(), {"x": items}, seed=3)["x"]
    shuffled = items.sample(frac=1, random_state=1)
    both = task_draws(task(), {"a": other, "x": shuffled}, seed=3)
    np.testing.assert_array_equal(both["x"], draws)


def test_other_pairs_are_refused() -> None:
    """Scores on other clips, or on fewer, cannot be compared; the message names the submission and both counts."""
    items = scored(np.ones(4))
    for other in (items.head(3), items.assign(reference="another")):
        with pytest.raises(OrganizerError, match=rf"task t: y was scored on {len(other)} pairs.*not the 4 pairs of x"):
            task_draws(task(), {"x": items, "y": other}, seed=1)
    assert task_draws(task(), {}, seed=1) == {}


def test_the_seed_is_the_boards_identity() -> None:
    """The same identity draws the same, another part or another seed differently; many resamples keep their count."""
    items = {"x": scored((np.arange(5000) % 3 == 0).astype(float))}
    first = task_draws(task(), items, seed=seed_of("mini", "A", 42, "t"))["x"]
    assert len(first) == 2000
    np.testing.assert_array_equal(first, task_draws(task(), items, seed=seed_of("mini", "A", 42, "t"))["x"])
    for other in (seed_of("mini", "A", 42, "u"), seed_of("mini", "B", 42, "t"), seed_of("mini", "A", 43, "t")):
        assert (first != task_draws(task(), items, seed=other)["x"]).any()


def test_error_rates_resample_edits_and_lengths() -> None:
    """Long perfect utterances and short wrong ones: the draws' centre is the set's value, not the items' mean (0.2)."""
    texts = [("one two three four five six seven eight", "one two three four five six seven eight")] * 4
    texts += [("yes", "no")] * 16
    pairs = [Pair(clip=f"{i:02d}", reference=ref, candidate=cand) for i, (ref, cand) in enumerate(texts)]
    result = evaluate(MetricName.IWER, pairs)
    draws = task_draws(task(MetricName.IWER), {"x": result.items}, seed=1)["x"]
    low, high = interval(draws)
    assert result.value == pytest.approx(32 / 48)
    assert np.median(draws) == pytest.approx(result.value, abs=0.05)
    assert low < result.value < high


def test_rare_classes_do_not_pull_map_down() -> None:
    """Perfect predictions stay perfect in every draw, also where a class with one clip is not drawn."""
    texts = ["dog", "dog", "dog", "cat;dog", "rain"]
    pairs = [Pair(clip=str(i), reference=text, candidate=text) for i, text in enumerate(texts)]
    result = evaluate(MetricName.MAP, pairs, num_classes=3)
    draws = task_draws(task(MetricName.MAP, num_classes=3), {"x": result.items}, seed=1)["x"]
    assert result.value == 1.0
    np.testing.assert_allclose(draws, 1.0)


def test_intervals_of_map_cover_its_expectation() -> None:
    """Few clips per class and many wrong answers: intervals hold the value's mean over many test sets."""
    rng = np.random.default_rng(6)
    mean_ap = task(MetricName.MAP, num_classes=20)

    def draw() -> pd.DataFrame:
        truth = rng.integers(20, size=100)
        answers = np.where(rng.random(100) < 0.2, truth, rng.integers(20, size=100))
        texts = {"reference": [f"l{i}" for i in truth], "candidate": [f"l{i}" for i in answers]}
        return pd.DataFrame({"clip": [f"{i:03d}" for i in range(100)], **texts})

    ones = np.ones((1, 100))
    expected = np.mean([reweighted(MetricName.MAP, draw(), ones, num_classes=20)[0] for _ in range(1000)])
    held = 0
    for simulation in range(200):
        low, high = interval(task_draws(mean_ap, {"x": draw()}, seed=simulation, resamples=200)["x"])
        held += low <= expected <= high
    assert 0.92 <= held / 200 <= 0.99


def test_track_draws_follow_bounds_weights_and_groups() -> None:
    """The track's draws are the ranking's own formula, draw by draw."""
    tasks = (task(name="a", worst=0.5), task(name="b", weight=3.0), task(name="c", group=Group.HIDDEN))
    track = Track(title="a track", tasks=tasks, group_weights={Group.PUBLIC: 0.5, Group.HIDDEN: 0.5})
    draws = {"a": np.array([0.5, 1.0]), "b": np.array([0.2, 0.4]), "c": np.array([0.0, 1.0])}
    np.testing.assert_allclose(track_draws(draws, track), [(0.6 / 4 + 0) / 2, ((1 + 1.2) / 4 + 1) / 2])
