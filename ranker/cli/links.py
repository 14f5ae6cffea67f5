"""`ranker links`: addresses that messages gave instead of files, for an organizer to decide about."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, out, print_json
from ranker.types import LinkState

links_app = typer.Typer(help="List links that came instead of ZIPs, and decide about them.")


@links_app.callback(invoke_without_command=True)
def links(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also links that were fetched or declined.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the links that wait for a decision: from whom, and which machine would be asked.

    `ranker ingest --link N` fetches one; `ranker links decline N --why` says that it is not to be.
    """
    if context.invoked_subcommand is not None:
        return
    service: services.Ranker = context.obj
    found = service.links(list(LinkState) if everything else [LinkState.PENDING, LinkState.FAILED])
    if as_json:
        print_json([each.to_json() for each in found])
        return
    if not found:
        out.print("no link waits for a decision")
        return
    for each in found:
        came, whose = each.arrived_at or each.found_at, each.sender or "no message gave it"
        about = f": {each.subject}" if each.subject else ""
        said = f" ({each.why})" if each.why else ""
        out.print(Text(legible(f"link {each.id}  {each.state}{said}  came {came:%Y-%m-%d %H:%M} UTC  {whose}{about}")))
        out.print(Text(legible(f"        would ask {each.host}: {each.url}")))
    out.print("`ranker ingest --link N` fetches one, if you trust its sender and the host")


@links_app.command("decline")
def decline(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="The link's number.")],
    why: Annotated[str, typer.Option("--why", help="A sentence for the log and for the answer to its sender.")],
) -> None:
    """Say that a link is not to be fetched."""
    service: services.Ranker = context.obj
    declined = service.decline_link(number, why)
    out.print(Text(f"link {declined.id} is {declined.state}: {declined.why}"))


def legible(text: str) -> str:
    """Words of a stranger without what a terminal would obey or misread."""
    return "".join(each if each.isprintable() else "?" for each in text)
