"""Answers leave by SMTP (RFC 5321) with TLS, when someone says so, and at most once each.

A reply is SENDING in the database before its first byte goes out, and leaves that state only for what the server said.
So a reply that is found SENDING may have been sent, and is not sent again unless someone insists.
"""

from __future__ import annotations

import base64
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import format_datetime, parseaddr
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ranker import events
from ranker.credentials import bearer, scrubbed, trusting
from ranker.db.mail import Reply
from ranker.db.session import session
from ranker.errors import InfraError, UsageError
from ranker.home import Home
from ranker.settings import Smtp
from ranker.types import Action, Login, ReplyState, Tls

MAY_BE_SENT = (
    "it may have been sent: whoever sent it was stopped, or the connection was lost, before the server answered"
)
_SENDABLE = frozenset({ReplyState.DRAFTED, ReplyState.FAILED})
_GO_AHEAD, _CHALLENGE, _CLOSING, _LASTING = 354, 334, 421, 500
_DATE = re.compile(rb"^Date:[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*", re.IGNORECASE | re.MULTILINE)


def draft_path(home: Home, reply: Reply) -> Path:
    """Where an answer lies as a message; what stands there is what is sent."""
    return home.outbox / f"{reply.key}.eml"


def replies(reading: Session, states: Sequence[ReplyState] = ()) -> list[Reply]:
    """Answers in these states (none named: all), in the order of drafting."""
    query = select(Reply).order_by(Reply.id)
    return list(reading.scalars(query.where(Reply.state.in_(states)) if states else query))


def reply_json(reply: Reply) -> dict[str, Any]:
    """A reply as plain values."""
    return {
        "id": reply.id,
        "kind": reply.kind,
        "state": reply.state,
        "recipient": reply.recipient,
        "subject": reply.subject,
        "message": reply.message_id,
        "submission": reply.submission_id,
        "drafted_at": reply.drafted_at.isoformat(),
        "sending_at": None if reply.sending_at is None else reply.sending_at.isoformat(),
        "sent_at": None if reply.sent_at is None else reply.sent_at.isoformat(),
        "failure": reply.failure,
    }


def reply(reading: Session, identity: int) -> Reply:
    """One answer. Raises UsageError."""
    found = reading.get(Reply, identity)
    if found is None:
        raise UsageError(f"there is no answer {identity}; `ranker outbox` lists them")
    return found


