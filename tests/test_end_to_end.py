"""The whole way, as a user types it: ZIPs to a ranked page, by real commands, a real sandbox and the real decoder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aftermath
import chaos
import pandas as pd
import pytest
import torch
from postgres import copied
from safetensors.torch import load_file
from tones import tone

from ranker import evaluation
from ranker.cli.app import main
from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.shards import write_shard
from ranker.home import Home
from ranker.lalm.curriculum import Sample, curriculum
from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.service import Ranker, Wanted
from ranker.settings import Service
from ranker.types import JobKind
from ranker.worker import EXIT_DONE, StopSignal, work

START_TIMEOUT_S = 120
PLAN = [
    (".step-00000016-", 3, "worker"),
    ("features.f32", 2, "encoder"),
    (".side.parquet.tmp", 1, "everything"),
    ("worker.jsonl", 1, "coordinator"),
    (".manifest.json.tmp", 4, "worker"),
]
STEPS, CHECKPOINT = 32, 8
BENCHMARK = f"""
name: tiny
title: Tiny
description: High and low tones.
whole_protocol: false
recipe:
  decoder: smollm2-135m-instruct-q4_1
  decoder_layers: 1
  steps: {STEPS}
  batch_size: 4
  learning_rate: 0.01
  warmup_steps: 4
  lora_dropout: 0.05
  feature_standardize: true
  projector_init: match_embeddings
  shuffle_window: 8
  sort_window: 8
  max_new_tokens: 4
  checkpoint_every: {CHECKPOINT}
tracks:
  A:
    title: Tones
    tasks:
      - {{name: pitch, title: Pitch, domain: music, metric: Accuracy,
         train: {{shards: [train.tar], key: [label], prompt: "High or low?"}},
         test: {{shards: [test.tar], key: [label], prompt: "High or low?", max_new_tokens: 2}}}}
      - {{name: side, title: Side, domain: sound, metric: Accuracy, group: hidden, trained: with_public,
         train: {{shards: [train.tar], key: [side], prompt: "Left or right?"}},
         test: {{shards: [test.tar], key: [side], prompt: "Left or right?", max_new_tokens: 2}}}}
  B:
    title: Words
    tasks:
      - {{name: words, title: Words, domain: speech, metric: iWER,
         train: {{shards: [train.tar], key: [text], prompt: "Which words?"}},
         test: {{shards: [test.tar], key: [text], prompt: "Which words?"}}}}
"""
SPECTRUM = """
import torch

class SpectrumEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.output_dim = 24

    def forward(self, audio, mask=None):
        audio = audio if mask is None else audio * mask
        frames = torch.nn.functional.pad(audio, (0, -audio.shape[1] % 800)).unflatten(1, (-1, 800))
        power = torch.fft.rfft(frames).abs()[..., :192].unflatten(-1, (24, 8)).mean(-1)
        keep = None if mask is None else torch.nn.functional.pad(mask, (0, -mask.shape[1] % 800))[:, ::800]
        return torch.log(power + 1e-3), keep
"""
NOISE = """
import torch

class NoiseEncoder(torch.nn.Module):
    output_dim = 40

    def forward(self, audio, mask=None):
        def encode(clip):
            seed = int(clip.double().abs().sum() * 1e6)
            return torch.randn(2, 40, generator=torch.Generator().manual_seed(seed))
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask)]
        return torch.stack([encode(clip) for clip in clips]), None
"""
BROKEN = """
class BrokenEncoder:
    output_dim = "many"
