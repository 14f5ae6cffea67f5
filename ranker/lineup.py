"""Which finished evaluations make one board: those of one condition and one seed, for the present configuration.

The seed that counts is the recipe's own. Further seeds are evidence of how much a score owes to chance: they make
boards that are shown when they are asked for, and never take the place of the first.

A track of several parts has a condition for each. Parts stand on one board if they share all circumstances (decoder,
precision, device, sandbox, limit of steps, models of caption metrics) and the seed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker.config import Benchmark
from ranker.db.models import Job
from ranker.errors import MissingError, UsageError
from ranker.rules import SHOWN, standings
from ranker.types import Condition, JobKind, Part, Standing, Status


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One board that could be assembled. `finished_at` is its latest evaluation, `submissions` how many it ranks;
    `further`: its seed is not the recipe's own.

    `condition` is that of the public part, `others` are those of the track's other parts. A part of which nothing has
    finished has none; without a public one, the first other stands in its place.
    """

    condition: Condition
    seed: int
    submissions: int
    finished_at: datetime
    others: tuple[Condition, ...] = ()
    further: bool = False

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Of all parts."""
        return (self.condition, *self.others)

    @property
    def demonstration(self) -> tuple[str, ...]:
        """What differs from the protocol in any part."""
        return tuple(dict.fromkeys(reason for each in self.conditions for reason in each.demonstration))

    def fits(self, condition: str) -> bool:
        """Whether the digest of any part's condition starts with `condition`."""
        return any(each.digest.startswith(condition) for each in self.conditions)

    def describe(self) -> str:
        """One line for people: the digest to choose by, and what tells this board from the others."""
        kind = f"demonstration: {', '.join(self.demonstration)}" if self.demonstration else "the whole protocol"
        plural = "s" * (self.submissions != 1)
        others = "".join(f", {each.part} part {each.digest[:12]}" for each in self.others)
        seed = f"{'further ' * self.further}seed {self.seed}"
        return (
            f"{self.condition.digest[:12]}{others} with {seed} "
            f"({self.submissions} submission{plural}, {self.condition.device}, {kind})"
        )


@dataclass(frozen=True, kw_only=True)
class _Finished:
    """The succeeded evaluations of one part under one condition and seed, sorted by time."""

    condition: Condition
    seed: int
    jobs: tuple[Job, ...]


def finished(
    session: Session, benchmark: Benchmark, track: str, *, including: Collection[Standing] = ()
) -> list[tuple[Choice, list[Job]]]:
    """The track's boards with their succeeded evaluations (scores loaded), the one taken by default first.

    That is: the recipe's own seed, any that ranks a submission, then fewest reasons to call it a demonstration, then
    most submissions, then the most recent. Evaluations under an earlier configuration of tasks or recipe belong to
    none, nor do those of submissions that the rules neither rank nor leave pending, unless `including` has their
    standing. Raises ConfigError for an unknown track.
    """
    measurements = {part.name: benchmark.measurement_digest(track, part.name) for part in benchmark.parts(track)}
    query = (
        select(Job)
        .where(Job.kind == JobKind.EVALUATE, Job.status == Status.SUCCEEDED)
        .where(Job.benchmark == benchmark.name, Job.track == track)
        .options(selectinload(Job.scores))
        .order_by(Job.finished_at, Job.id)
    )
    shown = {*SHOWN, *including}
    known = standings(session)
    left_out = {key for key, standing in known.items() if standing not in shown}
    unranked = {key for key, standing in known.items() if standing not in {Standing.RANKED, *including}}
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in session.scalars(query):
        if job.submission_id in left_out:
            continue
        condition = _condition(job)
        if measurements.get(condition.part) == condition.measurement:
            groups.setdefault((condition.digest, job.seed), []).append(job)
    of_parts = [
        _Finished(condition=_condition(jobs[-1]), seed=jobs[0].seed, jobs=tuple(jobs)) for jobs in groups.values()
    ]
    found = [
        (
            _choice(parts, len(measurements), benchmark.recipe.seed, unranked),
            sorted((job for part in parts for job in part.jobs), key=lambda job: job.id),
        )
        for parts in _joined(of_parts, benchmark, track)
    ]
    found.sort(key=lambda pair: (pair[0].submissions, len(pair[1]), pair[0].finished_at), reverse=True)
    found.sort(key=lambda pair: (pair[0].further, pair[0].submissions == 0, len(pair[0].demonstration)))
    return found


