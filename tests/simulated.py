"""Made-up benchmarks with a known truth, and how often intervals hold it. Run by bench/coverage.py and by a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ranker import config
from ranker.config import Task, Track
from ranker.metrics import reweighted
from ranker.scoring import combine
from ranker.types import Domain, Group, MetricName
from ranker.uncertainty import effective_units, interval, task_draws, track_draws, units_of

CLASSES, MAP_CLIPS = 10, 300
RARE_CLASSES, RARE_CLIPS = 40, 600
TRACK_SCORE = "track score"
_POPULARITY = 1 / np.arange(1, RARE_CLASSES + 1)
_POPULARITY /= _POPULARITY.sum()


def _task(metric: MetricName, name: str, title: str, **fields: object) -> Task:
    cluster = fields.pop("cluster", None)
    test = config.TestSplit(shards=("test.tar",), key=("label",), prompt="?", cluster=cluster)
    return Task(name=name, title=title, domain=Domain.SOUND, metric=metric, test=test, **fields)


TRACK = Track(
    title="t",
    tasks=(
        _task(MetricName.ACCURACY, "large", "accuracy, 400 clips"),
        _task(MetricName.ACCURACY, "small", "accuracy, 150 clips", worst=0.25),
        _task(MetricName.ACCURACY, "speakers", "accuracy, 25 speakers of 8 clips", cluster="speaker"),
        _task(MetricName.IWER, "words", "iWER, 200 utterances", weight=2.0),
        _task(MetricName.FENSE, "captions", "mean of captions' scores, 150 clips", group=Group.HIDDEN),
        _task(MetricName.MAP, "labels", f"mAP, {CLASSES} classes, {MAP_CLIPS} clips", num_classes=CLASSES,
              group=Group.HIDDEN),
        _task(MetricName.MAP, "rare", f"mAP, {RARE_CLASSES} classes by Zipf's law, {RARE_CLIPS} clips",
              num_classes=RARE_CLASSES, group=Group.HIDDEN),
    ),
    group_weights={Group.PUBLIC: 0.5, Group.HIDDEN: 0.5},
)  # fmt: skip


@dataclass(kw_only=True)
class Held:
    """Of how many intervals the truth was inside, and below or above which it lay; the sum of their widths."""

    inside: int = 0
    below: int = 0
    above: int = 0
    width: float = 0.0

    def add(self, low: float, high: float, truth: float) -> None:
        self.inside += low <= truth <= high
        self.below += truth < low
        self.above += truth > high
        self.width += high - low

    def merge(self, other: Held) -> None:
        self.inside, self.below, self.above = (
            self.inside + other.inside,
            self.below + other.below,
            self.above + other.above,
        )
        self.width += other.width


def truth(sets: int) -> dict[str, float]:
    """Each task's true value: mAP's is its mean over so many test sets of its size, since it depends on the size."""
    rng = np.random.default_rng(20)
    known = {"large": 0.8, "small": 0.6, "speakers": 0.7, "words": 0.8, "captions": 0.6}
    labels, rare = np.zeros(sets), np.zeros(sets)
    for i in range(sets):
        labels[i] = _value(_labels(rng), MAP_CLIPS, CLASSES)
        rare[i] = _value(_rare(rng), RARE_CLIPS, RARE_CLASSES)
    return known | {"labels": float(labels.mean()), "rare": float(rare.mean())}


def held(simulations: Iterable[int], true: Mapping[str, float], *, resamples: int) -> dict[str, Held]:
    """Per task and of the track score, over the simulated benchmarks with these numbers: one submission each."""
    tasks = TRACK.tasks
    normalized = np.array([(true[each.name] - each.worst) / (each.best - each.worst) for each in tasks])
    true_score = float(combine(normalized[None, :], TRACK).track[0])
    shares = combine(np.eye(len(tasks)), TRACK).track
    found = {name: Held() for name in (*(each.name for each in tasks), TRACK_SCORE)}
    for simulation in simulations:
        items = _benchmark(np.random.default_rng([20, simulation]))
        draws, units = {}, []
        for each in tasks:
            draws[each.name] = task_draws(each, {"x": items[each.name]}, seed=simulation, resamples=resamples)["x"]
            units.append(units_of(each, [items[each.name]]).count)
            found[each.name].add(*interval(draws[each.name], units=units[-1]), true[each.name])
        variances = [
            float(np.var(draws[each.name])) * (share / (each.best - each.worst)) ** 2
            for each, share in zip(tasks, shares, strict=True)
        ]
        bounds = interval(track_draws(draws, TRACK), units=effective_units(variances, units))
        found[TRACK_SCORE].add(*bounds, true_score)
    return found


def _benchmark(rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """One submission's items on new test sets: clips, speakers and utterances are new, the encoder is the same."""
    skill = np.repeat(rng.beta(7, 3, 25), 8)
    lengths = rng.integers(3, 25, 200)
    return {
        "large": _table(400, item=(rng.random(400) < 0.8).astype(float)),
        "small": _table(150, item=(rng.random(150) < 0.6).astype(float)),
        "speakers": _table(200, item=(rng.random(200) < skill).astype(float), cluster=np.repeat(np.arange(25), 8)),
        "words": _table(200, item=0.0, reference_length=lengths, edits=rng.binomial(lengths, rng.beta(2, 8, 200))),
        "captions": _table(150, item=rng.beta(3, 2, 150)),
        "labels": _labels(rng),
        "rare": _rare(rng),
    }


def _labels(rng: np.random.Generator) -> pd.DataFrame:
    """Equally common classes; six in ten answers know, the others guess."""
    truth = rng.integers(CLASSES, size=MAP_CLIPS)
    said = np.where(rng.random(MAP_CLIPS) < 0.6, truth, rng.integers(CLASSES, size=MAP_CLIPS))
    return _table(MAP_CLIPS, item=0.0, reference=_names(truth), candidate=_names(said))


def _rare(rng: np.random.Generator) -> pd.DataFrame:
    """A first clip of each class, so that all are measured, then by popularity; half of the answers know."""
    truth = np.concatenate(
        [np.arange(RARE_CLASSES), rng.choice(RARE_CLASSES, RARE_CLIPS - RARE_CLASSES, p=_POPULARITY)]
    )
    said = np.where(rng.random(RARE_CLIPS) < 0.5, truth, rng.choice(RARE_CLASSES, RARE_CLIPS, p=_POPULARITY))
    return _table(RARE_CLIPS, item=0.0, reference=_names(truth), candidate=_names(said))


def _names(classes: np.ndarray) -> list[str]:
    return [f"l{each}" for each in classes]


def _table(count: int, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"clip": [f"clip{i:05d}" for i in range(count)], "reference": "r", "candidate": "c"} | columns)


def _value(items: pd.DataFrame, clips: int, classes: int) -> float:
    return float(reweighted(MetricName.MAP, items, np.ones((1, clips)), num_classes=classes)[0])
