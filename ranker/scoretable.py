"""Tables of raw scores that were made elsewhere: read with suspicion, matched to a benchmark's tasks, ranked.

Nothing is guessed. A cell that is neither a number nor one of the usual signs for a missing one is refused with its
line; a number that no task could have given, and a column of numbers that belongs to no task, are warned about.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ranker import uncertainty
from ranker.config import RankedBenchmark, RankedTask, RankedTrack
from ranker.errors import ConfigError, UsageError
from ranker.scoring import Means, normalize, rank
from ranker.types import Group, Resampling
from ranker.uncertainty import Agreement, Alternative, Certainty, Pairs

_TEAM = "team"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LIKE_A_NUMBER = re.compile(r"[+-]?[\d.,'\s]*\d[\d.,'\s]*%?", re.ASCII)
_ABSENT = {"", "-", "\N{EN DASH}", "\N{EM DASH}", "n/a", "na", "nan", "none", "null"}
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """One file as it stands: `header`, and per team its line number and cells, stripped; no line is empty.

    `teams` are in the order of the file, each once. `columns` has as many cells as there are teams for each place of
    the header.
    """

    path: Path
    header: tuple[str, ...]
    teams: tuple[str, ...]
    lines: tuple[int, ...]
    columns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RankedRow:
    """One team. An incomplete one has no rank and no score, and lists what is `missing`; a baseline has no rank.

    `groups` holds the mean of each of the track's groups, None unless the team has all of its tasks; `raw` the scores
    as they were given, None where there is none. `interval`: (low, high) of the score, and `sure`: how sure the rank
    is; both by drawing tasks, not test items, with replacement, for nothing else is known. None without it.
    """

    team: str
    rank: int | None
    score: float | None
    groups: Mapping[Group, float | None]
    raw: Mapping[str, float | None]
    missing: tuple[str, ...]
    interval: tuple[float, float] | None = None
    sure: Certainty | None = None
    is_baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class TableRanking:
    """One track of the table, ranked: best first, equals by name, then the incomplete by name. A baseline stands where
    its score belongs.

    `alternatives`: ranks of the ranked rows under other choices of the committee. `agreement`: how alike public and
    hidden tasks order them; None without both groups. `resampling`: what intervals let vary.
    """

    benchmark: str
    benchmark_title: str
    track: str
    track_title: str
    tasks: tuple[RankedTask, ...]
    rows: tuple[RankedRow, ...]
    alternatives: tuple[Alternative, ...] = ()
    agreement: Agreement | None = None
    pairs: Pairs | None = None
    resampling: Resampling = Resampling.TASKS

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the track's tasks belong to, public first."""
        return tuple(group for group in Group if any(task.group is group for task in self.tasks))

    def to_json(self) -> dict[str, Any]:
        """What `ranker rank --scores --json` prints. A group that the track does not have is null."""
        return {
            "track": self.track,
            "resampling": self.resampling,
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "rows": [
                {
                    "team": row.team,
                    "rank": row.rank,
                    "score": row.score,
                    "interval": _bounds("low", "high", row.interval),
                    "rank_interval": _bounds(
                        "best", "worst", None if row.sure is None else (row.sure.best, row.sure.worst)
                    ),
                    "p_first": row.sure and row.sure.first,
                    "p_next": row.sure and row.sure.p_next,
                    "tier": row.sure and row.sure.tier,
                    "groups": {group.value: row.groups.get(group) for group in Group},
                    "missing": list(row.missing),
                }
                for row in self.rows
            ],
        }

    def sensitivity_json(self) -> dict[str, Any]:
        """What `ranker rank --scores --sensitivity --json` prints; `ranks` go with `teams`."""
        ranked = [row for row in self.rows if row.rank is not None]
        return {
            "track": self.track,
            "teams": [row.team for row in ranked],
            "ranks": [row.rank for row in ranked],
            "alternatives": [asdict(each) for each in self.alternatives],
            "agreement": None if self.agreement is None else asdict(self.agreement),
        }


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The rankings of a table, one per track, and what its maker should look at.

    `faults`: the first of the warnings' causes, in full: a table with one is ranked when asked, but never imported.
    """

    rankings: tuple[TableRanking, ...]
    warnings: tuple[str, ...]
    faults: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Matched:
    """Which places of the table's header belong to the tasks of one track; fills `warnings` and `faults`."""

    table: ScoreTable
    track: RankedTrack
    places: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def rank_table(
    path: Path,
    benchmark: RankedBenchmark,
    track: str | None = None,
    *,
    baselines: Collection[str] = (),
    names: Mapping[str, str] | None = None,
) -> Ranked:
    """Rank the teams of a table on `track`, or (None) on each track that it has a column for.

    `baselines`: teams that take no rank. `names`: other names for teams, which decide among equals as their own would.

    A task's name is matched with a column's after dropping case and all but letters and digits. Raises UsageError
    where the table cannot be read, has no column for the track(s), or holds a cell that is no number; ConfigError for
    an unknown track, or one with two tasks that only differ in what is dropped.
    """
    table = read(path)
    if names:
        table = replace(table, teams=tuple(names.get(team, team) for team in table.teams))
    wanted = {track: benchmark.track(track)} if track is not None else dict(benchmark.tracks)
    matched = {name: _match(table, name, each) for name, each in wanted.items()}
    matched = {name: each for name, each in matched.items() if each.places}
    if not matched:
        where = f"track {track} of {benchmark.name}" if track is not None else f"benchmark {benchmark.name}"
        known = [task.name for each in wanted.values() for task in each.active_tasks]
        raise UsageError(
            f"{path}: no column is called like a task of {where}; its tasks are {', '.join(known)}; "
            f"the table's columns are {_listed(list(map(repr, table.header)))}; --benchmark may name another benchmark"
        )
    warnings = _unmatched(table, benchmark)
    rankings = tuple(_ranking(each, benchmark, name, baselines) for name, each in matched.items())
    warnings += [warning for each in matched.values() for warning in each.warnings]
    faults = tuple(fault for each in matched.values() for fault in each.faults)
    return Ranked(rankings=rankings, warnings=tuple(warnings), faults=faults)


