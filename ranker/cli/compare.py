"""`ranker compare`: two to four of a board side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, ConditionOption, HiddenOption, JsonFlag, TrackOption, out, print_json

if TYPE_CHECKING:
    from ranker.comparison import Comparison, Difference, Pairing


def compare(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="ID ID [ID] [ID]", help="Two to four: ids, or teams.")],
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say by how much submissions differ, pair by pair, with the interval of the paired difference.

    P(ahead) is the share of resamples in which the first one's track score is higher; p is that of equal scores, with
    Holm's correction for all pairs that are named. Of an imported table, tasks are resampled (docs/statistics.md).
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    found = service.compare(names, benchmark, track=track, condition=condition)
    if as_json:
        print_json({each.track: each.to_json() for each in found})
        return
    for each in found:
        for pair in each.pairs:
            out.print(_table(each, pair))
            out.print(Text(_sentence(each, pair)))


def _table(found: Comparison, pair: Pairing) -> Table:
    """Two on one track, the track score first."""
    table = Table(title=Text(f"track {found.track}"), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("task", no_wrap=True)
    for head in (pair.first, pair.second):
        table.add_column(Text(head), justify="right")
    table.add_column("difference", justify="right", no_wrap=True)
    if any(each.interval for each in pair.differences):
        table.add_column("95%", justify="right", no_wrap=True)
        table.add_column("")
    for each in pair.differences:
        name = Text("whole track", style="bold") if each.task is None else Text(each.task)
        values = (f"{each.first:.3f}", f"{each.second:.3f}", f"{each.difference:+.3f}")
        table.add_row(name, *values, *_uncertain(each, table))
    return table


def _uncertain(each: Difference, table: Table) -> Sequence[str]:
    if len(table.columns) <= 4:
        return ()
    if each.interval is None:
        return ("", "")
    return (f"{each.interval.low:+.3f} to {each.interval.high:+.3f}", "" if each.distinct else "within chance")


def _sentence(found: Comparison, pair: Pairing) -> str:
    corrected = f" (Holm's correction for {len(found.pairs)} pairs)" if len(found.pairs) > 1 else ""
    return (
        f"P({pair.first} ahead of {pair.second}) = {pair.ahead:.3f}, p = {pair.p_holm:.2g}{corrected}; over resampled "
        f"{found.resampling.value}\n"
    )
