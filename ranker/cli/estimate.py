"""`ranker estimate`: what a submission costs, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import (
    BenchmarkOption,
    HiddenOption,
    JsonFlag,
    SandboxOption,
    TrackOption,
    err,
    out,
    print_json,
    warn_without_sandbox,
)
from ranker.types import Stage

if TYPE_CHECKING:
    from ranker.estimate import Estimate, Forecast, Span
    from ranker.estimate.workload import Amount, TaskSize

UNKNOWN = "unknown until fetched"
_BAR = 20
_STAGES = {
    Stage.LOAD: "loading",
    Stage.ENCODE: "encoding",
    Stage.TRAIN: "training",
    Stage.GENERATE: "answering",
    Stage.SCORE: "scoring",
    Stage.CHECK: "confirming",
}


def estimate(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    submission: Annotated[
        str | None,
        typer.Option("--submission", metavar="ID", help="Whose encoder: its features and, measured, its time."),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="For so many submissions.")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure for about a minute how long things take here.")
    ] = True,
    sandbox: SandboxOption = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a submission costs: clips, hours, bytes, FLOPs, time.

    The time is forecast from a minute of measuring on this machine, with a range. Nothing is queued or kept.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if measure and submission is not None:
        warn_without_sandbox(service.sandbox(sandbox))
    if measure and err.is_terminal:
        err.print("measuring for about a minute ...")
    found = service.estimate(
        benchmark, track, submission=submission, sandbox=sandbox, submissions=count, measure=measure
    )
    if as_json:
        print_json(services.estimate_json(found, count))
    else:
        out.print(_estimate(found, count))


def _estimate(value: Estimate, count: int) -> RenderableType:
    parts: list[RenderableType] = [_head(value)]
    for each in value.forecasts:
        parts.append(_sizes(each))
        if value.measured:
            parts.append(_times(each))
    if value.audio_hour is not None:
        hour = value.audio_hour
        parts.append(Text(f" this encoder: an hour of audio takes {duration(hour.expected)} ({_range(hour)})\n"))
    if value.measured:
        parts.append(_whole(value, count))
    if value.assumptions:
        parts.append(Text("\nassumed:\n" + "\n".join(f"  · {reason}" for reason in value.assumptions)))
    return Group(*parts)


def _head(value: Estimate) -> Text:
    own = "of this encoder" if value.with_encoder else "assumed"
    found = value.features
    return Text(
        f"{value.benchmark} on {value.device}: {value.workers} workers of {value.threads} threads; "
        f"features ({own}): {found.output_dim}-d, {found.frames_per_s:g} frames/s"
    )


def _sizes(value: Forecast) -> RenderableType:
    work = value.workload
    table = Table(box=box.SIMPLE_HEAD, title=f"track {work.track}, {work.part} part", title_justify="left")
    table.add_column("task")
    for name in ("train clips", "hours", "test clips", "hours", "pairs"):
        table.add_column(name, justify="right")
    for task in work.tasks:
        table.add_row(Text(task.name), *_amount(task.train), *_amount(task.test), _number(task.pairs))
    if len(work.tasks) > 1:
        table.add_row("all", *_sum(work.tasks, "train"), *_sum(work.tasks, "test"), "", style="bold")
    visited = UNKNOWN
    if work.visited is not None:
        visited = f"{work.visited.clips:,} different excerpts, {work.visited.hours:.2f} h"
    cache = f"{UNKNOWN}; room for {work.recipe.feature_cache_gb:g} GB (feature_cache_gb)"
    if work.cache_bytes is not None and work.kept_bytes is not None:
        cache = decimal(work.cache_bytes)
        if work.kept_bytes < work.cache_bytes:
            cache += f", of which {decimal(work.kept_bytes)} have room (feature_cache_gb); the rest is encoded again"
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    facts.add_row("training", f"{work.steps:,} steps of {work.recipe.batch_size}, which hear {visited}")
    facts.add_row("feature cache", cache)
    facts.add_row("training FLOPs", _flops(value.training_flops))
    facts.add_row("answering FLOPs", UNKNOWN if value.answering_flops is None else _flops(value.answering_flops))
    return Group(table, facts)


def _times(value: Forecast) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("stage")
    table.add_column("expected", justify="right", no_wrap=True)
    table.add_column("range", justify="right", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max((span.expected for span in value.seconds.values() if span is not None), default=0.0)
    for stage, span in value.seconds.items():
        if span is None:
            table.add_row(_STAGES[stage], Text("unknown", style="yellow"), "", "")
        else:
            table.add_row(_STAGES[stage], duration(span.expected), _range(span), _bar(span.expected, longest))
    total = value.total
    name = "what is known" if value.unknown else "together"
    table.add_row(name, duration(total.expected), _range(total), "", style="bold")
    return table


def _whole(value: Estimate, count: int) -> RenderableType:
    known = "known of " if any(each.unknown for each in value.forecasts) else ""
    wall = value.wall(count)
    lines = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    name = f"{known}one submission, job after job"
    lines.add_row(name, duration(value.work.expected), Text(_range(value.work), style="dim"))
    name = f"{known}{count} submission{'s' * (count > 1)} on {value.workers} workers"
    lines.add_row(name, duration(wall.expected), Text(_range(wall), style="dim"))
    return lines


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for limit, size, unit in ((90.0, 1.0, "s"), (5400.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def _bar(part: float, longest: float) -> Text:
    eighths = round(8 * _BAR * part / longest) if longest > 0 else 0
    full, rest = divmod(eighths, 8)
    return Text("█" * full + " ▏▎▍▌▋▊▉"[rest].strip(), style="cyan")


def _range(span: Span) -> str:
    return f"{duration(span.low)} to {duration(span.high)}"


def _flops(span: Span) -> str:
    if span.low == span.high:
        return f"{span.expected:.2e}"
    return f"{span.expected:.2e} ({span.low:.2e} to {span.high:.2e})"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _amount(value: Amount | None) -> tuple[str, str]:
    return ("?", "?") if value is None else (f"{value.clips:,}", f"{value.hours:.2f}")


def _sum(tasks: Sequence[TaskSize], split: str) -> tuple[str, str]:
    """Of the tasks that have such a split, if all their sizes are known."""
    found = [getattr(task, split) for task in tasks]
    if None in found:
        return "", ""
    return f"{sum(each.clips for each in found):,}", f"{sum(each.hours for each in found):.2f}"
