"""What commands share: the two consoles, options that mean the same everywhere, and JSON as programs read it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from ranker.types import SandboxName

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)

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
ConditionOption = Annotated[
    str | None, typer.Option("--condition", help="Beginning of a condition's digest, where there are several.")
]


def print_json(value: Any) -> None:
    """JSON on standard output, whole and unstyled."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
