"""The forecast of the queue: what jobs took here, the queue played through with that, and a season on virtual time."""

from __future__ import annotations

import heapq
import importlib.util
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from queues import LEASE_S, NOW, TEAM, after, condition, new_database, score
from sqlalchemy import Engine

from ranker import lineup, planning, queue, schedule
from ranker.cli import main
from ranker.db.models import Submission
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.estimate import Span
from ranker.home import Home
from ranker.job import job_folder
from ranker.manifest import write_manifest
from ranker.orders import prioritize
from ranker.schedule.forecast import Forecast
from ranker.schedule.play import ends
from ranker.service import Ranker
from ranker.settings import Service
from ranker.types import Basis, Condition, JobKind, Part, Precision, Progress, Stage

OTHER = "b" * 12
OWN_SEED = {"mini": 42}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A home with two submissions, whose teams are `team` and `other`."""
    engine = new_database(tmp_path)
    with session(engine) as writing:
        writing.add(Submission(id=OTHER, digest="b" * 64, team="other", file_name="y", size_bytes=1, received_at=NOW))
    yield engine
    engine.dispose()


def ask(engine: Engine, under: Condition | None, *, submission: str = TEAM, seed: int = 42) -> int:
    kind = JobKind.CHECK if under is None else JobKind.EVALUATE
    with session(engine) as writing:
        return queue.enqueue(writing, submission_id=submission, kind=kind, condition=under, seed=seed, now=NOW).id


def take(engine: Engine, number: int, at: float = 0.0, worker: str = "w") -> queue.Claim:
    held = queue.claim(engine, worker=worker, now=after(at), lease_s=LEASE_S, job_ids=[number])
    assert held is not None
    return held


def do(
    engine: Engine, under: Condition | None, seconds: float, *, submission: str = TEAM, seed: int = 42, at: float = 0.0
) -> queue.Claim:
    """A job that took so long."""
    held = take(engine, ask(engine, under, submission=submission, seed=seed), at)
    queue.finish(engine, held, now=after(at + seconds), result={"run": f"runs/{held.key}"}, scores=[score()])
    return held


def foresee(engine: Engine, root: Path, *, now: float = 0.0, workers: int = 1, until: float | None = None) -> Forecast:
    with session(engine, read_only=True) as reading:
        tasks, found = schedule.tasks(reading), schedule.measured(reading, Home(root=root))
    wanted = schedule.Ask(
        now=after(now), workers=workers, until=None if until is None else after(until), own_seed=OWN_SEED
    )
    return schedule.foresee(tasks, found, {}, wanted)


def seconds(forecast: Forecast, now: float = 0.0) -> tuple[float, float, float]:
    empty = forecast.finish.empty
    low, likely, high = ((each - after(now)).total_seconds() for each in (empty.low, empty.likely, empty.high))
    return low, likely, high


# What was measured


def test_a_duration_is_that_of_all_attempts(engine: Engine, tmp_path: Path) -> None:
    """Attacks a job that was given back once: both attempts held a worker, the time between them did not."""
    number = ask(engine, condition())
    queue.release(engine, take(engine, number), after(100))
    queue.finish(engine, take(engine, number, at=5000), now=after(5030), result={}, scores=[])
    with session(engine, read_only=True) as reading:
        (samples,) = schedule.measured(reading, Home(root=tmp_path)).values()
    assert [each.seconds for each in samples.jobs] == [130]


@pytest.mark.parametrize(("sign", "expected"), [(None, []), (300, [400.0])])
def test_a_lost_attempt_counts_until_it_last_wrote(
    engine: Engine, tmp_path: Path, sign: float | None, expected: list[float]
) -> None:
    """Attacks a machine that was off for a week: the week is no work; where nothing tells, the job is no measure."""
    number = ask(engine, condition())
    held, week = take(engine, number), 7 * 86_400.0
    queue.reap(engine, now=after(week), is_dead=lambda _: True, max_infra_attempts=3)
    queue.finish(engine, take(engine, number, at=week), now=after(week + 100), result={}, scores=[])
    if sign is not None:
        log = job_folder(Home(root=tmp_path), TEAM, held.key) / "attempt-0001" / "train.jsonl"
        log.parent.mkdir(parents=True)
        log.touch()
        os.utime(log, (after(sign).timestamp(),) * 2)
    with session(engine, read_only=True) as reading:
        found = schedule.measured(reading, Home(root=tmp_path))
    assert [each.seconds for samples in found.values() for each in samples.jobs] == expected


def test_a_check_that_is_asked_for_again_is_measured_alone(engine: Engine, tmp_path: Path) -> None:
    """Attacks with a check that succeeded twice: the first time is another job's cost, not this one's."""
    number = do(engine, None, 500).job_id
    with session(engine) as writing:
        queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=42, now=NOW, again=True)
    queue.finish(engine, take(engine, number, at=1000), now=after(1060), result={}, scores=[])
    with session(engine, read_only=True) as reading:
        (samples,) = schedule.measured(reading, Home(root=tmp_path)).values()
    assert [each.seconds for each in samples.jobs] == [60]


def test_the_nearest_measure_is_taken(engine: Engine, tmp_path: Path) -> None:
    """Attacks the choice of what a forecast stands on: own seeds, others, an earlier configuration, and nothing."""
    changed = replace(condition(), measurement="9" * 64)
    do(engine, condition(), 100)
    do(engine, condition(), 300, submission=OTHER)
    ask(engine, condition(), seed=43)
    ask(engine, condition(), submission=OTHER, seed=43)
    ask(engine, changed)
    ask(engine, replace(changed, steps=7))
    ask(engine, replace(changed, device="NVIDIA H200"))
    ask(engine, None)
    lines = foresee(engine, tmp_path).lines
    assert [(line.basis, line.seconds, line.waiting) for line in lines] == [
        (Basis.OWN, 200, 2),
        (Basis.KIN, 200, 1),
        (Basis.UNKNOWN, None, 1),
        (Basis.UNKNOWN, None, 1),
        (Basis.UNKNOWN, None, 1),
    ]


# The queue played through


def test_playing_is_list_scheduling() -> None:
    """Attacks the vectors with a plain heap: jobs in order, each to the worker that is free first, and not before it is
    due.
    """
    rng = random.Random(0)
    for _ in range(50):
        jobs, workers = rng.randint(1, 12), rng.randint(1, 5)
        left = np.array([[rng.uniform(0, 9) for _ in range(jobs)] for _ in range(3)])
        due = np.array([rng.choice([0.0, 0.0, rng.uniform(0, 20)]) for _ in range(jobs)])
        for play, found in zip(left, ends(left, due, workers), strict=True):
            free, expected = [0.0] * workers, []
            for job in range(jobs):
                expected.append(max(heapq.heappop(free), due[job]) + play[job])
                heapq.heappush(free, expected[-1])
            assert found == pytest.approx(expected)


def test_more_is_known_the_more_was_measured(engine: Engine, tmp_path: Path) -> None:
    """Attacks the range: jobs that all took the same leave the doubt that few of them leave, and less with more."""
    widths = []
    for seed in range(100, 120):
        do(engine, condition(), 1000, submission=OTHER, seed=seed)
        if seed in {100, 119}:
            ask(engine, condition(), seed=seed)
            low, likely, high = seconds(foresee(engine, tmp_path))
            widths.append((high - low) / likely)
    assert widths[0] > 0.3 > 0.2 > widths[1] > 0.05


def test_what_will_not_fit_and_how_many_workers_would_do_it(engine: Engine, tmp_path: Path) -> None:
    """Attacks the date: six jobs of about an hour by one worker in three and a half; the last ones do not fit, in the
    order of the queue; two workers would do it. Brute force finds no lower number.
    """
    for seed in range(30):
        do(engine, condition(), 3600 + 60 * (seed % 5), submission=OTHER, seed=100 + seed)
    numbers = [ask(engine, condition(), seed=seed) for seed in range(1, 7)]
    with session(engine) as writing:
        prioritize(writing, [str(numbers[5])], to=None, actor="me", now=NOW)
    found = foresee(engine, tmp_path, until=3.5 * 3600)
    assert found.before is not None
    assert [each.task.job for each in found.before.late] == numbers[2:5]
    assert [each.is_lost for each in found.before.late] == [True] * 3
    assert (found.before.fitting, found.before.likely, found.before.safe) == (3, 2, 2)
    assert foresee(engine, tmp_path, until=1800).before.likely is None  # type: ignore[union-attr]
    for hours in (1.5, 2.5):
        before = foresee(engine, tmp_path, until=hours * 3600).before
        enough = [n for n in (1, 2, 3, 4, 5, 6) if seconds(foresee(engine, tmp_path, workers=n))[1] < hours * 3600]
        assert before is not None
        assert before.likely == enough[0]


def test_further_seeds_stand_in_the_order_of_claims(engine: Engine, tmp_path: Path) -> None:
    """Attacks evidence that was ordered before a late submission came: it is told that the ranking waits behind it, and
    a priority mends that.
    """
    do(engine, condition(), 100, submission=OTHER, seed=7)
    for seed in (43, 44):
        ask(engine, condition(), seed=seed)
    late = ask(engine, condition(), submission=OTHER)
    found = foresee(engine, tmp_path)
    assert (found.further, found.overtaken) == (2, 1)
    assert found.finish.ranking == found.finish.empty
    with session(engine) as writing:
        prioritize(writing, [str(late)], to=None, actor="me", now=NOW)
    found = foresee(engine, tmp_path)
    assert found.overtaken == 0
    assert found.finish.ranking is not None
    assert found.finish.ranking.likely < after(130) < found.finish.empty.low


@pytest.mark.parametrize(
    ("told", "left"),
    [
        (None, 850),  # it has run for 150 s of 1000
        (Progress(stage=Stage.ENCODE, done=1, total=2), 850),  # 5% loading, 20% encoding: a half of that, and the rest
        (Progress(stage=Stage.TRAIN, done=90, total=100, rate=0.1), 350),  # 10 steps at 0.1/s, then 25% of 1000 s
        (Progress(stage=Stage.GENERATE, done=50, total=100, task="pitch"), 150),  # half of its 20%, and 5% checking
        (Progress(stage=Stage.CHECK), 50),
    ],
)  # fmt: skip
def test_what_a_running_job_still_needs(engine: Engine, tmp_path: Path, told: Progress | None, left: float) -> None:
    """Attacks each stage: its own rate where it is told, and the shares of a finished run's manifest for the rest."""
    done = do(engine, condition(), 1000, seed=41)
    stages = {
        Stage.LOAD: 5.0,
        Stage.ENCODE: 20.0,
        Stage.TRAIN: 50.0,
        Stage.GENERATE: 15.0,
        Stage.SCORE: 5.0,
        Stage.CHECK: 5.0,
    }
    folder = tmp_path / f"runs/{done.key}"
    folder.mkdir(parents=True)
    write_manifest(folder, {"seconds": dict(stages)})
    held = take(engine, ask(engine, condition(), seed=42))
    if told is not None:
        queue.heartbeat(engine, held, now=after(150), lease_s=LEASE_S, progress=told)
    found = foresee(engine, tmp_path, now=150)
    assert (found.running, found.waiting) == (1, 0)
    low, likely, high = seconds(found, now=150)
    assert low <= likely <= high
    assert likely == pytest.approx(left, rel=0.06)


