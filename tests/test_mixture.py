"""Which pair comes when: as configured, and as a function of the seed alone."""

import math
import random
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
from braceexpand import braceexpand
from scipy.stats import chisquare

from ranker import config
from ranker.config import Benchmark
from ranker.data.mixture import Pair, Source, batches, pairs, weights
from ranker.data.shards import Clip, Shard
from ranker.errors import OrganizerError

GOLDEN_SOURCES = "baaaaaabbbbaaaabaaabaabaaabaaaabbbabbaaa"
GOLDEN_SHARDS = ["a-2.tar", "a-1.tar", "a-0.tar", "a-0.tar", "a-2.tar", "a-2.tar"]


def source(name: str, shards: int, clips: int = 10, weight: float | None = None, references: int = 1) -> Source:
    made = tuple(
        Shard(
            path=f"{name}-{at}.tar",
            clips=tuple(
                Clip(
                    shard=f"{name}-{at}.tar",
                    key=f"{number:03d}",
                    member="x",
                    offset=0,
                    size=0,
                    duration_s=float(number),
                    sample_rate_hz=16_000,
                    fields={"label": [f"{number}/{each}" for each in range(references)]},
                )
                for number in range(clips)
            ),
        )
        for at in range(shards)
    )
    return Source(name=name, shards=made, keys=("label",), weight=weight)


def take(sources: list[Source], count: int, seed: str = "seed", per_draw: int = 4) -> list[Pair]:
    return list(islice(pairs(sources, seed_key=seed, pairs_per_draw=per_draw), count))


def test_a_source_without_weight_counts_by_its_shards():
    """The protocol: null is the source's share of all shards; numbers are taken as they are, and all is normalised."""
    assert weights([source("a", 1), source("b", 3)]) == [0.25, 0.75]
    raw = [0.25, 3.0]
    assert weights([source("a", 1), source("b", 3, weight=3.0)]) == pytest.approx([each / sum(raw) for each in raw])


def challenge(track: str) -> list[Source]:
    """The sources of a track as configs/challenge.yaml weights them, each with its number of shards."""
    tasks = (
        config.load(Benchmark, Path(__file__).parent.parent / "configs" / "challenge.yaml").track(track).active_tasks
    )
    splits = [(task.name, task.train) for task in tasks if task.train is not None]
    return [
        source(name, sum(len(list(braceexpand(each))) for each in split.shards), clips=2, weight=split.mixture_weight)
        for name, split in splits
    ]


SHARES = [source("a", 3), source("b", 1, weight=0.5), source("c", 5, weight=1.5), source("d", 1, weight=0.02)]


@pytest.mark.parametrize(
    ("sources", "kinds"), [(SHARES, 4), (challenge("A"), 15), (challenge("B"), 5)], ids=["shares", "A", "B"]
)
def test_the_mixture_is_the_configured_one(sources: list[Source], kinds: int):
    """Over 100,000 draws every source's share is within four standard errors of its weight, and all of them together
    are as far off as chance has it (chi-square); weights that are a tenth off in one source would not pass.
    """
    draws = 100_000
    drawn = Counter(pair.source for pair in take(sources, draws, per_draw=1))
    assert len(drawn) == len(sources) == kinds
    expected = weights(sources)
    for index, share in enumerate(expected):
        assert abs(drawn[index] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)
    counts = [drawn[index] for index in range(kinds)]
    assert 1e-3 < chisquare(counts, [share * draws for share in expected]).pvalue < 1 - 1e-3
    largest = max(range(kinds), key=expected.__getitem__)
    off = [share * (1.1 if index == largest else 1.0) for index, share in enumerate(expected)]
    assert chisquare(counts, [share * draws / sum(off) for share in off]).pvalue < 1e-6


def test_shards_are_drawn_uniformly_with_replacement():
    """Over 20,000 readings each of five shards comes equally often, also right after itself."""
    read = [pair.clip.shard for pair in take([source("a", 5, clips=1)], 20_000)]
    for count in Counter(read).values():
        assert abs(count / 20_000 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)
    again = sum(one == other for one, other in pairwise(read)) / 20_000
    assert abs(again - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)


def test_a_shard_is_read_whole_and_in_order_across_draws():
    """A draw goes on where the source's last one stopped, whatever came between; visits count the readings."""
    stream = [pair for pair in take([source("a", 2, clips=7), source("b", 2)], 4000) if pair.source == 0]
    seen: Counter[str] = Counter()
    for start in range(0, len(stream) - 7, 7):
        reading = stream[start : start + 7]
        assert [pair.clip.key for pair in reading] == [f"{number:03d}" for number in range(7)]
        assert {pair.clip.shard for pair in reading} == {reading[0].clip.shard}
        assert {pair.visit for pair in reading} == {seen[reading[0].clip.shard]}
        seen[reading[0].clip.shard] += 1
    assert min(seen.values()) > 10


