"""Scores beside the reference's at equal steps: writes docs/results/score_parity.md.

    python bench/score_parity.py [--data data/mini] [--track A] [--seeds 2] [--steps 200]

One track of `mini` is trained and answered by ranker in float32 (in both of its layouts), by ranker in bf16 and by the
reference loop (bench/reference*.py), with the same initial weights, batches, steps and learning rates. Do the scores
differ by more than a bootstrap over the test clips explains? `ranker data build mini` makes the data. Two trainings run
side by side, each with one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from reference import Clip, Reference, Training
from reference_answers import Plain, Work, ask
from torch import nn

from ranker import scoring, uncertainty
from ranker.conditions import models_of
from ranker.config import Benchmark, Recipe, Task, Track, TrackPart, load
from ranker.data.audio import prepare
from ranker.data.shards import Clip as Stored
from ranker.data.shards import read_audio, scored_clips, training_data
from ranker.lalm import decoder as decoders
from ranker.lalm.answers import answer
from ranker.lalm.curriculum import Sample, curriculum
from ranker.lalm.features import Excerpt, calls, encode_calls
from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.lalm.train import train
from ranker.metrics import Pair, blind_answer, blind_value
from ranker.metrics import evaluate as compute_metric
from ranker.sandbox.base import Audio, Features
from ranker.types import Layout, Part, Precision

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "docs" / "results" / "score_parity.md"
RANKER, PADDED, RANKER_BF16 = "ranker", "ranker in XARES-LLM's layout", "ranker in bf16"
REFERENCE = "reference loop"
SIDES = (REFERENCE, PADDED, RANKER, RANKER_BF16)  # the slowest first: two at a time then end together
COMPARED = ((RANKER, REFERENCE), (PADDED, REFERENCE), (RANKER_BF16, REFERENCE), (RANKER_BF16, RANKER))
SAMPLE = "logmel"  # the cheapest that learns something, and needs no weights
ENCODER = ROOT / "submissions" / "examples" / SAMPLE / "logmel_encoder.py"
ASKED_TOGETHER = 32  # pairs in a batch of the reference's: the challenge has 4 to 128
STANDARDIZED_OVER = 2_000  # excerpts, as in ranker/evaluation.py
TRACK = "mean of the track"


class InProcess(nn.Module):
    """The sample's encoder in this process. ranker calls `encode`: one clip at a time, without padding. The reference
    calls it as a module, on padded batches; since it does not standardise features, they come standardised by then.
    """

    def __init__(self) -> None:
        super().__init__()
        spec: Any = importlib.util.spec_from_file_location(SAMPLE, ENCODER)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        self.attribute = "LogMelEncoder"
        self.module: Any = getattr(loaded, self.attribute)().eval()
        self.output_dim = int(self.module.output_dim)
        self.mean, self.scale = torch.zeros(1), torch.ones(1)

    def forward(self, audio: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames, kept = self.module(audio, mask)
        return (frames - self.mean) * self.scale, kept

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:  # noqa: ARG002 protocol
        """Each clip's features (T', D), as ranker's `Encoder` gives them."""
        each = [torch.from_numpy(clip)[None] for clip in clips]
        with torch.inference_mode():
            return [self.module(clip, torch.ones_like(clip).long())[0][0].float().numpy() for clip in each]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One side and one seed. `folder` holds what all jobs share; `since` is when it all began."""

    side: str
    seed: int
    options: argparse.Namespace
    folder: Path
    since: float

    @cached_property
    def part(self) -> TrackPart:
        """The track's public part, as it is measured here."""
        return part_of(self.options, self.side)

    @property
    def key(self) -> str:
        """Names what the seed draws: initial weights, order, and ranker's dropout."""
        return f"score-parity:{self.options.track}:{self.seed}"

    def shared(self, name: str) -> Path:
        """A file that all sides of the seed read."""
        return self.folder / f"{self.seed}-{name}"

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self.since:5.0f} s  {self.side}, seed {self.seed}: {what}", flush=True)

    def model(self, feature_dim: int) -> AudioLanguageModel:
        """Ranker's, before training."""
        recipe = self.part.recipe
        network, tokenizer = decoders.load(decoders.locate(recipe.decoder), recipe.decoder_layers)
        return AudioLanguageModel(network, tokenizer, feature_dim=feature_dim, recipe=recipe, init_key=self.key)

    def plan(self, model: AudioLanguageModel) -> list[tuple[Sample, ...]]:
        """The batch of each step."""
        return curriculum(
            self.part.mixture,
            self.part.recipe,
            data=self.options.data,
            seed=self.seed,
            random_key=self.key,
            steps=self.options.steps,
            count_tokens=lambda text: len(model.tokenize(text)),
        )

    def longest(self, task: Task) -> int:
        """Tokens of an answer at most."""
        return min(task.test.max_new_tokens or 1_000, self.part.recipe.max_new_tokens)

    def tested(self, task: Task) -> list[tuple[Stored, str]]:
        """The pairs of clip and reference that a task is scored on."""
        clips = scored_clips(self.options.data, task.test.shards, task.test.key)[: self.options.clips]
        return [(clip, reference) for clip in clips for reference in clip.references(task.test.key)]


