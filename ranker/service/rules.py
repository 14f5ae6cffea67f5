"""What the rules say, who takes part, and who did what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranker import events
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.service.opened import Opened
from ranker.types import Action, Rule

if TYPE_CHECKING:
    from ranker.db.rules import Event
    from ranker.overview import SubmissionView
    from ranker.rules import Change
    from ranker.rules.registry import Imported
    from ranker.rules.teams import RegisteredTeam


class Challenge(Opened):
    """What the rules say, who takes part, and who did what. Each order is a line of the log."""

    def import_teams(self, file: Path, *, prune: bool) -> Imported:
        """Make the registered teams what a list (CSV) says, and judge all anew. Raises UsageError with every fault."""
        from ranker.rules import registry, sheet

        found = sheet.read(file.read_bytes(), file.name)
        with self.open() as engine, session(engine) as writing:
            return registry.import_sheet(
                writing, self.home, found, file=file.name, prune=prune, by=events.whoami(), now=datetime.now(UTC)
            )

    def teams(self) -> list[tuple[RegisteredTeam, list[SubmissionView]]]:
        """The registered teams by name, each with its submissions in the order of arrival."""
        from ranker import overview
        from ranker.rules.judging import roster

        if not self.has_database():
            return []
        with self.reading() as reading:
            of_team: dict[str, list[SubmissionView]] = {}
            for view in overview.submissions(reading):
                of_team.setdefault(view.submission.team, []).append(view)
            registered = sorted(roster(reading).teams, key=lambda team: (team.name.casefold(), team.name))
            return [(team, of_team.get(team.name, [])) for team in registered]

    def review(self, name: str, *, holds: bool, note: str) -> SubmissionView:
        """Whether the submission's report says what the encoder was trained on. Raises UsageError."""
        from ranker.rules import orders

        return self._decided(name, orders.review, holds=holds, note=note)

    def report(self, name: str) -> tuple[Path, dict[str, Any] | None]:
        """Where a submission's report lies, and what its check found in it, if it has. Raises UsageError."""
        from ranker.intake.receive import REPORT_NAME, submission_folder

        (view,) = self.find([name])
        if view.submission.report_digest is None:
            raise UsageError(
                f"submission {view.submission.id} has no report; `ranker ingest FILE.zip --report REPORT.pdf` adds one"
            )
        result = None if view.check is None else view.check.result
        path = submission_folder(self.home, view.submission.digest) / REPORT_NAME
        return path, None if result is None else result["report"]

    def admit(self, name: str, *, rule: Rule, why: str, revoked: bool) -> SubmissionView:
        """Let one rule not stand against a submission, or stand again. Raises UsageError."""
        from ranker.rules import orders

        return self._decided(name, orders.admit, rule=rule, why=why, revoked=revoked)

    def conduct(self, name: str, action: Action, *, why: str) -> SubmissionView:
        """Withdraw or disqualify a submission, or take it back. Raises UsageError."""
        from ranker.rules import orders

        return self._decided(name, orders.conduct, action=action, why=why)

    def _decided(self, name: str, order: Any, **given: Any) -> SubmissionView:
        (view,) = self.find([name])
        with self.open() as engine, session(engine) as writing:
            order(writing, self.home, view.submission.id, by=events.whoami(), now=datetime.now(UTC), **given)
        (view,) = self.find([view.submission.id])
        return view

    def judge(self, *, dry_run: bool) -> list[Change]:
        """Which verdicts become others by the rules as they are configured now; with `dry_run`, which would."""
        from ranker import rules

        if dry_run:
            with self.reading() as reading:
                return rules.outdated(reading, self.home, rules=self.service.rules)
        with self.open() as engine, session(engine) as writing:
            return rules.judge_all(writing, self.home, datetime.now(UTC), rules=self.service.rules)

    def outdated(self) -> int:
        """How many verdicts are of rules that were configured otherwise; none where there is no database yet."""
        return len(self.judge(dry_run=True)) if self.has_database() else 0

    def log(self, name: str | None, *, after: datetime | None) -> list[Event]:
        """Who did what, oldest first: to one submission, from a time on, or all. Raises UsageError, MissingError."""
        with self.reading() as reading:
            of = None if name is None else self.find([name])[0].submission.id
            return events.since(reading, submission_id=of, after=after)

    def verify_log(self) -> tuple[int, str]:
        """How many events the log has, and the last one's digest. Raises OrganizerError where one was changed."""
        from ranker.errors import OrganizerError

        with self.reading() as reading:
            whole: Sequence[Event] = events.since(reading)
        broken = events.verify(whole)
        if broken is not None:
            raise OrganizerError(
                f"the log was changed: event {broken.id} of {broken.at:%Y-%m-%d %H:%M:%S} UTC does not follow from "
                "what stands before it; an older copy of the database (ranker.db.backup-*) shows what stood there"
            )
        return len(whole), whole[-1].digest if whole else events.BEGINNING

    def moment(self, text: str) -> datetime:
        """A time with a zone as people write it; a day alone begins at midnight, UTC. Raises UsageError."""
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{text!r} is no time; expected 2026-02-12, or 2026-02-12T18:00+01:00") from None
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
