"""The last look before anybody sees it: every file of a rendered folder, against what must not be in it. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ranker import privacy
from ranker.publishing.reading import Piece, UnreadableError, pieces
from ranker.types import Standing

MARKER = ".ranker-site"
PLACES_TOLD = 3
_LEAST_NAME = 8
_BETWEEN = re.compile(r"[\s\"'<>()\[\]{},;|]+")
_HISTORY = ("history.html", "history/")  # what was public then: who is out since is out of the new pages


class Leak(StrEnum):
    """What must not be published."""

    ADDRESS = "e-mail address"
    PATH = "path of a machine"
    MACHINE = "name of a machine or a user"
    SECRET = "secret"  # noqa: S105  the word, no secret
    HIDDEN = "hidden task's content"
    UNRANKED = "submission that is not to be shown"
    NAME = "name that is to stay unknown"
    FILE = "file that cannot be looked into"


_ADVICE = {
    Leak.ADDRESS: "take it out where it comes from; if it is yours and may stand, list it under publish: allow",
    Leak.PATH: "it tells of this machine: report it, it should not have come so far; publish: allow lets it stand",
    Leak.MACHINE: "it tells of this machine: report it, it should not have come so far; publish: allow lets it stand",
    Leak.SECRET: "change that password or token now, then take it out where it comes from",
    Leak.HIDDEN: "hidden tasks stay hidden: publish without --hidden, or report it, it should not have come so far",
    Leak.UNRANKED: "publish with --with if it is to be seen, or type `ranker judge` and publish again",
    Leak.NAME: "it leads to an anonymous team: list it under publish: allow if it is just a word here",
    Leak.FILE: "the page has no such files: remove what put it there",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that must not be published: `what` it is, `where` it stands (some of `times`), and what to do."""

    leak: Leak
    what: str
    where: tuple[str, ...]
    times: int
    advice: str

    def words(self) -> str:
        """The finding as a sentence."""
        more = f" and {self.times - len(self.where)} more" if self.times > len(self.where) else ""
        return f"{self.leak} {self.what!r} in {', '.join(self.where)}{more}: {self.advice}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Forbidden:
    """What this home must keep to itself, beyond what is told by its looks (addresses, paths, keys).

    `folders`, `machines` and `users` of this machine and its workers; `secrets`, each under what it is; of hidden tasks
    the `hidden_tasks`' names, `hidden_texts` that may stand nowhere (prompts), and `hidden_cells` that no value may be
    equal to (clips, references, answers), and no word of a text if they hold a digit (clips); `unranked`
    submissions by id; `names` of teams that are anonymous, and ids and
    digests of their submissions.
    `shipped`: SHA-256 of files that come with ranker, by path, which are not looked into. `allowed`: what may stand.
    """

    folders: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    secrets: Mapping[str, str] = field(default_factory=dict)
    hidden_tasks: frozenset[str] = frozenset()
    hidden_texts: frozenset[str] = frozenset()
    hidden_cells: frozenset[str] = frozenset()
    unranked: Mapping[str, Standing] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    shipped: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()


def sweep(folder: Path, forbidden: Forbidden) -> list[Finding]:
    """All that must not be published of a folder's files, their names included; empty if everybody may see it."""
    found: dict[tuple[Leak, str], list[str]] = {}

    def tell(leak: Leak, what: str, where: str) -> None:
        if leak is Leak.SECRET or what not in forbidden.allowed:
            found.setdefault((leak, what), []).append(where)

    look = _looker(forbidden, tell)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        look(Piece(place="its own name", text=name, cells=(path.name, path.stem)), name)
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            tell(Leak.FILE, name, "the folder: it is a link, or no file")
        elif path.is_file() and not _is_shipped(path, name, forbidden):
            if path.name.startswith(".") and name != MARKER:
                tell(Leak.FILE, name, "the folder: its name begins with a dot")
            _hidden_tasks(path, name, forbidden, tell)
            try:
                for piece in pieces(path):
                    look(piece, name)
            except UnreadableError as error:
                tell(Leak.FILE, name, str(error))
    teams = _teams(folder) if found else frozenset()
    return [
        Finding(
            leak=leak,
            what=what,
            where=tuple(dict.fromkeys(where))[:PLACES_TOLD],
            times=len(where),
            advice=_named(what, teams) or _ADVICE[leak],
        )
        for (leak, what), where in found.items()
    ]


def _is_shipped(path: Path, name: str, forbidden: Forbidden) -> bool:
    return name in forbidden.shipped and hashlib.sha256(path.read_bytes()).hexdigest() == forbidden.shipped[name]


Tell = Callable[[Leak, str, str], None]
Find = Callable[[str], Iterator[str]]


