"""A page becomes public: rendered aside, looked through, kept as a version, and put in the place of the old one."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ranker import site
from ranker.board import Board
from ranker.calibration import Calibration
from ranker.durable import flush, locked
from ranker.errors import UsageError
from ranker.home import Home
from ranker.publishing import versions as kept
from ranker.publishing.changes import TrackChange, changes, teams
from ranker.publishing.gate import Finding, Forbidden, sweep
from ranker.publishing.versions import HISTORY, HISTORY_PAGE, SITE, Version
from ranker.site import SubmissionPage, text
from ranker.site.history_view import ChangeView, MoveView, VersionView, write_history
from ranker.site.track_view import Demonstration

TOLD = 5


class RefusedError(UsageError):
    """The gate found what must not be published; `findings` says all of it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        said = "; ".join(finding.words() for finding in findings[:TOLD])
        more = (
            f"; and {len(findings) - TOLD} more, which `ranker publish --check` lists" if len(findings) > TOLD else ""
        )
        things = "1 thing" if len(findings) == 1 else f"{len(findings)} things"
        super().__init__(f"nothing was published, since {things} must not be: {said}{more}")


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a publication is made of."""

    benchmark: str
    boards: Sequence[Board]
    pages: Sequence[SubmissionPage]
    calibrations: Sequence[Calibration]
    forbidden: Forbidden


@dataclass(frozen=True, kw_only=True)
class Act:
    """Who publishes when, and what the record says of it."""

    now: datetime
    by: str
    why: str = ""
    rollback_of: int | None = None
    despite_embargo: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a publication would make visible, and what stands against it. `files`: bytes by path.

    `before`: the number of the version that it is compared with, None for the first. `same`: nothing differs but times.
    """

    number: int
    before: int | None
    files: Mapping[str, int]
    teams: tuple[str, ...]
    fields: tuple[str, ...]
    files_new: tuple[str, ...]
    files_changed: tuple[str, ...]
    files_gone: tuple[str, ...]
    fields_new: tuple[str, ...]
    fields_gone: tuple[str, ...]
    changes: tuple[TrackChange, ...]
    findings: tuple[Finding, ...]
    same: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"files": dict(self.files), "findings": [each.to_json() for each in self.findings]}


def check(home: Home, material: Material, act: Act) -> Plan:
    """What `publish` would do, from a page that is rendered into a folder of its own and removed."""
    with tempfile.TemporaryDirectory(prefix="ranker-check-") as room:
        known = kept.kept(home)
        folder = Path(room) / SITE
        _render(material, folder)
        data = _with_history(home, folder, known, material.forbidden, act)
        return _plan(home, folder, known, data, sweep(folder, material.forbidden))


def _plan(home: Home, folder: Path, known: Sequence[Version], data: Any, findings: Sequence[Finding]) -> Plan:
    last = known[-1] if known else None
    old = None if last is None else kept.data_of(home, last.number)
    now = kept.contents(folder, _times(data))
    was = {} if last is None or old is None else kept.contents(kept.folder(home, last.number) / SITE, _times(old))
    fields, fields_before = _fields(folder), () if last is None else _fields(kept.folder(home, last.number) / SITE)
    return Plan(
        number=1 + (0 if last is None else last.number),
        before=None if last is None else last.number,
        files={name: path.stat().st_size for name, path in kept.files(folder)},
        teams=tuple(sorted(teams(data))),
        fields=fields,
        files_new=tuple(name for name in now if name not in was),
        files_changed=tuple(name for name in now if name in was and now[name] != was[name]),
        files_gone=tuple(name for name in was if name not in now),
        fields_new=tuple(each for each in fields if each not in fields_before),
        fields_gone=tuple(each for each in fields_before if each not in fields),
        changes=changes(old, data),
        findings=tuple(findings),
        same=last is not None and now == was,
    )


def publish(home: Home, material: Material, act: Act) -> Version | None:
    """Make a page public, as the next version; None where it would differ from the last one in nothing but times.

    Raises RefusedError, and UsageError where something else than a page is in its place.
    """

    def fill(folder: Path) -> None:
        _render(material, folder)

    return _published(home, fill, material.benchmark, material.forbidden, act, is_forced=False)


