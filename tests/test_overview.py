"""What status, show and the page are told of submissions, from a real database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from boards import column, condition, small_board
from homes import new_engine
from sqlalchemy import Engine

from ranker import overview, queue
from ranker.board import Board
from ranker.db.models import Submission
from ranker.db.rules import Verdict
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.home import Home
from ranker.manifest import write_manifest
from ranker.queue import Claim, NewScore
from ranker.types import Condition, Fault, Group, JobKind, Part, Rule, Ruling, Standing, Status, SubmissionState

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
WORKER = "secret-host:4711:5eed-1-2"
CHECKED = {"encoder": {"attribute": "ToneEncoder", "module": "tone.py", "output_dim": 24, "frames_per_s": 12.5}}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path)


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    yield engine
    engine.dispose()


class Place:
    """A home as queue and workers leave it. `key` distinguishes submissions; all moves go through the queue."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def submit(self, team: str, key: str) -> str:
        with session(self.engine) as writing:
            writing.add(
                Submission(
                    id=key * 12, digest=key * 64, team=team, file_name="x.zip", size_bytes=1,
                    received_at=NOW + timedelta(seconds=ord(key)),
                )
            )  # fmt: skip
        return key * 12

    def job(self, submission: str, under: Condition | None = None) -> int:
        kind = JobKind.CHECK if under is None else JobKind.EVALUATE
        with session(self.engine) as writing:
            return queue.enqueue(writing, submission_id=submission, kind=kind, condition=under, seed=42, now=NOW).id

    def claim(self, job: int) -> Claim:
        claim = queue.claim(self.engine, worker=WORKER, now=NOW, lease_s=60, job_ids=[job])
        assert claim is not None
        return claim

    def succeed(self, job: int, result: dict[str, object] | None = None, scores: tuple[NewScore, ...] = ()) -> None:
        queue.finish(self.engine, self.claim(job), now=NOW, result=result or CHECKED, scores=scores)

    def fail(self, job: int, fault: Fault, *reasons: str, attempts: int = 1) -> None:
        queue.fail(
            self.engine, self.claim(job), now=NOW, fault=fault, reasons=reasons, max_infra_attempts=attempts,
            retry_delay_s=1.0,
        )  # fmt: skip

    def views(self) -> dict[str, overview.SubmissionView]:
        with session(self.engine, read_only=True) as reading:
            return {view.submission.team: view for view in overview.submissions(reading)}


@pytest.fixture
def place(engine: Engine) -> Place:
    return Place(engine)


def test_a_state_is_that_of_the_jobs(place: Place) -> None:
    """Attacks every state: each follows from jobs as the queue leaves them, and none is stored."""
    teams = ["received", "refused", "accepted", "evaluating", "evaluated", "failed"]
    ids = {team: place.submit(team, key) for team, key in zip(teams, "abcdef", strict=True)}
    checks = {team: place.job(submission) for team, submission in ids.items()}
    place.fail(checks["refused"], Fault.PARTICIPANT, "It has no encoder.")
    for team in teams[2:]:
        place.succeed(checks[team])
    jobs = {team: [place.job(ids[team], condition(track)) for track in "AB"] for team in teams[3:]}
    place.succeed(jobs["evaluating"][0])
    for job in jobs["evaluated"]:
        place.succeed(job)
    place.succeed(jobs["failed"][0])
    place.fail(jobs["failed"][1], Fault.PARTICIPANT, "It took too long.")
    found = place.views()
    assert {team: view.state.value for team, view in found.items()} == {team: team for team in teams}
    assert list(found) == teams
    assert len(SubmissionState) == len(teams)


def test_our_own_failures_refuse_nobody(place: Place) -> None:
    """Attacks blame: a check that failed by infra leaves the submission as it was received."""
    place.fail(place.job(place.submit("team", "a")), Fault.INFRA, "the engine died")
    assert place.views()["team"].state is SubmissionState.RECEIVED


def test_a_cancelled_evaluation_counts_for_nothing(place: Place) -> None:
    """Attacks with a job that was taken out: neither a failure nor something still to come."""
    submission = place.submit("team", "a")
    place.succeed(place.job(submission))
    job = place.job(submission, condition("A"))
    with session(place.engine) as writing:
        assert queue.cancel(writing, job_id=job, now=NOW)
    assert place.views()["team"].state is SubmissionState.ACCEPTED