def _looker(forbidden: Forbidden, tell: Tell) -> Callable[[Piece, str], None]:
    """A function that looks at one piece of a file, in all its readings."""
    known: list[tuple[Leak, Find]] = [
        (leak, find)
        for leak, find in (
            (Leak.PATH, _any(forbidden.folders, before=r"(?<![\w.-])", after=r"(?![\w-])")),
            (Leak.MACHINE, _any(forbidden.machines, before=r"(?<![\w.-])", after=r"(?![\w-])")),
            (Leak.MACHINE, _any(forbidden.users, before=r"(?<![\w.-])", after=r"@[\w-]+")),
            (Leak.HIDDEN, _any({_plain(text) for text in forbidden.hidden_texts})),
            (Leak.UNRANKED, _any(forbidden.unranked)),
            (
                Leak.NAME,
                _any({n for n in forbidden.names if _is_telling(n)}, before=r"(?<!\w)", after=r"(?!\w)", fold=True),
            ),
        )
        if find is not None
    ]
    cells = dict.fromkeys(forbidden.hidden_cells, Leak.HIDDEN) | dict.fromkeys(forbidden.names, Leak.NAME)

    marked = {cell for cell in forbidden.hidden_cells if any(map(str.isdigit, cell)) and not _BETWEEN.search(cell)}

    def hits(piece: Piece, file: str) -> set[tuple[Leak, str]]:
        found = {(cells[cell], cell) for cell in cells.keys() & {" ".join(cell.split()) for cell in piece.cells}}
        if marked:
            words = {word.strip(".:!?") for word in _BETWEEN.split(piece.text)}
            found |= {(Leak.HIDDEN, word) for word in marked & words}
        for text in privacy.readings(piece.text):
            found.update(_looks(text, forbidden, known))
        is_past = file.startswith(_HISTORY)
        return {(leak, what) for leak, what in found if not (is_past and leak is Leak.UNRANKED)}

    def look(piece: Piece, file: str) -> None:
        found = hits(piece, file)
        for part in piece.parts() if found else ():
            own = hits(part, file)
            for leak, what in sorted(own):
                tell(leak, what, f"{file} ({part.place})")
            found -= own
        for leak, what in sorted(found):
            tell(leak, what, file if piece.place == "text" else f"{file} ({piece.place})")

    return look


def _looks(text: str, forbidden: Forbidden, known: Collection[tuple[Leak, Find]]) -> Iterator[tuple[Leak, str]]:
    """What a text holds that it must not, by its looks and by what is known here."""
    yield from ((Leak.ADDRESS, address.strip()) for address in privacy.addresses(text))
    yield from ((Leak.PATH, path) for path in privacy.paths(text))
    yield from ((Leak.SECRET, f"{secret[:4]}\N{HORIZONTAL ELLIPSIS}") for secret in privacy.secrets(text))
    yield from ((Leak.SECRET, name) for name, value in forbidden.secrets.items() if value in text)
    plain = _plain(text)
    for leak, find in known:
        for what in find(plain):
            yield leak, f"{what} ({forbidden.unranked[what]})" if leak is Leak.UNRANKED else what


def _plain(text: str) -> str:
    return " ".join(text.split())


def _any(words: Collection[str], *, before: str = "", after: str = "", fold: bool = False) -> Find | None:
    """A function that finds any of these words, the longest first; None where there is none."""
    if not words:
        return None
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(f"{before}(?:{listed}){after}", re.IGNORECASE if fold else 0)

    def find(text: str) -> Iterator[str]:
        if fold or any(word in text for word in words):  # to look for each word alone is much faster
            yield from (found[0] for found in pattern.finditer(text))

    return find


def _is_telling(name: str) -> bool:
    """Whether a team's name among other words can only be that name; of others, only a whole value is."""
    return len(name) >= _LEAST_NAME or not name.isascii() or not name.isalpha()


def _hidden_tasks(path: Path, name: str, forbidden: Forbidden, tell: Tell) -> None:
    """Predictions of hidden tasks by the places that they would have: a file of their own, a sample in data.json."""
    parts = name.split("/")
    if parts[0] == "predictions" and path.stem in forbidden.hidden_tasks:
        tell(Leak.HIDDEN, path.stem, name)
    if path.suffix != ".json" or not forbidden.hidden_tasks:
        return
    for submission in _listed(_loaded(path), "submissions"):
        for run in _listed(submission, "runs"):
            told = run.get("samples")
            for task in forbidden.hidden_tasks & set(told if isinstance(told, dict) else ()):
                tell(Leak.HIDDEN, task, f"{name} (samples of {submission.get('id')})")


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None


def _listed(value: Any, key: str) -> list[dict[str, Any]]:
    found = value.get(key) if isinstance(value, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _teams(folder: Path) -> frozenset[str]:
    """Names of teams as data.json has them."""
    data = _loaded(folder / "data.json")
    rows = [row for board in _listed(data, "boards") for row in _listed(board, "rows")]
    return frozenset(str(each.get("team", "")) for each in (*rows, *_listed(data, "submissions")))


def _named(what: str, teams: Collection[str]) -> str:
    """What to do if it is part of a team's name."""
    team = next(
        (team for team in sorted(teams) if team and any(what in reading for reading in privacy.readings(team))), ""
    )
    if not team:
        return ""
    return (
        f"it is in the name of the team {team!r}: have the team choose another, correct the list and type "
        "`ranker teams import`; or list the name under publish: anonymous_teams"
    )
