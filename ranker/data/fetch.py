"""Files of hub repositories, brought into a folder: whole ones only, and exactly those that are pinned.

A file is downloaded beside the folder, into `.<folder>.fetching/`, under a name that holds its digest; there it is
resumed after a kill. Only when every file is there and has its digest are they put where they are looked for.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ranker.data.hub import Hub, download_url, is_offline
from ranker.data.lock import Lock, LockedFile, LockedRepository, Source, digests
from ranker.durable import flush
from ranker.errors import InfraError, MissingError, OrganizerError
from ranker.types import RepoKind

JOBS = 8


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How far a fetch is. What was here before counts as done; the total is None where nobody says it before."""

    bytes_done: int
    bytes_total: int | None
    files_done: int
    files_total: int


OnTransfer = Callable[[Transfer], None]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file that is wanted: `path` in the source at `commit`, to become `target` under the root folder."""

    source: Source
    commit: str
    path: str
    target: str
    file: LockedFile


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch did: SHA-256 by target, and how many files and bytes had to come."""

    sha256: Mapping[str, str]
    files: int
    bytes: int


def fetch_snapshot(
    repo: str,
    *,
    files: Sequence[str],
    folder: Path,
    lock: Path,
    revision: str = "main",
    kind: RepoKind = RepoKind.MODEL,
    jobs: int = JOBS,
    offline: bool = False,
    endpoint: str | None = None,
    on_transfer: OnTransfer = lambda _: None,
) -> str:
    """Bring the named files of one repository into `folder`, under their own paths; returns the commit.

    `lock` pins commit and digests (it is made, or grows, by what it does not know yet). Files that are in `folder`
    already and are those that are pinned stay as they are; what else lies there is not touched. Give the file without
    which nothing is taken for whole last: files are put in place in this order. Raises MissingError (not there, no
    access, or not here and `offline`), InfraError (network, disk), ConfigError (lock file), OrganizerError (other
    bytes than pinned).
    """
    source, hub = Source(kind=kind, repo=repo, revision=revision), Hub(endpoint=endpoint, offline=offline)
    with alone(folder):
        pinned = pin(hub, source, files, lock)
        items = [
            Item(source=source, commit=pinned.commit, path=path, target=path, file=pinned.files[path]) for path in files
        ]
        fetched = fetch(hub, items, folder, known={}, jobs=jobs, on_transfer=on_transfer)
        complete(lock, items, fetched.sha256)
    return pinned.commit


