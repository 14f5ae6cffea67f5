"""An attempt on a node, without a cluster around it: real processes, real files, no database."""

from __future__ import annotations

import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from executions import SCRIPT, lives
from patience import until
from queues import TEAM, condition

from ranker.digest import file_digest
from ranker.executors import node
from ranker.executors.node import Errand, Word, attempt, put_into
from ranker.executors.parcel import Piece, chunks_of, piece_of
from ranker.home import Home
from ranker.job import Failure, Order, SubmissionSnapshot
from ranker.queue import Claim
from ranker.settings import Limits, Service
from ranker.types import Fault, JobKind

CLAIM = Claim(
    job_id=7,
    key="f" * 64,
    attempt=2,
    worker="host:1:x",
    submission_id=TEAM,
    kind=JobKind.EVALUATE,
    benchmark="mini",
    track="A",
    condition=condition(),
    seed=0,
)
JOB = f"runs/{TEAM}/{'f' * 12}"


def errand(tmp_path: Path, body: str, *files: Path, **others: object) -> Errand:
    """An errand with these files of `tmp_path/organizer`, done by a script with this handler."""
    script = tmp_path / "script.py"
    text = textwrap.indent(textwrap.dedent(body), "    ")
    script.write_text(SCRIPT.format(body=text, place=str(tmp_path)), encoding="utf-8")
    root = tmp_path / "organizer"
    submission = SubmissionSnapshot(
        id=TEAM, digest="a" * 64, team="team", encoder_override=None, check={"source": {"root": "."}}
    )
    given = Errand(
        order=Order(home=Home(root=root), service=Service(), claim=CLAIM, submission=submission),
        pieces=tuple(piece_of(root, path) for path in files),
        data=(),
        hidden=None,
        node_folder=tmp_path / "node",
        shared=None,
        data_folder=None,
        cache_bytes=1e9,
        threads=1,
        beat_s=30.0,
        command=(sys.executable, str(script)),
    )
    return replace(given, **others)  # type: ignore[arg-type]


def bring(tmp_path: Path, asked: list[str] | None = None) -> object:
    def by_digest(piece: Piece) -> Iterator[bytes]:
        if asked is not None:
            asked.append(piece.path)
        (source,) = {
            path for path in tmp_path.glob("organizer/**/*") if path.is_file() and file_digest(path) == piece.sha256
        }
        return chunks_of(source, piece.size)

    return by_digest


def told(given: Errand, tmp_path: Path, asked: list[str] | None = None) -> list[Word]:
    return list(attempt(given, bring(tmp_path, asked), "node-1", held))  # type: ignore[arg-type]


def held() -> float:
    """What a coordinator answers that prolonged the lease just now."""
    return 0.0


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_job_finds_its_files_and_tells_what_it_made(tmp_path: Path) -> None:
    """Attacks the way through, twice: earlier attempts and the submission are where the home has them, the second time
    from the cache; the folder is gone afterwards; no database is anywhere.
    """
    root = tmp_path / "organizer"
    files = [
        write(root / f"submissions/{'a' * 64}/tree/encoder.py", "x = 1"),
        write(root / JOB / "threads", "3"),
        write(root / JOB / "attempt-0001/step-00000005/state.json", "{}"),
    ]
    body = (
        "checkpoint(context, 6); found = sorted(str(path.relative_to(context.home.root)) for path in "
        "context.home.root.rglob('*') if path.is_file()); return outcome(context, found=found, "
        "threads=os.environ['OMP_NUM_THREADS'])"
    )
    for expected in (3, 0):
        asked: list[str] = []
        words = told(errand(tmp_path, body, *files), tmp_path, asked)
        assert len(asked) == expected
        assert words[0]["begun"]["node"] == "node-1"
        result = words[-1]["outcome"]["result"]
        assert (result["attempt"], result["threads"]) == (2, "1")
        assert {str(path.relative_to(root)) for path in files} <= set(result["found"])
        assert not [name for name in result["found"] if name.endswith(".db")]
        sent = {each["path"] for word in words if "delivery" in word for each in word["delivery"]}
        assert {"attempt-0002/step-00000006/state.json", "attempt-0002/worker.log"} <= sent
        assert not [path for path in sent if path.startswith("attempt-0001")]
    assert list((tmp_path / "node" / "attempts").iterdir()) == []


