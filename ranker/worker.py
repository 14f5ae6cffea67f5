"""A worker process: `python -m ranker.worker --home DIR --jobs 1,2,3` claims jobs, does them, and says how they ended.

It may be killed at any moment: what it did not finish is claimed again. SIGTERM and SIGINT give the job back at once.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ranker import queue
from ranker.config import load
from ranker.db.session import open_database
from ranker.endings import Endings
from ranker.errors import LeaseLostError
from ranker.home import Home
from ranker.job import JobContext, run_folder, snapshot
from ranker.journal import Happening, tell
from ranker.pace import PULSE
from ranker.perform import (
    EXIT_STOPPED,
    HANDLERS,
    LOG_NAME,
    Handler,
    Reporter,
    StopSignal,
    begin,
    die_with,
    explain,
    record_failure,
    recording,
    stall,
)
from ranker.queue import Claim
from ranker.settings import Service
from ranker.types import Fault, JobKind, Progress, Status

log = logging.getLogger("ranker.worker")
Written = TypeVar("Written")

EXIT_DONE = 0
EXIT_ORGANIZER = 1
PROGRESS_INTERVAL_S = 1.0
INSIST_S = 300.0
"""For how long a worker offers what it did to a database that does not take it (a held lock, a full disk)."""
RETRY_S = 1.0
LEAVING_S = 60.0
"""How long a process may take to leave a job that it has lost, its sandbox's end included."""


class Heart:
    """The thread that keeps a claim alive and writes its latest progress while the main thread works.

    About once a second it looks whether the job is still ours, and wanted, and whether the main thread gets on with it.
    If it is another's, or was cancelled, or nothing was marked for `silence_s` (`ranker.pace.Pulse`), the lease is
    prolonged no more. In the latter case `on_stalled` is called; then the job is interrupted, and, if the main thread
    has not left us LEAVING_S later, the process ends itself, and with it whatever it started.
    """

    def __init__(
        self,
        engine: Engine,
        claim: Claim,
        *,
        lease_s: float,
        silence_s: float,
        stop: StopSignal,
        on_stalled: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._claim = claim
        self._lease_s = lease_s
        self._silence_s = silence_s
        self._stop = stop
        self._on_stalled = on_stalled
        self._asked_back = False
        self._progress: Progress | None = None
        self._lost: LeaseLostError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)

    def __enter__(self) -> Heart:
        PULSE.mark()
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

    def rest(self) -> None:
        """See `JobContext.rest`: raises KeyboardInterrupt, after which the job is given back, if that was asked for."""
        if self._asked_back:
            raise KeyboardInterrupt

    def _beat(self) -> None:
        interval_s = self._lease_s / 4
        next_beat = time.monotonic() + interval_s
        written: Progress | None = None
        while not self._stopped.wait(min(PROGRESS_INTERVAL_S, interval_s)):
            progress = self._progress
            if PULSE.still_s() >= self._silence_s:
                self._on_stalled()
                self._leave(f"nothing has moved for {self._silence_s:.0f} s")
                return
            try:
                self._asked_back = queue.is_asked_back(self._engine, self._claim)
                if progress is written and time.monotonic() < next_beat:
                    continue
                queue.heartbeat(self._engine, self._claim, now=_now(), lease_s=self._lease_s, progress=progress)
            except LeaseLostError as error:
                self._lost = error
                self._leave(str(error))
                return
            except SQLAlchemyError as error:
                # The lease outlives three missed beats; if it runs out all the same, the fence keeps us from writing.
                what = f"a heartbeat failed and is tried again: {error}"
                tell(log, Happening.BEAT_FAILED, what, level=logging.WARNING)
                continue
            written = progress
            next_beat = time.monotonic() + interval_s

    def _leave(self, why: str) -> None:
        """Interrupt the job; the process, if that does not reach the main thread."""
        self._stop.drop()
        if not self._stopped.wait(LEAVING_S):
            what = f"{why}; {LEAVING_S:.0f} s later it still has not stopped: the process ends itself"
            tell(log, Happening.LEASE_LOST, what, level=logging.ERROR)
            self._stop.kill()


