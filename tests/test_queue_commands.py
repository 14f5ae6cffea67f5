"""The orders of organizers, typed as they are, on a real database; and what the log and the tables say afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from queues import LEASE_S, NOW, TEAM, after, attempts, condition, fail, job, new_database, pause_of, score
from sqlalchemy import Engine, select

from ranker import events, orders, queue, seeds
from ranker.cli import main
from ranker.db.models import Job, Score, Submission
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.executors.local import Local
from ranker.home import Home
from ranker.overview import state_of
from ranker.service import Ranker
from ranker.settings import Service
from ranker.types import Action, Condition, Fault, JobKind, Part, Status, SubmissionState

OTHER = "b" * 12
CHECKED = {"encoder": {"attribute": "ToneEncoder", "module": "tone.py", "output_dim": 24, "frames_per_s": 12.5}}
Type = Callable[..., str]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A home with two submissions; `a` has a check that succeeded and two evaluations."""
    engine = new_database(tmp_path)
    with session(engine) as writing:
        team = Submission(id=OTHER, digest="b" * 64, team="other", file_name="y.zip", size_bytes=1, received_at=NOW)
        writing.add(team)
    ask(engine, None)
    queue.finish(engine, take(engine, 1), now=NOW, result=CHECKED, scores=[])
    ask(engine, present("A"))
    ask(engine, present("B"))
    ask(engine, present("A"), submission=OTHER)
    yield engine
    engine.dispose()


@pytest.fixture
def typed(tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: Engine) -> Type:
    """Type a command; what it said, standard output first. Fails on another exit code."""

    def type_in(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), *arguments])
        said = "".join(capsys.readouterr())
        assert (left.value.code or 0) == code, said
        return said

    return type_in


@cache
def present(track: str) -> Condition:
    """A condition that measures what mini's configuration says now."""
    digest = Ranker(Path("nowhere")).benchmark("mini").measurement_digest(track)
    return replace(condition(track), measurement=digest)


def ask(engine: Engine, under: Condition | None, *, seed: int = 42, submission: str = TEAM) -> int:
    kind = JobKind.CHECK if under is None else JobKind.EVALUATE
    with session(engine) as writing:
        return queue.enqueue(
            writing, submission_id=submission, kind=kind, condition=under, seed=seed, now=datetime.now(UTC)
        ).id


def take(engine: Engine, number: int, worker: str = "w") -> queue.Claim:
    held = queue.claim(engine, worker=worker, now=NOW, lease_s=LEASE_S, job_ids=[number])
    assert held is not None
    return held


def logged(engine: Engine, action: Action) -> list[tuple[str, int | None, dict[str, Any]]]:
    with session(engine, read_only=True) as reading:
        found = events.since(reading)
        assert events.verify(found) is None
        return [(each.actor, each.job_id, each.details) for each in found if each.action == action]


def statuses(engine: Engine) -> list[str]:
    with session(engine, read_only=True) as reading:
        return list(reading.scalars(select(Job.status).order_by(Job.id)))


def test_cancel_takes_out_what_waits_and_runs_and_its_undo_works(typed: Type, engine: Engine) -> None:
    """Attacks `ranker cancel` by submission: the finished check stays, both evaluations go, the log names who did it,
    and the command that it prints takes all of it back.
    """
    held = take(engine, 2)
    said = typed("cancel", "team")
    assert statuses(engine) == [Status.SUCCEEDED, Status.CANCELLED, Status.CANCELLED, Status.QUEUED]
    assert f"job 2  team: mini, track A, seed 42: {Status.CANCELLED} (was {Status.RUNNING})" in said
    assert [(each[0], each[1], each[2]["before"]) for each in logged(engine, Action.CANCEL)] == [
        (events.whoami(), 2, Status.RUNNING),
        (events.whoami(), 3, Status.QUEUED),
    ]
    assert [each.ending for each in attempts(engine, 2)] == [Status.CANCELLED]
    with pytest.raises(Exception, match="attempt 1"):
        queue.finish(engine, held, now=NOW, result={}, scores=[score()])
    undo = next(line.removeprefix("undo: ranker ") for line in said.splitlines() if line.startswith("undo: "))
    typed(*undo.split())
    assert statuses(engine) == [Status.SUCCEEDED, Status.QUEUED, Status.QUEUED, Status.QUEUED]


