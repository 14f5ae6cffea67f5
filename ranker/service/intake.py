"""What is asked and ordered about submissions that arrive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from ranker import events
from ranker.db.rules import Verdict
from ranker.db.session import session
from ranker.service.opened import Opened
from ranker.types import Action, LinkState, Ruling

if TYPE_CHECKING:
    from ranker.data.fetch import OnTransfer
    from ranker.intake.ingest import Taken
    from ranker.intake.links import LinkView
    from ranker.likeness import Likeness
    from ranker.overview import SubmissionView


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A submission as it is told of at intake: what became of it, and which rules wait for somebody."""

    view: SubmissionView
    pending: tuple[Verdict, ...]


class Intake(Opened):
    """What is asked and ordered about submissions that arrive."""

    def ingest(
        self,
        handed: Sequence[str],
        numbers: Sequence[int] = (),
        *,
        team: str | None = None,
        report: Path | None = None,
        encoder: str | None = None,
        on_step: Callable[[str], None] = lambda _: None,
        on_transfer: OnTransfer = lambda _: None,
    ) -> list[Taken]:
        """Keep and record all that was handed in (paths, addresses, and mailed links by number), and queue checks.

        What is wrong with one of them stands in its `Taken`. Raises UsageError (`team`, `encoder`), and what `open`
        raises.
        """
        from ranker.intake.ingest import Asked, Ingest
        from ranker.intake.receive import given

        given(team, encoder)
        asked = Asked(team=team, report=report, encoder=encoder)
        with self.open() as engine:
            taking = Ingest(
                home=self.home,
                engine=engine,
                service=self.service,
                asked=asked,
                on_step=on_step,
                on_transfer=on_transfer,
            )
            return list(taking.take(handed, numbers))

    def queue_checks(self, names: Sequence[str] | None) -> dict[str, int]:
        """The checks of these submissions (None: all) that are to be done, by id of the submission: queued already, or
        failed by our own fault and queued anew. Raises UsageError.
        """
        from ranker.intake.receive import open_checks

        chosen = None if names is None else [view.submission.id for view in self.find(names)]
        if chosen is None and not self.has_database():
            return {}
        with self.open() as engine, session(engine) as writing:
            return open_checks(writing, chosen, now=datetime.now(UTC))

    def shown(self, ids: Sequence[str]) -> dict[str, Shown]:
        """Submissions by id, each with the verdicts that wait for somebody."""
        from ranker import overview

        if not ids:
            return {}
        with self.reading() as reading:
            views = {view.submission.id: view for view in overview.submissions(reading)}
            query = select(Verdict).where(Verdict.ruling == Ruling.PENDING).order_by(Verdict.id)
            waiting: dict[str, list[Verdict]] = defaultdict(list)
            for verdict in reading.scalars(query):
                waiting[verdict.submission_id].append(verdict)
            return {each: Shown(view=views[each], pending=tuple(waiting[each])) for each in dict.fromkeys(ids)}

    def links(self, states: Sequence[LinkState]) -> list[LinkView]:
        """The addresses that messages gave instead of files, in these states; none where there is no database yet."""
        from ranker.intake.links import listed

        if not self.has_database():
            return []
        with self.reading() as reading:
            return listed(reading, states)

    def decline_link(self, number: int, why: str) -> LinkView:
        """Say that a link is not to be fetched, and why. Raises UsageError."""
        from ranker.intake.links import decline

        with self.open() as engine, session(engine) as writing:
            return decline(writing, number, why=why, now=datetime.now(UTC))

    def allow_host(self, name: str, host: str) -> list[dict[str, str]]:
        """Let a submission's constructor ask one more host at intake; all that it may ask so, by whom and since when.

        Raises UsageError.
        """
        import getpass

        from ranker.intake.hosts import allow

        (view,) = self.find([name])
        with self.open() as engine, session(engine) as writing:
            now = datetime.now(UTC)
            allow(writing, view.submission.id, host, by=getpass.getuser(), now=now)
            events.record(
                writing,
                actor=events.whoami(),
                action=Action.ALLOW_HOST,
                submission_id=view.submission.id,
                now=now,
                host=host,
            )
        (view,) = self.find([name])
        return view.allowed_hosts

    def likeness(self, names: Sequence[str] | None) -> Likeness:
        """Which submissions (None: all) hold the same weights, or nearly the same."""
        from ranker.likeness import compare, member

        views = self.find(names) if names else self.submissions()
        return compare([member(self.home, view.submission) for view in views])
