"""What came, and how: one ZIP by one channel. And what is to be found in paths that an organizer names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from ranker.intake.mail_kinds import HEAD, OLE_MAGIC, Kind, is_message, is_pdf, is_zip, kind
from ranker.types import Channel

MAX_DEPTH = 20  # folders in folders
_LINE = 1 << 16
# The line that mbox puts before each message: who, and a time with its year. Programs differ in all the rest.
_POSTMARK = re.compile(rb"From (?:\S+ +|- +)?.{0,40}\b\d{1,2}:\d{2}(?::\d{2})?\b.{0,20}\b(?:19|20)\d{2}\b")
_RENAMED = re.compile(r"\.zip\.\w{1,8}$", re.IGNORECASE)  # by those who found that .zip is not let through
_COUNT = re.compile(rb"([0-9]{1,12})[ \t]*\r?\n")


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One ZIP that came.

    `file` is where its bytes lie now: for an attachment a staged copy, which is gone once its message is dealt with.
    `name` is what its sender called it, fit to be shown, and no path. `source` is that of a Delivery (`file NAME`,
    `message ID`, `link ID`), `sender` the address it came from, if any; `arrived_at` is the time that counts, and
    `arrived_by` says in words where it was read from. `message_id` is the id of the message's row, `report` the PDF
    that belongs to it.
    """

    file: Path
    name: str
    channel: Channel
    source: str
    sender: str | None
    arrived_at: datetime
    arrived_by: str
    message_id: str | None
    report: Path | None

    @property
    def stem(self) -> str:
        """The name without its ending, `.zip.txt` being one: what a team is called that nobody has named."""
        return Path(_RENAMED.sub(".zip", self.name)).stem


@dataclass(frozen=True, kw_only=True)
class FoundZip:
    """A ZIP, or what is called one. `report`: in a folder, the PDF beside it that is called as it is."""

    path: Path
    size_bytes: int
    report: Path | None


@dataclass(frozen=True, kw_only=True)
class FoundMessage:
    """A message: the bytes of `path` from `start`, `size_bytes` of them (an mbox holds many)."""

    path: Path
    start: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """What could not be taken, and why, in one sentence that names it."""

    path: Path
    why: str


Found = FoundZip | FoundMessage | Unreadable


def expand(paths: Sequence[Path]) -> Iterator[Found]:
    """All that lies in files and folders: in the order they were named, and by name within a folder.

    What a thing is, its content says; what is called a ZIP and is none counts as one, and is refused later with its
    reasons. Hidden files and links within folders are passed over; so are PDFs that belong to a ZIP. Raises nothing:
    what cannot be read is an `Unreadable`, and the rest still comes.
    """
    for path in paths:
        try:
            is_folder = path.is_dir()
        except OSError as error:
            yield _unreadable(path, error)
            continue
        yield from _folder(path, 0) if is_folder else _file(path)


def _folder(folder: Path, depth: int) -> Iterator[Found]:
    if depth > MAX_DEPTH:
        yield Unreadable(
            path=folder, why=f"{folder}: its folders are nested more than {MAX_DEPTH} deep; name it itself"
        )
        return
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
        names = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        if {"cur", "new"} <= names:  # a Maildir: what lies in tmp/ is not whole yet, its subfolders are other boxes
            for part in ("cur", "new"):
                yield from _mailbox_part(folder / part)
            return
        files = {Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError as error:
        yield _unreadable(folder, error)
        return
    reports = {path.stem.casefold(): path for path in sorted(files) if path.suffix.lower() == ".pdf"}
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.name in names:
            yield from _folder(path, depth + 1)
        elif path in files:
            yield from _in_folder(path, reports, files)


def _in_folder(path: Path, reports: dict[str, Path], files: set[Path]) -> Iterator[Found]:
    is_report = path.suffix.lower() == ".pdf" and any(
        each.stem.casefold() == path.stem.casefold() and each.suffix.lower() == ".zip" for each in files
    )
    if is_report:
        return
    for found in _file(path):
        if isinstance(found, FoundZip) and path.stem.casefold() in reports:
            yield FoundZip(path=path, size_bytes=found.size_bytes, report=reports[path.stem.casefold()])
        else:
            yield found


def _mailbox_part(folder: Path) -> Iterator[Found]:
    """The messages of one half of a Maildir, by name, which begins with the time of delivery."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield _unreadable(folder, error)
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
            continue
        path = Path(entry.path)
        try:
            yield FoundMessage(path=path, start=0, size_bytes=path.stat().st_size)
        except OSError as error:
            yield _unreadable(path, error)


def _file(path: Path) -> Iterator[Found]:
    try:
        if not path.is_file():
            gone = "there is no such file" if not path.exists() else "it is neither a file nor a folder"
            yield Unreadable(path=path, why=f"{path}: {gone}; expected a ZIP, a message (.eml), a mailbox or a folder")
            return
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(HEAD)
            what, remark = kind(begins, path.name, "application/octet-stream")
            if is_zip(begins) and what is not Kind.ZIP:
                yield Unreadable(path=path, why=f"{path}: {remark}")
            elif what is Kind.ZIP:
                yield FoundZip(path=path, size_bytes=size, report=None)
            elif begins.startswith(b"From ") and (_POSTMARK.match(begins) or path.suffix.lower() == ".mbox"):
                yield from _messages(path, file)
            else:
                yield _single(path, begins, size)
    except OSError as error:
        yield _unreadable(path, error)


def _single(path: Path, begins: bytes, size: int) -> Found:
    """A file that holds one message, or nothing that can be taken."""
    counted = _COUNT.match(begins)
    if counted is not None and is_message(begins[counted.end() :]):  # .emlx: its length, the message, Apple's own notes
        return FoundMessage(path=path, start=counted.end(), size_bytes=min(int(counted[1]), size - counted.end()))
    if is_message(begins) or (path.suffix.lower() == ".eml" and size):
        return FoundMessage(path=path, start=0, size_bytes=size)
    if not size:
        why = "it is empty"
    elif begins.startswith(OLE_MAGIC):
        why = "it is in Outlook's own format; save the message as .eml, or its attachment by itself"
    elif is_pdf(begins):
        why = "it is a PDF without a ZIP of its name beside it; give a report with --report, or call it as the ZIP"
    else:
        why = "it is neither a ZIP nor a message; expected a ZIP, a message (.eml), a mailbox or a folder of these"
    return Unreadable(path=path, why=f"{path}: {why}")


def _messages(path: Path, file: BinaryIO) -> Iterator[FoundMessage]:
    """The messages of an mbox. One begins behind a line `From WHO WHEN` that follows an empty line.

    What programs do to a line `From ` within a message (`>From `) is left as it is: no attachment is changed by it.
    """
    file.seek(0)
    start, at = -1, 0
    blank, begins, gap = True, True, 0  # the line before is empty; this one begins; bytes of the empty line before
    while piece := file.readline(_LINE):
        if begins and blank and piece.startswith(b"From ") and (_POSTMARK.match(piece) or at == 0):
            if start >= 0:
                yield FoundMessage(path=path, start=start, size_bytes=at - gap - start)
            start = at + len(piece)
            blank = False
            gap = 0
        else:
            blank = begins and piece in {b"\n", b"\r\n"}
            gap = len(piece) if blank else 0
        begins = piece.endswith(b"\n")
        at += len(piece)
    if start >= 0:
        yield FoundMessage(path=path, start=start, size_bytes=at - gap - start)


def _unreadable(path: Path, error: OSError) -> Unreadable:
    return Unreadable(path=path, why=f"{path}: it cannot be read ({error.strerror or error}); is it yours to read?")