# Boards that would be mixed


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"device": "NVIDIA H200"}, "device"), ({"precision": Precision.FP32}, "precision"), ({"steps": 7}, "steps"),
     ({"sandboxed": False}, "sandboxed")],
)  # fmt: skip
def test_evaluations_of_two_conditions_are_told_and_never_share_a_board(
    engine: Engine, changes: dict[str, Any], field: str
) -> None:
    """Attacks a challenge that goes on with other GPUs, or another precision: the plan says so while the second waits,
    and when it has finished there are two boards of one submission each.
    """
    first = replace(condition(), measurement=present(), steps=200)
    do(engine, first, 100)
    number = ask(engine, replace(first, **changes), submission=OTHER)
    with session(engine, read_only=True) as reading:
        (mixture,) = schedule.mixtures(reading)
    assert (mixture.field, sorted(mixture.values.values())) == (field, [1, 1])
    assert f"mini, track A: {field} differs" in mixture.words
    queue.finish(engine, take(engine, number), now=after(1), result={}, scores=[score()])
    with session(engine, read_only=True) as reading:
        boards = lineup.finished(reading, Ranker(Path("nowhere")).benchmark("mini"), "A")
        assert sorted(job.submission_id for _, jobs in boards for job in jobs) == [TEAM, OTHER]
        assert [len(jobs) for _, jobs in boards] == [1, 1]
        assert schedule.mixtures(reading) == ()  # nothing waits: nothing can be mended any more


