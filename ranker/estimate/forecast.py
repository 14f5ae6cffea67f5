"""From what there is to do and what a minute showed, the time to expect: spans of seconds, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ranker.estimate.crew import Call, Measured, Scoring, Step, Token
from ranker.estimate.flops import DecoderShape
from ranker.estimate.workload import ASSUMED_CLIP_S, ASSUMED_SHORTEST_S, Chunk, Features, TaskSize, Workload
from ranker.sandbox.witness import SAMPLES
from ranker.types import MetricName, Part, Stage

STAGES = (Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE, Stage.CHECK)
_ROUNDS = 8
_LEAST_SPREAD = 0.15  # a minute says no more about the hours after it, however steady it was


@dataclass(frozen=True, kw_only=True)
class Span:
    """A number and how far off it may be."""

    low: float
    expected: float
    high: float

    @classmethod
    def around(cls, expected: float, spread: Span) -> Span:
        """`expected`, with factors for what may come less and more."""
        return cls(low=expected * spread.low, expected=expected * spread.expected, high=expected * spread.high)

    def __add__(self, other: Span) -> Span:
        return Span(low=self.low + other.low, expected=self.expected + other.expected, high=self.high + other.high)


NOTHING = Span(low=0.0, expected=0.0, high=0.0)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds as a sum of non-negative parts, and by which factors single measurements lay below and above it."""

    seconds: tuple[float, ...]
    spread: Span

    def of(self, *amounts: float) -> float:
        """Expected seconds."""
        return math.fsum(each * amount for each, amount in zip(self.seconds, amounts, strict=True))


def fit(points: Sequence[tuple[Sequence[float], float]]) -> Rate:
    """The non-negative combination of amounts that comes nearest to the seconds, in relative terms."""
    from scipy.optimize import nnls

    amounts = np.array([amounts for amounts, _ in points], dtype=np.float64)
    seconds = np.maximum(np.array([seconds for _, seconds in points], dtype=np.float64), 1e-6)
    scale = amounts.max(axis=0)
    scale[scale == 0] = 1.0
    fitted = seconds
    for _ in range(
        _ROUNDS
    ):  # errors relative to what is fitted: relative to what was measured, slow ones would weigh less
        found, _residual = nnls(amounts / scale / fitted[:, None], seconds / fitted)
        fitted = np.maximum(amounts / scale @ found, 1e-6)
    found = found / scale
    ratios: npt.NDArray[np.float64] = seconds / fitted
    low, high = np.quantile(ratios, [0.1, 0.9])
    spread = Span(low=float(min(low, 1 / (1 + _LEAST_SPREAD))), expected=1.0, high=float(max(high, 1 + _LEAST_SPREAD)))
    return Rate(seconds=tuple(map(float, found)), spread=spread)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What all measuring processes found, together."""

    measured: tuple[Measured, ...]

    @cached_property
    def step(self) -> Rate:
        """Training steps: (1, FLOPs)."""
        return _flops_rate([step for each in self.measured for step in each.steps])

    @cached_property
    def prefill(self) -> Rate:
        """Reading a batch of prompts: (1, FLOPs)."""
        return _flops_rate([step for each in self.measured for step in each.prefills])

    @cached_property
    def token(self) -> Rate:
        """One more token for each row: (1, rows, rows x length)."""
        tokens: list[Token] = [token for each in self.measured for token in each.tokens]
        return fit([((1.0, token.rows, token.rows * token.length), token.seconds) for token in tokens])

    @cached_property
    def call(self) -> Rate | None:
        """A call of the encoder: (1, seconds of audio). None without an encoder."""
        found: list[Call] = [call for each in self.measured for call in each.calls]
        return fit([((1.0, call.audio_s), call.seconds) for call in found]) if found else None

    @property
    def audio_hour(self) -> Span | None:
        """The encoder's time for an hour of audio in clips of ASSUMED_CLIP_S, each in a call of its own."""
        if self.call is None:
            return None
        return Span.around(self.call.of(3600 / ASSUMED_CLIP_S, 3600), self.call.spread)

    @cached_property
    def load(self) -> Span:
        """Loading the decoder, and the encoder in its sandbox."""
        return _over([each.load_s + (each.sandbox_s or 0.0) for each in self.measured])

    @cached_property
    def sandbox(self) -> Span | None:
        """Starting the sandbox with the encoder in it. None without an encoder."""
        found = [each.sandbox_s for each in self.measured if each.sandbox_s is not None]
        return _over(found) if found else None

    @cached_property
    def scorings(self) -> Mapping[MetricName, list[Scoring]]:
        """By metric; without those whose models are not there."""
        found: dict[MetricName, list[Scoring]] = {}
        for each in self.measured:
            for scoring in each.scorings:
                found.setdefault(scoring.metric, []).append(scoring)
        return found


