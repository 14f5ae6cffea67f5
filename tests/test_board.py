"""ranker.board and ranker.lineup on a real SQLite file and real Parquet files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from ranker import config
from ranker.baseline import Baseline
from ranker.board import Board, RankInterval, assemble, conditions, ranking_json
from ranker.config import Benchmark, Recipe, Task, Track
from ranker.db.models import Job, Score, Submission
from ranker.db.rules import Verdict
from ranker.db.schema import Base
from ranker.errors import ConfigError, MissingError, OrganizerError, UsageError
from ranker.home import Home
from ranker.metrics import Pair, evaluate
from ranker.types import (
    Action,
    Choice,
    Condition,
    Domain,
    Fault,
    Group,
    JobKind,
    MetricName,
    Precision,
    Rule,
    Ruling,
    Standing,
    Status,
    Trained,
)

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
TASKS = ("keyword", "pitch")
CLIPS = {"keyword": 60, "pitch": 40, "secret": 20, "unheard": 10}


def benchmark(**pitch: object) -> Benchmark:
    tasks = [
        Task(
            name=name,
            title=name.title(),
            domain=Domain.SPEECH,
            metric=MetricName.ACCURACY,
            test=config.TestSplit(shards=("test.tar",), key=("label",), prompt="?"),
            **(pitch if name == "pitch" else {}),
        )
        for name in TASKS
    ]
    return Benchmark(
        name="tiny",
        title="Tiny",
        description="for tests",
        whole_protocol=False,
        recipe=Recipe(),
        tracks={"A": Track(title="Understanding", tasks=tasks), "B": Track(title="Other", tasks=tasks[:1])},
    )


def condition(bench: Benchmark, *demonstration: str, device: str = "cpu") -> Condition:
    return Condition(
        benchmark=bench.name,
        track="A",
        measurement=bench.measurement_digest("A"),
        data="d" * 64,
        decoder="e" * 64,
        decoder_layers=30,
        metric_models="",
        steps=10,
        precision=Precision.FP32,
        device=device,
        sandboxed=True,
        demonstration=demonstration,
    )


@dataclass
class Place:
    """A home with its database, and the writing that queue and worker would do."""

    session: Session
    home: Home
    made: int = 0

    def submit(self, team: str, *, check: Status = Status.SUCCEEDED) -> str:
        self.made += 1
        digest = hashlib.sha256(f"{team}{self.made}".encode()).hexdigest()
        self.session.add(
            Submission(id=digest[:12], digest=digest, team=team, file_name="x.zip", size_bytes=1, received_at=NOW)
        )
        self.job(digest[:12], JobKind.CHECK, check, None, 0, NOW)
        return digest[:12]

    def job(
        self, submission: str, kind: JobKind, status: Status, under: Condition | None, seed: int, at: datetime
    ) -> Job:
        key = hashlib.sha256(f"{submission}{kind}{under.digest if under else ''}{seed}{status}".encode()).hexdigest()
        job = Job(
            key=key,
            submission_id=submission,
            kind=kind,
            benchmark=under.benchmark if under else None,
            track=under.track if under else None,
            condition=under.to_json() if under else None,
            condition_digest=under.digest if under else None,
            seed=seed,
            status=status,
            fault=Fault.PARTICIPANT if status is Status.FAILED else None,
            created_at=at,
            finished_at=at,
        )
        self.session.add(job)
        self.session.flush()
        return job

    def evaluate(
        self,
        submission: str,
        under: Condition,
        right: dict[str, int],
        *,
        seed: int = 42,
        at: datetime = NOW,
        status: Status = Status.SUCCEEDED,
    ) -> Job:
        """A finished evaluation in which the first `right[task]` clips were answered rightly."""
        job = self.job(submission, JobKind.EVALUATE, status, under, seed, at)
        for name, count in right.items():
            pairs = [
                Pair(clip=f"{name}{i:03d}", reference="yes", candidate="yes" if i < count else "no")
                for i in range(CLIPS[name])
            ]
            result = evaluate(MetricName.ACCURACY, pairs)
            path = self.home.root / "runs" / submission / f"{job.key[:8]}" / "predictions" / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            result.items.to_parquet(path)
            self.session.add(
                Score(
                    job_id=job.id,
                    task=name,
                    metric=result.name,
                    value=result.value,
                    blind=0.25,
                    items=len(pairs),
                    predictions=str(path.relative_to(self.home.root)),
                )
            )
        self.session.flush()
        return job

    def board(self, bench: Benchmark, **fields: object) -> Board:
        self.session.expire_all()
        return assemble(self.session, self.home, bench, "A", now=NOW, **fields)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    engine = create_engine(f"sqlite:///{tmp_path / 'ranker.db'}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield Place(session=session, home=Home(root=tmp_path))
    engine.dispose()


def test_a_board_of_three(place: Place) -> None:
    """Ranks, raw and normalised scores, groups and intervals; the columns say what they are of."""
    bench = benchmark(worst=0.2, group=Group.HIDDEN, trained=Trained.WITH_PUBLIC, weight=3.0, confound="room")
    under = condition(bench, "stand-in decoder")
    best, worst, middle = place.submit("best"), place.submit("worst"), place.submit("middle")
    place.evaluate(worst, under, {"keyword": 15, "pitch": 10})
    place.evaluate(best, under, {"keyword": 60, "pitch": 40})
    place.evaluate(middle, under, {"keyword": 30, "pitch": 24})
    board = place.board(bench)
    assert [(row.team, row.rank, row.submission_id) for row in board.rows] == [
        ("best", 1, best),
        ("middle", 2, middle),
        ("worst", 3, worst),
    ]
    row = board.rows[1]
    assert (row.cells["keyword"].raw, row.cells["pitch"].raw) == (0.5, 0.6)
    assert row.cells["pitch"].normalized == pytest.approx(0.5)
    assert row.score == pytest.approx(0.5)
    assert row.groups == {"public": 0.5, "hidden": pytest.approx(0.5)}
    assert row.interval is not None
    assert row.cells["pitch"].interval is not None
    assert row.interval.low < 0.5 < row.interval.high
    assert row.cells["pitch"].interval.low < 0.6 < row.cells["pitch"].interval.high
    assert [entry.distinct_from_next for entry in board.rows] == [True, True, None]
    column = board.columns[1]
    assert (column.name, column.items, column.blind, column.signal) == ("pitch", 40, 0.25, True)
    assert (column.metric, column.weight, column.worst, column.confound) == ("Accuracy", 3.0, 0.2, "room")
    assert (board.benchmark, board.track_title, board.seed) == ("tiny", "Understanding", 42)
    assert board.demonstration == ("stand-in decoder",)
    assert board.made_at == NOW
    json.dumps(board.to_json(), allow_nan=False)


def test_the_same_board_again_is_the_same(place: Place) -> None:
    """Intervals come from the board's identity, not from a clock or a global random state."""
    bench = benchmark()
    for team, right in (("a", 50), ("b", 20)):
        place.evaluate(place.submit(team), condition(bench), {"keyword": right, "pitch": 20})
    first = place.board(bench)
    np.random.seed(5)  # noqa: NPY002 - the global state is what must not matter
    assert place.board(bench) == first


