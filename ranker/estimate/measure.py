"""The measuring process: a few training steps, a few answers, a few calls of the encoder, a few scores, by the clock.

What is measured is the code that evaluations run, on features that are noise of the right sizes.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ranker.config import Recipe
from ranker.errors import MissingError
from ranker.estimate.crew import (
    Call,
    EncoderTrial,
    Measured,
    MetricTrial,
    Scoring,
    Step,
    Token,
    Trial,
)
from ranker.estimate.flops import DecoderShape, Row, smollm2_135m
from ranker.executors.gpus import own_gpu
from ranker.lalm import decoder as decoders
from ranker.lalm.features import encode_calls
from ranker.lalm.generate import generate_tokens
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.train import train
from ranker.metrics import caption_models, evaluate
from ranker.sandbox.backends import open_configured
from ranker.sandbox.base import SAMPLE_RATE_HZ, Encoder, EncoderSpec
from ranker.types import MetricName

_NOISE_S = (1.0, 5.0, 10.0)
_NEW_TOKENS = 8
_ROUNDS = 3
_CAPTIONS = frozenset({MetricName.FENSE, MetricName.FENSE_CLIP, MetricName.DATE, MetricName.DATE_CLIP})


class _Letters:
    """Stands in for a tokenizer: a token per letter."""

    def __call__(self, text: str, **_: object) -> Any:
        return type("Encoding", (), {"input_ids": [ord(letter) % 256 for letter in text]})


class _TimeIsUpError(Exception):
    """Ends the training loop."""


def measure(trial: Trial) -> Measured:
    """Everything that `trial` asks for. Raises what the parts raise."""
    torch.set_num_threads(trial.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    started = time.perf_counter()
    model, is_random = _model(trial)
    load_s = time.perf_counter() - started
    shape = smollm2_135m(trial.recipe.decoder_layers, trial.recipe.lora_rank)
    steps = tuple(_train(model, trial, shape)) if trial.batches else ()
    model.eos_id = -1  # never said: as many tokens as are asked for
    model.eval()
    prefills, tokens = _generate(model, trial, shape)
    del model
    gc.collect()
    sandbox_s, calls = _encode(trial.encoder, trial) if trial.encoder else (None, ())
    scorings = tuple(score for each in trial.metrics for score in _score(each, trial.recipe))
    return Measured(
        random_decoder=is_random,
        load_s=load_s,
        sandbox_s=sandbox_s,
        steps=steps,
        prefills=prefills,
        tokens=tokens,
        calls=calls,
        scorings=scorings,
    )


def _model(trial: Trial) -> tuple[AudioLanguageModel, bool]:
    """The recipe's decoder if it is there, else one of the same shape."""
    recipe = trial.recipe
    try:
        network, tokenizer = decoders.load(decoders.locate(recipe.decoder), recipe.decoder_layers)
        is_random = False
    except MissingError:
        network, tokenizer, is_random = random_decoder(recipe), _Letters(), True  # type: ignore[assignment]
    model = AudioLanguageModel(network, tokenizer, feature_dim=trial.feature_dim, recipe=recipe, init_key="estimate")
    model.to("cpu" if trial.cpu else "cuda")
    return model, is_random


def random_decoder(recipe: Recipe) -> LlamaForCausalLM:
    """A decoder of SmolLM2-135M's shape with random weights: as fast, and as large."""
    shape = smollm2_135m(recipe.decoder_layers, recipe.lora_rank)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=9,
        num_key_value_heads=shape.kv * 9 // shape.hidden,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)  # type: ignore[no-any-return, no-untyped-call]


