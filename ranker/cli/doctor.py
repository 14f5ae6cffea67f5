"""`ranker doctor`: what works here, and what can be mended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import JsonFlag, err, out, print_json
from ranker.errors import InfraError, RankerError, UsageError
from ranker.journal import visible

if TYPE_CHECKING:
    from ranker.mend import Mend


def doctor(
    context: typer.Context,
    mend: Annotated[
        bool, typer.Option("--mend", help="Offer to repair what can be repaired, one thing at a time.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --mend: repair all of it without asking.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Read files of submissions whole where their sizes would do.")
    ] = False,
    ask_hub: Annotated[
        bool, typer.Option("--ask-hub", help="Compare the clock with the hub's, over the network.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what works here, and what to do if not.

    It changes nothing. With --mend it repairs, after asking: leases of dead workers, containers, processes and folders
    that they left, damaged checkpoints, spoilt unpacked files, a log that has grown. Nothing that is in use, nothing of
    another home; and each repair is recorded.
    """
    service: services.Ranker = context.obj
    if mend:
        _mend(service, yes=yes, thorough=thorough, as_json=as_json)
        return
    if yes:
        raise UsageError("--yes goes with --mend")
    findings = service.examine(ask_hub=ask_hub, thorough=thorough)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        out.print(tables.findings(findings))
    if services.is_lame(findings):
        raise typer.Exit(services.MISSING_EXIT_CODE)


def _mend(service: services.Ranker, *, yes: bool, thorough: bool, as_json: bool) -> None:
    asks = sys.stdin.isatty() and not as_json
    offered = service.mends(thorough=thorough)
    results: list[dict[str, object]] = []
    failed = False
    for each in offered:
        if not as_json:
            out.print(Text(f"{visible(each.wrong)}\n→ {visible(each.remedy)}"))
        is_wanted = yes or (asks and typer.confirm("  do it?", default=False))
        done, error = _tried(service, each) if is_wanted else (None, None)
        failed = failed or error is not None
        results.append({**each.to_json(), "wanted": is_wanted, "done": done, "error": error})
        if is_wanted and not as_json:
            out.print(Text(f"  {visible(error or done or 'nothing was done: it is well again, or in use')}"))
    if as_json:
        print_json(results)
    elif not offered:
        out.print("nothing is to be mended; `ranker doctor` looks at the rest")
    elif not yes and not asks:
        err.print("nothing was done: nobody can be asked here; --yes repairs all of it")
    if failed:
        raise typer.Exit(InfraError.exit_code)


def _tried(service: services.Ranker, each: Mend) -> tuple[str | None, str | None]:
    """What was done, or what kept it from being done."""
    try:
        return service.mend(each).done, None
    except (RankerError, OSError, SQLAlchemyError) as error:
        return None, str(error)