def test_incomplete_submissions_are_rows_without_rank(place: Place) -> None:
    """Accepted but not evaluated, failed, or missing one task: below the ranked ones, by team, with what is missing."""
    bench = benchmark()
    under = condition(bench)
    place.submit("refused", check=Status.FAILED)
    place.submit("waiting")
    place.evaluate(place.submit("partly"), under, {"keyword": 60})
    place.evaluate(place.submit("failed"), under, {"keyword": 60, "pitch": 40}, status=Status.FAILED)
    place.evaluate(place.submit("whole"), under, {"keyword": 10, "pitch": 10})
    board = place.board(bench)
    assert [(row.team, row.rank, row.missing) for row in board.rows] == [
        ("whole", 1, ()),
        ("failed", None, ("keyword", "pitch")),
        ("partly", None, ("pitch",)),
        ("waiting", None, ("keyword", "pitch")),
    ]
    partly = board.rows[2]
    assert (partly.score, partly.interval, partly.groups, list(partly.cells)) == (
        None,
        None,
        {"public": None},
        ["keyword"],
    )
    assert board.rows[0].distinct_from_next is None


def test_ties_share_a_rank_and_stand_by_team(place: Place) -> None:
    """Equal submissions are not told apart, by rank or by difference."""
    bench = benchmark()
    for team in ("zebra", "ant"):
        place.evaluate(place.submit(team), condition(bench), {"keyword": 30, "pitch": 20})
    rows = place.board(bench).rows
    assert [(row.team, row.rank, row.distinct_from_next) for row in rows] == [("ant", 1, False), ("zebra", 1, None)]