def test_jobs_are_named_by_number_and_vain_orders_say_so(typed: Type, engine: Engine) -> None:
    """Attacks names: a number is a job's, an unknown one and an ended job are usage errors, and nothing is changed."""
    typed("cancel", "3")
    before = statuses(engine)
    assert before == [Status.SUCCEEDED, Status.QUEUED, Status.CANCELLED, Status.QUEUED]
    assert "job 3: it is cancelled" in typed("cancel", "3", code=2)
    assert "job 1: it has succeeded" in typed("cancel", "1", code=2)
    assert "there is no job 99; a number is a job's" in typed("cancel", "99", code=2)
    assert "names no submission" in typed("cancel", "3", "nobody", code=2)
    assert "no job of it has failed or was cancelled" in typed("retry", "other", code=2)
    assert statuses(engine) == before


def test_a_teams_own_failure_is_tried_again_only_if_that_is_said(typed: Type, engine: Engine) -> None:
    """Attacks `ranker retry`: ours goes back, theirs stays with the reason and the option's name, until it is given."""
    fail(engine, take(engine, 2), Fault.PARTICIPANT)
    fail(engine, take(engine, 3), Fault.INFRA, most=1)
    said = typed("retry", "team")
    assert "job 2 is left as it is: it failed by its team's own fault (because): --again" in said
    assert statuses(engine)[1:3] == [Status.FAILED, Status.QUEUED]
    assert "job 2: it has failed (fault: participant)" in typed("cancel", "2", code=2)
    typed("retry", "2", "--again")
    assert statuses(engine)[1:3] == [Status.QUEUED, Status.QUEUED]
    assert logged(engine, Action.RETRY)[-1][2]["again"] is True


def test_priority_decides_who_is_next(typed: Type, engine: Engine) -> None:
    """Attacks `ranker prioritize`: first means first, --to the number, and the undo restores each old one."""
    typed("prioritize", "other", "--first")
    assert queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S).job_id == 4  # type: ignore[union-attr]
    typed("prioritize", "3", "--to", "7")
    said = json.loads(typed("prioritize", "team", "--to", "9", "--json"))
    assert [(each["job"], each["priority_before"], each["priority"]) for each in said["changes"]] == [
        (2, 0, 9),
        (3, 7, 9),
    ]
    assert said["undo"] == ["ranker prioritize 2 --to 0", "ranker prioritize 3 --to 7"]
    assert "say different things" in typed("prioritize", "3", "--to", "1", "--first", code=2)


def test_a_pause_is_told_everywhere_and_hands_out_nothing(typed: Type, engine: Engine, tmp_path: Path) -> None:
    """Attacks `ranker pause`: no claim, status says why at its top, what would do jobs refuses, and resume ends it."""
    said = typed("pause", "--why", "a fan is loud")
    assert "a fan is loud" in said
    assert "undo: ranker resume" in said
    assert queue.claim(engine, worker="w", now=NOW, lease_s=LEASE_S) is None
    assert queue.next_due(engine, now=NOW) == after(1)
    shown = typed("status")
    assert "THE QUEUE IS PAUSED" in shown
    assert "a fan is loud" in shown
    with pytest.raises(Exception, match=r"by .*: a fan is loud; `ranker resume` ends the pause"):
        Ranker(tmp_path).run([2], sandbox=None)
    typed("pause", "--why", "the room is hot", "--now")
    pause = pause_of(engine)
    assert pause is not None
    assert (pause.why, pause.give_back) == ("a fan is loud; and: the room is hot", True)
    assert "hands out jobs again" in typed("resume")
    assert "PAUSED" not in typed("status")
    assert take(engine, 2).attempt == 1
    assert [details["why"] for _, _, details in logged(engine, Action.PAUSE)] == ["a fan is loud", "the room is hot"]
    assert len(logged(engine, Action.RESUME)) == 1
    assert "was not paused" in typed("resume")