def roll_back(home: Home, number: int, forbidden: Forbidden, act: Act) -> Version:
    """Make an older version's page public again, as a new version; what lay between is taken back.

    Raises RefusedError where today's knowledge forbids it, UsageError where there is no such version or it is the last.
    """
    old = kept.one(home, number)
    if number == kept.kept(home)[-1].number:
        raise UsageError(f"version {number} is what everybody sees now; choose an older one")

    def fill(folder: Path) -> None:
        shutil.copytree(kept.folder(home, number) / SITE, folder, ignore=shutil.ignore_patterns(HISTORY, HISTORY_PAGE))
        for _, path in kept.files(folder):
            path.chmod(0o644)
        shutil.rmtree(folder / HISTORY, ignore_errors=True)

    act = replace(act, rollback_of=number)
    made = _published(home, fill, old.benchmark, forbidden, act, is_forced=True)
    assert made is not None
    return made


def _render(material: Material, folder: Path) -> None:
    site.render(material.boards, material.pages, folder, calibrations=material.calibrations, has_history=True)


def teams_of(home: Home, number: int) -> frozenset[str]:
    """Every team that a version names. Raises MissingError."""
    return teams(kept.data_of(home, number))


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One publication at a time; what an earlier one left half done is settled first."""
    home.versions.mkdir(parents=True, exist_ok=True)
    with locked(home.versions / ".lock", lambda: None):
        kept.settle(home)
        yield


def _published(
    home: Home,
    fill: Callable[[Path], None],
    benchmark: str,
    forbidden: Forbidden,
    act: Act,
    *,
    is_forced: bool,
) -> Version | None:
    with _alone(home):
        known = kept.kept(home)
        number = 1 + (known[-1].number if known else 0)
        room = kept.pending(home, number)
        try:
            room.mkdir()
            folder = room / SITE
            fill(folder)
            data = _with_history(home, folder, known, forbidden, act)
            findings = sweep(folder, forbidden)
            if findings:
                raise RefusedError(findings)
            plan = _plan(home, folder, known, data, findings)
            if plan.same and not is_forced and home.site.is_dir():
                shutil.rmtree(room)
                return None
            version = _version(folder, plan, benchmark, forbidden, act)
            kept.write_record(room, version)
            _show(home, room)
            room.rename(kept.folder(home, number))
            flush(home.versions)
        except Exception:
            shutil.rmtree(room, ignore_errors=True)
            raise
    return version


def _version(folder: Path, plan: Plan, benchmark: str, forbidden: Forbidden, act: Act) -> Version:
    digests = kept.digests(folder)
    said = [f"track {each.track}: {sentence}" for each in plan.changes for sentence in each.sentences()]
    return Version(
        number=plan.number,
        published_at=act.now,
        published_by=act.by,
        benchmark=benchmark,
        data=digests["data.json"],
        files=digests,
        size_bytes=sum(plan.files.values()),
        changed=tuple(said),
        why=act.why,
        rollback_of=act.rollback_of,
        is_anonymous=bool(forbidden.names),
        despite_embargo=act.despite_embargo,
    )


def _show(home: Home, room: Path) -> None:
    """Put a copy of a version's page where everybody looks."""
    new = home.site.with_name(f".{home.site.name}.next")
    shutil.rmtree(new, ignore_errors=True)  # left by a publication that was killed
    shutil.copytree(room / SITE, new)
    for _, path in kept.files(new):
        path.chmod(0o644)
    site.put_in_place(new, home.site)


# -- the history


def _with_history(home: Home, folder: Path, known: Sequence[Version], forbidden: Forbidden, act: Act) -> Any:
    """Add history.html, and the data of earlier versions, to a rendered page; returns the page's own data.

    Of versions that were taken back, or that name teams which are anonymous now, nothing is said but that they were.
    """
    data = kept.load_data(folder / "data.json")
    number = 1 + (known[-1].number if known else 0)
    taken = kept.taken_back(known)
    if act.rollback_of is not None:
        taken = (taken | set(range(act.rollback_of + 1, number))) - {act.rollback_of}
    views: list[VersionView] = []
    before: Any = None
    for version in known:
        own = kept.data_of(home, version.number)
        is_named = bool(teams(own) & forbidden.names)
        is_open = version.number not in taken and not is_named
        if is_open:
            target = folder / HISTORY / f"{version.number:04d}.json"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(kept.folder(home, version.number) / SITE / "data.json", target)
        note = _note(version.rollback_of, version.why, is_taken=version.number in taken, is_named=is_named)
        views.append(_view(version.number, version.published_at, own, before, note, is_open=is_open))
        before = own if is_open else before
    views.append(
        replace(
            _view(number, act.now, data, before, _note(act.rollback_of, act.why), is_open=True),
            is_current=True,
            data_href="data.json",
        )
    )
    boards = data["boards"]
    title = boards[0]["benchmark_title"] if boards else "Leaderboard"
    write_history(folder, views, benchmark=title, demonstrations=_demonstrations(boards))
    return data


