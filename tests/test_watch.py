"""Watching: what a look tells is what the workers said, at a fair rate, and it reads from outside while they work."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from boards import condition
from homes import new_engine
from rich.console import Console
from rich.live import Live
from sqlalchemy import Engine, update

from ranker import queue
from ranker.cli.watch import duration, lines, picture
from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.home import Home
from ranker.job import JobContext, Outcome
from ranker.pace import Gauges, Pace, device_of
from ranker.perform import StopSignal
from ranker.settings import Service
from ranker.types import Fault, JobKind, Progress, Stage
from ranker.watch import Look, look
from ranker.worker import work

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
HOSTILE = "te\x1b[2Jam\u202e"
TRACKS = ("A", "B", "C")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(
            Submission(id="a" * 12, digest="a" * 64, team=HOSTILE, file_name="x.zip", size_bytes=1, received_at=NOW)
        )
    yield engine
    engine.dispose()


def enqueue(engine: Engine, *tracks: str) -> None:
    with session(engine) as writing:
        for track in tracks:
            queue.enqueue(
                writing, submission_id="a" * 12, kind=JobKind.EVALUATE, condition=condition(track), seed=42, now=NOW
            )


def claim(engine: Engine, now: datetime = NOW) -> queue.Claim:
    taken = queue.claim(engine, worker="host:1:x", now=now, lease_s=120)
    assert taken is not None
    return taken


def seen(engine: Engine, after_s: float = 0) -> Look:
    with session(engine, read_only=True) as reading:
        return look(reading, now=NOW + timedelta(seconds=after_s), lease_s=120)


def drawn(what: Look, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system="standard", soft_wrap=True)
    with Live(console=console, auto_refresh=False) as live:  # which is less than all that a console prints
        live.update(picture(what, width), refresh=True)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def train(done: int, total: int = 1000) -> Progress:
    return Progress(stage=Stage.TRAIN, done=done, total=total)


# -- the pace


def test_a_pause_or_a_burst_does_not_move_the_rate() -> None:
    """Attacks the mean: a checkpoint of 30 s and a burst among steps of one second change nothing."""
    pace, at, rate = Pace(), 0.0, None
    for step in range(1, 40):
        at += 30.0 if step == 20 else 0.5 if step == 30 else 1.0
        rate = pace.note(train(step), at)
    assert rate == 1.0


def test_steps_that_are_quick_are_counted_together_and_slow_ones_still_have_a_rate() -> None:
    """Attacks sampling: neither a thousand reports a second nor a step of a minute spoils the rate."""
    quick, rate = Pace(), None
    for step in range(1, 5001):
        rate = quick.note(train(step, 9999), step / 1000)
    assert rate == pytest.approx(1000, rel=0.01)
    slow = Pace()
    slow.note(train(0), 0)
    assert [slow.note(train(0), float(second)) for second in range(1, 60)] == [None] * 59
    assert slow.note(train(1), 60) == pytest.approx(1 / 60)


def test_another_stage_or_task_begins_anew() -> None:
    """Attacks mixed units: clips per second of encoding say nothing of training, nor one task of the next."""
    pace = Pace()
    for second in range(5):
        assert (pace.note(Progress(stage=Stage.ENCODE, done=second * 100), float(second)) is None) == (second == 0)
    assert pace.note(train(0), 6.0) is None
    assert pace.note(train(3), 7.0) == 3.0
    first, other = (Progress(stage=Stage.GENERATE, task=task, done=0) for task in ("one", "other"))
    assert pace.note(first, 8.0) is None
    assert pace.note(other, 9.0) is None


def test_gauges_tell_memory_device_and_the_last_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks what is added to a report: the encoder is asked now and then only, and standing still is noticed."""
    asked = []

    def encoder() -> int:
        asked.append(1)
        return 2_500_000_000

    gauges = Gauges(device="GPU-1")
    gauges.watch(encoder)
    later = NOW + timedelta(seconds=90)
    first = gauges.complete(train(1), at=0.0, now=NOW)
    still = gauges.complete(train(1), at=5.0, now=later)
    moved = gauges.complete(train(2), at=6.0, now=later)
    assert (first.encoder_memory_gb, first.device, len(asked)) == (2.5, "GPU-1", 1)
    assert 0.01 < (first.memory_gb or 0) < 100
    assert [each.moved_at for each in (first, still, moved)] == [NOW.isoformat(), NOW.isoformat(), later.isoformat()]
    gauges.complete(train(2), at=20.0, now=later)
    assert len(asked) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
    assert (device_of(None), device_of("cpu"), device_of("NVIDIA T4")) == ("GPU-2", "cpu", "GPU-2")