def read(path: Path) -> ScoreTable:
    """Read a CSV file with a column `team`: separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with or
    without a byte order mark. Raises UsageError with the line that is wrong.
    """
    header, rows = _cells(path)
    keys = [key_of(name) for name in header]
    if keys.count(_TEAM) != 1:
        found = "no column" if _TEAM not in keys else "more than one column"
        raise UsageError(f"{path}: {found} is called `team`; the columns are {_listed(list(map(repr, header)))}")
    place = keys.index(_TEAM)
    teams: dict[str, int] = {}
    for line, cells in rows:
        team = cells[place]
        if not team:
            raise UsageError(f"{path}, line {line}: there is no team's name; expected one in column {place + 1}")
        if not team.isprintable():
            raise UsageError(f"{path}, line {line}: the team's name {team!r} holds control or invisible characters")
        if team in teams:
            raise UsageError(
                f"{path}: team {team!r} stands on line {teams[team]} and on line {line}; leave one of them"
            )
        teams[team] = line
    if not teams:
        raise UsageError(f"{path}: the table has a header and no teams below it")
    return ScoreTable(
        path=path,
        header=header,
        teams=tuple(teams),
        lines=tuple(teams.values()),
        columns=tuple(zip(*(cells for _, cells in rows), strict=True)),
    )


def key_of(name: str) -> str:
    """A name as it is compared: its letters and digits, without case."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def _cells(path: Path) -> tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]:
    """Header and lines of a file, split at the separator whose header has a team column, else the most columns."""
    text = _text(path)
    headers = {separator: _header(text, separator) for separator in _SEPARATORS}
    separator = max(headers, key=lambda each: (_TEAM in map(key_of, headers[each]), len(headers[each])))
    if not headers[separator]:
        raise UsageError(f"{path}: the file is empty; expected a header with a column `team`, and a line for each team")
    (_, header), *rows = _split(path, text, separator)
    return header, [(line, _fitted(path, line, cells, header, separator)) for line, cells in rows]


def _header(text: str, separator: str) -> list[str]:
    """The first line that is not empty, as it would be split; nothing where there is none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        return next((cells for cells in reader if any(map(str.strip, cells))), [])
    except csv.Error:
        return []


def _fitted(path: Path, line: int, cells: tuple[str, ...], header: Sequence[str], separator: str) -> tuple[str, ...]:
    if len(cells) < len(header) or any(cells[len(header) :]):
        raise UsageError(
            f"{path}, line {line}: {len(cells)} cells separated by {_SEPARATORS[separator]}, expected {len(header)} as "
            'in the header; is one missing, or does a cell hold the separator without being in "quotes"?'
        )
    return cells[: len(header)]


