"""ranker.uncertainty: ranks in draws, tests with Holm's correction, groups, tau, and rankings under other choices."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ranker.cli import main, options
from ranker.config import RankedTask, RankedTrack, load_ranking
from ranker.scoretable import rank_table
from ranker.scoring import normalize, rank
from ranker.types import Choice, Group, Resampling, Weighting
from ranker.uncertainty import agreement, alternatives, certainties, holm, p_values, rank_draws, tau_b

ROOT = Path(__file__).parent.parent
OFFICIAL = ROOT / "tests" / "golden" / "interspeech2026_track_a.csv"


def test_ranks_in_draws_are_competition_ranks() -> None:
    """Against scipy's rankdata, with many ties: 1224, in each draw by itself."""
    draws = np.random.default_rng(1).integers(4, size=(9, 300)) / 4
    expected = stats.rankdata(-draws, method="min", axis=0)
    np.testing.assert_array_equal(rank_draws(draws), expected)
    assert (expected == 1).sum() > 300


def test_holm_on_an_example_by_hand() -> None:
    """Smallest times 4, next times 3, ...; never below a smaller one's, never above 1; in the order given."""
    assert holm([0.03, 0.005, 0.04, 0.6]) == pytest.approx([0.09, 0.02, 0.09, 0.6])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_are_of_paired_differences() -> None:
    """Two that err on the same items are told apart where unpaired ones are not; equal ones never; without any spread
    a difference is certain.
    """
    rng = np.random.default_rng(2)
    common, own = rng.normal(0, 0.05, 5000), rng.normal(0, 0.01, (4, 5000))
    scores = np.array([0.60, 0.56, 0.56, 0.50])
    draws = scores[:, None] + own + np.stack([common, common, -common, common])
    p = p_values(scores, draws)
    assert p[0, 1] == pytest.approx(2 * stats.norm.sf(0.04 / np.std(draws[0] - draws[1], ddof=1)))
    assert p[0, 1] < 0.01 < 0.3 < p[0, 2]
    assert p[1, 2] == 1.0
    np.testing.assert_array_equal(p, p.T)
    np.testing.assert_array_equal(p_values(np.array([0.5, 0.4, 0.4]), np.array([[0.5] * 9, [0.4] * 9, [0.4] * 9])),
                                  [[1, 0, 0], [0, 1, 1], [0, 1, 1]])  # fmt: skip


def test_groups_begin_where_the_first_member_is_told_apart() -> None:
    """A slope of neighbours nobody can tell apart still falls into groups, for each is held against the group's first;
    neighbours that are told apart never share a group.
    """
    rng = np.random.default_rng(3)
    scores = np.array([0.90, 0.88, 0.86, 0.84, 0.82, 0.40])
    draws = scores[:, None] + rng.normal(0, 0.012, (6, 4000))
    found = certainties(scores, draws)
    assert [each.distinct_from_next for each in found] == [False, False, False, False, True, None]
    assert [each.tier for each in found] == [1, 1, 1, 2, 2, 3]


def test_certainty_of_ranks() -> None:
    """Shares and percentiles of the ranks in the draws; the official rank is in the interval whatever these say."""
    draws = np.array([[5.0] * 97 + [1.0] * 3, [4.0] * 100, [3.0] * 100])
    first, second, third = certainties(np.array([5.0, 4.0, 3.0]), draws)
    assert (first.best, first.worst, first.first) == (1, 3, 0.97)
    assert (second.best, second.worst, second.first) == (1, 2, 0.03)
    assert (third.best, third.worst, third.p_next) == (2, 3, None)
    tied = certainties(np.array([0.5, 0.5]), np.tile(np.linspace(0, 1, 50), (2, 1)))
    assert [(each.best, each.worst, each.first, each.tier) for each in tied] == [(1, 1, 1.0, 1)] * 2
    (swapped, _) = certainties(np.array([0.6, 0.5]), np.array([[0.1] * 50, [0.2] * 50]))
    assert (swapped.best, swapped.worst, swapped.first) == (1, 2, 0.0)
    assert certainties(np.array([]), np.empty((0, 50))) == []


