"""Tables of scores that were made elsewhere, taken into a home: kept by digest, and told in the log.

The bytes lie in `tables/<sha256>.csv`; which of them is a track's table is what the log says last, so that a corrected
one takes the place of the old one, which is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import events
from ranker.board.tabled import of_table
from ranker.board.values import Board, Origin
from ranker.config import RankedBenchmark
from ranker.db.rules import Event
from ranker.digest import file_digest
from ranker.durable import whole_file
from ranker.errors import MissingError, OrganizerError, UsageError
from ranker.home import Home
from ranker.reweighing import Weights
from ranker.scoretable import Ranked, TableRanking, rank_table, read
from ranker.types import Action

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Table:
    """The table that stands for one track: where its scores come from, and which of its teams take no rank."""

    track: str
    origin: Origin
    baselines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did: per track the table that stands now, and whether it is new there."""

    tables: tuple[Table, ...]
    new: tuple[str, ...]
    ranked: Ranked


def import_table(
    session: Session,
    home: Home,
    benchmark: RankedBenchmark,
    path: Path,
    *,
    track: str | None,
    source: str,
    baselines: Collection[str],
    now: datetime,
) -> Imported:
    """Take in a table for `track`, or (None) for each track that it has a column for.

    The same table again, from the same source and with the same baselines, changes nothing. Raises UsageError where
    `ranker.scoretable` does, where a task has no column, a score lies outside its task's bounds, or a baseline is no
    team of the table; ConfigError for an unknown track. Nothing is kept of a table that is refused.
    """
    ranked = rank_table(path, benchmark, track, baselines=baselines)
    if ranked.faults:
        rest = len(ranked.faults) - _SHOWN
        more = f"; and {rest} more" if rest > 0 else ""
        raise UsageError(
            f"{path}: {'; '.join(ranked.faults[:_SHOWN])}{more}; correct the table, or look at it first with `ranker "
            f"rank --scores {path} --benchmark {benchmark.name}`"
        )
    for ranking in ranked.rankings:
        _refuse_unknown(baselines, ranking, path)
    digest = _keep(home, path)
    new = []
    for ranking in ranked.rankings:
        before = _latest(session, benchmark.name, ranking.track)
        wanted: dict[str, Any] = {"digest": digest, "source": source, "baselines": sorted(baselines)}
        if before is not None and {key: before.details[key] for key in wanted} == wanted:
            continue
        new.append(ranking.track)
        events.record(
            session,
            actor=events.whoami(),
            action=Action.IMPORT_SCORES,
            now=now,
            benchmark=benchmark.name,
            track=ranking.track,
            teams=len(ranking.rows),
            supersedes=None if before is None else before.details["digest"],
            **wanted,
        )
    tables = [table(session, benchmark, ranking.track) for ranking in ranked.rankings]
    return Imported(tables=tuple(tables), new=tuple(new), ranked=ranked)


def tracks(session: Session, benchmark: RankedBenchmark) -> list[str]:
    """The benchmark's tracks that have an imported table, in its own order."""
    return [name for name in benchmark.tracks if _latest(session, benchmark.name, name) is not None]


def table(session: Session, benchmark: RankedBenchmark, track: str) -> Table:
    """The table that stands for a track. Raises MissingError where none was imported, ConfigError for its name."""
    benchmark.track(track)
    found = _latest(session, benchmark.name, track)
    if found is None:
        raise MissingError(
            f"no table was imported for track {track} of benchmark {benchmark.name}; run `ranker import-scores "
            f"TABLE.csv --benchmark {benchmark.name} --track {track}`"
        )
    origin = Origin(
        digest=found.details["digest"],
        source=found.details["source"],
        imported_at=found.at,
        supersedes=found.details["supersedes"],
    )
    return Table(track=track, origin=origin, baselines=tuple(found.details["baselines"]))


def ranking(
    session: Session,
    home: Home,
    benchmark: RankedBenchmark,
    track: str,
    *,
    weights: Weights | None = None,
    names: Mapping[str, str] | None = None,
) -> tuple[TableRanking, Table]:
    """The ranking of the table that stands for a track. `names`: other names for teams.

    Raises as `table`, and OrganizerError if its file changed.
    """
    found = table(session, benchmark, track)
    path = _unchanged(home, found)
    if weights is not None:
        weighed = {name: weights.applied(each) if name == track else each for name, each in benchmark.tracks.items()}
        benchmark = benchmark.model_copy(update={"tracks": weighed})
    (one,) = rank_table(path, benchmark, track, baselines=found.baselines, names=names).rankings
    return one, found


def board(
    session: Session,
    home: Home,
    benchmark: RankedBenchmark,
    track: str,
    *,
    weights: Weights | None = None,
    names: Mapping[str, str] | None = None,
    now: datetime,
) -> Board:
    """The board of a track's table. Raises as `ranking`, and ConfigError where a task's domain is not given."""
    one, found = ranking(session, home, benchmark, track, weights=weights, names=names)
    active = benchmark.track(track)
    return of_table(one, active if weights is None else weights.applied(active), found.origin, now=now)


def teams(session: Session, home: Home, benchmark: RankedBenchmark) -> set[str]:
    """Names of all teams of the benchmark's tables, baselines left out. Raises as `ranking`."""
    tables = [table(session, benchmark, track) for track in tracks(session, benchmark)]
    return {team for each in tables for team in read(_unchanged(home, each)).teams if team not in each.baselines}


def _unchanged(home: Home, found: Table) -> Path:
    """The file of a table. Raises OrganizerError where it is not what was imported."""
    path = _path(home, found.origin.digest)
    if not path.is_file() or file_digest(path) != found.origin.digest:
        raise OrganizerError(
            f"{path}: the table imported for track {found.track} is gone or was changed; restore the file from a "
            "backup of the home, or import the table again"
        )
    return path


def _latest(session: Session, benchmark: str, track: str) -> Event | None:
    query = select(Event).where(Event.action == Action.IMPORT_SCORES).order_by(Event.id.desc())
    return next(
        (
            event
            for event in session.scalars(query)
            if (event.details["benchmark"], event.details["track"]) == (benchmark, track)
        ),
        None,
    )


def _path(home: Home, digest: str) -> Path:
    return home.tables / f"{digest}.csv"


def _keep(home: Home, path: Path) -> str:
    """Put the file's bytes among the tables; returns their digest."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    kept = _path(home, digest)
    if not kept.is_file() or file_digest(kept) != digest:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as piece:
            piece.write_bytes(data)
    return digest


def _refuse_unknown(baselines: Collection[str], ranking: TableRanking, path: Path) -> None:
    teams = {row.team for row in ranking.rows}
    unknown = [team for team in sorted(baselines) if team not in teams]
    if unknown:
        raise UsageError(
            f"{path}: no team is called {', '.join(map(repr, unknown))}, so that it cannot be a baseline; write a name "
            "exactly as the table has it"
        )
