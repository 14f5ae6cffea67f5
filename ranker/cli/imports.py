"""`ranker import-scores`: a table of scores that was made elsewhere becomes a board of this home."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, HiddenOption, JsonFlag, err, out, print_json

_DIGITS = 12


def import_scores(
    context: typer.Context,
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv", exists=True, dir_okay=False, help="A column `team`, and one per task with raw scores."
        ),
    ],
    benchmark: BenchmarkOption = None,
    track: Annotated[
        str | None, typer.Option("--track", "-t", help="Its track; default: each that it has a column for.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="TEXT", help="Who made it, for all readers; default: the file's name."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="TEAM", help="Shown in place, takes no rank; several times for several."),
    ] = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take in a table of raw scores that was made elsewhere.

    `rank`, `compare`, `leaderboard`, `publish` and `export` with this benchmark then go by it. The file is kept by its
    digest, and the log says who imported what. A corrected table takes the place of the one before, which is kept.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    found = service.import_scores(
        table, benchmark, track=track, source=source or table.name, baselines=tuple(baseline or ())
    )
    for warning in found.ranked.warnings:
        err.print(Text.assemble(("warning:", "bold yellow"), " ", warning))
    rankings = {each.track: each for each in found.ranked.rankings}
    if as_json:
        print_json(
            [
                {
                    "track": each.track,
                    "digest": each.origin.digest,
                    "source": each.origin.source,
                    "imported_at": each.origin.imported_at.isoformat(),
                    "supersedes": each.origin.supersedes,
                    "baselines": list(each.baselines),
                    "new": each.track in found.new,
                    "teams": len(rankings[each.track].rows),
                    "incomplete": {row.team: list(row.missing) for row in rankings[each.track].rows if row.missing},
                }
                for each in found.tables
            ]
        )
        return
    for each in found.tables:
        ranking = rankings[each.track]
        whole = f"track {each.track}: {len(ranking.rows)} teams, {len(ranking.tasks)} tasks"
        if each.track not in found.new:
            out.print(Text(f"{whole}; this table stands there already, nothing was changed"))
        else:
            before = each.origin.supersedes
            place = f" in place of {before[:_DIGITS]}" if before else ""
            out.print(Text(f"{whole}; imported as {each.origin.digest[:_DIGITS]}{place}"))
        for row in ranking.rows:
            if row.missing:
                out.print(Text(f"  {row.team} has no score of {', '.join(row.missing)}: shown, not ranked"))
