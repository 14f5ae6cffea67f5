"""`ranker db ...`: where the database is, what it holds, and how it is moved."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import Progress, TaskID
from rich.text import Text

from ranker import service as services
from ranker.cli.options import JsonFlag, err, out, print_json

db_app = typer.Typer()


@db_app.callback(invoke_without_command=True)
def db(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Say where the database is, its revision, its size, and how many rows each table has.

    It is ranker.db of the home, or what RANKER_DATABASE or `database.url` of configs/service.yaml says. No password is
    ever printed.
    """
    if context.invoked_subcommand is not None or context.resilient_parsing:
        return
    service: services.Ranker = context.obj
    found = service.database_facts()
    if as_json:
        print_json(found.to_json())
        return
    newest = found.revision == found.newest_revision
    note = "" if newest else f" (this ranker's is {found.newest_revision}; the next command that writes migrates it)"
    out.print(Text(f"{found.where}\n{found.kind} {found.version}, {found.size_bytes / 1e6:.1f} MB"))
    out.print(Text(f"revision {found.revision}{note}"))
    for name, rows in found.rows.items():
        out.print(Text(f"{rows:>9,}  {name}"))


@db_app.command("copy")
def db_copy(
    context: typer.Context,
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO_URL", help="postgresql+psycopg://USER@HOST/DATABASE, or sqlite:////FOLDER/ranker.db."
        ),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Copy the whole database into an empty one, from SQLite to PostgreSQL or back.

    All or nothing: every row keeps its id, and is read back and compared before anything counts. Refused while jobs
    run. The old database stays as it is; the new one is used once RANKER_DATABASE or `database.url` names it. A
    password stands in RANKER_DATABASE_SECRET, in `database.secret_file`, or in ~/.pgpass.
    """
    service: services.Ranker = context.obj
    with Progress(console=err, disable=not err.is_terminal) as progress:
        bars: dict[str, TaskID] = {}

        def on_rows(table: str, done: int, total: int) -> None:
            if table not in bars:
                bars[table] = progress.add_task(table, total=total)
            progress.update(bars[table], completed=done)

        copied = service.copy_database(to, on_rows=on_rows)
    if as_json:
        print_json(copied.to_json())
        return
    out.print(
        Text(f"{sum(copied.rows.values()):,} rows of {len(copied.rows)} tables: {copied.origin} -> {copied.target}")
    )
    out.print(Text(f"digest {copied.digest} over every row, read there and here"))
    out.print(
        Text("the old one stays as it is, and is still in use until RANKER_DATABASE or database.url names the new")
    )
