"""A benchmark's shards, gathered from the repositories that its YAML names: what its tasks need, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.config import Benchmark, Task
from ranker.data import store
from ranker.data.fetch import JOBS, Item, OnTransfer, alone, complete, fetch, pin, require_room
from ranker.data.hub import Hub
from ranker.data.lock import LockedRepository, Source, digests
from ranker.data.recorded import recorded
from ranker.data.shards import expand_braces
from ranker.data.tarball import plain_path
from ranker.errors import MissingError, UsageError
from ranker.types import RepoKind

UNPACKED_PER_PACKED = 1.5
"""Room that is kept for the plain copy of a compressed shard, in its own bytes: an allowance, not a measurement. FLAC
inside hardly shrinks when it is packed, WAV by a third or so.
"""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What lies in the benchmark's folder after a fetch.

    `commits` by repository; `files` and `bytes` of all shards that were asked for, `new_files` and `new_bytes` of those
    that had to come; `incomplete` names the tasks (switched on) that still lack shards, as they were not asked for.
    """

    benchmark: str
    digest: str
    commits: Mapping[str, str]
    files: int
    bytes: int
    new_files: int
    new_bytes: int
    incomplete: tuple[str, ...]


def survey(
    benchmark: Benchmark,
    root: Path,
    lock: Path,
    *,
    only: Sequence[str] = (),
    offline: bool = False,
    endpoint: str | None = None,
) -> None:
    """Pin what `collect` would fetch, and raise what is known before a byte of it comes: tasks and files that are not
    there, a hub that refuses, a disk that is too small.
    """
    wanted = _shards(_chosen(benchmark, only))
    with alone(root):
        _own_shards(benchmark, wanted, root)
        pinned = _pinned(Hub(endpoint=endpoint, offline=offline), benchmark, wanted, lock)
        items = _items(benchmark, wanted, pinned)
        require_room(items, root, _unpacking_bytes(root, items))


def collect(
    benchmark: Benchmark,
    root: Path,
    lock: Path,
    *,
    only: Sequence[str] = (),
    jobs: int = JOBS,
    offline: bool = False,
    endpoint: str | None = None,
    on_transfer: OnTransfer = lambda _: None,
) -> Collected:
    """Bring the shards of a benchmark's tasks (`only` these; none named: all that are switched on) under `root`.

    A shard whose first folder is no repository of the benchmark's must lie under `root` already; it is recorded like
    the others. The manifest is written last: until then the folder counts for what it counted before, or for less.
    Raises UsageError for an unknown task, MissingError, InfraError, ConfigError or OrganizerError as
    `ranker.data.fetch` does.
    """
    wanted = _shards(_chosen(benchmark, only))
    hub = Hub(endpoint=endpoint, offline=offline)
    with alone(root):
        own = _own_shards(benchmark, wanted, root)
        pinned = _pinned(hub, benchmark, wanted, lock)
        items = _items(benchmark, wanted, pinned)
        before = recorded(root)
        fetched = fetch(
            hub,
            items,
            root,
            known={name: shard["sha256"] for name, shard in before.items()},
            jobs=jobs,
            spare_bytes=_unpacking_bytes(root, items),
            on_transfer=on_transfer,
            before_placing=lambda new: _withdraw(root, new),
        )
        complete(lock, items, fetched.sha256)
        sizes = {
            **{item.target: item.file.bytes for item in items},
            **{name: (root / name).stat().st_size for name in own},
        }
        sha256 = {**fetched.sha256, **{name: digests(root / name)[0] for name in own}}
        shards = {name: {"sha256": sha256[name], "bytes": sizes[name]} for name in wanted}
        kept = _kept(benchmark, root, pinned)
        commits = {source.key: repository.commit for source, repository in pinned.items()}
        digest = store.record(root, {**kept, **shards}, made_from=commits)
    return Collected(
        benchmark=benchmark.name,
        digest=digest,
        commits=commits,
        files=len(shards),
        bytes=sum(sizes.values()),
        new_files=fetched.files,
        new_bytes=fetched.bytes,
        incomplete=tuple(task.name for task in _chosen(benchmark, ()) if not {*_shards([task])} <= {*kept, *shards}),
    )


