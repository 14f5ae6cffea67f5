"""Names of teams that stay unknown, and of their submissions: drawn by lot once, kept in the home, and never derived
from anything.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ranker.board import Board
from ranker.durable import locked, whole_file
from ranker.errors import OrganizerError
from ranker.site import SubmissionPage

FORMAT = 1
_ID_BYTES = 6
_SPARE = 2  # so many numbers for each team, so that a number does not tell how many teams there are


def pseudonyms(
    file: Path, teams: Collection[str], *, taken: Collection[str] = (), is_kept: bool = True
) -> Mapping[str, str]:
    """A name such as `Team 07` for each of `teams`, always the same one; new ones are drawn and kept in `file`.

    The draw is the system's own randomness, so no order of arrival or of the alphabet is in it, and nobody can compute
    it from the names; who reads the file (mode 0600) knows who is who. `taken`: names that teams really have, of which
    none is drawn. `is_kept`: without it nothing is written.
    Raises OrganizerError where the file is damaged.
    """
    with _alone(file, is_kept=is_kept):
        known, ids = _drawn(file)
        fresh = sorted(set(teams) - known.keys())
        if fresh:
            known |= zip(fresh, _sampled(len(fresh), known.values(), {*known, *teams, *taken}), strict=True)
            if is_kept:
                _keep(file, known, ids)
    return {team: known[team] for team in teams}


def _sampled(count: int, drawn: Collection[str], taken: Collection[str]) -> list[str]:
    """So many further names, none of which was drawn or taken."""
    digits = max(len(str(_SPARE * (len(drawn) + count))), 2, *(len(name.removeprefix("Team ")) for name in drawn))
    while True:
        free = [f"Team {number:0{digits}d}" for number in range(1, 10**digits)]
        free = [name for name in free if name not in {*drawn, *taken}]
        if len(free) >= count:
            return secrets.SystemRandom().sample(free, count)
        digits += 1


def identities(file: Path, submissions: Collection[str], *, is_kept: bool = True) -> Mapping[str, str]:
    """Another id for each of `submissions`, always the same one, drawn as `pseudonyms` are and kept beside them.

    A submission's own id begins its ZIP's SHA-256, which whoever has the ZIP can compute. Raises OrganizerError.
    """
    with _alone(file, is_kept=is_kept and bool(submissions)):
        names, known = _drawn(file)
        fresh = sorted(set(submissions) - known.keys())
        for submission in fresh:
            drawn = secrets.token_hex(_ID_BYTES)
            while drawn in known.values() or drawn in known or drawn in submissions:
                drawn = secrets.token_hex(_ID_BYTES)
            known[submission] = drawn
        if fresh and is_kept:
            _keep(file, names, known)
    return {submission: known[submission] for submission in submissions}


def veiled(
    boards: Sequence[Board], pages: Sequence[SubmissionPage], ids: Mapping[str, str]
) -> tuple[list[Board], list[SubmissionPage]]:
    """Boards and pages with other ids for some submissions, whose pages tell neither the ZIP's digest nor its arrival.

    Their teams have other names there already.
    """
    shown = [
        replace(
            board,
            rows=tuple(replace(row, submission_id=ids.get(row.submission_id, row.submission_id)) for row in board.rows),
        )
        for board in boards
    ]
    told = [replace(page, id=ids[page.id], digest=None, received_at=None) if page.id in ids else page for page in pages]
    return shown, told


@contextmanager
def _alone(file: Path, *, is_kept: bool) -> Iterator[None]:
    """Nobody else draws meanwhile: what only one of two wrote, the other may have published."""
    if not is_kept:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock"), lambda: None):
        yield


def _keep(file: Path, names: Mapping[str, str], ids: Mapping[str, str]) -> None:
    value = {"format": FORMAT, "names": dict(sorted(names.items())), "submissions": dict(sorted(ids.items()))}
    with whole_file(file) as new:
        new.touch(mode=0o600)
        new.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> dict[str, str]:
    """All names that were drawn so far, by team; none where there is no file. Raises OrganizerError."""
    return _drawn(file)[0]


def _drawn(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Names by team, and ids by submission. Raises OrganizerError where the file is damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        names, ids = (
            {str(own): str(shown) for own, shown in drawn.items()}
            for drawn in (value["names"], value.get("submissions", {}))  # the file of an older ranker has no ids
        )
        is_whole = len(set(names.values())) == len(names) and len(set(ids.values())) == len(ids)
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise OrganizerError(
            f"{file}: expected the pseudonyms that were drawn, each once; found something else. Restore it from a "
            "backup: other pseudonyms would tell which teams stand behind those that are published"
        )
    return names, ids
