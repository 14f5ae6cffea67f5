"""Hidden tasks: what their file may say, what they must not change, and how their parts are trained and asked."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_evaluation import BENCHMARK, ENCODER, ID, STEPS, Place, split
from tones import write_tones

from ranker.cli import main
from ranker.conditions import condition_for, data_of
from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.collect import collect
from ranker.db.models import Submission
from ranker.db.session import open_database, session
from ranker.errors import ConfigError, MissingError, OrganizerError, UsageError
from ranker.evaluation import evaluate
from ranker.hidden import load_benchmark, merged
from ranker.home import Home
from ranker.job import JobContext
from ranker.perform import blame
from ranker.queue import claim, enqueue, finish
from ranker.service import Edition, Ranker, Wanted
from ranker.types import Condition, Fault, Group, JobKind, Part, Progress, Stage

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
HIDDEN_STEPS = 3
SECRET_PROMPT = "Of which metal?"
COPPER = {"name": "copper", "title": "Copper", "domain": "sound", "metric": "Accuracy", "group": "hidden"}
SECRET = COPPER | {
    "train": split("secret-train") | {"prompt": SECRET_PROMPT},
    "test": split("secret-test") | {"prompt": SECRET_PROMPT},
}
ASKED = COPPER | {"name": "asked", "title": "Asked", "trained": "none", "test": SECRET["test"]}
HIDDEN: dict[str, Any] = {
    "benchmark": "tiny",
    "tracks": {"A": {"recipe": {"steps": HIDDEN_STEPS, "learning_rate": 0.01}, "tasks": [SECRET, ASKED]}},
}


def make_home(root: Path) -> Home:
    """A home with public and hidden shards, and one submission."""
    (root / "configs").mkdir(parents=True)
    (root / "configs/tiny.yaml").write_text(yaml.safe_dump(BENCHMARK), encoding="utf-8")

    def shards(folder: Path, _: store.ProgressHook) -> None:
        labels = [{"label": "low"}, {"label": "high"}]
        metals = [{"label": "copper"}, {"label": "bronze"}]
        for name, count, fields in (("train", 8, labels), ("test", 4, labels), ("secret-train", 6, metals),
                                    ("secret-test", 4, metals)):  # fmt: skip
            write_tones(folder / f"{name}.tar", [0.5] * count, fields * (count // 2))

    store.build(root / "data/tiny", shards, version=1)
    tree = root / "submissions" / ("a" * 64) / "tree"
    tree.mkdir(parents=True)
    (tree / "encoder.py").write_text(ENCODER, encoding="utf-8")
    return Home(root=root)


def write_hidden(folder: Path, content: dict[str, Any] = HIDDEN) -> Path:
    path = folder / "hidden.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def with_tasks(*tasks: dict[str, Any], **track: Any) -> dict[str, Any]:
    return {"benchmark": "tiny", "tracks": {"A": {"tasks": list(tasks)} | track}}


def public() -> Benchmark:
    return Benchmark.model_validate(BENCHMARK)


def under(home: Home, part: Part, limit_steps: int | None = None) -> Condition:
    benchmark = load_benchmark(home, "tiny")
    return condition_for(home, benchmark, "A", part=part, limit_steps=limit_steps, sandboxed=False, device="cpu")


def attempt(home: Home, part: Part, report: Callable[[Progress], None] = lambda _: None) -> JobContext:
    """Evaluate the submission on one part of track A, in this process."""
    context = Place(home=home).context(1, condition=under(home, part), report=report)
    evaluate(context)
    return context


def is_training_held(home: Home) -> bool:
    """Whether another process would have to wait before it trains the same for the submission."""
    (lock,) = (home.runs / ID).glob(".training-*.lock")
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


# -- the file


def test_hidden_tasks_come_after_the_public_ones(tmp_path: Path) -> None:
    """Attacks the merging: each task is there once, with its group and part, and the groups weigh one half each."""
    track = merged(public(), write_hidden(tmp_path)).track("A")
    assert [(task.name, task.group, task.part) for task in track.tasks] == [
        ("pitch", Group.PUBLIC, Part.PUBLIC),
        ("copper", Group.HIDDEN, Part.HIDDEN),
        ("asked", Group.HIDDEN, Part.PROMPTED),
    ]
    assert track.group_weights == {Group.PUBLIC: 0.5, Group.HIDDEN: 0.5}
    assert track.title == "Tones"


@pytest.mark.parametrize("weights", [{"public": 1, "hidden": 3}, None])
def test_the_file_says_what_groups_weigh(tmp_path: Path, weights: dict[str, int] | None) -> None:
    """Attacks the default: what the file says counts, and `null` is the flat mean over all tasks."""
    track = merged(public(), write_hidden(tmp_path, with_tasks(SECRET, group_weights=weights))).track("A")
    assert track.group_weights == weights


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_tasks(SECRET | {"group": "public"}), "tracks.A: .*says `group: hidden`; not so: copper .public."),
        (with_tasks({name: value for name, value in SECRET.items() if name != "group"}), "not so: copper .public."),
        (with_tasks(COPPER | {"test": split("x")}), "`trained: none`; not so: copper"),
        (with_tasks(SECRET | {"trained": "sometimes"}), "trained: Input should be 'separately', 'with_public' or"),
        (with_tasks(SECRET | {"name": "pitch"}), "tracks.A: .*used more than once: pitch"),
        (with_tasks(SECRET, group_weights={"hidden": 1}), "tracks.A: .*group_weights names"),
        (with_tasks(SECRET, recipe={"step": 3}), "tracks.A: .*recipe: step: Extra inputs"),
        (with_tasks(SECRET, recipe={"seed": 1, "decoder": "x"}), "decoder, seed cannot differ"),
        (with_tasks(SECRET) | {"tasks": []}, "tasks: Extra inputs"),
        (HIDDEN | {"benchmark": "other"}, "hidden tasks of benchmark other, and tiny was asked for"),
        (HIDDEN | {"tracks": {"Z": HIDDEN["tracks"]["A"]}}, "track Z is not in benchmark tiny, which has A"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    """Each mistake is said in one sentence that names the file and the place in it."""
    path = write_hidden(tmp_path, content)
    with pytest.raises(ConfigError, match=words) as caught:
        merged(public(), path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (with_tasks(SECRET, group_weights={"public": 1}),
         "tracks.A: group_weights names public, but the tasks belong to hidden and public"),
        (with_tasks(SECRET | {"metric": "wer"}),
         "1 mistake: tracks.A.tasks.0.metric: Input should be 'Accuracy', 'mAP', 'iWER', 'iCER', 'FENSE', "
         "'FENSE[clip]', 'DATE' or 'DATE[clip]'"),
        (with_tasks(), "1 mistake: tracks.A.tasks: Tuple should have at least 1 item after validation, not 0"),
        (HIDDEN | {"tracks": ["A"]}, "1 mistake: tracks: Input should be a valid dictionary"),
        ("benchmark tiny", "1 mistake: file: fields with values (`name: value`) were expected"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_the_files_own_words(tmp_path: Path, content: dict[str, Any], told: str) -> None:
    """Attacks the whole sentence: no name of a Python class or error, and nothing that only follows from a mistake."""
    path = write_hidden(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        merged(public(), path)
    assert str(caught.value) == f"{path}: {told}"


def test_the_guides_example_is_a_valid_file(tmp_path: Path) -> None:
    """Attacks docs/operator.md: what it shows merges into the challenge, with the recipe that it names."""
    root = Path(__file__).parent.parent
    (example,) = re.findall(r"```yaml\n(benchmark: .*?)```", (root / "docs/operator.md").read_text(), re.DOTALL)
    path = tmp_path / "hidden.yaml"
    path.write_text(example, encoding="utf-8")
    benchmark = merged(load(Benchmark, root / "configs/challenge.yaml"), path)
    assert [part.name for part in benchmark.parts("A")] == [Part.PUBLIC, Part.HIDDEN]
    assert benchmark.steps("A", Part.HIDDEN, None) == 20_000


def test_shards_of_hidden_tasks_are_recorded_by_a_fetch(tmp_path: Path) -> None:
    """Attacks the way of an organizer: shards put under data/ are part of the benchmark only after `data fetch`."""
    home = make_home(tmp_path)
    late = [SECRET | {"train": split("late"), "test": split("late")}]
    benchmark = merged(public(), write_hidden(tmp_path, with_tasks(*late)))
    write_tones(home.data / "tiny/late.tar", [0.5] * 2)
    with pytest.raises(MissingError, match=r"shard late.tar is not in"):
        data_of(home, benchmark, benchmark.part("A", Part.HIDDEN))
    before = data_of(home, benchmark, benchmark.part("A", Part.PUBLIC))
    collect(benchmark, home.data / "tiny", tmp_path / "lock.json")
    assert data_of(home, benchmark, benchmark.part("A", Part.HIDDEN)) != before
    assert data_of(home, benchmark, benchmark.part("A", Part.PUBLIC)) == before


def test_public_tasks_are_not_trained_apart() -> None:
    """`trained` on a public task would change what participants preview."""
    task = BENCHMARK["tracks"]["A"]["tasks"][0] | {"trained": "separately"}
    with pytest.raises(ValueError, match="task pitch: trained goes with group hidden"):
        Benchmark.model_validate(BENCHMARK | {"tracks": {"A": {"title": "A", "tasks": [task]}}})


def test_a_table_made_elsewhere_is_ranked_with_the_file(tmp_path: Path) -> None:
    """Attacks `rank --scores` with --hidden: the table's hidden columns count, in their group."""
    root, table = tmp_path / "home", tmp_path / "table.csv"
    (root / "configs").mkdir(parents=True)
    (root / "configs/tiny.yaml").write_text(yaml.safe_dump(BENCHMARK), encoding="utf-8")
    table.write_text("team,pitch,copper,asked\none,0.5,0.1,0.3\nother,0.1,0.9,0.9\n", encoding="utf-8")
    (ranking,) = Ranker(root, write_hidden(tmp_path)).rank_table(table, "tiny", track=None).rankings
    rows = ranking.to_json()["rows"]
    assert [(row["team"], row["rank"], row["score"]) for row in rows] == [("other", 1, 0.5), ("one", 2, 0.35)]
    assert rows[1]["groups"] == {"public": 0.5, "hidden": pytest.approx(0.2)}


