"""`ranker calibrate`: the baselines' scores here beside those that were published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, JsonFlag, SandboxOption, err, out, print_json, warn_without_sandbox
from ranker.cli.progress import JobDisplay
from ranker.errors import MissingError, OrganizerError

if TYPE_CHECKING:
    from ranker.calibration import Calibration, Figure


def calibrate(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    compare_only: Annotated[
        bool, typer.Option("--compare-only", help="Run nothing: compare what has been evaluated.")
    ] = False,
    sandbox: SandboxOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure the baselines; compare with their published scores.

    Runs what is missing of the encoders that the benchmark's file lists as `baselines:`. Exit code 0: every figure is
    within its tolerance; 1: one is not; 4: something was not measured.
    """
    service: services.Ranker = context.obj
    asked: tuple[int, ...] = ()
    if not compare_only:
        warn_without_sandbox(service.sandbox(sandbox))
        plan = service.queue_baselines(benchmark, sandbox)
        if plan is not None:
            asked = plan.asked
            err.print(Text(f"{len(plan.job_ids)} of {len(plan.asked)} evaluations on {plan.benchmark} are to be done"))
            with service.open() as engine, JobDisplay(engine, plan.job_ids, err) as display:
                service.run(plan.job_ids, sandbox=sandbox, on_tick=display.tick)
    found = service.calibrations(benchmark, asked=asked)
    if as_json:
        print_json([each.to_json() for each in found])
    else:
        for each in found:
            out.print(table(each))
    for line in dict.fromkeys(line for each in found for line in each.advice):
        err.print(Text(line))
    if any(figure.computed is None for each in found for figure in each.figures):
        raise typer.Exit(MissingError.exit_code)
    if not all(each.calibrated for each in found):
        raise typer.Exit(OrganizerError.exit_code)


def table(value: Calibration) -> RenderableType:
    """One track's figures, a table for each baseline, and the verdict below them."""
    condition = "nothing measured" if value.condition is None else f"condition {value.condition[:8]}"
    names = dict.fromkeys(figure.baseline for figure in value.figures)
    parts = [_part(f"Track {value.track}, {condition}: {name}", name, value.figures) for name in names]
    style = "green" if value.calibrated else "red"
    return Group(*parts, Text(f"{value.label}: {value.sentence}\n", style=style))


def _part(title: str, baseline: str, figures: Sequence[Figure]) -> Table:
    rows = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, collapse_padding=True)
    rows.add_column("task", no_wrap=True)
    rows.add_column("metric", no_wrap=True)
    for head in ("published", "measured", "differs", "at most"):
        rows.add_column(head, justify="right", no_wrap=True)
    rows.add_column("")
    for figure in figures:
        if figure.baseline == baseline:
            rows.add_row(*_cells(figure))
    return rows


def _cells(figure: Figure) -> Sequence[Text]:
    measured = "-" if figure.measured is None else f"{figure.measured:.3f}"
    difference = "-" if figure.difference is None else f"{figure.difference:+.3f}"
    sign = Text("?", style="yellow")
    if figure.measured is not None:
        sign = Text("✓", style="green") if figure.within else Text("✗", style="red")
    texts = (figure.task, figure.metric, f"{figure.published:.3f}", measured, difference, f"{figure.tolerance:g}")
    return (*map(Text, texts), sign)
