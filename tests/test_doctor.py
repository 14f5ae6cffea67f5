"""Doctor: each thing that can be wrong is named, with what to do, and doctor itself changes and breaks nothing."""

from __future__ import annotations

import contextlib
import gc
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from boards import condition
from homes import new_engine
from postgres import sqlite_only
from sqlalchemy import Engine, text

from ranker import queue
from ranker.db.migrate import head_revision
from ranker.db.models import Submission
from ranker.db.session import session
from ranker.doctor import CHECKS, Finding, Patient, Verdict, examine, examine_part
from ranker.events import record
from ranker.home import Home
from ranker.settings import Service, WeightsPhase
from ranker.types import Action, JobKind, SandboxName

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
TEAM = "a" * 12

# Where no engine answers, the docker package leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "quiet").mkdir()
    program(
        monkeypatch, tmp_path / "quiet", "timedatectl", "exit 1"
    )  # whether this machine has a time server is its own matter
    gc.freeze()  # what is there before the test is not looked through
    yield
    gc.collect()  # those sockets, while their warning is ignored
    gc.unfreeze()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
        queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    yield engine
    engine.dispose()


def find(home: Home, part: str, service: Service | None = None, now: datetime = NOW) -> Finding:
    found = examine_part(part, Patient(home=home, service=service or Service(), now=now))
    assert len(found) == 1
    return found[0]


def program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    """Put a program of this name before all others."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_an_empty_home_is_examined_whole_and_left_empty(home: Home) -> None:
    """Attacks a first run: each part has its finding, what is to be done has advice, and nothing is created."""
    findings = examine(home, Service(), now=NOW)
    assert {finding.part for finding in findings} >= set(CHECKS) - {"NVIDIA container toolkit"}
    assert all(finding.advice for finding in findings if finding.verdict is not Verdict.OK)
    assert not home.root.exists()
    assert find(home, "benchmark").verdict is Verdict.MISSING
    assert "ranker data build mini" in find(home, "benchmark").advice


def test_json_is_plain(home: Home) -> None:
    """Attacks what scripts read: four words per finding."""
    values = [finding.to_json() for finding in examine(home, Service(), now=NOW)]
    assert len(values) >= 15
    assert all(set(value) == {"part", "verdict", "found", "advice"} for value in values)


@sqlite_only
def test_a_good_database_is_good(engine: Engine, home: Home) -> None:
    """Attacks false alarms: revision and integrity are named, no job is left behind."""
    assert find(home, "database").verdict is Verdict.OK
    assert f"revision {head_revision()}, 1 submissions" in find(home, "database").found
    assert find(home, "jobs").found == "0 jobs running, 1 queued, none left behind"


@sqlite_only
def test_a_damaged_database_is_named(engine: Engine, home: Home) -> None:
    """Attacks integrity: pages overwritten in the middle of the file are found, and nothing is raised."""
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    engine.dispose()
    size = home.database_path.stat().st_size
    with home.database_path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))
    assert find(home, "database").verdict is Verdict.MISSING
    assert "database" in find(home, "database").found


@sqlite_only
def test_a_file_that_is_no_database_is_named(home: Home) -> None:
    """Attacks with a text file in the database's place: findings, not exceptions; the file stays as it is."""
    home.root.mkdir()
    home.database_path.write_text("no database" * 1000)
    assert find(home, "database").verdict is Verdict.MISSING
    assert find(home, "clock").part == "clock"
    assert home.database_path.read_text() == "no database" * 1000


@sqlite_only
def test_a_database_of_another_revision_is_not_migrated(engine: Engine, home: Home) -> None:
    """Attacks `looks only`: an old revision is named and stays; parts that read the tables do not stumble over it."""
    with session(engine) as writing:
        writing.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    assert find(home, "database").verdict is Verdict.WARNING
    assert "revision 0000" in find(home, "database").found
    assert find(home, "jobs").verdict is Verdict.OK
    assert list(home.root.glob("*.backup-*")) == []