def test_all_accepted_submissions_of_a_team_are_rows(place: Place) -> None:
    """Two submissions of one team keep their own ids and scores."""
    bench = benchmark()
    ids = [place.submit("team"), place.submit("team")]
    for submission, right in zip(ids, (10, 30), strict=True):
        place.evaluate(submission, condition(bench), {"keyword": right, "pitch": right})
    assert [(row.team, row.submission_id) for row in place.board(bench).rows] == [("team", ids[1]), ("team", ids[0])]


def test_conditions_never_mix(place: Place) -> None:
    """Two devices are two boards; on each, who was evaluated on the other only is missing everything."""
    bench = benchmark()
    on_cpu, on_gpu = condition(bench), condition(bench, device="H200")
    first, second = place.submit("first"), place.submit("second")
    place.evaluate(first, on_cpu, {"keyword": 10, "pitch": 10})
    place.evaluate(second, on_gpu, {"keyword": 50, "pitch": 30})
    for under, ranked in ((on_cpu, "first"), (on_gpu, "second")):
        board = place.board(bench, condition=under.digest[:10])
        assert board.condition == under
        assert [row.rank for row in board.rows] == [1, None]
        assert board.rows[0].team == ranked
        assert board.rows[1].cells == {}


def test_the_default_board(place: Place) -> None:
    """The recipe's own seed, fewest reasons to call it a demonstration, most submissions, then the most recent; listed
    in that order, further seeds last.
    """
    bench = benchmark()
    shown, two, old, new = (
        condition(bench, "fewer steps", device="shown"),
        condition(bench, device="two"),
        condition(bench, device="old"),
        condition(bench, device="new"),
    )
    a, b = place.submit("a"), place.submit("b")
    right = {"keyword": 10, "pitch": 10}
    for submission in (a, b):
        place.evaluate(submission, shown, right, at=NOW + timedelta(hours=9))
        place.evaluate(submission, two, right, at=NOW - timedelta(hours=9))
    place.evaluate(a, old, right, at=NOW + timedelta(hours=1))
    place.evaluate(a, new, right, at=NOW + timedelta(hours=2))
    place.evaluate(a, new, right, seed=7, at=NOW + timedelta(hours=3))
    listed = [
        (choice.condition.device, choice.seed, choice.submissions) for choice in conditions(place.session, bench, "A")
    ]
    assert listed == [("two", 42, 2), ("new", 42, 1), ("old", 42, 1), ("shown", 42, 2), ("new", 7, 1)]
    assert place.board(bench).condition == two
    assert place.board(bench, seed=7).seed == 7
    assert place.board(bench, condition=new.digest).seed == 42
    assert place.board(bench, condition=new.digest, seed=42).seed == 42


