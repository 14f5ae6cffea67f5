"""A message arrives: its bytes are kept first, under their own digest; then what it holds is recorded and handed out.

Killed at any moment, the same message given again goes on where it was; given once more after that, it does nothing.
Memory does not grow with a message: it is copied, walked through and decoded in pieces.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ranker.db.mail import Link, Message
from ranker.db.session import session
from ranker.durable import flush
from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.home import Home
from ranker.intake.arrivals import Arrival, FoundMessage
from ranker.intake.mail import Attachment, Letter, read
from ranker.intake.mail_bodies import content
from ranker.intake.mail_kinds import Kind
from ranker.intake.mail_names import line
from ranker.intake.mail_times import Arrived, arrived, doubts
from ranker.intake.staging import place, staging_folder
from ranker.settings import MailSettings
from ranker.types import Channel, LinkState

MAX_PACKED = 20  # messages that are attached in base64, of one message
_STAGING_PREFIX = ".taking-"
_CHUNK = 1 << 20
_UNNAMED = {Kind.ZIP: "unnamed.zip", Kind.PDF: "unnamed.pdf"}

Source = bytes | Path | FoundMessage | Callable[[BinaryIO], object]
"""A message's bytes, the file that they are, where in a mailbox they stand, or what writes them to a file."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that is kept. `is_new`: not everything in it had been taken in before; else `arrivals` is empty.

    `notes` say what was found in it, what was left aside and why, one sentence each, fit for an answer; `remark` adds
    one, which is kept when the message is handled.
    """

    message: Message
    arrivals: tuple[Arrival, ...]
    links: tuple[str, ...]
    notes: tuple[str, ...]
    is_new: bool
    remark: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class _Coming:
    """How a message comes: `internal` is the mailbox's own date of it, if there is one."""

    channel: Channel
    settings: MailSettings
    internal: datetime | None
    now: datetime


@dataclass(frozen=True, kw_only=True)
class _Spilled:
    """A ZIP or PDF out of a message, as a file; `inside` names the message that held it, forwarded ones apart."""

    kind: Kind
    name: str
    file: Path
    digest: str
    inside: tuple[int, ...]

    @property
    def stem(self) -> str:
        return self.name.casefold().removesuffix(".txt").rpartition(".")[0]


@contextmanager
def take_in(
    home: Home,
    engine: Engine,
    source: Source,
    channel: Channel,
    *,
    settings: MailSettings,
    arrived_at: datetime | None = None,
    now: datetime,
) -> Iterator[Taken]:
    """Keep a message and hand out what it holds; when the context is left without an exception, it is handled.

    `arrived_at` is the mailbox's own date (INTERNALDATE). The files of the arrivals are there until the context ends.
    A message is known by its bytes: given again, it is completed with the time that was read the first time, or, if it
    was handled, left alone. Another one of the same Message-ID is kept too, and says so in its notes.
    Raises UsageError (no such file), ParticipantError (a digest made to be mistaken), InfraError (disk).
    """
    coming = _Coming(channel=channel, settings=settings, internal=arrived_at, now=now)
    with ExitStack() as stack:
        with _told(home):
            staging = stack.enter_context(staging_folder(home.mail, _STAGING_PREFIX))
            taken, found = _taken(home, engine, source, staging, coming)
        yield taken
        if found is not None:
            _finish(engine, taken.message, found, now)


def _taken(home: Home, engine: Engine, source: Source, staging: Path, coming: _Coming) -> tuple[Taken, _Spill | None]:
    file = _keep(home, source, staging, coming.now)
    message = _known(engine, file.stem)
    if message is not None and message.handled_at is not None:
        return Taken(message=message, arrivals=(), links=(), notes=tuple(message.notes), is_new=False), None
    with file.open("rb") as opened:
        letter = read(opened, only_header=file.stat().st_size > coming.settings.max_message_bytes)
        message = message or _record(engine, file, letter, coming)
        found = _Spill(staging, message.notes)
        found.spill(opened, letter)
    arrivals = _arrivals(message, found)
    links = tuple(dict.fromkeys(found.links))
    notes = tuple(found.notes)
    return Taken(message=message, arrivals=arrivals, links=links, notes=notes, is_new=True, remark=found.remark), found


