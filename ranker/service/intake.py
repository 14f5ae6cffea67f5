"""What is asked and ordered about submissions that arrive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ranker.db.session import session
from ranker.service.opened import Opened

if TYPE_CHECKING:
    from ranker.intake.receive import Received
    from ranker.likeness import Likeness


class Intake(Opened):
    """What is asked and ordered about submissions that arrive."""

    def receive(self, file: Path, *, team: str | None, report: Path | None, encoder: str | None) -> Received:
        """Store and record one ZIP, and queue its check."""
        from ranker.intake.receive import handed_in, receive

        now = datetime.now(UTC)
        arrival = handed_in(file, report=report, now=now)
        with self.open() as engine, session(engine) as writing:
            return receive(self.home, writing, arrival, team=team, encoder=encoder, now=now)

    def allow_host(self, name: str, host: str) -> list[dict[str, str]]:
        """Let a submission's constructor ask one more host at intake; all that it may ask so, by whom and since when.

        Raises UsageError.
        """
        import getpass

        from ranker.intake.hosts import allow

        (view,) = self.find([name])
        with self.open() as engine, session(engine) as writing:
            allow(writing, view.submission.id, host, by=getpass.getuser(), now=datetime.now(UTC))
        (view,) = self.find([name])
        return view.allowed_hosts

    def likeness(self, names: Sequence[str] | None) -> Likeness:
        """Which submissions (None: all) hold the same weights, or nearly the same."""
        from ranker.likeness import compare, member

        views = self.find(names) if names else self.submissions()
        return compare([member(self.home, view.submission) for view in views])
