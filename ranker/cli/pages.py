"""`ranker leaderboard` and `ranker results`: the page before it is published, and a report in Markdown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, HiddenOption, WithOption, out
from ranker.cli.rules import warn_of_outdated

PredictionsOption = Annotated[
    bool, typer.Option("--predictions", help="With every prediction of the public tasks, and its reference.")
]
AnonymousOption = Annotated[
    bool, typer.Option("--anonymous", help="Teams under pseudonyms; also: publish of configs/service.yaml.")
]


def leaderboard(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Folder; default: leaderboard/preview of the home.")
    ] = None,
    predictions: PredictionsOption = False,
    anonymous: AnonymousOption = False,
    including: WithOption = None,
) -> None:
    """Write a preview of the page, for organizers; `ranker publish` makes it public.

    What is superseded, late, withdrawn or disqualified has no place on it, unless --with asks for it.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    edition = services.Edition(
        benchmark=benchmark, with_predictions=predictions, including=tuple(including or ()), anonymous=anonymous
    )
    index = service.preview(edition, folder)
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
