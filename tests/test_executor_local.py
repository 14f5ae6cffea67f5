"""The local executor beyond the contract of all executors: processes that hang or cannot start, threads, and GPUs."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from homes import new_engine
from patience import until
from postgres import sqlite_only
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError, OperationalError

from ranker import queue
from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.errors import InfraError
from ranker.executors import base
from ranker.executors.gpus import Gpu, Memory, driver_gpus, gpus, memory, torch_has_cuda
from ranker.executors.local import Local, environments_of, places
from ranker.executors.pool import Pool
from ranker.home import Home
from ranker.settings import Service
from ranker.types import JobKind, Status

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
TEAM = "a" * 12
NO_GPUS: tuple[Gpu, ...] = ()
SERVICE = Service(retry_delay_s=0, infra_attempts=3)
SCRIPT = """
import os, signal, sys, threading
from ranker.errors import InfraError, OrganizerError, ParticipantError
from ranker.job import JobContext, Outcome
from ranker.types import JobKind
from ranker.worker import main

def handler(context: JobContext) -> Outcome:
{body}

if __name__ == "__main__":
    sys.exit(main(handlers={{JobKind.CHECK: handler}}))
"""
GOOD = "return Outcome(result={'attempt': context.claim.attempt, 'pid': os.getpid()})"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    with session(engine) as writing:
        writing.add(Submission(id=TEAM, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
    yield engine
    engine.dispose()


def enqueue(engine: Engine, count: int) -> list[int]:
    with session(engine) as writing:
        return [
            queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=seed, now=NOW).id
            for seed in range(count)
        ]


def command(home: Home, body: str) -> list[str]:
    script = home.root / "script.py"
    script.write_text(SCRIPT.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    ")), encoding="utf-8")
    return [sys.executable, str(script)]


def run(home: Home, service: Service, ids: list[int], **options: Any) -> None:
    on_tick = options.pop("on_tick", lambda: None)
    Local(**options).run(home, service, ids, on_tick=on_tick)


def jobs(engine: Engine) -> list[Job]:
    with session(engine, read_only=True) as reading:
        return list(reading.scalars(select(Job).order_by(Job.id)))


def test_nothing_to_do_starts_nothing(engine: Engine, home: Home) -> None:
    """Attacks the empty list: no process, no error."""
    run(home, SERVICE, [], command=["/nowhere/at/all"])
    ids = enqueue(engine, 1)
    run(home, SERVICE, ids, command=command(home, GOOD))
    run(home, SERVICE, ids, command=["/nowhere/at/all"])


def test_workers_that_cannot_start_are_not_started_for_ever(engine: Engine, home: Home) -> None:
    """Attacks a broken installation: the run ends with the worker's last words, the job stays queued."""
    ids = enqueue(engine, 1)
    broken = [sys.executable, "-c", "raise SystemExit('no module named wisdom')"]
    with pytest.raises(
        InfraError, match=r"3 workers in a row ended .*exit status 1: no module named wisdom; run `ranker doctor`"
    ):
        run(home, SERVICE, ids, workers=1, command=broken)
    assert [(job.status, job.attempt) for job in jobs(engine)] == [(Status.QUEUED, 0)]


def test_a_worker_that_hangs_loses_its_place(engine: Engine, home: Home) -> None:
    """Attacks a process that is stopped without dying: its lease ends, it is killed, attempt 2 does the job."""
    ids = enqueue(engine, 1)
    body = f"if context.claim.attempt == 1: os.kill(os.getpid(), signal.SIGSTOP)\n{GOOD}"
    run(home, SERVICE.model_copy(update={"lease_s": 2.0}), ids, workers=1, command=command(home, body))
    done = jobs(engine)[0]
    assert (done.status, done.attempt, (done.result or {})["attempt"]) == (Status.SUCCEEDED, 2, 2)


def test_a_worker_that_hangs_loses_its_place_whoever_took_its_job(engine: Engine, home: Home) -> None:
    """Attacks a process that is stopped, and whose job another terminal takes before ours looks: ours kills it all the
    same, and attempt 2 finds a place.
    """
    ids = enqueue(engine, 1)
    sign = home.root / "stopped"
    body = f"""
        if context.claim.attempt == 1:
            (context.home.root / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        {GOOD}
    """
    taken: list[int] = []

    def other_terminal() -> None:
        if sign.exists() and not taken:
            later = datetime.now(UTC) + timedelta(hours=1)
            taken.append(queue.reap(engine, now=later, is_dead=lambda _: False, max_infra_attempts=3))

    Local(workers=1, command=command(home, body)).run(home, SERVICE, ids, on_tick=other_terminal)
    done = jobs(engine)[0]
    assert taken == [1]
    assert (done.status, done.attempt, (done.result or {})["attempt"]) == (Status.SUCCEEDED, 2, 2)


