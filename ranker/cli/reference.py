"""docs/cli.md, made from the commands' own help: `python -m ranker.cli.reference > docs/cli.md`. A test compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from ranker.cli.app import STOPPED, app
from ranker.errors import MissingError, ParticipantError, RankerError, UsageError

WIDTH = 100
EXIT_CODES = {
    0: "done",
    RankerError.exit_code: "our fault: machine, data or configuration failed; `ranker data verify` found a difference",
    UsageError.exit_code: "wrong usage: the command, its arguments, or a YAML file",
    ParticipantError.exit_code: "a submission was refused, or failed by its own fault",
    MissingError.exit_code: "something is missing that `ranker doctor` names, with what to do",
    STOPPED: "stopped by Ctrl-C; the same command goes on from there",
}


def markdown() -> str:
    """The whole page: exit codes, then every command with its help."""
    parts = [
        "# Commands",
        "What the program says of itself, written here by `python -m ranker.cli.reference > docs/cli.md`; a test fails "
        "where\nthe two differ. [operator.md](operator.md) says when to use which.",
        "## Exit codes",
        "\n".join(["| code | meaning |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())]),
    ]
    for name, command, context in commands():
        parts += [f"## {name}", f"```\n{command.get_help(context).strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[str, Any, Any]]:
    """`ranker` and every command under it: full name, the command, and a context to ask for its help."""
    yield from _under("", typer.main.get_command(app), None)


def _under(above: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    name = f"{above} {command.name}".strip()
    yield name, command, context
    for each in getattr(command, "commands", {}).values():
        yield from _under(name, each, context)


if __name__ == "__main__":
    sys.stdout.write(markdown())
