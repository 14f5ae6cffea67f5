"""The mailbox that submissions are sent to, over IMAP4rev1 (RFC 3501) with TLS. Messages are read by UID, in pieces.

A message is marked (a keyword), or moved, only after whoever asked for it has it; killed before that, the next look
finds it again. Nothing is read in a way that marks it as seen.
"""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from types import TracebackType
from typing import IO, Any, Self

from ranker.credentials import bearer, scrubbed, trusting
from ranker.errors import InfraError, UsageError
from ranker.settings import Imap
from ranker.types import Login, Tls

CHUNK = 1 << 20
_BATCH = 100
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UID = re.compile(rb"\bUID (\d+)")
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)")
_ARRIVED = re.compile(rb'\bINTERNALDATE "([^"]+)"')
_NOTHING = re.compile(rb'BODY\[\](?:<\d+>)? (?:""|NIL)')


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One message of the folder that has not been taken. `arrived_at` is when the server got it (INTERNALDATE), or
    None where it says nothing that could be read.

    `validity` (UIDVALIDITY) and `uid` name it for good. `sender` and `subject` are as its headers say, for display.
    """

    validity: int
    uid: int
    size_bytes: int
    arrived_at: datetime | None
    sender: str
    subject: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "uid": self.uid,
            "uidvalidity": self.validity,
            "bytes": self.size_bytes,
            "arrived_at": None if self.arrived_at is None else self.arrived_at.isoformat(),
            "sender": self.sender,
            "subject": self.subject,
        }


class Mailbox:
    """An open folder. Use as a context; methods raise InfraError where the server fails or hangs up."""

    def __init__(self, settings: Imap, secret: str) -> None:
        self._settings = settings
        self._secret = secret
        self._imap: imaplib.IMAP4
        self._capabilities: frozenset[str] = frozenset()
        self.validity = 0

    def __enter__(self) -> Self:
        """Connect, log in, open the folder.

        Raises UsageError where the certificate is not trusted, the password is wrong, a folder is not there or cannot
        hold marks; InfraError where nobody answers.
        """
        with self._told():
            self._imap = self._connected()
        try:
            with self._told():
                self._log_in()
                self._open()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def waiting(self) -> list[Waiting]:
        """The messages that have not been taken yet, oldest UID first."""
        criteria = ["UNDELETED"]
        if self._settings.done_folder is None:
            criteria += ["UNKEYWORD", self._settings.done_flag]
        if (since := self._settings.since) is not None:
            criteria += ["SINCE", f"{since.day}-{_MONTHS[since.month - 1]}-{since.year}"]
        with self._told():
            found = self._asked("SEARCH", *criteria)
            uids = sorted({int(uid) for line in found if isinstance(line, bytes) for uid in line.split()})
            return [each for at in range(0, len(uids), _BATCH) for each in self._described(uids[at : at + _BATCH])]

    def read(self, message: Waiting, file: IO[bytes], *, chunk: int = CHUNK) -> int:
        """Copy a message's bytes to `file`, `chunk` at a time; returns how many there were.

        Raises InfraError if the message is gone.
        """
        size = 0
        while True:
            with self._told():
                part = _body(self._asked("FETCH", str(message.uid), f"(BODY.PEEK[]<{size}.{chunk}>)"), message.uid)
            if part is None:
                raise InfraError(f"message {message.uid} went out of {self._settings.folder} while it was read")
            if not part:  # what a server says of a message's size need not be exact; that there is no more, is
                return size
            file.write(part)
            size += len(part)

    def mark_taken(self, message: Waiting) -> None:
        """Move the message to the folder for handled ones, or give it the keyword for them."""
        target, uid = self._settings.done_folder, str(message.uid)
        with self._told():
            if target is None:
                self._asked("STORE", uid, "+FLAGS.SILENT", f"({self._settings.done_flag})")
            elif "MOVE" in self._capabilities:  # RFC 6851: all or nothing
                self._asked("MOVE", uid, _folder(target))
            else:
                self._asked("COPY", uid, _folder(target))
                self._asked("STORE", uid, "+FLAGS.SILENT", r"(\Deleted)")
                if "UIDPLUS" in self._capabilities:  # RFC 4315; a bare EXPUNGE would remove what others have deleted
                    self._asked("EXPUNGE", uid)

    def mark_trouble(self, message: Waiting) -> None:
        r"""Flag the message (\Flagged: a star in most programs): it stays where it is, for a human to look at."""
        with self._told():
            self._asked("STORE", str(message.uid), "+FLAGS.SILENT", r"(\Flagged)")

    def _connected(self) -> imaplib.IMAP4:
        asked = self._settings
        context = trusting(asked.ca_file)
        if asked.tls is Tls.IMPLICIT:
            return imaplib.IMAP4_SSL(asked.host, asked.port, ssl_context=context, timeout=asked.timeout_s)
        plain = imaplib.IMAP4(asked.host, asked.port, timeout=asked.timeout_s)
        try:
            plain.starttls(context)
        except BaseException:
            with suppress(OSError, imaplib.IMAP4.error):
                plain.shutdown()
            raise
        return plain

    def _log_in(self) -> None:
        """SASL with an initial secret that may be any UTF-8; LOGIN only where the server offers no PLAIN."""
        imap, user = self._imap, self._settings.user
        try:
            if self._settings.login is Login.OAUTH2:
                answers = iter([bearer(user, self._secret).encode()])
                imap.authenticate("XOAUTH2", lambda _: next(answers, b""))  # b"" accepts an error's explanation
            elif "AUTH=PLAIN" in imap.capabilities:
                imap.authenticate("PLAIN", lambda _: f"\0{user}\0{self._secret}".encode())
            else:
                imap.login(user, self._secret)
        except imaplib.IMAP4.abort:
            raise
        except (imaplib.IMAP4.error, UnicodeEncodeError) as error:
            words = scrubbed(error.args[0] if error.args else "", self._secret)
            advice = (
                "a token lives for about an hour: fetch a new one"
                if self._settings.login is Login.OAUTH2
                else "most providers want an app password, not the person's own; see docs/operator.md"
            )
            raise UsageError(f"{self._where} refuses the login of {user} ({words}); {advice}") from None
        # Many servers tell all that they can only to those who have logged in.
        _, lines = imap.capability()
        self._capabilities = (
            frozenset(lines[-1].decode("ascii", "replace").upper().split()) if lines[-1] else frozenset()
        )

    def _open(self) -> None:
        folder, done = self._settings.folder, self._settings.done_folder
        if folder == done:
            raise UsageError(f"done_folder of imap is the folder that is read ({folder!r}); name another, or none")
        names = [folder] if done is None else [done, folder]  # the last one stays open
        for name in names:
            kind, lines = self._imap.select(_folder(name), readonly=name != folder)
            if kind != "OK":
                raise UsageError(
                    f"{self._where} has no folder {name!r} that can be opened ({scrubbed(lines[0], self._secret)}); it "
                    f"has {', '.join(self._folders()) or 'none that it tells of'}"
                )
        _, validity = self._imap.response("UIDVALIDITY")
        self.validity = int(validity[0]) if validity[0] else 0
        _, lasting = self._imap.response("PERMANENTFLAGS")
        words = (lasting[0] or b"").decode("ascii", "replace").strip("()").lower().split()
        if done is None and r"\*" not in words and self._settings.done_flag.lower() not in words:
            raise UsageError(
                f"{self._where} keeps no keyword {self._settings.done_flag} on messages of {folder!r}, so handled ones "
                "could not be told; name a folder to move them to (done_folder of imap in configs/service.yaml)"
            )

    def _folders(self) -> list[str]:
        _, lines = self._imap.list()
        found = [re.search(rb'(?:"((?:[^"\\]|\\.)*)"|(\S+))\s*$', line) for line in lines if isinstance(line, bytes)]
        return [_unfolder((each[1] or each[2]).decode("ascii", "replace")) for each in found if each][:20]

    def _described(self, uids: Sequence[int]) -> Iterator[Waiting]:
        """What the server says of these messages; nothing of those that went meanwhile."""
        fields = "(UID RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (FROM SUBJECT)])"
        lines = self._asked("FETCH", ",".join(map(str, uids)), fields)
        left = set(uids)
        for at, line in enumerate(lines):
            # A header without either field may come as a literal of an empty line, as "", or as NIL.
            before, header = line if isinstance(line, tuple) else (line, b"")
            after = lines[at + 1] if at + 1 < len(lines) and isinstance(line, tuple) else b""
            facts = before + b" " + (after if isinstance(after, bytes) else b"")
            uid, size, arrived = (pattern.search(facts) for pattern in (_UID, _SIZE, _ARRIVED))
            if uid is None or size is None or arrived is None or int(uid[1]) not in left:
                continue
            left.remove(int(uid[1]))
            headers = BytesHeaderParser().parsebytes(header)
            yield Waiting(
                validity=self.validity,
                uid=int(uid[1]),
                size_bytes=int(size[1]),
                arrived_at=_moment(arrived[1]),
                sender=_shown(headers["From"]),
                subject=_shown(headers["Subject"]),
            )

    def _asked(self, command: str, *arguments: str) -> list[Any]:
        """One UID command's answers: bytes, or pairs of bytes where there is a literal. Raises on NO and BAD."""
        kind, lines = self._imap.uid(command, *arguments)
        if kind != "OK":
            words = scrubbed(lines[0] if lines else "", self._secret)
            raise InfraError(f"{self._where} refuses {command} ({words}); type the same command again")
        # SEARCH answers [None] where there is nothing, FETCH where the message is gone.
        return [line for line in lines if line is not None]

    def _leave(self) -> None:
        # Not CLOSE: that would remove what others have marked as deleted.
        with suppress(OSError, imaplib.IMAP4.error):
            self._imap.logout()
        with suppress(OSError):
            self._imap.shutdown()  # where the server was gone, logging out has failed before that

    @property
    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong on the way, in one sentence without the secret."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise UsageError(
                f"the certificate of {self._where} is not trusted ({error.verify_message}); nothing was sent; if it is "
                "the right server, name its CA's file (ca_file of imap in configs/service.yaml)"
            ) from None
        except ssl.SSLError as error:
            raise InfraError(
                f"no TLS with {self._where} ({error.reason or error}); is it the right port? tls: implicit belongs to "
                "port 993, tls: starttls to 143"
            ) from None
        except socket.gaierror as error:
            raise InfraError(f"{self._settings.host} is not found ({error.strerror}); is its name right?") from None
        except (OSError, imaplib.IMAP4.error) as error:
            words = scrubbed(error.strerror if isinstance(error, OSError) and error.strerror else error, self._secret)
            raise InfraError(
                f"{self._where} does not answer, or hung up ({words}); expected an IMAP server with tls: "
                f"{self._settings.tls}; what was taken is kept, and the same command goes on from there"
            ) from None