def test_a_job_without_its_worker_is_named(engine: Engine, home: Home) -> None:
    """Attacks stale leases: a dead worker's job at once, a silent one's when its lease ends, a living one's not."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = queue.worker_id(process.pid)
    queue.claim(engine, worker=queue.worker_id(), now=NOW, lease_s=60)
    assert find(home, "jobs").verdict is Verdict.OK
    assert "1 of 1 running jobs have lost their worker: 1" in find(home, "jobs", now=NOW + timedelta(seconds=60)).found
    queue.reap(engine, now=NOW, is_dead=lambda _: True, max_infra_attempts=5)
    queue.claim(engine, worker=dead, now=NOW, lease_s=60)
    assert find(home, "jobs").verdict is Verdict.WARNING


def test_a_clock_that_is_behind_is_named(engine: Engine, home: Home) -> None:
    """Attacks time: a job from the future means that the clock was set back."""
    assert find(home, "clock").verdict is Verdict.OK
    behind = find(home, "clock", now=NOW - timedelta(days=1))
    assert behind.verdict is Verdict.WARNING
    assert "2026-02-12 12:00 UTC, later than now" in behind.found


def test_events_from_the_future_are_named(engine: Engine, home: Home) -> None:
    """Attacks a clock that was set back after something was recorded, though no job is as young."""
    with session(engine) as writing:
        record(writing, actor="x", action=Action.PUBLISH, now=NOW + timedelta(hours=3))
    assert "something was recorded at 2026-02-12 15:00 UTC, later than now" in find(home, "clock").found


@pytest.mark.parametrize(("answer", "verdict"), [("no", Verdict.WARNING), ("yes", Verdict.OK), ("", Verdict.OK)])
def test_a_clock_that_nobody_keeps_right_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, verdict: Verdict
) -> None:
    """Attacks a missing time server: what systemd says counts; that it says nothing is no fault."""
    program(monkeypatch, tmp_path, "timedatectl", f"echo {answer}")
    assert find(home, "clock").verdict is verdict


@pytest.mark.parametrize(
    ("skew_s", "words"), [(0, r"the hub's clock agrees"), (-3600, r"but the hub's clock is -36\d\d s off")]
)
def test_the_hub_is_asked_for_the_time_if_wanted(home: Home, skew_s: float, words: str) -> None:
    """Attacks a wrong clock on a machine without a time server, by a real answer's Date; else nobody is asked."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response_only(404)
            self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(seconds=skew_s)))
            self.end_headers()

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        service = Service(weights=WeightsPhase(hub_url=f"http://127.0.0.1:{server.server_address[1]}"))
        find(home, "clock", service)
        patient = Patient(home=home, service=service, now=NOW, ask_hub=True)
        assert asked == []
        (found,) = examine_part("clock", patient)
        server.shutdown()
        thread.join()
    assert re.search(words, found.found)
    assert (found.verdict is Verdict.OK) == (skew_s == 0)
    (nobody,) = examine_part("clock", patient)
    assert "cannot be asked for the time" in nobody.found


