"""The command line: which commands there are, in which sections of the help, and how each kind of error ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from typer.core import TyperGroup

import ranker
from ranker import service as services
from ranker.cli import tables
from ranker.cli.audit import audit
from ranker.cli.calibrate import calibrate
from ranker.cli.compare import compare
from ranker.cli.data import data_app
from ranker.cli.db import db_app
from ranker.cli.doctor import doctor
from ranker.cli.estimate import estimate
from ranker.cli.evaluate import evaluate
from ranker.cli.export import export
from ranker.cli.hosts import allow_host
from ranker.cli.imports import import_scores
from ranker.cli.inbox import inbox
from ranker.cli.ingest import check, ingest
from ranker.cli.inspect import data_inspect
from ranker.cli.links import links_app
from ranker.cli.log import log
from ranker.cli.logs import logs
from ranker.cli.metric import metric
from ranker.cli.metrics import metrics
from ranker.cli.options import err, out
from ranker.cli.outbox import outbox_app
from ranker.cli.pages import leaderboard, results
from ranker.cli.plan import plan
from ranker.cli.publish import publish
from ranker.cli.queue import cancel, pause, prioritize, rerun, resume, retry
from ranker.cli.ranking import rank
from ranker.cli.rules import admit, disqualify, judge, reinstate, review, withdraw
from ranker.cli.serve import serve
from ranker.cli.submissions import show, status
from ranker.cli.teams import teams_app
from ranker.cli.work import work
from ranker.errors import InfraError, ParticipantError, RankerError, UsageError

SECTIONS: Mapping[str, Sequence[Callable[..., Any] | tuple[str, typer.Typer]]] = {
    "What comes in": (ingest, check, inbox, ("links", links_app), ("outbox", outbox_app), allow_host, import_scores),
    "Who is ranked": (("teams", teams_app), review, admit, withdraw, disqualify, reinstate, judge, log),
    "The work": (evaluate, work, cancel, retry, prioritize, rerun, pause, resume),
    "How it goes": (status, show, logs, metrics, plan, estimate),
    "What came out": (rank, compare, leaderboard, publish, serve, export, results, metric, calibrate, audit),
    "This machine": (doctor, ("data", data_app), ("db", db_app)),
}


class Sectioned(TyperGroup):
    """A group whose help lists its commands by section."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write each section's commands, one line each."""
        width = formatter.width - 6 - max(map(len, self.commands))
        sections = dict.fromkeys(command.rich_help_panel for command in self.commands.values())  # type: ignore[attr-defined]
        for section in sections:
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(width))
                        for name, command in self.commands.items()
                        if command.rich_help_panel == section  # type: ignore[attr-defined]
                    ]
                )


app = typer.Typer(
    name="ranker",
    cls=Sectioned,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Take in, run, score and rank audio encoders of a challenge for large audio language models.",
)
data_app.command("inspect")(data_inspect)
for title, members in SECTIONS.items():
    for member in members:
        if isinstance(member, tuple):
            name, group = member
            app.add_typer(group, name=name, rich_help_panel=title)
        else:
            app.command(member.__name__.replace("_", "-"), rich_help_panel=title)(member)

# Every complaint about the command line is a click exception; typer has its own copy of click, or not, by its version.
Misuse = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every expected error is one sentence and an exit code, without a traceback."""
    command = typer.main.get_command(app)
    try:
        arguments = None if arguments is None else list(arguments)
        code = command.main(args=arguments, prog_name="ranker", standalone_mode=False) or 0
        if code == STOPPED:  # newer versions of typer turn Ctrl-C into this code, older ones let it through
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except Misuse as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except ParticipantError as error:
        tables.print_reasons(err, error.reasons)
        sys.exit(error.exit_code)
    except RankerError as error:
        err.print(Text(f"ranker: {error}"))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("ranker: stopped; the same command goes on from here")
        sys.exit(STOPPED)
    except BrokenPipeError:  # nobody reads on: what Python would still write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(InfraError.exit_code)
    except (OSError, DBAPIError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        advice = "is the disk full, or the home another user's? `ranker doctor` looks at both, and at the database"
        err.print(Text(f"ranker: {found}; {advice}"))
        sys.exit(InfraError.exit_code)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    home: Annotated[
        Path,
        typer.Option(
            "--home", envvar="RANKER_HOME", file_okay=False, help="Folder of ranker.db, submissions/ and leaderboard/."
        ),
    ] = Path(),
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"ranker {ranker.__version__}")
        raise typer.Exit
    context.obj = services.Ranker(home)
