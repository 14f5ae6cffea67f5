"""`ranker data ...`: benchmarks' shards, built or fetched, verified."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import HiddenOption, JsonFlag, err, out, print_json
from ranker.cli.transfer import TransferDisplay
from ranker.types import Buildable

data_app = typer.Typer(no_args_is_help=True, help="Build, fetch and verify benchmarks.")


@data_app.command("build")
def data_build(
    context: typer.Context,
    name: Annotated[Buildable, typer.Argument(help="Which benchmark.")],
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


@data_app.command("fetch")
def data_fetch(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Which benchmark.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TASK", help="Only this task's shards; several times for several tasks."),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(
            "--lock", dir_okay=False, help="Lock file, read or begun; default: configs/BENCHMARK.lock.json of the home."
        ),
    ] = None,
    hidden: HiddenOption = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=64, help="Files at a time.")] = 8,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub: take and check what is here.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a benchmark's shards from the hub, with the decoder and the metrics' models.

    The first fetch records commits, sizes and digests in the lock file; after that no other bytes are accepted.
    What was interrupted goes on where it was. Shards of no repository must lie under data/ already, and are recorded.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    with TransferDisplay(err) as display:
        found = service.fetch_data(
            name,
            lock=lock,
            only=only or [],
            jobs=jobs,
            offline=offline,
            on_step=display.step,
            on_transfer=display.transfer,
        )
    data = found.data
    if as_json:
        models = {each: str(path) for each, path in found.models.items()}
        print_json({**asdict(data), "lock": str(found.lock), "models": models})
        return
    out.print(Text(f"{name}: {data.digest}"))
    size, new = (f"{size / 1e9:.2f} GB" for size in (data.bytes, data.new_bytes))
    pinned = f"; pinned by {found.lock}" if data.commits else ""
    out.print(Text(f"{data.files} shards of {size}, {data.new_files} of {new} new{pinned}"))
    if data.incomplete:
        err.print(Text(f"not fetched yet, for lack of being asked for: {', '.join(data.incomplete)}"))
    err.print(Text(f"next: `ranker data inspect {name}` decodes each clip once and says what would spoil a score"))


@data_app.command("verify")
def data_verify(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark; default: all that are there.")] = None,
) -> None:
    """Compare every byte of benchmarks' shards with their manifests."""
    service: services.Ranker = context.obj
    problems = 0
    for benchmark, found in service.verify_data(name).items():
        out.print(Text(f"{benchmark}: {'as recorded' if not found else f'{len(found)} problems'}"))
        tables.print_reasons(out, found)
        problems += len(found)
    if problems:
        raise typer.Exit(1)