def test_a_wrong_choice_lists_the_boards(place: Place) -> None:
    """An unknown condition, one that fits several, or a seed nobody used: usage errors that show what there is."""
    bench = benchmark()
    submission = place.submit("a")
    made = [condition(bench, device=f"gpu{i}") for i in range(20)]
    for under in made:
        place.evaluate(submission, under, {"keyword": 10, "pitch": 10})
    first = [under.digest[0] for under in made]
    shared = next(digit for digit in first if first.count(digit) > 1)
    for fields, problem in (
        ({"condition": "xyz"}, "condition xyz fits no board"),
        ({"condition": shared}, f"condition {shared} fits more than one board"),
        ({"seed": 1}, "seed 1 fits no board"),
    ):
        with pytest.raises(UsageError, match=problem) as caught:
            place.board(bench, **fields)
        assert all(under.digest[:12] in str(caught.value) for under in made)


def test_an_older_configuration_is_not_ranked(place: Place) -> None:
    """After a change of what is measured, earlier evaluations do not count; a changed weight or bound keeps them."""
    bench = benchmark()
    place.evaluate(place.submit("a"), condition(bench), {"keyword": 30, "pitch": 20})
    assert place.board(benchmark(weight=2.0, worst=0.1)).rows[0].rank == 1
    other = bench.model_copy(update={"recipe": Recipe(steps=5)})
    assert conditions(place.session, other, "A") == []
    with pytest.raises(MissingError, match="ranker evaluate"):
        place.board(other)
    with pytest.raises(MissingError, match="track B of benchmark tiny"):
        assemble(place.session, place.home, bench, "B", now=NOW)
    with pytest.raises(ConfigError, match="it has A, B"):
        assemble(place.session, place.home, bench, "C", now=NOW)


def test_predictions_that_do_not_give_the_score_are_refused(place: Place) -> None:
    """Gone, unreadable, changed, or of other clips: no board is made of such files, and the message names the file."""
    bench = benchmark()
    jobs = [place.evaluate(place.submit(t), condition(bench), {"keyword": 30, "pitch": 20}) for t in ("a", "b")]
    path = place.home.root / jobs[0].scores[0].predictions
    items, kept = pd.read_parquet(path), path.read_bytes()
    items.assign(item=1.0).to_parquet(path)
    with pytest.raises(OrganizerError, match=r"keyword.parquet: these predictions give 1.0+ on keyword.*0.50"):
        place.board(bench)
    items.assign(clip="other").to_parquet(path)
    with pytest.raises(OrganizerError, match="cannot be compared"):
        place.board(bench)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(OrganizerError, match=r"keyword.parquet: is no readable table"):
        place.board(bench)
    path.unlink()
    with pytest.raises(MissingError, match=r"keyword.parquet: the predictions behind the keyword score .* are gone"):
        place.board(bench)
    path.write_bytes(kept)
    assert place.board(bench).rows[0].rank == 1


@pytest.mark.parametrize(("right", "signal"), [(60, True), (15, False), (18, False)])
def test_a_task_without_signal_says_so(place: Place, right: int, signal: bool) -> None:
    """0.25 is the floor: at the floor, or above by less than the interval, the task tells nothing."""
    bench = benchmark()
    place.evaluate(place.submit("a"), condition(bench), {"keyword": right, "pitch": 40})
    assert place.board(bench).columns[0].signal is signal


def test_signal_where_lower_is_better_and_where_there_is_no_floor(place: Place) -> None:
    """With reversed bounds the interval must lie below the floor; without a floor nothing is said."""
    bench = benchmark(worst=1.0, best=0.0)
    job = place.evaluate(place.submit("a"), condition(bench), {"keyword": 30, "pitch": 2})
    place.evaluate(place.submit("b"), condition(bench), {"keyword": 30, "pitch": 39})
    assert [column.signal for column in place.board(bench).columns] == [True, True]
    for score in [score for other in place.session.query(Job) for score in other.scores]:
        score.blind = None
    place.session.flush()
    board = place.board(bench)
    assert [column.signal for column in board.columns] == [None, None]
    assert board.rows[0].submission_id == job.submission_id


