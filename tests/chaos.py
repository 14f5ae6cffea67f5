"""The machine that disturbs: SIGKILLs at random moments of everything that an evaluation consists of, until it is done.

A *life* is one `ranker evaluate --all`. It is begun again, as an operator would, as long as jobs wait. Kills come from
two sides, both drawn from a seed: *fuses* inside the processes go off just before the n-th touch of one kind (a commit,
a checkpoint's files, predictions, training data ...), and a *clock* kills whatever runs at a random time.

Most lives are forked from a process that has its imports done, so that kills meet work and not imports; nothing else in
them differs, and nothing in the code under test knows of any of this. The others are real commands, which only the
clock kills.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nursery import PR_SET_CHILD_SUBREAPER, Nursery, end_with, kill, prctl, speak_to

TICK_S = 0.05
LIFE_LIMIT_S = 1800.0
SERVICE = """
benchmark: tiny
sandbox: {sandbox}
lease_s: 20            # minutes elsewhere
retry_delay_s: 0       # nobody waits here
infra_attempts: 100000   # a job that takes five workers with it fails elsewhere; here each takes dozens
killed_attempts: 100000  # an encoder that is killed in three attempts of a job is blamed elsewhere
"""

# What is touched -> about how many times one attempt of the tests' small benchmark does so.
KINDS: Mapping[str, int] = {
    "database": 24,
    "checkpoint": 60,
    "predictions": 12,
    "manifest": 3,
    "log": 6,
    "job": 8,
    "submission": 6,
    "data": 40,
}
VICTIMS: Mapping[str, int] = {"worker": 50, "encoder": 30, "coordinator": 14, "everything": 6}


def kind_of(path: str, home: str) -> str | None:
    """What a touched path is of; None if it does not lie in the home."""
    if not path.startswith(home):
        return None
    name, parts = path.rpartition("/")[2], path[len(home) :].split("/")
    if len(parts) > 1 and parts[1] in {"submissions", "data", "configs"}:
        return {"submissions": "submission", "data": "data"}.get(parts[1])
    if "/step-" in path or "/.step-" in path:
        return "checkpoint"
    if "/predictions" in path:
        return "predictions"
    if "manifest.json" in name:
        return "manifest"
    if name in {"train.jsonl", ".train.jsonl.tmp", "worker.log", "worker.jsonl", "encoder.log"}:
        return "log"
    return "job" if "/runs" in path else "database"


class Ledger:
    """What was done to whom, one JSON line each: written by those who kill, just before they do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **entry: object) -> None:
        """Add a line at once: whoever calls this may be dead in the next moment."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, (json.dumps(entry) + "\n").encode())
        os.close(descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def draw(self) -> int:
        """Another number at each call of any process: 1, 2, 3 ..."""
        descriptor = os.open(self.path.with_suffix(".draws"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, b".")
        number = os.fstat(descriptor).st_size
        os.close(descriptor)
        return number


def children(pid: int) -> list[int]:
    """Processes that a process has started, or adopted."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text(encoding="ascii").split())
    return found


def below(pid: int) -> list[int]:
    """All of them, with theirs."""
    return [each for child in children(pid) for each in (child, *below(child))]


