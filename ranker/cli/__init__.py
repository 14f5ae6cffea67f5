"""The command line: a command parses, calls one function, and prints. The only place that knows typer and rich."""

from ranker.cli.app import main

__all__ = ["main"]
