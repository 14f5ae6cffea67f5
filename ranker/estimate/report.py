"""An estimate as plain values, for `ranker estimate --json`. None: unknown until data is fetched, or not measured."""

from __future__ import annotations

from typing import Any

from ranker.estimate.forecast import Forecast, Span
from ranker.estimate.plan import Estimate
from ranker.estimate.workload import Amount, TaskSize


def to_json(value: Estimate, submissions: int) -> dict[str, Any]:
    """Seconds are wall-clock seconds of one job, each as low, expected, high; hours are hours of audio."""
    measured = value.measured > 0
    return {
        "benchmark": value.benchmark,
        "device": value.device,
        "workers": value.workers,
        "threads": value.threads,
        "features": {"output_dim": value.features.output_dim, "frames_per_s": value.features.frames_per_s},
        "with_encoder": value.with_encoder,
        "measured_by": value.measured,
        "audio_hour_s": _span(value.audio_hour),
        "parts": [_part(each) for each in value.forecasts],
        "submission_s": _span(value.work) if measured else None,
        "submissions": submissions,
        "wall_s": _span(value.wall(submissions)) if measured else None,
        "unknown": sorted({stage for each in value.forecasts for stage in each.unknown}),
        "assumptions": list(value.assumptions),
    }


def _part(value: Forecast) -> dict[str, Any]:
    work = value.workload
    return {
        "track": work.track,
        "part": work.part,
        "steps": work.steps,
        "tasks": [_task(task) for task in work.tasks],
        "visited": _amount(work.visited),
        "feature_cache_bytes": work.cache_bytes,
        "kept_bytes": work.kept_bytes,
        "training_flops": _span(value.training_flops),
        "answering_flops": _span(value.answering_flops),
        "seconds": {stage: _span(span) for stage, span in value.seconds.items()},
        "total_s": _span(value.total) if any(value.seconds.values()) else None,
    }


def _task(task: TaskSize) -> dict[str, Any]:
    return {
        "name": task.name,
        "metric": task.metric,
        "train": _amount(task.train),
        "test": _amount(task.test),
        "pairs": task.pairs,
    }


def _amount(value: Amount | None) -> dict[str, float] | None:
    return None if value is None else {"clips": value.clips, "hours": round(value.hours, 4)}


def _span(value: Span | None) -> dict[str, float] | None:
    return None if value is None else {"low": value.low, "expected": value.expected, "high": value.high}
