"""A benchmark's data from the hub: what its tasks need, recorded like what is built here, and never half."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import hub_server
import pytest
import tones
from effort import count
from huggingface_hub import constants
from kills import is_killed_at

from ranker.cli import main
from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.collect import UNPACKED_PER_PACKED, Collected, collect
from ranker.data.recorded import recorded
from ranker.data.shards import expand_braces, read_split
from ranker.errors import InfraError, MissingError, UsageError
from ranker.lalm.decoder import CHALLENGE_FILES, CHALLENGE_REPOSITORY
from ranker.service import Ranker
from ranker.types import Buildable

pytest_plugins = ["hub_client"]

TINY = """
name: tiny
title: Tiny
description: Tones from a hub.
whole_protocol: false
repositories:
  sounds: {repo: org/sounds, revision: main}
  words: {repo: org/words, revision: main}
recipe: {decoder: smollm2-135m-instruct-q4_1, metric_models: minilm}
tracks:
  A:
    title: Tones
    tasks:
      - {name: pitch, title: Pitch, domain: music, metric: Accuracy,
         train: {shards: ["sounds/pitch/train-{00..02}.tar"], key: [label], prompt: "High or low?"},
         test: {shards: ["sounds/pitch/test.tar.gz"], key: [label], prompt: "High or low?"}}
      - {name: unpublished, title: Unpublished, domain: music, metric: Accuracy, enabled: false, note: "Not published.",
         test: {shards: ["sounds/none/test.tar"], key: [label], prompt: "What?"}}
  B:
    title: Words
    tasks:
      - {name: words, title: Words, domain: speech, metric: iWER,
         train: {shards: ["sounds/pitch/train-00.tar"], key: [label], prompt: "Which?"},
         test: {shards: ["words/test.tar"], key: [label], prompt: "Which?"}}
"""
NAMES = {f"sounds/pitch/train-0{i}.tar" for i in range(3)} | {"sounds/pitch/test.tar.gz", "words/test.tar"}


def shard(folder: Path, clips: int, pitch: int = 0) -> bytes:
    """A tar of tones; `pitch` tells two of the same length apart."""
    tones.write_tones(folder / "made.tar", [0.1] * clips, [{"label": f"{pitch} {i}"} for i in range(clips)])
    return (folder / "made.tar").read_bytes()


@pytest.fixture
def published(server: hub_server.Hub, tmp_path: Path) -> dict[str, bytes]:
    """Two repositories with more in them than the benchmark wants; what it wants, by name."""
    sounds = {f"pitch/train-0{i}.tar": shard(tmp_path, i + 1) for i in range(4)}
    sounds["pitch/test.tar.gz"] = gzip.compress(shard(tmp_path, 3), mtime=0)
    words = {"test.tar": shard(tmp_path, 2, 7), "README.md": b"Words."}
    server.put("org/sounds", sounds)
    server.put("org/words", words)
    every = {f"sounds/{name}": data for name, data in sounds.items()}
    every |= {f"words/{name}": data for name, data in words.items()}
    return {name: every[name] for name in NAMES}


def tiny(folder: Path, change: Callable[[str], str] = str) -> Benchmark:
    (folder / "tiny.yaml").write_text(change(TINY))
    return load(Benchmark, folder / "tiny.yaml")


def get(server: hub_server.Hub, home: Path, benchmark: Benchmark | None = None, **options: object) -> Collected:
    home.mkdir(exist_ok=True)
    arguments = {"endpoint": server.endpoint, **options}
    return collect(benchmark or tiny(home), home / "data/tiny", home / "lock.json", **arguments)


def shards(home: Path) -> dict[str, bytes]:
    root = home / "data/tiny"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.tar*")}


def test_what_the_tasks_need_comes_and_nothing_else(
    server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path
):
    """Shards of tasks that are switched on, each once; those that are switched off need not even be published."""
    found = get(server, tmp_path / "home")
    assert shards(tmp_path / "home") == published
    assert (found.files, found.new_files, found.incomplete) == (5, 5, ())
    assert found.bytes == found.new_bytes == sum(map(len, published.values()))
    assert set(found.commits) == {"dataset:org/sounds", "dataset:org/words"}
    again = get(server, tmp_path / "home")
    assert (again.new_files, again.new_bytes, again.digest) == (0, 0, found.digest)


def test_fetched_data_is_used_like_built_data(server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path):
    """The same shards have the same digests whether built or fetched; verification and reading work on both."""

    def make(root: Path, progress: store.ProgressHook) -> None:
        for name, data in published.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)

    root = tmp_path / "home/data/tiny"
    found = get(server, tmp_path / "home")
    assert store.verify(root) == []
    assert store.build(tmp_path / "built/tiny", make, version=1) == found.digest == store.digest(root)
    patterns = ["sounds/pitch/train-{00..02}.tar", "sounds/pitch/test.tar.gz"]
    assert store.data_digest(root, patterns) == store.data_digest(tmp_path / "built/tiny", patterns)
    assert [len(each.clips) for each in read_split(root, patterns)] == [1, 2, 3, 3]
    assert store.verify(root) == [], "what reading leaves beside the shards is no difference"
    (root / "words/test.tar").write_bytes(b"x")
    assert len(store.verify(root)) == 1


def test_a_part_becomes_a_whole(server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path):
    """One task's shards make a benchmark that says what is missing; the rest comes later, and only the rest."""
    part = get(server, tmp_path / "home", only=["words"])
    assert set(shards(tmp_path / "home")) == {"words/test.tar", "sounds/pitch/train-00.tar"}
    assert part.incomplete == ("pitch",)
    assert store.verify(tmp_path / "home/data/tiny") == []
    with pytest.raises(MissingError, match=r"test\.tar\.gz is not in .*ranker data fetch tiny"):
        store.data_digest(tmp_path / "home/data/tiny", ["sounds/pitch/test.tar.gz"])
    whole = get(server, tmp_path / "home")
    assert (whole.files, whole.new_files, whole.incomplete) == (5, 3, ())
    assert shards(tmp_path / "home") == published
    assert get(server, tmp_path / "home", only=["words"]).incomplete == (), "a part does not undo the whole"
    assert store.digest(tmp_path / "home/data/tiny") == whole.digest
    with pytest.raises(UsageError, match=r"no task 'unpublished' that is switched on; it has pitch, words"):
        get(server, tmp_path / "home", only=["unpublished"])