@dataclass(kw_only=True)
class Fuse:
    """In one process: counts its touches of one kind, and kills `victim` just before the n-th. Then another is set.

    `plan`: what goes off in which order, as (kind or part of a path, n, victim), instead of what the seed draws.
    """

    home: Path
    ledger: Ledger
    seed: int
    limit: int
    is_worker: bool
    kinds: Sequence[str] = tuple(KINDS)
    victims: Mapping[str, int] = field(default_factory=lambda: dict(VICTIMS))
    plan: Sequence[tuple[str, int, str]] | None = None
    container_killer: Callable[[random.Random], list[str]] | None = None
    _busy: bool = False

    def set(self) -> None:
        """Draw what goes off when."""
        self.number = self.ledger.draw()
        draw = random.Random(f"{self.seed}:{self.number}")
        if self.plan is not None:
            self.kind, self.left, self.victim = (*self.plan, ("/nothing/", 0, "worker"))[
                min(self.number, len(self.plan) + 1) - 1
            ]
            self.draw = draw
            return
        self.kind = draw.choice(self.kinds) if self.is_worker else "database"
        self.left = draw.randint(1, KINDS[self.kind])
        self.victim = draw.choices(list(self.victims), weights=list(self.victims.values()))[0]
        if not self.is_worker:
            self.victim = "coordinator"
        self.draw = draw

    def arm(self) -> None:
        """Listen to Python's audit events, and to commits, of this process from now on."""
        from sqlalchemy import Engine, event

        self.set()
        home = str(self.home)
        owner = os.getpid()

        def hook(_event: str, arguments: tuple[object, ...]) -> None:
            if os.getpid() == owner:
                for each in arguments:
                    if isinstance(each, str | Path) and (kind := kind_of(str(each), home)) is not None:
                        self.touch(kind, str(each)[len(home) + 1 :])
                        return

        sys.addaudithook(hook)
        event.listen(Engine, "commit", lambda _connection: self.touch("database", "commit"))

    def touch(self, kind: str, what: str) -> None:
        """Something is about to be touched."""
        if self._busy or (kind != self.kind and self.kind not in what):
            return
        self.left -= 1
        if self.left:
            return
        self._busy = True
        if sum(entry["what"] == "kill" for entry in self.ledger.entries()) < self.limit:
            self._go_off(kind, what)
            if self.victim == "encoder":  # else this process has not long to live
                self.set()
        self._busy = False

    def _go_off(self, kind: str, what: str) -> None:
        coordinator = os.getppid() if self.is_worker else os.getpid()
        victim, inner = self.victim, below(os.getpid()) if self.is_worker else []
        containers = self.container_killer(self.draw) if victim == "encoder" and self.container_killer else []
        if victim == "encoder" and not inner and not containers:
            victim = "worker"
        entry = {"what": "kill", "by": "fuse", "victim": victim, "moment": kind, "touch": what, "number": self.number}
        if containers:
            self.ledger.write(**entry, pids=containers, at=time.time())
            return
        match victim:
            case "worker":
                targets = [os.getpid()]
            case "coordinator":
                targets = [coordinator]
            case "encoder":
                targets = [inner[-1] if self.plan is not None else self.draw.choice(inner)]
            case _:
                targets = [coordinator, *(each for each in below(coordinator) if each != os.getpid()), os.getpid()]
        self.ledger.write(**entry, pids=targets, at=time.time())
        if len(targets) > 1:
            kill(coordinator, signal.SIGSTOP)  # nobody can tidy up, as in a power failure
        for pid in targets:
            kill(pid)