@contextmanager
def _told(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfraError(
            f"a message could not be kept or unpacked under {home.mail}: {error.strerror or error}; is the disk full,"
            " or may it not be written to? Nothing is lost: with room, the same command goes on"
        ) from error


def waiting(home: Home, engine: Engine) -> list[Path]:
    """The kept messages that an earlier run did not finish with, in order of arrival: to be given to `take_in`."""
    with session(engine, read_only=True) as reading:
        chosen = select(Message.digest).where(Message.handled_at.is_(None)).order_by(Message.kept_at, Message.id)
        return [_place(home, digest) for digest in reading.scalars(chosen)]


def _place(home: Home, digest: str) -> Path:
    return home.mail / f"{digest}.eml"


def _keep(home: Home, source: Source, staging: Path, now: datetime) -> Path:
    """Put the bytes in their place, flushed, if they are not there; the file's time is that of its first keeping."""
    staged = staging / "message"
    with staged.open("xb") as write:
        _copy(source, write)
        write.flush()
        os.fchmod(write.fileno(), 0o600)  # it is somebody's mail
        os.utime(write.fileno(), (now.timestamp(), now.timestamp()))
        os.fsync(write.fileno())
    with staged.open("rb") as written:
        kept = _place(home, hashlib.file_digest(written, "sha256").hexdigest())
    if kept.is_file():
        staged.unlink()
    else:
        place(staged, kept)
        flush(home.root)
    return kept


def _copy(source: Source, write: BinaryIO) -> None:
    if callable(source):
        source(write)
        return
    if isinstance(source, bytes):
        write.write(source)
        return
    path = source.path if isinstance(source, FoundMessage) else source
    try:
        opened = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: it cannot be read ({error.strerror}); expected a message") from None
    with opened:
        left = None
        if isinstance(source, FoundMessage):
            opened.seek(source.start)
            left = source.size_bytes
        while chunk := opened.read(_CHUNK if left is None else min(_CHUNK, left)):
            write.write(chunk)
            left = None if left is None else left - len(chunk)


def _known(engine: Engine, digest: str) -> Message | None:
    with session(engine, read_only=True) as reading:
        message = reading.get(Message, digest[:12])
    if message is not None and message.digest != digest:
        # 48 bits: never by chance, but two files that agree in them can be made in minutes.
        raise ParticipantError(
            f"the SHA-256 of this message begins like that of message {message.id}, which is another one; expected one "
            "that can be told from it; ask its sender to send it again"
        )
    return message


def _record(engine: Engine, file: Path, letter: Letter, coming: _Coming) -> Message:
    """Write the message's row, with the links that it names; what another process was quicker to write stays."""
    facts = file.stat()
    kept_at = datetime.fromtimestamp(facts.st_mtime, UTC)
    own = coming.settings.own_servers
    when = arrived(letter.trace, own, internal=coming.internal, kept_at=kept_at, now=coming.now)
    heading, forged = letter.heading, doubts(letter.trace, own)
    message = Message(
        id=file.stem[:12],
        digest=file.stem,
        message_id=heading.message_id,
        channel=coming.channel,
        sender=heading.sender,
        subject=heading.subject,
        arrived_at=when.at,
        arrived_by=line(when.by, 1000),
        dated_at=heading.dated_at,
        doubt=forged[0][:1000] if forged else None,
        is_automatic=letter.is_automatic,
        notes=_first_notes(letter, when, facts.st_size, coming.settings),
        kept_at=kept_at,
    )
    with session(engine) as writing:
        there = writing.get(Message, message.id)
        if there is not None:
            return there
        if heading.message_id is not None:
            same = writing.scalars(select(Message.id).where(Message.message_id == heading.message_id)).all()
            if same:
                said = f"its Message-ID is that of message {', '.join(sorted(same)[:5])}, which has other bytes"
                message.notes = [*message.notes, f"{said}; both are kept"]
        writing.add(message)
        writing.flush()
        _add_links(writing, message, letter.links, coming.now)
    return message


def _first_notes(letter: Letter, when: Arrived, size: int, settings: MailSettings) -> list[str]:
    notes = [*when.notes, *doubts(letter.trace, settings.own_servers), *letter.notes]
    if size > settings.max_message_bytes:
        notes.append(
            f"it has {size:,} bytes, and is kept, but not looked into: at most {settings.max_message_bytes:,} are; put "
            "the ZIP where it can be downloaded, and send the link"
        )
    return notes


def _add_links(writing: Session, message: Message, urls: Sequence[str], now: datetime) -> None:
    there = set(writing.scalars(select(Link.url).where(Link.message_id == message.id)))
    for url in dict.fromkeys(urls):
        if url not in there:
            writing.add(Link(message_id=message.id, url=url, state=LinkState.PENDING, found_at=now))


def _finish(engine: Engine, message: Message, found: _Spill, now: datetime) -> None:
    with session(engine) as writing:
        row = writing.get_one(Message, message.id)
        _add_links(writing, row, found.links, now)
        row.notes = list(found.notes)
        row.handled_at = row.handled_at or now
    message.notes, message.handled_at = row.notes, row.handled_at


class _Spill:
    """Writes the files of one message, and of the messages packed in it, into a staging folder."""

    def __init__(self, folder: Path, notes: Sequence[str]) -> None:
        self._folder = folder
        self._packed = 0
        self.notes: dict[str, None] = dict.fromkeys(notes)
        self.links: list[str] = []
        self.files: list[_Spilled] = []

    def remark(self, sentence: str) -> None:
        """Note what became known of the message after it was read."""
        self.notes[line(sentence, 1000)] = None

    def spill(self, opened: BinaryIO, letter: Letter, inside: tuple[int, ...] = ()) -> None:
        """Decode what a letter holds, in its order; `inside` names the packed messages that it lies in."""
        self.links += letter.links
        self.notes |= dict.fromkeys(letter.notes)
        for attachment in letter.attachments:
            holder = (*inside, attachment.inside)
            if attachment.kind is Kind.MESSAGE:
                self._unpack(opened, attachment, holder)
                continue
            name = attachment.name or _UNNAMED[attachment.kind]
            target = self._folder / f"{len(self.files):04d}.{attachment.kind}"
            digest = self._write(opened, attachment, name, target)
            if any(each.digest == digest for each in self.files):
                self.notes[f"{name} is in it more than once"] = None
                target.unlink()
                continue
            self.files.append(_Spilled(kind=attachment.kind, name=name, file=target, digest=digest, inside=holder))

    def _write(self, opened: BinaryIO, attachment: Attachment, name: str, target: Path) -> str:
        damage: list[str] = []
        digest, size = hashlib.sha256(), 0
        with target.open("xb") as write:
            for chunk in content(opened, attachment.span, damage):
                digest.update(chunk)
                size += len(chunk)
                write.write(chunk)
        for what in damage:
            self.notes[f"{name} was damaged on its way: {what} ({attachment.span.encoding})"] = None
        if not size:
            self.notes[f"{name} is empty; perhaps a mail gateway has removed its content"] = None
        return digest.hexdigest()

    def _unpack(self, opened: BinaryIO, attachment: Attachment, holder: tuple[int, ...]) -> None:
        """A message that was attached as a file: it is read like the one that it lies in."""
        self._packed += 1
        if self._packed > MAX_PACKED:
            self.notes[f"it has more than {MAX_PACKED} attached messages; the rest was not looked at"] = None
            return
        target = self._folder / f"{self._packed:04d}.eml"
        self._write(opened, attachment, attachment.name or "an attached message", target)
        with target.open("rb") as packed:
            letter = read(packed)
            who = letter.heading.sender or "nobody that it names"
            said = f"it holds a message of {who} ({line(letter.heading.subject, 100) or 'without a subject'})"
            self.notes[said] = None
            self.spill(packed, letter, (*holder, -self._packed))
        target.unlink()


def _arrivals(message: Message, found: _Spill) -> tuple[Arrival, ...]:
    zips = [each for each in found.files if each.kind is Kind.ZIP]
    pdfs = [each for each in found.files if each.kind is Kind.PDF]
    reports = matched(zips, pdfs)
    if zips:
        for each in pdfs:
            if each not in reports.values():
                said = f"{each.name} was left aside: it is not plain which ZIP it belongs to; call both the same"
                found.notes[said] = None
    elif pdfs:
        found.notes["it has a PDF, but no ZIP; send both in one message, be it the same ZIP again"] = None
    for each in zips:
        report = reports.get(each)
        behind = "without a report" if report is None else f"with its report {report.name}"
        found.notes[f"{each.name} was taken, {behind}"] = None
    if not zips and not found.links:
        found.notes["it has neither a ZIP nor a link to one"] = None
    return tuple(
        Arrival(
            file=each.file,
            name=each.name,
            channel=Channel(message.channel),
            source=f"message {message.id}",
            sender=message.sender or None,
            arrived_at=message.arrived_at,
            arrived_by=message.arrived_by,
            message_id=message.id,
            report=reports[each].file if each in reports else None,
        )
        for each in zips
    )


def matched(zips: Sequence[_Spilled], pdfs: Sequence[_Spilled]) -> dict[_Spilled, _Spilled]:
    """Which report belongs to which ZIP, as far as that is plain: the only one to the only one, in the whole message or
    in one that is forwarded in it; else the one of the same name.
    """
    if len(zips) == len(pdfs) == 1:
        return {zips[0]: pdfs[0]}
    found = {}
    for holder in dict.fromkeys(each.inside for each in zips):
        here, there = ([each for each in files if each.inside == holder] for files in (zips, pdfs))
        if len(here) == len(there) == 1:
            found[here[0]] = there[0]
    for each in zips:
        same = [pdf for pdf in pdfs if pdf.stem == each.stem]
        if each not in found and len(same) == 1 and sum(other.stem == each.stem for other in zips) == 1:
            found[each] = same[0]
    return {each: pdf for each, pdf in found.items() if list(found.values()).count(pdf) == 1}
