"""`ranker work`: a worker that takes whatever is queued, from whichever terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from ranker import service as services
from ranker.cli.options import (
    AddressOption,
    ExecutorOption,
    HiddenOption,
    SandboxOption,
    WorkersOption,
    err,
    warn_without_sandbox,
)
from ranker.cli.progress import JobDisplay
from ranker.types import ExecutorName


def work(
    context: typer.Context,
    until_empty: Annotated[
        bool, typer.Option("--until-empty", help="End when no job waits or runs; else wait for more.")
    ] = False,
    hidden: HiddenOption = None,
    sandbox: SandboxOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
) -> None:
    """Do whatever is queued, now and later.

    `ranker evaluate --queue`, `ranker rerun` and `ranker retry` queue jobs for it from any other terminal. Ctrl-C gives
    running jobs back; killed, it loses nothing either: the same command goes on from the last checkpoints. On a
    cluster it does evaluations only, with --until-empty, and ends with a sentence if one fails by our fault.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    warn_without_sandbox(service.sandbox(sandbox))
    with service.open() as engine, JobDisplay(engine, None, err) as display:
        placing = services.Placing(executor=executor, address=address, workers=workers)
        service.work(sandbox=sandbox, placing=placing, until_empty=until_empty, on_tick=display.tick)