def test_equal_submissions_tie_in_spite_of_the_last_bit() -> None:
    """A product of matrices may round the same sum differently in another column."""
    draws = np.tile(np.linspace(0.1, 0.9, 40), (2, 1))
    draws[1] += np.spacing(draws[1])
    assert [each.first for each in certainties(np.array([0.5, 0.5]), draws)] == [1.0, 1.0]


def test_tau_b_is_scipys() -> None:
    """With ties in both, for many draws at once; undefined where one of them is constant."""
    rng = np.random.default_rng(4)
    x, y = rng.integers(6, size=(11, 40)).astype(float), rng.integers(6, size=(11, 40)).astype(float)
    expected = [stats.kendalltau(x[:, i], y[:, i]).statistic for i in range(40)]
    np.testing.assert_allclose(tau_b(x, y), expected, atol=1e-12)
    flat = np.ones(11)
    assert agreement(("a", "b"), (x[:, 0], flat), (x, y)) is None
    found = agreement(("a", "b"), (x[:, 0], y[:, 0]), (x, y))
    assert found is not None
    assert (found.tau, found.teams) == (pytest.approx(expected[0]), 11)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))


# -- other choices


def track(**fields: object) -> RankedTrack:
    tasks = (
        RankedTask(name="a", title="a", weight=2.0),
        RankedTask(name="b", title="b", worst=1.0, best=0.0),
        RankedTask(name="c", title="c", group=Group.HIDDEN),
    )
    return RankedTrack(**({"title": "t", "tasks": tasks} | fields))


RAW = pd.DataFrame(
    {"a": [0.9, 0.5, 0.4, 0.4], "b": [0.5, 0.2, 0.3, 0.9], "c": [0.3, 0.5, 0.8, 0.1]}, index=["x", "y", "z", "w"]
)


def ranked_by(changed: RankedTrack, raw: pd.DataFrame = RAW) -> tuple[int, ...]:
    """Ranks as the ranking's own function gives them for another file."""
    return tuple(rank(raw, changed).loc[raw.index, "rank"])


@pytest.mark.parametrize("groups", [None, {Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}])
def test_other_choices_are_what_another_file_would_give(groups: dict[Group, float] | None) -> None:
    """Each alternative's ranks are those of `scoring.rank` on a track that was written so from the start."""
    own = track(group_weights=groups)
    found = {(each.choice, each.task): each for each in alternatives(RAW, own, {"a": 0.3, "b": 0.95, "c": None})}
    assert len(found) == 3 + 3 * 3
    tasks = {task.name: task for task in own.tasks}

    def written(group_weights: dict[Group, float] | None, **changes: dict[str, float] | None) -> RankedTrack:
        kept = [
            RankedTask.model_validate(task.model_dump() | (changes.get(name, {}) or {}))
            for name, task in tasks.items()
            if changes.get(name, {}) is not None
        ]
        return RankedTrack(title="t", tasks=tuple(kept), group_weights=group_weights)

    flat = written(None, a={"weight": 1.0})
    corrected = written(groups, a={"worst": 0.3}, b={"worst": 0.95})
    assert found[Choice.FLAT_MEAN, None].ranks == ranked_by(flat)
    assert found[Choice.CHANCE_CORRECTED, None].ranks == ranked_by(corrected)
    assert found[Choice.CHANCE_CORRECTED, None].without == ("c",)
    for name, task in tasks.items():
        assert found[Choice.HALVED, name].ranks == ranked_by(written(groups, **{name: {"weight": task.weight / 2}}))
        assert found[Choice.DOUBLED, name].ranks == ranked_by(written(groups, **{name: {"weight": task.weight * 2}}))
        left = {Group.PUBLIC: 1.0} if groups and name == "c" else groups
        assert found[Choice.LEFT_OUT, name].ranks == ranked_by(written(left, **{name: None}))
    places = normalize(RAW, own).rank(ascending=False)
    expected = places.mean(axis=1).rank(method="min").astype(int)
    assert found[Choice.MEAN_RANK, None].ranks == tuple(expected)
    official = ranked_by(own)
    assert len({each.changed for each in found.values()}) > 1
    for each in found.values():
        assert each.changed == sum(new != old for new, old in zip(each.ranks, official, strict=True))
        assert each.tau == pytest.approx(tau_b(np.array(rank(RAW, own).loc[RAW.index, "score"], dtype=float),
                                               -np.array(each.ranks, dtype=float)))  # fmt: skip