# -- what it changes


def test_the_public_part_is_measured_as_without_the_file(tmp_path: Path) -> None:
    """Its digests are the same; a task trained with the public ones changes them, as it changes the mixture."""
    alone, joined = public(), merged(public(), write_hidden(tmp_path))
    assert joined.measurement_digest("A") == alone.measurement_digest("A")
    assert joined.training_digest("A", Part.PUBLIC) == alone.training_digest("A", Part.PUBLIC)
    mixed = merged(public(), write_hidden(tmp_path, with_tasks(SECRET | {"trained": "with_public"})))
    assert mixed.measurement_digest("A") != alone.measurement_digest("A")
    assert mixed.training_digest("A", Part.PUBLIC) != alone.training_digest("A", Part.PUBLIC)
    assert [part.name for part in mixed.parts("A")] == [Part.PUBLIC]
    assert [task.name for task in mixed.part("A", Part.PUBLIC).mixture.tasks] == ["pitch", "copper"]


def test_a_training_knows_of_its_own_side_only(tmp_path: Path) -> None:
    """Other test data, metrics and ways of asking are new scores of the same weights; other mixtures are other weights.

    The prompted part's training is the public one's, the hidden part's is its own.
    """
    plain = merged(public(), write_hidden(tmp_path))
    digests = {part: plain.training_digest("A", part) for part in Part}
    assert digests[Part.PROMPTED] == digests[Part.PUBLIC] != digests[Part.HIDDEN]
    assert len({plain.measurement_digest("A", part) for part in Part}) == 3
    other = with_tasks(
        SECRET | {"test": split("x")}, ASKED | {"test": split("y")}, recipe=HIDDEN["tracks"]["A"]["recipe"]
    )
    tested = merged(public(), write_hidden(tmp_path, other))
    for part in Part:
        assert tested.training_digest("A", part) == digests[part]
        assert (tested.measurement_digest("A", part) == plain.measurement_digest("A", part)) == (part is Part.PUBLIC)
    asked = plain.model_copy(update={"recipe": plain.recipe.model_copy(update={"repetition_penalty": 1.2})})
    assert asked.training_digest("A", Part.PUBLIC) == digests[Part.PUBLIC]
    assert asked.measurement_digest("A") != plain.measurement_digest("A")
    longer = plain.model_copy(update={"recipe": plain.recipe.model_copy(update={"lora_rank": 2})})
    assert longer.training_digest("A", Part.PUBLIC) != digests[Part.PUBLIC]
    assert longer.measurement_digest("A", Part.PROMPTED) != plain.measurement_digest("A", Part.PROMPTED)


