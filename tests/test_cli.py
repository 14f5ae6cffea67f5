"""The command line: wrong usage, exit codes, tables and progress, on a home with a real database."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boards import condition, small_board
from homes import new_engine
from postgres import EVERYWHERE, sqlite_only
from rich.cells import cell_len
from rich.console import Console
from sqlalchemy import Engine

from ranker import queue
from ranker.board import ranking_json
from ranker.cli import main, reference, tables
from ranker.cli.progress import JobDisplay
from ranker.db.models import Job, Submission
from ranker.db.session import session
from ranker.doctor import Finding, Verdict
from ranker.errors import (
    InfraError,
    LeaseLostError,
    MissingError,
    OrganizerError,
    ParticipantError,
    RankerError,
    UsageError,
)
from ranker.home import Home
from ranker.sandbox.usage import Usage
from ranker.types import Fault, JobKind, Progress, Stage, Status

NOW = datetime(2026, 2, 12, 12, 0, tzinfo=UTC)
Run = Callable[..., str]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command; what it said, standard output first. Fails on another exit code, and on a traceback."""

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(home), *arguments])
        said = "".join(capsys.readouterr())
        assert (left.value.code or 0) == code, said
        assert "Traceback" not in said
        return said

    return typed


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    engine = new_engine(Home(root=home))
    yield engine
    engine.dispose()


def submit(engine: Engine, team: str = "team", key: str = "a") -> str:
    with session(engine) as writing:
        writing.add(
            Submission(id=key * 12, digest=key * 64, team=team, file_name="x.zip", size_bytes=1, received_at=NOW)
        )
    return key * 12


def enqueue(engine: Engine, submission: str, track: str | None = None) -> int:
    under = None if track is None else condition(track, benchmark="mini")
    kind = JobKind.CHECK if under is None else JobKind.EVALUATE
    with session(engine) as writing:
        return queue.enqueue(writing, submission_id=submission, kind=kind, condition=under, seed=42, now=NOW).id


def claim(engine: Engine, job: int) -> queue.Claim:
    taken = queue.claim(engine, worker=queue.worker_id(), now=NOW, lease_s=60, job_ids=[job])
    assert taken is not None
    return taken


def fail(engine: Engine, job: int, fault: Fault, reason: str, attempts: int = 5) -> None:
    queue.fail(
        engine, claim(engine, job), now=NOW, fault=fault, reasons=[reason], max_infra_attempts=attempts, retry_delay_s=9
    )


