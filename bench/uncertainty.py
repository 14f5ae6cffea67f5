"""How long the statistics of a board take: python bench/uncertainty.py [--teams 23] [--tasks 21] [--items 1000].

Made-up scores of made-up teams: of every ten tasks seven are accuracies, one is mAP over 50 classes with 8 clusters of
clips for each hundred, one is iWER, one FENSE. Prints the seconds of each step; at most two cores are used.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TypeVar

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy reads them
    os.environ[_name] = "2"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from ranker import uncertainty  # noqa: E402
from ranker.config import Task, TestSplit, Track  # noqa: E402
from ranker.metrics import reweighted  # noqa: E402
from ranker.types import Domain, Group, MetricName  # noqa: E402

KINDS = (*[MetricName.ACCURACY] * 7, MetricName.MAP, MetricName.IWER, MetricName.FENSE)
CLASSES = 50
Value = TypeVar("Value")


def main() -> None:
    """Make the scores, then time each step of what `ranker.board` computes from them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (("teams", 23), ("tasks", 21), ("items", 1000), ("resamples", uncertainty.RESAMPLES)):
        parser.add_argument(f"--{name}", type=int, default=number)
    given = parser.parse_args()
    track, items = made_up(given.teams, given.tasks, given.items)
    spent: dict[str, tuple[float, float]] = {}

    def timed(name: str, work: Callable[[], Value]) -> Value:
        started, worked = time.perf_counter(), time.process_time()
        value = work()
        wall, processor = spent.get(name, (0.0, 0.0))
        spent[name] = (wall + time.perf_counter() - started, processor + time.process_time() - worked)
        return value

    draws: dict[str, dict[str, uncertainty.Draws]] = {f"team{i:03d}": {} for i in range(given.teams)}
    raw = pd.DataFrame(0.0, index=list(draws), columns=[task.name for task in track.active_tasks])
    for task in track.active_tasks:
        found = timed(
            f"draws, {task.metric}",
            lambda task=task: uncertainty.task_draws(task, items[task.name], seed=1, resamples=given.resamples),
        )
        for key, values in found.items():
            draws[key][task.name] = values
            table = items[task.name][key]
            raw.loc[key, task.name] = reweighted(
                task.metric, table, np.ones((1, len(table))), num_classes=task.num_classes
            )[0]
            timed("task intervals", lambda values=values: uncertainty.interval(values, units=given.items))
    means = {
        key: timed("track scores", lambda own=own: uncertainty.track_means(own, track)) for key, own in draws.items()
    }
    scores = pd.Series({key: float(each.track.mean()) for key, each in means.items()}).sort_values(ascending=False)
    order = list(scores.index)
    whole = np.stack([means[key].track for key in order])
    timed("ranks, tests, groups", lambda: uncertainty.certainties(scores.to_numpy(dtype=np.float64), whole))
    groups = [np.stack([means[key].groups[group] for key in order]) for group in Group]
    timed(
        "Kendall's tau",
        lambda: uncertainty.agreement(
            ("public", "hidden"), (groups[0].mean(axis=1), groups[1].mean(axis=1)), (groups[0], groups[1])
        ),
    )
    timed("other choices", lambda: uncertainty.alternatives(raw.loc[order], track, dict.fromkeys(raw.columns, 0.1)))
    print(
        f"{given.teams} teams, {given.tasks} tasks, {given.items} items, {given.resamples} resamples; "
        "seconds (processor time of all threads):"
    )
    whole_run = (sum(wall for wall, _ in spent.values()), sum(processor for _, processor in spent.values()))
    for name, (wall, processor) in (*spent.items(), ("all", whole_run)):
        print(f"  {name:<24}{wall:7.2f} ({processor:.2f})")


def made_up(teams: int, tasks: int, size: int) -> tuple[Track, dict[str, dict[str, pd.DataFrame]]]:
    """A track, and per task and team the table of its scored pairs."""
    rng = np.random.default_rng(7)
    listed, items = [], {}
    for place in range(tasks):
        metric = KINDS[place % len(KINDS)]
        task = Task(
            name=f"task{place:02d}",
            title=f"Task {place}",
            domain=Domain.SOUND,
            group=Group.PUBLIC if place < tasks * 2 / 3 else Group.HIDDEN,
            metric=metric,
            num_classes=CLASSES if metric is MetricName.MAP else None,
            test=TestSplit(
                shards=("x.tar",), key=("x",), prompt="?", cluster="from" if metric is MetricName.MAP else None
            ),
        )
        listed.append(task)
        items[task.name] = {f"team{i:03d}": _table(rng, metric, size, 0.4 + 0.5 * i / teams) for i in range(teams)}
    return Track(title="made up", tasks=tuple(listed), group_weights={Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}), items


def _table(rng: np.random.Generator, metric: MetricName, size: int, skill: float) -> pd.DataFrame:
    table = pd.DataFrame({"clip": [f"clip{i:06d}" for i in range(size)], "reference": "r", "candidate": "c"})
    right = rng.random(size) < skill
    table["item"] = right.astype(float) if metric is MetricName.ACCURACY else rng.beta(8 * skill, 8 * (1 - skill), size)
    if metric is MetricName.IWER:
        table["reference_length"] = rng.integers(4, 30, size)
        table["edits"] = rng.binomial(table["reference_length"], 1 - skill)
    if metric is MetricName.MAP:
        truth = np.arange(size) % CLASSES
        table["reference"] = [f"label{i}" for i in truth]
        table["candidate"] = [f"label{i}" for i in np.where(right, truth, rng.integers(CLASSES, size=size))]
        table["cluster"] = [f"recording{i % max(2, 8 * size // 100)}" for i in range(size)]
    return table


if __name__ == "__main__":
    main()
