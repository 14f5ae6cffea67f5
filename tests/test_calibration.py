"""ranker.calibration: published figures beside measured ones, on boards, on the page and at the command line."""

from __future__ import annotations

import importlib.util
import json
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from boards import small_board, submissions
from homes import new_engine
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ranker import calibration
from ranker.board import Board
from ranker.calibration import Calibration, assess, found, refuse_uncalibrated
from ranker.cli import main
from ranker.config import Benchmark, load
from ranker.db.models import Job, Score, Submission
from ranker.db.session import session
from ranker.errors import ConfigError, UsageError
from ranker.home import Home
from ranker.metrics import Pair, evaluate
from ranker.site import render
from ranker.types import Condition, Fault, JobKind, MetricName, Status

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
BOARD = small_board()
MOONSHINE, NOISE = BOARD.rows[0], BOARD.rows[6]
MINI: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text(encoding="utf-8"))


def baseline(row: Any, **changes: object) -> dict[str, Any]:
    """A baseline whose published figures are what the row has on two of mini's tasks."""
    fields: dict[str, Any] = {
        "name": f"The {row.team}",
        "submission": row.team,
        "how": f"fetch {row.team}",
        "source": "a paper",
        "tolerance": 0.05,
        "published": {"A": {name: row.cells[name].raw for name in ("keyword", "language")}},
    }
    return fields | changes


def benchmark(tmp_path: Path, *baselines: dict[str, Any], **changes: object) -> Benchmark:
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(MINI | {"baselines": list(baselines)} | changes), encoding="utf-8")
    return load(Benchmark, path)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(Home(root=tmp_path / "home"))
    yield engine
    engine.dispose()


@pytest.fixture
def db(engine: Engine) -> Iterator[Session]:
    """A database that holds the submissions of the small board, each of them accepted and evaluated."""
    with session(engine) as writing:
        for minutes, row in enumerate(BOARD.rows):
            submit(writing, row.submission_id, row.team, NOW + timedelta(minutes=minutes))
        yield writing


def submit(
    db: Session,
    key: str,
    team: str,
    at: datetime = NOW,
    check: Status = Status.SUCCEEDED,
    under: Condition = BOARD.condition,
) -> None:
    digest = (key * 6)[:64]
    db.add(Submission(id=key, digest=digest, team=team, file_name="x.zip", size_bytes=1, received_at=at))
    db.flush()
    for kind, status in ((JobKind.CHECK, check), (JobKind.EVALUATE, Status.SUCCEEDED)):
        own = under if kind is JobKind.EVALUATE else None
        db.add(
            Job(
                key=f"{key}{kind}", submission_id=key, kind=kind, status=status, seed=BOARD.seed, created_at=at,
                fault=Fault.PARTICIPANT if status is Status.FAILED else None,
                finished_at=at, benchmark=own and own.benchmark, track=own and own.track,
                condition=own and own.to_json(), condition_digest=own and own.digest,
            )
        )  # fmt: skip
    db.flush()


def assessed(db: Session, bench: Benchmark, board: Board | None = BOARD) -> Calibration:
    value = assess(db, bench, "A", board)
    assert value is not None
    return value


# -- what is compared


def test_figures_within_their_tolerance_calibrate(db: Session, tmp_path: Path) -> None:
    """All of two baselines, found by team and by digest; the time is that of the later baseline's evaluation."""
    noise = baseline(NOISE, submission=(NOISE.submission_id * 6)[:20])
    value = assessed(db, benchmark(tmp_path, baseline(MOONSHINE), noise))
    assert value.calibrated
    assert [(figure.baseline, figure.task, figure.difference) for figure in value.figures] == [
        ("The moonshine", "keyword", 0.0),
        ("The moonshine", "language", 0.0),
        ("The noise", "keyword", 0.0),
        ("The noise", "language", 0.0),
    ]
    assert (value.reasons, value.advice) == ((), ())
    assert value.measured_at == NOW + timedelta(minutes=6)
    assert value.condition == BOARD.condition.digest
    assert "the 4 published figures of The moonshine and The noise" in value.sentence
    assert "2026-02-01" in value.sentence


