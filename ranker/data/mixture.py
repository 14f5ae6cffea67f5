"""Which pair comes next in training: a pure function of the sources and of a seed, the same for every team.

docs/protocol.md, section 2 (mixture, batching). Only the standard library's `random.Random`, seeded by strings, which
is the same in every process and on every machine; no global random state is read or left changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ranker.data.shards import Clip, Shard
from ranker.errors import OrganizerError


@dataclass(frozen=True, kw_only=True)
class Source:
    """One task's training data. `weight` is relative to the others'; None is its shards / all sources' shards."""

    name: str
    shards: tuple[Shard, ...]
    keys: tuple[str, ...]
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One training sample. `source` is an index into the sources; `visit` counts how often the clip was read before.

    The several references of a clip are pairs of one visit.
    """

    source: int
    clip: Clip
    reference: str
    visit: int


def weights(sources: Sequence[Source]) -> list[float]:
    """Probability of each source for one draw; sums to 1. Raises OrganizerError where a source has no clip to give."""
    if not sources:
        raise OrganizerError("the training mixture is empty: no task of the track has training data")
    for source in sources:
        if not any(shard.clips for shard in source.shards):
            raise OrganizerError(f"task {source.name}: its {len(source.shards)} training shards hold no clip")
    shards = sum(len(source.shards) for source in sources)
    raw = [len(source.shards) / shards if source.weight is None else source.weight for source in sources]
    return [weight / sum(raw) for weight in raw]


def pairs(sources: Sequence[Source], *, seed_key: str, pairs_per_draw: int) -> Iterator[Pair]:
    """Endless training samples: each draw takes the next `pairs_per_draw` pairs of one source, drawn by its weight.

    Each source has a stream and a random state of its own, so what it gives does not depend on the other sources.
    """
    probabilities = weights(sources)
    streams = [_stream(index, source, f"{seed_key}/shards/{source.name}") for index, source in enumerate(sources)]
    draw = random.Random(f"{seed_key}/mixture")
    while True:
        (stream,) = draw.choices(streams, probabilities)
        yield from islice(stream, pairs_per_draw)


def _stream(index: int, source: Source, seed_key: str) -> Iterator[Pair]:
    """One source's endless pairs: shards drawn uniformly with replacement, each read whole and in order."""
    draw = random.Random(seed_key)
    visits = [0] * len(source.shards)
    while True:
        chosen = draw.randrange(len(source.shards))
        for clip in source.shards[chosen].clips:
            for reference in clip.references(source.keys):
                yield Pair(source=index, clip=clip, reference=reference, visit=visits[chosen])
        visits[chosen] += 1


def batches(
    stream: Iterator[Pair],
    *,
    length: Callable[[Pair], float],
    batch_size: int,
    shuffle_window: int,
    sort_window: int,
    seed_key: str,
) -> Iterator[tuple[Pair, ...]]:
    """Batches of pairs of like length: windows are shuffled, then cut into windows sorted by length, longest first.

    What is left of a sorted window after its last full batch is dropped. `length` is the protocol's sum of seconds and
    of prompt and target tokens. Raises OrganizerError if a sorted window is smaller than a batch: none would be full.
    """
    if sort_window < batch_size:
        raise OrganizerError(
            f"sort_window {sort_window} is smaller than batch_size {batch_size}: no batch would ever be full"
        )
    shuffled = _shuffled(stream, shuffle_window, random.Random(f"{seed_key}/shuffle"))
    while window := sorted(islice(shuffled, sort_window), key=length, reverse=True):
        for start in range(0, len(window) - batch_size + 1, batch_size):
            yield tuple(window[start : start + batch_size])


def _shuffled(stream: Iterator[Pair], window: int, draw: random.Random) -> Iterator[Pair]:
    while chunk := list(islice(stream, window)):
        draw.shuffle(chunk)
        yield from chunk