"""


def make_home(root: Path) -> Path:
    """Configuration, data and ZIPs, as an organizer would have them before the first command."""
    (root / "configs").mkdir(parents=True)
    (root / "configs/tiny.yaml").write_text(BENCHMARK, encoding="utf-8")
    (root / "configs/service.yaml").write_text(
        "benchmark: tiny\nsandbox: bubblewrap\ncpu_workers: 1\n", encoding="utf-8"
    )
    labels = [
        {"label": "high", "side": "left", "text": "one two"},
        {"label": "low", "side": "right", "text": "three four"},
    ]

    def shards(folder: Path, _: store.ProgressHook) -> None:
        for name, count, shift in (("train", 24, 0.0), ("test", 8, 25.0)):
            samples = [
                {
                    "__key__": f"c{index:03d}",
                    "flac": tone(0.1, (2000.0, 400.0)[index % 2] + 3 * index + shift),
                    "json": labels[index % 2],
                }
                for index in range(count)
            ]
            write_shard(folder / f"{name}.tar", samples)

    store.build(root / "data/tiny", shards, version=1)
    for name, source in (("spectrum", SPECTRUM), ("noise", NOISE), ("broken", BROKEN)):
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            archive.writestr("repository/encoder.py", source)
    return root


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "ranker", "--home", str(home), *arguments]


def ranker(home: Path, *arguments: str, code: int = 0) -> str:
    """Run one command to its end; its standard output. Fails on any other exit code, and on a traceback."""
    ended = subprocess.run(command(home, *arguments), capture_output=True, text=True, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == code, said
    assert "Traceback" not in said
    return ended.stdout


def told(home: Path, *arguments: str, code: int = 0) -> str:
    """What a command that only looks prints: the same way in, without the seconds that a new process takes."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        main(["--home", str(home), *arguments])
    assert ended.value.code == code, said.getvalue()
    return said.getvalue()


def asked(home: Path, *arguments: str, code: int = 0) -> Any:
    return json.loads(told(home, *arguments, "--json", code=code))