def test_exports_say_the_same_as_the_board(place: Place) -> None:
    """The flat table and the JSON ranking: best first, empty where there is nothing, and JSON without NaN."""
    bench = benchmark()
    place.evaluate(place.submit("a"), condition(bench), {"keyword": 30, "pitch": 20})
    place.evaluate(place.submit("b"), condition(bench), {"keyword": 30})
    board = place.board(bench)
    sure = board.rows[0]
    assert sure.interval is not None
    assert json.loads(json.dumps(ranking_json(board), allow_nan=False)) == {
        "benchmark": bench.name,
        "track": "A",
        "condition": condition(bench).digest,
        "table": None,
        "seed": 42,
        "demonstration": [],
        "intervals": {
            "level": 0.95,
            "resamples": 2000,
            "resampling": "test items",
            "given": "given one training run",
        },
        "agreement": None,
        "rows": [
            {
                "team": "a",
                "submission": board.rows[0].submission_id,
                "standing": "ranked",
                "baseline": False,
                "rank": 1,
                "score": 0.5,
                "interval": {"low": sure.interval.low, "high": sure.interval.high},
                "rank_interval": {"best": 1, "worst": 1},
                "p_first": 1.0,
                "p_next": None,
                "tier": 1,
                "groups": {"public": 0.5},
                "tasks": {"keyword": 0.5, "pitch": 0.5},
                "missing": [],
                "pending": [],
            },
            {
                "team": "b",
                "submission": board.rows[1].submission_id,
                "standing": "ranked",
                "baseline": False,
                "rank": None,
                "score": None,
                "interval": None,
                "rank_interval": None,
                "p_first": None,
                "p_next": None,
                "tier": None,
                "groups": {"public": None},
                "tasks": {"keyword": 0.5, "pitch": None},
                "missing": ["pitch"],
                "pending": [],
            },
        ],
    }
    frame = board.to_frame()
    names = ["rank", "team", "submission", "score", "score.low", "score.high"]
    names += ["rank.low", "rank.high", "p_first", "p_next", "tier", "mean.public"]
    names += [f"{task}{end}" for task in TASKS for end in ("", ".low", ".high")]
    assert list(frame.columns) == [*names, "missing", "standing", "baseline"]
    assert frame["rank"].tolist() == [1, pd.NA]
    cell = board.rows[0].cells["pitch"]
    assert cell.interval is not None
    assert frame.loc[0, ["pitch", "pitch.low", "pitch.high"]].tolist() == [0.5, cell.interval.low, cell.interval.high]
    assert math.isnan(frame["score"][1])
    assert frame["missing"].tolist() == ["", "pitch"]
    assert frame.to_csv(index=False).splitlines()[1].startswith("1,a,")


def test_demonstration_words_do_not_split_a_board(place: Place) -> None:
    """The reasons' wording is not part of the condition's identity; the latest wording is shown."""
    bench = benchmark()
    under = condition(bench, "old words")
    place.evaluate(place.submit("a"), under, {"keyword": 30, "pitch": 20})
    renamed = replace(under, demonstration=("new words",))
    place.evaluate(place.submit("b"), renamed, {"keyword": 40, "pitch": 20}, at=NOW + timedelta(hours=1))
    board = place.board(bench)
    assert [row.rank for row in board.rows] == [1, 2]
    assert board.demonstration == ("new words",)


# -- what the rules leave of a board


def judged(place: Place, submission: str, rule: Rule, ruling: Ruling, **evidence: str) -> None:
    """Write down what a rule says of a submission."""
    place.session.add(
        Verdict(
            submission_id=submission,
            rule=rule,
            ruling=ruling,
            why="of ann@x.org",
            evidence=evidence,
            decided_at=NOW,
            decided_by="ranker",
        )
    )
    place.session.flush()


