"""Measures: what a strict parser of OpenMetrics reads from a real HTTP answer is what the database says."""

from __future__ import annotations

import http.client
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boards import condition
from homes import new_engine
from postgres import EVERYWHERE
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from sqlalchemy import Engine

from ranker import queue
from ranker.cli.metrics import Server, parsed
from ranker.db.models import Submission
from ranker.db.session import session
from ranker.errors import InfraError, UsageError
from ranker.home import Home
from ranker.openmetrics import CONTENT_TYPE, Family, Kind, of_machine, of_pages, of_queue, text
from ranker.types import Fault, JobKind, Progress, Stage

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
HOSTILE = 'te"am\\\n\x1b{}# EOF'
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    """Two jobs that run, one that failed by our fault and waits again, one that is queued."""
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(
            Submission(id="a" * 12, digest="a" * 64, team=HOSTILE, file_name="x.zip", size_bytes=1, received_at=NOW)
        )
        for track, when in (("A", 60), ("B", 50), ("C", 40)):
            queue.enqueue(
                writing,
                submission_id="a" * 12,
                kind=JobKind.EVALUATE,
                condition=condition(track),
                seed=42,
                now=NOW - timedelta(seconds=when),
            )
    first, second = (queue.claim(engine, worker=f"w{n}", now=NOW, lease_s=120) for n in (1, 2))
    assert first is not None
    assert second is not None
    told = Progress(stage=Stage.TRAIN, done=30, total=120, rate=2.5, memory_gb=1.5, moved_at=NOW.isoformat())
    queue.heartbeat(engine, first, now=NOW, lease_s=120, progress=told)
    how = {"reasons": ["the engine died"], "max_infra_attempts": 5, "retry_delay_s": 9}
    queue.fail(engine, second, now=NOW, fault=Fault.INFRA, **how)  # type: ignore[arg-type]
    yield engine
    engine.dispose()