def worked(home: Path) -> None:
    """Do what is queued in this process, which has torch loaded already."""
    threads = torch.get_num_threads()
    try:
        service = load(Service, home / "configs/service.yaml")
        handlers = {JobKind.EVALUATE: evaluation.evaluate}
        assert work(Home(root=home), service, None, stop=StopSignal(), handlers=handlers) == EXIT_DONE
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ingested(bubblewrap: Bubblewrap, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A home with three submissions checked, and what `ingest --json` said. Copy it before changing it."""
    home = make_home(tmp_path_factory.mktemp("end-to-end") / "home")
    zips = [str(home / f"{name}.zip") for name in ("spectrum", "noise", "broken")]
    return home, json.loads(ranker(home, "ingest", *zips, "--json", code=3))


@pytest.fixture(scope="module")
def evaluated(ingested: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home, moved to another folder after the checks, where everything was evaluated without disturbance."""
    home = tmp_path_factory.mktemp("evaluated") / "moved"
    copied(Home(root=ingested[0]), Home(root=home))
    ranker(home, "evaluate", "--all")
    return home


def manifest(home: Path, team: str, track: str) -> dict[str, Any]:
    """The manifest of the one finished run of all steps."""
    paths = home.glob("runs/*/*/*/manifest.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    (one,) = [
        each
        for each in found
        if (each["submission"]["team"], each["condition"]["track"], each["condition"]["steps"]) == (team, track, STEPS)
    ]
    return dict(one)


def test_ingest_accepts_and_refuses_with_every_reason(ingested: tuple[Path, Any]) -> None:
    """Attacks the first hop: what is found in each ZIP, who is refused and why, in the order given; exit code 3."""
    spectrum, noise, broken = ingested[1]
    assert [each["team"] for each in ingested[1]] == ["spectrum", "noise", "broken"]
    assert [each["state"] for each in ingested[1]] == ["accepted", "accepted", "refused"]
    assert [each["check"]["result"]["encoder"]["output_dim"] for each in (spectrum, noise)] == [24, 40]
    assert spectrum["check"]["result"]["sandbox"] == "bubblewrap"
    assert len(broken["reasons"]) >= 2
    assert any("output_dim" in reason for reason in broken["reasons"])
    assert all(each["is_new"] for each in ingested[1])


def test_the_same_bytes_are_recognised(evaluated: Path) -> None:
    """Attacks intake by the same file again: nothing is checked twice; the line says which encoder it was."""
    line = told(evaluated, "ingest", str(evaluated / "spectrum.zip"))
    assert "evaluated (these bytes were known already); SpectrumEncoder of encoder.py, 24-d, 20 frames/s" in line
    (view,) = asked(evaluated, "ingest", str(evaluated / "spectrum.zip"))
    assert (view["is_new"], view["check"]["attempt"]) == (False, 1)


def test_rank_says_what_the_issue_asks_for(evaluated: Path) -> None:
    """Attacks the shape that programs rely on, and the point of it all: what hears ranks above what does not."""
    ranking = asked(evaluated, "rank", "--track", "A")
    assert {"benchmark", "track", "rows"} <= set(ranking)
    assert ranking["track"] == "A"
    asked_for = {"team", "rank", "score", "groups", "tasks", "missing"}
    assert [asked_for - set(row) for row in ranking["rows"]] == [set(), set()]
    for row in ranking["rows"]:
        assert set(row["tasks"]) == {"pitch", "side"}
        assert set(row["groups"]) == {"public", "hidden"}
        assert row["missing"] == []
        assert row["score"] == pytest.approx(sum(row["tasks"].values()) / 2)
    assert [row["score"] for row in ranking["rows"]] == sorted((row["score"] for row in ranking["rows"]), reverse=True)
    both = asked(evaluated, "rank")
    assert [each["track"] for each in both] == ["A", "B"]
    best, last = both[1]["rows"]
    assert [(row["team"], row["rank"]) for row in (best, last)] == [("spectrum", 1), ("noise", 2)]
    assert best["score"] > last["score"]
    text = told(evaluated, "rank")
    assert "(tiny)" in text
    assert "DEMONSTRATION" in text


def test_status_and_show_tell_the_same(evaluated: Path) -> None:
    """Attacks the two views of one submission: states, jobs and scores agree, and times have their zone."""
    views = asked(evaluated, "status")["submissions"]
    assert [(view["team"], view["state"]) for view in views] == [
        ("spectrum", "evaluated"),
        ("noise", "evaluated"),
        ("broken", "refused"),
    ]
    spectrum = views[0]
    assert {job["track"]: set(job["scores"]) for job in spectrum["evaluations"]} == {
        "A": {"pitch", "side"},
        "B": {"words"},
    }
    assert all(job["finished_at"].endswith("+00:00") for job in spectrum["evaluations"])
    assert asked(evaluated, "show", "spectrum") == spectrum == asked(evaluated, "show", spectrum["id"][:6])
    shown = told(evaluated, "show", "broken")
    assert all(reason[:40] in shown for reason in views[2]["reasons"])


def test_a_score_can_be_computed_again_from_its_predictions(evaluated: Path) -> None:
    """Attacks a number that nobody can check: the pairs on disk give the score in the database."""
    seen = 0
    for view in asked(evaluated, "status")["submissions"]:
        for job in view["evaluations"]:
            for task, score in job["scores"].items():
                items = pd.read_parquet(evaluated / job["result"]["run"] / "predictions" / f"{task}.parquet")
                assert len(items) == score["items"] == 8
                if score["metric"] == "Accuracy":
                    seen += 1
                    assert (items["reference"] == items["candidate"].str.strip()).mean() == score["value"]
                    assert items["item"].mean() == score["value"]
    assert seen == 4


def test_the_page_is_marked_and_names_no_machine(evaluated: Path) -> None:
    """Attacks the public page: it says demonstration, hides hidden predictions, and gives away no path or host."""
    told(evaluated, "publish", "--predictions")
    site = evaluated / "leaderboard/site"
    assert "demonstration" in (site / "index.html").read_text(encoding="utf-8").lower()
    data = json.loads((site / "data.json").read_text(encoding="utf-8"))
    assert [board["track"] for board in data["boards"]] == ["A", "B"]
    spectrum = next(each for each in data["submissions"] if each["team"] == "spectrum")
    assert [set(run["samples"]) for run in spectrum["runs"]] == [{"pitch"}, {"words"}]
    assert spectrum["runs"][0]["manifest"]["weights"] == manifest(evaluated, "spectrum", "A")["weights"]
    page = (site / f"submission/{spectrum['id']}.html").read_text(encoding="utf-8")
    assert "Durations" in page
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".json", ".csv"}]
    assert len(files) >= 8
    for path in files:
        text = path.read_text(encoding="utf-8")
        for secret in (str(evaluated), str(Path.home()) + "/", sys.prefix, f"{socket.gethostname()}:", "worker.log"):
            assert secret not in text, f"{path.name} holds {secret}"