def test_the_lock_file_of_a_part_is_that_of_the_whole(
    server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path
):
    """Whoever fetched one task only can already share what the others must be."""
    get(server, tmp_path / "home", only=["pitch"])
    pinned = json.loads((tmp_path / "home/lock.json").read_text())["repositories"]["dataset:org/sounds"]
    server.put("org/sounds", {"pitch/train-00.tar": b"another"})
    assert set(pinned["files"]) == {name.partition("/")[2] for name in NAMES if name.startswith("sounds/")}
    assert get(server, tmp_path / "home").commits["dataset:org/sounds"] == pinned["commit"]
    assert shards(tmp_path / "home") == published


def test_a_missing_file_is_named_before_anything_comes(
    server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path
):
    """A pattern that names a shard too many is found in the listing, not after hours."""
    benchmark = tiny(tmp_path, lambda text: text.replace("{00..02}", "{00..09}"))
    with pytest.raises(MissingError, match=r"dataset org/sounds has no pitch/train-04\.tar and 5 more files at commit"):
        get(server, tmp_path / "home", benchmark)
    assert not [seen for seen in server.requests if "/resolve/" in seen.path]
    assert not store.is_built(tmp_path / "home/data/tiny")


def test_shards_of_no_repository_are_recorded_where_they_lie(
    server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path
):
    """Hidden tasks' shards are on no hub: they are asked for by name, and then belong to the benchmark."""
    benchmark = tiny(tmp_path, lambda text: text.replace('"words/test.tar"', '"secret/test.tar"'))
    with pytest.raises(MissingError, match=r"shard secret/test\.tar of benchmark tiny is not under"):
        get(server, tmp_path / "home", benchmark)
    root = tmp_path / "home/data/tiny"
    (root / "secret").mkdir(parents=True)
    (root / "secret/test.tar").write_bytes(shard(tmp_path, 2))
    found = get(server, tmp_path / "home", benchmark)
    assert (found.files, found.new_files) == (5, 4)
    assert store.verify(root) == []
    assert store.data_digest(root, ["secret/test.tar"])
    get(server, tmp_path / "home", tiny(tmp_path))
    assert store.data_digest(root, ["secret/test.tar"]), "a fetch without the hidden tasks keeps them"


