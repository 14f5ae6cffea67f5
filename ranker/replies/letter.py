"""An answer as a message (RFC 5322): threaded below what it answers, and marked as written by a program (RFC 3834)."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.message import Message as Headers
from email.utils import format_datetime, parseaddr
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from ranker.errors import ConfigError
from ranker.home import Home
from ranker.replies.answer import Answer, plain

TEMPLATES = Path(__file__).parent / "templates"
_ID = re.compile(r"<[!-;=?-~]{1,300}>")  # printable ASCII without angle brackets and spaces
_REFERENCES = 12
_LONGEST_LINE = 990  # RFC 5322, 2.1.1: 998
_LONGEST_SUBJECT = 200
_AGAIN = re.compile(r"^((re|aw|antw|sv|vs|rif)\s*(\[\d+\])?\s*:\s*)+", re.IGNORECASE)


def letter(
    home: Home, answer: Answer, *, sender: str, recipient: str, key: str, headers: Headers, now: datetime
) -> tuple[str, bytes]:
    """Subject and bytes of an answer to `recipient`, whose message has `headers`.

    `key` makes its Message-ID, so that the same draft is the same message for whoever gets it twice. Raises ConfigError
    where a template cannot be used.
    """
    subject = f"Re: {_AGAIN.sub('', plain(answer.subject))[:_LONGEST_SUBJECT] or 'your message'}"
    name, address = sender_of(sender)
    text = rendered(home, answer)
    short = text.isascii() and max(map(len, text.split("\n"))) <= _LONGEST_LINE
    message = EmailMessage(policy=policy.SMTP if recipient.isascii() else policy.SMTPUTF8)
    message["From"] = Address(display_name=name, addr_spec=address)
    message["Subject"] = subject
    message["Date"] = format_datetime(now)
    message["Auto-Submitted"] = "auto-replied"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(text, charset="utf-8", cte="7bit" if short else "quoted-printable")
    # These are written out here: the library would fold, or encode, what is too long for its taste.
    lines = [f"To: {recipient}", f"Message-ID: <{key[:40]}@{address.partition('@')[2]}>"]
    answered = _ID.search(str(headers.get("Message-ID", "")))
    if answered is not None:
        lines.append(f"In-Reply-To: {answered[0]}")
        earlier = _ID.findall(str(headers.get("References") or headers.get("In-Reply-To") or ""))
        chain = [each for each in dict.fromkeys(earlier) if each != answered[0]][-_REFERENCES:]
        lines.append("References: " + "\r\n ".join([*chain, answered[0]]))
    return subject, "\r\n".join(lines).encode() + b"\r\n" + message.as_bytes()


def sender_of(sender: str) -> tuple[str, str]:
    """Name and address of `from` in smtp. Raises ConfigError where that is no address."""
    name, address = parseaddr(sender)
    try:
        Address(display_name=name, addr_spec=address)
    except (HeaderParseError, ValueError, IndexError):
        address = ""
    if "@" not in address or not address.isascii() or plain(name) != name or any(map(str.isspace, address)):
        raise ConfigError(f"smtp.from {sender!r} in configs/service.yaml: expected `Name <address@host>` or an address")
    return name, address


def organizers(sender: str) -> str:
    """How `from` in smtp names who answers: by name, else by address. Raises ConfigError."""
    name, address = sender_of(sender)
    return name or address


def rendered(home: Home, answer: Answer) -> str:
    """The words, from the home's own template if it has one. Raises ConfigError."""
    environment = _templates(home.root / "configs" / "mail")
    name = f"{answer.kind}.txt"
    try:
        text = environment.get_template(name).render({each.name: getattr(answer, each.name) for each in fields(answer)})
    except TemplateError as error:
        where = f" in line {error.lineno}" if getattr(error, "lineno", None) else ""  # type: ignore[attr-defined]
        raise ConfigError(
            f"the template {name} (configs/mail/ of the home, else ranker's own) cannot be used{where}: "
            f"{error.message}; docs/operator.md lists the variables"
        ) from None
    except (UnicodeDecodeError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"the template {name} (configs/mail/ of the home) cannot be used: {error}") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


@lru_cache(maxsize=4)  # compiling takes longer than all the rest; files that were changed are read again
def _templates(own: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader([own, TEMPLATES]),
        autoescape=False,  # noqa: S701  plain text, of which no program makes anything else
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
