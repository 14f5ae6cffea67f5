"""What is ordered of the queue while workers run: who goes first, who is taken out, when it stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from ranker.db.session import session
from ranker.errors import RankerError
from ranker.service.evaluations import HERE, Evaluations, Placing, Wanted

if TYPE_CHECKING:
    from ranker.config import Benchmark
    from ranker.db.models import Job, Pause
    from ranker.orders import Done
    from ranker.types import Condition


class Queue(Evaluations):
    """What is ordered of the queue while workers run: who goes first, who is taken out, when it stands still."""

    def cancel(self, names: Sequence[str]) -> Done:
        """Take jobs out, by their numbers or by submission. Raises UsageError."""
        from ranker import events, orders

        with self._writing() as writing:
            return orders.cancel(writing, names, actor=events.whoami(), now=datetime.now(UTC))

    def retry(self, names: Sequence[str], *, again: bool) -> Done:
        """Queue failed or cancelled jobs again; with `again`, also those that failed by their team's fault. Raises
        UsageError.
        """
        from ranker import events, orders

        is_current = self._currency()
        with self._writing() as writing:
            return orders.retry(
                writing, names, again=again, is_current=is_current, actor=events.whoami(), now=datetime.now(UTC)
            )

    def prioritize(self, names: Sequence[str], to: int | None) -> Done:
        """Give waiting jobs a priority; None: let them go first. Raises UsageError."""
        from ranker import events, orders

        with self._writing() as writing:
            return orders.prioritize(writing, names, to=to, actor=events.whoami(), now=datetime.now(UTC))

    def pause(self, why: str, *, give_back: bool) -> Pause:
        """Hand out no job until `resume`."""
        from ranker import events, orders

        with self._writing() as writing:
            return orders.pause(writing, why=why, give_back=give_back, actor=events.whoami(), now=datetime.now(UTC))

    def resume(self) -> Done:
        """End the pause; what had failed by our own data or configuration is queued again, unless it is outdated."""
        from ranker import events, orders

        is_current = self._currency()
        with self._writing() as writing:
            return orders.resume(writing, is_current=is_current, actor=events.whoami(), now=datetime.now(UTC))

    def rerun(
        self,
        names: Sequence[str],
        wanted: Wanted,
        *,
        seeds: Sequence[int] = (),
        number: int = 0,
        top: int | None = None,
        placing: Placing = HERE,
    ) -> Done:
        """Queue further seeds as evidence: `seeds`, and the first `number` after the recipe's own; of these
        submissions, or of the `top` first of each track's board.

        Raises UsageError, MissingError where there is no board, and as `Evaluations.conditions`.
        """
        from ranker import events, orders

        benchmark = self.benchmark(wanted.benchmark)
        own = benchmark.recipe.seed
        conditions = self.conditions(benchmark, wanted, placing=placing)
        if top is None:
            ids = [view.submission.id for view in self.find(names)]
            asked = dict.fromkeys(ids, conditions)
        else:
            asked = self._first(benchmark, conditions, top)
        chosen = list(dict.fromkeys([*seeds, *range(own + 1, own + 1 + number)]))
        with self._writing() as writing:
            return orders.rerun(
                writing, asked, seeds=chosen, own_seed=own, actor=events.whoami(), now=datetime.now(UTC)
            )

    def _first(self, benchmark: Benchmark, conditions: Sequence[Condition], top: int) -> dict[str, list[Condition]]:
        """The submissions that stand first on each track's board, with the conditions of that track."""
        from ranker import board
        from ranker.types import Part

        asked: dict[str, list[Condition]] = {}
        with self.reading() as reading:
            for condition in conditions:
                if condition.part is not Part.PUBLIC:
                    continue
                found = board.assemble(
                    reading,
                    self.home,
                    benchmark,
                    condition.track,
                    condition=condition.digest,
                    seed=benchmark.recipe.seed,
                    now=datetime.now(UTC),
                )
                own = [each for each in conditions if each.track == condition.track]
                for row in found.rows:
                    if row.rank is not None and row.rank <= top:
                        asked.setdefault(row.submission_id, []).extend(own)
        return asked

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """One change of the database. Raises MissingError where there is none: there is nothing to order of it."""
        with self.reading():
            pass
        with self.open() as engine, session(engine) as writing:
            yield writing

    def _currency(self) -> Callable[[Job], bool]:
        """Tells whether a job measures what the configuration says now; True where that cannot be known."""
        from ranker.types import Condition

        known: dict[str, Benchmark] = {}

        def is_current(job: Job) -> bool:
            if job.condition is None:
                return True
            condition = Condition.from_json(job.condition)
            with suppress(RankerError, KeyError):  # a benchmark or file of hidden tasks that is not at hand
                if condition.benchmark not in known:
                    known[condition.benchmark] = self.benchmark(condition.benchmark)
                now = known[condition.benchmark].measurement_digest(condition.track, condition.part)
                return now == condition.measurement
            return True

        return is_current
