"""Jobs on a real Ray cluster of two nodes: nodes and heads die, results come too late, and nothing counts twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import effort
import pytest
from executions import Place, lives, place
from ray_cluster import TestCluster, node_folder
from sqlalchemy import Engine

from ranker import queue
from ranker.db.models import Job, Submission
from ranker.db.session import open_database, session
from ranker.errors import InfraError, MissingError
from ranker.executors.local import Local
from ranker.executors.ray import Ray
from ranker.home import Home
from ranker.settings import ClusterSettings, Service
from ranker.types import Ending, JobKind, SandboxName, Status, digest_json

long_only = pytest.mark.skipif(not effort.LONG, reason="the dear ones of Ray: RANKER_TESTS=long")


@pytest.fixture
def there(tmp_path: Path, cluster: TestCluster) -> Iterator[Place]:
    with place(tmp_path, cluster) as found:
        yield found


def once(sign: Path, act: Callable[[], None]) -> Callable[[], None]:
    """What a run is to call at each tick: `act`, at the first tick after the file `sign` is there."""
    done = []

    def tick() -> None:
        if not done and sign.exists():
            done.append(True)
            act()

    return tick


@pytest.mark.dear(day=1)
def test_a_job_goes_on_where_its_dead_node_stopped(there: Place) -> None:
    """Attacks with the power plug of a node in the middle of a job: another node finishes the job from the checkpoint
    that had come back, its process there is gone, and the score is there once. The other job is not disturbed.
    """
    ids = there.enqueue(2)
    body = """
        if context.claim.seed == 1:
            return outcome(context)
        earlier = sorted(path.parent.name for path in context.run_folder.parent.glob("attempt-*/step-*/state.json"))
        if context.claim.attempt == 1:
            (context.run_folder.parent / "threads").write_text("1")
            checkpoint(context, 1)
            (PLACE / "pid").write_text(str(os.getpid()))
            wait_for("the end of days")
        return outcome(context, earlier=earlier, threads=(context.run_folder.parent / "threads").read_text())
    """
    assert there.cluster is not None
    cluster, folder, killed = there.cluster, there.run_folder(there.jobs()[0], 1), []

    def pull() -> None:
        told = json.loads((folder / "node.json").read_text())
        killed.append(told["node"])
        cluster.kill(told["node"])

    there.run(ids, body, workers=2, on_tick=once(folder / "step-00000001" / "state.json", pull))
    job, other = there.jobs()
    assert (other.status, other.attempt, len(other.scores)) == (Status.SUCCEEDED, 1, 1)
    assert (job.status, job.attempt, job.infra_failures, len(job.scores)) == (Status.SUCCEEDED, 2, 1, 1)
    assert job.result == {"attempt": 2, "earlier": ["step-00000001"], "threads": "1"}
    second = json.loads((there.run_folder(job, 2) / "node.json").read_text())["node"]
    assert killed
    assert second != killed[0]
    assert not lives(int((there.folder / "pid").read_text()))
    reasons = " ".join(job.attempts[0].reasons).lower()  # which of its processes went first is chance
    assert "died" in reasons or "exit status -9" in reasons


@pytest.mark.dear(day=0)
def test_a_result_after_its_lease_was_lost_is_refused(there: Place) -> None:
    """Attacks with an attempt that ends well after its job was given to another: what it found and what it wrote is
    thrown away, and its successor's counts, once.
    """
    ids = there.enqueue(1)
    body = """
        (PLACE / f"begun-{context.claim.attempt}").touch()
        wait_for("expired")
        (context.run_folder / "manifest.json").write_text("{}")
        return outcome(context)
    """

    def expire() -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        assert queue.reap(there.engine, now=later, is_dead=lambda _: False, max_infra_attempts=9) == 1
        (there.folder / "expired").touch()

    there.run(ids, body, on_tick=once(there.folder / "begun-1", expire))
    (job,) = there.jobs()
    assert (job.status, job.attempt, job.result, len(job.scores)) == (Status.SUCCEEDED, 2, {"attempt": 2}, 1)
    assert [attempt.ending for attempt in job.attempts] == [Ending.LOST, Ending.SUCCEEDED]
    assert not (there.run_folder(job, 1) / "manifest.json").exists()
    assert (there.run_folder(job, 2) / "manifest.json").exists()


@long_only
def test_a_restarted_head_is_found_again(there: Place) -> None:
    """Attacks with the power plug of the head, which ends the cluster: once it is up again, the same run goes on."""
    ids = there.enqueue(1)
    body = """
        if context.claim.attempt == 1:
            (PLACE / "begun").touch()
            wait_for("the end of days")
        return outcome(context)
    """
    assert there.cluster is not None
    cluster = there.cluster

    def restart() -> None:
        cluster.kill_everything()
        cluster.start()

    there.run(ids, body, on_tick=once(there.folder / "begun", restart))
    (job,) = there.jobs()
    assert (job.status, job.result, len(job.scores)) == (Status.SUCCEEDED, {"attempt": job.attempt}, 1)
    assert job.attempt >= 2


@long_only
def test_files_may_travel_through_a_shared_folder(there: Place) -> None:
    """Attacks the other way of files: what a node needs, and what it makes, lies in a folder that all see."""
    ids = there.enqueue(1)
    tree = there.home.submissions / ("a" * 64) / "tree"
    tree.mkdir(parents=True)
    (tree / "encoder.py").write_text("x = 1\n")
    body = """
        checkpoint(context, 1)
        return outcome(context, text=(context.home.submissions / ("a" * 64) / "tree" / "encoder.py").read_text())
    """
    shared = there.service.cluster.model_copy(update={"shared_folder": there.folder / "shared"})
    there.run(ids, body, service=there.service.model_copy(update={"cluster": shared}))
    (job,) = there.jobs()
    assert job.result == {"attempt": 1, "text": "x = 1\n"}
    assert (there.run_folder(job, 1) / "step-00000001" / "state.json").is_file()
    assert any((there.folder / "shared").rglob("*"))


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Attacks an address where nobody answers: one sentence, at once or when it has waited long enough, and no job was
    begun.
    """
    with place(tmp_path, None) as here:
        ids, gone = here.enqueue(1), Ray(address="127.0.0.1:1")
        service = Service(cluster=ClusterSettings(reconnect_s=1))
        with pytest.raises(InfraError, match=r"^no Ray cluster answers at 127\.0\.0\.1:1 .*ray start --head"):
            gone.devices(service)
        with pytest.raises(InfraError, match=r"^no Ray cluster answers at 127\.0\.0\.1:1 .*ray start --head"):
            gone.run(here.home, service, ids)
        assert [(job.status, job.attempt) for job in here.jobs()] == [(Status.QUEUED, 0)]


