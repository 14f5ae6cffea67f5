"""`ranker leaderboard` and `ranker results`: the page, and a report in Markdown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, HiddenOption, WithOption, out
from ranker.cli.rules import warn_of_outdated


def leaderboard(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Folder; default: leaderboard/site of the home.")
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Publish every prediction of the public tasks, with its reference.")
    ] = False,
    including: WithOption = None,
) -> None:
    """Write the static page, with JSON and CSV beside it.

    What is superseded, late, withdrawn or disqualified has no place on it, unless --with asks for it.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    index = service.publish(benchmark, folder, with_predictions=predictions, including=including or ())
    out.print(Text(str(index)))


def results(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    remarks: Annotated[
        Path | None, typer.Option("--remarks", exists=True, dir_okay=False, help="Markdown to stand below the figures.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", dir_okay=False, help="File; default: standard output.")] = None,
    including: WithOption = None,
) -> None:
    """Write a benchmark's figures as Markdown.

    Ranking, scores, hardware and durations, all from the database.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    text = service.results(benchmark, remarks, including=including or ())
    warn_of_outdated(service)
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
        out.print(Text(str(file)))