def _body(lines: Sequence[Any], uid: int) -> bytes | None:
    """A piece of one message out of the answer to FETCH; None where there is none (others' news may stand there)."""
    for at, line in enumerate(lines):
        if isinstance(line, tuple):
            after = lines[at + 1] if at + 1 < len(lines) and isinstance(lines[at + 1], bytes) else b""
            found = _UID.search(line[0]) or _UID.search(after)
            if b"BODY[]" in line[0].upper() and found is not None and int(found[1]) == uid:
                return bytes(line[1])
        elif (found := _UID.search(line)) is not None and int(found[1]) == uid and _NOTHING.search(line):
            return b""
    return None


def _moment(text: bytes) -> datetime | None:
    """An INTERNALDATE; None where it is none."""
    try:
        return datetime.strptime(text.decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z")
    except ValueError:
        return None


def _shown(value: object) -> str:
    """A header for people: decoded, printable, on one line."""
    raw = "" if value is None else str(value)
    with suppress(ValueError, LookupError):  # a charset that nobody knows, or bytes that are not what they say
        raw = str(make_header(decode_header(raw)))
    return " ".join("".join(each if each.isprintable() else " " for each in raw).split())[:200]


def _folder(name: str) -> str:
    """A folder's name for the server: modified UTF-7 (RFC 3501, 5.1.3), quoted."""
    encoded, held = "", ""
    for character in [*name, ""]:
        if character and not " " <= character <= "~":
            held += character
            continue
        if held:
            encoded += "&" + held.encode("utf-7").decode("ascii")[1:-1].replace("/", ",") + "-"
            held = ""
        encoded += "&-" if character == "&" else character
    return '"' + encoded.replace("\\", r"\\").replace('"', r"\"") + '"'


def _unfolder(name: str) -> str:
    """The inverse of `_folder`, but for the quotes; a name that is not well formed is left as it is."""

    def decoded(match: re.Match[str]) -> str:
        return ("+" + match[1].replace(",", "/") + "-").encode("ascii").decode("utf-7") if match[1] else "&"

    try:
        return re.sub(r"&([^-]*)-", decoded, name).replace(r"\"", '"').replace(r"\\", "\\")
    except UnicodeDecodeError:
        return name
