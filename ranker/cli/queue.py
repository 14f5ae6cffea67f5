"""`ranker cancel`, `retry`, `rerun`, `prioritize`, `pause`, `resume`: orders to the queue, also while workers run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel
from rich.text import Text

from ranker import service as services
from ranker.cli.options import (
    MOST,
    AddressOption,
    BenchmarkOption,
    ExecutorOption,
    HiddenOption,
    JsonFlag,
    SandboxOption,
    TrackOption,
    err,
    out,
    print_json,
)
from ranker.errors import UsageError
from ranker.types import ExecutorName

if TYPE_CHECKING:
    from ranker.db.models import Pause
    from ranker.orders import Change, Done

JobsArgument = Annotated[
    list[str],
    typer.Argument(metavar="ID|JOB", help="Submissions by id, its beginning or team; or jobs by number."),
]


def cancel(context: typer.Context, names: JobsArgument, as_json: JsonFlag = False) -> None:
    """Take jobs out of the queue; a running one stops within seconds.

    Of a submission: what waits or runs. By its number, also a job that failed by no fault of its team. Checkpoints
    stay: `ranker retry` goes on from the last one.
    """
    service: services.Ranker = context.obj
    _print(service.cancel(names), as_json=as_json)


def retry(
    context: typer.Context,
    names: JobsArgument,
    again: Annotated[
        bool, typer.Option("--again", help="Also jobs that failed by their team's own fault: same code, same result.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Queue failed or cancelled jobs again.

    They go on from the last checkpoint. `ranker work --until-empty`, or a worker that runs, does them.
    """
    service: services.Ranker = context.obj
    _print(service.retry(names, again=again), as_json=as_json)


def prioritize(
    context: typer.Context,
    names: JobsArgument,
    to: Annotated[
        int | None,
        typer.Option("--to", metavar="N", min=-1_000_000, max=1_000_000, help="The priority; jobs begin with 0."),
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Above all that wait; so it is without --to, too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let waiting jobs go before others: the highest priority first.

    No running job is stopped for it.
    """
    service: services.Ranker = context.obj
    if first and to is not None:
        raise UsageError("--to N and --first say different things; give one of them")
    _print(service.prioritize(names, to), as_json=as_json)


def rerun(
    context: typer.Context,
    submissions: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, their beginnings, or teams.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="N", min=1, help="The first N of each track's ranking, instead of ids."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", metavar="N", min=0, max=MOST, help="This seed; may be repeated.")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", metavar="K", min=0, max=1000, help="So many seeds, counted up from the recipe's own."),
    ] = 0,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    limit_steps: Annotated[
        int | None, typer.Option("--limit-steps", min=1, help="As the evaluation was limited, if it was.")
    ] = None,
    hidden: HiddenOption = None,
    sandbox: SandboxOption = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Queue finished evaluations with further seeds, as evidence.

    The board goes on showing the recipe's own seed; `ranker show` and `ranker results` show how far seeds spread.
    `ranker work --until-empty`, or a worker that runs, does what is queued, after all that waits with a priority of 0.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if bool(submissions) == (top is not None):
        raise UsageError("say which submissions: ids or teams, or --top N")
    if not seed and not seeds:
        raise UsageError("say which seeds: --seed N, or --seeds K for the first K after the recipe's own")
    done = service.rerun(
        submissions or [],
        services.Wanted(benchmark=benchmark, track=track, limit_steps=limit_steps, sandbox=sandbox),
        seeds=seed or [],
        number=seeds,
        top=top,
        placing=services.Placing(executor=executor, address=address),
    )
    _print(done, as_json=as_json)
    if done.changes and not as_json:
        command = "ranker work --until-empty"
        command += f" --executor {executor}" if executor is not ExecutorName.LOCAL else ""
        err.print(f"next: `{command}` does what waits; a worker that runs takes it by itself")


def pause(
    context: typer.Context,
    why: Annotated[
        str, typer.Option("--why", help="What `ranker status` and everybody who waits is told.")
    ] = "by hand",
    now: Annotated[
        bool, typer.Option("--now", help="Running evaluations stop at their next checkpoint, and wait as well.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Hand out no job until `ranker resume`.

    Running jobs end normally, unless --now is given. Ranker pauses by itself when a job fails by our own data or
    configuration, since every further one would fail too.
    """
    service: services.Ranker = context.obj
    found = service.pause(why, give_back=now)
    if as_json:
        print_json(services.pause_json(found))
        return
    out.print(pause_panel(found))
    err.print("undo: ranker resume")


def resume(context: typer.Context, hidden: HiddenOption = None, as_json: JsonFlag = False) -> None:
    """End the pause, and queue again what failed by our own data or configuration.

    A failed job that measures another configuration than the present one is left, and named.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    was = service.paused()
    done = service.resume()
    if as_json:
        print_json(done.to_json() | {"was": services.pause_json(was)})
        return
    out.print("the queue was not paused" if was is None else "the queue hands out jobs again")
    _print(done, as_json=False)


def print_pause(service: services.Ranker) -> None:
    """To standard error, above everything else: that the queue stands still, if it does."""
    found = service.paused()
    if found is not None:
        err.print(pause_panel(found))


def pause_panel(found: Pause) -> Panel:
    """Since when, by whom and why nothing is handed out, and what to do."""
    text = Text(found.why, no_wrap=False, overflow="fold")  # the console would cut lines
    asked = "; running evaluations stop at their next checkpoint" if found.give_back else ""
    text.append(f"\nsince {found.paused_at:%Y-%m-%d %H:%M:%S} UTC, by {found.paused_by}{asked}", style="dim")
    text.append("\n→ mend it, then `ranker resume`", style="italic")
    return Panel(text, title="THE QUEUE IS PAUSED: no job is handed out", border_style="red", expand=False)


def _print(done: Done, *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    for change in done.changes:
        out.print(Text(f"job {change.job}  {change.team}: {change.what}: {_became(change)}"))
    for each in done.left:
        err.print(Text(f"job {each.job} is left as it is: {each.why}"))
    for command in done.undo:
        err.print(Text(f"undo: {command}"))


def _became(change: Change) -> str:
    if change.priority != change.priority_before:
        return f"{change.after}, priority {change.priority} (was {change.priority_before})"
    return f"{change.after} (was {change.before})" if change.before not in {None, change.after} else str(change.after)
