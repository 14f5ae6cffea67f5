"""A worker process: `python -m ranker.worker --home DIR --jobs 1,2,3` claims jobs, does them, and says how they ended.

It may be killed at any moment: what it did not finish is claimed again. SIGTERM and SIGINT give the job back at once.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from ranker import queue
from ranker.config import load
from ranker.db.models import Job, Submission
from ranker.db.session import open_database, session
from ranker.errors import (
    InfraError,
    LeaseLostError,
    MissingError,
    OrganizerError,
    ParticipantError,
    UsageError,
    VanishedError,
)
from ranker.home import Home
from ranker.job import JobContext, Outcome, SubmissionSnapshot, run_folder
from ranker.queue import Claim
from ranker.settings import Service
from ranker.types import Fault, JobKind, Progress, Status

log = logging.getLogger("ranker.worker")

Handler = Callable[[JobContext], Outcome]

EXIT_DONE = 0
EXIT_ORGANIZER = 1
EXIT_STOPPED = 130
PROGRESS_INTERVAL_S = 1.0
LOG_NAME = "worker.log"
KILLED_NAME = "encoder-was-killed"


def check(context: JobContext) -> Outcome:
    """Handler of CHECK jobs."""
    from ranker.intake.check import check_submission

    return check_submission(context)


def evaluate(context: JobContext) -> Outcome:
    """Handler of EVALUATE jobs."""
    from ranker import evaluation

    return evaluation.evaluate(context)


HANDLERS: Mapping[JobKind, Handler] = {JobKind.CHECK: check, JobKind.EVALUATE: evaluate}


class StopSignal:
    """SIGTERM and SIGINT as one KeyboardInterrupt, raised only where a job can be given back cleanly.

    Elsewhere (a database transaction, the unwinding after a first signal) it is remembered until the next such place.
    """

    def __init__(self) -> None:
        self.requested = False
        self._armed = False

    def install(self) -> None:
        """Take over both signals of this process; call it from the main thread."""
        signal.signal(signal.SIGTERM, self._receive)
        signal.signal(signal.SIGINT, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt; so does entering after one came."""
        self._armed = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._armed = False


class Heart:
    """The thread that keeps a claim alive and writes its latest progress while the main thread works."""

    def __init__(self, engine: Engine, claim: Claim, lease_s: float) -> None:
        self._engine = engine
        self._claim = claim
        self._lease_s = lease_s
        self._progress: Progress | None = None
        self._lost: LeaseLostError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def report(self, progress: Progress) -> None:
        """Keep `progress` for the next beat. Raises LeaseLostError if the last beat found the job to be another's."""
        self._progress = progress
        if self._lost is not None:
            raise self._lost

    def _beat(self) -> None:
        interval_s = self._lease_s / 4
        next_beat = time.monotonic() + interval_s
        written: Progress | None = None
        while not self._stopped.wait(min(PROGRESS_INTERVAL_S, interval_s)):
            progress = self._progress
            if progress is written and time.monotonic() < next_beat:
                continue
            try:
                queue.heartbeat(self._engine, self._claim, now=_now(), lease_s=self._lease_s, progress=progress)
            except LeaseLostError as error:
                self._lost = error
                return
            except SQLAlchemyError as error:
                # The lease outlives three missed beats; if it runs out all the same, the fence keeps us from writing.
                log.warning("a heartbeat failed and is tried again: %s", error)
                continue
            written = progress
            next_beat = time.monotonic() + interval_s


def blame(error: Exception, log_path: Path) -> tuple[Fault, tuple[str, ...]]:
    """Whose fault an exception from a handler is, and the reasons to record.

    What is missing or configured wrongly would fail every further job too, so it counts as the organizer's. An
    exception that nobody raised on purpose is a mistake of ours: infra, with its traceback in the log.
    """
    match error:
        case ParticipantError():
            return Fault.PARTICIPANT, error.reasons
        case OrganizerError() | MissingError() | UsageError():
            return Fault.ORGANIZER, (str(error),)
        case InfraError():
            return Fault.INFRA, (str(error),)
        case _:
            return Fault.INFRA, (f"unexpected {type(error).__name__}: {error} (traceback in {log_path})",)