# -- a look


def test_a_look_tells_what_the_worker_said(engine: Engine) -> None:
    """Attacks each field: stage, counts, rate, time left, memory, device, heartbeat and standstill are the worker's."""
    enqueue(engine, *TRACKS)
    taken = claim(engine)
    told = Progress(
        stage=Stage.TRAIN, done=100, total=1000, loss=1.25, rate=4.0, memory_gb=1.5, encoder_memory_gb=2.0,
        device="GPU-1", moved_at=NOW.isoformat(),
    )  # fmt: skip
    queue.heartbeat(engine, taken, now=NOW, lease_s=120, progress=told)
    found = seen(engine, after_s=30)
    (job,) = found.running
    assert (job.stage, job.done, job.total, job.loss, job.rate, job.eta_s) == ("train", 100, 1000, 1.25, 4.0, 225.0)
    assert (job.memory_gb, job.encoder_memory_gb, job.device, job.attempt) == (1.5, 2.0, "GPU-1", 1)
    assert (job.beat_s, job.quiet_s, job.running_s) == (30, 30, 30)
    assert [seen(engine, after_s=late).running[0].is_late for late in (30, 46)] == [False, True]
    assert (found.counts["running"], found.counts["queued"], found.oldest_queued_s) == (1, 2, 30)


def test_progress_of_an_earlier_version_is_shown(engine: Engine) -> None:
    """Attacks rows that an older worker writes: without rate or memory there is a line all the same."""
    enqueue(engine, "A")
    taken = claim(engine)
    queue.heartbeat(engine, taken, now=NOW, lease_s=120, progress=train(5, 10))
    with engine.begin() as writing:
        old = {"stage": "train", "done": 5, "total": 10, "task": None, "loss": None}
        writing.execute(update(Job).values(progress=old))
    (job,) = seen(engine).running
    assert (job.done, job.rate, job.eta_s, job.memory_gb) == (5, None, None, None)
    assert "5/10" in drawn(seen(engine))


def test_pause_and_troubles_are_told(engine: Engine) -> None:
    """Attacks silence: why nothing is handed out, what waits to be tried again and what failed stand below the jobs."""
    enqueue(engine, "A", "B")
    how = {"max_infra_attempts": 5, "retry_delay_s": 9}
    queue.fail(engine, claim(engine), now=NOW, fault=Fault.INFRA, reasons=["the engine died"], **how)  # type: ignore[arg-type]
    queue.fail(engine, claim(engine), now=NOW, fault=Fault.ORGANIZER, reasons=["labels are missing"], **how)  # type: ignore[arg-type]
    found = seen(engine)
    assert found.paused is not None
    assert [trouble.fault for trouble in found.troubles] == [None, "organizer"]
    for said in (drawn(found), lines(found)):
        assert "PAUSED since 2026-02-12T12:00:00+00:00" in said
        assert "the engine died" in said
        assert "fault organizer: labels are missing" in said


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_name_moves_the_cursor(engine: Engine, width: int) -> None:
    """Attacks the terminal with a team's name, at any width: its escape codes are spelt out or cut, never sent."""
    enqueue(engine, "A")
    claim(engine)
    for said in (drawn(seen(engine), width), lines(seen(engine))):
        assert "\x1b[2J" not in said
        assert "\u202e" not in said
    assert r"te\x1b[2Jam\u202e" in lines(seen(engine))


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_what_matters_is_there_at_any_width(engine: Engine, width: int) -> None:
    """Attacks narrow terminals, where a table has no room for its columns: team, stage, count and time left stay."""
    enqueue(engine, "A")
    progress = Progress(stage=Stage.GENERATE, task="keyword", done=1417, total=3000, rate=2.0)
    queue.heartbeat(engine, claim(engine), now=NOW, lease_s=120, progress=progress)
    said = " ".join(drawn(seen(engine), width).split())
    for word in ("te\\x1b", "generate", "keyword", "1,417/3,000", "13:12 min"):
        assert word in said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599, "59:59 min"), (18_180, "5:03 h"), (216_000, "2.5 d")],
)
def test_durations_read_well(seconds: float, words: str) -> None:
    """Attacks the edges between units."""
    assert duration(seconds) == words


