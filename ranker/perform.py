"""Doing one job, apart from the queue: which function does it, whose fault a failure is, and the process around it.

Nothing here knows a database. A worker of the database's own host (`ranker.worker`) and a process on another machine
(`python -m ranker.perform`, see `ranker.executors.node`) do a job by the same code.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ranker.errors import InfraError, MissingError, OrganizerError, ParticipantError, UsageError, VanishedError
from ranker.job import Failure, JobContext, Order, Outcome, run_folder
from ranker.types import Fault, JobKind, Progress

log = logging.getLogger("ranker.perform")

Handler = Callable[[JobContext], Outcome]

EXIT_STOPPED = 130
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


def explain(error: Exception, log_path: Path, *, killed_attempts: int) -> Failure:
    """How a handler's exception is recorded; `log_path` lies in the attempt's folder, beside those of earlier ones.

    An encoder that was killed by nobody knows whom is our failure in the first such attempts of the job; else theirs:
    code that kills its own process, in a sandbox that shows it no other, looks the same as an accident of ours, but
    accidents do not come each time.
    """
    fault, reasons = blame(error, log_path)
    if isinstance(error, VanishedError):
        folder = log_path.parent
        (folder / KILLED_NAME).touch()
        attempts = len(list(folder.parent.glob(f"attempt-*/{KILLED_NAME}")))
        if attempts >= killed_attempts:
            often = f"; that was so in {attempts} attempts, so its own code is taken to have done it"
            return Failure(fault=Fault.PARTICIPANT, reasons=(reasons[0] + often, *reasons[1:]))
    return Failure(fault=fault, reasons=reasons)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
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


def die_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies (prctl(2), PR_SET_PDEATHSIG); exit if it is dead already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(EXIT_STOPPED)


def perform(order: Order, tell: Callable[[Mapping[str, Any]], None], handlers: Mapping[JobKind, Handler]) -> None:
    """Do what an order says, in its folder, and tell about it: `progress` now and then, at last `outcome` or `failure`.

    An interruption (KeyboardInterrupt) is let through, and nothing is told of it: the order is simply not done.
    """
    folder = run_folder(order.home, order.claim)
    folder.mkdir(parents=True, exist_ok=True)
    claim = order.claim

    def report(progress: Progress) -> None:
        tell({"progress": progress.to_json()})

    with logging_to(folder / LOG_NAME):
        log.info("attempt %d of job %d (%s) by %s", claim.attempt, claim.job_id, claim.kind, claim.worker)
        context = JobContext(
            home=order.home,
            service=order.service,
            claim=claim,
            submission=order.submission,
            run_folder=folder,
            report=report,
        )
        try:
            outcome = handlers[claim.kind](context)
        except Exception as error:
            failure = explain(error, folder / LOG_NAME, killed_attempts=order.service.killed_attempts)
            log.error("failed, fault: %s", failure.fault, exc_info=error)
            tell({"failure": failure.to_json()})
        else:
            log.info("done; the coordinator records it")
            tell({"outcome": outcome.to_json()})


def main(arguments: Sequence[str] | None = None, handlers: Mapping[JobKind, Handler] = HANDLERS) -> int:
    """Read an order from a file, do it, and write a line of JSON for each thing told to the descriptor `--to`."""
    parser = argparse.ArgumentParser(prog="python -m ranker.perform", description=__doc__)
    parser.add_argument("--order", type=Path, required=True, help="the order, as JSON")
    parser.add_argument("--to", type=int, required=True, help="file descriptor to tell to")
    parser.add_argument("--parent", type=int, help="process id of whoever started this process, which ends with it")
    given = parser.parse_args(arguments)
    stop = StopSignal()
    stop.install()
    faulthandler.enable()
    if given.parent is not None:
        die_with(given.parent)
    order = Order.from_json(json.loads(given.order.read_text(encoding="utf-8")))
    with os.fdopen(given.to, "w", encoding="utf-8") as told:

        def tell(what: Mapping[str, Any]) -> None:
            told.write(json.dumps(what) + "\n")
            told.flush()

        try:
            with stop.armed():
                perform(order, tell, handlers)
        except KeyboardInterrupt:
            return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