def _split(path: Path, text: str, separator: str) -> list[tuple[int, tuple[str, ...]]]:
    """The lines that are not empty, with their numbers. Raises UsageError on quotes that are not closed."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, tuple[str, ...]]] = []
    try:
        for cells in reader:
            stripped = tuple(" ".join(cell.split()) for cell in cells)
            if any(stripped):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise UsageError(
            f'{path}, line {reader.line_num}: the quotes do not fit ({error}); expected "..." around a whole cell, and '
            '"" for a quote inside'
        ) from error
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        before = data[: error.start].rpartition(b"\n")[2]
        line, column = data.count(b"\n", 0, error.start) + 1, max(before.count(each) for each in b",;\t") + 1
        raise UsageError(
            f"{path}, line {line}, column {column}: is not text in UTF-8 (byte {data[error.start]:#04x} is no part of "
            "it, as in files of older Windows programs); save the table as CSV UTF-8"
        ) from error


def _match(table: ScoreTable, name: str, track: RankedTrack) -> _Matched:
    """Find each active task's column. Raises UsageError where there are two, ConfigError where two tasks share one."""
    tasks: dict[str, RankedTask] = {}
    for task in track.tasks:
        other = tasks.setdefault(key_of(task.name), task)
        if other is not task:
            raise ConfigError(
                f"track {name}: tasks {other.name} and {task.name} cannot be told apart in a table, where case and all "
                "but letters and digits are dropped; rename one"
            )
    found = _Matched(table=table, track=track)
    places = _places(table)
    for task in track.active_tasks:
        own = places.get(key_of(task.name), [])
        if len(own) > 1:
            columns = " and ".join(f"{table.header[place]!r} (column {place + 1})" for place in own)
            raise UsageError(f"{table.path}: {columns} are both task {task.name}; leave one of them")
        if own:
            found.places[task.name] = own[0]
    return found


def _places(table: ScoreTable) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(table.header):
        places.setdefault(key_of(name), []).append(place)
    return places


def _unmatched(table: ScoreTable, benchmark: RankedBenchmark) -> list[str]:
    """A warning for each column of numbers that is no active task of any track, or of one that is switched off."""
    tasks = [task for track in benchmark.tracks.values() for task in track.tasks]
    active = {key_of(task.name) for task in tasks if task.enabled}
    off = {key_of(task.name): task.name for task in tasks if not task.enabled}
    warnings = []
    for place, name in enumerate(table.header):
        key = key_of(name)
        if key in active or key == _TEAM or not _holds_numbers(table.columns[place]):
            continue
        what = f"column {name!r}" if name else f"column {place + 1}, which has no name,"
        reason = f"is task {off[key]}, which is switched off" if key in off else "holds numbers but is no task"
        warnings.append(f"{what} {reason} of benchmark {benchmark.name}; it does not count")
    return warnings


def _holds_numbers(cells: Iterable[str]) -> bool:
    present = [cell for cell in cells if not _is_absent(cell)]
    return bool(present) and all(_LIKE_A_NUMBER.fullmatch(cell) or _NUMBER.fullmatch(cell) for cell in present)


def _ranking(found: _Matched, benchmark: RankedBenchmark, name: str, baselines: Collection[str]) -> TableRanking:
    table, track = found.table, found.track
    raw = pd.DataFrame(
        {task.name: _scores(found, task) for task in track.active_tasks if task.name in found.places},
        index=pd.Index(table.teams, dtype=object),
        dtype=float,
    )
    absent = [task.name for task in track.active_tasks if task.name not in found.places]
    if absent:
        found.warnings.append(
            f"track {name}: the table has no column for {', '.join(absent)}, so that no team is ranked"
        )
        found.faults.append(f"no column is called like task {', '.join(absent)} of track {name}")
    raw = raw.loc[sorted(raw.index, key=lambda team: (team.casefold(), team))]
    beside = raw.index.isin(list(baselines))
    rows = [_row(team, entry, raw) for team, entry in rank(raw.loc[~beside], track).iterrows()]
    complete = raw.loc[[row.team for row in rows if row.rank is not None]]
    ranking = TableRanking(
        benchmark=benchmark.name,
        benchmark_title=benchmark.title,
        track=name,
        track_title=track.title,
        tasks=track.active_tasks,
        rows=tuple(rows),
        alternatives=uncertainty.alternatives(complete, track, {}),
    )
    besides = [
        replace(_row(team, entry, raw), rank=None, is_baseline=True)
        for team, entry in rank(raw.loc[beside], track).iterrows()
    ]
    return _with_baselines(_certain(ranking, track), besides, track)


