"""One fetch brings all that an evaluation needs from outside: to the places where each is looked for."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import hub_server
import pytest
from huggingface_hub import constants

from ranker import provision
from ranker.config import Benchmark, load
from ranker.data import store
from ranker.data.lock import Lock
from ranker.errors import InfraError, MissingError
from ranker.home import Home
from ranker.lalm import decoder
from ranker.metrics.caption_models import (
    REFERENCE_CHECKER_ENCODER,
    REFERENCE_SENTENCE_MODEL,
    WebFile,
    reference_models,
)

pytest_plugins = ["hub_client"]

CHECKER = random.Random(3).randbytes(5000)
CAPTIONS = """
name: captions
title: Captions
description: One task, scored by the reference models.
whole_protocol: false
repositories:
  sounds: {repo: org/sounds, revision: main}
recipe: {decoder: smollm2-135m, metric_models: reference}
tracks:
  B:
    title: Captions
    tasks:
      - {name: clotho, title: Clotho, domain: sound, metric: FENSE,
         test: {shards: ["sounds/test.tar"], key: [caption], prompt: "What is heard?"}}
"""


@pytest.fixture
def home(server: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home, and a hub that has shards and models for it."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # what HF_ENDPOINT sets at the import
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path / "cache"))
    server.put("org/sounds", {"test.tar": b"tar" * 1000})
    files = {name: name.encode() * 300 for name in decoder.CHALLENGE_FILES} | {
        "config.json": b'{"num_hidden_layers": 30}'
    }
    server.put(decoder.CHALLENGE_REPOSITORY, {**files, "pytorch_model.bin": b"x" * 5000}, kind="model")
    for model in (REFERENCE_SENTENCE_MODEL, REFERENCE_CHECKER_ENCODER):
        commit = server.put(model.repository, {name: name.encode() * 300 for name in model.files}, kind="model")
        repo = server.repos[f"models/{model.repository}"]
        repo.commits[model.revision] = repo.commits.pop(commit)
        repo.branches.clear()
    server.put("org/web", {"checker.ckpt": CHECKER})
    digest = hashlib.sha256(CHECKER).hexdigest()
    checker = WebFile(path="fense/checker.ckpt", url=f"{server.cdn}/blob/{digest}/checker.ckpt", sha256=digest)
    monkeypatch.setattr(provision, "REFERENCE_CHECKER", checker)
    (tmp_path / "home/configs").mkdir(parents=True)
    (tmp_path / "home/configs/captions.yaml").write_text(CAPTIONS)
    return Home(root=tmp_path / "home")


def test_models_lie_where_they_are_looked_for(server: hub_server.Hub, home: Home, tmp_path: Path):
    """After one fetch the decoder is located and the metric models' files are all there; a second one asks nothing."""
    benchmark = load(Benchmark, home.config_path("captions"))
    steps: list[str] = []
    found = provision.provide(home, benchmark, on_step=steps.append)
    assert steps == [*found.models, "captions"]
    assert len(steps) == 5
    assert decoder.locate(decoder.CHALLENGE_DECODER).weights.read_bytes() == b"model.safetensors" * 300
    assert (tmp_path / "cache/fense/checker.ckpt").read_bytes() == CHECKER
    for model in (REFERENCE_SENTENCE_MODEL, REFERENCE_CHECKER_ENCODER):
        folder = tmp_path / "cache" / model.folder
        assert {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()} == set(model.files)
    with pytest.raises(MissingError) as lacking:  # the test's checker has another name than the reference's
        reference_models(tmp_path / "cache")
    assert "but fense/echecker_clotho_audiocaps_base.ckpt" in str(lacking.value), "it lacks that one alone"
    assert store.verify(home.data / "captions") == []
    pinned = Lock.load(found.lock).repositories
    assert {key.split(":")[0] for key in pinned} == {"dataset", "model"}
    assert len(pinned) == 4
    asked = len(server.requests)
    provision.provide(home, benchmark, offline=True)
    assert len(server.requests) == asked


def test_models_that_are_refused_end_the_fetch_before_the_shards(server: hub_server.Hub, home: Home):
    """A missing token is found in the first second, not after the last gigabyte."""
    server.repos[f"models/{REFERENCE_SENTENCE_MODEL.repository}"].gated = True
    with pytest.raises(MissingError, match="is gated"):
        provision.provide(home, load(Benchmark, home.config_path("captions")))
    assert not server.bytes_requests("test.tar")


def test_a_disk_too_small_for_the_shards_is_said_before_the_models_come(server: hub_server.Hub, home: Home):
    """Not a byte of anything comes where the whole cannot."""
    server.repos["datasets/org/sounds"].claimed["test.tar"] = 10**18
    with pytest.raises(InfraError, match="too small"):
        provision.provide(home, load(Benchmark, home.config_path("captions")))
    assert not [seen for seen in server.requests if "/resolve/" in seen.path or seen.cdn]


def test_a_stand_in_needs_nothing_from_the_hub(server: hub_server.Hub, home: Home):
    """Only what the recipe names is fetched: with stand-ins, the shards alone."""
    text = CAPTIONS.replace("smollm2-135m,", "smollm2-135m-instruct-q4_1,").replace("reference}", "minilm}")
    (home.root / "configs/captions.yaml").write_text(text)
    assert provision.provide(home, load(Benchmark, home.config_path("captions"))).models == {}
    assert not [seen for seen in server.requests if "/models/" in seen.path]


def test_a_shipped_lock_file_counts_until_the_home_has_its_own(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is copied, never written to: what ships with ranker is the same for everybody."""
    monkeypatch.setattr(provision, "asset", tmp_path.joinpath)
    (tmp_path / "configs").mkdir()
    shipped = tmp_path / "configs/captions.lock.json"
    assert not provision.lock_path(home, "captions").exists()
    Lock().save(shipped)
    own = provision.lock_path(home, "captions")
    assert own == home.root / "configs/captions.lock.json"
    assert own.read_bytes() == shipped.read_bytes()
    own.write_text("{}")
    assert provision.lock_path(home, "captions").read_text() == "{}"