def _noise(frames: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((frames, dim), dtype=np.float32)


def _train(model: AudioLanguageModel, trial: Trial, shape: DecoderShape) -> Iterator[Step]:
    """Steps of the real training loop, small batches first, round after round until the time is up."""
    ordered = sorted(trial.batches, key=lambda rows: shape.training_step(rows, trial.feature_dim))
    plan = [ordered[0], *(rows for _ in range(_ROUNDS) for rows in ordered)]  # the first one warms up
    flops = [shape.training_step(rows, trial.feature_dim) for rows in plan]
    ends, started = list[float](), time.perf_counter()

    def examples(step: int) -> Sequence[Example]:
        spent = time.perf_counter() - started
        if step > 2 and spent + spent * flops[step] / sum(flops[:step]) > trial.train_s:
            raise _TimeIsUpError
        return [_example(row, trial.feature_dim) for row in plan[step]]

    with tempfile.TemporaryDirectory() as folder:
        recipe = trial.recipe.model_copy(update={"checkpoint_every": len(plan) + 1})
        with suppress(_TimeIsUpError):
            train(
                model,
                recipe=recipe,
                steps=len(plan) + 1,  # the last one, after which a checkpoint is written, is never reached
                random_key="estimate",
                examples=lambda step: examples(step) if step < len(plan) else _stop(),
                folder=Path(folder),
                resume_from=None,
                cpu=trial.cpu,
                on_step=lambda *_: ends.append(time.perf_counter()),
            )
    for number in range(1, len(ends)):
        yield Step(flops=flops[number], seconds=ends[number] - ends[number - 1])


def _stop() -> Sequence[Example]:
    raise _TimeIsUpError


def _example(row: Row, dim: int) -> Example:
    frames, prompt, target = row
    return Example(features=_noise(frames, dim), prompt=(11,) * prompt, target=(12,) * target)


def _generate(
    model: AudioLanguageModel, trial: Trial, shape: DecoderShape
) -> tuple[tuple[Step, ...], tuple[Token, ...]]:
    """Time to read prompts, and for each token after that, at each of the sizes, small ones first."""
    prefills, tokens, since = list[Step](), list[Token](), time.perf_counter()
    for rows, length in sorted(trial.chunks, key=lambda size: size[0] * size[1]):
        clips = [_noise(length, trial.feature_dim)] * rows

        def ask(new: int, clips: list[Any] = clips) -> float:
            started = time.perf_counter()
            generate_tokens(model, clips, prompt="a", max_new_tokens=new, recipe=trial.recipe)
            return time.perf_counter() - started

        if not prefills:
            ask(1)  # warms up
        one, more = ask(1), ask(1 + _NEW_TOKENS)
        prefills.append(Step(flops=shape.prefill(rows, length, trial.feature_dim), seconds=one))
        tokens.append(Token(rows=rows, length=length, seconds=max(0.0, more - one) / _NEW_TOKENS))
        if len(tokens) > 1 and time.perf_counter() - since > trial.generate_s / 2:
            break
    return tuple(prefills), tuple(tokens)


def _encode(asked: EncoderTrial, trial: Trial) -> tuple[float, tuple[Call, ...]]:
    """Seconds to start the sandbox with the encoder in it, and each call's."""
    sandbox = open_configured(asked.service, asked.home, name=asked.sandbox, gpu=None if trial.cpu else own_gpu())
    spec = EncoderSpec(
        tree=asked.tree,
        source=asked.source,
        seed=trial.recipe.seed,
        threads=trial.threads,
        max_frames=asked.max_frames,
        output_dim=asked.output_dim,
        packages=asked.packages,
        weights=asked.weights,
    )
    started = time.perf_counter()
    with sandbox.start(spec, asked.service.limits) as encoder:
        start_s = time.perf_counter() - started
        ahead = _noise_calls(encoder) if not asked.calls else _real_calls(encoder, asked)
        calls, since = list[Call](), time.perf_counter()
        for index, call in enumerate(ahead):
            if index:  # the first one warms up
                calls.append(call)
            if time.perf_counter() - since > trial.encode_s:
                break
    return start_s, tuple(calls)


def _noise_calls(encoder: Encoder) -> Iterator[Call]:
    for seconds in (*_NOISE_S[:1], *_NOISE_S * _ROUNDS):
        audio = _noise(round(seconds * SAMPLE_RATE_HZ), 1)[:, 0] * np.float32(0.1)
        yield _timed(seconds, partial(encoder.encode, [audio]))


def _real_calls(encoder: Encoder, trial: EncoderTrial) -> Iterator[Call]:
    """In one stream, so that audio is decoded while the encoder works, as in an evaluation."""
    stream = encode_calls(trial.data, encoder, trial.calls)
    for call in trial.calls:
        yield _timed(sum(excerpt.duration_s for excerpt in call), lambda: next(stream))


def _timed(audio_s: float, work: Callable[[], object]) -> Call:
    started = time.perf_counter()
    work()
    return Call(audio_s=audio_s, seconds=time.perf_counter() - started)


def _score(trial: MetricTrial, recipe: Recipe) -> Iterator[Scoring]:
    """A metric on pairs whose answers are references; nothing where its models are not there."""
    try:
        models = caption_models(recipe.metric_models) if trial.metric in _CAPTIONS else None
    except MissingError:
        return

    def seconds(pairs: Sequence[Any]) -> float:
        started = time.perf_counter()
        evaluate(trial.metric, pairs, num_classes=trial.num_classes, models=models)
        return time.perf_counter() - started

    first = seconds(trial.pairs[:1])
    # Other texts than before: what was embedded once is remembered.
    fresh = [replace(pair, reference=f"{pair.reference} a", candidate=f"{pair.candidate} b") for pair in trial.pairs]
    whole = seconds(fresh)
    yield Scoring(metric=trial.metric, load_s=max(0.0, first), pair_s=whole / len(fresh))


def main() -> None:
    """Read a trial as JSON from standard input, print what was measured as JSON."""
    trial = Trial.model_validate_json(sys.stdin.read())
    found = measure(trial)
    sys.stdout.write(found.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