@sqlite_only
def test_a_look_at_the_queue_is_cheap_however_many_jobs_wait(engine: Engine, home: Home) -> None:
    """Attacks with ten thousand jobs of others in front of ours, and with ten thousand of ours: what SQLite does for a
    look grows with neither. Counted in steps of its virtual machine.
    """
    (ours,) = enqueue(engine, 1)
    one = {column.name: column for column in Job.__table__.columns if column.name not in {"id", "key"}}

    def steps(watch: Any) -> int:
        counted: list[int] = []
        with engine.connect() as connection:  # the one that the pool hands out next, too
            raw = cast("sqlite3.Connection", connection.connection.driver_connection)
        raw.set_progress_handler(lambda: counted.append(1), 10)
        watch._look(2)
        raw.set_progress_handler(None, 0)
        assert counted
        return len(counted)

    watches = [base._Watch(engine=engine, service=SERVICE, job_ids=ids) for ids in (frozenset({ours}), None)]
    before = [steps(watch) for watch in watches]
    with engine.begin() as writing:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) "
        names = ", ".join(one)
        values = ", ".join("5" if name == "priority" else name for name in one)
        writing.exec_driver_sql(
            f"INSERT INTO job (key, {names}) {numbers} "
            f"SELECT printf('%064d', i), {values} FROM n, job WHERE id = {ours}"
        )
    watches.append(base._Watch(engine=engine, service=SERVICE, job_ids=frozenset(range(ours, 10_001))))
    after = [steps(watch) for watch in watches]
    assert [watch._look(2).queued for watch in watches] == [1, 2, 2]
    assert max(after) <= max(before) + 200, "ten thousand rows take several times as many"