def test_an_organizers_fault_pauses_and_resume_tries_again_what_is_current(typed: Type, engine: Engine) -> None:
    """Attacks the loud stop: the pause names the job, resume queues it again, but not one of another configuration, for
    that could only fail and pause again; cancelling such a job takes it out for good.
    """
    with session(engine) as writing:  # a check knows no configuration, so it is always current
        check = queue.enqueue(writing, submission_id=OTHER, kind=JobKind.CHECK, condition=None, seed=0, now=NOW).id
    fail(engine, take(engine, check), Fault.ORGANIZER)
    assert f"job {check} (check of submission {OTHER}) failed: because" in typed("status")
    ((actor, number, _),) = logged(engine, Action.PAUSE)
    assert (actor, number) == (events.RANKER, check)
    with session(engine) as writing:
        queue.resume(writing)
    fail(engine, take(engine, check), Fault.ORGANIZER)
    with session(engine) as writing:
        queue.resume(writing, leave=[check])
    old = ask(engine, condition("A"))
    fail(engine, take(engine, old), Fault.ORGANIZER)
    said = typed("resume")
    assert f"job {check}  other: check: {Status.QUEUED} (was {Status.FAILED})" in said
    assert f"job {old} is left as it is: it measures another configuration" in said
    assert statuses(engine)[old - 1] == Status.FAILED
    assert "another configuration" in typed("retry", str(old), code=2)
    typed("cancel", str(old))
    assert statuses(engine)[old - 1] == Status.CANCELLED


def test_every_attempt_is_shown_with_its_end(typed: Type, engine: Engine) -> None:
    """Attacks the history: a released, a lost, a failed and a finished attempt, in `show --json` and on a terminal."""
    queue.release(engine, take(engine, 2, "a:1:x"), NOW)
    take(engine, 2, "b:1:x")
    queue.reap(engine, now=NOW, is_dead=lambda worker: worker == "b:1:x", max_infra_attempts=9)
    fail(engine, take(engine, 2, "c:1:x"), Fault.INFRA, most=9)
    held = queue.claim(engine, worker="d:1:x", now=after(60), lease_s=LEASE_S, job_ids=[2])
    assert held is not None
    queue.finish(engine, held, now=after(90), result={"run": "runs/x"}, scores=[score()])
    shown = json.loads(typed("show", "team", "--json"))["evaluations"][0]["attempts"]
    assert [(each["attempt"], each["worker"][0], each["ending"], each["fault"]) for each in shown] == [
        (1, "a", "released", None),
        (2, "b", "lost", "infra"),
        (3, "c", "failed", "infra"),
        (4, "d", "succeeded", None),
    ]
    assert "died or was cut off" in shown[1]["reasons"][0]
    text = typed("show", "team")
    assert re.search(r"\b2 +2026-02-12 12:00:00 +0 s +lost \(infra\) +b ", text)
    assert re.search(r"\b4 +2026-02-12 12:01:00 +30 s +succeeded +d ", text)


def finished(engine: Engine, number: int, value: float) -> None:
    queue.finish(engine, take(engine, number), now=NOW, result={"run": "runs/x"}, scores=[score(value=value)])


def rerun(engine: Engine, wanted: dict[str, list[Condition]], *chosen: int) -> orders.Done:
    with session(engine) as writing:
        return orders.rerun(writing, wanted, seeds=chosen, own_seed=42, actor="me", now=NOW)