@long_only
def test_an_evaluation_on_a_cluster_is_that_of_one_machine(tmp_path: Path, cluster: TestCluster) -> None:
    """Attacks what travels: data, submission and configuration are enough to train to the very same weights and answers
    as on this machine, and the manifest that came back is the one that was written there.
    """
    from test_evaluation import make_place  # with torch, which the other tests here do without

    found = []
    for name in ("here", "there"):
        tiny = make_place(tmp_path / name)
        service = Service(
            sandbox=SandboxName.NONE,
            cpu_workers=1,
            cluster=ClusterSettings(node_folder=node_folder(tmp_path), cpus_per_job=1),
        )
        with closing_database(tiny.home) as engine:
            job = order(engine, tiny)
            executor = Local(workers=1) if name == "here" else Ray(address=cluster.address)
            executor.run(tiny.home, service, [job])
            with session(engine, read_only=True) as reading:
                done = reading.get_one(Job, job)
                assert done.status == Status.SUCCEEDED
                folder = tiny.home.root / (done.result or {})["run"]
                manifest = json.loads((folder / "manifest.json").read_text())
                assert digest_json(manifest) == (done.result or {})["manifest_digest"]
                values = {score.task: (score.value, score.blind, score.items) for score in done.scores}
        answers = {path.name: path.read_bytes() for path in (folder / "predictions").glob("*.parquet")}
        found.append((manifest["weights"], values, answers))
    assert found[0] == found[1]
    assert len(found[0][2]) >= 1


@contextmanager
def closing_database(home: Home) -> Iterator[Engine]:
    engine = open_database(home)
    try:
        yield engine
    finally:
        engine.dispose()


def order(engine: Engine, tiny: Any) -> int:
    """Queue the evaluation of a submission whose check has just succeeded."""
    now, snapshot = datetime.now(UTC), tiny.context(1).submission
    team = snapshot.id
    with session(engine) as writing:
        row = Submission(id=team, digest=snapshot.digest, team="team", file_name="x.zip", size_bytes=1, received_at=now)
        writing.add(row)
        queue.enqueue(writing, submission_id=team, kind=JobKind.CHECK, condition=None, seed=0, now=now)
    claim = queue.claim(engine, worker=queue.worker_id(), now=now, lease_s=60.0)
    assert claim is not None
    queue.finish(engine, claim, now=now, result=snapshot.check or {}, scores=())
    with session(engine) as writing:
        condition = tiny.condition()
        return queue.enqueue(
            writing, submission_id=team, kind=JobKind.EVALUATE, condition=condition, seed=42, now=now
        ).id


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attacks an installation without Ray."""
    monkeypatch.setattr("ranker.executors.ray.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'ranker\[ray\]'"):
        Ray().devices(Service())
    with pytest.raises(MissingError, match=r"pip install 'ranker\[ray\]'"):
        Ray().run(Home(root=tmp_path), Service(), [1])
