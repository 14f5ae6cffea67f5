"""`ranker inbox`: the mailbox that submissions are sent to."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.ingest import code_of, print_taken, run_checks, taken_json
from ranker.cli.options import JsonFlag, SandboxOption, err, out, print_json, warn_without_sandbox
from ranker.errors import InfraError, UsageError
from ranker.types import LinkState, SandboxName

if TYPE_CHECKING:
    from ranker.intake.collect import Collected
    from ranker.service.intake import Shown


def inbox(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch/--once", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float | None,
        typer.Option("--every", metavar="SECONDS", min=1, help="With --watch; default: poll_s of imap."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be taken.")] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Leave the checks queued, for `ranker check` or `ranker evaluate`.")
    ] = False,
    sandbox: SandboxOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in what was mailed to the mailbox of configs/service.yaml (IMAP, always with TLS).

    A message is kept and recorded before it is marked, or moved, in the mailbox. The same again does no harm.
    """
    service: services.Ranker = context.obj
    if dry_run:
        if watch:
            raise UsageError("--dry-run looks once; leave out --watch")
        _list(service, as_json=as_json)
        return
    if not no_check:
        warn_without_sandbox(service.sandbox(sandbox))
    passed_over: set[tuple[int, int]] = set()
    code = 0
    while True:
        try:
            code = _look(service, passed_over, no_check=no_check, sandbox=sandbox, as_json=as_json, lines=watch)
        except InfraError as error:
            if not watch:
                raise
            err.print(Text(f"ranker: {error}"))
        if not watch:
            break
        time.sleep(every or service.imap.poll_s)
    if code:
        raise typer.Exit(code)


def _look(
    service: services.Ranker,
    passed_over: set[tuple[int, int]],
    *,
    no_check: bool,
    sandbox: SandboxName | None,
    as_json: bool,
    lines: bool,
) -> int:
    """Take in what waits, check it, tell of it; the exit code. What was taken before a failure is told of, too."""
    found: list[Collected] = []
    failure: InfraError | None = None
    try:
        _collect(service, passed_over, found)
    except InfraError as error:
        failure = error
    taken = [each for one in found for each in one.taken]
    jobs = [each.received.job_id for each in taken if each.received is not None and each.received.is_queued]
    if not no_check:
        run_checks(service, list(dict.fromkeys(jobs)), sandbox)
    shown = service.shown([each.received.submission.id for each in taken if each.received is not None])
    if as_json and (found or not lines):
        value = [_to_json(one, shown) for one in found]
        _print_line(value) if lines else print_json(value)
    elif not as_json and (found or not lines):
        _tell(found, shown, is_queued=no_check and bool(jobs))
        _to_decide(service)
    if failure is not None:
        raise failure
    return 1 if any(one.error is not None for one in found) else code_of(taken, shown)


def _tell(found: Sequence[Collected], shown: Mapping[str, Shown], *, is_queued: bool) -> None:
    if not found:
        out.print("nothing new in the mailbox")
    print_taken([each for one in found for each in one.taken], shown, is_queued=is_queued)
    for one in found:
        if one.error is not None:
            what = f"{one.waiting.sender or 'nobody'}: {one.waiting.subject}"
            err.print(Text(f"{what}: left in the mailbox, and flagged: {one.error}"))


def _to_json(one: Collected, shown: Mapping[str, Shown]) -> dict[str, Any]:
    """What became of one message."""
    return one.waiting.to_json() | {
        "message": None if one.message is None else one.message.id,
        "error": None if one.error is None else str(one.error),
        "taken": [taken_json(each, shown) for each in one.taken],
    }


def _collect(service: services.Ranker, passed_over: set[tuple[int, int]], found: list[Collected]) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("messages", total=None)
        for each in service.collect_mail(
            passed_over, on_message=lambda done, total: progress.update(bar, completed=done, total=total)
        ):
            found.append(each)  # noqa: PERF402  what came before a failure stays


def _to_decide(service: services.Ranker) -> None:
    """What waits for the organizers' word."""
    links = service.links([LinkState.PENDING])
    if links:
        err.print(Text(f"links that wait for a decision: {len(links)} (`ranker links` lists them)"))
    if service.service.smtp is not None:
        err.print(Text("answers: `ranker outbox` drafts and lists them, `ranker outbox send --all` sends them"))


def _list(service: services.Ranker, *, as_json: bool) -> None:
    waiting = service.waiting_mail()
    if as_json:
        print_json([each.to_json() for each in waiting])
        return
    if not waiting:
        out.print("nothing new in the mailbox")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("UID", "arrived (UTC)", "size", "sender", "subject"):
        table.add_column(name, overflow="fold")
    for each in waiting:
        arrived = "" if each.arrived_at is None else f"{each.arrived_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        table.add_row(str(each.uid), arrived, decimal(each.size_bytes), Text(each.sender), Text(each.subject))
    out.print(table)


def _print_line(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()