def field_of_five(place: Place) -> dict[str, str]:
    """One submission of each standing, the better the further from being ranked; their ids by team."""
    ids = {}
    for right, name in enumerate(("plain", "open", "older", "tardy", "gone", "out"), start=20):
        ids[name] = place.submit(name)
        place.evaluate(ids[name], condition(benchmark()), {"keyword": right, "pitch": right})
    judged(place, ids["plain"], Rule.DEADLINE, Ruling.MET)
    judged(place, ids["open"], Rule.REPORT, Ruling.PENDING)
    judged(place, ids["older"], Rule.ONE_MODEL, Ruling.BROKEN)
    judged(place, ids["tardy"], Rule.DEADLINE, Ruling.BROKEN)
    judged(place, ids["gone"], Rule.CONDUCT, Ruling.BROKEN, action=Action.WITHDRAW)
    judged(place, ids["out"], Rule.CONDUCT, Ruling.BROKEN, action=Action.DISQUALIFY)
    return ids


def test_only_what_the_rules_rank_has_a_rank(place: Place) -> None:
    """A pending one stands below without rank and score, with what is missing; the others do not appear, though all of
    them are better.
    """
    ids = field_of_five(place)
    board = place.board(benchmark())
    assert [(row.team, row.rank, row.standing) for row in board.rows] == [
        ("plain", 1, Standing.RANKED),
        ("open", None, Standing.PENDING),
    ]
    pending = board.rows[1]
    assert (pending.score, pending.interval, pending.missing) == (None, None, ())
    assert pending.cells["pitch"].raw == 21 / 40
    assert pending.pending == ("its technical report is missing, or cannot be accepted as it is",)
    (choice, *_) = conditions(place.session, benchmark(), "A")
    assert choice.submissions == 1
    said = json.dumps(board.to_json()) + json.dumps(ranking_json(board)) + board.to_frame().to_csv()
    assert "ann@x.org" not in said
    assert not [name for name in ("older", "tardy", "gone", "out") if ids[name] in said]


def test_what_is_asked_for_is_ranked_as_if_nothing_stood_against_it(place: Place) -> None:
    """An organizer sees where a late or withdrawn one would stand, marked as such, each standing for itself."""
    field_of_five(place)

    def ranks(*including: Standing) -> list[tuple[str, int | None, Standing]]:
        board = assemble(place.session, place.home, benchmark(), "A", including=including, now=NOW)
        return [(row.team, row.rank, row.standing) for row in board.rows]

    assert ranks(Standing.LATE) == [
        ("tardy", 1, Standing.LATE),
        ("plain", 2, Standing.RANKED),
        ("open", None, Standing.PENDING),
    ]
    assert [team for team, _, _ in ranks(*Standing)] == ["out", "gone", "tardy", "older", "open", "plain"]
    assert [rank for _, rank, _ in ranks(*Standing)] == [1, 2, 3, 4, 5, 6]


def test_a_board_of_pending_submissions_alone(place: Place) -> None:
    """Before anybody is registered there is a board all the same, with nobody ranked; of two boards that could be
    shown, the one that ranks somebody comes first.
    """
    one = place.submit("a")
    place.evaluate(one, condition(benchmark()), {"keyword": 30, "pitch": 20}, at=NOW + timedelta(days=1))
    judged(place, one, Rule.REGISTRATION, Ruling.PENDING)
    assert [(row.team, row.rank) for row in place.board(benchmark()).rows] == [("a", None)]
    other = place.submit("b")
    place.evaluate(other, condition(benchmark(), device="another"), {"keyword": 3, "pitch": 2})
    assert place.board(benchmark()).condition.device == "another"


# -- how sure ranks are, and what would be under other choices