@pytest.mark.parametrize(
    ("published", "tolerance", "within"),
    [(0.5, 0.25, True), (1.0, 0.25, True), (0.49, 0.25, False), (1.01, 0.25, False), (0.75, 1e-9, True)],
)
def test_the_tolerance_bounds_both_directions_and_is_met_at_its_edge(
    published: float, tolerance: float, within: bool
) -> None:
    """0.75 measured: a quarter off is let pass, more is not, whichever way; better than published is off too."""
    figure = calibration.Figure(
        baseline="b", task="t", metric="Accuracy", published=published, tolerance=tolerance, computed="Accuracy",
        measured=0.75,
    )  # fmt: skip
    assert figure.within is within
    assert figure.difference == pytest.approx(0.75 - published)


def test_one_figure_that_is_off_is_named_with_both_values(db: Session, tmp_path: Path) -> None:
    """One of four is enough; a tolerance of its own for another task changes nothing about it."""
    keyword = MOONSHINE.cells["keyword"].raw
    off = baseline(
        MOONSHINE,
        tolerances={"language": 0.5},
        published={"A": {"keyword": round(keyword - 0.2, 3), "language": MOONSHINE.cells["language"].raw + 0.3}},
    )
    value = assessed(db, benchmark(tmp_path, off, baseline(NOISE)))
    assert not value.calibrated
    (reason,) = value.reasons
    assert reason == f"keyword of The moonshine is {keyword:.3f}, published {keyword - 0.2:.3f} ± 0.05"
    assert [figure.within for figure in value.figures] == [False, True, True, True]
    assert value.label == "Not calibrated"


def test_many_reasons_are_counted_not_listed() -> None:
    """A page that lists forty figures in a sentence is read by nobody; the table and JSON hold them all."""
    reasons = tuple(f"task{n} is off" for n in range(6))
    value = Calibration(track="A", condition=None, figures=(), reasons=reasons, advice=(), measured_at=None)
    assert value.sentence == "task0 is off; task1 is off; task2 is off; task3 is off; and 2 more."
    assert value.to_json()["reasons"] == list(reasons)


def test_a_baseline_that_was_not_taken_in_is_no_success(db: Session, tmp_path: Path) -> None:
    """The page says who was not measured; the organizer is told how to get it."""
    absent = baseline(NOISE, name="Whisper", submission="whisper-base", how="get the weights")
    value = assessed(db, benchmark(tmp_path, baseline(MOONSHINE), absent))
    assert value.reasons == ("Whisper was not measured under this condition",)
    assert value.advice == ("Whisper has not been taken in: get the weights",)


def test_a_refused_submission_is_no_baseline(db: Session, tmp_path: Path) -> None:
    """Its team's name alone does not make it one."""
    submit(db, "f" * 12, "whisper-base", check=Status.FAILED)
    value = assessed(db, benchmark(tmp_path, baseline(NOISE, name="Whisper", submission="whisper-base")))
    assert value.advice == ("Whisper has not been taken in: fetch noise",)


def test_a_baseline_without_some_scores_is_no_success(db: Session, tmp_path: Path) -> None:
    """Incomplete on the board (the row `zeta` lacks `keyword`): the task is named, and what to type."""
    zeta = next(row for row in BOARD.rows if row.team == "zeta")
    figures = {"A": {"keyword": 0.4, "language": zeta.cells["language"].raw}}
    value = assessed(
        db, benchmark(tmp_path, baseline(MOONSHINE), baseline(NOISE, submission="zeta", published=figures))
    )
    assert value.reasons == ("The noise was not measured on keyword",)
    assert "`ranker calibrate --benchmark mini` runs what is missing" in value.advice[0]


def test_another_metric_is_not_compared(db: Session, tmp_path: Path) -> None:
    """`FENSE[minilm]` values say nothing about published FENSE values, close as they may be."""
    columns = tuple(replace(c, metric="Accuracy[rough]") if c.name == "keyword" else c for c in BOARD.columns)
    board = replace(BOARD, columns=columns)
    value = assessed(db, benchmark(tmp_path, baseline(MOONSHINE)), board)
    assert value.reasons == ("keyword of The moonshine is Accuracy[rough] here, published as Accuracy",)
    assert value.figures[0].measured is None
    named = baseline(MOONSHINE, metrics={"keyword": "Accuracy[rough]"})
    assert assessed(db, benchmark(tmp_path, named), board).calibrated


