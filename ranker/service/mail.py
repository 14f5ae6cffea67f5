"""What is asked and ordered about mail: the mailbox that submissions are sent to, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ranker import settings
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.service.opened import Opened
from ranker.types import ReplyState

if TYPE_CHECKING:
    from ranker.db.mail import Reply
    from ranker.intake.collect import Collected
    from ranker.intake.inbox import Mailbox, Waiting
    from ranker.outbox import Outcome
    from ranker.replies import Drafted


class Mail(Opened):
    """What is asked and ordered about mail: the mailbox that submissions are sent to, and the answers."""

    @property
    def imap(self) -> settings.Imap:
        """The mailbox of configs/service.yaml. Raises UsageError where it names none."""
        if self.service.imap is None:
            raise UsageError(
                f"no mailbox is configured: give host and user in imap of {self.home.root / 'configs/service.yaml'}"
            )
        return self.service.imap

    @property
    def smtp(self) -> settings.Smtp:
        """Who answers, of configs/service.yaml. Raises UsageError where it names nobody."""
        if self.service.smtp is None:
            raise UsageError(
                f"nobody is configured to answer: give from (and host, to send) in smtp of "
                f"{self.home.root / 'configs/service.yaml'}"
            )
        return self.service.smtp

    def waiting_mail(self) -> list[Waiting]:
        """What `collect_mail` would take; nothing is changed, there or here. Raises UsageError, InfraError."""
        with self._mailbox() as mailbox:
            return mailbox.waiting()

    def collect_mail(
        self,
        passed_over: set[tuple[int, int]],
        *,
        on_message: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Iterator[Collected]:
        """Take in what waits in the mailbox, see `ranker.intake.collect`. Raises UsageError, InfraError."""
        from ranker.intake.collect import collect
        from ranker.intake.ingest import Asked, Ingest

        with self._mailbox() as mailbox, self.open() as engine:
            ingest = Ingest(home=self.home, engine=engine, service=self.service, asked=Asked())
            yield from collect(mailbox, ingest, passed_over, on_message=on_message)

    def _mailbox(self) -> Mailbox:
        from ranker.credentials import secret
        from ranker.intake.inbox import Mailbox

        return Mailbox(self.imap, secret("RANKER_IMAP_SECRET", self.imap.secret_file))

    def draft_answers(self) -> Drafted:
        """Draft every answer that is not there yet, and drop drafts that things have overtaken. Raises ConfigError."""
        from ranker import replies

        smtp, benchmark = self.smtp, self.benchmark(None)
        with self.reading() as reading:
            wanted = replies.wanted(reading, benchmark, organizers=replies.organizers(smtp.sender))
        with self.open() as engine:
            return replies.draft(engine, self.home, self.service, wanted, datetime.now(UTC))

    def answers(self, states: Sequence[ReplyState] = ()) -> list[Reply]:
        """Answers in these states (none named: all), oldest first."""
        from ranker import outbox

        with self.reading() as reading:
            return outbox.replies(reading, states)

    def answer(self, identity: int) -> tuple[Reply, bytes]:
        """One answer, and its message as it would be, or was, sent. Raises UsageError."""
        from ranker import outbox

        with self.reading() as reading:
            found = outbox.reply(reading, identity)
        path = outbox.draft_path(self.home, found)
        if not path.is_file():
            raise UsageError(f"answer {identity} is {found.state}, and its file is not kept: {path}")
        return found, path.read_bytes()

    def drop_answer(self, identity: int) -> Reply:
        """Put an answer aside, unsent, for good. Raises UsageError."""
        from ranker import outbox
        from ranker.events import whoami

        with self.open() as engine, session(engine) as writing:
            return outbox.drop(writing, self.home, identity, actor=whoami())

    def send_answers(self, identities: Sequence[int], *, again: bool = False) -> Iterator[Outcome]:
        """Send answers, each at most once, see `ranker.outbox`. Raises UsageError, InfraError."""
        from ranker import outbox
        from ranker.credentials import secret
        from ranker.events import whoami

        smtp = self.smtp
        if smtp.host is None:
            raise UsageError("no server to send through: give host in smtp of configs/service.yaml")
        password = None if smtp.user is None else secret("RANKER_SMTP_SECRET", smtp.secret_file)
        with self.open() as engine:
            yield from outbox.send(
                engine,
                self.home,
                smtp,
                password,
                identities,
                again=again,
                actor=whoami(),
                now=lambda: datetime.now(UTC),
            )
