"""`ranker status` and `ranker show`: all submissions, and one."""

from __future__ import annotations

from typing import Annotated

import typer

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import JsonFlag, out, print_json
from ranker.cli.queue import print_pause
from ranker.cli.rules import warn_of_outdated
from ranker.cli.watch import watch


def status(
    context: typer.Context,
    watching: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Show what runs, again and again, until Ctrl-C; with --json, as lines."),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option("--interval", min=0.1, metavar="SECONDS", help="With --watch; default: 2, or 30 in a file."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List submissions and their jobs."""
    service: services.Ranker = context.obj
    if watching:
        watch(service, as_json=as_json, interval_s=interval)
        return
    views = service.submissions()
    if not as_json:
        print_pause(service)
    if as_json:
        paused = services.pause_json(service.paused())
        print_json({"paused": paused, "submissions": [view.to_json() for view in views]})
        warn_of_outdated(service)
    elif not views:
        out.print("no submissions yet: `ranker ingest FILE.zip` takes one in")
    else:
        out.print(tables.submissions(views))
        warn_of_outdated(service)


def show(
    context: typer.Context,
    submission: Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a submission: faults, scores, manifests."""
    service: services.Ranker = context.obj
    (view,) = service.find([submission])
    if as_json:
        print_json(view.to_json())
    else:
        out.print(tables.submission(view))