def test_without_a_board_nothing_was_measured(db: Session, tmp_path: Path) -> None:
    """Before any evaluation every figure is there, unmeasured."""
    value = assessed(db, benchmark(tmp_path, baseline(MOONSHINE)), None)
    assert [figure.measured for figure in value.figures] == [None, None]
    assert (value.condition, value.measured_at, value.calibrated) == (None, None, False)


def test_two_submissions_that_fit_are_refused(db: Session, tmp_path: Path) -> None:
    """A team that calls itself like a baseline must not become one unseen."""
    submit(db, "f" * 12, "moonshine")
    with pytest.raises(UsageError, match=f"2 submissions fit baseline The moonshine.*{'f' * 12}"):
        found(db, benchmark(tmp_path, baseline(MOONSHINE)))
    meant = baseline(MOONSHINE, submission=MOONSHINE.submission_id)
    assert found(db, benchmark(tmp_path, meant))["The moonshine"].id == MOONSHINE.submission_id


def test_a_track_without_figures_has_no_calibration(db: Session, tmp_path: Path) -> None:
    """Nothing to say is not said."""
    bench = benchmark(tmp_path, baseline(MOONSHINE))
    assert assess(db, bench, "B", small_board("B")) is None
    assert calibration.tracks(bench) == ["A"]


# -- configuration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"published": {"A": {"keywords": 0.5}}}, "track A has no task keywords that is switched on"),
        ({"published": {"C": {"keyword": 0.5}}}, "track C has no task keyword"),
        ({"tolerances": {"pitch": 0.1}}, "no published figure of pitch"),
        ({"tolerance": 0}, "greater than 0"),
        ({"published": {"A": {"keyword": float("nan")}}}, "finite number"),
        ({"name": "The noise"}, "used twice: The noise"),
        ({"url": "x"}, "Extra inputs"),
    ],
)
def test_mistakes_in_baselines_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A figure of a task that is not there would never be compared, in silence."""
    with pytest.raises(ConfigError, match=words):
        benchmark(tmp_path, baseline(MOONSHINE, **changes), baseline(NOISE))


def test_baselines_are_in_no_condition(tmp_path: Path) -> None:
    """A figure that is corrected asks for no new run."""
    one, other = benchmark(tmp_path), benchmark(tmp_path, baseline(MOONSHINE), needs_calibration=True)
    assert one.measurement_digest("A") == other.measurement_digest("A")


def test_shipped_baselines_have_a_figure_for_every_task() -> None:
    """`challenge` and `mini` compare everything that they switch on, twice; the challenge's overalls follow."""
    benchmarks = {name: load(Benchmark, ROOT / "configs" / f"{name}.yaml") for name in ("challenge", "mini")}
    seen = 0
    for bench in benchmarks.values():
        assert len(bench.baselines) == 2
        for each in bench.baselines:
            for name, track in bench.tracks.items():
                assert set(each.published[name]) == {task.name for task in track.active_tasks}
                seen += len(each.published[name])
    assert seen == 2 * (15 + 5) + 2 * (8 + 3)
    dasheng, whisper = benchmarks["challenge"].baselines
    for each, overall in ((dasheng, 0.614), (whisper, 0.652)):
        assert round(sum(each.published["A"].values()) / 15, 3) == overall
    assert round(sum(dasheng.published["B"].values()) / 5, 2) == 0.27


# -- publishing