def part_of(options: argparse.Namespace, side: str = RANKER) -> TrackPart:
    """The recipe is mini's but for what the options and the side change."""
    part = load(Benchmark, ROOT / "configs" / "mini.yaml").part(options.track, Part.PUBLIC)
    changes = {"steps": options.steps, "lora_dropout": options.dropout}
    changes["precision"] = Precision.BF16 if side == RANKER_BF16 else Precision.FP32
    changes["layout"] = Layout.XARES_LLM if side == PADDED else Layout.RANKER
    recipe = Recipe.model_validate(part.recipe.model_dump() | changes)
    return TrackPart(name=part.name, recipe=recipe, mixture=part.mixture, tasks=part.tasks)


def share(job: Job) -> None:
    """Write what the seed's sides share: features, initial weights, and the features' mean and deviation."""
    torch.set_num_threads(1)
    encoder = InProcess()
    model = job.model(encoder.output_dim)
    excerpts = {sample.excerpt.key: sample.excerpt for batch in job.plan(model) for sample in batch}
    plan = calls(excerpts.values(), batch_invariant=False)
    made = {call[0].key: features[0] for call, features in encode_calls(job.options.data, encoder, plan)}
    if job.part.recipe.feature_standardize:
        model.standardize([made[key] for key in excerpts][:STANDARDIZED_OVER])
    model.save_trained(job.shared("initial.safetensors"))
    torch.save({key: torch.from_numpy(each) for key, each in made.items()}, job.shared("features.pt"))
    job.say(f"{len(made)} clips are encoded")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a job: each step's loss; of each task its value, that of a deaf model, and the table of items."""

    losses: list[float]
    values: dict[str, float] = field(default_factory=dict)
    blind: dict[str, float] = field(default_factory=dict)
    items: dict[str, pd.DataFrame] = field(default_factory=dict)


