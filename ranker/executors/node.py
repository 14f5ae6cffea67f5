"""What runs on a machine of a cluster: a job in a process of its own, in a folder of its own, without a database.

`attempt` is a generator: all that it tells (signs of life, progress, files, how it ended) goes back to the coordinator,
which alone decides what counts. When the process that runs it is killed, the kernel ends the job's process, too.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import ranker
from ranker.errors import InfraError, RankerError
from ranker.executors.gpus import driver_gpus, memory
from ranker.executors.local import thread_limits
from ranker.executors.parcel import CHECKPOINT, Bring, Cache, Courier, Piece, chunks_of
from ranker.executors.pool import last_line
from ranker.home import Home, model_cache
from ranker.job import Failure, Order, run_folder
from ranker.sandbox.processes import kill_below
from ranker.types import Fault, digest_json

PIPE_BYTES = 2**16
PROGRESS_S = 1.0
COMMAND = (sys.executable, "-m", "ranker.perform")
STOP_GRACE_S = 20.0
TICK_S = 0.5
SILENT_S = 120.0
"""A job's process that has told nothing for so long is stopped, or hangs: one that lives does so every few seconds."""
STARTING_S = 300.0
"""How much longer than that it may take to begin: libraries are loaded, and the machine may be busy."""
ASKS_PER_LEASE = 8

Word = dict[str, Any]
"""One thing told: `begun`, `beat`, `progress`, `part` (`offset`, `data`), `delivery`, `outcome` or `failure`."""

Ask = Callable[[], float | None]
"""Asks the coordinator's machine how many seconds ago the attempt's lease was prolonged: None, the job is another's by
now. Raises whatever it likes where no answer comes.
"""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a node needs to know to do an attempt. `order.home` is the organizer's, of which only names are used.

    `data`: of the benchmark's shards, relative to `data/<benchmark>`; `pieces`: of all else, relative to the home;
    `hidden`: the file of hidden tasks. `shared`: a folder that all see, for files on their way; `data_folder`: where
    the shards lie on every node already. `threads`: for the job's processes. `beat_s`: how often to be heard of.
    """

    order: Order
    pieces: tuple[Piece, ...]
    data: tuple[Piece, ...]
    hidden: Piece | None
    node_folder: Path | None
    shared: Path | None
    data_folder: Path | None
    cache_bytes: float
    threads: int
    beat_s: float
    command: tuple[str, ...] = COMMAND


def attempt(errand: Errand, bring: Bring, node: str, ask: Ask) -> Iterator[Word]:
    """Do an attempt, and tell about it. `bring` gets files from the coordinator's machine; `node` is this node's name.

    Ends after `outcome` or `failure`. An interruption ends the job's process first; so does the loss of the lease, of
    which `ask` tells, also while nobody takes what is told here.
    """
    yield {"begun": {"node": node, "host": socket.gethostname(), "pid": os.getpid()}}
    try:
        with _workplace(errand, node) as (cache, home), Lease(ask, errand.order.service.lease_s) as lease:
            yield from _fetched(errand, cache, home, bring, lease)
            order = _settled(errand, home)
            yield from _performed(errand, order, lease)
    except (RankerError, OSError) as error:
        reason = f"on node {socket.gethostname()}: {error}"
        yield {"failure": Failure(fault=Fault.INFRA, reasons=(reason,)).to_json()}


class Lease:
    """What this node knows of its job's lease: a thread asks for it, and ends the job's process when it is lost.

    It is lost when the job is another's, and when the coordinator has not been heard of for as long as the lease lasts:
    by then somebody else may do the job.
    """

    def __init__(self, ask: Ask, lease_s: float) -> None:
        self._ask = ask
        self._lease_s = lease_s
        self._held_at = time.monotonic()
        self._lost: str | None = None
        self._end: Callable[[], None] = lambda: None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()  # not waited for: it may be asking a machine that is gone

    def must_hold(self) -> None:
        """Raises InfraError if it is lost."""
        if self._lost is not None:
            raise InfraError(self._lost)

    def ends(self, end: Callable[[], None]) -> None:
        """What to do, in the thread that asks, when it is lost."""
        self._end = end
        if self._lost is not None:
            end()

    def _watch(self) -> None:
        while not self._over.wait(self._lease_s / ASKS_PER_LEASE):
            try:
                age_s = self._ask()
            except Exception as error:  # noqa: BLE001  whatever Ray raises: there is no answer, which is no loss yet
                silent_s, why = time.monotonic() - self._held_at, f" ({type(error).__name__})"
            else:
                if age_s is None:
                    self._lose("its job was given to another attempt, or cancelled")
                    return
                self._held_at = max(self._held_at, time.monotonic() - age_s)
                silent_s, why = time.monotonic() - self._held_at, ""
            if silent_s >= self._lease_s:
                self._lose(f"for {silent_s:.0f} s its lease was not prolonged by the coordinator{why}")
                return

    def _lose(self, why: str) -> None:
        self._lost = f"the attempt ended itself: {why}"
        self._end()


def describe() -> dict[str, Any]:
    """What this machine is, for the coordinator: versions, GPUs, and how much memory each of them has."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides GPUs from whoever asked for none
    try:
        devices = driver_gpus()
        told = memory(devices) if devices else {}
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    return {
        "host": socket.gethostname(),
        "version": ranker.__version__,
        "gpus": [gpu.name for gpu in devices],
        "gpu_bytes": min((each.total for each in told.values()), default=None),
        "cores": len(os.sched_getaffinity(0)),
    }


