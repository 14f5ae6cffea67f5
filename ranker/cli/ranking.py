"""`ranker rank` and `ranker compare`: who stands where, how sure that is, and by how much two differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import (
    BenchmarkOption,
    ConditionOption,
    HiddenOption,
    JsonFlag,
    TrackOption,
    WithOption,
    err,
    out,
    print_json,
)
from ranker.cli.rules import warn_of_outdated
from ranker.errors import UsageError

if TYPE_CHECKING:
    from ranker.scoretable import Ranked
    from ranker.uncertainty import Agreement, Alternative


def rank(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="TABLE.csv",
            exists=True,
            dir_okay=False,
            help="Rank this table of raw scores, a column `team` and one per task, instead of what was measured here; "
            "--benchmark may then be the path of a YAML file.",
        ),
    ] = None,
    including: WithOption = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Print instead who would stand elsewhere under other weights, tasks and means."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the ranking, normalised and weighted, and how sure it is (docs/statistics.md).

    What the rules leave pending stands below, without a rank; what is superseded, late, withdrawn or disqualified
    appears only where --with asks for it. Baselines stand where their scores belong, and take no rank.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if scores is not None:
        if condition is not None or including:
            raise UsageError(
                "--condition and --with choose among what was measured here; a table made elsewhere has neither "
                "conditions nor standings"
            )
        print_ranked(service.rank_table(scores, benchmark, track=track), as_json=as_json, sensitivity=sensitivity)
        return
    boards = service.boards(benchmark, track=track, condition=condition, including=including or ())
    warn_of_outdated(service)
    if as_json:
        rankings = [services.sensitivity_json(b) if sensitivity else services.ranking_json(b) for b in boards]
        print_json(rankings[0] if len(rankings) == 1 else rankings)
        return
    for board in boards if sensitivity else ():
        ranked = [(row.team, row.rank) for row in board.rows if row.rank is not None]
        print_sensitivity(board.track, ranked, board.alternatives, board.agreement)
    for board in boards if not sensitivity else ():
        out.print(tables.board(board, out.width))
        if any(row.pending for row in board.rows):
            out.print(tables.pending(board))
    reasons = dict.fromkeys(reason for board in boards for reason in board.demonstration)
    if reasons:
        out.print(tables.demonstration(list(reasons)))


def print_sensitivity(
    track: str, ranked: Sequence[tuple[str, int]], alternatives: Sequence[Alternative], agreement: Agreement | None
) -> None:
    """Ranks under other choices; `ranked`: teams and their ranks, best first."""
    teams, ranks = [team for team, _ in ranked], [rank for _, rank in ranked]
    out.print(tables.sensitivity(track, teams, ranks, alternatives, agreement))


def print_ranked(ranked: Ranked, *, as_json: bool, sensitivity: bool) -> None:
    """The rankings of a table that was made elsewhere, and to standard error what its maker should look at."""
    for warning in ranked.warnings:
        err.print(Text.assemble(("warning:", "bold yellow"), " ", warning))
    if as_json:
        rankings = [each.sensitivity_json() if sensitivity else each.to_json() for each in ranked.rankings]
        print_json(rankings[0] if len(rankings) == 1 else rankings)
        return
    for ranking in ranked.rankings:
        if sensitivity:
            places = [(row.team, row.rank) for row in ranking.rows if row.rank is not None]
            print_sensitivity(ranking.track, places, ranking.alternatives, ranking.agreement)
            continue
        out.print(tables.ranking(ranking, out.width))


def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")],
    second: Annotated[str, typer.Argument(metavar="ID", help="The other one.")],
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say by how much two submissions differ, with the interval of the paired difference."""
    service: services.Ranker = context.obj.with_hidden(hidden)
    found = service.compare(first, second, benchmark, track=track, condition=condition)
    if as_json:
        print_json({name: [each.to_json() for each in differences] for name, differences in found.items()})
        return
    for name, differences in found.items():
        out.print(tables.comparison(name, first, second, differences))
