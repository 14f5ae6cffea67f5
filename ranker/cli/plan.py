"""`ranker plan`: when the queue will be empty, and what will not fit before a date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.estimate import duration
from ranker.cli.options import HiddenOption, JsonFlag, SandboxOption, err, out, print_json
from ranker.cli.queue import pause_panel
from ranker.journal import visible
from ranker.types import Basis, JobKind

if TYPE_CHECKING:
    from ranker.schedule.forecast import Before, Finish, Late, Line, Moments
    from ranker.service.planning import Schedule

Clock = Callable[[datetime], str]


def plan(
    context: typer.Context,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="DATE", help="Before when all shall be done: `2026-02-20T12:00 AoE`."),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", metavar="N", min=1, help="Say it for N jobs at a time, too: GPUs, or workers on CPUs."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Measure for a minute what has never finished here."),
    ] = True,
    sandbox: SandboxOption = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say when the queue will be empty, from what jobs took here, and what will not be done before a date.

    With the workers that run now, and with N of them; with a range, and how many would do it all. Changes nothing.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    found = service.schedule(until, gpus, measure=measure, sandbox=sandbox)
    if as_json:
        print_json(found.to_json())
        return
    if found.paused is not None:
        err.print(pause_panel(found.paused))
    out.print(_schedule(found))
    for remark in (*(each.words for each in found.mixtures), *found.remarks):
        err.print(Text.assemble(("note:", "bold yellow"), " ", visible(remark)))


def _schedule(found: Schedule) -> RenderableType:
    forecast = found.forecast
    if not forecast.waiting and not forecast.running:
        return Text("nothing waits or runs")

    def clock(moment: datetime) -> str:
        if found.deadline is not None:
            return f"{moment.astimezone(found.deadline.zone):%a %Y-%m-%d %H:%M} {found.deadline.zone_name}"
        return f"{moment.astimezone(UTC):%a %Y-%m-%d %H:%M} UTC"

    parts: list[RenderableType] = [_questions(forecast.lines)]
    now = "that run now" if found.at_work else "that this machine has room for (none runs now)"
    parts.append(_finishes(found, clock, now))
    if forecast.unknown:
        words = f"{_jobs(forecast.unknown)} of which nothing is known are taken to need no time: it will be later"
        parts.append(Text(words, style="yellow"))
    if forecast.overtaken:
        words = (
            f"{_jobs(forecast.overtaken)} of the ranking wait behind further seeds: `ranker prioritize` puts them first"
        )
        parts.append(Text(words, style="yellow"))
    if forecast.before is not None and found.deadline is not None:
        parts.append(_before(forecast.before, found.deadline.text, forecast.finish, clock))
    return Group(*parts)


def _questions(lines: tuple[Line, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (
        ("what", "left"),
        ("on", "left"),
        ("wait", "right"),
        ("run", "right"),
        ("one takes", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=name != "what")  # type: ignore[arg-type]
    table.add_column("known from")
    for line in lines:
        table.add_row(
            Text(line.question.words),
            Text(line.question.device),
            f"{line.waiting:,}",
            f"{line.running:,}",
            "unknown" if line.seconds is None else duration(line.seconds),
            Text(_basis(line), style="" if line.basis in {Basis.OWN, Basis.MEASURED} else "yellow"),
        )
    return table


def _basis(line: Line) -> str:
    finished = f"{line.finished:,} finished here"
    return {
        Basis.OWN: "the same submissions, with another seed",
        Basis.MEASURED: finished,
        Basis.KIN: f"{finished}, of an earlier configuration or other data",
        Basis.ESTIMATED: "an estimate: none has finished here",
        Basis.UNKNOWN: "nothing",
    }[line.basis]


def _finishes(found: Schedule, clock: Clock, now: str) -> Text:
    lines = []
    earliest = " not before" if found.forecast.unknown else ""
    for place, each in enumerate(filter(None, (found.forecast.finish, found.forecast.other))):
        workers = f"{each.workers} worker{'s' * (each.workers != 1)}"
        with_them = f"with the {workers} {now}" if place == 0 else f"with {workers}"
        if each.ranking is not None:
            lines.append(f"the ranking is complete{earliest} {_moments(each.ranking, clock)}, {with_them}")
        lines.append(f"the queue is empty{earliest} {_moments(each.empty, clock)}, {with_them}")
    return Text("\n".join(lines))


def _moments(moments: Moments, clock: Clock) -> str:
    return f"{clock(moments.likely)} ({clock(moments.low)} to {clock(moments.high)})"


def _before(before: Before, date: str, finish: Finish, clock: Clock) -> RenderableType:
    lost = [each for each in before.late if each.is_lost]
    unsure = [each for each in before.late if not each.is_lost]
    if not before.late:
        return Text(f"\nall {_jobs(before.fitting)} fit before {date}", style="green")
    parts: list[RenderableType] = [
        Text(f"\nbefore {date}, with {finish.workers} at a time: {_jobs(before.fitting)} fit, "
             f"{len(unsure):,} may not, {len(lost):,} will not")
    ]  # fmt: skip
    parts += _late(before.late, clock)
    if before.safe is None:
        parts.append(Text("no number of workers does it all: single jobs take longer than the time that is left"))
    else:
        likely = f"{before.likely:,} at a time would do it all, more likely than not; " if before.likely else ""
        parts.append(Text(f"{likely}{before.safe:,} would do it in 9 of 10 cases"))
    return Group(*parts)


def _late(late: tuple[Late, ...], clock: Clock) -> Iterator[Text]:
    """The jobs of a submission together, submissions in the order in which the queue comes to them."""
    groups: dict[str, list[Late]] = {}
    for each in late:
        groups.setdefault(each.task.submission, []).append(each)
    for submission, jobs in groups.items():
        yield Text(f"  {visible(jobs[0].task.team)} ({submission})")
        for each in jobs:
            task, chance = each.task, Text(f"{each.chance:.0%}", style="red" if each.is_lost else "yellow")
            seed = "" if task.question.kind is JobKind.CHECK else f", seed {task.seed}"
            words = f"    job {task.job}: {task.question.words}{seed}: likely done {clock(each.likely)}, in time in "
            yield Text.assemble(words, chance, " of cases")


def _jobs(number: int) -> str:
    return f"{number:,} job{'s' * (number != 1)}"