def test_a_benchmark_without_repositories_is_recorded_as_it_lies(server: hub_server.Hub, tmp_path: Path):
    """Shards that somebody put under data/ become a benchmark like any other, and no hub is asked."""
    text = "\n".join(line for line in TINY.splitlines() if "repo" not in line)
    benchmark = tiny(tmp_path, lambda _: text)
    root = tmp_path / "home/data/tiny"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(shard(tmp_path, 1))
    found = get(server, tmp_path / "home", benchmark)
    assert (found.files, found.new_files, found.commits) == (5, 0, {})
    assert store.verify(root) == []
    assert server.requests == []
    assert not (tmp_path / "home/lock.json").exists()


def test_room_for_unpacking_is_asked_for_too(server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path):
    """A compressed shard takes its plain copy's room besides its own."""
    free = shutil.disk_usage(tmp_path).free
    packed = len(published["sounds/pitch/test.tar.gz"])
    server.repos["datasets/org/sounds"].claimed["pitch/test.tar.gz"] = size = int(free * 0.6)
    assert size + UNPACKED_PER_PACKED * size > free > size > packed
    with pytest.raises(InfraError, match=r"too small: .* are still to come, and .* for unpacking them, but only"):
        get(server, tmp_path / "home")
    assert not [seen for seen in server.requests if "/resolve/" in seen.path]


@pytest.mark.dear(day=1)
def test_a_kill_at_any_moment_leaves_a_manifest_that_is_true(
    server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path
):
    """SIGKILL before touches of files (each of them in the long run) while two shards are replaced by a newer commit's:
    the manifest never describes bytes that are not there, and the same fetch ends it.
    """
    get(server, tmp_path / "old")
    newer = {"pitch/train-01.tar": shard(tmp_path, 2, 5), "pitch/train-02.tar": shard(tmp_path, 9)}
    commit = server.repos["datasets/org/sounds"].branches["main"]
    server.put("org/sounds", {**server.repos["datasets/org/sounds"].commits[commit], **newer})
    step, replaced = 1, 0
    stride = count("of each n-th step of a fetch one with a SIGKILL: n", short=4, long=1)
    while True:
        home = tmp_path / f"home{step}"
        shutil.copytree(tmp_path / "old", home)
        (home / "lock.json").unlink()
        benchmark = tiny(home)
        killed = is_killed_at(step, home, lambda touch, home=home, benchmark=benchmark: get(server, home, benchmark))
        root = home / "data/tiny"
        told = recorded(root)
        assert not [problem for problem in store.verify(root) if "changed" in problem or "missing" in problem]
        replaced += 0 < len(told) < 5
        get(server, home, benchmark)
        assert store.verify(root) == []
        assert shards(home) == {**published, **{f"sounds/{name}": data for name, data in newer.items()}}
        shutil.rmtree(home)
        if not killed:
            break
        step += stride
    assert step > 40, "the steps of a fetch were seen"
    assert replaced > 0, "some kills came between the old manifest and the new one"


# The command itself, in processes of its own.


def environment(server: hub_server.Hub, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home / "hf"),
        "RANKER_CACHE": str(home / "cache"),
        "NO_PROXY": "127.0.0.1",
    }


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ranker", "--home", str(home), "data", *words]


def type_(server: hub_server.Hub, home: Path, *words: str, code: int = 0, **variables: str) -> str:
    """Standard output of a command that ends with this code, without a traceback."""
    done = subprocess.run(
        command(home, *words),
        env=environment(server, home) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def make_home(root: Path, text: str = TINY) -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "configs/tiny.yaml").write_text(text)
    return root


def test_fetch_and_verify_as_they_are_typed(server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path):
    """Everything by HF_ENDPOINT and the home alone; the decoder comes with it, to where it is looked for."""
    model = dict.fromkeys(CHALLENGE_FILES[:-1], b'{"num_hidden_layers": 30}') | {"model.safetensors": b"w" * 9000}
    server.put(CHALLENGE_REPOSITORY, model, kind="model")
    home = make_home(tmp_path / "home", TINY.replace("smollm2-135m-instruct-q4_1", "smollm2-135m"))
    said = json.loads(type_(server, home, "fetch", "tiny", "--json", "--jobs", "2"))
    assert (said["benchmark"], said["files"], said["new_files"], said["incomplete"]) == ("tiny", 5, 5, [])
    assert said["lock"] == str(home / "configs/tiny.lock.json")
    assert said["models"] == {CHALLENGE_REPOSITORY: str(home / "cache/smollm2-135m")}
    assert {path.name: path.read_bytes() for path in (home / "cache/smollm2-135m").iterdir()} == model
    assert shards(home) == published
    assert type_(server, home, "verify", "tiny") == "tiny: as recorded\n"
    asked = len(server.requests)
    assert "0 of 0.00 GB new" in type_(server, home, "fetch", "tiny", HF_HUB_OFFLINE="1")
    assert len(server.requests) == asked


