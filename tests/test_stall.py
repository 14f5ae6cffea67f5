"""Jobs that hang: whoever holds a lease must also get on with the work, on this host and on a cluster's node."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from executions import Place, lives, place
from patience import until

from ranker import pace
from ranker.errors import InfraError
from ranker.job import JobContext, Outcome
from ranker.pace import PULSE
from ranker.perform import EXIT_STOPPED, HANDLERS, StopSignal
from ranker.sandbox import bubblewrap as backend
from ranker.sandbox.backends import open_sandbox
from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.sandbox.client import accept
from ranker.sandbox.environment import UID, Launch
from ranker.sandbox.owner import make_folder
from ranker.sandbox.processes import is_below, parent_of
from ranker.settings import BuildPhase, Limits, ReportLimits, Service, WeightsPhase
from ranker.types import Ending, JobKind, Progress, SandboxName, Stage, Status
from ranker.worker import EXIT_DONE, work

LIMITS = Limits(load_timeout_s=0.25, call_timeout_s=0.25)
QUICK = Service(lease_s=0.4, stall_s=0.5, limits=LIMITS, retry_delay_s=0, infra_attempts=3)
SLOW = QUICK.model_copy(update={"stall_s": 99.5})  # with the test's own clock


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path, None) as found:
        yield found


class Clock:
    """A steady clock that goes only where the test lets it."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def wait_for_a_beat(here: Place) -> None:
    """Until the heart has looked at the job, and prolonged its lease, after this call."""
    for _ in range(2):
        before = here.jobs()[0].lease_expires_at
        until(lambda before=before: here.jobs()[0].lease_expires_at != before)
        assert here.jobs()[0].status == Status.RUNNING


def test_a_job_that_gets_on_is_never_taken_for_one_that_hangs(here: Place, clock: Clock) -> None:
    """Attacks with steps of nearly the allowed length, one after another: each report, and each answer of an encoder,
    begins the count anew.
    """
    here.enqueue(1)
    marks: list[Callable[[JobContext], None]] = [
        lambda context: context.report(Progress(stage=Stage.TRAIN)),
        lambda _: PULSE.mark(),
    ] * 2

    def handler(context: JobContext) -> Outcome:
        for mark in marks:
            clock.at += 99.0
            wait_for_a_beat(here)
            mark(context)
        return Outcome(result={"waited": clock.at})

    assert work(here.home, SLOW, None, stop=StopSignal(), handlers={JobKind.EVALUATE: handler}) == EXIT_DONE
    (job,) = here.jobs()
    assert (job.status, job.attempt, job.infra_failures) == (Status.SUCCEEDED, 1, 0)
    assert clock.at == 4 * 99.0 > SLOW.silence_s(JobKind.EVALUATE)


def test_a_job_that_shows_nothing_is_given_up_by_its_own_heart(here: Place, clock: Clock) -> None:
    """Attacks a lease that a thread prolongs while the work stands still: it is tried again, as a fault of ours that
    says why, and what the late thread finds after all is refused.
    """
    here.enqueue(1)

    def handler(_: JobContext) -> Outcome:
        clock.at += 100.0
        until(lambda: here.jobs()[0].status != Status.RUNNING)
        return Outcome(result={"late": True})

    assert work(here.home, SLOW, None, stop=StopSignal(), handlers={JobKind.EVALUATE: handler}) == EXIT_STOPPED
    (job,) = here.jobs()
    assert (job.status, job.attempt, job.infra_failures, job.result) == (Status.QUEUED, 1, 1, None)
    assert job.attempts[0].ending == Ending.FAILED
    assert job.attempts[0].reasons[0].startswith("the evaluate hung: for 100 s it made no step")


def worker(here: Place, body: str) -> subprocess.Popen[bytes]:
    here.executor(body)  # writes the script
    command = [sys.executable, str(here.folder / "script.py"), "--home", str(here.home.root)]
    return subprocess.Popen([*command, "--service", QUICK.model_dump_json()])


def test_a_process_that_no_interruption_reaches_ends_itself_and_what_it_started(here: Place) -> None:
    """Attacks with a deaf handler whose encoder, a session of its own, works on: both die, the job is queued once more
    and its log says where it hung. No supervisor is there to do it.
    """
    here.enqueue(1)
    body = """
        import subprocess
        worker.LEAVING_S = 0.1
        encoder = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (PLACE / "encoder").write_text(str(encoder.pid))
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
        wait_for("never")
    """
    with worker(here, body) as process:
        assert process.wait() == -signal.SIGKILL
    assert not runs(int((here.folder / "encoder").read_text()))
    (job,) = here.jobs()
    assert (job.status, job.infra_failures) == (Status.QUEUED, 1)
    said = (here.run_folder(job, 1) / "worker.log").read_text()
    assert "the evaluate hung" in said
    assert "script.py" in said