def test_two_teams_are_compared(evaluated: Path) -> None:
    """Attacks the comparison: it agrees with the ranking, turns its sign with the order, and refuses one team twice."""
    scores = {row["team"]: row["score"] for row in asked(evaluated, "rank", "--track", "B")["rows"]}
    there, back = (
        asked(evaluated, "compare", *pair, "--track", "B")["B"]["pairs"][0]["differences"][0]
        for pair in (list(scores), list(scores)[::-1])
    )
    assert (
        there["difference"] == pytest.approx(scores["spectrum"] - scores["noise"]) == pytest.approx(-back["difference"])
    )
    assert there["interval"]["low"] <= there["difference"] <= there["interval"]["high"]
    told(evaluated, "compare", "noise", "noise", code=2)
    told(evaluated, "compare", "noise", "broken", code=2)


def test_results_are_written_from_the_database(evaluated: Path, tmp_path: Path) -> None:
    """Attacks the report: real manifests have all that it needs, and remarks stand below the figures."""
    (tmp_path / "remarks.md").write_text("It is surprising.\n", encoding="utf-8")
    text = told(evaluated, "results", "--remarks", str(tmp_path / "remarks.md"))
    assert text.startswith("# Results on Tiny (`tiny`)")
    best = asked(evaluated, "rank", "--track", "B")["rows"][0]
    assert f"| 1 | {best['team']} | {best['score']:.3f} |" in text
    assert "sandbox: bubblewrap" in text
    assert text.endswith("It is surprising.\n")


def test_evaluating_again_does_nothing(evaluated: Path) -> None:
    """Attacks repetition: what is there is not computed twice."""
    before = sorted(evaluated.glob("runs/*/*/*"))
    with contextlib.redirect_stderr(io.StringIO()) as complained:
        told(evaluated, "evaluate", "--all")
    assert "0 of 4 evaluations on tiny are to be done" in complained.getvalue()
    assert sorted(evaluated.glob("runs/*/*/*")) == before
    assert len(before) > 4