def _chosen(benchmark: Benchmark, only: Sequence[str]) -> list[Task]:
    """The tasks of these names, or all; of either only those that are switched on."""
    active = [task for track in benchmark.tracks.values() for task in track.active_tasks]
    names = {task.name for task in active}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UsageError(
            f"benchmark {benchmark.name} has no task {unknown[0]!r} that is switched on; "
            f"it has {', '.join(sorted(names))}"
        )
    return [task for task in active if not only or task.name in only]


def _shards(tasks: Iterable[Task]) -> list[str]:
    """Every shard of these tasks once, in the order of the file."""
    splits = [split for task in tasks for split in (task.train, task.test) if split is not None]
    return list(dict.fromkeys(name for split in splits for pattern in split.shards for name in expand_braces(pattern)))


def _sources(benchmark: Benchmark) -> dict[str, Source]:
    """The repository of each folder."""
    return {
        folder: Source(kind=RepoKind.DATASET, repo=each.repo, revision=each.revision)
        for folder, each in benchmark.repositories.items()
    }


def _paths(benchmark: Benchmark, names: Iterable[str], source: Source) -> dict[str, str]:
    """Of these shards those of one repository, with their paths in it."""
    split = {name: name.split("/", 1) for name in names}
    sources = _sources(benchmark)
    return {name: parts[1] for name, parts in split.items() if len(parts) == 2 and sources.get(parts[0]) == source}


def _own_shards(benchmark: Benchmark, wanted: Sequence[str], root: Path) -> list[str]:
    """Shards of no repository: hidden tasks' and a benchmark's own. Raises MissingError where one is not there."""
    own = [name for name in wanted if name.split("/", 1)[0] not in benchmark.repositories]
    missing = [name for name in own if not (root / name).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MissingError(
            f"shard {missing[0]}{more} of benchmark {benchmark.name} is not under {root}, and its first folder is no "
            "repository of the benchmark's YAML; put it there, or name its repository, and type the same command"
        )
    return own


def _pinned(hub: Hub, benchmark: Benchmark, wanted: Sequence[str], lock: Path) -> dict[Source, LockedRepository]:
    """What is pinned of every repository that is needed; the lock file then knows the other tasks' shards too."""
    everything = _shards(task for track in benchmark.tracks.values() for task in track.tasks)
    pinned = {}
    for source in dict.fromkeys(_sources(benchmark).values()):
        paths = list(_paths(benchmark, wanted, source).values())
        if paths:
            also = list(_paths(benchmark, everything, source).values())
            pinned[source] = pin(hub, source, paths, lock, also)
    return pinned


def _items(benchmark: Benchmark, wanted: Sequence[str], pinned: Mapping[Source, LockedRepository]) -> list[Item]:
    return [
        Item(source=source, commit=repository.commit, path=path, target=name, file=repository.files[path])
        for source, repository in pinned.items()
        for name, path in _paths(benchmark, wanted, source).items()
    ]


def _unpacking_bytes(root: Path, items: Sequence[Item]) -> int:
    """Room for the plain copies that compressed shards do not have yet."""
    packed = [item for item in items if item.target.endswith((".tar.gz", ".tgz"))]
    missing = [item.file.bytes for item in packed if not _is_unpacked(root / item.target)]
    return round(UNPACKED_PER_PACKED * sum(missing))


def _is_unpacked(shard: Path) -> bool:
    return shard.is_file() and plain_path(shard).is_file()


def _kept(benchmark: Benchmark, root: Path, pinned: Mapping[Source, LockedRepository]) -> dict[str, dict[str, Any]]:
    """What the manifest says of shards that were not asked for now, as long as the lock file says nothing else."""
    before = recorded(root)
    expected = {
        name: repository.files[path].sha256
        for source, repository in pinned.items()
        for name, path in _paths(benchmark, before, source).items()
        if path in repository.files
    }
    return {
        name: shard
        for name, shard in before.items()
        if (root / name).is_file() and expected.get(name) in {None, shard["sha256"]}
    }


def _withdraw(root: Path, new: Sequence[Item]) -> None:
    """Before shards are replaced, the manifest that still describes the old ones must not."""
    before = recorded(root)
    left = {name: shard for name, shard in before.items() if name not in {item.target for item in new}}
    if left != before:
        store.record(root, left, made_from={})
