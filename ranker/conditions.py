"""Under which condition a track is measured here and now, and in which words it differs from the challenge's
protocol.
"""

from __future__ import annotations

from ranker.config import Benchmark, TrackPart
from ranker.data.store import data_digest
from ranker.errors import ConfigError, UsageError
from ranker.home import Home
from ranker.lalm.decoder import DecoderFiles, locate
from ranker.metrics import CaptionModels, caption_models, computed_name
from ranker.types import Condition, MetricModels, Part, digest_json


def condition_for(
    home: Home,
    benchmark: Benchmark,
    track: str,
    *,
    limit_steps: int | None,
    sandboxed: bool,
    device: str,
    part: Part = Part.PUBLIC,
    cuda_graphs: bool = False,
) -> Condition:
    """The condition of every evaluation of this part of this track on this machine.

    `device` is "cpu" or the GPU's model name; `cuda_graphs` is for GPUs only. Raises MissingError where data, decoder
    or metric models are not there, ConfigError where the part has nothing to be trained on.
    """
    if limit_steps is not None and limit_steps < 1:
        raise UsageError(f"--limit-steps must be at least 1, not {limit_steps}")
    model = benchmark.part(track, part)
    if not model.mixture.tasks:
        raise ConfigError(
            f"benchmark {benchmark.name}, track {track}: no task that its {part} part is trained on has a train split"
        )
    recipe, files = model.recipe, locate(benchmark.recipe.decoder)
    layers = recipe.decoder_layers or files.layers
    steps = benchmark.steps(track, part, limit_steps)
    models = models_of(model)
    reasons = _reasons(benchmark, model, files, layers=layers, steps=steps, sandboxed=sandboxed)
    return Condition(
        benchmark=benchmark.name,
        track=track,
        part=part,
        cuda_graphs=cuda_graphs and device != "cpu",
        measurement=benchmark.measurement_digest(track, part),
        data=data_of(home, benchmark, model),
        decoder=files.digest,
        decoder_layers=layers,
        metric_models="" if models is None else models.digest,
        steps=steps,
        precision=recipe.precision,
        device=device,
        sandboxed=sandboxed,
        demonstration=tuple(reasons),
    )


def data_of(home: Home, benchmark: Benchmark, part: TrackPart) -> str:
    """Digest of the shards that one part of a track trains and tests on. Raises MissingError."""
    tested = [pattern for task in part.tasks for pattern in task.test.shards]
    return data_digest(home.data / benchmark.name, [*_training_shards(part), *tested])


def models_of(part: TrackPart) -> CaptionModels | None:
    """The language models that a part's captions are scored with; None where it has none. Raises MissingError."""
    captions = any(task.metric.is_caption for task in part.tasks)
    return caption_models(part.recipe.metric_models) if captions else None


def training_key(home: Home, benchmark: Benchmark, track: str, part: Part) -> str:
    """Names all randomness of a training: digest of mixture, recipe and training data, and of nothing else.

    So the public part's batches and initial weights are the same with and without a hidden file, and the prompted part
    has those of the public one. Raises MissingError.
    """
    shards = _training_shards(benchmark.part(track, part))
    data = data_digest(home.data / benchmark.name, shards)
    return digest_json([benchmark.training_digest(track, part), data])


def _training_shards(part: TrackPart) -> list[str]:
    return [pattern for task in part.mixture.tasks if task.train is not None for pattern in task.train.shards]


def _reasons(
    benchmark: Benchmark,
    part: TrackPart,
    files: DecoderFiles,
    *,
    layers: int,
    steps: int,
    sandboxed: bool,
) -> list[str]:
    reasons, recipe = [], part.recipe
    if not benchmark.whole_protocol:
        reasons.append(f"the benchmark is “{benchmark.title}”, not the challenge's tasks and data")
    if files.stand_in is not None:
        reasons.append(files.stand_in)
    if layers < files.layers:
        reasons.append(f"only the first {layers} of the decoder's {files.layers} layers are used")
    captions = {task.metric for task in part.tasks if task.metric.is_caption}
    if recipe.metric_models is not MetricModels.REFERENCE:
        reasons += [
            f"captions are scored by {computed_name(metric, recipe.metric_models)}, a stand-in for {metric}"
            for metric in sorted(captions)
        ]
    if steps < recipe.steps:
        reasons.append(f"training stopped after {steps} of {recipe.steps} steps (--limit-steps)")
    if not sandboxed:
        reasons.append("the encoders ran without a sandbox (--sandbox none)")
    return reasons