def drop(writing: Session, home: Home, identity: int, *, actor: str) -> Reply:
    """Put an answer aside for good: it is neither sent nor drafted again. Raises UsageError if it was sent."""
    found = reply(writing, identity)
    if found.state == ReplyState.SENT:
        raise UsageError(f"answer {identity} was sent at {found.sent_at:%Y-%m-%d %H:%M} UTC; nothing was changed")
    found.state = ReplyState.DROPPED
    found.failure = f"dropped by {actor}"
    draft_path(home, found).unlink(missing_ok=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one answer that was to be sent. `why` says it in words unless it was sent."""

    id: int
    recipient: str
    subject: str
    state: ReplyState
    why: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def send(
    engine: Engine,
    home: Home,
    settings: Smtp,
    secret: str | None,
    identities: Sequence[int],
    *,
    again: bool = False,
    actor: str,
    now: Callable[[], datetime],
) -> Iterator[Outcome]:
    """Send answers one after the other; one that fails keeps none of the others.

    `again`: also those that may have been sent. Raises UsageError (login refused, no such answer), InfraError (no
    server answers): those that are left are then as they were.
    """
    with Line(settings, secret) as line:
        for identity in identities:
            line.ready()
            claimed = _claim(engine, home, identity, again=again, now=now())
            if isinstance(claimed, Outcome):
                yield claimed
                continue
            recipient, content = claimed
            yield _settle(engine, identity, line.carry(recipient, content), actor=actor, now=now())


def _claim(engine: Engine, home: Home, identity: int, *, again: bool, now: datetime) -> tuple[str, bytes] | Outcome:
    """Whom to send what; from now on it may have been sent. An Outcome where it is not to be sent."""
    with session(engine) as writing:
        found = reply(writing, identity)
        if found.state not in _SENDABLE and not (again and found.state == ReplyState.SENDING):
            why = MAY_BE_SENT if found.state == ReplyState.SENDING else f"it is {found.state} already"
            return _outcome(found, why)
        try:
            content = draft_path(home, found).read_bytes()
        except FileNotFoundError:
            return _outcome(found, f"{draft_path(home, found)} is gone; `ranker outbox` writes drafts again")
        found.state, found.sending_at, found.failure = ReplyState.SENDING, now, None
    return found.recipient, _stamped(content, now)


def _settle(engine: Engine, identity: int, carried: Carried, *, actor: str, now: datetime) -> Outcome:
    with session(engine) as writing:
        found = reply(writing, identity)
        found.state, found.failure = carried.state, carried.words[:2000] or None
        found.sent_at = now if carried.state is ReplyState.SENT else None
        events.record(
            writing,
            actor=actor,
            action=Action.SEND,
            submission_id=found.submission_id,
            now=now,
            reply=found.id,
            kind=found.kind,
            recipient=found.recipient,
            state=carried.state,
        )
        return _outcome(found, None if carried.state is ReplyState.SENT else carried.words)


def _outcome(found: Reply, why: str | None) -> Outcome:
    return Outcome(
        id=found.id, recipient=found.recipient, subject=found.subject, state=ReplyState(found.state), why=why
    )


def _stamped(content: bytes, now: datetime) -> bytes:
    """The message as it goes out: dated now, lines ended as SMTP wants them, no line that is a lone dot."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    head, gap, body = lines.partition(b"\r\n\r\n")
    head = _DATE.sub(b"Date: " + format_datetime(now).encode("ascii"), head, count=1)
    whole = head + gap + body
    whole = whole if whole.endswith(b"\r\n") else whole + b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", whole)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What the server made of one message: SENT, DRAFTED (refused for now), FAILED (refused for good), or SENDING: it
    may have it.
    """

    state: ReplyState
    words: str = ""


class Line:
    """A connection to the SMTP server, made anew where it was lost. Use as a context."""

    def __init__(self, settings: Smtp, secret: str | None) -> None:
        self._settings = settings
        self._secret = secret
        self._smtp: smtplib.SMTP | None = None
        self._sender = parseaddr(settings.sender)[1]

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._smtp is not None:
            with suppress(OSError, smtplib.SMTPException):
                self._smtp.quit()
        self._drop()

    def ready(self) -> None:
        """Have a connection that answers. Raises UsageError, InfraError."""
        if self._smtp is not None:
            with suppress(OSError, smtplib.SMTPException):
                if self._smtp.noop()[0] == 250:
                    return
        self._drop()
        try:
            with self._told():
                self._smtp = self._connected()
                if self._settings.user is not None:
                    self._log_in(self._smtp, self._settings.user, self._secret or "")
        except BaseException:
            self._drop()
            raise

    def carry(self, recipient: str, content: bytes) -> Carried:
        """Hand over one message (`content` as `_stamped` makes it). Never raises for what the server does."""
        smtp = self._smtp
        assert smtp is not None, "a message was to be carried before ready()"
        options = []
        if not (recipient.isascii() and content.partition(b"\r\n\r\n")[0].isascii()):
            if not smtp.has_extn("smtputf8"):
                return Carried(
                    state=ReplyState.FAILED,
                    words=f"the address {recipient} is not ASCII, and {self._where} carries no such (SMTPUTF8)",
                )
            options.append("SMTPUTF8")
        if not content.isascii():
            if not smtp.has_extn("8bitmime"):
                return Carried(
                    state=ReplyState.FAILED,
                    words=f"the draft is not ASCII, and {self._where} carries no such (8BITMIME)",
                )
            options.append("BODY=8BITMIME")
        try:
            smtp.command_encoding = "utf-8" if "SMTPUTF8" in options else "ascii"
            for code, words in self._introduced(smtp, recipient, options):
                if not 200 <= code < 300 and code != _GO_AHEAD:
                    return self._refused(smtp, code, words)
        except (OSError, smtplib.SMTPException) as error:
            self._drop()
            lost = f"the connection was lost before it was sent ({scrubbed(error, self._secret or '')})"
            return Carried(state=ReplyState.DRAFTED, words=lost)
        try:
            smtp.send(content + b".\r\n")
            code, answer = smtp.getreply()
        except (OSError, smtplib.SMTPException):
            self._drop()
            return Carried(state=ReplyState.SENDING, words=MAY_BE_SENT)
        return Carried(state=ReplyState.SENT) if 200 <= code < 300 else self._refused(smtp, code, answer)

    def _introduced(self, smtp: smtplib.SMTP, recipient: str, options: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        """The server's answers up to where the message would begin."""
        yield smtp.mail(self._sender, tuple(options))
        yield smtp.rcpt(recipient)
        yield smtp.docmd("DATA")

    def _refused(self, smtp: smtplib.SMTP, code: int, words: bytes) -> Carried:
        """A definite no; codes from 500 on are for good (RFC 5321, 4.2.1)."""
        if code == _CLOSING:
            self._drop()
        else:
            with suppress(OSError, smtplib.SMTPException):
                smtp.rset()
        told = f"{self._where} says: {code} {scrubbed(words, self._secret or '')}"
        return Carried(state=ReplyState.FAILED if code >= _LASTING else ReplyState.DRAFTED, words=told)

    def _connected(self) -> smtplib.SMTP:
        asked = self._settings
        if asked.host is None:
            raise UsageError("no server to send through: give host in smtp of configs/service.yaml")
        context = trusting(asked.ca_file)
        # The name that we greet with: the sender's domain. A machine's own may be unknown, and slow to find.
        name = self._sender.partition("@")[2] or "localhost"
        if asked.tls is Tls.IMPLICIT:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                asked.host, asked.port, local_hostname=name, timeout=asked.timeout_s, context=context
            )
            smtp.ehlo_or_helo_if_needed()
            return smtp
        smtp = smtplib.SMTP(asked.host, asked.port, local_hostname=name, timeout=asked.timeout_s)
        try:
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _log_in(self, smtp: smtplib.SMTP, user: str, secret: str) -> None:
        """By SASL, in UTF-8: XOAUTH2, PLAIN, or the LOGIN that some servers have in its place."""
        plain = f"\0{user}\0{secret}"
        offered = smtp.esmtp_features.get("auth", "").upper().split()
        if self._settings.login is Login.OAUTH2:
            code, words = smtp.docmd("AUTH", f"XOAUTH2 {_base64(bearer(user, secret))}")
            if code == _CHALLENGE:  # the reason, which the server tells only after an empty answer
                code, words = smtp.docmd("")
        elif "PLAIN" in offered or "LOGIN" not in offered:
            code, words = smtp.docmd("AUTH", f"PLAIN {_base64(plain)}")
        else:
            code, words = smtp.docmd("AUTH", f"LOGIN {_base64(user)}")
            if code == _CHALLENGE:
                code, words = smtp.docmd(_base64(secret))
        if not 200 <= code < 300:
            raise UsageError(
                f"{self._where} refuses the login of {user} ({code} {scrubbed(words, secret)}); nothing was sent; most "
                "providers want an app password or a fresh token, see docs/operator.md"
            )

    def _drop(self) -> None:
        if self._smtp is not None:
            with suppress(OSError):
                self._smtp.close()
        self._smtp = None

    @property
    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong before any answer is touched, in one sentence without the secret."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise UsageError(
                f"the certificate of {self._where} is not trusted ({error.verify_message}); nothing was sent; if it is "
                "the right server, name its CA's file (ca_file of smtp in configs/service.yaml)"
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise UsageError(
                f"{self._where} offers no STARTTLS; nothing was sent; expected a server that encrypts (tls: implicit "
                "belongs to port 465)"
            ) from None
        except socket.gaierror as error:
            raise InfraError(f"{self._settings.host} is not found ({error.strerror}); is its name right?") from None
        except (OSError, smtplib.SMTPException) as error:
            raise InfraError(
                f"{self._where} does not answer as an SMTP server with tls: {self._settings.tls} does "
                f"({scrubbed(error, self._secret or '')}); what was not sent is still drafted"
            ) from None


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