# -- wrong usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["ingest"], "say what to take in"),
        (["ingest", "nowhere.zip"], "nowhere.zip: there is no such file"),
        (["ingest", __file__, "--no-check"], "it is neither a ZIP nor a message"),
        (["ingest", "http://example.org/x.zip"], "is not https"),
        (["ingest", "--link", "7"], "there is no link 7"),
        (["ingest", "x.zip", "--link", "7", "--team", "x"], "belong to one file"),
        (["check"], "say which submissions"),
        (["links", "decline", "7", "--why", "x"], "there is no link 7"),
        (["ingest", __file__, __file__, "--team", "x"], "belong to one file"),
        (["ingest", __file__, "--encoder", "x.txt"], "expected FILE.py or FILE.py:CLASS"),
        (["ingest", __file__, "--team", "bad\x07name"], "control or invisible characters"),
        (["evaluate"], "say which submissions"),
        (["evaluate", "team", "--all"], "say which submissions"),
        (["evaluate", "--all", "--benchmark", "maxi"], "no benchmark 'maxi'; there are challenge, field, inter"),
        (["evaluate", "--all", "--track", "Z"], "has no track 'Z'; it has A, B"),
        (["evaluate", "--all", "--limit-steps", "0"], "greater than or equal to 1"),
        (["evaluate", "--all", "--sandbox", "paper"], "'paper' is not one of"),
        (["rank", "--benchmark", "../mini"], "there is no benchmark '../mini'"),
        (["rank", "--track"], "requires an argument"),
        (["rank", "--tracks", "A"], "No such option: --tracks"),
        (["show"], "Missing argument 'ID'"),
        (["compare"], "Missing argument"),
        (["compare", "one"], "two to 4 are compared at a time, found 1"),
        (["compare", "one", "one"], "'one' is named twice"),
        (["data", "build", "challenge"], "'challenge' is not one of 'mini', 'field'"),
        (["data", "build", "mini", "--packages", "/"], "--packages goes with `ranker data build field`"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_usage_is_one_sentence(run: Run, home: Path, arguments: list[str], words: str) -> None:
    """Attacks with what tired people type: exit code 2, words that help, no traceback, and nothing written."""
    said = run(*arguments, code=UsageError.exit_code)
    assert words in " ".join(said.split())
    assert not (home / "submissions").exists()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attacks --home by the wrong path."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        main(["--home", str(tmp_path / "file"), "status"])
    assert left.value.code == UsageError.exit_code
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["rank"], ["leaderboard"], ["publish"], ["results"], ["show", "x"]])
def test_looking_into_an_empty_folder_makes_nothing(run: Run, home: Path, arguments: list[str]) -> None:
    """Attacks by the wrong folder: a question leaves no database behind, and says how to name another home."""
    home.mkdir()
    words = "written nothing into postgresql:" if EVERYWHERE else "--home DIR or RANKER_HOME"
    assert words in run(*arguments, code=MissingError.exit_code)
    assert "no submissions yet" in run("status")
    assert json.loads(run("status", "--json")) == {"paused": None, "submissions": []}
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("benchmark: [", "is not YAML"),
        ("sandboxes: docker\nlease_s: -1\n", "2 mistakes: lease_s: .*; sandboxes: "),
        ("- a\n- b\n", "1 mistake: file: "),
    ],
)  # fmt: skip
def test_a_broken_configuration_names_every_mistake(run: Run, home: Path, content: str, words: str) -> None:
    """Attacks the home's service.yaml: the file and all its mistakes in one sentence, exit code 2."""
    (home / "configs").mkdir(parents=True)
    (home / "configs/service.yaml").write_text(content, encoding="utf-8")
    said = " ".join(run("rank", code=UsageError.exit_code).split())
    assert str(home / "configs/service.yaml") in said
    assert re.search(words, said)


def test_a_benchmark_is_called_as_its_file(run: Run, home: Path) -> None:
    """Attacks with a copy that kept its old name: its scores would go to the other benchmark."""
    source = (Path(__file__).parent.parent / "configs/mini.yaml").read_text(encoding="utf-8")
    (home / "configs").mkdir(parents=True)
    (home / "configs/ours.yaml").write_text(source, encoding="utf-8")
    said = run("rank", "--benchmark", "ours", code=UsageError.exit_code)
    assert "its name is 'mini'; expected 'ours'" in said


def test_data_that_is_not_built_is_missing(run: Run, home: Path) -> None:
    """Attacks the first evaluation of a newcomer: exit code 4, and the command that builds the data."""
    assert "run `ranker data build mini`" in run("evaluate", "--all", code=MissingError.exit_code)
    assert "no benchmark is built" in run("data", "verify", code=MissingError.exit_code)
    assert not home.exists()


# -- exit codes


def test_every_error_has_its_documented_exit_code() -> None:
    """Attacks the table of exit codes: all errors of the tree, and no code that is not documented."""
    expected = {
        RankerError: 1, UsageError: 2, ParticipantError: 3, MissingError: 4, InfraError: 1, LeaseLostError: 1,
        OrganizerError: 1,
    }  # fmt: skip
    assert {error: error.exit_code for error in expected} == expected
    assert set(expected.values()) < set(reference.EXIT_CODES)


