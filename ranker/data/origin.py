"""How a benchmark's data is come by: the advice that goes with every error about data that is not there."""

from __future__ import annotations

from ranker.types import Buildable


def how_to_get(benchmark: str) -> str:
    """What to run for a benchmark's data: it is built here, or fetched."""
    verb = "build" if benchmark in set(Buildable) else "fetch"
    return f"run `ranker data {verb} {benchmark}`"


def how_to_restore(benchmark: str) -> str:
    """What to do about a shard that is not the recorded one. A shard of no repository is recorded anew by a fetch."""
    if benchmark in set(Buildable):
        return f"run `ranker data build {benchmark} --again`"
    return (
        f"put the recorded file back, or delete this one and run `ranker data fetch {benchmark}`; if it is a shard of "
        "your own, changed on purpose, that command alone records what is there"
    )
