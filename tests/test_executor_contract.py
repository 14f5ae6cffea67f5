"""What every executor promises, on this machine and on a real Ray cluster: every job ends, whoever dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import effort
import pytest
from executions import Place, place
from ray_cluster import TestCluster

from ranker import queue
from ranker.db.models import Job
from ranker.errors import InfraError, OrganizerError
from ranker.types import Fault, Status

EXECUTORS = ["local", "ray"] if effort.LONG else ["local"]
"""A run on a cluster takes seconds to begin: `make test` has only those of tests/test_executor_ray.py."""

# What becomes of a job is told by its seed: done, tried again after our failure, refused, done after a death.
MIXED = """
match context.claim.seed, context.claim.attempt:
    case 1, 1:
        raise InfraError("the engine died")
    case 2, _:
        raise ParticipantError(["It is broken.", "It is slow."])
    case 3, 1:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint(context, 1)
context.report(Progress(stage=Stage.TRAIN, done=1, total=2))
return outcome(context)
"""


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    on_cluster = request.param == "ray"
    cluster: TestCluster | None = request.getfixturevalue("cluster") if on_cluster else None
    with place(tmp_path, cluster) as found:
        yield found


@pytest.mark.parametrize("here", EXECUTORS, indirect=True)
def test_every_job_ends_as_it_deserves(here: Place) -> None:
    """Attacks the way through with one job of each kind: done at once; tried again after our failure; refused for good
    by its own fault; done again after its process was killed. A fifth, not asked for, stays as it is. Each success has
    its scores once, its files lie in the home, and ticks are heard.
    """
    ids = here.enqueue(5)
    ticks = []
    here.run(ids[:4], MIXED, workers=2, on_tick=lambda: ticks.append(1))
    found = here.jobs()
    good = (Status.SUCCEEDED, None)
    assert [(job.status, job.fault) for job in found] == [
        good,
        good,
        (Status.FAILED, Fault.PARTICIPANT),
        good,
        (Status.QUEUED, None),
    ]
    assert [(job.attempt, job.infra_failures) for job in found] == [(1, 0), (2, 1), (1, 0), (2, 1), (0, 0)]
    assert found[2].reasons == ["It is broken.", "It is slow."]
    assert [len(job.scores) for job in found] == [1, 1, 0, 1, 0]
    assert len(ticks) >= 2
    for job in (found[0], found[1], found[3]):
        assert job.result == {"attempt": job.attempt}
        assert (here.run_folder(job, job.attempt) / "step-00000001" / "state.json").is_file()
        assert "attempt" in (here.run_folder(job, job.attempt) / "worker.log").read_text()


@pytest.mark.parametrize("here", EXECUTORS, indirect=True)
def test_an_organizers_fault_stops_everything(here: Place) -> None:
    """Attacks the loud stop: the job that runs beside is given back, nothing else is begun, the error says why."""
    ids = here.enqueue(4)
    body = """
        if context.claim.seed == 0:
            wait_for("other")
            raise OrganizerError("labels are missing")
        (PLACE / "other").touch()
        wait_for("the end of days")
    """
    with pytest.raises(OrganizerError, match=r"job 1 .*labels are missing"):
        here.run(ids, body, workers=2)
    assert [job.status for job in here.jobs()] == [Status.FAILED] + [Status.QUEUED] * 3
    assert [job.infra_failures for job in here.jobs()] == [0] * 4


@pytest.mark.parametrize("here", EXECUTORS, indirect=True)
def test_an_interruption_gives_the_jobs_back(here: Place) -> None:
    """Attacks Ctrl-C: who did the job is gone afterwards, and the job is queued without a penalty."""
    ids = here.enqueue(2)
    workers = []

    def interrupt() -> None:
        running = [job.worker for job in here.jobs() if job.worker is not None]
        if running and (here.folder / "begun").exists():
            workers.extend(running)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.run(ids, "(PLACE / 'begun').touch()\nwait_for('the end of days')", on_tick=interrupt)
    assert [queue.is_dead_here(worker) for worker in workers] == [True]
    assert [(job.status, job.infra_failures) for job in here.jobs()] == [(Status.QUEUED, 0)] * 2


@pytest.mark.parametrize("here", EXECUTORS, indirect=True)
def test_a_poisonous_job_is_given_up_alone(here: Place) -> None:
    """Attacks with a job that kills whoever does it: given up after its attempts, the other is done, and the run says
    so.
    """
    ids = here.enqueue(2)
    with pytest.raises(InfraError, match="1 of 2 jobs failed by no fault of their team"):
        here.run(ids, "if context.claim.seed == 0: os.kill(os.getpid(), signal.SIGKILL)\nreturn outcome(context)")
    assert [(job.status, job.attempt) for job in here.jobs()] == [(Status.FAILED, 3), (Status.SUCCEEDED, 1)]


@pytest.mark.parametrize("here", EXECUTORS, indirect=True)
def test_a_cancelled_job_stops_and_the_others_go_on(here: Place) -> None:
    """Attacks `ranker cancel` while the job runs: it is interrupted, nothing of it is recorded, the next is done."""
    from ranker.db.session import session

    ids = here.enqueue(2)

    def cancel() -> None:
        first: Job = here.jobs()[0]
        if first.status == Status.RUNNING and (here.folder / "begun").exists():
            with session(here.engine) as writing:
                queue.cancel(writing, job_id=first.id, now=first.started_at or first.created_at)

    body = """
        if context.claim.seed == 0:
            (PLACE / "begun").touch()
            while True:
                context.report(Progress(stage=Stage.TRAIN))
                threading.Event().wait(0.05)
        return outcome(context)
    """
    here.run(ids, body, on_tick=cancel, service=here.service.model_copy(update={"lease_s": 8.0}))
    assert [(job.status, len(job.scores)) for job in here.jobs()] == [(Status.CANCELLED, 0), (Status.SUCCEEDED, 1)]