def test_a_machine_that_slept_takes_no_job_from_a_worker_that_lives(
    engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks with a clock that leaps an hour ahead between two looks, as when a laptop wakes: the worker's lease seems
    to have run out, and is left until it had time for a heartbeat. Real silence, later, costs it the job.
    """
    (number,) = enqueue(engine, 1)
    assert queue.claim(engine, worker=queue.worker_id(), now=NOW, lease_s=60) is not None
    hour, seen = 3600.0, []
    moments = [0.0, hour + 1.0, hour + 20.0, hour + 70.0]  # what the wall clock says, ...
    monotonic = [0.0, 1.0, 20.0, 70.0]  # ... and the one that stood meanwhile
    looks = iter(zip(moments, monotonic, strict=True))

    class Clock:
        def __init__(self) -> None:
            self.wall, self.steady = next(looks)

        def monotonic(self) -> float:
            return self.steady

        def sleep(self, _: float) -> None:
            seen.append(jobs(engine)[0].status)
            if len(seen) == len(moments):
                raise KeyboardInterrupt
            self.wall, self.steady = next(looks)

    clock = Clock()
    monkeypatch.setattr(base, "time", clock)
    monkeypatch.setattr(base, "REAP_EVERY_TICKS", 1)
    monkeypatch.setattr(base, "_now", lambda: NOW + timedelta(seconds=clock.wall))
    service = Service(retry_delay_s=0, infra_attempts=3, lease_s=60)
    with pytest.raises(KeyboardInterrupt):
        base.run_processes(home, service, [number], command=["false"], environments=[], on_tick=lambda: None)
    assert seen == [Status.RUNNING, Status.RUNNING, Status.RUNNING, Status.QUEUED]


@sqlite_only
def test_a_database_that_takes_nothing_costs_no_worker_its_life(
    engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks with a disk that is full for longer than a lease: workers that cannot prolong theirs are not killed for
    it, and their jobs are left until they had time to do so.
    """
    (number,) = enqueue(engine, 1)
    with subprocess.Popen(["sleep", "600"]) as worker:
        name = queue.worker_id(worker.pid)
        assert queue.claim(engine, worker=name, now=datetime.now(UTC) - timedelta(seconds=70), lease_s=60) is not None
        with engine.begin() as writing:
            writing.exec_driver_sql("CREATE TRIGGER full BEFORE UPDATE ON job BEGIN SELECT RAISE(FAIL, 'disk'); END")
        refused = []

        def reap(*given: Any, **how: Any) -> int:
            try:
                return real(*given, **how)
            except IntegrityError as error:  # what a trigger can raise, as what a full disk does
                refused.append(error)
                raise OperationalError("UPDATE job", None, Exception("database or disk is full")) from error

        real = queue.reap
        monkeypatch.setattr(base.queue, "reap", reap)
        monkeypatch.setattr(base, "REAP_EVERY_TICKS", 1)
        monkeypatch.setattr(base, "TICK_S", 0.0)
        looks = []

        def tick() -> None:
            looks.append((jobs(engine)[0].status, worker.poll()))
            if len(looks) == 3:
                with engine.begin() as writing:
                    writing.exec_driver_sql("DROP TRIGGER full")
            if len(looks) == 6:
                raise KeyboardInterrupt

        class Ours(Pool):
            def _living(self) -> list[subprocess.Popen[bytes]]:
                return [worker] if worker.poll() is None else []

            def fill(self, wanted: int) -> None:
                pass

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(base, "Pool", Ours)
        with pytest.raises(KeyboardInterrupt):
            base.run_processes(home, SERVICE, [number], command=["false"], environments=[], on_tick=tick)
        assert len(refused) == 1
        assert looks == [(Status.RUNNING, None)] * 6
        worker.kill()


def test_after_a_long_outage_there_is_time_for_a_heartbeat() -> None:
    """Attacks leases that ran out many times over while nothing could be written: they count again only half a lease
    after the last refusal.
    """
    patience, expired = base.Patience(60), NOW + timedelta(seconds=10)
    for second in range(20, 620, 2):
        if patience.judged(NOW + timedelta(seconds=second), second) >= expired:
            patience.refused(second)
            last = second
    judged = {second: patience.judged(NOW + timedelta(seconds=second), second) for second in (last + 2, last + 31)}
    assert [moment >= expired for moment in judged.values()] == [False, True]


def test_what_a_killed_run_left_is_finished_by_the_next(engine: Engine, home: Home) -> None:
    """Attacks with SIGKILL on the executor in the middle of a job: the same call again finishes it."""
    ids = enqueue(engine, 2)
    body = f"""
        if context.claim.attempt == 1 and context.claim.seed == 0:
            (context.home.root / "begun").touch()
            while True: threading.Event().wait(0.02)
        {GOOD}
    """
    worker = command(home, body)
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from ranker.settings import Service
        from ranker.executors.local import Local
        from ranker.home import Home
        home, service = Home(root=Path({str(home.root)!r})), Service(retry_delay_s=0)
        Local(workers=1, command={worker!r}).run(home, service, {ids!r})
        """
    )
    with subprocess.Popen([sys.executable, "-c", code]) as executor:
        until((home.root / "begun").exists, process=executor)
        executor.send_signal(signal.SIGKILL)
    run(home, SERVICE, ids, workers=1, command=worker)
    assert [(job.status, job.attempt) for job in jobs(engine)] == [(Status.SUCCEEDED, 2), (Status.SUCCEEDED, 1)]


@pytest.mark.parametrize("workers", [1, 2, 7, 1000])
def test_all_workers_together_have_no_more_threads_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Attacks oversubscription: threads times workers is at most the cores, and each has one at least."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    environments = environments_of(NO_GPUS, SERVICE, workers, jobs=1000)
    threads = [int(environment["OMP_NUM_THREADS"]) for environment in environments]
    assert len(threads) == min(workers, cores)
    assert min(threads) >= 1
    assert sum(threads) <= cores
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    again = environments_of(NO_GPUS, SERVICE, workers, jobs=1000)
    assert {environment["OMP_NUM_THREADS"] for environment in again} == {"1"}


def driver(folder: Path, answer: str, status: int = 0) -> str:
    """A folder with a program named nvidia-smi that answers like the driver's."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n", encoding="ascii")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(folder)


TWO_GPUS = "GPU-11aa, NVIDIA H200\nGPU-22bb, NVIDIA H200, odd name"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-11aa", "GPU-22bb"]),
        ("", []),
        ("1", ["GPU-22bb"]),
        ("1,0", ["GPU-22bb", "GPU-11aa"]),
        ("GPU-22", ["GPU-22bb"]),
        ("0,-1,1", ["GPU-11aa"]),
        ("GPU", []),
    ],
)
def test_gpus_are_those_that_cuda_would_see(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, expected: list[str]
) -> None:
    """Attacks CUDA_VISIBLE_DEVICES: indices, beginnings of UUIDs, order, an end at what is no device."""
    monkeypatch.setenv("PATH", driver(tmp_path, TWO_GPUS), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.uuid for gpu in driver_gpus()] == expected


def test_there_is_one_worker_per_gpu() -> None:
    """Attacks placement: each worker sees one GPU, by its UUID, and no two the same."""
    devices = (Gpu(uuid="GPU-11aa", name="H200"), Gpu(uuid="GPU-22bb", name="H200"))
    seen = [each["CUDA_VISIBLE_DEVICES"] for each in environments_of(devices, SERVICE, None, jobs=10)]
    assert seen == ["GPU-11aa", "GPU-22bb"][: len(os.sched_getaffinity(0))]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments_of(devices, SERVICE, 1, jobs=10)] == ["GPU-11aa"]


