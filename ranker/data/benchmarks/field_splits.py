"""Which clips are for training and which for the test: decided by a hash, for groups of clips that belong together.

The same clips always fall on the same side, on every machine, whatever else is there; a group is never cut in two.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

TEST_SHARE = 0.2

Item = TypeVar("Item")


class Split(StrEnum):
    """The two sides of a task's data; also the names of their shards."""

    TRAIN = "train"
    TEST = "test"


def draw(key: str) -> str:
    """A fixed pseudo-random order: sort by this."""
    return hashlib.sha256(key.encode()).hexdigest()


def connected(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """Names that some link mentions together, directly or over others, share a group; returns each name's group.

    A group is called by its smallest name, so the result does not depend on the order of the links.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for link in links:
        for other in link:
            one, two = sorted((find(link[0]), find(other)))
            parent[two] = one
    return {name: find(name) for name in parent}


def split_groups(strata: Mapping[str, str], test_share: float = TEST_SHARE) -> dict[str, Split]:
    """Each group's side. `strata` says for each group which stratum it is in; each stratum gives its share to the test.

    At least one group of each stratum goes to each side, where it has two or more.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for group, stratum in strata.items():
        members[stratum].append(group)
    sides: dict[str, Split] = {}
    for groups in members.values():
        groups.sort(key=draw)
        tested = min(math.ceil(test_share * len(groups)), len(groups) - 1)
        sides |= {group: Split.TEST if rank < tested else Split.TRAIN for rank, group in enumerate(groups)}
    return sides


def select(
    items: Iterable[Item],
    *,
    task: str,
    name: Callable[[Item], str],
    label: Callable[[Item], str],
    limit: int,
) -> list[Item]:
    """At most `limit` items of each label, in a fixed pseudo-random order that mixes the labels."""
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for item in sorted(items, key=lambda item: draw(f"{task}/{name(item)}")):
        if taken[label(item)] < limit:
            taken[label(item)] += 1
            chosen.append(item)
    return chosen
