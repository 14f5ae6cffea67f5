"""Mends: each repairs what it says, with real leftovers of real processes; nothing in use, and nothing of another's."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boards import condition
from homes import new_engine
from postgres import sqlite_only
from sqlalchemy import Engine, select

from ranker import mend, queue
from ranker.cli import main
from ranker.db.models import Job, Submission
from ranker.db.rules import Event
from ranker.db.session import session
from ranker.doctor import Finding, Patient, Verdict, examine_part
from ranker.doctor.runs import checkpoint_fault
from ranker.errors import InfraError
from ranker.home import Home
from ranker.intake.archive import unpack
from ranker.job import job_folder
from ranker.mend import MendKind, carry_out, offers
from ranker.queue import NewScore
from ranker.sandbox import orphans, owner
from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.settings import Service
from ranker.types import Action, JobKind, Progress, Stage, Status, digest_json

NOW = datetime.now(UTC)
SERVICE = Service(infra_attempts=3)
OLD = (NOW - timedelta(hours=2)).timestamp()

# Where no engine answers, the docker package leaves its sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path / "cache"))
    gc.freeze()  # what is there before the test is not looked through
    yield
    gc.collect()  # those sockets, while their warning is ignored
    gc.unfreeze()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    """One submission with its ZIP, checked and accepted, and an evaluation that is queued as job 2."""
    engine = new_engine(home)
    folder = home.submissions / "new"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "submission.zip", "w") as archive:
        archive.writestr("encoder.py", "class OurEncoder: ...\n")
        archive.writestr("weights/w.bin", "12345")
    digest = hashlib.sha256((folder / "submission.zip").read_bytes()).hexdigest()
    folder = folder.rename(home.submissions / digest)
    tree = unpack(folder / "submission.zip", folder / "tree", SERVICE.archive)
    found = {"digest": tree.digest, "files": tree.files, "size_bytes": tree.size_bytes}
    with session(engine) as writing:
        writing.add(
            Submission(id=digest[:12], digest=digest, team="team", file_name="x.zip", size_bytes=1, received_at=NOW)
        )
        queue.enqueue(writing, submission_id=digest[:12], kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    claim = queue.claim(engine, worker=queue.worker_id(), now=NOW, lease_s=60)
    assert claim is not None
    queue.finish(engine, claim, now=NOW, result={"tree": found}, scores=[])
    with session(engine) as writing:
        queue.enqueue(
            writing, submission_id=digest[:12], kind=JobKind.EVALUATE, condition=condition("A"), seed=42, now=NOW
        )
    yield engine
    engine.dispose()


def take(engine: Engine, worker: str | None = None, now: datetime = NOW) -> queue.Claim:
    claim = queue.claim(engine, worker=worker or queue.worker_id(), now=now, lease_s=60, job_ids={2})
    assert claim is not None
    return claim


def row(engine: Engine, job_id: int = 2) -> Job:
    with session(engine, read_only=True) as reading:
        return reading.get_one(Job, job_id)


def attempt(engine: Engine, home: Home, number: int = 1) -> Path:
    job = row(engine)
    folder = job_folder(home, job.submission_id, job.key) / f"attempt-{number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find(home: Home, part: str, now: datetime = NOW, *, thorough: bool = False) -> list[Finding]:
    return examine_part(part, Patient(home=home, service=SERVICE, now=now, thorough=thorough))


def offered(home: Home, kind: MendKind, now: datetime = NOW, *, thorough: bool = False) -> list[mend.Mend]:
    return [each for each in offers(home, SERVICE, now=now, thorough=thorough) if each.kind is kind]


def done(engine: Engine, each: mend.Mend, now: datetime = NOW) -> str | None:
    return carry_out(each, engine, actor="tester", now=now).done


def recorded(engine: Engine) -> list[Event]:
    with session(engine, read_only=True) as reading:
        return list(reading.scalars(select(Event).where(Event.action == Action.MEND).order_by(Event.id)))


def dead_worker() -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return queue.worker_id(process.pid)


def checkpoint(folder: Path, step: int = 3) -> Path:
    """A checkpoint as safetensors writes it: the length of the header, the header, the numbers."""
    place = folder / f"step-{step:08d}"
    place.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    for name in ("trained.safetensors", "optimizer.safetensors"):
        (place / name).write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    (place / "state.json").write_text(json.dumps({"step": step}))
    return place


def test_a_well_home_needs_nothing(engine: Engine, home: Home) -> None:
    """Attacks false alarms: with a job that runs and one that ended, nothing is offered, and doctor is content."""
    take(engine)
    checkpoint(attempt(engine, home))
    assert offers(home, SERVICE, now=NOW) == []
    for part in ("jobs", "runs", "submissions", "left by dead workers", "write-ahead log"):
        (found,) = find(home, part)
        assert found.verdict is Verdict.OK, found


# -- leases


def test_a_dead_workers_job_is_queued_again(engine: Engine, home: Home) -> None:
    """Attacks a stuck lease: the job of a process that was killed waits again, and who mended it is written down."""
    take(engine, dead_worker())
    (each,) = offered(home, MendKind.JOB)
    assert done(engine, each) == "it is queued"
    assert (row(engine).status, row(engine).infra_failures) == (Status.QUEUED, 1)
    (event,) = recorded(engine)
    assert (event.actor, event.job_id, event.details["kind"]) == ("tester", 2, "job")
    assert done(engine, each) is None
    assert len(recorded(engine)) == 1


def test_a_living_workers_job_is_left_alone(engine: Engine, home: Home) -> None:
    """Attacks what is in use: a worker that lives here keeps its job though its lease ran out; elsewhere not."""
    take(engine)
    late = NOW + timedelta(hours=1)
    assert offered(home, MendKind.JOB, late) == []
    (found,) = find(home, "jobs", late)
    assert f"process {os.getpid()} of job 2 lives" in found.found
    queue.reap(engine, now=late, is_dead=lambda _: True, max_infra_attempts=5)
    take(engine, "elsewhere:1:other-1-1", late)
    assert offered(home, MendKind.JOB, late) == []
    (each,) = offered(home, MendKind.JOB, late + timedelta(minutes=2))
    assert done(engine, each, late) is None, "its lease still holds at that time"
    assert done(engine, each, late + timedelta(minutes=2)) == "it is queued"


# -- files of runs


@pytest.mark.parametrize(
    ("name", "bytes_kept"),
    [("trained.safetensors", 40), ("optimizer.safetensors", 0), ("state.json", 3), ("trained.safetensors", None)],
)
def test_a_damaged_checkpoint_is_set_aside(engine: Engine, home: Home, name: str, bytes_kept: int | None) -> None:
    """Attacks files that a failing disk cut or lost: an earlier checkpoint is gone on from, and no byte is deleted."""
    take(engine)
    whole, damaged = checkpoint(attempt(engine, home), 3), checkpoint(attempt(engine, home), 6)
    if bytes_kept is None:
        (damaged / name).unlink()
    else:
        os.truncate(damaged / name, bytes_kept)
    assert offered(home, MendKind.CHECKPOINT) == [], "the job runs: it is in use"
    queue.release(engine, queue_claim(engine), NOW)
    (each,) = offered(home, MendKind.CHECKPOINT)
    (found,) = find(home, "runs")
    assert name in found.found
    assert done(engine, each) == "it is .damaged-step-00000006 now"
    assert [path.name for path in sorted(whole.parent.glob("step-*"))] == [whole.name]
    assert offered(home, MendKind.CHECKPOINT) == []
    assert checkpoint_fault(whole) is None


def queue_claim(engine: Engine) -> queue.Claim:
    job = row(engine)
    return queue.Claim(
        job_id=job.id, key=job.key, attempt=job.attempt, worker=job.worker or "", submission_id=job.submission_id,
        kind=JobKind(job.kind), benchmark=None, track=None, condition=None, seed=job.seed,
    )  # fmt: skip


def test_half_written_pieces_go(engine: Engine, home: Home) -> None:
    """Attacks what kills leave: temporary files and folders of ended attempts go when they are old, nothing else."""
    queue.release(engine, take(engine), NOW)
    take(engine)
    pieces = []
    for number in (1, 2):
        folder = attempt(engine, home, number)
        (folder / ".step-00000003-abc").mkdir()
        (folder / ".step-00000003-abc" / "x").touch()
        (folder / ".manifest.json.tmp").touch()
        (folder / ".damaged-step-00000009").mkdir()
        (folder / ".mine").touch()
        pieces += [folder / ".step-00000003-abc", folder / ".manifest.json.tmp"]
    assert offered(home, MendKind.PIECE) == [], "they are new"
    for path in [*pieces, *(path / ".mine" for path in (pieces[0].parent, pieces[2].parent))]:
        os.utime(path, (OLD, OLD))
    found = offered(home, MendKind.PIECE)
    assert {home.root / each.subject for each in found} == set(pieces[:2]), "attempt 2 runs"
    assert [done(engine, each) for each in found] == ["removed", "removed"]
    assert [path.exists() for path in pieces] == [False, False, True, True]
    assert {path.name for path in pieces[0].parent.iterdir()} == {".damaged-step-00000009", ".mine"}


def test_succeeded_jobs_without_files_are_named(engine: Engine, home: Home) -> None:
    """Attacks scores that nobody can recompute: a lost manifest, another one, and lost predictions are each told."""
    claim = take(engine)
    folder = attempt(engine, home)
    run, manifest = str(folder.relative_to(home.root)), {"seconds": {"train": 1.5}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "p.parquet").touch()
    score = NewScore(task="t", metric="Accuracy", value=0.5, items=4, predictions=f"{run}/p.parquet")
    result = {"run": run, "manifest_digest": digest_json(manifest)}
    queue.finish(engine, claim, now=NOW, result=result, scores=[score])
    assert find(home, "runs")[0].found == "all files of 1 finished evaluations are there"
    (folder / "p.parquet").unlink()
    (folder / "manifest.json").write_text("{}")
    (found,) = find(home, "runs")
    assert found.found.startswith("2 times: ")
    assert "job 2 has another manifest than was recorded" in found.found
    assert "its predictions are gone" in found.found
    (folder / "manifest.json").unlink()
    assert "its manifest is gone" in find(home, "runs")[0].found
    assert offers(home, SERVICE, now=NOW) == []


def test_training_that_was_lost_is_named(engine: Engine, home: Home) -> None:
    """Attacks a silent new beginning: a job that had answered tasks, and has no checkpoint left, is told of."""
    claim = take(engine)
    queue.heartbeat(engine, claim, now=NOW, lease_s=60, progress=Progress(stage=Stage.GENERATE, task="t", total=4))
    place = checkpoint(attempt(engine, home))
    queue.release(engine, claim, NOW)
    assert find(home, "runs")[0].verdict is Verdict.OK
    (place / "state.json").unlink()
    assert "job 2 had been trained, and its checkpoints are gone" in " ".join(each.found for each in find(home, "runs"))


# -- submissions


@pytest.mark.parametrize("how", ["gone", "less", "changed"])
def test_a_spoilt_tree_is_unpacked_again(engine: Engine, home: Home, how: str) -> None:
    """Attacks accepted files: gone, incomplete or (looked at thoroughly) of other bytes; they come back as checked."""
    tree = next(home.submissions.glob("*/tree"))
    if how == "gone":
        tree.rename(tree.with_name("moved"))
    elif how == "less":
        (tree / "weights" / "w.bin").unlink()
    else:
        (tree / "weights" / "w.bin").write_text("54321")
        assert offered(home, MendKind.TREE) == [], "sizes alone do not tell"
    (each,) = offered(home, MendKind.TREE, thorough=True)
    assert find(home, "submissions", thorough=True)[0].verdict is Verdict.WARNING
    claim = take(engine)
    assert done(engine, each) is None, "a job of the submission runs"
    queue.release(engine, claim, NOW)
    assert done(engine, each) == "unpacked again: 2 files of 27 bytes, as they were checked"
    assert (tree / "weights" / "w.bin").read_text() == "12345"
    assert find(home, "submissions", thorough=True)[0].verdict is Verdict.OK
    assert [path.name for path in tree.parent.iterdir() if path.name.startswith(".")] == []


def test_a_zip_that_gives_other_files_mends_nothing(engine: Engine, home: Home) -> None:
    """Attacks the kept ZIP: what it gives must be what was checked, or the tree stays as it is."""
    tree = next(home.submissions.glob("*/tree"))
    (tree / "weights" / "w.bin").unlink()
    (each,) = offered(home, MendKind.TREE)
    with zipfile.ZipFile(tree.parent / "submission.zip", "w") as archive:
        archive.writestr("encoder.py", "class OtherEncoder: ...\n")
    with pytest.raises(InfraError, match="no longer gives the files that were checked"):
        done(engine, each)
    assert recorded(engine) == []
    assert sorted(path.name for path in tree.parent.iterdir()) == ["submission.zip", "tree"]


def test_staging_folders_of_the_living_stay(engine: Engine, home: Home) -> None:
    """Attacks an intake that goes on: a folder that is locked stays, one whose maker was killed goes."""
    code = "import sys, pathlib; from ranker.intake.staging import staging_folder\n"
    code += "with staging_folder(pathlib.Path(sys.argv[1]), '.incoming-'): print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(home.submissions)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (folder,) = home.submissions.glob(".incoming-*")
        os.utime(folder, (OLD, OLD))
        assert offered(home, MendKind.STAGING) == []
        process.kill()
    (each,) = offered(home, MendKind.STAGING)
    assert done(engine, each) == "removed"
    assert not folder.exists()


# -- the database's log


@sqlite_only
def test_a_grown_log_is_emptied_when_nobody_reads(engine: Engine, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks the log: what an old reader keeps from the database goes in once it has ended, and not before."""
    monkeypatch.setattr("ranker.doctor.work.LARGE_WAL_BYTES", 100_000)
    monkeypatch.setattr("ranker.mend.LARGE_WAL_BYTES", 100_000)
    log = home.root / "ranker.db-wal"
    with closing(sqlite3.connect(home.database_path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM job").fetchall()
        with session(engine) as writing:
            writing.get_one(Job, 2).reasons = ["x" * 300_000]
        assert find(home, "write-ahead log")[0].verdict is Verdict.WARNING
        (each,) = offered(home, MendKind.LOG)
        with closing(sqlite3.connect(home.database_path, timeout=0)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1
        assert log.stat().st_size > 100_000
    assert done(engine, each) == "emptied; 0 bytes are left"
    assert row(engine).reasons == ["x" * 300_000]


# -- what dead workers left running

WORKER = """
import os, signal, socket, sys, threading
from pathlib import Path
from ranker.sandbox import bubblewrap, orphans
from ranker.sandbox.environment import Launch
from ranker.sandbox.owner import make_folder
from ranker.settings import Limits

home, tree = Path(sys.argv[1]), Path(sys.argv[2])
real = bubblewrap.namespaces
bubblewrap.namespaces = lambda: [word for word in real() if word != "--die-with-parent"]
with make_folder(home) as folder, socket.socket(socket.AF_UNIX) as listener:
    place = Path(folder) / "socket"
    listener.bind(str(place))
    place.chmod(0o666)
    listener.listen(1)
    launch = Launch(tree=tree, root=".", socket=place, seed=0, threads=1, limits=Limits(), hidden=home)
    with bubblewrap.Bubblewrap(hidden=home).launch(launch):
        inside = []
        while not inside:
            threading.Event().wait(0.01)
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    mark = orphans._mounted(path)
                except (OSError, ValueError):
                    continue
                if mark is not None and folder.endswith(mark) and b"encoder_server" in (path / "cmdline").read_bytes():
                    inside.append(int(path.name))
        for pid in inside:
            os.kill(pid, signal.SIGSTOP)
        print(*inside, flush=True)
        signal.pause()
"""


@pytest.mark.engine
def test_what_a_killed_worker_left_is_found_and_removed(
    engine: Engine, home: Home, bubblewrap: Bubblewrap, tmp_path: Path
) -> None:
    """Attacks orphans: a worker that is killed with its sandbox running on leaves a process, its groups and a socket.

    (bwrap is told not to die with it, and the server inside is stopped: an accident that the kernel else prevents.)
    While the worker lives, and for another home, there is nothing to be found.
    """
    tree = next(home.submissions.glob("*/tree"))
    command = [sys.executable, "-c", WORKER, str(home.root), str(tree)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        inside = [int(word) for word in process.stdout.readline().split()]
        assert inside
        assert offered(home, MendKind.ORPHAN) == []
        process.kill()
    assert orphans.find(tmp_path) == []
    found = orphans.find(home.root)
    assert {orphan.name for orphan in found if orphan.kind is orphans.OrphanKind.PROCESS} >= set(map(str, inside))
    assert any(orphan.kind is orphans.OrphanKind.FOLDER for orphan in found)
    assert ("control group" in find(home, "left by dead workers")[0].found) == (os.geteuid() == 0)
    assert not orphans.remove(tmp_path, found[0]), "another home's hands are kept off"
    for each in offered(home, MendKind.ORPHAN):
        done(engine, each)
    assert orphans.find(home.root) == []
    assert find(home, "left by dead workers")[0].verdict is Verdict.OK
    assert len(recorded(engine)) == len(found)


@pytest.mark.engine
def test_a_real_container_of_a_dead_worker_is_removed(engine: Engine, home: Home, docker_engine: str) -> None:
    """Attacks containers: of four, only the one of this home whose worker is dead goes."""
    from docker.client import DockerClient
    from docker.types import Mount

    from ranker.sandbox import docker as ours

    pid, started, namespace = owner.owner_token().split("-")
    dead = {
        ours.BOOT_LABEL: ours._boot(),
        ours.OWNER_LABEL: f"{pid}-{int(started) - 1}-{namespace}",
        ours.HOME_LABEL: owner.home_mark(home.root),
    }
    alive = {**dead, ours.OWNER_LABEL: owner.owner_token()}
    others = {**dead, ours.HOME_LABEL: owner.home_mark(home.root / "other")}
    client = DockerClient.from_env()
    made: list[Any] = []
    try:
        ours._import_skeleton(client)
        mount = Mount("/usr", "/usr", type="bind", read_only=True)
        how = {"image": ours.SKELETON, "command": "true", "mounts": [mount]}
        made += (client.containers.create(**how, labels=labels) for labels in (dead, alive, others, {}))
        (each,) = offered(home, MendKind.ORPHAN)
        assert each.subject == made[0].id
        assert done(engine, each) == "container removed"
        left = {one.id for one in client.containers.list(all=True)}
        assert [one.id in left for one in made] == [False, True, True, True]
        assert done(engine, each) is None
    finally:
        for one in made[1:]:
            one.remove(force=True)
        client.close()


# -- the command


def test_the_command_asks_or_does_all(engine: Engine, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Attacks the hand that mends: where nobody can be asked nothing is done; --yes does it; then nothing is left."""
    take(engine, dead_worker())

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(home.root), "doctor", *arguments])
        assert (left.value.code or 0) == code
        return "".join(capsys.readouterr())

    assert "nobody can be asked here" in typed("--mend")
    assert row(engine).status == Status.RUNNING
    (listed,) = json.loads(typed("--mend", "--json"))
    assert (listed["kind"], listed["job"], listed["wanted"], listed["done"]) == ("job", 2, False, None)
    assert "it is queued" in typed("--mend", "--yes")
    assert row(engine).status == Status.QUEUED
    assert "nothing is to be mended" in typed("--mend")
    assert "--yes goes with --mend" in typed("--yes", code=2)