def test_a_refused_file_is_told_to_its_team(run: Run, tmp_path: Path) -> None:
    """Attacks with bytes that are no ZIP: exit code 3 and one reason; evaluating it then is wrong usage."""
    (tmp_path / "team.zip").write_bytes(b"not a ZIP")
    said = run("ingest", str(tmp_path / "team.zip"), "--sandbox", "none", code=ParticipantError.exit_code)
    assert "warning" in said
    assert "team: refused" in said
    assert "not a complete ZIP" in said
    assert "not a complete ZIP" in run("show", "team")
    (view,) = json.loads(run("status", "--json"))["submissions"]
    assert (view["state"], view["check"]["fault"]) == ("refused", "participant")


def test_without_a_sandbox_nothing_starts(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks a machine whose engine is down: exit code 4 before any worker, and the check stays to be done."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-such-socket")
    with zipfile.ZipFile(tmp_path / "team.zip", "w") as archive:
        archive.writestr("encoder.py", "")
    said = run("ingest", str(tmp_path / "team.zip"), "--sandbox", "docker", code=MissingError.exit_code)
    assert "there is no sandbox to run an encoder in" in said
    assert "starting" not in said
    (view,) = json.loads(run("status", "--json"))["submissions"]
    assert (view["state"], view["check"]["status"], view["check"]["attempt"]) == ("received", "queued", 0)
    assert not (home / "runs").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(run: Run, home: Path, engine: Engine) -> None:
    """Attacks with a file in the page's place: our fault, told without a traceback."""
    submit(engine)
    (home / "leaderboard").write_text("in the way", encoding="utf-8")
    assert "ranker doctor" in run("leaderboard", code=InfraError.exit_code)
    assert "ranker doctor" in run("publish", code=InfraError.exit_code)


@sqlite_only
def test_a_database_that_is_none_is_one_sentence(run: Run, home: Path) -> None:
    """Attacks with a ranker.db that holds something else."""
    home.mkdir()
    (home / "ranker.db").write_bytes(b"certainly not SQLite, " * 100)
    assert "not a readable SQLite database" in run("status", code=UsageError.exit_code)


@pytest.mark.parametrize("keys", ["a", "0123456789abcdef"])
def test_a_closed_pipe_is_no_crash(home: Path, engine: Engine, keys: str) -> None:
    """Attacks `ranker status | true`, with less and with more than a buffer: no traceback when nobody reads."""
    for key in keys:
        submit(engine, "long " * 19 + key, key)
    command = [sys.executable, "-m", "ranker", "--home", str(home), "status", "--json"]
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True) as process:
        os.close(write)
        _, complaints = process.communicate()
    assert complaints == ""
    assert process.returncode == InfraError.exit_code


# -- the page and the ranking before there is any


def test_before_any_evaluation_there_is_a_page_but_no_ranking(run: Run, home: Path, engine: Engine) -> None:
    """Attacks the first day: the page can be published, friendly and empty; rank says what to do, exit code 4."""
    submit(engine, "early birds")
    index = Path(run("publish").strip().splitlines()[-1])
    assert index == home / "leaderboard/site/index.html"
    text = index.read_text(encoding="utf-8")
    assert "No ranking yet" in text
    assert "early birds" in text
    assert json.loads((index.parent / "data.json").read_text(encoding="utf-8"))["boards"] == []
    assert "run `ranker evaluate --all`" in run("rank", code=MissingError.exit_code)


def test_names_of_teams_are_no_markup(run: Run, engine: Engine) -> None:
    """Attacks the terminal by names that rich would take for colours."""
    names = ["[red]win[/red]", "[/]", ":smile:[b]"]
    for name, key in zip(names, "abc", strict=True):
        fail(engine, enqueue(engine, submit(engine, name, key)), Fault.PARTICIPANT, f"[bold]{name}")
    shown = "".join(run("status").split())
    for name in names:
        assert "".join(name.split()) in shown
        assert f"[bold]{name}" in run("show", name)


# -- tables