def done(job: Job) -> Found:
    """Train and answer."""
    torch.set_num_threads(1)
    part, encoder, started = job.part, InProcess(), time.process_time()
    model = job.model(encoder.output_dim)
    model.load_trained(job.shared("initial.safetensors"))
    found = Found(losses=[])

    def stepped(loss: float) -> None:
        found.losses.append(loss)
        if len(found.losses) % max(1, job.options.steps // 4) == 0:
            job.say(f"step {len(found.losses)} of {job.options.steps}, loss {loss:.3f}")

    answers = (by_reference if job.side == REFERENCE else by_ranker)(job, model, encoder, stepped)
    trained_s = time.process_time() - started
    for task in part.tasks:
        said = zip(job.tested(task), answers(task), strict=True)
        pairs = [Pair(clip=clip.id, reference=reference, candidate=text) for (clip, reference), text in said]
        given: dict[str, Any] = {"num_classes": task.num_classes, "models": models_of(part)}
        result = compute_metric(task.metric, pairs, **given)
        found.values[task.name], found.items[task.name] = result.value, result.items
        found.blind[task.name] = blind_value(task.metric, pairs, commonest(job, task), **given)
    answered_s = time.process_time() - started - trained_s
    job.say(f"answered; {trained_s:.0f} s of a processor for training, {answered_s:.0f} s for answers")
    return found


def commonest(job: Job, task: Task) -> str:
    """What a model that answers without listening would say."""
    assert task.train is not None
    shards = training_data(job.options.data, task.train.shards, task.train.key).shards
    return blind_answer(text for each in shards for clip in each.clips for text in clip.references(task.train.key))


Told = Callable[[float], None]  # of each step's loss
Answers = Callable[[Task], list[str]]  # one for each pair


def by_ranker(job: Job, model: AudioLanguageModel, encoder: InProcess, stepped: Told) -> Answers:
    """Train as ranker does; what then answers."""
    recipe, plan = job.part.recipe, job.plan(model)
    made = torch.load(job.shared("features.pt"), weights_only=True)

    def example(sample: Sample) -> Example:
        target = (*model.tokenize(sample.answer), model.eos_id)
        return Example(features=made[sample.excerpt.key].numpy(), prompt=model.tokenize(sample.prompt), target=target)

    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        train(
            model,
            recipe=recipe,
            steps=recipe.steps,
            random_key=job.key,
            examples=lambda step: [example(sample) for sample in plan[step]],
            folder=Path(folder),
            resume_from=None,
            cpu=True,
            on_step=lambda _, loss: stepped(loss),
        )
    decoder = MergedDecoder(model, recipe)

    def answers(task: Task) -> list[str]:
        pairs = job.tested(task)
        said = answer(
            decoder,
            encoder,
            list({clip.id: clip for clip, _ in pairs}.values()),
            data=job.options.data,
            prompt=task.test.prompt,
            max_new_tokens=job.longest(task),
            recipe=recipe,
            batch_invariant=False,
            on_progress=lambda _: None,
        )
        return [said[clip.id] for clip, _ in pairs]

    return answers


class Ready(Plain):
    """The reference's model, trained, to be asked."""

    def __init__(self, model: Reference) -> None:
        self.model = model.eval()


def by_reference(job: Job, model: AudioLanguageModel, encoder: InProcess, stepped: Told) -> Answers:
    """Train as the reference does, from ranker's initial weights; what then answers, pair by pair."""
    recipe, state, eos = job.part.recipe, model.trained_state(), model.eos_id
    encoder.mean, encoder.scale = state["feature_mean"], state["feature_scale"]
    side = Reference(encoder, job.folder / "decoder", lora_dropout=recipe.lora_dropout)
    lora = {name.removeprefix("lora."): value for name, value in state.items() if name.startswith("lora.")}
    if get_peft_model_state_dict(side.decoder).keys() != lora.keys():
        raise SystemExit("the reference's adapters have other names than ranker's; both were to start from the same")
    set_peft_model_state_dict(side.decoder, lora)
    side.projector.load_state_dict({name: state[f"projector.{name}"] for name in ("weight", "bias")})
    training = Training(side, steps=recipe.steps, learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup_steps)

    def clip(excerpt: Excerpt, prompt: str, target: str) -> Clip:
        stored = read_audio(job.options.data, excerpt.clip)
        audio = torch.from_numpy(prepare(*stored, crop_start_s=excerpt.crop_start_s, max_s=excerpt.max_s))
        return Clip(audio=audio, prompt=model.tokenize(prompt), target=(*model.tokenize(target), eos))

    torch.manual_seed(job.seed)  # torch's dropout, of other masks than ranker's
    for batch in job.plan(model):
        stepped(training.step([clip(each.excerpt, each.prompt, each.answer) for each in batch], eos))

    def answers(task: Task) -> list[str]:
        clips = [clip(Excerpt(clip=each), task.test.prompt, "") for each, _ in job.tested(task)]
        work = Work(
            name=task.name,
            audio=[each.audio for each in clips],
            references=1,  # each of a clip's pairs is here, to be asked by itself
            prompt=clips[0].prompt,
            batch_size=ASKED_TOGETHER,
            max_new_tokens=job.longest(task),
            eos_id=eos,
        )
        said = [tokens for (tokens,) in ask(Ready(side), work)]
        return [text.strip() for text in model.tokenizer.batch_decode(said, skip_special_tokens=True)]

    return answers


Runs = dict[str, list[Found]]  # side -> what came of each seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One task, or the track: values (2, S) of two sides with S seeds, and their draws (2, S, B), all of them paired.

    `same`: the share of pairs with the same answer.
    """

    name: str
    values: npt.NDArray[np.float64]
    draws: npt.NDArray[np.float64]
    same: float

    def interval(self, seed: int | None = None) -> tuple[float, float]:
        """95% of the first side less the second, over test clips: of one seed, or of the mean over all."""
        first, second = self.draws.mean(axis=1) if seed is None else self.draws[:, seed]
        return uncertainty.difference(first, second)

    def within(self, seed: int | None = None) -> bool:
        low, high = self.interval(seed)
        return low <= 0.0 <= high


def rows(part: TrackPart, runs: Runs, *sides: str) -> list[Row]:
    """Two sides, task by task, and the track last."""
    found = [each for side in sides for each in runs[side]]
    track: Track = part.mixture.model_copy(update={"tasks": part.tasks})
    raw = pd.DataFrame([each.values for each in found])
    raw[TRACK] = scoring.combine(scoring.normalize(raw, track).to_numpy(), track).track
    drawn, same = {}, {}
    for task in part.tasks:
        tables = {str(at): each.items[task.name] for at, each in enumerate(found)}
        drawn[task.name] = uncertainty.task_draws(task, tables, seed=uncertainty.seed_of(task.name))
        said = np.stack([table["candidate"].to_numpy(dtype=object) for table in tables.values()])
        same[task.name] = float(np.mean(said[: len(said) // 2] == said[len(said) // 2 :]))
    of_track = {at: uncertainty.track_draws({name: own[at] for name, own in drawn.items()}, track) for at in tables}
    drawn[TRACK], same[TRACK] = of_track, float(np.mean([*same.values()]))
    shaped = {name: np.stack([*own.values()]).reshape(2, len(found) // 2, -1) for name, own in drawn.items()}
    return [
        Row(name=name, values=raw[name].to_numpy().reshape(2, -1), draws=own, same=same[name])
        for name, own in shaped.items()
    ]


def section(found: Sequence[Row], first: str, second: str) -> list[str]:
    """Two sides side by side."""
    *tasks, track = found
    seeds = range(track.values.shape[1])
    inside = sum(row.within() for row in tasks), sum(row.within(seed) for row in tasks for seed in seeds)
    low, high = track.interval()
    lines = [
        f"## {first[0].upper()}{first[1:]} less {second}",
        "",
        f"Mean of the track: **{np.subtract(*track.values).mean():+.4f}** (95%: {low:+.4f} to {high:+.4f}, which "
        f"{'holds' if track.within() else 'does **not** hold'} 0). The interval holds 0 for {inside[0]} of "
        f"{len(tasks)} tasks, and for {inside[1]} of {len(tasks) * len(seeds)} seed by seed.",
        "",
        f"| task | {second} | {first} | difference | 95% | holds 0 | seed by seed | {second}: range of seeds | same "
        "answers |",
        "| --- |" + " ---: |" * 8,
    ]
    for row in found:
        differences, (low, high) = np.subtract(*row.values), row.interval()
        each = ", ".join(f"{differences[seed]:+.3f}{'' if row.within(seed) else '*'}" for seed in seeds)
        lines.append(
            f"| {row.name} | {row.values[1].mean():.3f} | {row.values[0].mean():.3f} | {differences.mean():+.3f} | "
            f"{low:+.3f} to {high:+.3f} | {'yes' if row.within() else '**no**'} | {each} | "
            f"{np.ptp(row.values[1]):.3f} | {row.same:.0%} |"
        )
    return [*lines, ""]


def losses(runs: Runs) -> list[str]:
    """The last quarter of the steps of all seeds."""

    def last(side: str) -> npt.NDArray[np.float64]:
        return np.concatenate([each.losses[-max(1, len(each.losses) // 4) :] for each in runs[side]])

    lines = ["| side | mean loss | less the reference's | step by step, without sign |", "| --- |" + " ---: |" * 3]
    for side in SIDES:
        apart = last(side) - last(REFERENCE)
        lines.append(f"| {side} | {last(side).mean():.4f} | {apart.mean():+.4f} | {np.abs(apart).mean():.4f} |")
    return lines


def report(options: argparse.Namespace, runs: Runs, minutes: float) -> str:
    """The page."""
    part = part_of(options)
    recipe, files = part.recipe, decoders.locate(part.recipe.decoder)
    usual = load(Benchmark, ROOT / "configs" / "mini.yaml").recipe
    fewer = "" if options.clips is None else f" --clips {options.clips}"
    compared = {sides: rows(part, runs, *sides) for sides in COMPARED}
    *tasks, _ = compared[RANKER, REFERENCE]
    blind = runs[REFERENCE][0].blind
    deaf = [row.name for row in tasks if row.values[1].mean() <= blind[row.name]]
    lines = [
        "# Scores beside the reference's at equal steps",
        "",
        f"Written by `python bench/score_parity.py --track {options.track} --seeds "
        f"{options.seeds} --steps {options.steps} --dropout {options.dropout:g}{fewer}` on "
        f"{datetime.now(UTC):%Y-%m-%d}, in {minutes:.1f} minutes, on a CPU.",
        "",
        f"Track {options.track} of `mini`, its sample encoder `{SAMPLE}`, {options.seeds} seeds, "
        f"{options.steps} steps (`mini` takes {usual.steps}) of {recipe.batch_size} clips, learning rate "
        f"{recipe.learning_rate:g} after {recipe.warmup_steps} steps, LoRA dropout {options.dropout:g} (`mini` has "
        f"{usual.lora_dropout:g}, the challenge {Recipe().lora_dropout:g}), {recipe.decoder_layers} of the decoder's "
        f"{files.layers} layers. With a seed, all sides have the same initial weights, standardised features, batches "
        "and schedule. Masks of dropout and rounding differ. So do, in training, the positions of text, since the "
        "reference counts the padding before it; in XARES-LLM's layout ranker counts it too. The reference asks each "
        "pair of clip and reference by itself, in padded batches, adapters unmerged.",
        "",
        f"On {len(tasks) - len(deaf)} of {len(tasks)} tasks the reference is above a model that does not listen; not "
        f"on: {', '.join(deaf) or 'none'}. Where nothing is learnt, equal scores say nothing.",
        "",
        "Differences are means over seeds, intervals those of a paired bootstrap over test clips (ranker.uncertainty). "
        "They know nothing of training: other dropout, or other rounding, moves a score as another seed does, which is "
        "the range beside; and one of twenty lies outside by chance. Seed by seed, a star marks what does.",
        "",
    ]
    for sides, found in compared.items():
        lines += section(found, *sides)
    lines += ["## Losses", "", "Last quarter of the steps, all seeds; batches are the same:", "", *losses(runs), ""]
    lines += [
        "## What this does not show",
        "",
        "The reference loop (bench/reference.py) stands in for XARES-LLM, whose semantics it has. "
        f"{f'Besides, {files.stand_in}. ' if files.stand_in else ''}`mini` is synthetic sound, and has few "
        "test clips: differences smaller than the intervals are not excluded. Nothing here is of the challenge's "
        "100,000 steps, of its whole decoder, or of a GPU.",
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mini", help="of `ranker data build mini`")
    parser.add_argument("--track", default="A")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each side")
    parser.add_argument("--steps", type=int, default=200, help="default: as many as mini has")
    parser.add_argument("--dropout", type=float, default=Recipe().lora_dropout, help="default: the challenge's")
    parser.add_argument("--clips", type=int, help="test clips of each task at most (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side, each with one thread")
    parser.add_argument("--out", type=Path, default=REPORT)
    return parser.parse_args()


def main() -> None:
    options, since = parse(), time.monotonic()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is not there; run `ranker data build mini`, or name its folder with --data")
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="ranker-score-parity-") as folder:
        from peer_parity import write_decoder

        write_decoder(Path(folder) / "decoder", part_of(options).recipe.decoder_layers or 30)
        given: dict[str, Any] = {"options": options, "folder": Path(folder), "since": since}
        seeds = range(options.seeds)
        jobs = [Job(side=side, seed=seed, **given) for side in SIDES for seed in seeds]
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(share, [Job(side=RANKER, seed=seed, **given) for seed in seeds]))
            found = list(pool.map(done, jobs))
        runs = {side: [each for job, each in zip(jobs, found, strict=True) if job.side == side] for side in SIDES}
    options.out.write_text(report(options, runs, (time.monotonic() - since) / 60), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