def insist(write: Callable[[], Written]) -> Written:
    """Do a transaction; again while the database refuses it, for INSIST_S. Raises what the transaction raises.

    Hours of work hang on it. If the lease runs out meanwhile, the fence tells whether the job is still ours.
    """
    deadline = time.monotonic() + INSIST_S
    while True:
        try:
            return write()
        except OperationalError as error:
            if time.monotonic() >= deadline:
                raise
            log.warning("the database did not take what is to be recorded, and is asked again: %s", error)
            time.sleep(RETRY_S)


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
            claim = insist(partial(self._claim, name, job_ids))
            if claim is not None:
                if self.attempt(claim) is Fault.ORGANIZER:
                    return EXIT_ORGANIZER
            elif not self._wait(job_ids):
                return EXIT_DONE
        return EXIT_STOPPED

    def _claim(self, name: str, job_ids: Collection[int] | None) -> Claim | None:
        return queue.claim(self.engine, worker=name, now=_now(), lease_s=self.service.lease_s, job_ids=job_ids)

    def attempt(self, claim: Claim) -> Fault | None:
        """Do one claimed job and record how it ended; returns whose fault it was if it failed."""
        folder = run_folder(self.home, claim)
        folder.mkdir(parents=True, exist_ok=True)
        with recording(folder, claim):
            begin(claim)
            try:
                return self._attempt(claim, folder)
            except LeaseLostError as error:
                tell(log, Happening.LEASE_LOST, str(error), level=logging.WARNING)
                return None

    def _attempt(self, claim: Claim, folder: Path) -> Fault | None:
        try:
            heart = Heart(
                self.engine,
                claim,
                lease_s=self.service.lease_s,
                silence_s=self.service.silence_s(claim.kind),
                stop=self.stop,
                on_stalled=lambda: self._stalled(claim),
            )
            with heart, self.stop.armed():
                reporter = Reporter(claim, heart.report)
                context = JobContext(
                    home=self.home,
                    service=self.service,
                    claim=claim,
                    submission=snapshot(self.engine, claim.submission_id),
                    run_folder=folder,
                    report=reporter.report,
                    watch=reporter.watch,
                    rest=heart.rest,
                )
                outcome = self.handlers[claim.kind](context)
            insist(lambda: self._endings.succeeded(claim, outcome))
        except KeyboardInterrupt:
            insist(lambda: self._endings.given_back(claim))  # refused, if it was for the loss of the job
            tell(log, Happening.GIVEN_BACK, "stopped by a signal, or asked to; the job is queued again")
            return None
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001  the only broad one: whatever a handler does, the queue learns of it
            return self._record_failure(claim, error, folder / LOG_NAME)
        tell(log, Happening.SUCCEEDED, f"the job is {Status.SUCCEEDED}")
        return None

    @property
    def _endings(self) -> Endings:
        return Endings(engine=self.engine, home=self.home, service=self.service)

    def _stalled(self, claim: Claim) -> None:
        """Called by the heart: the job is given up for this time, and this process does no other after it."""
        failure = stall(claim.kind, self.service.silence_s(claim.kind))
        tell(log, Happening.STALLED, failure.reasons[0], level=logging.ERROR)
        self.stop.requested = True  # what hung once may hang again
        try:
            self._endings.failed(claim, failure)
        except (LeaseLostError, SQLAlchemyError) as error:  # whoever finds it dead records that
            log.warning("that was not recorded: %s", error)

    def _record_failure(self, claim: Claim, error: Exception, log_path: Path) -> Fault:
        failure = explain(error, log_path, killed_attempts=self.service.killed_attempts)
        record_failure(error, failure)
        status = insist(lambda: self._endings.failed(claim, failure))
        log.info("the job is %s", status)
        return failure.fault

    def _wait(self, job_ids: Collection[int] | None) -> bool:
        """Wait, at most a second, for a job that is queued but not due; False if none is queued."""
        now = _now()
        due = queue.next_due(self.engine, now=now, job_ids=job_ids)
        if due is None:
            return False
        with self.stop.armed():
            time.sleep(min(max((due - now).total_seconds(), 0.0), 1.0))
        return True


def _now() -> datetime:
    return datetime.now(UTC)


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
        die_with(given.parent)
    home = Home(root=given.home, hidden=given.hidden)
    service = (
        load(Service, home.config_path("service"))
        if given.service is None
        else Service.model_validate_json(given.service)
    )
    job_ids = None if given.jobs is None else frozenset(int(word) for word in given.jobs.split(","))
    return work(home, service, job_ids, stop=stop, handlers=handlers)


if __name__ == "__main__":
    sys.exit(main())
