"""Which parts of a track stand on one board, on a real SQLite file and real Parquet files."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from test_board import NOW, Place
from test_board import place as place  # noqa: PLC0414  a fixture, found by its name

from ranker import config
from ranker.board import Board, assemble, conditions
from ranker.comparison import compare
from ranker.config import Benchmark, Recipe, Task, Track
from ranker.errors import ConfigError, UsageError
from ranker.types import Condition, Domain, Group, MetricName, Part, Precision, Trained, Weighting

STEPS = {Part.PUBLIC: 100, Part.HIDDEN: 50, Part.PROMPTED: 100}
RIGHT = {
    Part.PUBLIC: {"keyword": 30, "pitch": 30},
    Part.HIDDEN: {"secret": 5},
    Part.PROMPTED: {"unheard": 9},
}


def benchmark(
    weights: Weighting = Weighting.GIVEN, recipe: dict[str, object] | None = None, **secret: object
) -> Benchmark:
    def task(name: str, **fields: object) -> Task:
        split = config.TestSplit(shards=("test.tar",), key=("label",), prompt="?")
        return Task(name=name, title=name, domain=Domain.SPEECH, metric=MetricName.ACCURACY, test=split, **fields)

    tasks = (
        task("keyword"),
        task("pitch"),
        task("secret", group=Group.HIDDEN, **secret),
        task("unheard", group=Group.HIDDEN, trained=Trained.NONE),
    )
    halves = {Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}
    track = Track(title="A", tasks=tasks, group_weights=halves, weights=weights, recipe=recipe or {"steps": 50})
    return Benchmark(
        name="tiny", title="Tiny", description="", whole_protocol=False, recipe=Recipe(steps=100), tracks={"A": track}
    )


def condition(bench: Benchmark, part: Part, limit: int | None = None, **changes: object) -> Condition:
    whole = limit is None or bench.steps("A", part, limit) == STEPS[part]
    made = Condition(
        benchmark=bench.name,
        track="A",
        part=part,
        measurement=bench.measurement_digest("A", part),
        data=f"data of {part}",
        decoder="e" * 64,
        decoder_layers=30,
        metric_models="",
        steps=bench.steps("A", part, limit),
        precision=Precision.FP32,
        device="cpu",
        sandboxed=True,
        demonstration=() if whole else (f"stopped after {limit}",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def evaluate(place: Place, bench: Benchmark, submission: str, *parts: Part, **changes: object) -> None:
    for part in parts:
        place.evaluate(submission, condition(bench, part, **changes), RIGHT[part])


def board(place: Place, bench: Benchmark, **choice: object) -> Board:
    place.session.expire_all()
    return assemble(place.session, place.home, bench, "A", now=NOW, **choice)


def test_parts_of_a_submission_make_one_row(place: Place) -> None:
    """Attacks the joining: all tasks in one row, whose score is half public, half hidden; the draws join too."""
    bench = benchmark()
    team = place.submit("team")
    evaluate(place, bench, team, *Part)
    found = board(place, bench)
    (row,) = found.rows
    assert {name: cell.raw for name, cell in row.cells.items()} == {
        "keyword": 0.5, "pitch": 0.75, "secret": 0.25, "unheard": 0.9,
    }  # fmt: skip
    assert row.groups == {"public": 0.625, "hidden": pytest.approx(0.575)}
    assert row.score == pytest.approx(0.6)
    assert row.interval is not None
    assert row.interval.low < 0.6 < row.interval.high
    assert (found.condition.part, [each.part for each in found.others]) == (Part.PUBLIC, [Part.HIDDEN, Part.PROMPTED])


def test_a_missing_part_makes_a_submission_incomplete(place: Place) -> None:
    """Attacks with each part left out: no rank, no mean over what is left, and the missing tasks by name."""
    bench = benchmark()
    evaluate(place, bench, place.submit("a whole"), *Part)
    evaluate(place, bench, place.submit("b public"), Part.PUBLIC)
    evaluate(place, bench, place.submit("c unasked"), Part.PUBLIC, Part.HIDDEN)
    evaluate(place, bench, place.submit("d hidden"), Part.HIDDEN)
    assert [(row.team, row.rank, row.score is None, row.missing) for row in board(place, bench).rows] == [
        ("a whole", 1, False, ()),
        ("b public", None, True, ("secret", "unheard")),
        ("c unasked", None, True, ("unheard",)),
        ("d hidden", None, True, ("keyword", "pitch", "unheard")),
    ]
    (choice,) = conditions(place.session, bench, "A")
    assert choice.submissions == 1


def test_public_scores_and_intervals_are_those_of_the_board_without_hidden_tasks(place: Place) -> None:
    """Attacks with a hidden file that appears later: the public cells stay what participants saw, to the last digit."""
    bench = benchmark()
    public = bench.model_copy(
        update={
            "tracks": {"A": Track(title="A", tasks=tuple(t for t in bench.track("A").tasks if t.group == "public"))}
        }
    )
    team = place.submit("team")
    evaluate(place, bench, team, Part.PUBLIC)
    before = board(place, public)
    evaluate(place, bench, team, Part.HIDDEN, Part.PROMPTED)
    assert board(place, public) == before
    after = board(place, bench)
    assert {name: after.rows[0].cells[name] for name in ("keyword", "pitch")} == before.rows[0].cells
    assert after.condition == before.condition


@pytest.mark.parametrize(
    "changes", [{"device": "H200"}, {"sandboxed": False}, {"decoder": "f" * 64}, {"precision": Precision.BF16},
                {"decoder_layers": 3}],
)  # fmt: skip
def test_parts_of_other_circumstances_are_never_joined(place: Place, changes: dict[str, object]) -> None:
    """Attacks with a hidden part from another machine: two boards, on neither of which the submission is whole."""
    bench = benchmark()
    team = place.submit("team")
    evaluate(place, bench, team, Part.PUBLIC, Part.PROMPTED)
    evaluate(place, bench, team, Part.HIDDEN, **changes)
    choices = conditions(place.session, bench, "A")
    assert [(len(choice.conditions), choice.submissions) for choice in choices] == [(2, 0), (1, 0)]
    assert all(row.rank is None for row in board(place, bench).rows)


def test_other_caption_models_are_never_joined(place: Place) -> None:
    """Attacks with hidden captions scored by substitutes: they stand on no board with public ones of the reference, and
    a part without captions stands with either.
    """
    bench = benchmark()
    team = place.submit("team")
    evaluate(place, bench, team, Part.PROMPTED)
    evaluate(place, bench, team, Part.PUBLIC, metric_models="reference")
    evaluate(place, bench, team, Part.HIDDEN, metric_models="substitute")
    choices = [[each.part for each in choice.conditions] for choice in conditions(place.session, bench, "A")]
    assert sorted(choices) == [[Part.HIDDEN, Part.PROMPTED], [Part.PUBLIC, Part.PROMPTED]]
    place.evaluate(team, condition(bench, Part.HIDDEN, metric_models="reference"), {"secret": 10})
    assert board(place, bench).rows[0].cells["secret"].raw == 0.5


def test_other_seeds_are_never_joined(place: Place) -> None:
    """Attacks with a hidden part of another seed."""
    bench = benchmark()
    team = place.submit("team")
    evaluate(place, bench, team, Part.PUBLIC, Part.PROMPTED)
    place.evaluate(team, condition(bench, Part.HIDDEN), RIGHT[Part.HIDDEN], seed=7)
    assert board(place, bench).rows[0].rank is None


@pytest.mark.parametrize(
    ("limits", "boards"),
    [
        ((None,), [(None, 1)]),
        ((30,), [(30, 1)]),
        ((70,), [(70, 1), (None, 0)]),  # the hidden part ran whole: it would stand on a board without limit too
        ((None, 70), [(None, 1), (70, 1)]),
        ((None, 30), [(None, 1), (30, 1)]),
    ],
)
def test_parts_of_one_limit_stand_together(
    place: Place, limits: tuple[int | None, ...], boards: list[tuple[int | None, int]]
) -> None:
    """Attacks recipes of 100 and 50 steps under limits below, between and without: each makes one whole board."""
    bench = benchmark()
    team = place.submit("team")
    wanted = {made.digest: made for limit in limits for part in Part for made in [condition(bench, part, limit)]}
    for made in wanted.values():  # as the queue does: the same question is asked once
        place.evaluate(team, made, RIGHT[made.part])
    found = [
        ({each.part: each.steps for each in choice.conditions}, choice.submissions)
        for choice in conditions(place.session, bench, "A")
    ]
    expected = [
        ({part: bench.steps("A", part, limit) for part in Part if whole or part is Part.HIDDEN}, whole)
        for limit, whole in boards
    ]
    assert found == expected


def test_a_part_measured_anew_stands_beside_the_same_others(place: Place) -> None:
    """Attacks with hidden data that was corrected: two boards, the newer first, each to be chosen by its own digest."""
    bench = benchmark()
    team = place.submit("team")
    evaluate(place, bench, team, *Part)
    newer = condition(bench, Part.HIDDEN, data="corrected")
    place.evaluate(team, newer, {"secret": 10}, at=NOW + timedelta(hours=1))
    assert board(place, bench).rows[0].cells["secret"].raw == 0.5
    older = board(place, bench, condition=condition(bench, Part.HIDDEN).digest[:12])
    assert older.rows[0].cells["secret"].raw == 0.25
    assert len(conditions(place.session, bench, "A")) == 2
    with pytest.raises(UsageError, match=f"hidden part {newer.digest[:12]}"):
        board(place, bench, condition="none")


def test_a_changed_hidden_file_leaves_the_public_scores(place: Place) -> None:
    """Attacks with another recipe for the hidden tasks: their scores are of the past, the public ones are not."""
    bench = benchmark()
    evaluate(place, bench, place.submit("team"), *Part)
    (row,) = board(place, benchmark(recipe={"steps": 60})).rows
    assert row.missing == ("secret",)


def test_two_submissions_are_compared_over_all_parts(place: Place) -> None:
    """Attacks compare: every task of every part, and the track's score of both groups."""
    bench = benchmark()
    one, other = place.submit("one"), place.submit("other")
    evaluate(place, bench, one, *Part)
    evaluate(place, bench, other, Part.PUBLIC, Part.PROMPTED)
    with pytest.raises(UsageError, match="not evaluated on secret of track A"):
        compare(place.session, place.home, bench, "A", submissions={one: "one", other: "other"})
    place.evaluate(other, condition(bench, Part.HIDDEN), {"secret": 15})
    (pair,) = compare(place.session, place.home, bench, "A", submissions={one: "one", other: "other"}).pairs
    whole, *tasks = pair.differences
    assert [each.task for each in tasks] == ["keyword", "pitch", "secret", "unheard"]
    assert whole.difference == pytest.approx(-0.5 / 4)