def test_the_public_is_told_no_detail_of_our_failures(place: Place, home: Home) -> None:
    """Attacks the page by an error that names machine and path: only organizers read which."""
    submission = place.submit("team", "a")
    place.succeed(place.job(submission))
    place.fail(place.job(submission, condition("A")), Fault.INFRA, f"{WORKER} died, log in {home.root}/runs")
    place.fail(place.job(submission, condition("B")), Fault.PARTICIPANT, "Its features are not finite.")
    view = place.views()["team"]
    assert WORKER in " ".join(view.reasons)
    assert view.public_reasons == ("Its features are not finite.", overview.OUR_FAILURE)
    with session(place.engine, read_only=True) as reading:
        (page,) = overview.pages(reading, home, [])
    assert page.reasons == view.public_reasons


def test_the_public_is_told_no_detail_of_hidden_tasks(place: Place) -> None:
    """Attacks the page by a failure that names a hidden task: the team is told, everybody else that it happened."""
    submission = place.submit("team", "a")
    place.succeed(place.job(submission))
    place.fail(place.job(submission, condition("A", part=Part.HIDDEN)), Fault.PARTICIPANT, "In the stage task-copper.")
    view = place.views()["team"]
    assert view.reasons == ("In the stage task-copper.",)
    assert view.public_reasons == (overview.HIDDEN_FAILURE,)


def test_failures_are_told_of_the_jobs_asked_about(place: Place) -> None:
    """Attacks the exit code: what failed in another evaluation, or by our fault, is not this command's refusal."""
    submission = place.submit("team", "a")
    place.succeed(place.job(submission))
    first, second, third = (place.job(submission, condition(track)) for track in ("A", "B", "C"))
    place.fail(first, Fault.PARTICIPANT, "Too long.")
    place.fail(second, Fault.PARTICIPANT, "Too large.")
    place.fail(third, Fault.INFRA, "the disk is full")
    assert place.views()["team"].failures_of([second, third]) == ("Too large.",)


def test_finding_by_id_beginning_and_team(place: Place) -> None:
    """Attacks names: id, its beginning, digest and team lead to the same one, each submission is found once."""
    place.submit("alpha", "a")
    place.submit("beta", "b")
    with session(place.engine, read_only=True) as reading:
        found = overview.find(reading, ["a" * 12, "a", "a" * 64, "alpha", "b"])
    assert [view.submission.team for view in found] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("name", "words"), [("", "no submissions"), ("zz", "no submissions"), ("twice", "2 submissions")]
)
def test_a_name_that_fits_none_or_many_is_refused(place: Place, name: str, words: str) -> None:
    """Attacks with nothing, a stranger, and a team that sent two ZIPs: what there is to choose from is listed."""
    place.submit("twice", "a")
    place.submit("twice", "b")
    with session(place.engine, read_only=True) as reading, pytest.raises(UsageError, match=words) as refusal:
        overview.find(reading, [name])
    assert "aaaaaaaaaaaa (twice, received), bbbbbbbbbbbb (twice, received)" in str(refusal.value)


def evaluated(place: Place, home: Home, under: Condition, *tasks: str) -> str:
    """A submission with one finished run whose files are there."""
    submission = place.submit("team", "a")
    place.succeed(place.job(submission))
    run = home.runs / submission / "job" / "attempt-0001"
    (run / "predictions").mkdir(parents=True)
    items = pd.DataFrame(
        {
            "clip": [f"test.tar:c{index:03d}" for index in range(100)],
            "reference": "yes",
            "candidate": ["yes", "no"] * 50,
            "item": [1.0, None] * 50,
        }
    )
    scores = []
    for task in tasks:
        path = run / "predictions" / f"{task}.parquet"
        items.to_parquet(path)
        predictions = str(path.relative_to(home.root))
        scores.append(NewScore(task=task, metric="Accuracy", value=0.5, items=100, predictions=predictions))
    steps = [json.dumps({"step": step, "loss": 1 / step, "seconds": 0.1}) for step in (1, 2, 4)]
    (run / "train.jsonl").write_text("\n".join(steps) + "\n", encoding="utf-8")
    write_manifest(run, {"weights": "f" * 64})
    place.succeed(place.job(submission, under), {"run": str(run.relative_to(home.root))}, tuple(scores))
    return submission


def test_show_tells_what_the_checks_probes_found(place: Place) -> None:
    """Attacks the table and its JSON: the rows that the record allows, none where no check has succeeded."""
    checked, unchecked = place.submit("team", "a"), place.submit("other", "b")
    place.succeed(place.job(checked))
    place.job(unchecked)
    with session(place.engine, read_only=True) as reading:
        views = {view.submission.id: view.to_json()["probes"] for view in overview.submissions(reading)}
    assert views[unchecked] == []
    assert views[checked] == [
        {"name": "frame rate", "found": "12.5 per second", "follows": "30 s are 375 frames for the language model"}
    ]


