"""Whether what waits would make one board: evaluations of one track under different conditions never share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker.db.models import Job
from ranker.types import Condition, JobKind, Part, Status

CIRCUMSTANCES = (
    "device", "precision", "sandboxed", "steps", "decoder_layers", "decoder", "metric_models", "data", "measurement",
)  # fmt: skip
"""What conditions of one part of one track may differ in, what is most telling first."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Evaluations of one part of one track that differ in `field`: how many there are of each value."""

    benchmark: str
    track: str
    part: Part
    field: str
    values: dict[str, int]

    @property
    def words(self) -> str:
        """One sentence for people."""
        where = f"{self.benchmark}, track {self.track}" + ("" if self.part is Part.PUBLIC else f", {self.part} part")
        short = {value[:12] if len(value) == 64 else value: count for value, count in self.values.items()}
        counted = ", ".join(f"{count} with {value}" for value, count in short.items())
        return (
            f"{where}: {self.field} differs ({counted}); scores of different conditions share no board, so each of "
            "these makes one of its own, from which the others' teams are missing"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def mixtures(session: Session) -> tuple[Mixture, ...]:
    """Of each part of a track of which jobs wait or run: in what these differ among each other, and from what has
    finished under the same configuration and data. Further differences of the same jobs are left out.
    """
    query = select(Job.status, Job.condition).where(
        Job.kind == JobKind.EVALUATE, Job.status.in_([Status.QUEUED, Status.RUNNING, Status.SUCCEEDED])
    )
    ahead: dict[tuple[str, str, Part], list[Condition]] = {}
    done: list[Condition] = []
    for status, value in session.execute(query):
        condition = Condition.from_json(value)
        if status == Status.SUCCEEDED:
            done.append(condition)
        else:
            ahead.setdefault(_of(condition), []).append(condition)
    return tuple(_found(ahead, done))


def _of(condition: Condition) -> tuple[str, str, Part]:
    return condition.benchmark, condition.track, condition.part


def _found(ahead: dict[tuple[str, str, Part], list[Condition]], done: Sequence[Condition]) -> Iterator[Mixture]:
    for where, waiting in ahead.items():
        current = {(each.measurement, each.data) for each in waiting}
        earlier = [each for each in done if _of(each) == where and (each.measurement, each.data) in current]
        for name in CIRCUMSTANCES:
            values = Counter(str(getattr(each, name)) for each in [*waiting, *earlier])
            if len(values) > 1:
                benchmark, track, part = where
                yield Mixture(benchmark=benchmark, track=track, part=part, field=name, values=dict(values))
                break