def test_whoever_ends_the_attempt_ends_its_process(tmp_path: Path) -> None:
    """Attacks with an interruption in the middle: the job's process is gone when the generator is."""
    body = "(PLACE / 'pid').write_text(str(os.getpid())); context.report(Progress(stage=Stage.LOAD)); wait_for('never')"
    words = attempt(errand(tmp_path, body, beat_s=0.1), bring(tmp_path), "node-1", held)  # type: ignore[arg-type]
    assert "begun" in next(words)
    assert any((tmp_path / "pid").exists() for _ in words)
    pid = int((tmp_path / "pid").read_text())
    assert lives(pid)
    words.close()  # type: ignore[attr-defined]
    assert not lives(pid)
    assert list((tmp_path / "node" / "attempts").iterdir()) == []


BUSY = """
        import subprocess
        encoder = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (PLACE / "pids").write_text(f"{os.getpid()} {encoder.pid}")
        try:
            wait_for("never")
        finally:
            encoder.kill()
            encoder.wait()
"""


def gone() -> float:
    raise ConnectionError("no coordinator answers")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(lambda: None, "its job was given to another attempt, or cancelled", marks=pytest.mark.dear(day=0)),
        pytest.param(gone, r"not prolonged by the coordinator \(ConnectionError\)", marks=pytest.mark.dear(day=1)),
        pytest.param(lambda: 1.5, "not prolonged by the coordinator", marks=pytest.mark.dear(day=2)),
    ],
)
def test_an_attempt_without_its_lease_ends_itself(
    tmp_path: Path, answer: Callable[[], float | None], reason: str
) -> None:
    """Attacks with a job that is another's, a coordinator that is gone, and one that is stopped while its depot still
    answers: process and encoder end by themselves, though nobody listens and nobody interrupts.
    """
    given = errand(tmp_path, BUSY)
    given = replace(given, order=replace(given.order, service=Service(lease_s=1.2)))
    begun = tmp_path / "pids"
    words = attempt(given, bring(tmp_path), "node-1", lambda: answer() if begun.exists() else 0.0)  # type: ignore[arg-type]
    failure = Failure.from_json(list(words)[-1]["failure"])
    assert failure.fault is Fault.INFRA
    assert re.search(f"the attempt ended itself: .*{reason}", failure.reasons[0])
    assert not [pid for pid in map(int, begun.read_text().split()) if lives(pid)]
    assert list((tmp_path / "node" / "attempts").iterdir()) == []


def test_an_attempt_that_nobody_listens_to_ends_all_the_same(tmp_path: Path) -> None:
    """Attacks with a generator that stands still, as when what it tells cannot be sent: the loss of the lease ends the
    process from a thread of its own.
    """
    given = errand(tmp_path, BUSY, beat_s=0.1)
    given = replace(given, order=replace(given.order, service=Service(lease_s=0.8)))
    asked = threading.Event()
    words = attempt(given, bring(tmp_path), "node-1", lambda: None if asked.is_set() else 0.0)  # type: ignore[arg-type]
    assert any((tmp_path / "pids").exists() for _ in words)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert all(map(lives, pids))
    asked.set()  # and nothing is taken from `words` any more
    until(lambda: not any(map(lives, pids)))
    assert "ended itself" in Failure.from_json(list(words)[-1]["failure"]).reasons[0]


