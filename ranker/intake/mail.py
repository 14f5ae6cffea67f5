"""A message as it came -> what it says and what it carries. Pure: it reads a file, and writes and decides nothing.

The bytes are hostile. A message is walked through where it lies, part by part, without recursion and in bounded memory:
the standard library's parser holds a message several times over, and recurses as deep as a message nests. Whatever is
broken in a message is a note about it, never an exception.

Not covered: TNEF, S/MIME and PGP (told apart, and refused with what to do), messages split into several
(message/partial), and what stands before the first boundary of a part or behind its last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

from ranker.intake import mail_links
from ranker.intake.mail_bodies import (
    MAX_BOUNDARY,
    Encoding,
    Span,
    delimiters,
    encoding,
    head,
    read_at,
    uuencoded,
)
from ranker.intake.mail_kinds import HEAD, Kind, is_zip, kind
from ranker.intake.mail_names import address, decode, file_name, line, moment, parameters, raw_text, words
from ranker.intake.mail_times import AUTHENTICATED, RECEIVED

MAX_HEADER = 1 << 18  # bytes of one part's header
MAX_FIELDS = 2000
MAX_PARTS = 500  # of one message, with all that is forwarded in it
MAX_DEPTH = 20
MAX_TRACE = 100
MAX_NOTES = 40
_FIELD = re.compile(rb"^([!-9;-~]{1,100})[ \t]*:((?:[^\n]++|\n[ \t])*+)", re.MULTILINE)
_TOP = re.compile(rb"(?:\xef\xbb\xbf)?(?:[ \t]{0,80}\r?\n){0,20}(?:>?From [^\n]{0,2000}\n)?")
_END_OF_HEADER = re.compile(rb"(?:\A|\n)\r?\n")
_ZIP_IN_BASE64 = (b"UEsDB", b"UEsFB", b"UEsHC")
_AUTOMATIC = {b"bulk", b"junk", b"auto_reply", b"auto-reply"}
_SILENT = {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A file in a message: `name` is fit to be shown, or ""; `inside` counts forwarded messages, 0 is the outer one."""

    kind: Kind
    name: str
    span: Span
    inside: int


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Who wrote a message, what about, and when by their own clock: claims, all of them. "" where nothing is said."""

    sender: str
    subject: str
    message_id: str | None
    dated_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What a message says and carries.

    `heading` is the outer message's; `forwarded` are those inside it, in the order of `Attachment.inside` from 1.
    `trace` is for `ranker.intake.mail_times`.
    `attachments` are the ZIPs, PDFs and packed messages; `notes` say what else was found, and what it means.
    """

    heading: Heading
    is_automatic: bool
    trace: tuple[tuple[str, str], ...]
    attachments: tuple[Attachment, ...]
    links: tuple[str, ...]
    forwarded: tuple[Heading, ...]
    notes: tuple[str, ...]


def read(file: BinaryIO, *, only_header: bool = False) -> Letter:
    """The letter in a file, whatever its bytes; with `only_header`, what its header says. Raises OSError only."""
    walk = _Walk(file)
    return walk.header() if only_header else walk.letter(file.seek(0, 2))


