"""What changed between two publications, from their data.json. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Data = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A team whose rank or score is another one. None: it had, or has, none. `submission`: it is another one now."""

    team: str
    rank_before: int | None
    rank: int | None
    score_before: float | None
    score: float | None
    is_other_submission: bool


@dataclass(frozen=True, kw_only=True)
class TrackChange:
    """What changed on one track. `renamed`: (before, now) of one submission; `tasks_new` and `tasks_gone` by name.

    `is_new` and `is_gone`: the whole track. `is_other_condition`: all was measured anew, or differently.
    """

    track: str
    is_new: bool = False
    is_gone: bool = False
    is_other_condition: bool = False
    teams_new: tuple[str, ...] = ()
    teams_gone: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    tasks_new: tuple[str, ...] = ()
    tasks_gone: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether teams, ranks, scores, tasks and condition are as they were."""
        return self == TrackChange(track=self.track)

    def sentences(self) -> tuple[str, ...]:
        """In words, without the single moves."""
        ranks = sum(move.rank != move.rank_before for move in self.moves)
        scores = sum(move.score != move.score_before for move in self.moves)
        said = [
            (self.is_new, "a new track"),
            (self.is_gone, "the track is gone"),
            (self.is_other_condition, "measured under another condition"),
            (self.teams_new, f"new: {', '.join(self.teams_new)}"),
            (self.teams_gone, f"gone: {', '.join(self.teams_gone)}"),
            (self.renamed, "renamed: " + ", ".join(f"{old} is now {new}" for old, new in self.renamed)),
            (self.tasks_new, f"new tasks: {', '.join(self.tasks_new)}"),
            (self.tasks_gone, f"tasks that are gone: {', '.join(self.tasks_gone)}"),
            (ranks, f"{ranks} rank{'s' * (ranks != 1)} changed"),
            (scores, f"{scores} score{'s' * (scores != 1)} changed"),
        ]
        return tuple(words for holds, words in said if holds)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def changes(before: Data | None, now: Data) -> tuple[TrackChange, ...]:
    """What is otherwise in `now`, by track, and only the tracks on which something is. None: there was nothing before.

    A row is known again by its submission or, where a team has another one now, by the team's name.
    """
    old = {} if before is None else {board["track"]: board for board in before["boards"]}
    new = {board["track"]: board for board in now["boards"]}
    found = [_track(track, old.get(track), new.get(track)) for track in dict.fromkeys((*new, *old))]
    return tuple(change for change in found if not change.is_nothing)


def _track(track: str, old: Data | None, new: Data | None) -> TrackChange:
    if new is None:
        return TrackChange(track=track, is_gone=True)
    rows: Sequence[Row] = new["rows"]
    before: Sequence[Row] = () if old is None else old["rows"]
    pairs = list(_pairs(before, rows))
    matched = {id(was) for was, _ in pairs}
    known = {id(row) for _, row in pairs}
    tasks, tasks_before = _tasks(new), _tasks(old) if old is not None else _tasks(new)
    return TrackChange(
        track=track,
        is_new=old is None,
        is_other_condition=old is not None and old["condition"] != new["condition"],
        teams_new=tuple(row["team"] for row in rows if id(row) not in known),
        teams_gone=tuple(row["team"] for row in before if id(row) not in matched),
        renamed=tuple((was["team"], row["team"]) for was, row in pairs if was["team"] != row["team"]),
        tasks_new=tuple(task for task in tasks if task not in tasks_before),
        tasks_gone=tuple(task for task in tasks_before if task not in tasks),
        moves=tuple(
            Move(
                team=row["team"],
                rank_before=was["rank"],
                rank=row["rank"],
                score_before=was["score"],
                score=row["score"],
                is_other_submission=was["submission_id"] != row["submission_id"],
            )
            for was, row in pairs
            if (was["rank"], was["score"]) != (row["rank"], row["score"])
        ),
    )


def _pairs(before: Sequence[Row], rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row of now beside what it was, in the order of now."""
    by_submission = {row["submission_id"]: row for row in before}
    now = {row["submission_id"] for row in rows}
    by_team = {row["team"]: row for row in before if row["submission_id"] not in now}
    for row in rows:
        was = by_submission.get(row["submission_id"]) or by_team.pop(row["team"], None)
        if was is not None:
            yield was, row


def _tasks(board: Data) -> list[str]:
    return [column["name"] for column in board["columns"]]


def teams(data: Data) -> frozenset[str]:
    """Every team that the data names."""
    rows = [row for board in data["boards"] for row in board["rows"]]
    return frozenset(str(each["team"]) for each in (*rows, *data["submissions"]))