def test_a_limited_run_is_another_condition_with_the_same_start(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks mixing: one step is another board. Its weights are the initial ones (the warm-up begins at a rate of 0),
    which encoders of different width share but for the projector. Common randomness, too: whatever its width, each sees
    the same pairs, crops and prompts in one order, however many steps there are.
    """
    plans: list[list[tuple[Sample, ...]]] = []
    longer: list[list[tuple[Sample, ...]]] = []

    def recorded(*arguments: Any, **named: Any) -> list[tuple[Sample, ...]]:
        plans.append(curriculum(*arguments, **named))
        longer.append(curriculum(*arguments, **named | {"steps": 3}))
        return plans[-1]

    monkeypatch.setattr(evaluation, "curriculum", recorded)
    full = asked(evaluated, "rank", "--track", "A")
    Ranker(evaluated).queue_evaluations(None, Wanted(track="A", limit_steps=1))
    worked(evaluated)
    assert asked(evaluated, "rank", "--track", "A") == full
    views = asked(evaluated, "status")["submissions"]
    jobs = [job for view in views for job in view["evaluations"] if job["track"] == "A"]
    limited = {job["condition"] for job in jobs} - {manifest(evaluated, "noise", "A")["condition_digest"]}
    assert len(limited) == 1
    other = asked(evaluated, "rank", "--track", "A", "--condition", limited.pop()[:8])
    assert [row["team"] for row in other["rows"]] != []
    assert other != full
    starts = [load_file(path) for path in sorted(evaluated.glob("runs/*/*/*/step-00000001/trained.safetensors"))]
    assert len(starts) == 2
    lora = [{name: value for name, value in start.items() if "lora" in name} for start in starts]
    assert lora[0].keys() == lora[1].keys()
    assert len(lora[0]) >= 14
    assert all(torch.equal(lora[0][name], lora[1][name]) for name in lora[0])
    shapes = [{name: value.shape for name, value in start.items() if "lora" not in name} for start in starts]
    assert shapes[0] != shapes[1]
    assert len(plans) == 2
    assert [len(batch) for batch in plans[0]] == [4]
    assert [len(batch) for batch in longer[0]] == [4, 4, 4]
    assert longer[0][:1] == plans[0] == plans[1]
    assert longer[0] == longer[1]
    benchmark = load(Benchmark, evaluated / "configs/tiny.yaml")
    other = curriculum(
        benchmark.track("A"),
        benchmark.recipe,
        data=evaluated / "data/tiny",
        seed=1,
        random_key="another seed",
        steps=3,
        count_tokens=len,
    )
    assert other != longer[0]


def interrupted(home: Path) -> subprocess.CompletedProcess[str]:
    """Start an evaluation, and end it by Ctrl-C once its first checkpoint lies on the disk."""
    with subprocess.Popen(
        command(home, "evaluate", "spectrum", "--track", "A"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not list(home.glob(f"runs/*/*/attempt-0001/step-{CHECKPOINT:08d}/state.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no checkpoint appeared"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        os.kill(process.pid, signal.SIGINT)
        said, complained = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


@pytest.fixture
def own_copy(ingested: tuple[Path, Any], tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    copied(Home(root=ingested[0]), Home(root=home))
    yield home
    shutil.rmtree(home)


@pytest.mark.dear(day=2)
def test_an_interrupted_evaluation_ends_as_if_nothing_had_been(evaluated: Path, own_copy: Path) -> None:
    """Attacks with Ctrl-C in mid-training: the job waits, and goes on from the last checkpoint to the same weights to
    the bit, the same losses and the same scores.
    """
    ended = interrupted(own_copy)
    (job,) = asked(own_copy, "show", "spectrum")["evaluations"]
    assert (job["attempt"], job["reasons"]) == (1, [])
    assert (ended.returncode, job["status"]) == (130, "queued")
    assert "the same command goes on from here" in ended.stderr
    assert "Traceback" not in ended.stderr
    worked(own_copy)
    again, whole = manifest(own_copy, "spectrum", "A"), manifest(evaluated, "spectrum", "A")
    assert (again["attempt"], whole["attempt"]) == (2, 1)
    assert again["weights"] == whole["weights"]
    assert again["scores"] == whole["scores"]
    first, second = (
        (next(own_copy.glob(f"runs/*/*/attempt-000{attempt}/train.jsonl"))).read_text().splitlines()
        for attempt in (1, 2)
    )
    assert len(second) == STEPS
    assert second[:CHECKPOINT] == first[:CHECKPOINT], "the second attempt began anew, not at the checkpoint"


@pytest.mark.dear(day=0)
def test_an_evaluation_killed_again_and_again_ends_as_if_nothing_had_been(
    evaluated: Path, own_copy: Path, tmp_path: Path
) -> None:
    """Attacks with SIGKILL of the worker in the middle of a checkpoint, of the encoder, of everything while the second
    of two tasks is answered, of the coordinator, and between a run's manifest and its scores: the same command, begun
    again, gives the same adapter, predictions, losses and scores, bit for bit. What was finished is not done twice, no
    attempt lacks its ending, and nothing is left behind. `make chaos` does so at random, hundreds of times.
    """
    (own_copy / "configs/service.yaml").write_text(chaos.SERVICE.format(sandbox="bubblewrap"), encoding="utf-8")
    machine = chaos.Chaos(
        home=own_copy,
        ledger=chaos.Ledger(tmp_path / "ledger.jsonl"),
        seed=1,
        limit=len(PLAN),
        plan=PLAN,
        arguments=("evaluate", "spectrum", "--track", "A"),
        log=tmp_path / "said.log",
    )
    machine.evaluate()
    done = [
        (place in each["touch"], each["victim"])
        for (place, _, _), each in zip(PLAN, machine.ledger.entries(), strict=True)
    ]
    assert done == [(True, victim) for _, _, victim in PLAN]
    assert "Traceback" not in (tmp_path / "said.log").read_text()
    (again,) = aftermath.outcome(own_copy)["jobs"].items()
    assert again in aftermath.outcome(evaluated)["jobs"].items()
    assert aftermath.contradictions(own_copy) == []
    assert aftermath.leftovers(own_copy) == []
    notes = sorted(own_copy.glob("runs/*/*/*/predictions/pitch.parquet"))
    assert len(notes) > 1
    assert len({note.read_bytes() for note in notes}) == 1
    assert "pitch" not in tasks_measured(own_copy, after=notes[0].parts[-3])


def tasks_measured(home: Path, *, after: str) -> set[str]:
    """Tasks that attempts later than one have answered, as their logs tell."""
    logs = [path / "worker.jsonl" for path in home.glob("runs/*/*/attempt-*") if path.name > after]
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {line["fields"]["task"] for line in lines if line["event"] == "stage"}


def test_data_that_changed_is_found(own_copy: Path) -> None:
    """Attacks a benchmark by one flipped byte: `data verify` names the shard, and exit code 1 says: our fault."""
    assert told(own_copy, "data", "verify") == "tiny: as recorded\n"
    shard = own_copy / "data/tiny/test.tar"
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    assert "shard test.tar has changed" in told(own_copy, "data", "verify", "tiny", code=1)


@pytest.mark.dear(day=1)
def test_an_organizers_mistake_stops_the_queue_and_is_mended(own_copy: Path) -> None:
    """Attacks with data that goes missing after the job was queued: exit code 1, no blame on the team, nothing is begun
    until the pause is ended, and the same command does it once the data is back.
    """
    Ranker(own_copy).queue_evaluations(["noise"], Wanted(track="B", limit_steps=2))
    (own_copy / "data/tiny/train.tar").rename(own_copy / "train.tar")
    ranker(own_copy, "evaluate", "noise", "--track", "B", "--limit-steps", "2", code=1)
    view = asked(own_copy, "show", "noise")
    assert (view["state"], view["evaluations"][0]["fault"]) == ("failed", "organizer")
    (own_copy / "train.tar").rename(own_copy / "data/tiny/train.tar")
    ranker(own_copy, "evaluate", "noise", "--track", "B", "--limit-steps", "2", code=1)
    assert asked(own_copy, "show", "noise")["evaluations"][0]["attempt"] == 1
    told(own_copy, "resume")
    ranker(own_copy, "evaluate", "noise", "--track", "B", "--limit-steps", "2")
    assert asked(own_copy, "show", "noise")["state"] == "evaluated"


def test_doctor_speaks_json(evaluated: Path) -> None:
    """Attacks doctor on a home in use: every finding is complete, and the exit code says what they say."""
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        main(["--home", str(evaluated), "doctor", "--json"])
    findings = json.loads(said.getvalue())
    assert len(findings) >= 12
    assert {frozenset(each) for each in findings} == {frozenset({"part", "verdict", "found", "advice"})}
    assert all(each["advice"] for each in findings if each["verdict"] != "ok")
    assert ended.value.code == (4 if "missing" in {each["verdict"] for each in findings} else 0)