def fetch_file(
    url: str, *, sha256: str, path: Path, offline: bool = False, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Bring one published file of known content to `path`, unless it is there; resumed after a kill.

    `on_bytes` is told how many bytes have come. Raises MissingError (not there, or `offline`), InfraError (network) or
    OrganizerError (other bytes than `sha256` says; nothing is kept).
    """
    with alone(path):
        if path.is_file() and digests(path)[0] == sha256:
            return
        if offline or is_offline():
            raise MissingError(
                f"{path} is not there or not the right one, and {url} is not to be asked (--offline or HF_HUB_OFFLINE)"
            )
        part = path.with_name(f".{path.name}.{sha256[:16]}.part")
        download_url(url, part, on_bytes)
        found = digests(part)[0]
        if found != sha256:
            part.unlink()
            raise OrganizerError(f"{url} has SHA-256 {found}, expected {sha256}; it was changed, or a proxy answered")
        flush(part)
        part.replace(path)
        flush(path.parent)


def pin(hub: Hub, source: Source, wanted: Sequence[str], path: Path, also: Sequence[str] = ()) -> LockedRepository:
    """What the lock file at `path` says of the source, once it knows each of the `wanted` files.

    The commit is written down before anything else is asked: a fetch that is killed and begun again stays with it.
    Where the hub is asked, files of `also` that are there are recorded too. Raises MissingError that names a file
    which is not there, or the way to get a lock file if the hub may not be asked.
    """
    lock = Lock.load(path)
    pinned = lock.of(source, path)
    unknown = [each for each in wanted if pinned is None or each not in pinned.files]
    if pinned is not None and not unknown:
        return pinned
    if hub.offline:
        raise MissingError(
            f"{path} does not say what {unknown[0] if unknown else 'it'} of the {source} is, and the hub is not to be "
            "asked (--offline or HF_HUB_OFFLINE); take the lock file from a machine that has fetched it"
        )
    if pinned is None:
        commit = source.revision if source.is_pinned else hub.commit(source)
        pinned = LockedRepository(revision=source.revision, commit=commit)
        lock.with_repository(source, pinned).save(path)
    there = hub.files(source, pinned.commit)
    missing = [each for each in unknown if each not in there]
    if missing:
        more = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise MissingError(
            f"the {source} has no {missing[0]}{more} at commit {pinned.commit[:12]}, but {len(there)} others; "
            "compare the benchmark's YAML with what the hub shows"
        )
    found = {each: there[each] for each in [*wanted, *also] if each in there}
    pinned = pinned.model_copy(update={"files": {**found, **pinned.files}})
    lock.with_repository(source, pinned).save(path)
    return pinned


def complete(path: Path, items: Sequence[Item], sha256: Mapping[str, str]) -> None:
    """Put the SHA-256 of files that the hub knows by git's digest alone into the lock file."""
    lock = Lock.load(path)
    for source in dict.fromkeys(item.source for item in items):
        pinned = lock.repositories[source.key]
        known = {
            item.path: item.file.model_copy(update={"sha256": sha256[item.target]})
            for item in items
            if item.source == source and item.file.sha256 is None
        }
        if known:
            pinned = pinned.model_copy(update={"files": {**pinned.files, **known}})
            lock = lock.with_repository(source, pinned)
    if lock != Lock.load(path):
        lock.save(path)


def fetch(
    hub: Hub,
    items: Sequence[Item],
    root: Path,
    *,
    known: Mapping[str, str],
    jobs: int = JOBS,
    spare_bytes: int = 0,
    on_transfer: OnTransfer = lambda _: None,
    before_placing: Callable[[Sequence[Item]], None] = lambda _: None,
) -> Fetched:
    """Bring the items under `root`, which nobody else may be filling (see `alone`).

    `known` are SHA-256 of files under `root` that need no look at their content. `spare_bytes` must be free on the disk
    besides what is still to come. `before_placing` is told of the new files when all are there and none is in place.
    """
    work = _Work(hub, items, root, known)
    require_room(items, root, spare_bytes)
    if hub.offline:
        work.require_all_here()
    sha256, new = work.run(jobs, on_transfer)
    before_placing(new)
    for item in new:
        target = root / item.target
        target.parent.mkdir(parents=True, exist_ok=True)
        _whole(item, root).replace(target)
        flush(target.parent)
    shutil.rmtree(_staging(root), ignore_errors=True)
    return Fetched(sha256=sha256, files=len(new), bytes=sum(item.file.bytes for item in new))


def require_room(items: Sequence[Item], root: Path, spare_bytes: int) -> None:
    """Raise InfraError if the disk cannot take what of the items is still to come and `spare_bytes` besides."""
    coming = sum(_missing_bytes(item, root) for item in items)
    free = shutil.disk_usage(next(path for path in root.parents if path.is_dir())).free
    if coming + spare_bytes > free:
        unpacking = f", and {_gigabytes(spare_bytes)} for unpacking them" if spare_bytes else ""
        raise InfraError(
            f"the disk of {root.parent} is too small: {_gigabytes(coming)} of files are still to come"
            f"{unpacking}, but only {_gigabytes(free)} are free; make room, or put the folder on another disk"
        )


def _staging(root: Path) -> Path:
    return root.with_name(f".{root.name}.fetching")


def _whole(item: Item, root: Path) -> Path:
    """Where the item's file waits until all are there: it bears this name only once its digest was found right."""
    return _staging(root) / f"{item.target}.{item.file.name}"


def _part(item: Item, root: Path) -> Path:
    """Where it grows."""
    return _staging(root) / f"{item.target}.{item.file.name}.part"


def _missing_bytes(item: Item, root: Path) -> int:
    """How many bytes of the item are still to come, as far as sizes say."""
    for path in (root / item.target, _whole(item, root)):
        if path.is_file() and path.stat().st_size == item.file.bytes:
            return 0
    part = _part(item, root)
    return max(0, item.file.bytes - (part.stat().st_size if part.is_file() else 0))


class _Work:
    """What is to be done for some items: where each is by now, and how far all of them are."""

    def __init__(self, hub: Hub, items: Sequence[Item], root: Path, known: Mapping[str, str]) -> None:
        self.hub, self.items, self.root = hub, items, root
        self._known = known
        self._counting = threading.Lock()
        self._done = Transfer(
            bytes_done=sum(item.file.bytes - _missing_bytes(item, root) for item in items),
            bytes_total=sum(item.file.bytes for item in items),
            files_done=0,
            files_total=len(items),
        )

    def require_all_here(self) -> None:
        """Raise MissingError, naming the first, for files that could only come from the hub."""
        missing = [
            item
            for item in self.items
            if _missing_bytes(item, self.root) and self.hub.cached(item.source, item.commit, item.path) is None
        ]
        if missing:
            raise self._absent(missing)

    def run(self, jobs: int, on_transfer: OnTransfer) -> tuple[dict[str, str], list[Item]]:
        """Get every item; returns each one's SHA-256 by target, and which are new. The first failure ends all."""
        on_transfer(self._done)

        def count(came: int = 0, files: int = 0) -> None:
            with self._counting:
                done = self._done
                self._done = replace(done, bytes_done=done.bytes_done + came, files_done=done.files_done + files)
                on_transfer(self._done)

        def get(item: Item) -> tuple[str, bool]:
            found = self._get(item, count)
            count(files=1)
            return found

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            futures = [pool.submit(get, item) for item in self.items]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.hub.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        results = [(item, *future.result()) for item, future in zip(self.items, futures, strict=True)]
        return {item.target: sha256 for item, sha256, _ in results}, [item for item, _, new in results if new]

    def _get(self, item: Item, count: Callable[[int], None]) -> tuple[str, bool]:
        """The item's SHA-256, and whether it is new: then it lies whole in the staging folder."""
        here, whole, part = self.root / item.target, _whole(item, self.root), _part(item, self.root)
        if here.is_file() and here.stat().st_size == item.file.bytes:
            known = self._known.get(item.target)
            if known is not None and known == item.file.sha256:
                return known, False
            sha256, git_sha1 = digests(here)
            if item.file.accepts(sha256, git_sha1):
                return sha256, False
            count(-item.file.bytes)  # it was taken for the right one by its size, and is to be replaced
            part.unlink(missing_ok=True)
            if whole.is_file():
                count(item.file.bytes)
        if whole.is_file():
            return item.file.sha256 or digests(whole)[0], True
        whole.parent.mkdir(parents=True, exist_ok=True)
        copied = self._from_cache(item, part, count)
        if copied is None and self.hub.offline:
            raise self._absent([item])
        sha256 = copied or self.hub.download(
            item.source, item.commit, item.path, expected=item.file, part=part, on_bytes=count
        )
        flush(part)
        part.replace(whole)
        flush(whole.parent)
        return sha256, True

    def _from_cache(self, item: Item, part: Path, count: Callable[[int], None]) -> str | None:
        """Copy the item into `part` from the hub client's cache, if it is there and is what is pinned."""
        cached = self.hub.cached(item.source, item.commit, item.path)
        if cached is None or not item.file.describes(cached):
            return None
        had = part.stat().st_size if part.is_file() else 0
        shutil.copyfile(cached, part)
        sha256, git_sha1 = digests(part)
        if not item.file.accepts(sha256, git_sha1):  # it changed under our hands
            part.unlink()
            count(-had)
            return None
        count(item.file.bytes - had)
        return sha256

    def _absent(self, missing: Sequence[Item]) -> MissingError:
        return MissingError(
            f"{missing[0].target} is not under {self.root}, nor in the hub client's cache ({len(missing)} of "
            f"{len(self.items)} files are missing), and the hub is not to be asked (--offline or HF_HUB_OFFLINE)"
        )


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait for, and hold, the lock of those who fill one folder; the system frees it when its holder dies."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f".{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