def _flops_rate(steps: Sequence[Step]) -> Rate:
    return fit([((1.0, step.flops), step.seconds) for step in steps])


def _over(values: Sequence[float]) -> Span:
    expected = math.fsum(values) / len(values)
    wide = 1 + _LEAST_SPREAD
    return Span(low=min(*values, expected / wide), expected=expected, high=max(*values, expected * wide))


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One part of one track: FLOPs and, stage by stage, seconds; None where that cannot be known yet."""

    workload: Workload
    training_flops: Span
    answering_flops: Span | None
    seconds: Mapping[Stage, Span | None]

    @property
    def total(self) -> Span:
        """All stages that are known."""
        return sum((span for span in self.seconds.values() if span is not None), NOTHING)

    @property
    def unknown(self) -> tuple[Stage, ...]:
        """Stages that the total is without."""
        return tuple(stage for stage, span in self.seconds.items() if span is None)


def forecast(work: Workload, shape: DecoderShape, features: Features, rates: Rates | None) -> Forecast:
    """Put work and rates together. Without rates (nothing was measured) there are no seconds."""
    seconds: dict[Stage, Span | None] = dict.fromkeys(STAGES)
    if rates is not None:
        seconds = {
            Stage.LOAD: rates.load,
            Stage.ENCODE: _encoding(work, rates),
            Stage.TRAIN: _training(work, shape, features, rates),
            Stage.GENERATE: _answering(work, shape, features, rates),
            Stage.SCORE: _scoring(work.tasks, rates) if work.missing is None else None,
            Stage.CHECK: _checking(work, rates),
        }
    return Forecast(
        workload=work,
        training_flops=_training_flops(work, shape, features),
        answering_flops=_answering_flops(work, shape, features) if work.missing is None else None,
        seconds=seconds,
    )


def _assumed_flops(work: Workload, shape: DecoderShape, features: Features) -> Span:
    """FLOPs of one step where the data is not there: short clips, typical ones, clips of the greatest length."""
    lengths = (ASSUMED_SHORTEST_S, min(ASSUMED_CLIP_S, work.recipe.max_audio_s), work.recipe.max_audio_s)
    low, expected, high = (
        shape.training_step(work.assumed_batch(length, features.frames_per_s), features.output_dim)
        for length in lengths
    )
    return Span(low=low, expected=expected, high=high)


def _training_flops(work: Workload, shape: DecoderShape, features: Features) -> Span:
    if work.part is Part.PROMPTED:
        return NOTHING
    if work.missing is not None:
        return Span.around(work.steps, _assumed_flops(work, shape, features))
    total = math.fsum(shape.training_step(batch, features.output_dim) for batch in work.batches)
    return Span(low=total, expected=total, high=total)


def _training(work: Workload, shape: DecoderShape, features: Features, rates: Rates) -> Span:
    flops = _training_flops(work, shape, features)
    if flops is NOTHING:
        return NOTHING
    low, expected, high = (rates.step.of(work.steps, total) for total in (flops.low, flops.expected, flops.high))
    spread = rates.step.spread
    return Span(low=low * spread.low, expected=expected, high=high * spread.high)


def _calls(calls: Iterable[Sequence[object]], rate: Rate | None) -> Span | None:
    if rate is None:
        return None
    number, audio_s = 0, 0.0
    for call in calls:
        number += 1
        audio_s += math.fsum(excerpt.duration_s for excerpt in call)  # type: ignore[attr-defined]
    return Span.around(rate.of(number, audio_s), rate.spread)


def _encoding(work: Workload, rates: Rates) -> Span | None:
    """Training features, those that did not fit into the cache again at each visit (of their whole call)."""
    return None if work.missing else _calls((*work.training_calls, *work.repeated_calls), rates.call)


def _answering_flops(work: Workload, shape: DecoderShape, features: Features) -> Span:
    reading = math.fsum(shape.prefill(len(chunk.frames), chunk.length, features.output_dim) for chunk in work.chunks)
    low, expected, high = (
        reading
        + math.fsum(sum(shape.next_token(rows, chunk.length) for rows in lengths(chunk)) for chunk in work.chunks)
        for lengths in (_even_rows, _open_rows, _straggling_rows)
    )
    return Span(low=min(low, expected), expected=expected, high=high)


def _answering(work: Workload, shape: DecoderShape, features: Features, rates: Rates) -> Span | None:
    """Test clips encoded, read and answered. Less if answers are all alike, more if one of each batch never ends."""
    encoding = _calls(work.test_calls, rates.call)
    if work.missing or encoding is None:
        return None
    reading = math.fsum(
        rates.prefill.of(1, shape.prefill(len(chunk.frames), chunk.length, features.output_dim))
        for chunk in work.chunks
    )
    low, expected, high = (
        math.fsum(rates.token.of(1, rows, rows * chunk.length) for chunk in work.chunks for rows in lengths(chunk))
        for lengths in (_even_rows, _open_rows, _straggling_rows)
    )
    telling = Span(
        low=min(low, expected) * rates.token.spread.low, expected=expected, high=high * rates.token.spread.high
    )
    return encoding + Span.around(reading, rates.prefill.spread) + telling


def _open_rows(chunk: Chunk) -> list[int]:
    """Of each token after the first: how many rows it is asked for, if answers are as long as references."""
    return [sum(answer > step for answer in chunk.answers) for step in range(1, max(chunk.answers))]


def _even_rows(chunk: Chunk) -> list[int]:
    """If all answers were as long as they are on average."""
    return [len(chunk.answers)] * (round(sum(chunk.answers) / len(chunk.answers)) - 1)


def _straggling_rows(chunk: Chunk) -> list[int]:
    """If one answer of every batch goes on to the cap."""
    return _open_rows(chunk) + [1] * (chunk.cap - max(chunk.answers))


def _scoring(tasks: Sequence[TaskSize], rates: Rates) -> Span | None:
    """A metric's models are loaded once. The blind answers' score costs little: references are known by then."""
    total = NOTHING
    for task in tasks:
        if task.test is None or not task.pairs:
            continue
        found = rates.scorings.get(task.metric)
        if found is None:
            return None
        total += _over([task.pairs * each.pair_s for each in found])
    loaded = {task.metric for task in tasks}
    return sum(
        (_over([each.load_s for each in rates.scorings[name]]) for name in sorted(loaded & set(rates.scorings))), total
    )


def _checking(work: Workload, rates: Rates) -> Span | None:
    """The confirmation at the end: a fresh sandbox, and a few clips of each stage encoded once more."""
    if work.missing or rates.call is None or rates.sandbox is None:
        return None
    stages = [work.training_calls, *[work.test_calls] * len(work.tasks)]
    excerpts = [
        excerpt for calls in stages if calls for call in calls[len(calls) // 2 :][:SAMPLES] for excerpt in call[:1]
    ]
    again = _calls([[excerpt] for excerpt in excerpts], rates.call)
    return rates.sandbox + (again or NOTHING)