def on_board(under: Condition, seed: int = 42) -> Board:
    from dataclasses import replace

    columns = (column("open"), column("closed", group=Group.HIDDEN))
    return replace(small_board(under.track), condition=under, seed=seed, columns=columns)


def test_a_page_has_the_run_that_stands_on_the_board(place: Place, home: Home) -> None:
    """Attacks the hidden tasks: their predictions are not even read; curve and manifest are the run's own."""
    under = condition("A")
    evaluated(place, home, under, "open", "closed")
    with session(place.engine, read_only=True) as reading:
        (page,) = overview.pages(reading, home, [on_board(under)])
    (run,) = page.runs
    assert run.curve == ((1, 1.0), (2, 0.5), (4, 0.25))
    assert run.manifest == {"weights": "f" * 64}
    assert set(run.samples) == {"open"}
    assert len(run.samples["open"]) == 25
    assert page.encoder == CHECKED["encoder"]


@pytest.mark.parametrize("change", ["condition", "seed", "track"])
def test_a_run_of_another_board_is_not_shown(place: Place, home: Home, change: str) -> None:
    """Attacks mixing: a run under another condition, seed or track stays off the page of this board."""
    under = condition("A")
    evaluated(place, home, under, "open")
    other = {
        "condition": on_board(condition("A", device="another GPU")),
        "seed": on_board(under, seed=7),
        "track": on_board(condition("B")),
    }
    with session(place.engine, read_only=True) as reading:
        (page,) = overview.pages(reading, home, [other[change]])
    assert page.runs == ()


def test_json_is_plain_and_whole(place: Place, home: Home) -> None:
    """Attacks the JSON that programs read: it can be written as it is, and has every job and score."""
    evaluated(place, home, condition("A"), "open")
    written = json.loads(json.dumps(place.views()["team"].to_json(), allow_nan=False))
    assert written["check"]["result"] == CHECKED
    (job,) = written["evaluations"]
    assert (job["status"], job["track"], job["finished_at"]) == (Status.SUCCEEDED, "A", NOW.isoformat())
    assert job["scores"] == {"open": {"metric": "Accuracy", "value": 0.5, "blind": None, "items": 100}}


def rule_on(place: Place, submission: str, rule: Rule, ruling: Ruling) -> None:
    with session(place.engine) as writing:
        writing.add(
            Verdict(
                submission_id=submission, rule=rule, ruling=ruling, why="by ann@x.org", evidence={},
                decided_at=NOW, decided_by="eve@host",
            )
        )  # fmt: skip


def test_a_superseded_submission_has_no_page_and_a_pending_one_says_why(place: Place, home: Home) -> None:
    """Who is out is not shown in public, unless it is asked for; and no address of a verdict reaches a page."""
    ids = [place.submit("team", key) for key in "abc"]
    for each in ids:
        place.succeed(place.job(each))
    rule_on(place, ids[0], Rule.ONE_MODEL, Ruling.BROKEN)
    rule_on(place, ids[1], Rule.DEADLINE, Ruling.BROKEN)
    rule_on(place, ids[2], Rule.REPORT, Ruling.PENDING)
    with session(place.engine, read_only=True) as reading:
        shown = overview.pages(reading, home, [])
        asked = overview.pages(reading, home, [], including=[Standing.SUPERSEDED])
    place.fail(place.job(place.submit("team", "d")), Fault.PARTICIPANT, "it has no encoder")
    with session(place.engine, read_only=True) as reading:
        (view,) = overview.find(reading, ["team"])  # a team's name stands for what counts of it
    assert [page.id for page in shown] == [ids[2]]
    assert shown[0].standing.startswith("It is not ranked yet: its technical report")
    assert asked[0].standing == "It is not ranked: a later submission of the team counts."
    assert "ann@x.org" not in repr(asked)
    assert view.submission.id == ids[2]
    assert view.to_json()["standing"] == "pending"
    assert [each["why"] for each in view.to_json()["verdicts"]] == ["by ann@x.org"]


def test_a_refused_submission_is_not_told_of_its_rank(place: Place, home: Home) -> None:
    """What a check refused has no standing: the page says why it was refused, and nothing of registrations."""
    submission = place.submit("team", "a")
    place.fail(place.job(submission), Fault.PARTICIPANT, "It has no encoder.")
    rule_on(place, submission, Rule.REGISTRATION, Ruling.PENDING)
    with session(place.engine, read_only=True) as reading:
        (page,) = overview.pages(reading, home, [])
    assert (page.standing, page.reasons) == ("", ("It has no encoder.",))