def test_other_configurations_and_parts_are_no_mixture(engine: Engine) -> None:
    """Attacks with what must not fire: a changed recipe, another track, a hidden part of other length."""
    do(engine, condition(), 100)
    for each in (replace(condition(), measurement="9" * 64, precision=Precision.FP32), condition("B", steps=7)):
        ask(engine, each)
    ask(engine, replace(condition(), part=Part.HIDDEN, steps=7))
    with session(engine, read_only=True) as reading:
        assert schedule.mixtures(reading) == ()


def test_an_executor_with_two_models_of_gpus_is_refused(tmp_path: Path) -> None:
    """Attacks a machine or cluster of A100 and H200: no condition can be named, so nothing is queued."""
    with pytest.raises(UsageError, match=r"different GPUs \(NVIDIA A100, NVIDIA H200\), whose scores share no board"):
        planning.conditions(
            Home(root=tmp_path), Ranker(Path("nowhere")).benchmark("mini"), ["A"], limit_steps=None, sandboxed=True,
            devices=["NVIDIA A100", "NVIDIA H200"],
        )  # fmt: skip


@cache
def present() -> str:
    return Ranker(Path("nowhere")).benchmark("mini").measurement_digest("A")


# The command


@pytest.fixture
def typed(tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: Engine) -> Callable[..., str]:
    """Type `ranker plan`; what it said, standard output first. Fails on another exit code."""

    def type_in(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), "plan", "--no-measure", *arguments])
        said = "".join(capsys.readouterr())
        assert (left.value.code or 0) == code, said
        return said

    return type_in


