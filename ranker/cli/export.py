"""`ranker export`: a board as a file for a paper, a README or a notebook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, ConditionOption, HiddenOption, TrackOption, WithOption, err, out
from ranker.durable import whole_file
from ranker.errors import UsageError
from ranker.types import Export, FileFormat


def export(
    context: typer.Context,
    file_format: Annotated[FileFormat, typer.Option("--format", "-f", help="Of the file.")] = FileFormat.CSV,
    what: Annotated[
        Export,
        typer.Option(
            "--what", help="Ranks with their certainty, each task's score, scores with intervals, or scored pairs."
        ),
    ] = Export.RANKS,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    including: WithOption = None,
    file: Annotated[Path | None, typer.Option("--out", dir_okay=False, help="File; default: standard output.")] = None,
    hidden_predictions: Annotated[
        bool,
        typer.Option(
            "--with-hidden-predictions",
            help="Predictions of hidden tasks too, with the right answers. Never give such a file away.",
        ),
    ] = False,
) -> None:
    """Write ranks, scores, intervals or predictions as CSV, JSON, LaTeX, Markdown or Parquet.

    The same board gives the same bytes. LaTeX is a table for a paper (booktabs), Markdown one for a README, with the
    best of each column in bold. Parquet names its board's digest in its metadata.
    """
    if file_format is FileFormat.PARQUET and file is None and sys.stdout.isatty():
        raise UsageError("Parquet is no text to print; name a file with --out, or pipe it to one")
    service: services.Ranker = context.obj.with_hidden(hidden)
    content = service.export(
        benchmark,
        what,
        file_format,
        track=track,
        condition=condition,
        including=including or (),
        with_hidden_predictions=hidden_predictions,
    )
    if hidden_predictions and what is Export.PREDICTIONS:
        err.print(
            Text.assemble(("warning:", "bold yellow"), " this file may hold hidden tasks' answers; keep it to yourself")
        )
    if file is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    with whole_file(file) as piece:
        piece.write_bytes(content)
    out.print(Text(str(file)))