def test_a_limit_of_steps_is_one_for_all_parts(tmp_path: Path) -> None:
    """Attacks --limit-steps where recipes differ in length: no part goes beyond the limit, or beyond its recipe."""
    benchmark = merged(public(), write_hidden(tmp_path))
    steps = {limit: [benchmark.steps("A", part, limit) for part in Part] for limit in (None, 1, 3, STEPS, 99)}
    assert steps == {
        None: [STEPS, HIDDEN_STEPS, STEPS], 1: [1, 1, 1], 3: [3, 3, 3], STEPS: [STEPS, 3, STEPS], 99: [STEPS, 3, STEPS],
    }  # fmt: skip


def test_a_part_with_nothing_to_train_on_is_said_before_it_is_queued(tmp_path: Path) -> None:
    """Prompted tasks need the public model; without training data there is none."""
    home = make_home(tmp_path)
    task = BENCHMARK["tracks"]["A"]["tasks"][0]
    untrained = {"title": "A", "tasks": [{name: value for name, value in task.items() if name != "train"}]}
    benchmark = Benchmark.model_validate(BENCHMARK | {"tracks": {"A": untrained}})
    with pytest.raises(UsageError, match="no task that its public part is trained on has a train split"):
        condition_for(home, benchmark, "A", limit_steps=None, sandboxed=False, device="cpu")


