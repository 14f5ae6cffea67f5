"""Names for teams that stay unknown: drawn by lot once, kept in the home, and never derived from anything."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

from ranker.durable import whole_file
from ranker.errors import OrganizerError

FORMAT = 1
_SPARE = 2  # so many numbers for each team, so that a number does not tell how many teams there are


def pseudonyms(file: Path, teams: Collection[str], *, is_kept: bool = True) -> Mapping[str, str]:
    """A name such as `Team 07` for each of `teams`, always the same one; new ones are drawn and kept in `file`.

    The draw is the system's own randomness, so no order of arrival or of the alphabet is in it, and nobody can compute
    it from the names; who reads the file (mode 0600) knows who is who. `is_kept`: without it nothing is written.
    Raises OrganizerError where the file is damaged.
    """
    known = read(file)
    fresh = sorted(set(teams) - known.keys())
    if not fresh:
        return {team: known[team] for team in teams}
    wanted = _SPARE * (len(known) + len(fresh))
    digits = max(len(str(wanted)), 2, *(len(name.removeprefix("Team ")) for name in known.values()))
    free = [number for number in range(1, 10**digits) if f"Team {number:0{digits}d}" not in set(known.values())]
    drawn = secrets.SystemRandom().sample(free, len(fresh))
    known |= {team: f"Team {number:0{digits}d}" for team, number in zip(fresh, drawn, strict=True)}
    if is_kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as new:
            new.touch(mode=0o600)
            new.write_text(
                json.dumps({"format": FORMAT, "names": dict(sorted(known.items()))}, ensure_ascii=False, indent=1)
                + "\n",
                encoding="utf-8",
            )
    return {team: known[team] for team in teams}


def read(file: Path) -> dict[str, str]:
    """All that were drawn so far, by team; none where there is no file. Raises OrganizerError."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["names"]
        found = {str(team): str(name) for team, name in names.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        found = {}
    if not found or len(set(found.values())) < len(found):
        raise OrganizerError(
            f"{file}: expected the pseudonyms that were drawn, each once; found something else. Restore it from a "
            "backup: other pseudonyms would tell which teams stand behind those that are published"
        )
    return found