@pytest.mark.parametrize(
    "is_stopped",
    [pytest.param(False, marks=pytest.mark.dear(day=0)), pytest.param(True, marks=pytest.mark.dear(day=1))],
)
def test_a_job_that_hangs_on_a_node_is_given_up_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    """Attacks with a handler that shows nothing more, and with a process that is stopped: the node prolonged their
    lease for ever. The latter is killed, since no interruption reaches it.
    """
    monkeypatch.setattr(node, "SILENT_S", 1.0)
    monkeypatch.setattr(node, "STOP_GRACE_S", 0.1)
    body = "(PLACE / 'pid').write_text(str(os.getpid())); context.report(Progress(stage=Stage.LOAD)); "
    body += "os.kill(os.getpid(), signal.SIGSTOP)" if is_stopped else "wait_for('never')"
    limits = Limits(load_timeout_s=0.1, call_timeout_s=0.1)
    given = errand(tmp_path, body)
    given = replace(
        given, order=replace(given.order, service=Service(stall_s=60 if is_stopped else 0.3, limits=limits))
    )
    if is_stopped:
        monkeypatch.setattr(node, "TICK_S", 0.1)
    failure = Failure.from_json(told(given, tmp_path)[-1]["failure"])
    assert failure.fault is Fault.INFRA
    assert ("it was stopped" if is_stopped else "the evaluate hung") in failure.reasons[0]
    assert not lives(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("body", "fault", "reason"),
    [
        ("raise ParticipantError(['It is broken.'])", Fault.PARTICIPANT, "It is broken."),
        ("raise OrganizerError('labels are missing')", Fault.ORGANIZER, "labels are missing"),
        ("raise ZeroDivisionError('by zero')", Fault.INFRA, "ZeroDivisionError: by zero"),
        ("os._exit(9)", Fault.INFRA, "ended with exit status 9"),
    ],
)
def test_every_failure_has_its_fault(tmp_path: Path, body: str, fault: Fault, reason: str) -> None:
    """Attacks blame where there is no database: what a handler raises, and a process that says nothing any more."""
    failure = Failure.from_json(told(errand(tmp_path, body), tmp_path)[-1]["failure"])
    assert failure.fault is fault
    assert reason in failure.reasons[0]


def test_a_file_that_cannot_be_brought_is_our_failure(tmp_path: Path) -> None:
    """Attacks the way of the files: another content than announced fails the attempt, and names node and file."""
    path = write(tmp_path / "organizer/configs/mini.yaml", "a: 1")
    given = errand(tmp_path, "return outcome(context)", path)
    words = list(attempt(given, lambda _: iter([b"b: 2"]), "node-1", held))
    failure = Failure.from_json(words[-1]["failure"])
    assert failure.fault is Fault.INFRA
    assert "configs/mini.yaml changed on its way" in failure.reasons[0]


def test_shards_are_shared_by_the_jobs_of_a_node(tmp_path: Path) -> None:
    """Attacks data: shards come once, lie where the home has them; a folder that all nodes have goes before them; the
    hidden file lies outside of what its name says here, and stays on the node no longer than an attempt.
    """
    root = tmp_path / "organizer"
    shard = write(root / "data/mini/pitch/train.tar", "clips")
    hidden = write(root / "elsewhere/hidden.yaml", "secret: true")
    given = errand(
        tmp_path,
        "return outcome(context, data=(context.home.data / 'mini/pitch/train.tar').read_text(), "
        "hidden=context.home.hidden.read_text())",
        data=(piece_of(root / "data/mini", shard),),
        hidden=piece_of(hidden.parent, hidden),
    )
    for expected in (["pitch/train.tar", "hidden.yaml"], ["hidden.yaml"]):
        asked: list[str] = []
        words = told(given, tmp_path, asked)
        assert sorted(asked) == sorted(expected)
        assert words[-1]["outcome"]["result"] == {"attempt": 2, "data": "clips", "hidden": "secret: true"}
        left = [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
        assert len(left) >= 2
        assert not [path for path in left if b"secret" in path.read_bytes()]
    placed = write(tmp_path / "placed/mini/pitch/train.tar", "placed before")
    words = told(replace(given, data=(), data_folder=placed.parents[2]), tmp_path)
    assert words[-1]["outcome"]["result"]["data"] == "placed before"


def test_files_go_back_through_a_shared_folder_by_digest(tmp_path: Path) -> None:
    """Attacks the other way of files: no bytes are told, but where they lie, under their digests."""
    shared = tmp_path / "shared"
    words = told(errand(tmp_path, "checkpoint(context, 1); return outcome(context)", shared=shared), tmp_path)
    parts = [Piece(**word["part"]) for word in words if "part" in word]
    assert not [word for word in words if "data" in word]
    assert len(parts) >= 2
    for part in parts:
        assert file_digest(shared / "blobs" / part.sha256[:2] / part.sha256) == part.sha256
    with pytest.raises(FileNotFoundError):
        put_into(shared, Piece(path="x", sha256="0" * 64), tmp_path / "nothing")
