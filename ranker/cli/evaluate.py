"""`ranker evaluate`: run what is missing for some submissions, or for all."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.ingest import run_checks
from ranker.cli.options import (
    AddressOption,
    BenchmarkOption,
    ExecutorOption,
    HiddenOption,
    SandboxOption,
    TrackOption,
    WorkersOption,
    err,
    warn_without_sandbox,
)
from ranker.cli.progress import JobDisplay
from ranker.cli.queue import print_pause
from ranker.errors import ParticipantError, UsageError
from ranker.types import ExecutorName


def evaluate(
    context: typer.Context,
    submissions: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, their beginnings, or teams.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every accepted submission that may be ranked.")] = False,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    limit_steps: Annotated[
        int | None, typer.Option("--limit-steps", min=1, help="Stop training early: a demonstration.")
    ] = None,
    hidden: HiddenOption = None,
    sandbox: SandboxOption = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    workers: WorkersOption = None,
    only_queue: Annotated[
        bool, typer.Option("--queue", help="Only queue it, for `ranker work` in another terminal.")
    ] = False,
) -> None:
    """Run what is missing for these submissions.

    One job per track: train, answer, score. Stopped or killed, the same command goes on from the last checkpoint.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if bool(submissions) == everyone:
        raise UsageError("say which submissions: ids or teams, or --all")
    warn_without_sandbox(service.sandbox(sandbox))
    wanted = services.Wanted(benchmark=benchmark, track=track, limit_steps=limit_steps, sandbox=sandbox)
    placing = services.Placing(executor=executor, address=address, workers=workers)
    if everyone and not only_queue:
        run_checks(service, list(service.queue_checks(None).values()), sandbox)
    queued = service.queue_evaluations(submissions, wanted, placing=placing)
    if queued.demonstration:
        err.print(tables.demonstration(queued.demonstration))
    if queued.left_out:
        err.print(tables.left_out(queued.left_out))
    if not queued.asked:
        err.print("no submission has been accepted yet: `ranker ingest FILE.zip` takes one in")
        return
    err.print(Text(f"{len(queued.job_ids)} of {len(queued.asked)} evaluations on {queued.benchmark} are to be done"))
    if only_queue:
        print_pause(service)
        err.print("they are queued: `ranker work` does them")
        return
    with service.open() as engine, JobDisplay(engine, queued.job_ids, err) as display:
        service.run(queued.job_ids, sandbox=sandbox, placing=placing, on_tick=display.tick)
    failures = [(view, view.failures_of(queued.asked)) for view in service.find(queued.submission_ids)]
    failures = [(view, reasons) for view, reasons in failures if reasons]
    for view, reasons in failures:
        err.print(Text(f"{view.submission.id}  {view.submission.team}: failed"))
        tables.print_reasons(err, reasons)
    if failures:
        raise typer.Exit(ParticipantError.exit_code)
