"""`ranker ingest` and `ranker check`: taking in what came, and the checks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.links import legible
from ranker.cli.options import JsonFlag, SandboxOption, err, out, print_json, warn_without_sandbox
from ranker.cli.progress import JobDisplay
from ranker.cli.transfer import TransferDisplay
from ranker.errors import InfraError, MissingError, ParticipantError, UsageError
from ranker.types import Fault, SandboxName, Status

if TYPE_CHECKING:
    from ranker.intake.ingest import Taken
    from ranker.service.intake import Shown

# Of several things that went wrong the first here is the exit code: what is ours to mend before what is the teams'.
_GRAVEST = (InfraError.exit_code, MissingError.exit_code, UsageError.exit_code, ParticipantError.exit_code)


def ingest(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH|URL...", help="ZIPs, messages (.eml, mbox, Maildir), folders of these; addresses of ZIPs."
        ),
    ] = None,
    link: Annotated[
        list[int] | None,
        typer.Option("--link", metavar="N", help="Fetch this link of a message (`ranker links` lists them)."),
    ] = None,
    team: Annotated[
        str | None,
        typer.Option("--team", help="The team; default: by the sender's address, else the file's name without .zip."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", exists=True, dir_okay=False, help="The technical report (PDF).")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="FILE.py[:CLASS]", help="Which class is the encoder.")
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Leave the checks queued, for `ranker check` or `ranker evaluate`.")
    ] = False,
    sandbox: SandboxOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in submissions: keep, unpack, check, record.

    What came is kept before anything looks at it. The encoder is run in the sandbox. A refusal names everything that is
    wrong. The same file again does no harm. Links in messages are fetched only when they are named here.
    """
    service: services.Ranker = context.obj
    handed, numbers = inputs or [], link or []
    if not handed and not numbers:
        raise UsageError("say what to take in: paths, addresses, or --link N")
    if len(handed) + len(numbers) > 1 and (team or report or encoder):
        raise UsageError("--team, --report and --encoder belong to one file; give the files one at a time")
    if not no_check:
        warn_without_sandbox(service.sandbox(sandbox))
    with TransferDisplay(err, verb="taking in") as display:
        taken = service.ingest(
            handed,
            numbers,
            team=team,
            report=report,
            encoder=encoder,
            on_step=display.step,
            on_transfer=display.transfer,
        )
    job_ids = [each.received.job_id for each in taken if each.received is not None and each.received.is_queued]
    if not no_check:
        run_checks(service, list(dict.fromkeys(job_ids)), sandbox)
    shown = service.shown([each.received.submission.id for each in taken if each.received is not None])
    if as_json:
        print_json([taken_json(each, shown) for each in taken])
    else:
        print_taken(taken, shown, is_queued=no_check and bool(job_ids))
    code = code_of(taken, shown)
    if code:
        raise typer.Exit(code)


def check(
    context: typer.Context,
    submissions: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, their beginnings, or teams.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every submission.")] = False,
    sandbox: SandboxOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the checks that are queued, or that failed by our own fault.

    `ranker ingest --no-check` leaves them so. What was checked is not checked again.
    """
    service: services.Ranker = context.obj
    if bool(submissions) == everyone:
        raise UsageError("say which submissions: ids or teams, or --all")
    warn_without_sandbox(service.sandbox(sandbox))
    queued = service.queue_checks(submissions)
    run_checks(service, list(queued.values()), sandbox)
    shown = service.shown(list(queued))
    if as_json:
        print_json([_view_json(each) for each in shown.values()])
    elif not shown:
        out.print("no check is queued")
    else:
        out.print(_table(shown.values()))
        for each in shown.values():
            _print_reasons(each)
    code = code_of((), shown)
    if code:
        raise typer.Exit(code)


def run_checks(service: services.Ranker, job_ids: Sequence[int], sandbox: SandboxName | None) -> None:
    """Do these checks, with a bar for each."""
    if not job_ids:
        return
    with service.open() as engine, JobDisplay(engine, job_ids, err) as display:
        service.run(job_ids, sandbox=sandbox, on_tick=display.tick)


def print_taken(taken: Sequence[Taken], shown: Mapping[str, Shown], *, is_queued: bool) -> None:
    """A line for one submission, a table of several; then every sentence that somebody must read."""
    known = dict.fromkeys(each.received.submission.id for each in taken if each.received is not None)
    new = {each.received.submission.id for each in taken if each.received is not None and each.received.is_new}
    if len(known) == 1:
        (only,) = known
        out.print(tables.received(shown[only].view, is_new=only in new))
    elif known:
        out.print(_table(shown[each] for each in known))
    for identity in known:
        _print_reasons(shown[identity], named=len(known) > 1)
    for each in taken:
        _print_said(each)
    if is_queued:
        err.print("the checks are queued: `ranker check --all` runs them, and `ranker evaluate --all` runs them first")


def _print_said(taken: Taken) -> None:
    if isinstance(taken.error, ParticipantError):
        err.print(Text(legible(f"{taken.what}:")))
        tables.print_reasons(err, taken.error.reasons)
    elif taken.error is not None:
        named = "" if str(taken.error).startswith(taken.what) else f"{taken.what}: "
        err.print(Text(legible(f"ranker: {named}{taken.error}")))
    for remark in taken.remarks:
        err.print(Text(legible(f"{taken.what}: {remark}")))


def _print_reasons(shown: Shown, *, named: bool = True) -> None:
    sentences = [*shown.view.reasons, *(f"{each.rule} is pending: {each.why}" for each in shown.pending)]
    if sentences and named:
        out.print(Text(f"{shown.view.submission.id}  {shown.view.submission.team}:"))
    tables.print_reasons(out, sentences)


def _table(shown: Iterable[Shown]) -> Table:
    """One line per submission: whose, what became of it, and which rules wait for somebody."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "team", "state", "pending"):
        table.add_column(name, overflow="fold")
    for each in shown:
        own = each.view.submission
        table.add_row(own.id, Text(own.team), each.view.state, ", ".join(sorted(one.rule for one in each.pending)))
    return table


def _view_json(shown: Shown) -> dict[str, Any]:
    pending = [{"rule": each.rule, "why": each.why, "evidence": each.evidence} for each in shown.pending]
    return shown.view.to_json() | {"pending": pending}


def taken_json(taken: Taken, shown: Mapping[str, Shown]) -> dict[str, Any]:
    """What became of one input: as `ranker show --json` with what was new, or the sentences why it is no submission."""
    said = {"what": taken.what, "remarks": list(taken.remarks), "error": None, "code": 0}
    if taken.received is not None:
        return _view_json(shown[taken.received.submission.id]) | said | {"is_new": taken.received.is_new}
    if taken.error is not None:
        said |= {"error": str(taken.error), "code": taken.error.exit_code}
    return {"id": None, "team": None, "state": None, "is_new": False, "reasons": [], "pending": []} | said


def code_of(taken: Sequence[Taken], shown: Mapping[str, Shown]) -> int:
    """The exit code: the gravest of what went wrong."""
    codes = {each.error.exit_code for each in taken if each.error is not None}
    if any(each.received is not None and each.received.remark is not None for each in taken):
        codes.add(ParticipantError.exit_code)
    for each in shown.values():
        if each.view.check is not None and each.view.check.status == Status.FAILED:
            is_theirs = each.view.check.fault == Fault.PARTICIPANT
            codes.add(ParticipantError.exit_code if is_theirs else InfraError.exit_code)
    return next((each for each in _GRAVEST if each in codes), 0)