# -- training and asking


@dataclass(frozen=True)
class Joined:
    """A home in which real workers evaluated all parts of one submission, and the run folder of each part."""

    home: Home
    folders: dict[Part, Path]

    def manifest(self, part: Part) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folders[part] / "manifest.json").read_text(encoding="utf-8"))
        return value


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    """The public part, evaluated where nobody knows of hidden tasks. On the way: the training is its own to the end."""
    home, held = make_home(tmp_path_factory.mktemp("without")), set()
    context = attempt(home, Part.PUBLIC, report=lambda progress: held.add((progress.stage, is_training_held(home))))
    stages = (Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE, Stage.CHECK)
    assert held == {(stage, True) for stage in stages}
    assert not is_training_held(home)
    return context


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    """All parts, in another home, with the file, as `ranker evaluate --all --hidden FILE` does it."""
    home = make_home(tmp_path_factory.mktemp("joined"))
    home = replace(home, hidden=write_hidden(tmp_path_factory.mktemp("safe")))
    (home.root / "configs/service.yaml").write_text("benchmark: tiny\nsandbox: none\ncpu_workers: 1\n")
    check = Place(home=home).context(1, condition=under(home, Part.PUBLIC)).submission.check
    engine = open_database(home)
    with session(engine) as writing:
        writing.add(Submission(id=ID, digest="a" * 64, team="team", file_name="x.zip", size_bytes=1, received_at=NOW))
        writing.flush()
        enqueue(writing, submission_id=ID, kind=JobKind.CHECK, condition=None, seed=0, now=NOW)
    checked = claim(engine, worker="here:1:1", now=NOW, lease_s=60)
    assert checked is not None
    finish(engine, checked, now=NOW, result=check or {}, scores=())
    engine.dispose()
    service = Ranker(home.root, home.hidden)
    plan = service.queue_evaluations(None, Wanted())
    assert (len(plan.asked), len(plan.job_ids)) == (3, 3)
    service.run(plan.job_ids, sandbox=None)
    assert service.queue_evaluations(None, Wanted()).job_ids == ()
    folders = {part: Place(home=home).context(1, condition=under(home, part)).run_folder for part in Part}
    return Joined(home=home, folders=folders)


def trained(folder: Path, steps: int) -> bytes:
    return (folder / f"step-{steps:08d}/trained.safetensors").read_bytes()


def losses(folder: Path) -> list[tuple[int, float, float]]:
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in map(json.loads, lines)]