@dataclass(kw_only=True)
class Chaos:
    """Evaluates all of a home, whatever is killed; `limit` kills in all, then it is left in peace.

    `every_s`: mean time between the clock's kills (None: it kills nothing); `cold`: the share of lives that are real
    commands. Use it in a process that has no other children, and no threads.
    """

    home: Path
    ledger: Ledger
    seed: int
    limit: int
    every_s: float | None = None
    cold: float = 0.0
    fuses: bool = True
    plan: Sequence[tuple[str, int, str]] | None = None
    arguments: Sequence[str] = ("evaluate", "--all")
    kinds: Sequence[str] = tuple(KINDS)
    victims: Mapping[str, int] = field(default_factory=lambda: dict(VICTIMS))
    container_killer: Callable[[random.Random], list[str]] | None = None
    log: Path | None = None
    lives: list[int] = field(default_factory=list)
    """Exit codes of all lives."""

    def __post_init__(self) -> None:
        self._draw = random.Random(f"{self.seed}:clock")
        self._next = 0.0

    def evaluate(self) -> None:
        """Begin lives until one ends well. Raises AssertionError for one that ends as no killed one may."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a dead coordinator leaves behind falls to us
        try:
            while not self.lives or self.lives[-1] != 0:
                self.lives.append(self._life())
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0)

    @property
    def kills(self) -> int:
        """Moments at which something was killed so far."""
        return sum(entry["what"] == "kill" for entry in self.ledger.entries())

    def _life(self) -> int:
        is_cold = self._draw.random() < self.cold
        before = frozenset(children(os.getpid()))
        with (self.log or Path(os.devnull)).open("ab") as said:
            coordinator = self._command(said.fileno()) if is_cold else self._forked(said.fileno())
        self._plan_next()
        deadline = time.monotonic() + LIFE_LIMIT_S
        code: int | None = None
        while code is None or self._survivors(before):
            if code is None:
                pid, status = os.waitpid(coordinator, os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if pid else None
            self._clock(coordinator if code is None else None, is_cold=is_cold)
            assert time.monotonic() < deadline, f"{below(os.getpid())} are left, or the evaluation hangs"
            time.sleep(TICK_S)
        return code

    def _command(self, said: int) -> int:
        command = [sys.executable, "-m", "ranker", "--home", str(self.home), *self.arguments]
        self._started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # kept: we wait
        return self._started.pid

    def _forked(self, said: int) -> int:
        pid = os.fork()
        if pid == 0:
            end_with(lambda: self._coordinate(said))
        return pid

    def _coordinate(self, said: int) -> int:
        from ranker.cli import app
        from ranker.executors import pool

        speak_to(said)
        common: dict[str, Any] = {"home": self.home, "ledger": self.ledger, "seed": self.seed, "limit": self.limit}
        fuse = (
            Fuse(
                **common,
                is_worker=True,
                kinds=self.kinds,
                victims=self.victims,
                plan=self.plan,
                container_killer=self.container_killer,
            )
            if self.fuses
            else None
        )
        nursery = Nursery(lambda: None if fuse is None else fuse.arm())

        class Nursed:  # what `executors.pool` knows of the module `subprocess`
            DEVNULL = subprocess.DEVNULL
            TimeoutExpired = subprocess.TimeoutExpired
            Popen = staticmethod(nursery.start)

        pool.subprocess = Nursed  # type: ignore[assignment]
        if self.fuses and self.plan is None and random.Random(f"{self.seed}:{self.ledger.draw()}").random() < 0.2:
            Fuse(**common, is_worker=False).arm()
        app.main(["--home", str(self.home), *self.arguments])

    def _survivors(self, before: Collection[int]) -> list[int]:
        """What the dead coordinator left to us, and still runs; what has ended is buried."""
        for pid in children(os.getpid()):
            if pid not in before:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return [pid for pid in children(os.getpid()) if pid not in before]

    def _plan_next(self) -> None:
        if self.every_s is not None:
            self._next = time.monotonic() + self._draw.expovariate(1 / self.every_s)

    def _clock(self, coordinator: int | None, *, is_cold: bool) -> None:
        if self.every_s is None or coordinator is None or time.monotonic() < self._next or self.kills >= self.limit:
            return
        self._plan_next()
        ways = list(self.victims)
        victim = self._draw.choices(ways, weights=[self.victims[way] for way in ways])[0]
        workers = [pid for pid in children(coordinator) if is_cold or children(pid) or _is_leader(pid)]
        encoders = [pid for worker in workers for pid in below(worker)]
        where = "command" if is_cold else "forked"
        targets: list[object] = []
        match victim:
            case "worker" if workers:
                targets = [self._draw.choice(workers)]
            case "encoder" if self.container_killer is not None:
                targets = list(self.container_killer(self._draw))
            case "encoder" if encoders:
                targets = [self._draw.choice(encoders)]
            case "everything":
                targets = [coordinator, *below(coordinator)]
            case _:
                victim, targets = "coordinator", [coordinator]
        if not targets:
            return
        self.ledger.write(what="kill", by="clock", victim=victim, moment=where, pids=targets, at=time.time())
        pids = [pid for pid in targets if isinstance(pid, int)]
        if len(pids) > 1:
            kill(coordinator, signal.SIGSTOP)
        for pid in pids:
            kill(pid)


def _is_leader(pid: int) -> bool:
    """Workers lead a session of their own; the nursery does not."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def tally(entries: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """How many kills by victim, by side and by moment; `signals` is how many processes they ended."""
    kills = [entry for entry in entries if entry["what"] == "kill"]
    return {
        "victim": Counter(entry["victim"] for entry in kills),
        "by": Counter(entry["by"] for entry in kills),
        "moment": Counter(entry["moment"] for entry in kills),
        "signals": Counter(signals=sum(len(entry["pids"]) for entry in kills)),
    }


@contextmanager
def held_write_lock(database: Path) -> Iterator[None]:
    """Another process holds the database's write lock inside."""
    script = (
        "import sqlite3, sys\n"
        "held = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "held.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.kill()


def no_threads() -> bool:
    """Whether this process may be forked."""
    return threading.active_count() == 1
