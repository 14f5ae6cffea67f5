"""The table of attacks and the document of security name what there is: every file, every test, every defence."""

from __future__ import annotations

import ast
import re
from datetime import date, timedelta
from pathlib import Path

import effort
from attack_table import ATTACKS, EXHAUSTING, LYING, PARTS, PEEKING, WRITING, Layer

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "security.md"
FILES = {file.stem for file in (TESTS / "attacks").glob("*.py")} - set(PARTS)
MODULES = {
    PEEKING: ("test_attacks_peek.py",),
    EXHAUSTING: ("test_attacks_exhaust.py",),
    LYING: ("test_attacks_lie.py", "test_witness.py"),
    WRITING: ("test_attacks_wire.py",),
}


def rows() -> list[list[str]]:
    """The cells of the document's table of attacks, one list for each row."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == 4 and ".py" in row[3]]


def test_every_attack_has_its_row_its_docstring_and_its_place_in_the_table() -> None:
    """At least 40 of them, none forgotten anywhere, none named that is not there."""
    named = [attack.file for attack in ATTACKS]
    told = [word for row in rows() for word in re.findall(r"`(\w+)`", row[1])]
    assert len(FILES) >= 40
    assert sorted(named) == sorted(FILES)
    assert sorted(told) == sorted(FILES)
    for name in FILES:
        docstring = ast.get_docstring(ast.parse((TESTS / "attacks" / f"{name}.py").read_text(encoding="utf-8")))
        assert docstring is not None, name
        assert docstring.startswith("Tries "), name


def test_every_attack_is_run_by_a_test_of_its_kind() -> None:
    """By name in its module, or, for those that look around, by the table that the module runs."""
    assert "PEEKING" in (TESTS / "test_attacks_peek.py").read_text(encoding="utf-8")
    asked = 0
    for attacks in (EXHAUSTING, LYING, WRITING):
        text = "".join((TESTS / module).read_text(encoding="utf-8") for module in MODULES[attacks])
        for attack in attacks:
            assert re.search(rf'"{attack.file}(\.py)?"', text), attack.file
            asked += 1
    assert asked == len(ATTACKS) - len(PEEKING)


def test_every_test_that_the_document_names_is_there() -> None:
    """Files, and functions in them."""
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 40
    for module, function in named:
        text = (TESTS / module).read_text(encoding="utf-8")
        assert f"def {function or 'test_'}" in text, (module, function)


def test_few_attacks_go_without_a_control() -> None:
    """Each says why; all those that look around have one."""
    without = [attack for attack in ATTACKS if attack.no_control]
    assert len(without) <= len(ATTACKS) // 4
    assert not set(without) & set(PEEKING)
    assert all(attack.layers for attack in ATTACKS)
    assert {layer for attack in ATTACKS for layer in attack.layers} <= set(Layer)


def test_three_days_run_every_case_once() -> None:
    """Whatever the day begins with; and a day gives the same cases whenever it is asked for."""
    cases = list(range(10))
    for start in (date(2026, 11, 20), date(2027, 12, 31)):
        days = [effort.third(cases, day=start + timedelta(days=number)) for number in range(3)]
        assert sorted(case for day in days for case in day) == cases
        assert effort.third(cases, day=start) == days[0]
