"""Names and ids by lot, for teams that stay unknown."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from boards import small_board, submissions

from ranker.errors import OrganizerError
from ranker.publishing.pseudonyms import identities, pseudonyms, veiled


def test_no_pseudonym_is_a_name_that_somebody_has(tmp_path: Path) -> None:
    """A team that calls itself Team 01 to 99, or such a baseline, is nobody's pseudonym."""
    taken = [f"Team {n:02d}" for n in range(1, 99)]
    assert pseudonyms(tmp_path / "file", ["owls"], taken=taken) == {"owls": "Team 99"}
    (more,) = pseudonyms(tmp_path / "full", ["owls"], taken=[*taken, "Team 99"]).values()
    assert len(more) == len("Team 001")


def test_pseudonyms_are_drawn_by_lot_and_kept(tmp_path: Path) -> None:
    """Neither order of names nor of draws shows; two homes differ; a damaged file is refused, not drawn anew."""
    teams = [f"team {n:03d}" for n in range(200)]
    draws = [pseudonyms(tmp_path / str(home), teams) for home in range(2)]
    for drawn in draws:
        assert len(set(drawn.values())) == 200
        numbers = [int(drawn[team].removeprefix("Team ")) for team in teams]
        assert 60 < sum(one < other for one, other in pairwise(numbers)) < 140
    assert draws[0] != draws[1]
    assert pseudonyms(tmp_path / "0", [*teams, "new"]).items() > draws[0].items()
    assert "newer" in pseudonyms(tmp_path / "0", ["newer"], is_kept=False)
    assert "newer" not in (tmp_path / "0").read_text(encoding="utf-8")
    (tmp_path / "0").write_text('{"names": {"a": "Team 01", "b": "Team 01"}}', encoding="utf-8")
    with pytest.raises(OrganizerError, match="other pseudonyms would tell"):
        pseudonyms(tmp_path / "0", teams)


def test_ids_are_drawn_by_lot_and_kept_beside_the_names(tmp_path: Path) -> None:
    """An id that hangs on the ZIP's digest, or another one at the next publication, or names lost by drawing ids."""
    file, own = tmp_path / "file", [f"{n:012x}" for n in range(50)]
    assert identities(file, own[:1], is_kept=False) != identities(file, own[:1], is_kept=False)
    assert not file.exists()
    drawn = identities(file, own)
    assert len({*drawn.values(), *own}) == 100
    names = pseudonyms(file, ["owls", "foxes"])
    assert identities(file, own) == drawn != identities(tmp_path / "other", own)
    assert pseudonyms(file, ["owls"]).items() <= names.items()
    assert file.stat().st_mode & 0o077 == 0


def test_a_veiled_page_tells_no_digest_and_no_time() -> None:
    """Rows and pages keep pointing at each other; who is not anonymous stays as it was."""
    board = small_board()
    pages = submissions(board)
    own = pages[0].id
    (veiled_board,), told = veiled([board], pages, {own: "ab12cd34ef56"})
    assert [row.submission_id for row in board.rows].index(own) == [
        row.submission_id for row in veiled_board.rows
    ].index("ab12cd34ef56")
    assert (told[0].id, told[0].digest, told[0].received_at) == ("ab12cd34ef56", None, None)
    assert list(told[1:]) == list(pages[1:])
    assert own not in json.dumps(veiled_board.to_json())
