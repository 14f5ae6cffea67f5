"""How a benchmark's data is come by: the advice that goes with every error about data that is not there."""

from __future__ import annotations

from ranker.types import Buildable


def how_to_get(benchmark: str) -> str:
    """What to run for a benchmark's data: it is built here, or fetched."""
    verb = "build" if benchmark in set(Buildable) else "fetch"
    return f"run `ranker data {verb} {benchmark}`"
