"""`ranker rank`: who stands where, and how sure that is."""

from __future__ import annotations

import math
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
from ranker.reweighing import Weights
from ranker.types import Group

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
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="TASK=W",
            help="What if this task weighed W, 0 for not at all? Several times for several tasks; with --track where "
            "there are several.",
        ),
    ] = None,
    group_weight: Annotated[
        list[str] | None,
        typer.Option("--group-weight", metavar="GROUP=W", help="The same for a group's mean: public or hidden."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the ranking, normalised and weighted, and how sure it is (docs/statistics.md).

    What the rules leave pending stands below, without a rank; what is superseded, late, withdrawn or disqualified
    appears only where --with asks for it. Baselines stand where their scores belong, and take no rank.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    weights = _weights(weight or [], group_weight or [])
    if weights is not None:
        given = ", ".join((*(weight or []), *(group_weight or [])))
        err.print(Text.assemble(("not the official ranking:", "bold yellow"), " weights are ", given))
    if scores is not None:
        if condition is not None or including:
            raise UsageError(
                "--condition and --with choose among what was measured here; a table made elsewhere has neither "
                "conditions nor standings"
            )
        table = service.rank_table(scores, benchmark, track=track, weights=weights)
        print_ranked(table, as_json=as_json, sensitivity=sensitivity)
        return
    boards = service.boards(benchmark, track=track, condition=condition, including=including or (), weights=weights)
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


def _weights(tasks: Sequence[str], groups: Sequence[str]) -> Weights | None:
    """What --weight and --group-weight say; None where neither is given. Raises UsageError."""
    if not tasks and not groups:
        return None
    by_group = _pairs("--group-weight", groups)
    unknown = [name for name in by_group if name not in set(Group)]
    if unknown:
        raise UsageError(f"--group-weight: {unknown[0]!r} is no group; there is {' and '.join(Group)}")
    weights = {Group(name): weight for name, weight in by_group.items()}
    return Weights(tasks=_pairs("--weight", tasks), groups=weights)


def _pairs(option: str, given: Sequence[str]) -> dict[str, float]:
    pairs: dict[str, float] = {}
    for each in given:
        name, _, number = each.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or math.isnan(weight):
            raise UsageError(f"{option} {each!r}: expected a name, an equals sign and a number, such as esc-50=2")
        if name in pairs:
            raise UsageError(f"{option}: {name} is given twice")
        pairs[name] = weight
    return pairs


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
