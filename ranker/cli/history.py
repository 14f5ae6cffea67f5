"""What became of a job's attempts, and how far scores lie apart with several seeds, for a terminal."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ranker.db.models import Job
from ranker.seeds import Spread
from ranker.types import Ending, Part

if TYPE_CHECKING:
    from ranker.overview import SubmissionView


def attempts(job: Job) -> list[RenderableType]:
    """A line for each attempt, where there is more to say than that one did it."""
    if len(job.attempts) == 1 and job.attempts[0].ending in {None, Ending.SUCCEEDED}:
        return []
    table = Table(box=None, padding=(0, 2, 0, 2))
    for name in ("attempt", "begun (UTC)", "took", "ended"):
        table.add_column(name, no_wrap=True)
    for name in ("on", "why"):
        table.add_column(name, overflow="fold")
    for each in job.attempts:
        ended = "runs" if each.ending is None else each.ending + (f" ({each.fault})" if each.fault else "")
        took = "" if each.ended_at is None else f"{(each.ended_at - each.started_at).total_seconds():.0f} s"
        table.add_row(
            str(each.number),
            f"{each.started_at:%Y-%m-%d %H:%M:%S}",
            took,
            ended,
            Text(each.worker.partition(":")[0]),
            Text("; ".join(each.reasons)),
        )
    return [table] if job.attempts else []


def seeds(view: SubmissionView) -> list[RenderableType]:
    """Further seeds: which there are, and how far each task's scores lie apart."""
    if not view.further:
        return []
    lines = [
        f"  job {job.id}: {job.benchmark}, {job.where}, seed {job.seed}: {job.status}"
        + (f" ({job.fault})" if job.fault else "")
        for job in view.further
    ]
    parts: list[RenderableType] = [Text("\nfurther seeds, as evidence; the score is that of the first:")]
    parts.append(Text("\n".join(lines)))
    for where, found in groupby(view.spreads, key=_where):
        table = Table(box=None, padding=(0, 2, 0, 2))
        for name in ("task", "score", "seeds", "mean", "deviation", "lowest", "highest"):
            table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
        for each in found:
            figures = (each.mean, each.deviation, min(each.values), max(each.values))
            own, number = f"{each.values[0]:.3f}", str(len(each.values))
            table.add_row(each.task, own, number, *(f"{figure:.3f}" for figure in figures))
        parts += [Text(f"  {where}:"), table]
    return parts


def _where(spread: Spread) -> str:
    part = "" if spread.part is Part.PUBLIC else f", {spread.part} part"
    return f"{spread.benchmark}, track {spread.track}{part}, condition {spread.condition[:8]}"
