"""What if the tasks weighed otherwise? A track with other weights, which `ranker.scoring` then ranks as any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ranker.config import RankedTrack
from ranker.errors import UsageError
from ranker.types import Group, Weighting

T = TypeVar("T", bound=RankedTrack)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Other weights than the committee's: of tasks by name, and of groups. 0 leaves a task, or a group's tasks, out."""

    tasks: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[Group, float] = field(default_factory=dict)

    def applied(self, track: T) -> T:
        """The track with these weights; tasks and groups that are not named keep theirs.

        Raises UsageError for a name that the track does not have, a group's weight where the track weighs all tasks
        together, a weight that is negative or not finite, and where nothing is left to weigh.
        """
        names = [task.name for task in track.active_tasks]
        shares = track.group_weights or {}
        _check_named([name for name in self.tasks if name not in names], "task", names)
        _check_named([group for group in self.groups if group not in shares], "weighted group", list(shares))
        given = {**self.tasks, **{str(group): weight for group, weight in self.groups.items()}}
        wrong = [f"{name}={weight}" for name, weight in given.items() if not 0 <= weight < math.inf]
        if wrong:
            raise UsageError(f"a weight is a finite number from 0 upwards; found {', '.join(wrong)}")
        shares = {group: weight for group, weight in {**shares, **self.groups}.items() if weight > 0}
        grouped = track.group_weights is not None
        weighed = {
            task.name: self.tasks.get(task.name, track.weight_of(task))
            for task in track.active_tasks
            if task.group in shares or not grouped
        }
        counted = {name: weight for name, weight in weighed.items() if weight > 0}
        if not counted:
            raise UsageError(f"with these weights no task of {track.title} counts; give at least one a weight above 0")
        tasks = tuple(
            task.model_copy(update={"weight": counted[task.name]})
            if task.name in counted
            else task.model_copy(update={"enabled": False, "note": task.note or "it is given no weight"})
            for task in track.tasks
        )
        left = {task.group for task in tasks if task.enabled}
        return track.model_copy(
            update={
                "tasks": tasks,
                "weights": Weighting.GIVEN,
                "group_weights": {group: weight for group, weight in shares.items() if group in left} or None,
            }
        )


def _check_named(unknown: Sequence[str], what: str, known: Sequence[str]) -> None:
    if unknown:
        raise UsageError(f"there is no {what} {', '.join(unknown)}; there is {', '.join(known) or 'none'}")
