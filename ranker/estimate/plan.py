"""The estimate of one benchmark: its parts' work, one measured minute, and the forecast of both."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ranker.config import Benchmark, Recipe, TrackPart
from ranker.data.shards import scored_clips
from ranker.errors import MissingError
from ranker.estimate.crew import Crew, EncoderFacts, EncoderTrial, Measured, MetricTrial, Trial
from ranker.estimate.flops import DecoderShape, Row, smollm2_135m
from ranker.estimate.forecast import NOTHING, Forecast, Rates, Span, forecast
from ranker.estimate.workload import (
    ASSUMED_ANSWER_TOKENS,
    ASSUMED_CLIP_S,
    ASSUMED_SHORTEST_S,
    CountTokens,
    Features,
    Workload,
    roughly,
    workload,
)
from ranker.executors.gpus import gpus
from ranker.home import Home
from ranker.lalm import decoder as decoders
from ranker.metrics import Pair
from ranker.settings import Service
from ranker.types import SandboxName

ASSUMED_FEATURES = Features(output_dim=768, frames_per_s=50.0, batch_invariant=True)
_ASSUMED_LENGTHS_S = (ASSUMED_SHORTEST_S, 2.5, 5.0, ASSUMED_CLIP_S, 30.0)
_BATCHES, _CALLS, _PAIRS = 8, 40, 24
_TOKENS_AT_ONCE = 2_048  # of the whole decoder, on a CPU


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one submission costs on these parts, and so many of them on this machine's workers.

    `measured` is how many processes measured, 0 if nothing was. `audio_hour`: the encoder's seconds for an hour of
    audio, where it was measured. `assumptions` are phrases.
    """

    benchmark: str
    device: str
    workers: int
    threads: int
    features: Features
    with_encoder: bool
    forecasts: tuple[Forecast, ...]
    measured: int
    audio_hour: Span | None
    assumptions: tuple[str, ...]

    @property
    def work(self) -> Span:
        """Seconds of all jobs of one submission, as if done one after another."""
        return sum((each.total for each in self.forecasts), NOTHING)

    def wall(self, submissions: int) -> Span:
        """Seconds until so many submissions are done: workers share the jobs, and no job is done by two."""
        jobs = [each.total for each in self.forecasts]
        low, expected, high = (
            max(
                max((getattr(job, name) for job in jobs), default=0.0),
                submissions * sum(getattr(job, name) for job in jobs) / self.workers,
            )
            for name in ("low", "expected", "high")
        )
        return Span(low=low, expected=expected, high=high)


def estimate(
    home: Home,
    service: Service,
    benchmark: Benchmark,
    tracks: Sequence[str],
    *,
    encoder: EncoderFacts | None,
    sandbox: SandboxName,
    submissions: int,
    measure: bool,
) -> Estimate:
    """What one submission on these tracks costs. Measuring takes about a minute, and all workers' processors.

    Raises ParticipantError if the encoder fails, MissingError if it is to be measured and there is no sandbox.
    """
    recipe, data = benchmark.recipe, home.data / benchmark.name
    features = ASSUMED_FEATURES
    if encoder is not None:
        features = Features(
            output_dim=encoder.output_dim,
            frames_per_s=encoder.frames_per_s,
            batch_invariant=encoder.batch_invariant,
        )
    count_tokens, has_decoder = _tokenizer(recipe)
    parts = [(track, part) for track in tracks for part in benchmark.parts(track)]
    works = [
        workload(track, part, part.recipe.steps, data=data, features=features, count_tokens=count_tokens)
        for track, part in parts
    ]
    crew = Crew.of(service, gpus())
    shape = _shape(recipe)
    found: list[Measured] = []
    tried = None
    if encoder is not None:
        tried = _encoder_trial(encoder, works, home=home, service=service, benchmark=benchmark, sandbox=sandbox)
    if measure:
        trial = Trial(
            recipe=recipe,
            feature_dim=features.output_dim,
            threads=crew.threads(recipe, service),
            cpu=not crew.devices,
            batches=_batches(works, shape, features),
            chunks=_chunk_sizes(works, shape, features, cpu=not crew.devices),
            encoder=tried,
            metrics=_metric_trials([part for _, part in parts], data),
        )
        found = crew.measure(trial, submissions * len(works))
    rates = Rates(measured=tuple(found)) if found else None
    return Estimate(
        benchmark=benchmark.name,
        device=crew.devices[0].name if crew.devices else "cpu",
        workers=crew.workers,
        threads=crew.threads(recipe, service),
        features=features,
        with_encoder=encoder is not None,
        forecasts=tuple(forecast(work, _shape(work.recipe), features, rates) for work in works),
        measured=len(found),
        audio_hour=None if rates is None else rates.audio_hour,
        assumptions=tuple(_assumptions(works, found, has_encoder=encoder is not None, has_decoder=has_decoder)),
    )