def test_what_a_board_says_of_its_ranks(place: Place) -> None:
    """Two that differ by one clip share a group, and in draws without it a rank; one far below has a place of its own;
    other choices are ranked for exactly the ranked rows.
    """
    bench = benchmark(weight=3.0)
    for team, right in (("a", (50, 31)), ("b", (50, 30)), ("c", (20, 8))):
        place.evaluate(place.submit(team), condition(bench), dict(zip(TASKS, right, strict=True)))
    place.submit("waiting")
    board = place.board(bench)
    ranks = [(row.rank, row.rank_interval, row.tier, row.distinct_from_next) for row in board.rows]
    assert ranks == [
        (1, RankInterval(best=1, worst=1), 1, False),
        (2, RankInterval(best=1, worst=2), 1, True),
        (3, RankInterval(best=3, worst=3), 2, None),
        (None, None, None, None),
    ]
    a, b, c, waiting = board.rows
    assert (c.p_first, waiting.p_first, waiting.p_next, c.p_next) == (0.0, None, None, None)
    assert a.p_first is not None
    assert b.p_first is not None
    assert a.p_first > b.p_first > 0.0
    assert [column.units for column in board.columns] == [60, 40]
    assert {column.unit for column in board.columns} == {"clip"}
    assert {len(each.ranks) for each in board.alternatives} == {3}
    without = {each.task: each for each in board.alternatives if each.choice is Choice.LEFT_OUT}
    assert without["pitch"].ranks == (1, 1, 3)
    assert without["pitch"].changed == 1
    json.dumps(board.to_json(), allow_nan=False)


def test_public_against_hidden_tasks(place: Place) -> None:
    """Three teams in opposite order on hidden tasks: tau-b is -1; a track without hidden tasks has none."""
    bench = benchmark(group=Group.HIDDEN, trained=Trained.WITH_PUBLIC)
    for team, right in (("a", (60, 2)), ("b", (40, 20)), ("c", (10, 39))):
        place.evaluate(place.submit(team), condition(bench), dict(zip(TASKS, right, strict=True)))
    found = place.board(bench).agreement
    assert found is not None
    assert (found.first, found.second, found.tau, found.teams) == ("public", "hidden", -1.0, 3)
    assert found.low <= -1.0 <= found.high < 0.0


def baseline(name: str, *, ranked: bool = False) -> Baseline:
    fields = {"how": "-", "source": "-", "tolerance": 0.1, "published": {"A": {"keyword": 0.5}}, "ranked": ranked}
    return Baseline(name=name, submission=name, **fields)