def values(said: str) -> Values:
    """Every sample, as the strict parser reads it; it raises ValueError for anything that is not OpenMetrics."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(said)
        for sample in family.samples
    }


def measured(engine: Engine, home: Home, now: datetime = NOW) -> Values:
    with session(engine, read_only=True) as reading:
        families = [*of_queue(reading, now=now, lease_s=120), *of_pages(reading, home), *of_machine(home, now=now)]
    return values(text(families))


def test_the_queue_is_told_as_it_is(engine: Engine, home: Home) -> None:
    """Attacks each number: jobs by state, ages, rates, memory and attempts are those of the rows."""
    found = measured(engine, home, NOW + timedelta(seconds=7))
    labels = {"kind": "evaluate", "track": "A", "status": "running"}
    assert found["ranker_jobs", tuple(sorted(labels.items()))] == 1
    assert found["ranker_queue_oldest_age_seconds", ()] == 57
    assert found["ranker_training_steps_per_second", ()] == 2.5
    one = (("job", "1"), ("submission", "a" * 12), ("track", "track A"))
    assert found["ranker_job_heartbeat_age_seconds", one] == 7
    assert found["ranker_job_still_seconds", one] == 7
    assert found["ranker_job_stage_ratio", (one[0], ("stage", "train"), *one[1:])] == 0.25
    assert found["ranker_job_memory_bytes", (one[0], ("of", "worker"), *one[1:])] == 1.5e9
    assert found["ranker_attempts_total", (("ending", "failed"), ("fault", "infra"), ("kind", "evaluate"))] == 1
    assert found["ranker_infra_faults_total", ()] == 1
    assert found["ranker_queue_paused", ()] == 0
    assert found["ranker_disk_free_bytes", ()] > 0
    sizes = {labels: value for (name, labels), value in found.items() if name == "ranker_database_size_bytes"}
    file = sizes.get((("file", "ranker.db"),))
    assert max(sizes.values()) > 0 if EVERYWHERE else file == home.database_path.stat().st_size


def test_no_team_is_named(engine: Engine, home: Home) -> None:
    """Attacks names that teams chose: a hostile one is nowhere, and breaks no line."""
    with session(engine, read_only=True) as reading:
        assert 'te\\"am' not in text(of_queue(reading, now=NOW, lease_s=120))


@pytest.mark.parametrize("value", [HOSTILE, "\\n", '"', "", "\u202eü"])
def test_labels_are_escaped(value: str) -> None:
    """Attacks the text with every sign that means something in it: the parser gives the label back as it was."""
    family = Family(name="x", kind=Kind.GAUGE, about=value, samples=[({"label": value}, 1.5)])
    assert values(text([family])) == {("x", (("label", value),)): 1.5}


@pytest.mark.parametrize("value", [0, -1.5, 2**60, 1e300, float("inf"), float("-inf"), 1e-12])
def test_numbers_arrive_as_they_are(value: float) -> None:
    """Attacks rounding and the odd numbers."""
    assert values(text([Family(name="x", kind=Kind.GAUGE, about="x", samples=[({}, value)])])) == {("x", ()): value}


def test_a_gpu_is_told(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks the driver's answer: percent become a ratio, MiB bytes, and what it does not know is left out."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU-1, 25, 1024, 16384'\necho 'GPU-2, [N/A], 512, 16384'\n", encoding="ascii")
    driver.chmod(driver.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = values(text(of_machine(home, now=NOW)))
    assert found["ranker_gpu_utilization_ratio", (("uuid", "GPU-1"),)] == 0.25
    assert ("ranker_gpu_utilization_ratio", (("uuid", "GPU-2"),)) not in found
    assert found["ranker_gpu_memory_used_bytes", (("uuid", "GPU-2"),)] == 512 * 2**20


@contextmanager
def served(server: Server) -> Iterator[http.client.HTTPConnection]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
        yield connection
        connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, str, str]:
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read().decode()


def test_over_http_the_type_and_every_answer_are_right() -> None:
    """Attacks the endpoint: content type, other paths and methods, and a database that cannot be read just then."""
    broken = threading.Event()

    def measures() -> str:
        if broken.is_set():
            raise InfraError("the disk is away")
        return text([Family(name="x", kind=Kind.GAUGE, about="x", samples=[({}, 1)])])

    with served(Server(("127.0.0.1", 0), measures)) as connection:
        code, content_type, body = asked(connection, "GET", "/metrics")
        assert (code, content_type, values(body)) == (200, CONTENT_TYPE, {("x", ()): 1})
        assert asked(connection, "HEAD", "/metrics") == (200, CONTENT_TYPE, "")
        assert asked(connection, "GET", "/")[0] == 404
        assert asked(connection, "GET", "/metrics/../../etc/passwd")[0] == 404
        assert asked(connection, "POST", "/metrics")[0] == 501
        broken.set()
        code, _, body = asked(connection, "GET", "/metrics?x=1")
        assert (code, body) == (503, "ranker: the disk is away\n")


def test_the_command_serves_until_it_is_interrupted(engine: Engine, home: Home) -> None:
    """Attacks the whole way: a real process, a real request, and Ctrl-C as an ordinary end without a traceback."""
    command = [sys.executable, "-m", "ranker", "--home", str(home.root), "metrics", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split("http://")[1].split("/")[0]
        connection = http.client.HTTPConnection(address, timeout=30)
        code, content_type, body = asked(connection, "GET", "/metrics")
        connection.close()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 0
    assert (code, content_type) == (200, CONTENT_TYPE)
    assert values(body)["ranker_infra_faults_total", ()] == 1
    assert rest == ""


@pytest.mark.parametrize("place", ["", "9646x", "example.org:80", "127.0.0.1:70000", "127.0.0.1", "1.2.3.4:-1"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    """Attacks --listen: names, missing and impossible ports have one sentence."""
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        parsed(place)
    assert parsed(":80") == parsed("localhost:80") == ("127.0.0.1", 80)
    assert parsed("[::1]:9646") == ("::1", 9646)


def test_where_nothing_was_taken_in_there_are_measures_too(home: Home) -> None:
    """Attacks the first day: without a database the machine is told of, and no file is made."""
    from ranker.service import Ranker

    found = values(Ranker(home.root).measures())
    assert ("ranker_disk_free_bytes", ()) in found
    assert not home.root.exists()