def test_a_killed_fetch_is_taken_up_where_it_was(server: hub_server.Hub, published: dict[str, bytes], tmp_path: Path):
    """SIGKILL of the command while a shard is on its way: nothing counts as there, and the same command asks for the
    bytes that are missing, and for those only.
    """
    home = make_home(tmp_path / "home")
    big = published["words/test.tar"] + bytes(8 << 20)
    commit = server.put("org/words", {"test.tar": big})
    held, release = threading.Event(), threading.Event()
    server.faults["test.tar"] = [hub_server.hold_after(6 << 20, held, release)]
    with subprocess.Popen(
        command(home, "fetch", "tiny", "--jobs", "1"), env=environment(server, home), stderr=subprocess.PIPE
    ) as process:
        while not held.wait(0.05):
            assert process.poll() is None
        part = next(iter((home / "data/.tiny.fetching/words").glob("test.tar.*.part")))
        while part.stat().st_size == 0:  # what the hub has sent is on its way through the client
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    release.set()
    kept = part.stat().st_size
    assert 0 < kept < len(big)
    assert not (home / "data/tiny").exists()
    with pytest.raises(MissingError, match="run `ranker data fetch tiny`"):
        Ranker(home).verify_data("tiny")
    server.requests.clear()
    type_(server, home, "fetch", "tiny")
    assert Ranker(home).verify_data("tiny") == {"tiny": []}
    assert shards(home) == {**published, "words/test.tar": big}
    asked = [seen for seen in server.requests if "/resolve/" in seen.path]
    assert [(seen.path.rpartition("/")[2], seen.headers["range"]) for seen in asked] == [
        ("test.tar", f"bytes={kept}-")
    ], f"at commit {commit}"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fetch", "mini"], 2, "run `ranker data build mini`"),
        (["fetch", "nothing"], 2, "there is no benchmark 'nothing'"),
        (["fetch", "tiny", "--only", "pich"], 2, "no task 'pich'"),
        (["fetch", "tiny", "--offline"], 4, "take the lock file from a machine"),
        (["fetch", "tiny"], 4, "there is no dataset org/sounds at http://127.0.0.1"),
    ],
)
def test_what_cannot_be_fetched_says_why(
    server: hub_server.Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
):
    """One sentence and the exit code of its kind."""
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    with pytest.raises(SystemExit) as left:
        main(["--home", str(make_home(tmp_path / "home")), "data", *words])
    assert left.value.code == code
    assert said in capsys.readouterr().err


def test_advice_names_the_command_that_brings_the_data(tmp_path: Path):
    """What ranker builds is to be built, and everything else fetched: also where only a shard is missing."""
    assert {"mini", "field"} == set(Buildable)
    for name in ("mini", "challenge", "own"):
        verb = "build" if name in set(Buildable) else "fetch"
        with pytest.raises(MissingError, match=f"run `ranker data {verb} {name}`"):
            store.data_digest(tmp_path / name, ["a.tar"])
        with pytest.raises(MissingError, match=f"run `ranker data {verb} {name}`"):
            read_split(tmp_path / name, ["a.tar"])
    with pytest.raises(MissingError, match="run `ranker data fetch challenge`"):
        Ranker(tmp_path).verify_data("challenge")


def test_every_shard_of_the_challenge_is_in_one_of_its_repositories():
    """Each of its tasks that are switched on can be fetched, and each of its repositories is needed."""
    benchmark = load(Benchmark, Path(__file__).parent.parent / "configs/challenge.yaml")
    names = [
        name
        for track in benchmark.tracks.values()
        for task in track.active_tasks
        for split in (task.train, task.test)
        if split is not None
        for pattern in split.shards
        for name in expand_braces(pattern)
    ]
    assert len(names) > 1000
    assert {name.split("/")[0] for name in names} == set(benchmark.repositories)