def _joined(found: Iterable[_Finished], benchmark: Benchmark, track: str) -> Iterable[tuple[_Finished, ...]]:
    """One tuple for each board: an element for each part of which something has finished, in the order of parts.

    Parts may have recipes of different length, so that a limit of steps shows in one of them only, and parts without
    captions use no models for them: each limit and each set of models that some element tells of makes a board, of all
    elements that they fit.
    """
    together: dict[tuple[str, int], list[_Finished]] = {}
    for each in found:
        together.setdefault((each.condition.circumstances, each.seed), []).append(each)
    boards: dict[tuple[str | int, ...], tuple[_Finished, ...]] = {}
    for (_, seed), members in together.items():
        steps = [(each.condition.steps, benchmark.steps(track, each.condition.part, None)) for each in members]
        limits = [None, *sorted({own for own, whole in steps if own < whole})]
        models = sorted({each.condition.metric_models for each in members} - {""}) or [""]
        for limit, model in product(limits, models):
            fitting = [
                each
                for each in members
                if each.condition.metric_models in {"", model}
                and each.condition.steps == benchmark.steps(track, each.condition.part, limit)
            ]
            of_parts = ([each for each in fitting if each.condition.part is name] for name in Part)
            for board in product(*filter(None, of_parts)):
                boards[seed, *(each.condition.digest for each in board)] = board
    return [board for board in boards.values() if board]


def choose(
    found: list[tuple[Choice, list[Job]]], where: str, condition: str | None, seed: int | None
) -> tuple[Choice, list[Job]]:
    """The first board whose condition digest starts with `condition`, of the seed `seed` or else the recipe's own.

    `where` names benchmark and track in errors. Raises MissingError if there is no board at all, UsageError, listing
    them, if none fits or `condition` fits several conditions.
    """
    if not found:
        raise MissingError(
            f"no evaluation on {where} has finished for the configuration as it is now; run `ranker evaluate --all`, "
            "with the same --benchmark and --hidden"
        )
    fitting = [
        (choice, jobs)
        for choice, jobs in found
        if (condition is None or choice.fits(condition))
        and (seed == choice.seed if seed is not None else not choice.further)
    ]
    several = condition is not None and len({choice.condition.digest for choice, _ in fitting}) > 1
    if fitting and not several:
        return fitting[0]
    wanted = "the recipe's own seed" if seed is None else f"seed {seed}"
    asked = [f"condition {condition}"] * (condition is not None) + [wanted] * (seed is not None or condition is None)
    problem = "fits more than one board" if several else "fits no board"
    boards = "; ".join(choice.describe() for choice, _ in found)
    raise UsageError(f"{' and '.join(asked)} {problem} on {where}; choose one of: {boards}")


def _condition(job: Job) -> Condition:
    assert job.condition is not None, f"evaluation {job.id} was queued without a condition"
    return Condition.from_json(job.condition)


def _choice(parts: tuple[_Finished, ...], wanted: int, own_seed: int, unranked: Collection[str]) -> Choice:
    """`parts` make one board, of a track that has `wanted` parts; a submission is ranked if it has all of them, and is
    not among the `unranked`.
    """
    times = [job.finished_at for part in parts for job in part.jobs if job.finished_at is not None]
    whole = set.intersection(*({job.submission_id for job in part.jobs} for part in parts)) - set(unranked)
    first, *others = parts
    return Choice(
        condition=first.condition,
        seed=first.seed,
        submissions=len(whole) if len(parts) == wanted else 0,
        finished_at=max(times),
        others=tuple(part.condition for part in others),
        further=first.seed != own_seed,
    )
