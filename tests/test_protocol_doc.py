"""docs/protocol.md states the recipe's defaults: it must state those that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from ranker.config import Recipe

DOCUMENT = Path(__file__).parent.parent / "docs" / "protocol.md"
# Of the machine that runs a recipe, not of the protocol.
UNDOCUMENTED = {"max_frames", "checkpoint_every", "feature_cache_gb", "answer_memory_gb", "threads"}
WORDS = {"all": None, "no": False, "yes": True}


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def parsed(text: str) -> object:
    """A cell of the table as the value that it stands for."""
    if text in WORDS:
        return WORDS[text]
    if text.startswith("`"):
        return text.strip("`")
    numbers = tuple(float(part) for part in text.split(", "))
    return numbers if len(numbers) > 1 else numbers[0]


def test_the_table_names_every_setting_of_the_protocol() -> None:
    """Completeness: a field added to the recipe must be explained, and a removed one must go from the table."""
    assert set(documented()) == set(Recipe.model_fields) - UNDOCUMENTED


def test_the_table_states_the_values_that_the_code_has() -> None:
    """Agreement: each number of the table is the default of the field beside it."""
    rows = documented()
    assert len(rows) > 20
    recipe = Recipe()
    assert {name: parsed(text) for name, text in rows.items()} == {name: getattr(recipe, name) for name in rows}