Fields = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part still to be looked at; `depth` counts what it is in, `inside` is that of an Attachment."""

    start: int
    end: int
    depth: int
    inside: int
    is_message: bool
    default: str = "text/plain"


class _Walk:
    """One reading of one message; parts wait in a list, and not on Python's stack."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._headings: list[Heading] = []
        self._outer: Fields = ()
        self._attachments: list[Attachment] = []
        self._links: dict[str, None] = {}
        self._ignored: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._waiting: list[_Part] = []
        self._is_report = False

    def header(self) -> Letter:
        fields, _ = self._header(self._whole(self._file.seek(0, 2)))
        self._head(fields, is_outer=True)
        return self._found()

    def letter(self, size: int) -> Letter:
        self._waiting.append(self._whole(size))
        parts = 0
        while self._waiting:
            if parts == MAX_PARTS:
                self._note(f"it has more than {MAX_PARTS} parts; the rest was not looked at")
                break
            parts += 1
            self._look(self._waiting.pop())
        return self._found()

    def _whole(self, size: int) -> _Part:
        top = _TOP.match(read_at(self._file, 0, 8192))
        return _Part(start=top.end() if top is not None else 0, end=size, depth=0, inside=0, is_message=True)

    def _found(self) -> Letter:
        for url in self._ignored:
            if url not in self._links:
                self._note(f"a link in a signature, or in quoted text, was left aside: {line(url, 300)}")
        return Letter(
            heading=self._headings[0],
            is_automatic=self._is_report or _is_automatic(self._outer),
            trace=_trace(self._outer),
            attachments=tuple(self._attachments),
            links=tuple(self._links),
            forwarded=tuple(self._headings[1:]),
            notes=tuple(self._notes),
        )

    def _note(self, text: str) -> None:
        if len(self._notes) < MAX_NOTES:
            self._notes[text] = None
        elif len(self._notes) == MAX_NOTES:
            self._notes["there is more to say about it, which was left out"] = None

    def _look(self, part: _Part) -> None:
        fields, body = self._header(part)
        inside = part.inside
        if part.is_message:
            inside = len(self._headings)
            self._head(fields, is_outer=part.depth == 0)
        declared, options = parameters(_first(fields, "content-type"))
        declared = declared if re.fullmatch(r"[\w.+-]+/[\w.+-]+", declared, re.ASCII) else part.default
        inner = _Part(start=body, end=part.end, depth=part.depth + 1, inside=inside, is_message=False)
        if declared.startswith("multipart/"):
            self._multipart(inner, declared, options.get("boundary", ""))
        else:
            self._leaf(inner, fields, declared, options)

    def _header(self, part: _Part) -> tuple[Fields, int]:
        """The fields of a part, and where its body begins."""
        block = read_at(self._file, part.start, min(part.end, part.start + MAX_HEADER))
        end = _END_OF_HEADER.search(block)
        if end is None and part.start + len(block) < part.end:
            self._note(f"a header is longer than {MAX_HEADER:,} bytes; what stands behind it was not looked at")
        body = part.start + end.end() if end is not None else part.end
        text = block[: end.start() + 1] if end is not None else block
        fields = []
        for match in _FIELD.finditer(text):
            fields.append((match[1].decode("ascii").lower(), match[2].strip()))
            if len(fields) == MAX_FIELDS:
                break
        return fields, body

    def _head(self, fields: Fields, *, is_outer: bool) -> None:
        heading = _heading(fields)
        self._headings.append(heading)
        if not is_outer:
            who = heading.sender or "nobody that it names"
            self._note(f"it holds a message of {who} ({line(heading.subject, 100) or 'without a subject'})")
            return
        self._outer = fields
        if not fields:
            self._note("it has no header: these bytes are no e-mail, or its beginning was lost")
        elif not heading.sender:
            self._note("it does not say whom it is from, so it cannot be answered")
        if sum(name == "from" for name, _ in fields) > 1:
            self._note("it says more than once whom it is from; the first was taken")

    def _multipart(self, part: _Part, declared: str, boundary: str) -> None:
        if part.depth > MAX_DEPTH:
            self._note(f"its parts are nested more than {MAX_DEPTH} deep; what lies deeper was not looked at")
            return
        if declared == "multipart/encrypted":
            self._note("it is encrypted (PGP), and cannot be opened here; send it again without encryption")
            return
        self._is_report = self._is_report or (declared == "multipart/report" and part.inside == 0)
        mark = boundary.rstrip().encode("utf-8", "replace")
        marks = []
        if 1 <= len(mark) <= MAX_BOUNDARY:
            for each in delimiters(self._file, part.start, part.end, mark):
                marks.append(each)
                if len(marks) > MAX_PARTS:
                    break
        if not marks:
            self._note("its parts cannot be told apart (no boundary); it was read as text")
            self._leaf(part, (), "text/plain", {})
            return
        if not marks[-1].closes and len(marks) <= MAX_PARTS:
            self._note("the line that ends its parts is missing: it may have been cut on its way")
        ends = [mark.start for mark in marks[1:]] + ([] if marks[-1].closes else [part.end])
        default = "message/rfc822" if declared == "multipart/digest" else "text/plain"
        children = [
            _Part(start=mark.end, end=end, depth=part.depth, inside=part.inside, is_message=False, default=default)
            for mark, end in zip(marks, ends, strict=False)
            if mark.end < end
        ]
        self._waiting += reversed(children[: MAX_PARTS + 1 - len(self._waiting)])

    def _leaf(self, part: _Part, fields: Fields, declared: str, options: dict[str, str]) -> None:
        placed, about = parameters(_first(fields, "content-disposition"))
        name = file_name(about.get("filename") or options.get("name") or "")
        span = Span(
            start=part.start, end=part.end, encoding=encoding(raw_text(_first(fields, "content-transfer-encoding")))
        )
        if declared in {"message/rfc822", "message/global"} and span.encoding is Encoding.NONE:
            self._forwarded(part)
            return
        if declared in {"message/partial", "message/external-body"}:
            self._note(f"a part of it lies elsewhere ({declared}); send the whole in one message, or send a link")
            return
        begins = head(self._file, span, HEAD)
        if not is_zip(begins) and span.encoding is not Encoding.BASE64 and begins.startswith(_ZIP_IN_BASE64):
            self._note(f"{name or 'a part'} does not say that it is in base64, but is")
            span = Span(start=span.start, end=span.end, encoding=Encoding.BASE64)
            begins = head(self._file, span, HEAD)
        found, remark = kind(begins, name, declared)
        if remark is not None:
            self._note(remark)
        if found in {Kind.ZIP, Kind.PDF, Kind.MESSAGE}:
            self._attachments.append(Attachment(kind=found, name=name, span=span, inside=part.inside))
            return
        is_shown = found is Kind.TEXT and placed != "attachment" and not name
        if found is Kind.TEXT:
            self._text(span, declared, options.get("charset"), part.inside)
        is_picture = declared.startswith("image/") and bool(_first(fields, "content-id"))
        if found is not Kind.REFUSED and remark is None and not is_shown and not is_picture and declared not in _SILENT:
            self._note(f"{name or 'an attachment without a name'} ({line(declared, 60)}) was left aside")

    def _forwarded(self, part: _Part) -> None:
        if part.depth > MAX_DEPTH:
            self._note(f"messages are forwarded in it more than {MAX_DEPTH} deep; what lies deeper was not looked at")
            return
        top = _TOP.match(read_at(self._file, part.start, min(part.end, part.start + 8192)))
        start = part.start + (top.end() if top is not None else 0)
        self._waiting.append(_Part(start=start, end=part.end, depth=part.depth, inside=part.inside, is_message=True))

    def _text(self, span: Span, declared: str, charset: str | None, inside: int) -> None:
        """Links, and files that were written into the text."""
        text = decode(head(self._file, span, mail_links.MAX_TEXT), charset)
        if "-----BEGIN PGP MESSAGE-----" in text:
            self._note("its text is encrypted (PGP), and cannot be read here; send it again without encryption")
        found = mail_links.find(text, is_html=declared == "text/html")
        for url in found.taken:
            if url not in self._links and len(self._links) == mail_links.MAX_LINKS:
                self._note(f"it has more than {mail_links.MAX_LINKS} links; the rest was not looked at")
                break
            self._links[url] = None
        self._ignored |= dict.fromkeys(found.ignored)
        if span.encoding is not Encoding.NONE or declared != "text/plain":
            return
        for called, written in uuencoded(self._file, span.start, span.end, MAX_PARTS // 10):
            name = file_name(decode(called, charset))
            what, remark = kind(head(self._file, written, HEAD), name, "application/octet-stream")
            if what in {Kind.ZIP, Kind.PDF}:
                self._attachments.append(Attachment(kind=what, name=name, span=written, inside=inside))
            else:
                self._note(remark or f"{name or 'a file in its text'} (uuencode) was left aside")


def _first(fields: Fields, name: str) -> bytes:
    return next((value for each, value in fields if each == name), b"")


def _heading(fields: Fields) -> Heading:
    named = re.search(r"<([^<>\s]{1,990})>", raw_text(_first(fields, "message-id")))
    return Heading(
        sender=address(_first(fields, "from")) or "",
        subject=line(words(_first(fields, "subject")), 500),
        message_id=None if named is None else line(f"<{named[1]}>", 998),
        dated_at=moment(raw_text(_first(fields, "date"))),
    )


def _trace(fields: Fields) -> tuple[tuple[str, str], ...]:
    found = [(name, raw_text(value)) for name, value in fields if name in {RECEIVED, AUTHENTICATED}]
    return tuple((name, " ".join(text.split())) for name, text in found[:MAX_TRACE])


def _is_automatic(fields: Fields) -> bool:
    """Whether a program wrote it: RFC 3834, and what older programs say. To answer it may begin an endless exchange."""
    auto = _first(fields, "auto-submitted").partition(b";")[0].strip().lower()
    sender = (address(_first(fields, "from")) or "").partition("@")[0]
    return (
        auto not in {b"", b"no"}
        or _first(fields, "precedence").lower() in _AUTOMATIC
        or _first(fields, "return-path").replace(b" ", b"") == b"<>"
        or any(name in {"x-autoreply", "x-autorespond", "x-failed-recipients"} for name, _ in fields)
        or sender in {"mailer-daemon", "postmaster"}
    )