@pytest.mark.dear(day=2)
def test_a_process_that_hung_once_does_no_further_job(here: Place) -> None:
    """Attacks with a handler that an interruption does reach: it tidies up, and the process, whose state nobody knows,
    leaves the second job to another.
    """
    here.enqueue(2)
    body = """
        try:
            wait_for("never")
        finally:
            (PLACE / "tidied").touch()
    """
    with worker(here, body) as process:
        assert process.wait() == EXIT_STOPPED
    assert (here.folder / "tidied").exists()
    assert [(job.status, job.attempt, job.infra_failures) for job in here.jobs()] == [
        (Status.QUEUED, 1, 1),
        (Status.QUEUED, 0, 0),
    ]


def runs(pid: int) -> bool:
    """Whether a process lives and is not just a name that nobody has read."""
    return lives(pid) and ") Z " not in Path(f"/proc/{pid}/stat").read_text()


def test_no_time_out_of_a_job_is_longer_than_the_silence_that_it_may_keep() -> None:
    """Attacks a slow machine whose organizers raised a time-out: they need not think of stall_s."""
    long = 40_000.0
    steps = [
        Service(limits=Limits(load_timeout_s=long)),
        Service(limits=Limits(call_timeout_s=long)),
        Service(build=BuildPhase(timeout_s=long)),
        Service(weights=WeightsPhase(timeout_s=long)),
        Service(report=ReportLimits(wall_s=long)),
    ]
    assert all(service.silence_s(JobKind.CHECK) > long for service in steps)
    assert [service.silence_s(JobKind.EVALUATE) > long for service in steps] == [True, True, False, False, False]
    assert set(HANDLERS) == set(JobKind)
    assert Service().silence_s(JobKind.EVALUATE) >= 1800


@pytest.mark.parametrize("name", [SandboxName.BUBBLEWRAP, SandboxName.AUTO])
def test_a_machine_too_busy_for_a_trial_is_not_one_without_a_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: SandboxName
) -> None:
    """Attacks with a bubblewrap that answers nothing in time: that is tried with more patience, and then a fault that
    may pass, where a missing sandbox would stop the whole queue.
    """
    os.mkfifo(tmp_path / "never")
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/tries\nexec cat {tmp_path}/never\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine")
    monkeypatch.setattr(backend, "PATIENCE_S", (1.0, 1.1, 1.2))
    with pytest.raises(InfraError, match="bubblewrap did not start in time"):
        open_sandbox(name, image="none")
    assert (tmp_path / "tries").read_text() == "tried\n" * 3


def test_a_trial_that_ends_with_more_patience_counts() -> None:
    """Attacks the second try: it has more time than the first, and what it finds is what is found."""
    given = []

    def run(timeout_s: float) -> subprocess.CompletedProcess[str]:
        given.append(timeout_s)
        if len(given) == 1:
            raise subprocess.TimeoutExpired("bwrap", timeout_s)
        return subprocess.run(["true"], text=True, check=False)

    assert backend.patiently(run).returncode == 0
    assert given == list(backend.PATIENCE_S[:2])


@pytest.mark.engine
def test_a_sandbox_ends_with_its_outermost_process(tmp_path: Path, bubblewrap: Bubblewrap) -> None:
    """Attacks with SIGKILL on bubblewrap's own process alone: all inside must end at once, though the server has
    changed its user and is not bubblewrap's to kill any more; else an encoder works on for nobody.
    """
    with make_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        Path(folder, "socket").chmod(0o666)
        listener.listen(1)
        limits = Limits(scratch_mb=16)
        place = Path(folder, "socket")
        launch = Launch(tree=tmp_path, root=".", socket=place, seed=0, threads=1, limits=limits, hidden=None)
        with bubblewrap.launch(launch) as child, accept(listener, child, limits, 60) as connection:
            connection.settimeout(60)
            assert child.alive()
            until(lambda: len(confined(place)) >= 2 or not child.alive())
            inside = confined(place)
            (outermost,) = {parent_of(pid) for pid in inside} - set(inside)
            assert outermost is not None
            assert parent_of(outermost) == os.getpid()
            for pid in inside:
                os.kill(pid, signal.SIGSTOP)  # so that none of them ends by itself
            os.kill(outermost, signal.SIGKILL)
            while connection.recv(4096):
                pass
            assert not child.alive()


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def confined(place: Path) -> list[int]:
    """The sandbox's processes that are no more who started them: the first of them, and the server that it forks."""
    found = []
    for pid in processes():
        with suppress(OSError):
            is_other = os.geteuid() != 0 or f"\nUid:\t{UID}\t" in Path(f"/proc/{pid}/status").read_text()
            if is_other and is_below(pid, os.getpid()) and str(place.parent) in mounts(pid):
                found.append(pid)
    return found


def mounts(pid: int) -> str:
    return Path(f"/proc/{pid}/mountinfo").read_text()
