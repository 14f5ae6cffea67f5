"""What a submission costs: FLOPs against torch's own count, work against what evaluations really do, unknowns named."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import effort
import lalm
import numpy as np
import pytest
import torch
from tones import write_tones
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from ranker.cli import main
from ranker.cli.estimate import duration
from ranker.config import Benchmark, Recipe
from ranker.data.shards import scored_clips
from ranker.errors import InfraError
from ranker.estimate import Estimate, Span, to_json
from ranker.estimate.crew import Call, Crew, EncoderTrial, Measured, MetricTrial, Scoring, Step, Token, Trial, _ask
from ranker.estimate.flops import DecoderShape, Row, smollm2_135m
from ranker.estimate.forecast import Rates, fit, forecast
from ranker.estimate.measure import random_decoder
from ranker.estimate.workload import Features, Workload, roughly, workload
from ranker.home import Home
from ranker.lalm import merged
from ranker.lalm.answers import answer
from ranker.lalm.features import FeatureStore
from ranker.lalm.generate import generate_tokens
from ranker.lalm.merged import MergedDecoder
from ranker.lalm.model import AudioLanguageModel, Example
from ranker.metrics import Pair
from ranker.sandbox.base import Audio
from ranker.sandbox.base import Features as Frames
from ranker.settings import Service
from ranker.types import EncoderSource, MetricName, Part, SandboxName, Stage

EXAMPLES = Path(__file__).parent.parent / "submissions" / "examples"
SHAPE = DecoderShape(layers=2, hidden=48, intermediate=80, kv=16, vocabulary=96, lora_rank=4)
FOUND = Features(output_dim=8, frames_per_s=20.0, batch_invariant=True)
DURATIONS_S = (0.3, 0.3, 0.7, 1.1, 1.1, 2.0)


class OneToken:
    """A tokenizer of one word."""

    def __call__(self, text: str, **_: object) -> Any:
        return type("Encoding", (), {"input_ids": [1]})


def tiny_model() -> AudioLanguageModel:
    """A random decoder of SHAPE, with attention written out, which the counter can see."""
    config = LlamaConfig(
        vocab_size=SHAPE.vocabulary, hidden_size=SHAPE.hidden, intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.layers, num_attention_heads=6, num_key_value_heads=2, eos_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    network = LlamaForCausalLM(config).requires_grad_(requires_grad=False)
    recipe = lalm.tiny_recipe(lora_rank=SHAPE.lora_rank)
    return AudioLanguageModel(network, OneToken(), feature_dim=8, recipe=recipe, init_key="key")  # type: ignore[arg-type]


def noise(frames: int) -> Frames:
    return np.zeros((frames, 8), np.float32)


# -- FLOPs


def attention_flops(query: Sequence[int], key: Sequence[int], *_: object, **__: object) -> int:
    """Of the CPU's attention kernel, which torch's counter does not know: two products over the whole square."""
    return 4 * math.prod(query) * key[2]


def batch_addition_flops(_: Sequence[int], one: Sequence[int], other: Sequence[int], *__: object, **___: object) -> int:
    """Of products that are added to what is there."""
    return 2 * math.prod(one) * other[2]


def addition_flops(_: Sequence[int], one: Sequence[int], other: Sequence[int], *__: object, **___: object) -> int:
    """Of a product that is added to what is there."""
    return 2 * math.prod(one) * other[1]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> FlopCounterMode:
    """Torch's, taught what it does not know, save for oneDNN's products, which are therefore turned off."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    kernels = {
        torch.ops.aten.addmm_: addition_flops,
        torch.ops.aten.baddbmm_: batch_addition_flops,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=kernels)


@pytest.mark.parametrize("rows", [((30, 4, 6),) * 3, ((300, 2, 3),), ((5, 1, 40), (60, 2, 2))])
def test_training_flops_are_those_that_torch_counts(rows: tuple[Row, ...], counter: FlopCounterMode) -> None:
    """Forward and backward of a real batch, to the last operation."""
    model = tiny_model()
    batch = [Example(features=noise(f), prompt=(1,) * p, target=(2,) * t) for f, p, t in rows]
    with counter:
        model(batch).backward()
    assert SHAPE.training_step(rows, 8) == counter.get_total_flops()