def test_weights_by_size_are_halved_from_the_size() -> None:
    """A track that weighs tasks by their test items is changed from there, and one task alone cannot be left out."""
    tasks = tuple(RankedTask(name=name, title=name, test_items=size) for name, size in (("a", 900), ("b", 100)))
    sized = RankedTrack(title="t", tasks=tasks, weights=Weighting.TEST_ITEMS)
    raw = pd.DataFrame({"a": [0.50, 0.51], "b": [0.9, 0.82]}, index=["x", "y"])
    halves = {each.task: each.ranks for each in alternatives(raw, sized, {}) if each.choice is Choice.HALVED}
    assert ranked_by(sized, raw) == (2, 1)
    assert halves == {"a": (1, 2), "b": (2, 1)}
    only = RankedTrack(title="t", tasks=tasks[:1])
    assert [each.choice for each in alternatives(raw[["a"]], only, {})] == [Choice.FLAT_MEAN, Choice.MEAN_RANK]
    assert alternatives(raw.head(0), sized, {}) == ()


# -- tables that were made elsewhere


def test_a_table_is_resampled_over_its_tasks() -> None:
    """The official 2026 table: every ranked row has intervals of its score and rank, named as being over tasks, and
    tau-b of public and hidden tasks is that of the published means.
    """
    (ranking,) = rank_table(OFFICIAL, load_ranking(ROOT / "configs" / "interspeech2026.yaml"), "A").rankings
    assert ranking.resampling is Resampling.TASKS
    assert len(ranking.rows) == 23
    for row in ranking.rows:
        assert row.interval is not None
        assert row.sure is not None
        assert row.rank is not None
        assert row.interval[0] < row.score < row.interval[1]
        assert row.sure.best <= row.rank <= row.sure.worst
    assert sum(row.sure.first for row in ranking.rows if row.sure) == pytest.approx(1.0, abs=0.01)
    assert ranking.agreement is not None
    assert ranking.agreement.low < ranking.agreement.tau < ranking.agreement.high
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        published = [
            (float(line["Public test result"]), float(line["Hidden test result"])) for line in csv.DictReader(file)
        ]
    assert ranking.agreement.tau == pytest.approx(stats.kendalltau(*zip(*published, strict=True)).statistic, abs=0.01)
    assert len(ranking.alternatives) == 2 + 3 * 21, "no floors are known, so none is chance-corrected"


def test_the_command_prints_ranks_under_other_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who moves, from where to where, and what the table's intervals are of; JSON with the ranks of all."""
    monkeypatch.setattr(options.out, "_width", 150)  # it has read COLUMNS when it was made
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        rows = [[line["Team"], line["esc-50"], line["gtzan"], line["Fingersnap*"]] for line in csv.DictReader(file)]
    config = tmp_path / "three.yaml"
    config.write_text(
        "name: three\ntitle: Three\ndescription: x\nranking_only: true\ntracks:\n  A:\n    title: T\n    tasks:\n"
        "      - {name: esc, title: E}\n      - {name: gtzan, title: G, weight: 9}\n"
        "      - {name: snap, title: S, group: hidden}\n",
        encoding="utf-8",
    )
    table = tmp_path / "table.csv"
    table.write_text("\n".join(map(",".join, [["team", "esc", "gtzan", "snap"], *rows])), encoding="utf-8")
    asked = ["--home", str(tmp_path / "home"), "rank", "--scores", str(table), "--benchmark", str(config)]

    def typed(*more: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*asked, *more])
        assert not left.value.code
        return capsys.readouterr().out

    assert "tasks drawn with replacement" in typed()
    value = json.loads(typed("--sensitivity", "--json"))
    assert value["ranks"] == sorted(value["ranks"])
    flat = value["alternatives"][0]
    moved = next(i for i, (old, new) in enumerate(zip(value["ranks"], flat["ranks"], strict=True)) if old != new)
    said = typed("--sensitivity")
    assert f"{value['teams'][moved]} {value['ranks'][moved]}\N{RIGHTWARDS ARROW}{flat['ranks'][moved]}" in said
    assert "public against hidden tasks: Kendall's tau-b" in said
    row = json.loads(typed("--json"))["rows"][0]
    assert set(row) >= {"interval", "rank_interval", "p_first", "p_next", "tier"}