@contextmanager
def _workplace(errand: Errand, node: str) -> Iterator[tuple[Cache, Path]]:
    """The node's cache, and a folder for this attempt that is removed in the end, and so are those that dead ones left.

    While no other attempt runs here, the cache is brought to its size.
    """
    configured = errand.node_folder or model_cache() / "node"
    root = Path(str(configured).replace("{node}", node))
    (root / "attempts").mkdir(parents=True, exist_ok=True, mode=0o700)
    cache = Cache(root)
    with (root / "lock").open("w") as lock:
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in (root / "attempts").iterdir():
                shutil.rmtree(left, ignore_errors=True)
            _forget_data(root / "data", cache, errand.cache_bytes)
        fcntl.flock(lock, fcntl.LOCK_SH)
        claim = errand.order.claim
        home = Path(tempfile.mkdtemp(prefix=f"job-{claim.job_id}-{claim.attempt}-", dir=root / "attempts"))
        try:
            yield cache, home
        finally:
            shutil.rmtree(home, ignore_errors=True)


def _forget_data(folder: Path, cache: Cache, max_bytes: float) -> None:
    """Drop the sets of shards that were used longest ago until the cache can be brought to its size."""
    sets = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
    size = {each: sum(path.stat().st_size for path in each.rglob("*") if path.is_file()) for each in sets}
    for oldest in sets:
        if sum(size.values()) <= max_bytes:
            break
        shutil.rmtree(oldest)
        del size[oldest]
    cache.shrink(max_bytes)


def _fetched(errand: Errand, cache: Cache, home: Path, bring: Bring, lease: Lease) -> Iterator[Word]:
    """Put everything in its place, from the cache or from afar; `beat` while it takes long. The hidden file comes each
    time anew, into the attempt's own folder, with which it goes. Raises InfraError when the lease is lost meanwhile.
    """
    last = time.monotonic()
    data_root = _data_root(errand, home)
    hidden = () if errand.hidden is None else (errand.hidden,)
    places = ((errand.pieces, home, cache), (hidden, home, Cache(home)), (errand.data, data_root, cache))
    for pieces, root, kept in places:
        for piece in pieces:
            if piece.link is None and not kept.has(piece):
                for _ in kept.keep(piece, bring(piece)):
                    lease.must_hold()
                    if time.monotonic() - last >= errand.beat_s:
                        last = time.monotonic()
                        yield {"beat": True}
            kept.place(piece, root, copy=piece.path.startswith("runs/"))
    benchmark = errand.order.claim.benchmark
    if benchmark is not None:
        (home / "data").mkdir(exist_ok=True)
        place = data_root if errand.data_folder is None else errand.data_folder / benchmark
        if place.is_dir():
            os.utime(place)
            (home / "data" / benchmark).symlink_to(place)


def _data_root(errand: Errand, home: Path) -> Path:
    """Where the shards lie that several jobs of this node share: a folder for each set of them."""
    return home.parent.parent / "data" / digest_json({piece.path: piece.sha256 for piece in errand.data})[:16]


def _settled(errand: Errand, root: Path) -> Order:
    """The order, as it reads on this machine."""
    hidden = None if errand.hidden is None else root / errand.hidden.path
    return replace(errand.order, home=Home(root=root, hidden=hidden))