def test_answering_flops_are_those_that_torch_counts(counter: FlopCounterMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a batch, and each token after that: within 2% of torch's counter."""
    monkeypatch.setattr(merged, "_ROUND", 1)
    model, found = tiny_model().eval(), []
    model.eos_id = -1
    for new in (1, 5):
        with counter:
            generate_tokens(model, [noise(40)] * 3, prompt="a", max_new_tokens=new, recipe=lalm.tiny_recipe())
        found.append(counter.get_total_flops())
    merging = 2 * SHAPE.layers * SHAPE.lora_rank * SHAPE.linear
    assert SHAPE.prefill(3, 41, 8) == pytest.approx(found[0] - merging, rel=0.02)
    later = sum(SHAPE.next_token(3, 41 + step) for step in range(1, 5))
    assert later == pytest.approx(found[1] - found[0], rel=0.02)


def test_the_shape_is_the_decoders() -> None:
    """The stand-in has the counted shape, and so has the random decoder that is measured where there is none."""
    recipe = lalm.tiny_recipe(decoder_layers=2)
    shape = smollm2_135m(2, recipe.lora_rank)
    real, fake = lalm.build(recipe), random_decoder(recipe)
    sizes = [
        {name: tuple(weight.shape) for name, weight in network.named_parameters() if "lora" not in name}
        for network in (real.decoder.base_model.model, fake)
    ]
    assert {name.replace(".base_layer", ""): size for name, size in sizes[0].items()} == sizes[1]
    layer = sum(math.prod(size) for name, size in sizes[1].items() if ".layers.0." in name and len(size) == 2)
    assert layer == shape.linear
    assert sizes[1]["model.embed_tokens.weight"] == (shape.vocabulary, shape.hidden)
    lora = sum(weight.numel() for name, weight in real.named_parameters() if "lora" in name)
    assert lora == shape.lora * 2


# -- work


def benchmark(**recipe: object) -> Benchmark:
    """Two tracks: one of two tasks, one of a single task whose clips have several references."""

    def task(name: str, metric: str, **more: object) -> dict[str, Any]:
        split = {"key": ["label"], "prompt": "What?"}
        train, test = {"shards": [f"{name}-train.tar"]} | split, {"shards": [f"{name}-test.tar"]} | split
        return {"name": name, "title": name, "domain": "sound", "metric": metric, "train": train, "test": test} | more

    tracks = {
        "A": {"title": "A", "tasks": [task("one", "Accuracy"), task("two", "mAP", num_classes=9)]},
        "B": {"title": "B", "tasks": [task("three", "iWER")]},
    }
    values = lalm.tiny_recipe(steps=30, batch_size=4, **recipe).model_dump()
    about = {"name": "tiny", "title": "Tiny", "description": "", "whole_protocol": False}
    return Benchmark.model_validate(about | {"recipe": values, "tracks": tracks})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the data of `benchmark`."""
    home = Home(root=tmp_path)
    data = home.data / "tiny"
    data.mkdir(parents=True)
    for name in ("one", "two", "three"):
        for split, times in (("train", 2), ("test", 1)):
            durations = DURATIONS_S * times
            labels = [
                ["a b", "c"] if name == "three" and index == 0 else f"w{index}" for index in range(len(durations))
            ]
            write_tones(data / f"{name}-{split}.tar", durations, [{"label": label} for label in labels])
    return home


def work_of(home: Home, plan: Benchmark, track: str = "A", features: Features = FOUND) -> Workload:
    part = plan.part(track, Part.PUBLIC)
    return workload(track, part, part.recipe.steps, data=home.data / "tiny", features=features, count_tokens=roughly)


class Constant:
    """An encoder in this process, with the frames that FOUND says."""

    output_dim = FOUND.output_dim
    attribute = "Constant"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Frames]:
        self.calls.append(len(clips))
        return [noise(max(1, round(len(clip) / 16_000 * FOUND.frames_per_s))) for clip in clips]


def test_sizes_are_counted(home: Home) -> None:
    """Clips, hours and pairs are those of the shards; a clip with two references is one clip and two pairs."""
    one, two = work_of(home, benchmark()).tasks
    (three,) = work_of(home, benchmark(), "B").tasks
    for size in (one, two, three):
        assert size.train is not None
        assert size.test is not None
        assert (size.train.clips, size.test.clips) == (12, 6)
        assert size.test.hours == pytest.approx(sum(DURATIONS_S) / 3600)
    assert (one.pairs, three.pairs) == (6, 7)


@pytest.mark.parametrize("cache_bytes", [0, 2_500, 10_000_000])
def test_the_cache_is_filled_as_training_fills_it(home: Home, tmp_path: Path, cache_bytes: int) -> None:
    """Bytes that have room, and which visits encode again, are those of the real feature store."""
    plan = benchmark(feature_cache_gb=cache_bytes / 1e9)
    work = work_of(home, plan)
    encoder = Constant()
    store = FeatureStore(
        data=home.data / "tiny", encoder=encoder, plan=work.training_calls, path=tmp_path / "f", max_bytes=cache_bytes
    )
    with store:
        store.fill(lambda *_: None)
        assert store._end == work.kept_bytes
        kept = set(store._places)
    assert work.cache_bytes is not None
    assert work.visited is not None
    assert (work.kept_bytes == work.cache_bytes) == (cache_bytes == 10_000_000)
    whole = {excerpt.key for call in work.training_calls for excerpt in call}
    assert work.visited.clips == len(whole) == 24
    missed = {excerpt.key for call in work.repeated_calls for excerpt in call}
    assert missed | kept == whole
    if cache_bytes == 0:
        assert len(work.repeated_calls) == plan.recipe.steps * plan.recipe.batch_size


def test_answers_are_planned_as_they_are_asked(home: Home) -> None:
    """Clips, their frames and the encoder's calls are those of the real answering."""
    plan, model = benchmark(decoder_layers=1), lalm.build(lalm.tiny_recipe()).eval()
    work = work_of(home, plan, "B")
    task = plan.track("B").active_tasks[0]
    clips = scored_clips(home.data / "tiny", task.test.shards, task.test.key)
    encoder, done = Constant(), list[int]()
    answer(
        MergedDecoder(model, plan.recipe), encoder, clips, data=home.data / "tiny", prompt="What?", max_new_tokens=1,
        recipe=plan.recipe,
        batch_invariant=True, on_progress=done.append,
    )  # fmt: skip
    assert [len(chunk.frames) for chunk in work.chunks] == [len(done)]
    assert [len(call) for call in work.test_calls] == encoder.calls
    assert sum(sum(chunk.frames) for chunk in work.chunks) == sum(FOUND.frames_per_s * each for each in DURATIONS_S)
    assert [chunk.answers for chunk in work.chunks] == [(2,) * 6]
    assert {chunk.cap for chunk in work.chunks} == {150}


def test_batches_are_padded_training_batches(home: Home) -> None:
    """As many as there are steps, each of the recipe's size, of rows whose frames are those of the excerpts."""
    work = work_of(home, benchmark())
    assert len(work.batches) == work.steps == 30
    assert {len(batch) for batch in work.batches} == {4}
    frames = {round(each * FOUND.frames_per_s) for each in DURATIONS_S}
    assert {row[0] for batch in work.batches for row in batch} == frames
    assert {row[1:] for batch in work.batches for row in batch} <= {(2, 2), (2, 3)}


# -- time


def test_a_rate_is_found_again() -> None:
    """Overhead and slope come out of exact measurements, whatever their size; what is noise widens the spread."""
    points = [((1.0, flops), 0.03 + 2e-12 * flops) for flops in (1e9, 1e10, 1e11, 1e12)]
    rate = fit(points)
    assert rate.seconds == pytest.approx((0.03, 2e-12))
    assert rate.spread == Span(low=1 / 1.15, expected=1.0, high=1.15)
    noisy = fit(
        [(amounts, seconds * (2.0 if index % 2 else 0.5)) for index, (amounts, seconds) in enumerate(points * 5)]
    )
    assert noisy.seconds == pytest.approx([1.25 * 0.03, 1.25 * 2e-12], rel=0.7)
    assert noisy.spread.low < 0.7
    assert noisy.spread.high > 1.4


def test_no_part_of_a_rate_is_negative() -> None:
    """Times that shrink with size, by accident, must not make a large benchmark cost nothing."""
    rate = fit([((1.0, 1.0), 2.0), ((1.0, 10.0), 1.0)])
    assert min(rate.seconds) >= 0
    assert rate.of(1, 1e6) > 0


def rates(**changes: object) -> Rates:
    """A machine that does 10^12 operations a second in training and 5 x 10^11 in reading, and so on."""
    fields: dict[str, Any] = {
        "random_decoder": False,
        "load_s": 3.0,
        "sandbox_s": 2.0,
        "steps": tuple(Step(flops=flops, seconds=flops * 1e-12) for flops in (1e9, 1e10, 1e11)),
        "prefills": tuple(Step(flops=flops, seconds=flops * 2e-12) for flops in (1e9, 1e10)),
        "tokens": tuple(
            Token(rows=rows, length=length, seconds=0.01 + 0.002 * rows + 1e-6 * rows * length)
            for rows, length in ((2, 24), (64, 24), (30, 500), (4, 90))
        ),
        "calls": tuple(Call(audio_s=audio, seconds=0.1 + 0.05 * audio) for audio in (1.0, 3.0, 9.0)),
        "scorings": (
            Scoring(metric=MetricName.ACCURACY, load_s=0.0, pair_s=1e-3),
            Scoring(metric=MetricName.MAP, load_s=0.5, pair_s=1e-3),
            Scoring(metric=MetricName.IWER, load_s=0.5, pair_s=1e-3),
        ),
    }
    return Rates(measured=(Measured.model_validate(fields | changes),) * 2)


def test_stages_are_work_times_rates(home: Home) -> None:
    """Every stage of a part, recomputed by hand from its batches, calls, chunks and pairs."""
    plan = benchmark()
    work = work_of(home, plan)
    found = forecast(work, SHAPE, FOUND, rates())
    seconds = {stage: span.expected for stage, span in found.seconds.items() if span is not None}
    assert set(seconds) == {Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE, Stage.CHECK}
    assert seconds[Stage.LOAD] == pytest.approx(5.0)
    flops = sum(SHAPE.training_step(batch, 8) for batch in work.batches)
    assert seconds[Stage.TRAIN] == pytest.approx(flops * 1e-12)
    heard = 2 * 2 * sum(DURATIONS_S)  # two tasks of twice these clips, all of which 120 pairs visit
    assert seconds[Stage.ENCODE] == pytest.approx(0.1 * len(work.training_calls) + 0.05 * heard)
    asked = 0.1 * len(work.test_calls) + 0.05 * 2 * sum(DURATIONS_S)
    (first, second) = work.chunks
    for chunk in (first, second):  # answers of two tokens: one after the first
        asked += 2e-12 * SHAPE.prefill(6, chunk.length, 8) + 0.01 + 6 * 0.002 + 1e-6 * 6 * chunk.length
    assert seconds[Stage.GENERATE] == pytest.approx(asked)
    assert seconds[Stage.SCORE] == pytest.approx(12 * 1e-3 + 0.5)
    assert found.total.expected == pytest.approx(sum(seconds.values()))
    assert found.unknown == ()
    for span in found.seconds.values():
        assert span is not None
        assert span.low <= span.expected <= span.high
    generate = found.seconds[Stage.GENERATE]
    assert generate is not None
    assert generate.high > 1.5 * generate.expected, "one answer of each batch may go on to its cap of 150"


def test_what_cannot_be_known_is_not_added_up(home: Home) -> None:
    """Without an encoder its stages, and without a metric's models the scoring, are unknown, not nothing."""
    work = work_of(home, benchmark())
    deaf = forecast(work, SHAPE, FOUND, rates(calls=(), sandbox_s=None, scorings=()))
    assert deaf.unknown == (Stage.ENCODE, Stage.GENERATE, Stage.SCORE, Stage.CHECK)
    known = [span for span in deaf.seconds.values() if span is not None]
    assert deaf.total.expected == pytest.approx(sum(span.expected for span in known))
    assert forecast(work, SHAPE, FOUND, None).total.expected == 0
    assert len(forecast(work, SHAPE, FOUND, None).unknown) == 6


def whole(home: Home, **changes: object) -> Estimate:
    """An estimate of both tracks from given rates."""
    plan = benchmark()
    works = [work_of(home, plan, track) for track in ("A", "B")]
    forecasts = tuple(forecast(work, SHAPE, FOUND, rates()) for work in works)
    fields: dict[str, Any] = {
        "benchmark": "tiny", "device": "cpu", "workers": 2, "threads": 1, "features": FOUND, "with_encoder": True,
        "forecasts": forecasts, "measured": 2, "audio_hour": rates().audio_hour, "assumptions": ("nothing",),
    }  # fmt: skip
    return Estimate(**(fields | changes))


def test_workers_share_jobs_but_no_job_is_shared(home: Home) -> None:
    """One submission takes as long as its longest track; many take their work divided by the workers."""
    found = whole(home)
    longest = max(each.total.expected for each in found.forecasts)
    assert found.wall(1).expected == pytest.approx(longest)
    assert found.wall(40).expected == pytest.approx(40 * found.work.expected / 2)
    assert whole(home, workers=1).wall(3).expected == pytest.approx(3 * found.work.expected)
    assert found.wall(7).low < found.wall(7).expected < found.wall(7).high


# -- measuring


@pytest.mark.dear(day=0)
def test_a_minute_is_measured_in_processes_of_their_own(home: Home) -> None:
    """Processes at the same time train, answer, encode in a sandbox's process, score, and say how long it took."""
    processes = effort.count("processes that measure at the same time", short=1, long=2)
    recipe = Recipe.model_validate(lalm.tiny_recipe().model_dump() | {"threads": 1})
    data = home.data / "tiny"
    clips = scored_clips(data, ["one-test.tar"], ["label"])
    work = work_of(home, benchmark())
    trial = Trial(
        recipe=recipe,
        feature_dim=8,
        threads=1,
        cpu=True,
        batches=((((4, 2, 2),) * 2), (((30, 2, 2),) * 2)),
        chunks=((2, 8), (4, 30)),
        encoder=EncoderTrial(
            tree=EXAMPLES / "logmel",
            source=EncoderSource(root=".", module="logmel_encoder.py", attribute="LogMelEncoder"),
            output_dim=320,
            max_frames=1_000,
            sandbox=SandboxName.NONE,
            service=Service(),
            home=home.root,
            data=data,
            calls=work.test_calls,
        ),
        train_s=600.0,
        generate_s=600.0,
        encode_s=600.0,
        metrics=(
            MetricTrial(
                metric=MetricName.IWER,
                num_classes=None,
                pairs=tuple(Pair(clip=clip.id, reference="a b", candidate="a c") for clip in clips),
            ),
        ),
    )
    found = Crew(devices=(), workers=2, cores=2).measure(trial, processes)
    assert len(found) == processes
    for each in found:
        assert not each.random_decoder
        assert len(each.steps) == 6, "each batch three times, after one to warm up"
        assert len(each.prefills) == len(each.tokens) == 2
        assert len(each.calls) == len(work.test_calls) - 1
        assert {call.audio_s for call in each.calls} <= {sum(e.duration_s for e in call) for call in work.test_calls}
        assert [scoring.metric for scoring in each.scorings] == [MetricName.IWER]
        assert each.sandbox_s is not None
        assert min(each.load_s, each.sandbox_s, *(step.seconds for step in each.steps)) > 0
    known = forecast(work, smollm2_135m(1, 8), FOUND, Rates(measured=tuple(found)))
    assert Stage.TRAIN not in known.unknown


def test_a_process_that_fails_is_told_of() -> None:
    """Measuring that ends badly gives its last word and the way around, not numbers."""
    trial = Trial(recipe=Recipe(), feature_dim=1, threads=1, cpu=True, batches=(), chunks=(), encoder=None, metrics=())
    with pytest.raises(InfraError, match=r"exit status 3: out of luck; .*--no-measure"):
        _ask(trial, {}, [sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])


# -- the whole


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Type `ranker estimate`; what it said."""

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), "estimate", *arguments])
        said = "".join(capsys.readouterr())
        assert (left.value.code or 0) == code, said
        return said

    return typed


def test_the_challenge_without_its_data(run: Callable[..., str]) -> None:
    """Nothing is invented: sizes are null, training has a range, and every assumption is told."""
    found = json.loads(run("--benchmark", "challenge", "--no-measure", "--json"))
    assert [(part["track"], part["part"], part["steps"]) for part in found["parts"]] == [
        ("A", "public", 100_000),
        ("B", "public", 100_000),
    ]
    for part in found["parts"]:
        assert part["visited"] is part["feature_cache_bytes"] is part["answering_flops"] is part["total_s"] is None
        assert {task["train"] for task in part["tasks"]} == {None}
        flops = part["training_flops"]
        assert flops["low"] < flops["expected"] < flops["high"]
        # 4 rows of 10 s at 50 frames/s and 20 tokens of text, 4 operations per number, step and token, at least.
        assert flops["expected"] > 100_000 * 4 * 520 * 4 * 106e6
    assert len(found["parts"][0]["tasks"]) == 15
    assert found["wall_s"] is found["submission_s"] is None
    assert any("are not known" in each and "ranker data fetch challenge" in each for each in found["assumptions"])
    assert any("768 numbers" in each for each in found["assumptions"])
    said = run("--benchmark", "challenge", "--track", "B", "--no-measure")
    assert "unknown until fetched" in said
    assert "track A" not in said


def test_an_estimate_is_shown_with_a_bar_per_stage(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has each stage with its time and range, the longest bar is the longest stage's, and totals follow."""
    from ranker.cli.estimate import _estimate
    from ranker.cli.options import out

    out.print(_estimate(whole(home), 3))
    said = capsys.readouterr().out
    stages = {line.split()[0]: line.count("█") for line in said.splitlines() if " to " in line and line.split()}
    assert {"loading", "encoding", "training", "answering", "scoring", "confirming", "together"} <= set(stages)
    assert max(stages, key=lambda name: stages[name]) == "loading"
    assert "3 submissions on 2 workers" in said
    assert "an hour of audio takes 3.6 min" in said, "360 calls of 0.1 s, and 0.05 s a second"
    assert json.loads(json.dumps(to_json(whole(home), 3)))["submissions"] == 3


def test_data_alone_is_enough(home: Home, run: Callable[..., str]) -> None:
    """With data and without an encoder, sizes and FLOPs are exact; a benchmark of the home's own is found."""
    (home.root / "configs").mkdir()
    (home.root / "configs" / "tiny.yaml").write_text(benchmark().model_dump_json(), encoding="utf-8")
    found = json.loads(run("--benchmark", "tiny", "--no-measure", "--json"))
    assert [part["visited"]["clips"] for part in found["parts"]] == [24, 12]
    assert found["parts"][0]["feature_cache_bytes"] == 4 * 768 * sum(round(each * 50) * 4 for each in DURATIONS_S)
    assert found["parts"][0]["training_flops"]["low"] == found["parts"][0]["training_flops"]["high"]


def test_wrong_usage_is_one_sentence(run: Callable[..., str]) -> None:
    """A track or a submission that is not there, a count of none."""
    assert "has no track 'Z'" in run("--benchmark", "mini", "--track", "Z", "--no-measure", code=2)
    assert "`ranker ingest FILE.zip` begins" in run("--benchmark", "mini", "--submission", "x", "--no-measure", code=4)
    assert "count" in run("--count", "0", code=2)


def test_times_are_told_in_the_unit_that_fits() -> None:
    """Seconds, minutes, hours and days."""
    found = [duration(seconds) for seconds in (0.04, 75.0, 600.0, 7_200.0, 400_000.0)]
    assert found == ["0.0 s", "75.0 s", "10.0 min", "2.0 h", "4.6 days"]
