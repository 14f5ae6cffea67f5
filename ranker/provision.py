"""All that a benchmark's evaluation needs from outside this machine: its shards, the decoder, the metrics' models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ranker.config import Benchmark
from ranker.data.collect import Collected, collect, survey
from ranker.data.fetch import JOBS, OnTransfer, Transfer, fetch_file, fetch_snapshot
from ranker.errors import UsageError
from ranker.home import Home, asset, model_cache
from ranker.lalm import decoder
from ranker.metrics.caption_models import REFERENCE_CHECKER, REFERENCE_CHECKER_ENCODER, REFERENCE_SENTENCE_MODEL
from ranker.types import Buildable, MetricModels


@dataclass(frozen=True, kw_only=True)
class Provided:
    """What a fetch left behind: the shards, the lock file that pins them, and where each model lies."""

    data: Collected
    lock: Path
    models: dict[str, Path]


def lock_path(home: Home, benchmark: str) -> Path:
    """The lock file of a benchmark in this home; begun as a copy of the one that ships with ranker, if there is one."""
    own, shipped = (folder / f"{benchmark}.lock.json" for folder in (home.root / "configs", asset("configs")))
    if not own.is_file() and shipped.is_file():
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shipped, own)
    return own


def provide(
    home: Home,
    benchmark: Benchmark,
    *,
    lock: Path | None = None,
    only: Sequence[str] = (),
    jobs: int = JOBS,
    offline: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
    on_transfer: OnTransfer = lambda _: None,
) -> Provided:
    """Look what is to come, and whether there is room; then fetch the models, which are small and may be refused, and
    the shards of the tasks (`only` these).

    `on_step` is told what comes next, `on_transfer` how far it is. Raises UsageError for a benchmark that is built
    here, and what `ranker.data.fetch` raises.
    """
    if benchmark.name in set(Buildable) and not benchmark.repositories:
        raise UsageError(f"{benchmark.name} is built here, not fetched: run `ranker data build {benchmark.name}`")
    lock = lock or lock_path(home, benchmark.name)
    root = home.data / benchmark.name
    survey(benchmark, root, lock, only=only, offline=offline)
    models = {}
    for name, get in _models(benchmark, lock, jobs=jobs, offline=offline, on_transfer=on_transfer):
        on_step(name)
        models[name] = get()
    on_step(benchmark.name)
    data = collect(benchmark, root, lock, only=only, jobs=jobs, offline=offline, on_transfer=on_transfer)
    return Provided(data=data, lock=lock, models=models)


def _models(
    benchmark: Benchmark, lock: Path, *, jobs: int, offline: bool, on_transfer: OnTransfer
) -> list[tuple[str, Callable[[], Path]]]:
    """The models that the benchmark's recipe and metrics use and that are fetched, each with what fetches it."""

    def repository(name: str, revision: str, files: Sequence[str], folder: Path) -> tuple[str, Callable[[], Path]]:
        def get() -> Path:
            fetch_snapshot(
                name,
                revision=revision,
                files=files,
                folder=folder,
                lock=lock,
                jobs=jobs,
                offline=offline,
                on_transfer=on_transfer,
            )
            return folder

        return name, get

    def file(url: str, sha256: str, path: Path) -> tuple[str, Callable[[], Path]]:
        def get() -> Path:
            done = 0

            def count(came: int) -> None:
                nonlocal done
                done += came
                on_transfer(Transfer(bytes_done=done, bytes_total=None, files_done=0, files_total=1))

            fetch_file(url, sha256=sha256, path=path, offline=offline, on_bytes=count)
            return path

        return path.name, get

    found = []
    if benchmark.recipe.decoder == decoder.CHALLENGE_DECODER:
        found.append(
            repository(decoder.CHALLENGE_REPOSITORY, "main", decoder.CHALLENGE_FILES, decoder.challenge_folder())
        )
    tasks = [task for track in benchmark.tracks.values() for task in track.active_tasks]
    if benchmark.recipe.metric_models is MetricModels.REFERENCE and any(task.metric.is_caption for task in tasks):
        root, checker = model_cache(), REFERENCE_CHECKER
        found += [
            repository(each.repository, each.revision, each.files, root / each.folder)
            for each in (REFERENCE_SENTENCE_MODEL, REFERENCE_CHECKER_ENCODER)
        ]
        found.append(file(checker.url, checker.sha256, root / checker.path))
    return found
