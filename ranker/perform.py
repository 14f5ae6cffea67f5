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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from ranker import journal
from ranker.errors import InfraError, MissingError, OrganizerError, ParticipantError, UsageError, VanishedError
from ranker.job import Failure, JobContext, Order, Outcome, run_folder
from ranker.journal import Happening, tell
from ranker.pace import PULSE, Gauges, device_of
from ranker.queue import Claim
from ranker.sandbox.processes import kill_below
from ranker.types import Fault, JobKind, Progress

log = logging.getLogger("ranker.perform")

Handler = Callable[[JobContext], Outcome]

EXIT_STOPPED = 130
BEAT_S = 5.0
"""How often a process that does an order tells that it lives, if it has nothing else to tell."""
LOG_NAME = journal.TEXT_NAME
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
        self._main: int | None = None

    def install(self) -> None:
        """Take over the signals of this process; call it from the main thread."""
        signal.signal(signal.SIGTERM, self._receive)
        signal.signal(signal.SIGINT, self._receive)
        signal.signal(signal.SIGUSR1, self._drop)
        self._main = threading.get_ident()

    def drop(self) -> None:
        """From another thread: end what the main thread does where it is armed, like a signal, but not the process.

        Elsewhere nothing happens, and nothing is remembered. Without `install`, nothing happens at all.
        """
        if self._main is not None:
            signal.pthread_kill(self._main, signal.SIGUSR1)

    def kill(self) -> None:
        """From another thread: end this process and all that it started at once, with the main thread's place in the
        log. Without `install`, nothing happens.
        """
        if self._main is not None:
            faulthandler.dump_traceback()
            kill_below(os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)

    def _drop(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

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


def recording(folder: Path, claim: Claim) -> AbstractContextManager[None]:
    """What happens in an attempt goes to two files of its folder; see `ranker.journal.recording`."""
    bound = {
        "job": claim.job_id,
        "attempt": claim.attempt,
        "submission": claim.submission_id,
        "track": claim.track,
        "kind": claim.kind,
        "worker": claim.worker,
    }
    return journal.recording(folder, bound)


def stall(kind: JobKind, silence_s: float) -> Failure:
    """What is recorded of a job that showed nothing for so long: `Service.silence_s`."""
    reason = (
        f"the {kind} hung: for {silence_s:.0f} s it made no step, encoded no clip and gave no answer (stall_s in "
        "configs/service.yaml); its process ended itself, and its log says where it was"
    )
    return Failure(fault=Fault.INFRA, reasons=(reason,))


def begin(claim: Claim) -> None:
    """The first event of an attempt."""
    what = f"attempt {claim.attempt} of job {claim.job_id} ({claim.kind}) by {claim.worker}"
    tell(log, Happening.BEGUN, what, benchmark=claim.benchmark, seed=claim.seed, pid=os.getpid())


def record_failure(error: Exception, failure: Failure) -> None:
    """Why an attempt ended, with the traceback."""
    fields = {"fault": failure.fault, "reasons": failure.reasons}
    log.error("failed, fault: %s", failure.fault, exc_info=error, extra={"event": Happening.FAILED, "fields": fields})


class Reporter:
    """What a handler reports to: progress, completed by what can be read beside the work, goes on to `report`; a change
    of stage goes to the log.
    """

    def __init__(self, claim: Claim, report: Callable[[Progress], None]) -> None:
        device = None if claim.condition is None else claim.condition.device
        self._gauges = Gauges(device=device_of(device))
        self._report = report
        self._last: Progress | None = None
        self.watch = self._gauges.watch

    def report(self, progress: Progress) -> None:
        """See `JobContext.report`."""
        PULSE.mark()
        complete = self._gauges.complete(progress, at=time.monotonic(), now=datetime.now(UTC))
        last, self._last = self._last, complete
        if last is None or (last.stage, last.task) != (complete.stage, complete.task):
            what = complete.stage if complete.task is None else f"{complete.stage} {complete.task}"
            before = None if last is None else last.to_json()
            tell(
                log,
                Happening.STAGE,
                what,
                task=complete.task,
                stage=complete.stage,
                total=complete.total,
                before=before,
            )
        self._report(complete)


def die_with(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent dies (prctl(2), PR_SET_PDEATHSIG); exit if it is dead already."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(EXIT_STOPPED)


def perform(order: Order, send: Callable[[Mapping[str, Any]], None], handlers: Mapping[JobKind, Handler]) -> None:
    """Do what an order says, in its folder, and tell about it: `progress` now and then, at last `outcome` or `failure`.

    An interruption (KeyboardInterrupt) is let through, and nothing is told of it: the order is simply not done.
    """
    folder = run_folder(order.home, order.claim)
    folder.mkdir(parents=True, exist_ok=True)
    claim = order.claim

    reporter = Reporter(claim, lambda progress: send({"progress": progress.to_json()}))
    with recording(folder, claim):
        begin(claim)
        context = JobContext(
            home=order.home,
            service=order.service,
            claim=claim,
            submission=order.submission,
            run_folder=folder,
            report=reporter.report,
            watch=reporter.watch,
        )
        try:
            outcome = handlers[claim.kind](context)
        except Exception as error:  # noqa: BLE001  whatever a handler does, the coordinator learns of it
            failure = explain(error, folder / LOG_NAME, killed_attempts=order.service.killed_attempts)
            record_failure(error, failure)
            send({"failure": failure.to_json()})
        else:
            log.info("done; the coordinator records it")
            send({"outcome": outcome.to_json()})


class Guard:
    """The thread beside a job whose lease another process keeps: it tells of life, and ends a job that hangs.

    After a stall it tells the failure and interrupts the job; whoever is told ends a process that no interruption
    reaches.
    """

    def __init__(self, order: Order, send: Callable[[Mapping[str, Any]], None], stop: StopSignal) -> None:
        self._kind = order.claim.kind
        self._silence_s = order.service.silence_s(order.claim.kind)
        self._send = send
        self._stop = stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)

    def __enter__(self) -> Guard:
        PULSE.mark()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # not waited for: it may be telling somebody who does not listen

    def _watch(self) -> None:
        try:
            while not self._over.wait(min(BEAT_S, self._silence_s / 4)):
                if PULSE.still_s() >= self._silence_s:
                    failure = stall(self._kind, self._silence_s)
                    tell(log, Happening.STALLED, failure.reasons[0], level=logging.ERROR)
                    faulthandler.dump_traceback()
                    self._send({"failure": failure.to_json()})
                    self._stop.drop()
                    return
                self._send({"beat": True})
        except OSError:  # nobody listens any more; the kernel ends us with our parent
            return


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
    lock = threading.Lock()
    with os.fdopen(given.to, "w", encoding="utf-8") as told:

        def send(what: Mapping[str, Any]) -> None:
            with lock:
                told.write(json.dumps(what) + "\n")
                told.flush()

        try:
            with Guard(order, send, stop), stop.armed():
                perform(order, send, handlers)
        except KeyboardInterrupt:
            return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