@pytest.mark.dear(day=2)
def test_the_public_part_is_bit_equal_with_and_without_hidden_tasks(without: JobContext, joined: Joined) -> None:
    """Attacks the promise to participants: batches (by their losses), weights at each checkpoint, answers and the job's
    own identity are what they were, so that scores are kept.
    """
    with_file, alone = joined.folders[Part.PUBLIC], without.run_folder
    assert with_file.parent.name == alone.parent.name == without.claim.key[:12]
    assert losses(with_file) == losses(alone)
    assert len(losses(alone)) == STEPS
    for steps in (3, STEPS):
        assert trained(with_file, steps) == trained(alone, steps)
    answers = [(folder / "predictions/pitch.parquet").read_bytes() for folder in (with_file, alone)]
    assert answers[0] == answers[1]


@pytest.mark.dear(day=2)
def test_each_part_asks_its_own_tasks(joined: Joined) -> None:
    """Attacks the split: three jobs, no task twice, none left out; the hidden part follows its own recipe."""
    manifests = {part: joined.manifest(part) for part in Part}
    assert {part: list(manifest["scores"]) for part, manifest in manifests.items()} == {
        Part.PUBLIC: ["pitch"], Part.HIDDEN: ["copper"], Part.PROMPTED: ["asked"],
    }  # fmt: skip
    assert len(set(joined.folders.values())) == 3
    assert len(losses(joined.folders[Part.HIDDEN])) == HIDDEN_STEPS
    assert manifests[Part.HIDDEN]["recipe"]["learning_rate"] == 0.01
    assert {part: Condition.from_json(each["condition"]) for part, each in manifests.items()} == {
        part: under(joined.home, part) for part in Part
    }


@pytest.mark.dear(day=2)
def test_prompted_tasks_are_asked_of_the_public_model(joined: Joined) -> None:
    """Attacks double training: the prompted part encodes and trains nothing, and has the public part's very weights."""
    public_run, prompted = (joined.manifest(part) for part in (Part.PUBLIC, Part.PROMPTED))
    assert prompted["weights"] == public_run["weights"] != joined.manifest(Part.HIDDEN)["weights"]
    assert (prompted["training"], prompted["steps_taken_over"]) == (public_run["training"], STEPS)
    assert Stage.ENCODE not in prompted["seconds"]
    assert Stage.ENCODE in public_run["seconds"]
    assert losses(joined.folders[Part.PROMPTED]) == losses(joined.folders[Part.PUBLIC])


