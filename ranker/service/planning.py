"""When the queue will be empty, by what this home has measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ranker.errors import InfraError, RankerError, UsageError
from ranker.service.evaluations import Evaluations
from ranker.types import JobKind, SandboxName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ranker.db.models import Pause
    from ranker.deadline import Deadline
    from ranker.schedule import Forecast, Mixture, Task

Spans = dict[Any, tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A forecast with what it was made of. `at_work`: whether its workers run now; else this machine has room for them,
    and none runs. `remarks`: what an organizer should know of it, one sentence each.
    """

    made_at: datetime
    forecast: Forecast
    at_work: bool
    deadline: Deadline | None
    mixtures: tuple[Mixture, ...]
    paused: Pause | None
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        from ranker.orders import pause_json

        return {
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "at_work": self.at_work,
            "until": None if self.deadline is None else self.deadline.text,
            **self.forecast.to_json(),
            "mixtures": [each.to_json() for each in self.mixtures],
            "paused": pause_json(self.paused),
            "remarks": list(self.remarks),
        }


class Planning(Evaluations):
    """When the queue will be empty, by what this home has measured."""

    def schedule(
        self, until: str | None, workers: int | None, *, measure: bool, sandbox: SandboxName | None = None
    ) -> Schedule:
        """Play the queue through, with the workers that run now and with `workers` of them.

        Of what has never finished here, `measure` lets `ranker estimate` measure for a minute what it takes. Raises
        UsageError for a date that is none, or is over; MissingError where there is no database.
        """
        from ranker import queue, schedule

        now = datetime.now(UTC)
        deadline = None if until is None else _deadline(until, now)
        with self.reading() as reading:
            tasks = schedule.tasks(reading)
            found = schedule.measured(reading, self.home)
            mixed = schedule.mixtures(reading)
            paused = queue.paused(reading)
        estimates, remarks = self._estimates(tasks, found, measure=measure, sandbox=sandbox)
        running = sum(task.is_running for task in tasks)
        devices, room = self._room(remarks)
        remarks += _remarks_on_devices(tasks, devices)
        ask = schedule.Ask(
            now=now,
            workers=running or room,
            others=workers,
            until=None if deadline is None else deadline.over,
            own_seed=self._own_seeds(tasks),
        )
        return Schedule(
            made_at=now,
            forecast=schedule.foresee(tasks, found, estimates, ask),
            at_work=running > 0,
            deadline=deadline,
            mixtures=mixed,
            paused=paused,
            remarks=tuple(dict.fromkeys(remarks)),
        )

    def _estimates(
        self, tasks: Sequence[Task], found: Any, *, measure: bool, sandbox: SandboxName | None
    ) -> tuple[Spans, list[str]]:
        """Of what has never finished here: low, likely and high seconds; and what could not be estimated, and why."""
        from ranker.schedule.forecast import unmeasured

        spans: Spans = {}
        remarks: list[str] = []
        open_questions = unmeasured(tasks, found)
        checks = [task for task in open_questions if task.question.kind is JobKind.CHECK]
        if checks:
            remarks.append("no check has finished here, so that what one takes is not known")
        evaluations = [task for task in open_questions if task.question.kind is JobKind.EVALUATE]
        if evaluations and not measure:
            what = "; ".join(dict.fromkeys(task.question.words for task in evaluations))
            remarks.append(f"nothing of {what} has finished here, and --no-measure leaves out the estimate")
        if measure:
            for benchmark in dict.fromkeys(task.question.benchmark for task in evaluations):
                of_it = [task for task in evaluations if task.question.benchmark == benchmark]
                try:
                    spans |= self._estimated(benchmark, of_it, sandbox, remarks)
                except RankerError as error:
                    remarks.append(f"nothing of {benchmark} has finished here, and it cannot be estimated: {error}")
        return spans, remarks

    def _estimated(
        self, benchmark: str, tasks: Sequence[Task], sandbox: SandboxName | None, remarks: list[str]
    ) -> Spans:
        """`ranker estimate` of the first of these tasks' encoder, for each question that this machine could answer."""
        first = tasks[0]
        value = self.estimate(
            benchmark, None, submission=first.submission, sandbox=sandbox, submissions=1, measure=True
        )
        by_part = {(each.workload.track, each.workload.part): each for each in value.forecasts}
        spans: Spans = {}
        for task in tasks:
            question = task.question
            forecast = by_part.get((question.track, question.part))
            if forecast is None or question.device != value.device:
                remarks.append(f"{question.words} is for {question.device}; what it takes there is not known here")
                continue
            # With fewer steps training is shorter in proportion; what it hears less of is not counted.
            share = min(1.0, question.steps / forecast.workload.steps)
            spans[question] = _shortened(forecast, share)
            if forecast.unknown:
                remarks.append(f"{question.words}: the estimate lacks {', '.join(forecast.unknown)}")
        if spans:
            remarks.append(
                f"nothing of {benchmark} has finished under this condition: its times are an estimate, from a minute "
                f"of measuring with the encoder of {first.team}, and other encoders take longer or less"
            )
        return spans

    def _room(self, remarks: list[str]) -> tuple[tuple[str, ...], int]:
        """Models of this machine's GPUs, and how many jobs it has room for at a time when nothing runs."""
        from ranker.executors.gpus import gpus, memory
        from ranker.executors.local import environments_of, places

        devices, service = gpus(), self.service
        try:
            cards = places(devices, service, memory(devices))
        except InfraError as error:
            remarks.append(str(error))
            cards = list(devices)
        many = len(environments_of(cards, service, None, jobs=1_000_000))
        return tuple(sorted({gpu.name for gpu in devices})), many

    def _own_seeds(self, tasks: Sequence[Task]) -> dict[str, int]:
        """The seed that counts, by benchmark; without those whose configuration is not at hand."""
        seeds = {}
        for name in dict.fromkeys(task.question.benchmark for task in tasks if task.question.benchmark):
            try:
                seeds[name] = self.benchmark(name).recipe.seed
            except RankerError:
                continue
        return seeds


def _deadline(text: str, now: datetime) -> Deadline:
    from ranker.deadline import Deadline

    try:
        deadline = Deadline.parse(text)
    except ValueError as error:
        raise UsageError(f"--until {error}") from None
    if deadline.over <= now:
        raise UsageError(f"--until {deadline.text} is over; give a date that is still to come")
    return deadline


def _shortened(forecast: Any, share: float) -> tuple[float, float, float]:
    from ranker.types import Stage

    low, likely, high = 0.0, 0.0, 0.0
    for stage, span in forecast.seconds.items():
        factor = share if stage is Stage.TRAIN else 1.0
        if span is not None:
            low, likely, high = low + factor * span.low, likely + factor * span.expected, high + factor * span.high
    return low, likely, high


def _remarks_on_devices(tasks: Sequence[Task], devices: Sequence[str]) -> list[str]:
    """That this machine's GPUs would not do what waits, or would do it in two kinds."""
    remarks = []
    if len(devices) > 1:
        remarks.append(
            f"this machine has different GPUs ({', '.join(devices)}), whose scores share no board: `ranker evaluate` "
            "refuses to begin on them all; choose one model by CUDA_VISIBLE_DEVICES"
        )
    here = set(devices) or {"cpu"}
    waiting = Counter(task.question.device for task in tasks if task.question.device and not task.is_running)
    return remarks + [
        f"{many} of the jobs that wait are for {device}, and this machine has {', '.join(sorted(here))}: a worker here "
        "would fail them; machines with that model must do them"
        for device, many in waiting.items()
        if device not in {*here, "cpu"}
    ]
