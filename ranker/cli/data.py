"""`ranker data ...`: benchmarks' shards, built, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import err, out

data_app = typer.Typer(no_args_is_help=True, help="Build and verify benchmarks.")


@data_app.command("build")
def data_build(
    context: typer.Context,
    name: Annotated[services.Buildable, typer.Argument(help="Which benchmark.")],
    packages: Annotated[
        Path | None,
        typer.Option("--packages", file_okay=False, help="field: folder of .deb and .tgz packages, kept and re-used."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Build anew though it is there.")] = False,
) -> None:
    """Build a benchmark's shards under data/."""
    service: services.Ranker = context.obj
    with Progress(console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task(f"building {name}", total=None)
        digest = service.build_data(
            name,
            packages,
            again=again,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    out.print(Text(f"{name}: {digest}"))


@data_app.command("verify")
def data_verify(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark; default: all that are built.")] = None,
) -> None:
    """Compare every byte of built benchmarks with their manifests."""
    service: services.Ranker = context.obj
    problems = 0
    for benchmark, found in service.verify_data(name).items():
        out.print(Text(f"{benchmark}: {'as built' if not found else f'{len(found)} problems'}"))
        tables.print_reasons(out, found)
        problems += len(found)
    if problems:
        raise typer.Exit(1)