def test_a_worker_tells_all_of_it(engine: Engine, home: Home) -> None:
    """Attacks the way from a handler to the table: a real worker's report arrives with rate, memory and device."""
    with session(engine) as writing:
        queue.enqueue(writing, submission_id="a" * 12, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    found: list[Look] = []

    def handler(context: JobContext) -> Outcome:
        context.watch(lambda: 3_000_000_000)
        done = 0
        while not found or found[-1].running[0].rate is None:
            done += 1
            context.report(Progress(stage=Stage.ENCODE, done=done, total=10**9))
            with session(engine, read_only=True) as reading:
                found.append(look(reading, now=datetime.now(UTC), lease_s=2))
            threading.Event().wait(0.01)
        return Outcome(result={})

    work(home, Service(lease_s=2), None, stop=StopSignal(), handlers={JobKind.CHECK: handler})
    (job,) = found[-1].running
    assert (job.stage, job.encoder_memory_gb, job.device) == ("encode", 3.0, device_of(None))
    assert (job.rate or 0) > 0
    assert (job.eta_s or 0) > 0
    assert (job.memory_gb or 0) > 0
    events = [json.loads(line) for line in next(home.runs.rglob("worker.jsonl")).read_text().splitlines()]
    assert [event["event"] for event in events] == ["begun", "stage", "succeeded"]
    assert {event["job"] for event in events} == {1}


# -- the command


def command(home: Home, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ranker", "--home", str(home.root), "status", "--watch", *arguments]


def test_on_a_terminal_a_table_moves_until_ctrl_c(engine: Engine, home: Home) -> None:
    """Attacks the live table on a real terminal: what another process writes appears, and Ctrl-C is an ordinary end."""
    enqueue(engine, "A")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
    with subprocess.Popen(
        command(home, "--interval", "0.1"), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=os.environ | {"TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(theirs)
        said = until(ours, b"1 queued")
        taken = claim(engine, datetime.now(UTC))
        progress = Progress(stage=Stage.TRAIN, done=417, total=1000, rate=2.0)
        queue.heartbeat(engine, taken, now=datetime.now(UTC), lease_s=120, progress=progress)
        said += until(ours, b"417/1,000")
        process.send_signal(signal.SIGINT)
        said += until(ours, None)
        assert process.wait() == 0
    os.close(ours)
    assert b"Traceback" not in said
    assert b"\x1b[2J" not in said


def until(terminal: int, words: bytes | None) -> bytes:
    """What is shown until these words are there; None: until nobody holds the terminal any more."""
    said = b""
    while words is None or words not in said:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"a minute without a word; so far: {said!r}"
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            part = b""
        if not part:
            assert words is None, f"it ended without saying {words!r}: {said!r}"
            break
        said += part
    return said


def test_in_a_pipe_there_is_a_document_per_tick(engine: Engine, home: Home) -> None:
    """Attacks programs that read along: each line is whole JSON as soon as it comes, and the next look is a new one."""
    enqueue(engine, "A")
    arguments = command(home, "--json", "--interval", "0.1")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        claim(engine)
        while (later := json.loads(process.stdout.readline()))["counts"]["running"] == 0:
            pass
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert (first["counts"]["queued"], len(first["running"])) == (1, 0)
    assert (later["counts"]["queued"], later["running"][0]["track"]) == (0, "track A")


def test_without_a_terminal_there_are_lines(home: Home) -> None:
    """Attacks `nohup` and empty homes: plain lines without any escape code, no database made, and no end by itself."""
    arguments = command(home, "--interval", "0.1")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait() == 0
    assert all("jobs: 0 queued, 0 running" in line for line in said)
    assert "\x1b" not in "".join(said)
    assert not home.database_path.exists()
