"""What commands share: the two consoles, options that mean the same everywhere, and JSON as programs read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ranker.types import ExecutorName, SandboxName, Standing

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)

MOST = 2**31 - 1
"""The largest whole number that every database keeps."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
BenchmarkOption = Annotated[
    str | None, typer.Option("--benchmark", "-b", help="Benchmark; default: what configs/service.yaml says.")
]
TrackOption = Annotated[str | None, typer.Option("--track", "-t", help="Only this track.")]
SandboxOption = Annotated[
    SandboxName | None,
    typer.Option(
        "--sandbox", help="Where encoders run; default: configs/service.yaml. `none` is for your own code only."
    ),
]
ExecutorOption = Annotated[
    ExecutorName, typer.Option("--executor", help="Do jobs on this machine, or on a Ray cluster (docs/cluster.md).")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Head of the Ray cluster, or `auto`; default: configs/service.yaml."
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="At most so many jobs at a time; default: as there is room for.")
]
ConditionOption = Annotated[
    str | None, typer.Option("--condition", help="Beginning of a condition's digest, where there are several.")
]

WithOption = Annotated[
    list[Standing] | None,
    typer.Option("--with", help="Rank these too, as if nothing stood against them; several times for several."),
]
HiddenOption = Annotated[
    Path | None,
    typer.Option(
        "--hidden",
        envvar="RANKER_HIDDEN",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="YAML of hidden tasks, kept outside the repository.",
    ),
]


def warn_without_sandbox(sandbox: SandboxName) -> None:
    """Nobody shall run another's code unconfined without having read this."""
    if sandbox is SandboxName.NONE:
        err.print(
            "[bold red]warning:[/] --sandbox none: submitted code runs with all your rights. "
            "Use it for your own code only; every score will be marked."
        )


def print_json(value: Any) -> None:
    """JSON on standard output, whole and unstyled."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
