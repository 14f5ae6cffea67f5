"""`ranker metric`: one metric of predictions in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, err, out, print_json
from ranker.errors import UsageError


def metric(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="Accuracy, mAP, iWER, iCER, FENSE or DATE; or as pages say it: 'FENSE[minilm]'."),
    ],
    file: Annotated[
        Path, typer.Argument(help="Predictions, .csv or .parquet, with the columns clip, reference, candidate.")
    ],
    argument: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the metric: num_classes=41.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute a metric of a file of predictions.

    A clip with several references has a row for each, all with the same candidate. A score on a page is computed again
    from the predictions behind it: runs/.../predictions/TASK.parquet.
    """
    service: services.Ranker = context.obj
    found = service.metric(name, file, _arguments(argument or []))
    if as_json:
        print_json(found.to_json())
        return
    for note in found.notes:
        err.print(Text(note))
    out.print(Text(f"{found.metric} {found.value:.6f} ({found.pairs} pairs of {found.clips} clips)"))


def _arguments(texts: list[str]) -> dict[str, str]:
    arguments: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key or key in arguments:
            raise UsageError(f"--arg {text!r}: expected KEY=VALUE, such as num_classes=41, and each key once")
        arguments[key] = value
    return arguments
