"""Shard patterns stand for the names that bash would make of them: bash itself is asked."""

from __future__ import annotations

import math
import random
import subprocess

import pytest
from effort import count

from ranker.data.shards import expand_braces
from ranker.errors import OrganizerError

CHOSEN = [
    "plain.tar", "a-{00..12}.tar", "{1..4}", "{3..1}", "{1..10..3}", "{10..1..3}", "{1..10..-3}", "{0..10..05}",
    "{01..10..4}", "{001..3}", "{1..003}", "{08..11}", "{99..101}", "{-5..5..5}", "{-05..5}", "{0..-3}", "{00..-3}",
    "{5..5}", "{a..e}", "{e..a..2}", "x{,y}z", "{a,b}/x-{1..3}.tar", "{a,b{1..2},{c,d}e}", "a{b,c{1..2},d{e,f}}g",
    "{{1..3},{a..b}}", "{0..9}{0..9}", "{a}", "{}", "x{}y", "{1..a}", "{1...3}", "{aa..bb}", "{1..3..2..1}", "{1.5..3}",
]  # fmt: skip


def pattern(chance: random.Random, depth: int = 2) -> tuple[str, int]:
    """Parts of text, lists and ranges, in each other; and how many names that may be, at most."""
    number = chance.choice(["{}", "0{}", "00{}", "-{}", "-0{}"])

    def part() -> tuple[str, int]:
        kind = chance.randrange(4 if depth else 2)
        if kind == 0:
            return chance.choice(["a", "b-", ".tar", "_0", "train/"]), 1
        if kind == 1:
            ends = [number.format(chance.randrange(12)), chance.choice(["{}", number]).format(chance.randrange(12))]
            if chance.random() < 0.2:
                ends = chance.choices("aeiou", k=2)
            step = chance.choice(["", "", f"..{chance.choice([-7, -2, -1, 0, 1, 2, 3, 7])}"])
            return "{" + "..".join(ends) + step + "}", 24
        inner = [pattern(chance, depth - 1) for _ in range(chance.randrange(1, 4))]
        texts = ["", *(text for text, _ in inner)] if kind == 3 and len(inner) > 1 else [text for text, _ in inner]
        return "{" + ",".join(texts) + "}", 1 + sum(number for _, number in inner)

    parts = [part() for _ in range(chance.randrange(1, 3))]
    return "".join(text for text, _ in parts), math.prod(number for _, number in parts)


def test_patterns_expand_as_in_bash() -> None:
    """Names, their order and their padding are bash's, for chosen patterns and for random ones."""
    chance = random.Random(0)
    draws = (pattern(chance) for _ in range(count("random brace patterns", short=600, long=20_000)))
    drawn = [text for text, number in draws if number <= 600]
    # A letter before and behind: bash leaves out words that are empty, which no shard is.
    patterns = [f"x{each}x" for each in [*CHOSEN, *drawn]]
    script = "".join(f"printf '%s\\n' {each}; echo ==\n" for each in patterns)
    said = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
    expected = [block.splitlines() for block in said.split("==\n")[:-1]]
    assert len(expected) == len(patterns) > 300
    assert sum(len(each) > 1 for each in expected) > 200
    wrong = [(each, names) for each, names in zip(patterns, expected, strict=True) if expand_braces(each) != names]
    assert wrong == []


@pytest.mark.parametrize("broken", ["train-{00..17.tar", "{a,b", "a,b}", "{a,b}}", "{a,{b}"])
def test_braces_that_do_not_match_are_refused(broken: str) -> None:
    """Bash would pass over them: a forgotten brace would be a shard that is missing for no visible reason."""
    with pytest.raises(OrganizerError, match="braces do not match"):
        expand_braces(broken)