def test_a_draw_takes_consecutive_pairs_of_one_source():
    """Sources change only at multiples of pairs_per_draw."""
    stream = take([source("a", 1, clips=5), source("b", 1, clips=3)], 4000)
    for start in range(0, 4000, 4):
        assert len({pair.source for pair in stream[start : start + 4]}) == 1


def test_every_reference_is_a_pair_of_its_own():
    """The references of a clip follow each other, in one visit."""
    stream = take([source("a", 1, clips=2, references=3)], 12)
    assert [pair.reference for pair in stream] == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"] * 2
    assert [pair.visit for pair in stream] == [0] * 6 + [1] * 6


def test_the_stream_is_a_function_of_the_seed_alone():
    """The same seed gives the same stream whatever was drawn from the global state, which is left as it was."""
    sources = [source("a", 3), source("b", 2)]
    random.seed(1)
    before = random.getstate()
    first = take(sources, 1000)
    assert random.getstate() == before
    random.seed(2)
    assert take(sources, 1000) == first
    assert take(sources, 1000, seed="other") != first


def test_the_stream_is_the_same_on_every_machine():
    """Golden: what this seed gave when it was recorded; a change would make old and new runs incomparable."""
    stream = take([source("a", 3), source("b", 2)], 400)[::4]
    assert "".join("ab"[pair.source] for pair in stream)[:40] == GOLDEN_SOURCES
    assert [pair.clip.shard for pair in stream if pair.source == 0][:60:10] == GOLDEN_SHARDS


def test_a_sources_own_stream_does_not_depend_on_the_others():
    """Adding a task changes when a source is drawn, not what it gives."""
    alone = take([source("a", 3)], 400)
    mixed = [pair for pair in take([source("a", 3), source("b", 9)], 4000) if pair.source == 0]
    assert mixed[:400] == alone[: len(mixed[:400])]
    assert len(mixed) > 400


def test_an_empty_source_is_an_error_and_not_an_endless_loop():
    """Sources without clips, and a mixture without sources, are refused at once."""
    with pytest.raises(OrganizerError, match="task a: its 2 training shards hold no clip"):
        take([source("a", 2, clips=0)], 1)
    with pytest.raises(OrganizerError, match="mixture is empty"):
        take([], 1)


def length(pair: Pair) -> float:
    return pair.clip.duration_s + pair.visit


def test_batches_are_the_protocols():
    """Written out: windows of 24 shuffled, cut into windows of 9, sorted, batches of 4, the ninth dropped."""
    stream = take([source("a", 4), source("b", 2)], 240)
    made = list(batches(iter(stream), length=length, batch_size=4, shuffle_window=24, sort_window=9, seed_key="s"))
    draw, shuffled = random.Random("s/shuffle"), []
    for start in range(0, 240, 24):
        window = stream[start : start + 24]
        draw.shuffle(window)
        shuffled += window
    expected = []
    for start in range(0, 240, 9):
        window = sorted(shuffled[start : start + 9], key=length, reverse=True)
        expected += [tuple(window[at : at + 4]) for at in (0, 4) if at + 4 <= len(window)]
    assert made == expected
    assert len(made) > 50


def test_batches_of_one_seed_are_equal_and_of_another_are_not():
    """The order of batches is a function of the seed."""
    stream = take([source("a", 4)], 240)

    def make(seed: str) -> list[tuple[Pair, ...]]:
        return list(
            batches(iter(stream), length=length, batch_size=4, shuffle_window=64, sort_window=32, seed_key=seed)
        )

    assert make("x") == make("x")
    assert make("x") != make("y")


def test_within_a_window_batches_go_from_long_to_short():
    """Lengths never rise inside a sorted window, and every batch is full."""
    stream = pairs([source("a", 4, clips=50)], seed_key="s", pairs_per_draw=4)
    made = batches(stream, length=length, batch_size=4, shuffle_window=256, sort_window=128, seed_key="s")
    window = [length(pair) for batch in islice(made, 32) for pair in batch]
    assert window == sorted(window, reverse=True)
    assert len(window) == 128


def test_a_window_smaller_than_a_batch_is_refused():
    """It would give no batch for ever."""
    with pytest.raises(OrganizerError, match="sort_window 3 is smaller than batch_size 4"):
        next(batches(iter([]), length=length, batch_size=4, shuffle_window=8, sort_window=3, seed_key="s"))