def test_further_seeds_are_evidence_and_replace_nothing(typed: Type, engine: Engine) -> None:
    """Attacks seeds: the own seed is refused, so is what has no score yet; queued once however often asked; the state
    and the evaluations stay those of the first seed, whatever becomes of the others; the spread is theirs together.
    """
    under = present("A")
    with pytest.raises(UsageError, match=r"no finished evaluation on track A of mini"):
        rerun(engine, {TEAM: [under]}, 43)
    finished(engine, 2, 0.5)
    finished(engine, 3, 0.5)
    with pytest.raises(UsageError, match="42 is the recipe's own seed"):
        rerun(engine, {TEAM: [under]}, 43, 42)
    done = rerun(engine, {TEAM: [under]}, 43, 44, 45)
    numbers = [change.job for change in done.changes]
    assert [(change.before, change.after) for change in done.changes] == [(None, Status.QUEUED)] * 3
    assert all(change.priority < 0 for change in done.changes), "evidence goes before what somebody waits for"
    assert done.undo == (f"ranker cancel {' '.join(map(str, numbers))}",)
    again = rerun(engine, {TEAM: [under]}, 43, 44, 45)
    assert (again.changes, len(again.left)) == ((), 3)
    assert len(logged(engine, Action.RERUN)) == 3
    finished(engine, numbers[0], 0.6)
    finished(engine, numbers[1], 0.7)
    fail(engine, take(engine, numbers[2]), Fault.PARTICIPANT)
    view = json.loads(typed("show", "team", "--json"))
    assert (view["state"], view["reasons"]) == (SubmissionState.EVALUATED, [])
    assert [each["seed"] for each in view["evaluations"]] == [42, 42]
    assert [each["seed"] for each in view["further_seeds"]] == [43, 44, 45]
    (spread,) = view["spreads"]
    assert (spread["seeds"], spread["values"]) == ([42, 43, 44], [0.5, 0.6, 0.7])
    assert (spread["mean"], spread["deviation"]) == (pytest.approx(0.6), pytest.approx(0.1))
    text = typed("show", "team")
    assert "further seeds, as evidence" in text
    assert "seed 45: failed (participant)" in text


def test_a_spread_is_of_one_question_only() -> None:
    """Attacks mixing: other conditions and unfinished jobs stay out, and one seed makes no spread."""

    def row(number: int, under: Condition, seed: int, value: float, status: Status = Status.SUCCEEDED) -> Job:
        return Job(
            id=number,
            kind=JobKind.EVALUATE,
            benchmark=under.benchmark,
            track=under.track,
            condition=under.to_json(),
            condition_digest=under.digest,
            seed=seed,
            status=status,
            scores=[Score(task="pitch", metric="Accuracy", value=value, items=1, predictions="")],
        )

    a, other = condition("A"), replace(condition("A"), part=Part.HIDDEN)
    rows = [row(1, a, 42, 0.1), row(2, other, 43, 0.2), row(3, a, 43, 0.3), row(4, a, 44, 0.9, Status.RUNNING)]
    assert seeds.further(rows) == {3, 4}
    (spread,) = seeds.spreads(reversed(rows))
    assert (spread.seeds, spread.values, spread.part) == ((42, 43), (0.1, 0.3), Part.PUBLIC)
    check = Job(id=0, kind=JobKind.CHECK, status=Status.SUCCEEDED)
    assert state_of([check, *rows]) is SubmissionState.EVALUATED


SCRIPT = """
import sys
from ranker import queue
from ranker.job import Outcome
from ranker.db.place import database_url
from ranker.db.session import connect, session
from ranker.types import JobKind
from ranker.worker import main
from datetime import UTC, datetime
from functools import cache

def handler(context):
    if context.claim.seed == 0:  # what another terminal queues while this one works
        engine = connect(database_url(context.home))
        with session(engine) as writing:
            queue.enqueue(writing, submission_id="aaaaaaaaaaaa", kind=JobKind.CHECK, condition=None, seed=1,
                          now=datetime.now(UTC))
        engine.dispose()
    return Outcome(result={"seed": context.claim.seed})

if __name__ == "__main__":
    sys.exit(main(handlers={JobKind.CHECK: handler}))
"""