def test_a_disk_too_small_for_what_is_queued_is_named(
    engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks a disk that will be full tomorrow: the need of queued evaluations is that of those that have finished."""
    free = shutil.disk_usage(home.root).free
    monkeypatch.setattr("ranker.doctor.machine.typical_bytes", lambda patient: 10)
    monkeypatch.setattr("ranker.doctor.machine.AMPLE_FREE_GB", 0)
    monkeypatch.setattr("ranker.doctor.machine.LEAST_FREE_GB", 0)
    with session(engine) as writing:
        queue.enqueue(writing, submission_id=TEAM, kind=JobKind.EVALUATE, condition=condition("A"), seed=1, now=NOW)
    assert find(home, "disk").verdict is Verdict.OK
    monkeypatch.setattr("ranker.doctor.machine.typical_bytes", lambda patient: 2 * free)
    small = find(home, "disk")
    assert small.verdict is Verdict.WARNING
    assert "1 evaluations that are to be done would keep" in small.found


def test_a_wrong_config_is_named_and_the_others_counted(home: Home) -> None:
    """Attacks configuration: the home's own file is read in place of the shipped one, and its mistake shown."""
    assert find(home, "configuration").verdict is Verdict.OK
    (home.root / "configs").mkdir(parents=True)
    (home.root / "configs" / "mini.yaml").write_text("name: mini\nsurprise: 1\n")
    wrong = find(home, "configuration")
    assert wrong.verdict is Verdict.WARNING
    assert "surprise" in wrong.found


def test_left_overs_are_named_when_they_are_old(home: Home) -> None:
    """Attacks temporary folders: one of a running command is left alone, one of a killed command is named."""
    folder = home.submissions / ".incoming-x"
    folder.mkdir(parents=True)
    made = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    assert find(home, "left-over folders", now=made + timedelta(minutes=1)).verdict is Verdict.OK
    assert ".incoming-x" in find(home, "left-over folders", now=made + timedelta(hours=2)).found


def test_no_sandbox_by_configuration_is_a_warning(home: Home) -> None:
    """Attacks `sandbox: none`: it can never look fine."""
    assert find(home, "sandbox", Service(sandbox=SandboxName.NONE)).verdict is Verdict.WARNING


def test_the_engine_that_is_asked_for_must_work(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks engines: with docker configured and no engine there, docker and sandbox are missing, with a way out."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    service = Service(sandbox=SandboxName.DOCKER)
    assert find(home, "Docker").verdict is Verdict.WARNING
    assert find(home, "Docker", service).verdict is Verdict.MISSING
    assert find(home, "sandbox", service).verdict is Verdict.MISSING


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("NVIDIA Container Toolkit CLI version 1.17.8", Verdict.OK),
        ("NVIDIA Container Toolkit CLI version 1.18.0-rc.1", Verdict.OK),
        ("NVIDIA Container Toolkit CLI version 1.17.7", Verdict.MISSING),
        ("NVIDIA Container Toolkit CLI version 1.9.12", Verdict.MISSING),
        ("NVIDIA Container Toolkit CLI version 1.16.1", Verdict.MISSING),
        ("NVIDIA Container Toolkit CLI version 1.16.2", Verdict.MISSING),
        ("who knows", Verdict.WARNING),
    ],
)
def test_an_exploitable_toolkit_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, verdict: Verdict
) -> None:
    """Attacks versions: compared as numbers, not as text; only looked at where there is a GPU."""
    program(monkeypatch, tmp_path, "nvidia-ctk", f"echo '{answer}'")
    program(monkeypatch, tmp_path, "nvidia-smi", "exit 9")
    assert examine_part("NVIDIA container toolkit", Patient(home=home, service=Service(), now=NOW)) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program(monkeypatch, tmp_path, "nvidia-smi", "echo 'GPU-1, NVIDIA T4'")
    assert find(home, "NVIDIA container toolkit").verdict is verdict
    old = "1.9.12" in answer or "1.16.1" in answer
    assert ("CVE-2024-0132" in find(home, "NVIDIA container toolkit").advice) == old


def test_limits_that_do_not_hold_are_named(home: Home, bubblewrap: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks a false sense of safety: without control groups, doctor says which limits are only each process's own."""
    service = Service(sandbox=SandboxName.BUBBLEWRAP)
    monkeypatch.setattr("ranker.sandbox.bubblewrap.cgroup", lambda limits: contextlib.nullcontext())
    found = find(home, "limits of the sandbox", service)
    assert found.verdict is Verdict.WARNING
    assert "memory_gb holds for each process alone" in found.found
    assert "cpus does not hold" in found.found
    assert "Docker" in found.advice
    assert "nothing is limited" in find(home, "limits of the sandbox", Service(sandbox=SandboxName.NONE)).found


def test_what_an_engine_cannot_promise_is_named() -> None:
    """Attacks engines that take a limit and do not hold it: each switch of `docker info` has its sentence."""
    from ranker.sandbox.docker import engine_gaps

    whole = {"MemoryLimit": True, "SwapLimit": True, "PidsLimit": True, "CpuCfsQuota": True,
             "SecurityOptions": ["name=seccomp,profile=default"]}  # fmt: skip
    assert engine_gaps(whole) == ()
    found = [engine_gaps({**whole, switch: False}) for switch in list(whole)[:4]]
    assert [len(each) for each in found] == [1] * 4
    assert "swapaccount=1" in found[1][0]
    assert "not filtered" in engine_gaps({**whole, "SecurityOptions": None})[0]


def test_the_engines_runtime_and_remap_are_told(home: Home, docker_engine: str) -> None:
    """Attacks doubt about which root a container has, on a real engine; and an unanswered door is no failure."""
    found = find(home, "containers").found
    assert found.startswith("runtime ")
    assert "remapped" in found
    assert "lists " in find(home, "system calls").found


def test_doctor_loads_no_torch(home: Home) -> None:
    """Attacks start-up time: the command line imports doctor, and doctor judges torch without loading it."""
    code = "import sys; from pathlib import Path; from ranker.settings import Service; from ranker.home import Home; "
    code += "from ranker.doctor import examine; findings = examine(Home(root=Path(sys.argv[1])), Service()); "
    code += "assert len(findings) > 10; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(home.root)], check=False).returncode == 0