@pytest.mark.dear(day=2)
def test_prompted_tasks_are_trained_for_where_no_public_run_can_be_trusted(joined: Joined, tmp_path: Path) -> None:
    """Attacks the taking over with weights that are not those of the manifest: they are trained anew, to the same."""
    home = replace(make_home(tmp_path), hidden=joined.home.hidden)
    source = joined.folders[Part.PUBLIC]
    copy = tmp_path / source.relative_to(joined.home.root)
    for path in (*source.glob(f"step-{STEPS:08d}/*"), source / "manifest.json"):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    damaged = copy / f"step-{STEPS:08d}/trained.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    context = attempt(home, Part.PROMPTED)
    assert trained(context.run_folder, STEPS) == trained(source, STEPS) != damaged.read_bytes()
    manifest = json.loads((context.run_folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["steps_taken_over"] == 0


@pytest.mark.dear(day=2)
def test_a_worker_without_the_file_says_so(joined: Joined, tmp_path: Path) -> None:
    """Attacks a job of hidden tasks with no file, with another, with one that is gone; and public tasks without it.

    The organizers are told, in a sentence, and by their fault.
    """
    place, queued = Place(home=joined.home), under(joined.home, Part.HIDDEN)
    gone, changed = tmp_path / "gone.yaml", write_hidden(tmp_path, with_tasks(SECRET))

    def told(condition: Condition, file: Path | None) -> str:
        context = replace(place.context(2, condition=condition), home=replace(joined.home, hidden=file))
        with pytest.raises((OrganizerError, UsageError)) as caught:
            evaluate(context)
        fault, reasons = blame(caught.value, tmp_path)
        assert fault is Fault.ORGANIZER
        return " ".join(reasons)

    assert "measures hidden tasks of benchmark tiny, track A, but this worker was given no file" in told(queued, None)
    assert f"the file of its hidden tasks, {changed}, changed after job 1 was queued" in told(queued, changed)
    assert told(queued, gone) == f"{gone}: there is no such file"
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(yaml.safe_dump(with_tasks(SECRET | {"trained": "with_public"})))
    before = under(replace(joined.home, hidden=mixed), Part.PUBLIC)
    assert "if it was queued with --hidden FILE, this worker needs that file too" in told(before, None)


@pytest.mark.dear(day=2)
def test_a_board_joins_the_parts(joined: Joined) -> None:
    """Attacks the way from jobs to ranks: the mean of the groups' means, and all tasks; without the file, as before."""
    (board,) = Ranker(joined.home.root, joined.home.hidden).boards(None)
    (row,) = board.rows
    assert (row.rank, row.missing) == (1, ())
    raw = {name: cell.raw for name, cell in row.cells.items()}
    assert list(raw) == ["pitch", "copper", "asked"]
    hidden = (raw["copper"] + raw["asked"]) / 2
    assert row.groups == {"public": raw["pitch"], "hidden": pytest.approx(hidden)}
    assert row.score == pytest.approx((raw["pitch"] + hidden) / 2)
    assert [each.part for each in (board.condition, *board.others)] == list(Part)
    (before,) = Ranker(joined.home.root).boards(None)
    assert before.rows[0].score == raw["pitch"]
    assert before.rows[0].cells["pitch"] == row.cells["pitch"]


@pytest.mark.dear(day=2)
def test_the_command_line_takes_the_file(
    joined: Joined, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Attacks --hidden and RANKER_HIDDEN: both merge, neither is the public board, and a wrong file is wrong usage."""

    def typed(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(joined.home.root), *arguments])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    file = str(joined.home.hidden)
    code, whole = typed("rank", "--json", "--hidden", file)
    assert code == 0
    assert set(json.loads(whole)["rows"][0]["groups"]) == {"public", "hidden"}
    code, public_only = typed("rank", "--json")
    assert set(json.loads(public_only)["rows"][0]["groups"]) == {"public"}
    code, told = typed("rank", "--hidden", str(write_hidden(tmp_path, HIDDEN | {"benchmark": "mini"})))
    assert (code, "holds hidden tasks of benchmark mini" in told, "Traceback" in told) == (2, True, False)
    monkeypatch.setenv("RANKER_HIDDEN", file)
    assert typed("rank", "--json") == (0, whole)
    code, told = typed("evaluate", "--all")
    assert (code, "0 of 3 evaluations on tiny are to be done" in told) == (0, True)


@pytest.mark.dear(day=2)
def test_nothing_hidden_is_published(joined: Joined) -> None:
    """Attacks every file of the page: of hidden tasks it has scores, and no label, prompt, shard or clip.

    The sample of the public task shows that the page has what may be shown.
    """
    service = Ranker(joined.home.root, joined.home.hidden)
    service.publish(Edition(with_predictions=True), not_before=None, despite_embargo=False, why="")
    site = joined.home.site
    (published,) = site.rglob("*.parquet")
    assert published.name == "pitch.parquet"
    files = [path for path in site.rglob("*") if path.is_file() and "static" not in path.parts]
    assert len(files) >= 5
    whole = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    assert "test.tar:c0000" in whole
    for secret in ("secret-", "bronze", str(joined.home.hidden), SECRET_PROMPT):
        assert secret not in whole
    data = json.loads((site / "data.json").read_text(encoding="utf-8"))
    (runs,) = [each["runs"] for each in data["submissions"]]
    assert [list(run["samples"]) for run in runs] == [["pitch"]]
    assert list(data["boards"][0]["rows"][0]["cells"]) == ["pitch", "copper", "asked"]


@pytest.mark.dear(day=2)
def test_reports_tell_the_parts_apart(joined: Joined) -> None:
    """Attacks status and results with three jobs of one track: each is named by its part, and each cost is listed."""
    service = Ranker(joined.home.root, joined.home.hidden)
    (view,) = service.find(["team"])
    assert [job.where for job in view.evaluations] == ["track A", "track A, hidden part", "track A, prompted part"]
    assert [job["part"] for job in view.to_json()["evaluations"]] == ["public", "hidden", "prompted"]
    text = service.results(None, None)
    for name in ("| team |", "| team (hidden part) |", "| team (prompted part) |"):
        assert name in text
    assert f"hidden part `{under(joined.home, Part.HIDDEN).digest[:12]}` ({HIDDEN_STEPS} steps)" in text