def rendered(value: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
    console.print(value)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_notice_is_never_cut(width: int) -> None:
    """Attacks a narrow terminal: every word of the reasons is there, in lines that fit."""
    reasons = [f"the decoder is a stand-in {'for something else ' * 8}END", "short"]
    shown = rendered(tables.demonstration(reasons), width)
    assert "END" in shown
    assert "short" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_substitutes_name_is_shown_whole() -> None:
    """Attacks honesty by markup: `FENSE[minilm]` shown as `FENSE` would be another metric's name."""
    board = small_board()
    columns = (replace(board.columns[0], metric="FENSE[minilm]"), *board.columns[1:])
    assert "FENSE[minilm]" in rendered(tables.board(replace(board, columns=columns), 200), 200)


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_wide_board_is_shown_in_parts(width: int) -> None:
    """Attacks a terminal that is too narrow for six tasks: every task stands once, every row in every part."""
    board = small_board()
    shown = rendered(tables.board(board, width), width)
    assert [shown.count(f" {column.name} ") + shown.count(f" {column.name}\n") for column in board.columns] == [1] * 6
    parts = shown.count("(without listening)")
    assert shown.count("speech_embedding") == parts
    assert (parts == 1) == (width == 300)
    assert ("hidden" in shown) == (width >= 120)
    assert max(cell_len(line) for line in shown.splitlines()) <= width


def test_status_is_short_and_show_tells_conditions_apart(run: Run, engine: Engine) -> None:
    """Attacks a team with several conditions: status counts them on one line, show names each with its steps."""
    submission = submit(engine)
    with session(engine) as writing:
        for steps in (1, 20, 300):
            under = condition("A", benchmark="mini", steps=steps)
            queue.enqueue(
                writing, submission_id=submission, kind=JobKind.EVALUATE, condition=under, seed=42, now=NOW
            )  # fmt: skip
    said = " ".join(run("status").split())
    assert said.count("mini, track A") == 1
    assert "(3" in said
    shown = run("show", "team")
    assert [f"({steps} steps)" in shown for steps in (1, 20, 300)] == [True] * 3
    assert shown.count("condition ") == 3


def test_a_probes_words_are_text(run: Run, engine: Engine) -> None:
    """Attacks the terminal by an exception's words: shown as they are, never as markup."""
    found = {"attribute": "MyEncoder", "shortest_clip_s": 0.25, "refused_clips": {"0.1 s": "[bold]x"}}
    job = enqueue(engine, submit(engine))
    queue.finish(engine, claim(engine, job), now=NOW, result={"encoder": found}, scores=())
    shown = " ".join(run("show", "team").split())
    assert "short clips" in shown
    assert "[bold]x" in shown


def test_what_an_encoder_took_is_shown(run: Run, engine: Engine) -> None:
    """Attacks the figures of a run: speed and memory stand in `show`; a run that did not keep them is shown too."""
    submission = submit(engine)
    took = Usage(load_s=2, calls=3, audio_s=90, encode_s=4.5, peak=None).to_json()
    for track, result in (("A", {"run": "r"}), ("B", {"run": "r", "encoder": took})):
        job = enqueue(engine, submission, track)
        queue.finish(engine, claim(engine, job), now=NOW, result=result, scores=())
    shown = " ".join(run("show", "team").split())
    assert shown.count("the encoder: ") == 1
    assert "encoding 20.0 s of audio per second (90 s in 3 calls took 4 s)" in shown


def test_paths_that_doctor_names_are_whole() -> None:
    """Attacks a narrow terminal by a long path: folded, not cut, since its end is what one needs."""
    found = Finding(part="decoder", verdict=Verdict.OK, found=f"at /{'folder/' * 30}weights.gguf")
    assert "weights.gguf" in "".join(rendered(tables.findings([found]), 60).split())


def test_ranking_json_has_the_promised_shape() -> None:
    """Attacks programs that read the ranking: keys, order, null where there is no value."""
    board = small_board()
    value = json.loads(json.dumps(ranking_json(board), allow_nan=False))
    names = ["benchmark", "track", "condition", "table", "seed", "demonstration", "intervals", "agreement", "rows"]
    assert list(value) == names
    keys = ("team", "submission", "standing", "baseline", "rank", "score", "interval", "rank_interval", "p_first")
    keys += ("p_next", "tier", "groups", "tasks", "missing", "pending")
    assert {tuple(row) for row in value["rows"]} == {keys}
    assert [row["rank"] for row in value["rows"]] == [1, 2, 3, 4, 4, 6, 7, None, None]
    incomplete = value["rows"][-2]
    assert (incomplete["score"], incomplete["tasks"]["effects"]) == (None, None)
    assert incomplete["missing"] == ["effects", "secret"]


# -- progress


def display(engine: Engine, jobs: list[int], *, terminal: bool) -> tuple[JobDisplay, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=160, force_terminal=terminal, highlight=False, color_system=None)
    return JobDisplay(engine, jobs, console), file


def test_progress_is_one_line_per_change(engine: Engine) -> None:
    """Attacks a log file: a line for each stage and none for each tick; numbers that rise are no change."""
    job = enqueue(engine, submit(engine), "A")
    shown, file = display(engine, [job], terminal=False)
    with shown:
        assert file.getvalue() == ""
        owned = claim(engine, job)
        shown.tick()
        for done in (1, 2, 3):
            progress = Progress(stage=Stage.TRAIN, done=done, total=3, loss=1.5)
            queue.heartbeat(engine, owned, now=NOW, lease_s=60, progress=progress)
            shown.tick()
        queue.heartbeat(engine, owned, now=NOW, lease_s=60, progress=Progress(stage=Stage.GENERATE, task="keyword"))
        shown.tick()
        queue.finish(engine, owned, now=NOW, result={}, scores=())
    lines = file.getvalue().splitlines()
    assert [line.removeprefix("team · track A: ") for line in lines] == [
        "starting", "training", "answering keyword", "succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize("terminal", [False, True])
def test_a_job_that_waits_says_why(engine: Engine, terminal: bool) -> None:
    """Attacks silence: a job that failed by our fault and is queued again shows the reason, and that it is no end."""
    job = enqueue(engine, submit(engine), "A")
    shown, file = display(engine, [job], terminal=terminal)
    with shown:
        fail(engine, job, Fault.INFRA, "the engine died")
        shown.tick()
    assert "to be tried again, since the engine died" in file.getvalue()
    with session(engine, read_only=True) as reading:
        assert reading.get_one(Job, job).status == Status.QUEUED


def test_a_terminal_shows_step_and_loss(engine: Engine) -> None:
    """Attacks the bar: the stage's own count, the loss, and a job that is done stands at its end."""
    job = enqueue(engine, submit(engine), "B")
    shown, file = display(engine, [job], terminal=True)
    with shown:
        owned = claim(engine, job)
        progress = Progress(stage=Stage.TRAIN, done=120, total=200, loss=0.4567)
        queue.heartbeat(engine, owned, now=NOW + timedelta(seconds=1), lease_s=60, progress=progress)
        shown.tick()
    assert "track B: training" in file.getvalue()
    assert "120/200" in file.getvalue()
    assert "loss 0.457" in file.getvalue()


def test_the_sandbox_none_is_warned_of(run: Run, engine: Engine, home: Path) -> None:
    """Attacks carelessness in the configuration too: --sandbox none and `sandbox: none` both warn."""
    (home / "configs").mkdir()
    (home / "configs/service.yaml").write_text("sandbox: none\n", encoding="utf-8")
    for arguments in (["evaluate", "--all"], ["evaluate", "--all", "--sandbox", "none"]):
        assert "submitted code runs with all your rights" in run(*arguments, code=MissingError.exit_code)