def table_draws(ranking: TableRanking, track: RankedTrack, rows: Sequence[RankedRow]) -> Means:
    """Track scores and means of groups of complete `rows` on other tasks: `Means` of (R, B); see `draws_over_tasks`.

    The same for a row whoever else is asked for, and so paired.
    """
    raw = pd.DataFrame([row.raw for row in rows], columns=[task.name for task in ranking.tasks], dtype=float)
    seed = uncertainty.seed_of(ranking.benchmark, ranking.track, Resampling.TASKS)
    return uncertainty.draws_over_tasks(normalize(raw, track).to_numpy(dtype=np.float64), track, seed=seed)


def _certain(ranking: TableRanking, track: RankedTrack) -> TableRanking:
    """With what drawing tasks says of the rows that have a rank, which come first."""
    ranked = [row for row in ranking.rows if row.rank is not None]
    if not ranked:
        return ranking
    draws = table_draws(ranking, track, ranked)
    scores = np.array([row.score for row in ranked], dtype=np.float64)
    sure = zip(ranked, draws.track, uncertainty.certainties(scores, draws.track), strict=True)
    rows = [replace(row, interval=uncertainty.interval(own), sure=each) for row, own, each in sure]
    ranking = replace(ranking, rows=(*rows, *ranking.rows[len(rows) :]), pairs=uncertainty.pairs(scores, draws.track))
    if set(draws.groups) != set(Group):
        return ranking
    means = {group: np.array([row.groups[group] for row in ranked], dtype=np.float64) for group in Group}
    first, second = Group
    names, values = (first.value, second.value), (means[first], means[second])
    return replace(ranking, agreement=uncertainty.agreement(names, values, (draws.groups[first], draws.groups[second])))


def _with_baselines(ranking: TableRanking, besides: Sequence[RankedRow], track: RankedTrack) -> TableRanking:
    """Baselines at the place of their score, below their equals; incomplete ones among the incomplete."""
    scored = [row for row in besides if row.score is not None]
    if scored:
        drawn = table_draws(ranking, track, scored).track
        scored = [replace(row, interval=uncertainty.interval(own)) for row, own in zip(scored, drawn, strict=True)]
    with_score = [*(row for row in ranking.rows if row.score is not None), *scored]
    without = [row for row in (*ranking.rows, *besides) if row.score is None]
    with_score.sort(key=lambda row: -(row.score or 0.0))
    without.sort(key=lambda row: (row.team.casefold(), row.team))
    return replace(ranking, rows=(*with_score, *without))


def _bounds(low: str, high: str, values: tuple[float, float] | None) -> dict[str, float] | None:
    return None if values is None else {low: values[0], high: values[1]}


def _row(team: Any, entry: pd.Series[Any], raw: pd.DataFrame) -> RankedRow:
    """`entry` is the team's row of `scoring.rank`, `raw` holds the scores of all."""
    return RankedRow(
        team=str(team),
        rank=None if entry["missing"] else int(entry["rank"]),
        score=_present(entry["score"]),
        groups={group: _present(entry[group.value]) for group in Group if group.value in entry.index},
        raw={str(task): _present(float(value)) for task, value in raw.loc[team].items()},
        missing=entry["missing"],
    )


def _present(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _scores(found: _Matched, task: RankedTask) -> list[float]:
    """A task's column as numbers, NaN where there is none; what lies outside its bounds is warned about."""
    table, place = found.table, found.places[task.name]
    scores, outside = [], []
    low, high = sorted((task.worst, task.best))
    for team, line, cell in zip(table.teams, table.lines, table.columns[place], strict=True):
        score = _number(table, task, line, cell)
        if score < low or score > high:
            outside.append(f"{cell} of {team}")
            found.faults.append(
                f"line {line}, column {table.header[place]}: {cell} of {team} lies outside {low:g} to {high:g}, the "
                f"bounds of task {task.name}"
            )
        scores.append(score)
    if outside:
        found.warnings.append(
            f"task {task.name}: {_listed(outside)} outside its bounds {task.worst:g} (worst) to {task.best:g} (best); "
            "ranked as given, so make sure that the column has the benchmark's unit"
        )
    return scores


def _number(table: ScoreTable, task: RankedTask, line: int, cell: str) -> float:
    plain = cell.replace("\N{MINUS SIGN}", "-")
    if _is_absent(cell):
        return math.nan
    value = float(plain) if _NUMBER.fullmatch(plain) else math.inf
    if math.isinf(value):
        hint = "; write a point before decimals, and nothing between thousands" if "," in cell else ""
        raise UsageError(
            f"{table.path}, line {line}: {cell!r} is no score of task {task.name}; expected a number such as 0.75, or "
            f"an empty cell where there is none{hint}"
        )
    return value


def _is_absent(cell: str) -> bool:
    return cell.casefold() in _ABSENT


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