def test_work_takes_what_is_queued_meanwhile(tmp_path: Path) -> None:
    """Attacks `ranker work --until-empty`: a job that comes in while it works is done as well, and then it ends."""
    engine = new_database(tmp_path)
    with session(engine) as writing:
        queue.enqueue(writing, submission_id=TEAM, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    executor = Local(workers=1, command=[sys.executable, str(script)])
    executor.work(Home(root=tmp_path), Service(retry_delay_s=0), until_empty=True)
    assert [job(engine, number).result for number in (1, 2)] == [{"seed": 0}, {"seed": 1}]
    engine.dispose()


def test_work_on_a_cluster_does_the_evaluations_that_wait(
    engine: Engine, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks `ranker work --executor ray`: what `ranker rerun` queued is done there, too, and what came in meanwhile;
    for ever is refused, since a cluster is given jobs by number.
    """
    given: list[list[int]] = []

    class Cluster:
        def __init__(self, **options: object) -> None:
            assert options == {"address": "head:6379", "workers": 3}

        def run(self, home: Home, service: Service, job_ids: list[int], *, on_tick: Callable[[], None]) -> None:
            given.append(list(job_ids))
            if len(given) == 1:
                ask(engine, present("B"), seed=43)
            for number in job_ids:
                queue.finish(engine, take(engine, number), now=NOW, result={}, scores=[])

    monkeypatch.setattr("ranker.executors.ray.Ray", Cluster)
    cluster = ["--executor", "ray", "--address", "head:6379", "--workers", "3", "--sandbox", "none"]
    assert "add --until-empty" in typed("work", *cluster, code=2)
    typed("work", "--until-empty", *cluster)
    assert given == [[2, 3, 4], [5]]


@pytest.mark.parametrize("order", [["cancel", "3"], ["retry", "3"], ["prioritize", "3"], ["pause"], ["resume"]])
def test_orders_reach_a_home_only_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], order: list[str]
) -> None:
    """Attacks the wrong folder: nothing is created, and the message says which folder was meant."""
    with pytest.raises(SystemExit, match="4"):
        main(["--home", str(tmp_path / "nowhere"), *order])
    assert "`ranker ingest FILE.zip` begins" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


ORDER = """
import sys
from ranker.cli import main
try:
    main(["--home", *sys.argv[1:]])
except SystemExit as left:
    assert not left.code, left
heavy = ["pandas", "torch", "numpy", "scipy", "transformers", "alembic", "jinja2", "docker", "matplotlib"]
print(*[name for name in heavy if name in sys.modules], len(sys.modules))
"""


def test_orders_load_no_heavy_library(tmp_path: Path, engine: Engine) -> None:
    """Attacks the time that an order takes: in a process of its own, real ones on a real home load neither pandas nor
    torch, nor what migrates a database that needs no migration.
    """
    for order in (["cancel", "2"], ["retry", "a" * 12], ["pause"]):
        command = [sys.executable, "-c", ORDER, str(tmp_path), *order, "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        *heavy, modules = answer.stdout.splitlines()[-1].split()
        assert heavy == [], order
        assert int(modules) > 100
    assert [job(engine, number).status for number in (2, 3)] == [Status.QUEUED] * 2


def test_a_programs_status_tells_of_the_pause(typed: Type) -> None:
    """Attacks `status --json` while the queue stands still: since when, by whom and why, as `ranker pause` says it."""
    assert json.loads(typed("status", "--json"))["paused"] is None
    told = json.loads(typed("pause", "--why", "a fan is loud", "--json"))
    assert told["why"] == "a fan is loud"
    found = json.loads(typed("status", "--json"))
    assert (found["paused"], len(found["submissions"])) == (told, 2)
