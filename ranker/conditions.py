"""Under which condition a track is measured here and now, and in which words it differs from the challenge's
protocol.
"""

from __future__ import annotations

from ranker.config import Benchmark, Track
from ranker.data.store import data_digest
from ranker.errors import UsageError
from ranker.home import Home
from ranker.lalm.decoder import DecoderFiles, locate
from ranker.metrics.caption import caption_models
from ranker.types import Condition, MetricName, digest_json


def condition_for(
    home: Home, benchmark: Benchmark, track: str, *, limit_steps: int | None, sandboxed: bool, device: str
) -> Condition:
    """The condition of every evaluation of this track on this machine.

    `device` is "cpu" or the GPU's model name. Raises MissingError where data, decoder or metric models are not there.
    """
    if limit_steps is not None and limit_steps < 1:
        raise UsageError(f"--limit-steps must be at least 1, not {limit_steps}")
    recipe, files, active = benchmark.recipe, locate(benchmark.recipe.decoder), benchmark.track(track)
    layers = recipe.decoder_layers or files.layers
    steps = min(limit_steps or recipe.steps, recipe.steps)
    caption_tasks = [task.name for task in active.active_tasks if task.metric in {MetricName.FENSE, MetricName.DATE}]
    reasons = _reasons(benchmark, files, layers=layers, steps=steps, captions=bool(caption_tasks), sandboxed=sandboxed)
    return Condition(
        benchmark=benchmark.name,
        track=track,
        measurement=benchmark.measurement_digest(track),
        data=data_digest(home.data / benchmark.name, shard_patterns(active)),
        decoder=files.digest,
        decoder_layers=layers,
        metric_models=digest_json([caption_models().name, caption_models().digest]) if caption_tasks else "",
        steps=steps,
        precision=recipe.precision,
        device=device,
        sandboxed=sandboxed,
        demonstration=tuple(reasons),
    )


def shard_patterns(track: Track) -> list[str]:
    """All shards that a track's active tasks train and test on, as the benchmark names them."""
    splits = [split for task in track.active_tasks for split in (task.train, task.test) if split is not None]
    return [pattern for split in splits for pattern in split.shards]


def _reasons(
    benchmark: Benchmark, files: DecoderFiles, *, layers: int, steps: int, captions: bool, sandboxed: bool
) -> list[str]:
    reasons = []
    if not benchmark.whole_protocol:
        reasons.append(f"the benchmark is “{benchmark.title}”, not the challenge's tasks and data")
    if files.stand_in is not None:
        reasons.append(files.stand_in)
    if layers < files.layers:
        reasons.append(f"only the first {layers} of the decoder's {files.layers} layers are used")
    if captions:
        reasons.append(f"captions are scored by FENSE[{caption_models().name}], a stand-in for FENSE")
    if steps < benchmark.recipe.steps:
        reasons.append(f"training stopped after {steps} of {benchmark.recipe.steps} steps (--limit-steps)")
    if not sandboxed:
        reasons.append("the encoders ran without a sandbox (--sandbox none)")
    return reasons