def test_a_torch_for_the_cpu_uses_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attacks a machine with GPUs and a torch that cannot use them: what torch says of its build decides."""
    monkeypatch.setenv("PATH", driver(tmp_path, TWO_GPUS), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code = "import torch; raise SystemExit(torch.version.cuda is not None)"
    with_cuda = subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
    assert torch_has_cuda() == with_cuda
    assert len(gpus()) == (2 if with_cuda else 0)


SMI = """#!/bin/sh
case "$*" in
  "--query-gpu=uuid,name --format=csv,noheader") cat {folder}/names ;;
  "--query-gpu=uuid,memory.total,memory.free --format=csv,noheader,nounits") cat {folder}/memory ;;
  "-L") cat {folder}/list ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Eight cards of 140 GiB, of which `nvidia-smi` tells in its three ways; the folder of its answers."""
    folder = tmp_path / "driver"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(SMI.format(folder=folder), encoding="ascii")
    (folder / "nvidia-smi").chmod(0o755)
    uuids = [f"GPU-{index}0" for index in range(8)]
    (folder / "names").write_text("".join(f"{uuid}, NVIDIA H200\n" for uuid in uuids))
    (folder / "memory").write_text("".join(f"{uuid}, 143360, 143000\n" for uuid in uuids))
    (folder / "list").write_text(
        "".join(f"GPU {index}: NVIDIA H200 (UUID: {uuid})\n" for index, uuid in enumerate(uuids))
    )
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def placed(service: Service) -> list[str]:
    devices = driver_gpus()
    return [gpu.uuid for gpu in places(devices, service, memory(devices))]


def test_jobs_share_a_card_as_its_free_memory_allows(machine: Path) -> None:
    """Attacks placement on eight cards: three jobs of 38 GiB on each of 140, and every card once before any twice."""
    found = placed(Service(gpu_job_memory_gb=38))
    assert len(found) == 24
    assert found[:8] == found[8:16] == found[16:] == [f"GPU-{index}0" for index in range(8)]


def test_a_card_that_others_have_taken_gets_no_job(machine: Path) -> None:
    """Attacks uneven memory: a full card gets none, a half full one fewer; when all are full, that is said."""
    free = [143000, 1000, 80000, 143000, 39000, 143000, 143000, 38911]
    (machine / "memory").write_text("".join(f"GPU-{i}0, 143360, {mib}\n" for i, mib in enumerate(free)))
    found = placed(Service(gpu_job_memory_gb=38))
    assert [found.count(f"GPU-{index}0") for index in range(8)] == [3, 0, 2, 3, 1, 3, 3, 0]
    (machine / "memory").write_text("".join(f"GPU-{i}0, 143360, 1000\n" for i in range(8)))
    with pytest.raises(InfraError, match=r"no GPU has the 38\.0 GiB free .*GPU-00 has 1\.0 of 140\.0 GiB free"):
        placed(Service(gpu_job_memory_gb=38))


def test_a_number_of_jobs_per_card_is_believed(machine: Path) -> None:
    """Attacks the setting: with a number, memory is not looked at."""
    (machine / "memory").write_text("")
    assert len(placed(Service(workers_per_gpu=2))) == 16
    assert len(placed(Service())) == 8, "a card that tells nothing has room for one"


def test_a_small_card_has_room_for_one(machine: Path) -> None:
    """Attacks a card below what a job is said to need: whoever has only that one wants to use it."""
    (machine / "memory").write_text("".join(f"GPU-{i}0, 16384, 16000\n" for i in range(8)))
    assert len(placed(Service(gpu_job_memory_gb=38))) == 8


def test_instances_of_a_divided_card_are_places_of_their_own(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks MIG: CUDA takes the instances' UUIDs, never the whole card's; their size stands in their names."""
    (machine / "list").write_text(
        "GPU 0: NVIDIA H200 (UUID: GPU-00)\n"
        "  MIG 3g.71gb     Device  0: (UUID: MIG-aa)\n"
        "  MIG 3g.71gb     Device  1: (UUID: MIG-bb)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-10)\n"
    )
    devices = driver_gpus()
    assert [gpu.uuid for gpu in devices] == ["MIG-aa", "MIG-bb", *(f"GPU-{index}0" for index in range(1, 8))]
    assert devices[0].name == "NVIDIA H200 MIG 3g.71gb"
    assert memory(devices)["MIG-aa"] == Memory(total=71 * 10**9, free=71 * 10**9)
    assert placed(Service(gpu_job_memory_gb=60)).count("MIG-bb") == 1
    for visible, expected in (("MIG-bb", ["MIG-bb"]), ("0", ["MIG-aa"]), ("1,MIG-aa", ["GPU-10", "MIG-aa"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.uuid for gpu in driver_gpus()] == expected


def test_a_driver_that_fails_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attacks `No devices were found`, which nvidia-smi prints where the names would be."""
    monkeypatch.setenv("PATH", driver(tmp_path, "No devices were found", status=6), prepend=os.pathsep)
    assert driver_gpus() == ()
