"""What is seen of the work from outside: the queue, the logs, the measures, and what is to be mended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ranker.db.models import Job
from ranker.errors import UsageError
from ranker.service.opened import Opened
from ranker.types import Status

if TYPE_CHECKING:
    from ranker.doctor import Finding
    from ranker.logbook import JobState, Line
    from ranker.mend import Mend, Mended
    from ranker.watch import Look

FOLLOW_EVERY_S = 0.5


class Watching(Opened):
    """What is seen of the work from outside: the queue, the logs, the measures, and what is to be mended."""

    @contextmanager
    def watching(self) -> Iterator[Callable[[], Look]]:
        """A function that looks at the queue. Where there is no database yet, it sees nothing, and makes none."""
        from ranker import watch

        lease_s = self.service.lease_s

        def look() -> Look:
            now = datetime.now(UTC)
            if not self.has_database():
                return watch.nothing(now)
            with self.reading() as reading:
                return watch.look(reading, now=now, lease_s=lease_s)

        yield look

    def logged_job(self, name: str | None, number: int | None) -> tuple[Job, list[Job]]:
        """The job whose log is meant, and the submission's other jobs that run: the one with this number, else of the
        submission `name` one that runs, else the last that did.

        Raises UsageError where there is none, or it never ran.
        """
        if number is not None:
            with self.reading() as reading:
                job = reading.get(Job, number)
            if job is None:
                raise UsageError(f"there is no job {number}; `ranker status --json` lists the jobs of all submissions")
            if name is not None and self.find([name])[0].submission.id != job.submission_id:
                raise UsageError(f"job {number} is of submission {job.submission_id}, not of {name}")
            return _begun([job])[0], []
        if name is None:
            raise UsageError("say whose log: a submission's id or team, or --job N")
        (view,) = self.find([name])
        begun = _begun([*view.submission.jobs])
        latest = max(begun, key=lambda job: (job.status == Status.RUNNING, job.started_at or job.created_at))
        return latest, [job for job in begun if job.status == Status.RUNNING and job.id != latest.id]

    def log_lines(self, job: Job, *, lines: int, attempt: int | None, as_events: bool, follow: bool) -> Iterator[Line]:
        """What an attempt of the job (None: the newest) wrote down; with `follow`, until the job has ended.

        Raises UsageError where the attempt left nothing on this machine.
        """
        from ranker import logbook
        from ranker.job import job_folder

        folder = job_folder(self.home, job.submission_id, job.key)
        present = logbook.attempts(folder)
        if (attempt is None and not present and not follow) or (attempt is not None and attempt not in present):
            there = f"attempts {', '.join(map(str, present))} are" if present else "no attempt is"
            raise UsageError(
                f"{'the log' if attempt is None else f'attempt {attempt}'} of job {job.id} is not in {folder}: {there} "
                "there; it may have run on another machine, or its files were removed"
            )
        yield from logbook.read(
            folder,
            lambda: self._state(job.id),
            lines=lines,
            attempt=attempt,
            as_events=as_events,
            wait=(lambda: time.sleep(FOLLOW_EVERY_S)) if follow else None,
        )

    def _state(self, job_id: int) -> JobState:
        from ranker import logbook

        with self.reading() as reading:
            job = reading.get_one(Job, job_id)
            return logbook.JobState(status=Status(job.status), attempt=job.attempt)

    def measures(self) -> str:
        """All measures of this home, as OpenMetrics text."""
        from ranker import openmetrics

        now = datetime.now(UTC)
        if not self.has_database():
            return openmetrics.text(openmetrics.of_machine(self.home, now=now))
        with self.reading() as reading:
            families = openmetrics.of_queue(reading, now=now, lease_s=self.service.lease_s)
            published = openmetrics.of_pages(reading, self.home)
        return openmetrics.text([*families, *published, *openmetrics.of_machine(self.home, now=now)])

    def examine(self, *, ask_hub: bool = False, thorough: bool = False) -> list[Finding]:
        """What works here and what does not; `thorough`: contents of files are compared, not sizes only."""
        from ranker.doctor import examine

        return examine(self.home, self.service, ask_hub=ask_hub, thorough=thorough)

    def mends(self, *, thorough: bool = False) -> list[Mend]:
        """What can be mended."""
        from ranker import mend

        return mend.offers(self.home, self.service, now=datetime.now(UTC), thorough=thorough)

    def mend(self, what: Mend) -> Mended:
        """Mend one thing, if it still needs it and nobody uses it, and record that. Raises what the mend raises."""
        from ranker import mend
        from ranker.events import whoami

        if not self.has_database():
            return mend.carry_out(what, None, actor=whoami(), now=datetime.now(UTC))
        with self.open() as engine:
            return mend.carry_out(what, engine, actor=whoami(), now=datetime.now(UTC))


def _begun(jobs: Sequence[Job]) -> list[Job]:
    """Those that have run, or run. Raises UsageError if none has."""
    found = [job for job in jobs if job.attempt > 0]
    if not found:
        listed = ", ".join(f"job {job.id} ({job.kind}) is {job.status}" for job in jobs) or "it has no jobs"
        raise UsageError(f"nothing of it has run yet, so there is no log: {listed}; `ranker status --watch` shows when")
    return found
