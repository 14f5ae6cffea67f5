"""Jobs on a real Ray cluster of two nodes: nodes and heads die, results come too late, and nothing counts twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import effort
import pytest
from executions import Place, lives, place
from ray_cluster import TestCluster

from ranker import queue
from ranker.errors import InfraError, MissingError
from ranker.executors.ray import Ray
from ranker.home import Home
from ranker.settings import ClusterSettings, Service
from ranker.types import Ending, Status

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
    assert "died" in " ".join(job.attempts[0].reasons).lower()


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


def test_a_cluster_that_is_not_there_is_named() -> None:
    """Attacks an address where nobody answers: one sentence, at once where it is asked for, and without a job begun."""
    with pytest.raises(InfraError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*ray start --head"):
        Ray(address="127.0.0.1:1").devices(Service(cluster=ClusterSettings(reconnect_s=1)))


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attacks an installation without Ray."""
    monkeypatch.setattr("ranker.executors.ray.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install 'ranker\[ray\]'"):
        Ray().devices(Service())
    with pytest.raises(MissingError, match=r"pip install 'ranker\[ray\]'"):
        Ray().run(Home(root=tmp_path), Service(), [1])