def test_a_baseline_stands_in_place_and_takes_no_rank(place: Place) -> None:
    """Between two teams, and below its equal: nobody's rank counts it. The rules hold for it, an incomplete one stands
    with the incomplete, and one that is `ranked` is a team like others.
    """
    names = ("equal", "bare", "late")
    bench = benchmark().model_copy(update={"baselines": tuple(map(baseline, names))})
    under = condition(bench)
    ids = {}
    for team, right in (("first", 60), ("second", 30), ("equal", 30), ("third", 10), ("late", 40)):
        ids[team] = place.submit(team)
        place.evaluate(ids[team], under, {"keyword": right, "pitch": right * 2 // 3})
    place.evaluate(place.submit("bare"), under, {"keyword": 5})
    judged(place, ids["late"], Rule.DEADLINE, Ruling.BROKEN)
    board = place.board(bench)
    assert [(row.team, row.rank, row.is_baseline) for row in board.rows] == [
        ("first", 1, False),
        ("second", 2, False),
        ("equal", None, True),
        ("third", 3, False),
        ("bare", None, True),
    ]
    shown = board.rows[2]
    assert shown.score == board.rows[1].score
    assert shown.interval == board.rows[1].interval
    assert (shown.missing, shown.pending, shown.rank_interval, shown.tier) == ((), (), None, None)
    assert {len(each.ranks) for each in board.alternatives} == {3}
    frame = board.to_frame()
    assert frame["baseline"].tolist() == [False, False, True, False, True]
    taking_part = benchmark().model_copy(update={"baselines": (baseline("equal", ranked=True),)})
    assert [row.rank for row in place.board(taking_part).rows] == [1, 2, 2, 4, None]


def test_no_interval_hangs_on_who_else_is_there(place: Place) -> None:
    """Whoever came first in the alphabet once decided how wide all intervals were: here one that answers all right."""
    bench, under = benchmark(), condition(benchmark())
    first = place.submit("aardvark")
    place.evaluate(first, under, {"keyword": 60, "pitch": 40})
    for team, right in (("owls", 33), ("foxes", 21)):
        place.evaluate(place.submit(team), under, {"keyword": right, "pitch": right // 2})
    before = {row.team: row.interval for row in place.board(bench).rows}
    judged(place, first, Rule.DEADLINE, Ruling.BROKEN)
    after = {row.team: row.interval for row in place.board(bench).rows}
    assert len(after) == 2
    assert after.items() <= before.items()


def test_a_repeated_run_widens_its_interval_by_the_seeds(place: Place) -> None:
    """Deviation pooled over the submissions that were repeated, intervals of both kinds of chance for these alone, on
    the task and, where all of the track was repeated, on the track.
    """
    bench = benchmark()
    under = condition(bench)
    repeated, other, once = place.submit("repeated"), place.submit("other"), place.submit("once")
    for submission in (repeated, other, once):
        place.evaluate(submission, under, {"keyword": 30, "pitch": 20})
    place.evaluate(repeated, under, {"keyword": 36, "pitch": 20}, seed=7)
    place.evaluate(repeated, condition(bench, device="another"), {"keyword": 1, "pitch": 1}, seed=9)
    place.evaluate(other, under, {"keyword": 30}, seed=7)
    rows = {row.team: row for row in place.board(bench).rows}
    cell = rows["repeated"].cells["keyword"]
    assert cell.repeats is not None
    assert cell.interval is not None
    assert (cell.repeats.seeds, cell.repeats.values, cell.repeats.freedom) == ((42, 7), (0.5, 0.6), 2)
    assert cell.repeats.deviation == pytest.approx((0.1**2 / 2 / 2) ** 0.5)  # variances 0.005 and 0, one freedom each
    half = 4.303 * cell.repeats.deviation  # t of 2 degrees of freedom
    assert cell.repeats.interval.high == pytest.approx(0.5 + math.hypot(cell.interval.high - 0.5, half), rel=0.01)
    assert cell.repeats.interval.low == pytest.approx(0.5 - math.hypot(0.5 - cell.interval.low, half), rel=0.01)
    whole = rows["repeated"].repeats
    assert whole is not None
    assert whole.values == pytest.approx((0.5, 0.55))
    assert whole.freedom == 1
    assert rows["other"].cells["keyword"].repeats is not None
    assert rows["other"].repeats is None
    assert rows["once"].repeats is None
    assert all(each.repeats is None for each in rows["once"].cells.values())


def test_named_clusters_are_drawn_together(place: Place) -> None:
    """Six speakers of ten clips each, all right or all wrong: a far wider interval, and the column says of what."""
    plain = benchmark()
    named = [
        task.model_copy(update={"test": task.test.model_copy(update={"cluster": "speaker"})})
        for task in plain.tracks["A"].tasks
    ]
    track = plain.tracks["A"].model_copy(update={"tasks": tuple(named)})
    bench = plain.model_copy(update={"tracks": plain.tracks | {"A": track}})
    assert bench.measurement_digest("A") == plain.measurement_digest("A")
    job = place.evaluate(place.submit("a"), condition(bench), {"keyword": 30, "pitch": 20})
    path = place.home.root / next(score.predictions for score in job.scores if score.task == "keyword")
    items = pd.read_parquet(path)
    items.assign(cluster=[f"s{i // 10}" for i in range(60)]).to_parquet(path)
    widths = []
    for each in (plain, bench):
        (row,) = (board := place.board(each)).rows
        interval = row.cells["keyword"].interval
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 3 * widths[0]
    assert [(column.unit, column.units) for column in board.columns] == [("speaker", 6), ("clip", 40)]