def test_the_plan_is_told(typed: Callable[..., str], engine: Engine) -> None:
    """Attacks what an organizer reads: measures, both ends, what does not fit, and the deadline as it was written."""
    assert "nothing waits or runs" in typed()
    under = replace(condition(), measurement=present())
    do(engine, under, 7200)
    for name in (TEAM, OTHER):
        for seed in (43, 44, 45):
            ask(engine, under, submission=name, seed=seed)
    date = datetime.now(UTC) + timedelta(hours=3)
    text = typed("--until", f"{date:%Y-%m-%dT%H:%M} UTC", "--gpus", "3")
    assert re.search(r"the same submissions, with\s+another seed", text)
    assert "1 finished here" in text
    assert "with 3 workers" in text
    assert f"before {date:%Y-%m-%dT%H:%M} UTC, with 2 at a time: 2 jobs fit" in text
    assert f"  other ({OTHER})\n    job 5: mini, track A, seed 43: likely done" in text
    assert "6 would do it in 9 of 10 cases" in text
    value = json.loads(typed("--until", f"{date:%Y-%m-%dT%H:%M} UTC", "--gpus", "3", "--json"))
    assert (value["waiting"], value["with"]["workers"], value["before"]["workers_safe"]) == (6, 3, 6)
    assert [each["team"] for each in value["before"]["late"]] == ["team", "other", "other", "other"]
    assert value["before"]["late"][0]["chance"] < 0.1


def test_what_is_unknown_is_said(typed: Callable[..., str], engine: Engine) -> None:
    """Attacks a fresh home, whose GPUs are other ones: no number is made up, and every doubt has its sentence."""
    ask(engine, None)
    ask(engine, replace(condition(), device="NVIDIA H200", measurement=present()))
    text = typed()
    assert "the queue is empty not before" in text
    assert "2 jobs of which nothing is known" in text
    assert "no check has finished here" in text
    assert "nothing of mini, track A has finished here, and --no-measure leaves out" in text
    assert re.search(r"1 of the jobs that wait are for NVIDIA H200, and this machine has \S+: a worker here", text)