def _performed(errand: Errand, order: Order, lease: Lease) -> Iterator[Word]:
    """Let a process do the order, and tell of it and of its files until it has ended. Raises InfraError when the lease
    is lost meanwhile.
    """
    claim = order.claim
    folder = run_folder(order.home, claim)
    folder.mkdir(parents=True, exist_ok=True)
    courier = Courier(folder.parent, folder.name)
    ended: Word | None = None
    with _Process(errand, order) as process:
        lease.ends(process.end)
        latest, last = None, time.monotonic()
        while ended is None:
            gone = process.has_ended  # asked before we listen: what it told last is heard
            word = process.word(TICK_S)
            lease.must_hold()
            if word is not None and ("outcome" in word or "failure" in word):
                ended = word
            elif word is None and gone:
                ended = {"failure": Failure(fault=Fault.INFRA, reasons=(process.last_words(),)).to_json()}
            elif process.silent_s >= SILENT_S:
                raise InfraError(f"the job's process has told nothing for {process.silent_s:.0f} s: it was stopped")
            else:
                latest = word if word is not None and "beat" not in word else latest
                if time.monotonic() - last >= (errand.beat_s if latest is None else min(PROGRESS_S, errand.beat_s)):
                    yield latest or {"beat": True}
                    latest, last = None, time.monotonic()
                if courier.is_due():
                    yield from _delivered(errand, courier, folder.parent)
    yield from _delivered(errand, courier, folder.parent)
    yield ended


def _delivered(errand: Errand, courier: Courier, folder: Path) -> Iterator[Word]:
    """Send what has changed. A file that went while it was sent belongs to a checkpoint that was dropped."""
    sent = []
    for piece in courier.delivery():
        with suppress(FileNotFoundError):
            if errand.shared is not None:
                put_into(errand.shared, piece, folder / piece.path)
                yield {"part": piece.to_json()}
            else:
                yield {"part": piece.to_json(), "offset": 0, "data": b""}
                offset = 0
                for data in chunks_of(folder / piece.path, piece.size):
                    yield {"part": piece.to_json(), "offset": offset, "data": data}
                    offset += len(data)
            sent.append(piece)
    whole = courier.checkpoints()
    pieces = [piece for piece in sent if _is_whole(piece, whole)]
    yield {"delivery": [piece.to_json() for piece in pieces], "checkpoints": whole}
    courier.sent(pieces)


def _is_whole(piece: Piece, checkpoints: Sequence[str]) -> bool:
    """Whether a file belongs to no checkpoint, or to one that was still there when all of it had been sent."""
    parent = Path(piece.path).parent.name
    return not parent.startswith(CHECKPOINT) or parent in checkpoints


class _Process:
    """The process that does an order. Leaving the context ends it: gently first, so that its sandbox goes with it."""

    def __init__(self, errand: Errand, order: Order) -> None:
        self._errand = errand
        self._order = order
        self._files = ExitStack()
        self._rest = b""
        self._heard = time.monotonic() + STARTING_S

    def __enter__(self) -> Self:
        home = self._order.home.root
        path = home / "order.json"
        path.write_text(json.dumps(self._order.to_json()), encoding="utf-8")
        self._errors = self._files.enter_context((home / "errors").open("w+b"))
        self._reading, writing = os.pipe()
        arguments = ["--order", str(path), "--to", str(writing), "--parent", str(os.getpid())]
        environment = dict(os.environ) | thread_limits(self._errand.threads)
        try:
            self._process = subprocess.Popen(
                [*self._errand.command, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[writing],
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._files.callback(os.close, self._reading)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self._files.close()

    def end(self) -> None:
        """End it, and with it its sandbox; from any thread."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_GRACE_S)
        finally:
            if self._process.poll() is None:
                kill_below(self._process.pid)
                self._process.kill()
                self._process.wait()

    def word(self, timeout_s: float) -> Word | None:
        """What the process tells next, of several things the last that says more than that it lives; None if it tells
        nothing for a while, or no more.
        """
        ready, _, _ = select.select([self._reading], [], [], timeout_s)
        told = os.read(self._reading, PIPE_BYTES) if ready else b""
        if told:
            self._heard = time.monotonic()
        *lines, self._rest = (self._rest + told).split(b"\n")
        words: list[Word] = [json.loads(line) for line in lines]
        return next((word for word in reversed(words) if "beat" not in word), words[-1] if words else None)

    @property
    def silent_s(self) -> float:
        """Since when it has told nothing, in seconds; the node's own pauses between two looks are in it."""
        return time.monotonic() - self._heard

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def last_words(self) -> str:
        """How it ended, for a process that told nothing of it."""
        return (
            f"the job's process on node {socket.gethostname()} ended with exit status {self._process.returncode}, and "
            f"told nothing of its job's end: {last_line(self._errors)}"
        )


def put_into(shared: Path, piece: Piece, source: Path) -> None:
    """Copy a file into the folder that all nodes see, under its digest."""
    target = shared_path(shared, piece)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}")
        with temporary.open("wb") as file:
            for chunk in chunks_of(source, piece.size):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


def shared_path(shared: Path, piece: Piece) -> Path:
    """Where a file on its way lies in the folder that all nodes see."""
    return shared / "blobs" / piece.sha256[:2] / piece.sha256