def test_publishing_is_refused_only_where_the_configuration_says_so(db: Session, tmp_path: Path) -> None:
    """By default the page says it; with `needs_calibration` there is no page."""
    off = baseline(MOONSHINE, published={"A": {"keyword": 0.1}})
    plain = benchmark(tmp_path, off)
    refuse_uncalibrated(plain, [assessed(db, plain)])
    strict = benchmark(tmp_path, off, needs_calibration=True)
    with pytest.raises(UsageError, match=r"track A: keyword of The moonshine is .*ranker calibrate --benchmark mini"):
        refuse_uncalibrated(strict, [assessed(db, strict)])
    fine = benchmark(tmp_path, baseline(MOONSHINE), needs_calibration=True)
    refuse_uncalibrated(fine, [assessed(db, fine)])


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_page_shows_verdict_and_figures(db: Session, tmp_path: Path, shift: float) -> None:
    """In words above the fold of details, in the table below, and in data.json; hostile names stay text."""
    figures = {"A": {"keyword": MOONSHINE.cells["keyword"].raw - shift}}
    bench = benchmark(tmp_path, baseline(MOONSHINE, name="<b>Moon</b>", published=figures))
    index = render([BOARD], submissions(BOARD), tmp_path / "site", calibrations=[assessed(db, bench)])
    html = index.read_text(encoding="utf-8")
    assert "<b>Moon</b>" not in html
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert ("Not calibrated keyword of" in text) is bool(shift)
    assert ("Calibrated the 1 published figures of" in text) is not bool(shift)
    assert (("+0.300" if shift else "+0.000") in text) is True
    (value,) = json.loads((index.parent / "data.json").read_text(encoding="utf-8"))["calibrations"]
    assert value["calibrated"] is not bool(shift)
    assert value["figures"][0]["difference"] == pytest.approx(shift)


def test_a_page_without_baselines_says_nothing_of_them(tmp_path: Path) -> None:
    """No empty table, no word of calibration."""
    index = render([BOARD], submissions(BOARD), tmp_path / "site")
    assert "alibrated" not in index.read_text(encoding="utf-8")


# -- the command