@pytest.mark.parametrize(
    ("date", "words"), [("tomorrow", "'tomorrow' is not understood"), ("2026-01-01T00:00 AoE", "is over")]
)
def test_a_date_that_is_none_is_one_sentence(typed: Callable[..., str], date: str, words: str) -> None:
    """Attacks with what is no deadline, and with one that has passed."""
    said = typed("--until", date, code=UsageError.exit_code)
    assert words in said
    assert said.count("\n") == 1


def test_an_estimate_stands_in_where_nothing_was_measured(tmp_path: Path, engine: Engine) -> None:
    """Attacks the bridge to `ranker estimate`: its spans, training shortened with the steps, its gaps told, and a
    question for another device left unknown. The estimate itself has tests of its own.
    """

    class Estimated(Ranker):
        def estimate(self, *_: Any, **asked: Any) -> Any:
            assert asked["submission"] == TEAM
            spans = {
                Stage.LOAD: Span(low=1, expected=10, high=20), Stage.TRAIN: Span(low=900, expected=1000, high=1100),
                Stage.SCORE: None,
            }  # fmt: skip
            work = SimpleNamespace(track="A", part=Part.PUBLIC, steps=600)
            part = SimpleNamespace(workload=work, seconds=spans, unknown=(Stage.SCORE,))
            return SimpleNamespace(device="cpu", forecasts=(part,))

    ask(engine, condition(steps=300))
    ask(engine, replace(condition(), device="NVIDIA H200"), submission=OTHER)
    found = Estimated(tmp_path).schedule(None, None, measure=True)
    assert [(line.basis, line.seconds) for line in found.forecast.lines] == [
        (Basis.ESTIMATED, 510.0),
        (Basis.UNKNOWN, None),
    ]
    left = [
        (each - found.made_at).total_seconds()
        for each in (found.forecast.finish.empty.low, found.forecast.finish.empty.high)
    ]
    assert 451 <= left[0] < 510 < left[1] <= 570
    told = " ".join(found.remarks)
    assert "the estimate lacks score" in told
    assert "is for NVIDIA H200; what it takes there is not known here" in told
    assert "with the encoder of team" in told


# A season on virtual time


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    """bench/scale.py."""
    path = Path(__file__).parent.parent / "bench" / "scale.py"
    spec = importlib.util.spec_from_file_location("scale", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module  # where its dataclasses look for their own names
    spec.loader.exec_module(module)
    return module


def test_a_season_loses_nothing_and_counts_nothing_twice(scale: ModuleType, tmp_path: Path) -> None:
    """Attacks 120 jobs on 8 GPUs with deaths of all kinds, far more than usual: each succeeds once, late words are
    refused, the work is done close to the bound, and the forecast of the middle holds (`simulate` asserts the rest).
    """
    world = scale.World(submissions=60, gpus=8, deaths=0.06, look_s=8 * 3600.0, table=0, seed=4)
    ended = scale.simulate(world, tmp_path)
    counts = ended.counts
    for way in ("process died", "machine lost", "cut off, and worked on", "failed"):
        assert counts[way] >= 2, way
    lost = counts["process died"] + counts["machine lost"] + counts["cut off, and worked on"]
    assert counts["taken from the dead"] == lost
    assert counts["late words refused"] == 3 * counts["cut off, and worked on"]
    assert ended.attempts == 120 + lost + counts["failed"]
    assert 1.0 <= ended.makespan_s / ended.bound_s < 1.2
    assert ended.foreseen.low_s <= ended.makespan_s <= ended.foreseen.high_s


def test_a_season_notices_a_job_that_is_given_up(scale: ModuleType, tmp_path: Path) -> None:
    """Attacks the simulation itself: with a single attempt for each job, what loses it is lost, and that is told."""
    world = scale.World(submissions=5, gpus=4, deaths=0.1, look_s=8 * 3600.0, table=0)
    with pytest.raises(AssertionError, match="jobs never end"):
        scale.simulate(world, tmp_path, Service(infra_attempts=1))