def _shape(recipe: Recipe) -> DecoderShape:
    return smollm2_135m(recipe.decoder_layers, recipe.lora_rank)


def _tokenizer(recipe: Recipe) -> tuple[CountTokens, bool]:
    """Counts tokens with the recipe's tokenizer, or roughly where it is not there; and whether it is."""
    try:
        _, tokenizer = decoders.load(decoders.locate(recipe.decoder), 1)
    except MissingError:
        return roughly, False
    return cache(lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)), True


def _batches(works: Sequence[Workload], shape: DecoderShape, features: Features) -> tuple[tuple[Row, ...], ...]:
    """Batches to measure: of all steps those in the middle of each eighth by cost, or assumed ones."""
    known = sorted(
        (batch for work in works for batch in work.batches),
        key=lambda rows: shape.training_step(rows, features.output_dim),
    )
    if known:
        return tuple(known[len(known) * (2 * place + 1) // (2 * _BATCHES)] for place in range(_BATCHES))
    return tuple(works[0].assumed_batch(length, features.frames_per_s) for length in _ASSUMED_LENGTHS_S)


def _chunk_sizes(
    works: Sequence[Workload], shape: DecoderShape, features: Features, *, cpu: bool
) -> tuple[tuple[int, int], ...]:
    """(rows, length) to measure answering at: few short, many short, and a typical one as far as time allows."""
    chunks = sorted((chunk for work in works for chunk in work.chunks), key=lambda chunk: chunk.length)
    lengths = [chunks[len(chunks) * place // 4].length for place in (1, 3)] if chunks else []
    lengths = lengths or [round(ASSUMED_CLIP_S * features.frames_per_s)]
    rows = max((len(chunk.frames) for chunk in chunks), default=64)
    room = _TOKENS_AT_ONCE * 30 // shape.layers * (1 if cpu else 16)
    return ((2, 24), (rows, 24), *((max(1, min(rows, room // length)), length) for length in lengths))


def _encoder_trial(
    encoder: EncoderFacts,
    works: Sequence[Workload],
    *,
    home: Home,
    service: Service,
    benchmark: Benchmark,
    sandbox: SandboxName,
) -> EncoderTrial:
    """Calls of every length, in an order in which each beginning of it is a fair sample."""
    known = [call for work in works for call in (*work.training_calls, *work.test_calls)]
    known.sort(key=lambda call: sum(excerpt.duration_s for excerpt in call))
    number = min(_CALLS, len(known))
    chosen = [known[len(known) * (2 * place + 1) // (2 * number)] for place in range(number)]
    random.Random(0).shuffle(chosen)
    return EncoderTrial(
        tree=encoder.tree,
        source=encoder.source,
        output_dim=encoder.output_dim,
        max_frames=benchmark.recipe.max_frames,
        sandbox=sandbox,
        service=service,
        home=home.root,
        data=home.data / benchmark.name,
        calls=tuple(chosen),
        packages=encoder.packages,
        weights=encoder.weights,
    )


def _metric_trials(parts: Sequence[TrackPart], data: Path) -> tuple[MetricTrial, ...]:
    """A few pairs for each metric, of the first task that has it; none where the data is not there."""
    trials: dict[str, MetricTrial] = {}
    for task in (task for part in parts for task in part.tasks):
        if task.metric in trials:
            continue
        try:
            clips = scored_clips(data, task.test.shards, task.test.key)[:_PAIRS]
        except MissingError:
            continue
        texts = [(clip.id, clip.references(task.test.key)[0]) for clip in clips]
        pairs = tuple(Pair(clip=name, reference=text, candidate=text) for name, text in texts)
        trials[task.metric] = MetricTrial(metric=task.metric, num_classes=task.num_classes, pairs=pairs)
    return tuple(trials.values())


def _assumptions(
    works: Sequence[Workload], found: Sequence[Measured], *, has_encoder: bool, has_decoder: bool
) -> Iterator[str]:
    if not has_encoder:
        yield (
            f"features of {ASSUMED_FEATURES.output_dim} numbers, {ASSUMED_FEATURES.frames_per_s:g} frames a second; "
            "`--submission ID` takes an encoder's own, and measures its time"
        )
    missing = next((work.missing for work in works if work.missing is not None), None)
    if missing is not None:
        yield (
            f"training clips of {ASSUMED_CLIP_S:g} s (from {ASSUMED_SHORTEST_S:g} s to the longest that is not "
            f"cropped), prompts and answers of {ASSUMED_ANSWER_TOKENS} tokens, since sizes are not known: {missing}"
        )
    elif not has_decoder:
        yield "four letters a token, since the decoder's tokenizer is not there"
    if any(each.random_decoder for each in found):
        yield "a decoder of the same shape with random weights was measured, since the recipe's is not there"
    if any(work.missing is None for work in works):
        yield "answers as long as the references; the range reaches to one in each batch that goes on to its cap"
    if found:
        yield "what this machine did for a minute goes on like that"
