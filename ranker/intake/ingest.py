"""Taking in whatever was handed in: files, messages, links. One bad thing is one sentence, and does not stop the rest.

Bytes are kept before anybody looks at what they are, one ZIP is one transaction, and nothing is told as taken in before
its transaction is on the disk. Killed at any moment, the same command completes what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ranker.data.fetch import OnTransfer, Transfer
from ranker.db.mail import Delivery
from ranker.db.session import session
from ranker.errors import InfraError, ParticipantError, RankerError, UsageError
from ranker.home import Home
from ranker.intake import links
from ranker.intake.arrivals import Arrival, Found, FoundMessage, FoundZip, Unreadable, expand
from ranker.intake.download import shown as shown_url
from ranker.intake.links import LinkView
from ranker.intake.post import Taken as Letter
from ranker.intake.post import take_in, waiting
from ranker.intake.receive import Received, handed_in, known, receive, tidy
from ranker.rules.judging import judge
from ranker.settings import Service
from ranker.types import Channel


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an organizer said beside what they handed in; `report` and `encoder` belong to one file."""

    team: str | None = None
    report: Path | None = None
    encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of one thing that was handed in, or of one ZIP that was in it: `received`, or an `error`.

    A message without a ZIP has neither; `remarks` says then what was found in it. `what` names it for the organizer.
    `elsewhere`: the error is that of a server behind a link, which says nothing of our own disk.
    """

    what: str
    received: Received | None = None
    error: RankerError | None = None
    remarks: tuple[str, ...] = ()
    elsewhere: bool = False


@dataclass(kw_only=True)
class Ingest:
    """One command's worth of taking in. `on_step` is told what is done next, `on_transfer` how far that is."""

    home: Home
    engine: Engine
    service: Service
    asked: Asked
    on_step: Callable[[str], None] = lambda _: None
    on_transfer: OnTransfer = lambda _: None

    def take(self, handed: Sequence[str], numbers: Sequence[int] = ()) -> Iterator[Taken]:
        """Take in paths and URLs, and mailed links by their `numbers`, one after another.

        Where our own machinery fails (a full disk), the rest is not tried: it would fail too.
        """
        with _ours():
            tidy(self.home)
        earlier = replace(self, asked=Asked()).left_over()  # what was said belongs to what is handed in now
        for taken in chain(earlier, self._all(handed, numbers)):
            yield taken
            if isinstance(taken.error, InfraError) and not taken.elsewhere:
                return

    def left_over(self) -> Iterator[Taken]:
        """Take in the messages that an earlier run has kept, and was killed before it had finished with them."""
        for kept in waiting(self.home, self.engine):
            yield from self._message(f"message {kept.stem[:12]}, which an earlier run left", kept)

    def _all(self, handed: Sequence[str], numbers: Sequence[int]) -> Iterator[Taken]:
        """In the order in which things were handed in; what lies in paths is counted first, for those who watch."""
        lying = {each: list(expand([Path(each)])) for each in handed if not links.is_url(each)}
        sizes = [found.size_bytes for each in lying.values() for found in each if not isinstance(found, Unreadable)]
        far = _Far(on_transfer=self.on_transfer, bytes_total=sum(sizes), files_total=len(sizes))
        if sizes:
            self.on_step("submissions")
        for each in handed:
            if each in lying:
                for found in lying[each]:
                    yield from self._found(found, far)
            else:
                yield from self._link(shown_url(each), partial(links.approved, url=each, now=_now()))
        for number in numbers:
            yield from self._link(f"link {number}", partial(links.numbered, number=number))

    def _found(self, found: Found, far: _Far) -> Iterator[Taken]:
        match found:
            case FoundZip(path=path, size_bytes=size, report=report):
                arrival = handed_in(path, report=self.asked.report or report, now=_now())
                yield self._received(str(path), arrival, on_bytes=far.within)
                far.whole(size)
            case FoundMessage(path=path, start=start, size_bytes=size):
                yield from self._message(str(path) if not start else f"{path} at byte {start:,}", found)
                far.whole(size)
            case Unreadable(path=path, why=why):
                yield Taken(what=str(path), error=UsageError(why))

    def _message(self, what: str, found: FoundMessage | Path) -> list[Taken]:
        """What a message holds. It counts as handled once every ZIP in it is taken in or refused."""
        taken: list[Taken] = []
        try:
            with (
                _ours(),
                take_in(self.home, self.engine, found, Channel.MAIL, settings=self.service.mail, now=_now()) as letter,
            ):
                taken += self.letter(what, letter)
                failed = [each.error for each in taken if isinstance(each.error, InfraError)]
                if failed:
                    raise failed[0]
        except RankerError as error:
            if not any(each.error is error for each in taken):
                taken.append(Taken(what=what, error=error))
        return taken

    def letter(self, what: str, letter: Letter) -> Iterator[Taken]:
        """The ZIPs of a message that is kept; also what is to be known of it where it holds none."""
        for arrival in letter.arrivals:
            taken = self._received(f"{what}: {arrival.name}", arrival)
            if isinstance(taken.error, ParticipantError):
                letter.remark(f"{arrival.name} was not taken in: {taken.error}")
            elif taken.error is not None and not isinstance(taken.error, InfraError):  # words for organizers
                letter.remark(f"{arrival.name} could not be taken in as it is; the organizers will write to you")
            yield taken
        if not letter.is_new:
            yield from self._again(what, letter.message.id)
            return
        links_ = [f"it names {shown_url(url)}: `ranker links` lists it" for url in letter.links]
        yield Taken(what=what, remarks=(*letter.notes, *links_))

    def _again(self, what: str, message_id: str) -> Iterator[Taken]:
        """A message that was handled before: what it brought then, whose checks are queued anew where that is due."""
        now = _now()
        with _ours(), session(self.engine) as writing:
            brought = writing.scalars(select(Delivery).where(Delivery.message_id == message_id)).all()
            found = [known(self.home, writing, each.submission_id, now=now) for each in brought]
        for each in found:
            yield Taken(what=f"{what}: {each.submission.file_name}", received=each)
        if not found:
            yield Taken(what=what, remarks=("this message was taken in before; it brought no submission",))

    def _link(self, what: str, find: Callable[[Session], list[LinkView]]) -> Iterator[Taken]:
        """Fetch an address once, and take in what came by each of the links that lead there."""
        found: list[LinkView] = []
        try:
            with _ours(), session(self.engine) as writing:
                found = find(writing)
                done = [each for each in found if each.digest is not None]
                before = [known(self.home, writing, (each.digest or "")[:12], now=_now()) for each in done]
            for each, received in zip(done, before, strict=True):
                yield Taken(what=f"link {each.id}", received=received)
            left = [each for each in found if each.digest is None]
            if left:
                yield from self._fetched(left)
            elif done:
                with _ours():
                    links.tidy(self.home, done[0])
        except ParticipantError as error:
            with _ours():
                for each in found:
                    links.fail(self.engine, each, why=str(error), now=_now())
            yield Taken(what=what, error=error)
        except UsageError as error:
            with _ours(), session(self.engine) as writing:
                links.forget_unasked(writing, found)
            yield Taken(what=what, error=error)
        except RankerError as error:
            yield Taken(what=what, error=error, elsewhere=True)

    def _fetched(self, found: Sequence[LinkView]) -> Iterator[Taken]:
        url = found[0].url
        self.on_step(links.host_of(url))
        far = _Far(on_transfer=self.on_transfer, files_total=1)
        with _ours(), links.fetched(self.home, self.service, url, far.beyond) as arrival_by:
            for link in found:
                arrival = arrival_by(link)
                yield self._received(f"link {link.id}", arrival, settle=link)

    def _received(
        self,
        what: str,
        arrival: Arrival,
        *,
        settle: LinkView | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Taken:
        """One ZIP in one transaction: kept, recorded, judged by the rules; and the link settled that led to it."""
        now = _now()
        try:
            with _ours(), session(self.engine) as writing:
                received = receive(
                    self.home,
                    writing,
                    arrival,
                    team=self.asked.team,
                    encoder=self.asked.encoder,
                    now=now,
                    on_bytes=on_bytes,
                )
                if settle is not None:
                    links.settle(writing, settle, received.submission, arrival, now=now)
                judge(writing, self.home, received.submission.id, now, rules=self.service.rules)
        except RankerError as error:
            return Taken(what=what, error=error)
        return Taken(what=what, received=received, remarks=(received.remark,) if received.remark else ())


@dataclass(kw_only=True)
class _Far:
    """How far a step is, told as bytes and files."""

    on_transfer: OnTransfer
    files_total: int
    bytes_total: int | None = None
    bytes_done: int = 0
    files_done: int = 0

    def within(self, size: int) -> None:
        """So many bytes of the file that is at work are kept."""
        self._tell(self.bytes_done + size)

    def beyond(self, size: int, total: int | None) -> None:
        """So many bytes of the only file have come, of so many as its server says."""
        self.bytes_total = total
        self._tell(size)

    def whole(self, size: int) -> None:
        """A file of this size is dealt with."""
        self.bytes_done += size
        self.files_done += 1
        self._tell(self.bytes_done)

    def _tell(self, bytes_done: int) -> None:
        self.on_transfer(
            Transfer(
                bytes_done=bytes_done,
                bytes_total=self.bytes_total,
                files_done=self.files_done,
                files_total=self.files_total,
            )
        )


@contextmanager
def _ours() -> Iterator[None]:
    """Failures of the disk and of the database as our own error, in one sentence."""
    try:
        yield
    except (OSError, DBAPIError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        raise InfraError(
            f"the home cannot be written to ({found}); is its disk full, or another user's? Nothing that was taken in"
            " is lost, and with room the same command completes the rest"
        ) from error


def _now() -> datetime:
    return datetime.now(UTC)
