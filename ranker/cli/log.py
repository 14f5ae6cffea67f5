"""`ranker log`: who did what when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, out, print_json
from ranker.errors import UsageError
from ranker.events import to_json

if TYPE_CHECKING:
    from ranker.db.rules import Event


def log(
    context: typer.Context,
    submission: Annotated[
        str | None, typer.Argument(metavar="ID", help="An id, its beginning, or a team; default: everything.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on: 2026-02-12, or with time and zone.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check that no line was changed or taken out; prints the last digest.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say who did what when.

    Lines are only ever added; each carries a digest over itself and all before it. What was cut off at the end shows
    only to who has kept a later digest.
    """
    service: services.Ranker = context.obj
    if verify:
        if submission is not None or since is not None:
            raise UsageError("--verify is about the whole log; leave out the submission and --since")
        count, digest = service.verify_log()
        if as_json:
            print_json({"events": count, "digest": digest})
        else:
            out.print(Text(f"{count} events, as they were written; the last digest is {digest}"))
        return
    found = service.log(submission, after=None if since is None else service.moment(since))
    if as_json:
        print_json([to_json(event) for event in found])
    elif not found:
        out.print("nothing was done yet")
    else:
        out.print(_table(found))


def _table(events: list[Event]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("when (UTC)", "who", "did", "to", "details"):
        table.add_column(name, overflow="fold", no_wrap=name in {"when (UTC)", "did", "to"})
    for event in events:
        of = event.submission_id or ""
        if event.job_id is not None:
            of = f"{of} job {event.job_id}".strip()
        when = event.at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(when, Text(event.actor), event.action.replace("_", " "), of, Text(_words(event.details)))
    return table


def _words(details: dict[str, Any]) -> str:
    """What an event says beside who and when, in a line; changes of verdicts in one for each."""
    parts = [f"{key}: {_plain(value)}" for key, value in details.items() if key != "changes" and _plain(value)]
    changes = [
        f"{each['rule']}: {each['before'] or '-'} -> {each['after'] or '-'}" for each in details.get("changes", ())
    ]
    return "\n".join(["; ".join(parts)] * bool(parts) + changes)


def _plain(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"before", "after"}:
        return f"{value['before'] or '-'} -> {value['after']}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return "" if value is None else str(value)