def work(
    home: Home,
    service: Service,
    job_ids: Collection[int] | None,
    *,
    stop: StopSignal,
    handlers: Mapping[JobKind, Handler] = HANDLERS,
) -> int:
    """Do the given jobs (None: any) until none of them is queued; returns the process's exit code."""
    engine = open_database(home)
    try:
        return Worker(engine=engine, home=home, service=service, stop=stop, handlers=handlers).work(job_ids)
    except KeyboardInterrupt:
        return EXIT_STOPPED
    finally:
        engine.dispose()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One process's way of doing jobs, one after another."""

    engine: Engine
    home: Home
    service: Service
    stop: StopSignal
    handlers: Mapping[JobKind, Handler]

    def work(self, job_ids: Collection[int] | None) -> int:
        """Claim and do jobs until none is queued, a signal comes, or one fails by the organizer's fault."""
        name = queue.worker_id()
        while not self.stop.requested:
            claim = queue.claim(self.engine, worker=name, now=_now(), lease_s=self.service.lease_s, job_ids=job_ids)
            if claim is not None:
                if self.attempt(claim) is Fault.ORGANIZER:
                    return EXIT_ORGANIZER
            elif not self._wait(job_ids):
                return EXIT_DONE
        return EXIT_STOPPED

    def attempt(self, claim: Claim) -> Fault | None:
        """Do one claimed job and record how it ended; returns whose fault it was if it failed."""
        folder = run_folder(self.home, claim)
        folder.mkdir(parents=True, exist_ok=True)
        with _logging_to(folder / LOG_NAME):
            log.info("attempt %d of job %d (%s) by %s", claim.attempt, claim.job_id, claim.kind, claim.worker)
            try:
                return self._attempt(claim, folder)
            except LeaseLostError as error:
                log.warning("%s", error)
                return None

    def _attempt(self, claim: Claim, folder: Path) -> Fault | None:
        try:
            with Heart(self.engine, claim, self.service.lease_s) as heart, self.stop.armed():
                context = JobContext(
                    home=self.home,
                    service=self.service,
                    claim=claim,
                    submission=_snapshot(self.engine, claim.submission_id),
                    run_folder=folder,
                    report=heart.report,
                )
                outcome = self.handlers[claim.kind](context)
            queue.finish(self.engine, claim, now=_now(), result=outcome.result, scores=outcome.scores)
        except KeyboardInterrupt:
            log.info("stopped by a signal; the job is queued again")
            queue.release(self.engine, claim, _now())
            return None
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001  the only broad one: whatever a handler does, the queue learns of it
            return self._record_failure(claim, error, folder / LOG_NAME)
        log.info("the job is %s", Status.SUCCEEDED)
        return None

    def _record_failure(self, claim: Claim, error: Exception, log_path: Path) -> Fault:
        fault, reasons = blame(error, log_path)
        if isinstance(error, VanishedError):
            fault, reasons = self._blame_killed(reasons, log_path.parent)
        log.error("failed, fault: %s", fault, exc_info=error)
        status = queue.fail(
            self.engine,
            claim,
            now=_now(),
            fault=fault,
            reasons=reasons,
            max_infra_attempts=self.service.infra_attempts,
            retry_delay_s=self.service.retry_delay_s,
        )
        log.info("the job is %s", status)
        return fault

    def _blame_killed(self, reasons: tuple[str, ...], folder: Path) -> tuple[Fault, tuple[str, ...]]:
        """Ours, if it is the first such attempts of the job; else theirs: code that kills its own process, in a sandbox
        that shows it no other, looks the same as an accident of ours, but accidents do not come each time.
        """
        (folder / KILLED_NAME).touch()
        attempts = len(list(folder.parent.glob(f"attempt-*/{KILLED_NAME}")))
        if attempts < self.service.killed_attempts:
            return Fault.INFRA, reasons
        often = f"; that was so in {attempts} attempts, so its own code is taken to have done it"
        return Fault.PARTICIPANT, (reasons[0] + often, *reasons[1:])

    def _wait(self, job_ids: Collection[int] | None) -> bool:
        """Wait, at most a second, for a job that is queued but not due; False if none is queued."""
        now = _now()
        due = queue.next_due(self.engine, now=now, job_ids=job_ids)
        if due is None:
            return False
        with self.stop.armed():
            time.sleep(min(max((due - now).total_seconds(), 0.0), 1.0))
        return True


def _snapshot(engine: Engine, submission_id: str) -> SubmissionSnapshot:
    with session(engine, read_only=True) as reading:
        submission = reading.get_one(Submission, submission_id)
        checks = select(Job.result).where(
            Job.submission_id == submission_id, Job.kind == JobKind.CHECK, Job.status == Status.SUCCEEDED
        )
        return SubmissionSnapshot(
            id=submission.id,
            digest=submission.digest,
            team=submission.team,
            encoder_override=submission.encoder_override,
            check=reading.scalar(checks.order_by(Job.id.desc()).limit(1)),
            allowed_hosts=tuple(each.host for each in submission.allowed_hosts),
        )


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send ranker's log, and all that libraries print to file descriptors 1 and 2, to one file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    ranker_log = logging.getLogger("ranker")
    level = ranker_log.level
    ranker_log.addHandler(handler)
    ranker_log.setLevel(logging.INFO)
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    _flush()
    try:
        with path.open("ab") as raw:
            for descriptor, _ in kept:
                os.dup2(raw.fileno(), descriptor)
        yield
    finally:
        _flush()
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)
        ranker_log.setLevel(level)
        ranker_log.removeHandler(handler)
        handler.close()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _now() -> datetime:
    return datetime.now(UTC)


def _die_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies (prctl(2), PR_SET_PDEATHSIG); exit if it is dead already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(EXIT_STOPPED)


def main(arguments: Sequence[str] | None = None, handlers: Mapping[JobKind, Handler] = HANDLERS) -> int:
    """Parse the command line and work; the way in for `ranker.executors.local`."""
    parser = argparse.ArgumentParser(prog="python -m ranker.worker", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the organizer's home folder")
    parser.add_argument("--jobs", help="ids of the jobs to do, separated by commas; default: all")
    parser.add_argument(
        "--service", help="the service's configuration as JSON; default: the home's configs/service.yaml"
    )
    parser.add_argument(
        "--hidden",
        type=Path,
        default=os.environ.get("RANKER_HIDDEN") or None,
        help="the file of hidden tasks; default: RANKER_HIDDEN",
    )
    parser.add_argument("--parent", type=int, help="process id of the executor; the worker ends with it")
    given = parser.parse_args(arguments)
    stop = StopSignal()
    stop.install()
    faulthandler.enable()
    if given.parent is not None:
        _die_with(given.parent)
    home = Home(root=given.home, hidden=given.hidden)
    service = (
        load(Service, home.config_path("service"))
        if given.service is None
        else Service.model_validate_json(given.service)
    )
    job_ids = None if given.jobs is None else [int(word) for word in given.jobs.split(",")]
    return work(home, service, job_ids, stop=stop, handlers=handlers)


if __name__ == "__main__":
    sys.exit(main())