def test_test_sets_weigh_as_much_as_was_scored(place: Place) -> None:
    """Attacks `weights: test_items`: n_i is the number of scored pairs, whatever the YAML guessed."""
    bench = benchmark(weights=Weighting.TEST_ITEMS, test_items=7)
    evaluate(place, bench, place.submit("team"), *Part)
    found = board(place, bench)
    assert [column.weight for column in found.columns] == [60, 40, 20, 10]
    public, hidden = (30 + 30) / 100, (5 + 9) / 30
    assert found.rows[0].groups == {"public": pytest.approx(public), "hidden": pytest.approx(hidden)}
    assert found.rows[0].score == pytest.approx((public + hidden) / 2)


def test_an_unknown_size_is_an_error_only_where_it_is_needed(place: Place) -> None:
    """Attacks sizes that nobody knows: before the hidden tasks are scored no mean needs them; others say so."""
    bench = benchmark(weights=Weighting.TEST_ITEMS)
    evaluate(place, bench, place.submit("team"), Part.PUBLIC)
    found = board(place, bench)
    assert [column.weight for column in found.columns] == [60, 40, None, None]
    assert found.rows[0].groups["public"] == pytest.approx(0.6)
    with pytest.raises(ConfigError, match="task keyword: its weight is the number of its test items"):
        bench.track("A").weight_of(bench.track("A").tasks[0])
