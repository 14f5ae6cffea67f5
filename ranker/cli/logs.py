"""`ranker logs`: what the attempts of a job wrote down."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import MOST, err
from ranker.journal import visible
from ranker.logbook import Line, Source


def logs(
    context: typer.Context,
    submission: Annotated[
        str | None, typer.Argument(metavar="ID", help="An id, its beginning, or a team; --job needs none.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    job: Annotated[
        int | None,
        typer.Option("--job", metavar="N", min=1, max=MOST, help="The job, as status --watch numbers it."),
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt", metavar="N", min=1, max=MOST, help="Default: the newest, and with -f those after it."
        ),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="Of each file, at first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line, for programs.")] = False,
) -> None:
    """Show what a job wrote down.

    Of a submission, the job that runs, else the last that did: its check, or an evaluation. Lines of its encoder are
    marked so. Whatever could move the cursor or change a colour is spelt out. Ctrl-C ends -f.
    """
    service: services.Ranker = context.obj
    found, others = service.logged_job(submission, job)
    where = f"{found.kind}" if found.track is None else f"{found.kind}, {found.where}"
    err.print(Text(f"job {found.id} of submission {found.submission_id}: {where}, {found.status}"))
    if others:
        err.print(Text(f"also running: {', '.join(f'--job {other.id} ({other.where})' for other in others)}"))
    shown: int | None = None
    try:
        for line in service.log_lines(found, lines=lines, attempt=attempt, as_events=as_json, follow=follow):
            if line.attempt != shown and not as_json:
                shown = line.attempt
                err.print(Text(f"-- attempt {shown}"))
            sys.stdout.write((as_document(line) if as_json else as_text(line)) + "\n")
            if follow:
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass  # the way to end -f


def as_text(line: Line) -> str:
    """A line for a terminal; the encoder's own cannot be taken for ours."""
    return f"encoder| {visible(line.text)}" if line.source is Source.ENCODER else visible(line.text)


def as_document(line: Line) -> str:
    """An event as it was written; other lines, and events that were cut, as text."""
    if line.source is Source.EVENTS:
        try:
            event = json.loads(line.text)
        except ValueError:
            pass
        else:
            if isinstance(event, dict):
                return json.dumps(event)
    return json.dumps({"attempt": line.attempt, "source": line.source, "text": line.text})
