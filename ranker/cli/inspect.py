"""`ranker data inspect`: what a benchmark's shards hold, and what in them would spoil a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import HiddenOption, JsonFlag, err, out, print_json
from ranker.types import Concern

if TYPE_CHECKING:  # pandas stands behind it
    from ranker.inspection import SplitFacts, TaskInspection

_SIGNS = {Concern.SPOILS: ("✗", "red"), Concern.WARNING: ("!", "yellow"), Concern.NOTE: ("·", "dim")}
_COLUMNS = ("task", "", "clips", "audio", "longest", "stored as", "labels")


def data_inspect(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="BENCHMARK", help="Benchmark; default: what configs/service.yaml says.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Look into a benchmark's shards: sizes, labels, broken clips, overlap of training and test.

    Decodes every clip once, on all cores, and keeps what it found beside each shard, so that the next look is quick.
    Exits with 1 if something would spoil a score.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("decoding", total=None)
        found = service.inspect_data(
            name, task=task, on_progress=lambda done, total: progress.update(bar, completed=done, total=total)
        )
    if as_json:
        print_json([{**asdict(each), "is_spoilt": each.is_spoilt} for each in found])
    else:
        out.print(tables_of(found))
    if any(each.is_spoilt for each in found):
        raise typer.Exit(1)


def tables_of(found: Sequence[TaskInspection]) -> RenderableType:
    """One table per track with two lines per task, then every remark, then a line that sums up."""
    parts: list[RenderableType] = []
    for track in dict.fromkeys(each.track for each in found):
        parts += [Text(f"track {track}", style="bold"), _table([each for each in found if each.track == track])]
    remarked = [each for each in found if each.remarks]
    parts += [_remarks(each) for each in remarked]
    spoilt = [each.task for each in found if each.is_spoilt]
    if spoilt:
        parts.append(Text(f"scores would be spoilt on {len(spoilt)} of {len(found)} tasks: {', '.join(spoilt)}", "red"))
    else:
        parts.append(Text(f"nothing in {len(found)} tasks that would spoil a score", "green"))
    return Group(*parts)


def _table(found: Sequence[TaskInspection]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in _COLUMNS:
        folds = column in {"task", "stored as"}
        table.add_column(
            column,
            justify="left" if folds or not column else "right",
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
        )
    for each in found:
        if each.train is not None:
            table.add_row(each.task, "train", *_cells(each.train))
        table.add_row("" if each.train is not None else each.task, "test", *_cells(each.test, each))
    return table


def _cells(facts: SplitFacts, whole: TaskInspection | None = None) -> tuple[str, ...]:
    """The numbers of one side; the labels of both, against what was expected, stand on the test's side (`whole`)."""
    labels = "-" if facts.labels is None else str(facts.labels)
    if whole is not None and whole.labels_expected is not None:
        labels = f"{labels}, {whole.labels_found} of {whole.labels_expected}"
    return (
        f"{facts.clips:,}" + (f" ({facts.pairs:,} pairs)" if facts.pairs != facts.clips else ""),
        _length(facts.hours * 3600),
        _length(facts.longest_s),
        f"{_counts(facts.codecs)}; {_counts({f'{rate / 1000:g} kHz': n for rate, n in facts.sample_rates_hz.items()})}",
        labels,
    )


def _length(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7_200 else f"{seconds / 3600:,.1f} h"


def _counts(values: Mapping[str, int]) -> str:
    """One value alone; several with how often each occurs."""
    if len(values) < 2:
        return next(iter(values), "-")
    return ", ".join(f"{value} ({count:,})" for value, count in values.items())


def _remarks(found: TaskInspection) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for remark in found.remarks:
        sign, colour = _SIGNS[remark.concern]
        table.add_row(Text(sign, style=colour), Text(remark.text))
    return Group(Text(f"{found.task}, track {found.track}", style="bold"), table)