def _view(number: int, at: datetime, own: Any, before: Any, note: str, *, is_open: bool) -> VersionView:
    found = changes(before, own) if is_open else ()
    return VersionView(
        number=number,
        at=at,
        is_current=False,
        is_open=is_open,
        note=note or ("" if found or not is_open else "No team, rank or score changed."),
        teams=len(teams(own)),
        changes=tuple(map(_change_view, found)),
        data_href=f"{HISTORY}/{number:04d}.json" if is_open else "",
    )


def _note(rollback_of: int | None, why: str, *, is_taken: bool = False, is_named: bool = False) -> str:
    """What stands beside a version. Why it was taken back is said at the version that did so."""
    if is_taken:
        return "It was taken back."
    if is_named:
        return "It was published under names that are not shown any more."
    said = f"It shows version {rollback_of} again; what lay between was taken back." if rollback_of is not None else ""
    return " ".join(filter(None, (said, why)))


def _change_view(change: TrackChange) -> ChangeView:
    scores = [value for move in change.moves for value in (move.score_before, move.score) if value is not None]
    digits = 3 if len({text.number(value) for value in scores}) == len(set(scores)) else 4

    def rank(value: int | None) -> str:
        return text.NONE if value is None else str(value)

    def direction(before: int | None, now: int | None) -> str:
        if before is None or now is None or before == now:
            return ""
        return f"up {before - now}" if now < before else f"down {now - before}"

    return ChangeView(
        track=change.track,
        sentences=change.sentences(),
        moves=tuple(
            MoveView(
                team=text.team_name(move.team, text.NONE),
                rank_before=rank(move.rank_before),
                rank=rank(move.rank),
                direction=direction(move.rank_before, move.rank),
                score_before=text.number(move.score_before, digits),
                score=text.number(move.score, digits),
                note="with another submission" if move.is_other_submission else "",
            )
            for move in change.moves
        ),
    )


def _demonstrations(boards: Sequence[Mapping[str, Any]]) -> tuple[Demonstration, ...]:
    """Why these boards are no results of the challenge, as their data says it: what all share, then each one's own."""
    told = [tuple(board["demonstration"]) for board in boards]
    shared = tuple(dict.fromkeys(reason for own in told for reason in own if all(reason in each for each in told)))
    found = [Demonstration(scope="", reasons=shared)]
    for board, own in zip(boards, told, strict=True):
        reasons = tuple(reason for reason in own if reason not in shared)
        found.append(Demonstration(scope=f"Track {board['track']}", reasons=reasons))
    return tuple(each for each in found if each.reasons)


# -- what a folder holds


def _times(data: Any) -> frozenset[str]:
    """The times that a page bears for having been made then, as it writes them."""
    times = {board["made_at"] for board in data["boards"]}
    return frozenset(times | {text.moment(datetime.fromisoformat(time)) for time in times})


def _fields(folder: Path) -> tuple[str, ...]:
    """What is told, whatever its values: names in JSON, columns of tables, with the kind of file; without history."""
    found: set[str] = set()
    for name, path in kept.files(folder):
        if name.startswith(f"{HISTORY}/"):
            continue
        if path.suffix == ".json":
            found |= {f"{name}: {field}" for field in _names(json.loads(path.read_text(encoding="utf-8")), "")}
        elif path.suffix == ".csv":
            heading = path.read_text(encoding="utf-8").partition("\n")[0]
            found |= {f"{name}: {column}" for column in heading.split(",")}
        elif path.suffix == ".parquet":
            import pyarrow.parquet as pq

            found |= {f"*.parquet: {column}" for column in pq.read_schema(path).names}
    return tuple(sorted(found))


_FREE = re.compile(r"(\.(cells|groups|scores|software|recipe|samples|skipped|refused_clips))\.[^.\[]+")


def _names(value: Any, place: str) -> Iterator[str]:
    """Places of values, with [] for any element, and * for what is named by tasks, packages and the like."""
    at = {place: [value]}  # all values of one place together
    while at:
        place, values = at.popitem()
        is_end = False
        for each in values:
            if isinstance(each, dict) and each:
                for key, item in each.items():
                    at.setdefault(f"{place}.{key}" if place else str(key), []).append(item)
            elif isinstance(each, list) and each:
                at.setdefault(f"{place}[]", []).extend(each)
            else:
                is_end = True
        if is_end:
            yield _FREE.sub(r"\1.*", place)
