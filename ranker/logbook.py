"""What attempts wrote down, read back: the last lines of their files, and what is added while a job goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ranker.journal import ENCODER_NAME, EVENTS_NAME, TEXT_NAME
from ranker.types import Status

BLOCK = 65_536
MAX_LINE = 65_536
"""Bytes of a line; a longer one, which only a program that means no good writes, comes in pieces."""
OPEN = (Status.QUEUED, Status.RUNNING)


class Source(StrEnum):
    """Whose words a line is."""

    WORKER = "worker"
    EVENTS = "events"
    ENCODER = "encoder"


NAMES = {Source.WORKER: TEXT_NAME, Source.EVENTS: EVENTS_NAME, Source.ENCODER: ENCODER_NAME}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an attempt's file, without its end, as it was written: nothing in it is harmless yet."""

    attempt: int
    source: Source
    text: str


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What is asked again and again of a job that is followed."""

    status: Status
    attempt: int


class Tail:
    """A file that grows, is cut, or is replaced by another of its name, while it is read. What was in it before it was
    begun anew may lie beside it, in `<name>.1` (`ranker.sandbox.logfile`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._rest = b""

    def last(self, lines: int) -> list[str]:
        """The last whole lines that are there now; `read` goes on after them."""
        self._open()
        if self._descriptor is None:
            return []
        end = os.fstat(self._descriptor).st_size
        found = _end_of(self._descriptor, end, lines)
        if len(found) == end and found.count(b"\n") < lines:
            found = self._earlier(lines - found.count(b"\n")) + found
        os.lseek(self._descriptor, end, os.SEEK_SET)
        whole, _, self._rest = found.rpartition(b"\n")
        return [_text(piece) for line in whole.split(b"\n")[-lines:] for piece in _pieces(line)] if whole else []

    def read(self) -> list[str]:
        """What whole lines have come since; of a replaced file first what was left."""
        found = self._rest_of_it()
        if self._is_replaced():
            found += self._end()
            self._open()
            found += self._rest_of_it()
        return found

    def close(self) -> list[str]:
        """End, with the line that was begun."""
        found = self._rest_of_it()
        return found + self._end()

    def _end(self) -> list[str]:
        found = [_text(self._rest)] if self._rest else []
        self._rest = b""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        return found

    def _open(self) -> None:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            except OSError:
                return

    def _earlier(self, lines: int) -> bytes:
        """The end of what was put aside, which may be in the middle of a line."""
        try:
            descriptor = os.open(self._path.with_name(f"{self._path.name}.1"), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return b""
        try:
            return _end_of(descriptor, os.fstat(descriptor).st_size, lines)
        finally:
            os.close(descriptor)

    def _is_replaced(self) -> bool:
        try:
            now = self._path.lstat()
        except OSError:
            return False
        if self._descriptor is None:
            return True
        own = os.fstat(self._descriptor)
        return (own.st_dev, own.st_ino) != (now.st_dev, now.st_ino)

    def _rest_of_it(self) -> list[str]:
        if self._descriptor is None:
            return []
        if os.fstat(self._descriptor).st_size < os.lseek(self._descriptor, 0, os.SEEK_CUR):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._rest = b""
        found: list[str] = []
        while block := os.read(self._descriptor, BLOCK):
            *whole, self._rest = (self._rest + block).split(b"\n")
            found += [_text(piece) for line in whole for piece in _pieces(line)]
            if len(self._rest) >= MAX_LINE:
                found.append(_text(self._rest))
                self._rest = b""
        return found


def attempts(folder: Path) -> list[int]:
    """The numbers of a job's attempts that left a folder here, in order."""
    return sorted(int(path.name.removeprefix("attempt-")) for path in folder.glob("attempt-[0-9]*") if path.is_dir())


def read(
    folder: Path,
    ask: Callable[[], JobState],
    *,
    lines: int,
    attempt: int | None = None,
    as_events: bool = False,
    wait: Callable[[], None] | None = None,
) -> Iterator[Line]:
    """The last `lines` of each source of an attempt (None: the newest that left something) of the job in `folder`.

    With `wait`, which is called whenever there is nothing new, also what comes until the job (or the given attempt) has
    ended; of later attempts everything. `ask` tells how the job is. A folder that is not there yields nothing.
    """
    tails: dict[Source, Tail] = {}
    shown: int | None = None
    try:
        while True:
            state = ask()  # before the files are read: what was written before the end is read for certain
            numbers = attempts(folder)
            present = attempt if attempt is not None else (numbers[-1] if numbers else None)
            if present is not None and present != shown:
                yield from _closed(tails, shown)
                first, shown = shown is None, present
                tails = _tails(folder / f"attempt-{present:04d}", as_events=as_events)
                for source, tail in tails.items():
                    found = tail.last(lines) if first else tail.read()
                    yield from (Line(attempt=shown, source=source, text=text) for text in found)
            for source, tail in tails.items():
                yield from (Line(attempt=shown or 0, source=source, text=text) for text in tail.read())
            is_over = state.status not in OPEN or (attempt is not None and attempt < state.attempt)
            if wait is None or is_over:
                break
            wait()
    finally:
        rest = list(_closed(tails, shown))
    yield from rest


def _closed(tails: dict[Source, Tail], attempt: int | None) -> Iterator[Line]:
    for source, tail in tails.items():
        yield from [Line(attempt=attempt or 0, source=source, text=text) for text in tail.close()]


def _tails(folder: Path, *, as_events: bool) -> dict[Source, Tail]:
    """Earlier versions left text only."""
    own = Source.EVENTS if as_events and (folder / EVENTS_NAME).exists() else Source.WORKER
    return {source: Tail(folder / NAMES[source]) for source in (own, Source.ENCODER)}


def _end_of(descriptor: int, end: int, lines: int) -> bytes:
    """The last bytes before `end` that hold so many whole lines, or all."""
    start, found = end, b""
    while start > 0 and found.count(b"\n") <= lines and len(found) < lines * MAX_LINE:
        start = max(start - BLOCK, 0)
        found = os.pread(descriptor, end - start, start)
    return found


def _pieces(line: bytes) -> Iterator[bytes]:
    for start in range(0, max(len(line), 1), MAX_LINE):
        yield line[start : start + MAX_LINE]


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").removesuffix("\r")