@pytest.fixture
def typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Type a command in the home; standard output and standard error."""

    def run(*arguments: str, code: int) -> tuple[str, str]:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path / "home"), *arguments])
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        assert "Traceback" not in said.err
        return said.out, said.err

    return run


def test_the_command_says_what_is_not_there_yet(engine: Engine, typed: Callable[..., tuple[str, str]]) -> None:
    """No baseline taken in: every figure unmeasured, how to get each baseline, exit code 4, and nothing was run."""
    out, err = typed("calibrate", "--benchmark", "challenge", "--json", code=4)
    value = json.loads(out)
    assert [track["track"] for track in value] == ["A", "B"]
    assert sum(len(track["figures"]) for track in value) == 40
    assert not any(figure["within"] for track in value for figure in track["figures"])
    assert "Dasheng-base has not been taken in: ZIP a module" in err
    assert "submissions/examples/whisper_base" in err
    with session(engine) as reading:
        assert reading.query(Job).count() == 0


def test_the_command_needs_a_home_and_baselines(tmp_path: Path, typed: Callable[..., tuple[str, str]]) -> None:
    """Nothing is compared where nothing is configured, and nothing is made where no home is."""
    assert "`ranker ingest FILE.zip` begins" in typed("calibrate", "--benchmark", "mini", code=4)[1]
    assert not (tmp_path / "home").exists()
    new_engine(Home(root=tmp_path / "home")).dispose()
    assert "benchmark field has no `baselines:`" in typed("calibrate", "--benchmark", "field", code=2)[1]


@pytest.fixture
def tiny(tmp_path: Path, engine: Engine) -> Callable[..., None]:
    """Configure a benchmark of one task with one baseline, which answers 15 of 20 clips rightly on a finished board."""
    tasks = [task for task in MINI["tracks"]["A"]["tasks"] if task["name"] == "keyword"]
    tracks = {"A": {"title": "Tiny", "tasks": tasks}}

    def configured(published: float, **changes: object) -> None:
        (tmp_path / "home" / "configs").mkdir(exist_ok=True)
        given = baseline(MOONSHINE, published={"A": {"keyword": published}})
        fields = MINI | {"name": "tiny", "tracks": tracks, "baselines": [given]} | changes
        (tmp_path / "home" / "configs" / "tiny.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")

    configured(0.75)
    bench = load(Benchmark, tmp_path / "home" / "configs" / "tiny.yaml")
    steps, measurement = bench.recipe.steps, bench.measurement_digest("A")
    under = replace(BOARD.condition, benchmark="tiny", steps=steps, measurement=measurement)
    pairs = [Pair(clip=f"{n:02}", reference="yes", candidate="yes" if n < 15 else "no") for n in range(20)]
    evaluate(MetricName.ACCURACY, pairs).items.to_parquet(tmp_path / "home" / "keyword.parquet")
    with session(engine) as writing:
        submit(writing, MOONSHINE.submission_id, "moonshine", under=under)
        job = writing.query(Job).filter_by(kind=JobKind.EVALUATE).one()
        job.result = {"run": "."}
        writing.add(
            Score(job_id=job.id, task="keyword", metric="Accuracy", value=0.75, items=20, predictions="keyword.parquet")
        )
    return configured


def test_the_command_compares_the_board_with_the_file(
    tiny: Callable[..., None], typed: Callable[..., tuple[str, str]]
) -> None:
    """From the database and the configuration alone: 0 within, 1 off, and a corrected figure counts at once."""
    out, _ = typed("calibrate", "--benchmark", "tiny", "--compare-only", code=0)
    assert "Calibrated: the 1 published figures of The moonshine" in " ".join(out.split())
    tiny(0.9)
    out, err = typed("calibrate", "--benchmark", "tiny", "--compare-only", code=1)
    assert "Not calibrated: keyword of The moonshine is 0.750, published 0.900" in " ".join(out.split())
    assert err == ""
    (track,) = json.loads(typed("calibrate", "--benchmark", "tiny", "--compare-only", "--json", code=1)[0])
    assert track["figures"][0]["difference"] == pytest.approx(-0.15)


def test_the_page_waits_where_it_is_told_to(
    tmp_path: Path, tiny: Callable[..., None], typed: Callable[..., tuple[str, str]]
) -> None:
    """Off and `needs_calibration`: nothing is published, and why. Off without it: a page that says so."""
    tiny(0.9, needs_calibration=True)
    _, err = typed("publish", "--benchmark", "tiny", code=2)
    assert "keyword of The moonshine is 0.750" in err
    assert not (tmp_path / "home" / "leaderboard").exists()
    typed("leaderboard", "--benchmark", "tiny", code=0)  # organizers may look
    tiny(0.9)
    typed("publish", "--benchmark", "tiny", code=0)
    page = tmp_path / "home" / "leaderboard" / "site" / "index.html"
    assert "Not calibrated" in page.read_text(encoding="utf-8")


# -- the example


@pytest.fixture
def whisper(tmp_path: Path) -> types.ModuleType:
    """The example's module beside random weights in the shape of the real ones, but small."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    shape = WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    WhisperModel(shape).save_pretrained(tmp_path / "weights")
    WhisperFeatureExtractor().save_pretrained(tmp_path / "weights")
    source = (ROOT / "submissions" / "examples" / "whisper_base" / "whisper_encoder.py").read_text(encoding="utf-8")
    (tmp_path / "whisper_encoder.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("whisper_encoder", tmp_path / "whisper_encoder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whisper_example_keeps_the_first_half_and_the_contract(whisper: types.ModuleType) -> None:
    """With random weights: frames of half the clip, masks, no mask, very short and very long clips, no neighbour's
    influence.
    """
    import torch

    encoders = [name for name in vars(whisper) if name.endswith("Encoder")]
    assert encoders == ["WhisperBaseEncoder"]
    encoder = whisper.WhisperBaseEncoder()
    assert encoder.output_dim == 32
    audio = torch.randn(2, 32_000, generator=torch.Generator().manual_seed(1)) / 10
    mask = torch.ones(2, 32_000, dtype=torch.int32)
    mask[1, 8_000:] = 0
    with torch.inference_mode():
        features, kept = encoder(audio, mask)
        assert features.shape == (2, 50, 32)  # 2 s: 100 frames, of which the first half
        assert kept.sum(1).tolist() == [50, 13]
        alone, none = encoder(audio[1:, :8_000], None)
        assert none.sum(1).tolist() == [13]
        torch.testing.assert_close(alone[0], features[1, :13], rtol=1e-4, atol=1e-5)
        assert encoder(torch.zeros(1, 1_600), None)[0].shape == (1, 3, 32)
        assert encoder(torch.zeros(1, 40 * 16_000), None)[0].shape == (1, 750, 32)
