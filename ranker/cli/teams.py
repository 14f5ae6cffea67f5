"""`ranker teams`: who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, err, out, print_json
from ranker.cli.rules import print_changes

teams_app = typer.Typer(help="Registered teams: list them, or import them.", invoke_without_command=True)


@teams_app.callback()
def teams(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the registered teams, with what they have sent; or import them.

    Addresses are shown as mail is matched by them.
    """
    if context.invoked_subcommand is not None:
        return
    service: services.Ranker = context.obj
    known = service.teams()
    if as_json:
        print_json(
            [
                {
                    "team": team.name,
                    "affiliation": team.affiliation,
                    "addresses": list(team.addresses),
                    "members": [{"name": member.name, "person": member.person} for member in team.members],
                    "submissions": [
                        {"id": view.submission.id, "state": view.state, "standing": view.standing} for view in views
                    ],
                }
                for team, views in known
            ]
        )
        return
    if not known:
        out.print("no teams yet: `ranker teams import FILE.csv` takes a list in")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("team", "affiliation", "addresses", "members", "submissions"):
        table.add_column(name, overflow="fold")
    for team, views in known:
        sent = "\n".join(
            f"{view.submission.id} {view.state if view.is_out else f'{view.state}, {view.standing}'}" for view in views
        )
        members = "\n".join(member.name for member in team.members)
        cells = (team.name, team.affiliation, "\n".join(team.addresses), members, sent)
        table.add_row(*(Text(cell) for cell in cells))
    out.print(table)


@teams_app.command("import")
def teams_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", exists=True, dir_okay=False, help="The list, in UTF-8.")],
    prune: Annotated[bool, typer.Option("--prune", help="Take out the teams that the list does not name.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take in a list of teams (CSV), as a registration form exports it.

    Columns are told by their headings: team; contact or e-mail; affiliation; members. Commas, semicolons or tabs part
    columns; addresses in a cell are parted by commas, semicolons, blanks or line breaks, members by semicolons or line
    breaks. Every fault is named with its line, and then nothing is imported. The same list again changes nothing, a
    newer one updates. All submissions are judged anew.
    """
    service: services.Ranker = context.obj
    done = service.import_teams(file, prune=prune)
    if as_json:
        print_json(done.to_json())
        return
    out.print(
        Text(
            f"{len(done.added)} new, {len(done.changed)} changed, {len(done.removed)} taken out, {done.same} as before"
        )
    )
    for name, changes in done.changed.items():
        out.print(Text(f"  {name}: {'; '.join(changes)}"))
    if done.removed:
        out.print(Text(f"  taken out: {', '.join(done.removed)}"))
    if done.absent:
        err.print(Text(f"kept, though the list does not name them: {', '.join(done.absent)} (--prune takes them out)"))
    if done.unread:
        err.print(Text(f"columns that mean nothing here: {', '.join(done.unread)}"))
    for warning in done.warnings:
        err.print(Text.assemble(("warning:", "bold yellow"), " ", warning))
    print_changes(done.judged)
