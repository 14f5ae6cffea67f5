"""Messages as bytes -> what they say and carry. The corpus is tests/letters.py; hostile ones stand here."""

from __future__ import annotations

import email
import io
import random
import tracemalloc
from datetime import UTC, datetime
from typing import BinaryIO

import letters
import pytest
from effort import count
from letters import Case

from ranker.intake import mail, mail_bodies
from ranker.intake.mail import Letter, read
from ranker.intake.mail_bodies import Encoding, Span, content, delimiters
from ranker.intake.mail_kinds import Kind
from ranker.intake.mail_links import find, is_file
from ranker.intake.mail_names import MAX_NAME_BYTES, address, decode, file_name, moment, parameters, words
from ranker.intake.mail_times import arrived, doubts, written_by

SEED = 20261120
CORPUS = letters.corpus()
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EARLIER = datetime(2026, 11, 19, 12, tzinfo=UTC)
OWN = ("mx.ours.example", "*.internal.ours.example", "2002:a05:*")
HOP = "from mail.uni.example (mail.uni.example [192.0.2.7]) by mx.ours.example with ESMTPS id 4X; "
TIME = "Fri, 20 Nov 2026 10:59:58 +0000 (UTC)"


def payloads(data: bytes | BinaryIO, letter: Letter | None = None) -> list[tuple[Kind, str, bytes]]:
    """The attachments of a message, decoded, with those of messages that are packed in it."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    found = []
    for each in (letter or read(file)).attachments:
        whole = b"".join(content(file, each.span, []))
        found += payloads(whole) if each.kind is Kind.MESSAGE else [(each.kind, each.name, whole)]
    return found


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_each_message_holds_what_its_program_put_into_it(case: Case) -> None:
    """A ZIP that a person attached, with whatever program, is found with its name and all of its bytes."""
    letter = read(io.BytesIO(case.data))
    found = payloads(case.data)
    assert tuple((name, whole) for kind, name, whole in found if kind is Kind.ZIP) == case.zips
    assert tuple(name for kind, name, _ in found if kind is Kind.PDF) == case.pdfs
    assert letter.links == case.links
    assert letter.heading.sender == case.sender
    assert not letter.is_automatic


def test_the_corpus_is_what_it_says() -> None:
    """A corpus that lost its cases would pass every test."""
    assert len(CORPUS) >= 60
    assert len({case.name for case in CORPUS}) == len(CORPUS)
    assert sum(bool(case.zips) for case in CORPUS) > 40


def test_the_standard_library_finds_the_same_attachments() -> None:
    """Our walk through a message agrees with a parser that thousands use, wherever a message keeps to the rules."""
    seen = 0
    for case in CORPUS:
        if not case.is_sound:
            continue
        theirs = [
            part.get_payload(decode=True)
            for part in email.message_from_bytes(case.data).walk()
            if not part.is_multipart()
        ]
        kept = [whole for whole in theirs if isinstance(whole, bytes) and whole.startswith((b"PK\x03\x04", b"%PDF-"))]
        ours = [whole for _, _, whole in payloads(case.data) if whole.startswith((b"PK\x03\x04", b"%PDF-"))]
        assert kept == ours, case.name
        seen += len(ours)
    assert seen > 30


@pytest.mark.parametrize("size", [200, 333, 4096])
def test_windows_of_any_size_find_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A boundary, a base64 quad or a line that two windows share is no different from any other."""
    expected = [payloads(case.data) for case in CORPUS]
    monkeypatch.setattr(mail_bodies, "CHUNK", size)
    assert [payloads(case.data) for case in CORPUS] == expected
    assert len(expected) >= 60


def test_a_boundary_that_two_windows_share_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the reading of a body is cut, even within the line end before a boundary, its lines are told once."""
    body = b"\r\n--b\r\nx\r\n--b \r\n--b\r\n--bb\r\ny\r\n--b--\r\n--b\r\n" + b"z" * 300
    expected = list(delimiters(io.BytesIO(body), 2, len(body), b"b"))
    assert [(body[each.start : each.end], each.closes) for each in expected] == [
        (b"--b\r\n", False),
        (b"\r\n--b \r\n", False),
        (b"\r\n--b\r\n", False),
        (b"\r\n--b--\r\n", True),
    ]
    for size in range(1, 60):
        monkeypatch.setattr(mail_bodies, "CHUNK", size)
        assert list(delimiters(io.BytesIO(body), 2, len(body), b"b")) == expected, size


@pytest.mark.parametrize("kind", ["part", "message"])
def test_depth_is_bounded_and_told(kind: str) -> None:
    """Each level is looked through once more than the one around it: so there are few, and one more is noted."""
    deep, flat = (read(io.BytesIO(nested(mail.MAX_DEPTH + more, kind))) for more in (1, 0))
    assert "more than 20 deep" in " ".join(deep.notes)
    assert "more than 20 deep" not in " ".join(flat.notes)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"attachment; filename=team.zip", "team.zip"),
        (b'attachment; filename="a b;c.zip"; size=3', "a b;c.zip"),
        (b'attachment; filename="a\\"b.zip"', 'a"b.zip'),
        (b"attachment;filename=my model.zip;size=3", "my model.zip"),
        (b"attachment; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.zip", "na\u00efve \u20ac.zip"),
        (b"attachment; filename*=iso-8859-1'en'%A3.zip; filename=x.zip", "\u00a3.zip"),
        (b"attachment; filename=x.zip; filename*=iso-8859-1'en'%A3.zip", "\u00a3.zip"),
        (b"attachment; filename*0=long; filename*1=er.zip", "longer.zip"),
        (b"attachment; filename*1=er.zip; filename*0=long", "longer.zip"),
        (b"attachment; filename*0*=utf-8''%e6%97; filename*1*=%a5; filename*2=.zip", "\u65e5.zip"),
        (b'attachment; filename*0="=?utf-8?q?=C3=A4?="; filename*1=".zip"', "\u00e4.zip"),
        (b'attachment; filename="=?utf-8?q?=C3=A4=2Ezip?="', "\u00e4.zip"),
        (b"attachment; filename==?utf-8?B?w6QuemlwPw==?=", "\u00e4.zip?"),
        (b'attachment; filename="=?gb2312?B?xKPQzS56aXA=?="', "\u6a21\u578b.zip"),
        (
            b'attachment; filename="=?utf-8?B?5pel?=\r\n\t=?utf-8?B?5pys6A==?=\r\n\t=?utf-8?B?qp4uemlw?="',
            "\u65e5\u672c\u8a9e.zip",
        ),
        (b'attachment; filename="=?utf-8?B?w6QuemlwPw"', "=?utf-8?B?w6QuemlwPw"),
        (b'attachment; filename="=?x-none?Q?a=2Ezip?="', "a.zip"),
        (b'attachment; filename="\xe4.zip"', "\u00e4.zip"),
        (b'attachment; filename="\xc3\xa4.zip"', "\u00e4.zip"),
        (b"attachment; filename*=punycode''%ff.zip", "\u00ff.zip"),
        (b"attachment; filename*='%41.zip", "'A.zip"),
        (b'attachment; filename="unclosed.zip', "unclosed.zip"),
        (b"attachment; FILENAME = team.zip", "team.zip"),
    ],
)
def test_names_are_read_in_every_spelling(value: bytes, name: str) -> None:
    """RFC 2231, encoded words, both, raw bytes, and what is broken: a name that a person gave is the name we show."""
    first, found = parameters(value)
    assert first == "attachment"
    assert found["filename"] == name


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/cron.d/x.zip", "x.zip"),
        ("..\\..\\windows\\x.zip", "x.zip"),
        ("C:x.zip", "x.zip"),
        ("/", ""),
        ("..", ""),
        ("...zip", "zip"),
        ("a\x00b\r\n.zip", "ab .zip"),
        ("inv\u202eoice\u200b.zip", "invoice.zip"),
        ("  x.zip. ", "x.zip"),
        ("e\u0301.zip", "\u00e9.zip"),
    ],
)
def test_a_name_is_no_path_and_nothing_that_a_terminal_misreads(given: str, kept: str) -> None:
    """What is shown, and written into tables and answers, has no path, no control and no invisible character."""
    assert file_name(given) == kept


def test_long_names_keep_their_ending() -> None:
    """What tells a ZIP from a text is at a name's end: that stays when the middle goes."""
    for stem in ("x", "\u65e5", "\U0001f600"):
        kept = file_name(stem * 5000 + ".zip.txt")
        assert kept.startswith(stem * 20)
        assert kept.endswith(f"{stem}.zip.txt")
        assert len(kept.encode()) <= MAX_NAME_BYTES


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"ada@uni.example", "ada@uni.example"),
        (b"Ada <Ada@Uni.Example>", "ada@uni.example"),
        (b'"ceo@ours.example" <eve@evil.example>', "eve@evil.example"),
        (b'"Boss <ceo@ours.example>" <eve@evil.example>', "eve@evil.example"),
        (b"=?utf-8?q?=3Cceo=40ours.example=3E?= <eve@evil.example>", "eve@evil.example"),
        (b"ceo@ours.example <eve@evil.example>", "eve@evil.example"),
        (b"eve@evil.example (ceo@ours.example)", "eve@evil.example"),
        (b'"Ada <ada@uni.example>', "ada@uni.example"),
        (b"<>", None),
        (b"MAILER-DAEMON", None),
        (b"", None),
        (b"(" * 100_000 + b"a@b.example", None),
    ],
)
def test_a_sender_is_the_address_and_not_what_their_name_imitates(value: bytes, found: str | None) -> None:
    """A display name is free text: an address in it is nobody's."""
    assert address(value) == found


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("Fri, 20 Nov 2026 11:22:33 +0100", datetime(2026, 11, 20, 10, 22, 33, tzinfo=UTC)),
        ("20 Nov 2026 11:22:33 -0000", datetime(2026, 11, 20, 11, 22, 33, tzinfo=UTC)),
        ("Fri, 20 Nov 2026 11:22:33 GMT (a comment (nested))", datetime(2026, 11, 20, 11, 22, 33, tzinfo=UTC)),
        ("Fri, 20 Nov 2026 11:22:33 -1200", datetime(2026, 11, 20, 23, 22, 33, tzinfo=UTC)),
        ("Fri, 31 Feb 2026 11:22:33 +0000", None),
        ("Fri, 20 Nov 2026 25:61:61 +0000", None),
        ("Fri, 20 Nov 2026 11:22:33 +9999", None),
        ("Fri, 20 Nov 99999999999 11:22:33 +0000", None),
        ("31 Dec 9999 23:59:59 -2300", None),
        ("9" * 5000, None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates_that_are_none_are_none(text: str, when: datetime | None) -> None:
    """A malformed date is no time, and no exception."""
    assert moment(text) == when


@pytest.mark.parametrize(
    ("trace", "internal", "at", "said"),
    [
        ([HOP + TIME], None, datetime(2026, 11, 20, 10, 59, 58, tzinfo=UTC), "header of mx.ours.example: from"),
        ([HOP + TIME, "from x by mx.ours.example; Thu, 1 Jan 2026 00:00:00 +0000"], None,
         datetime(2026, 11, 20, 10, 59, 58, tzinfo=UTC), "mx.ours.example"),
        (["by store.internal.ours.example with LMTP; Fri, 20 Nov 2026 11:00:01 +0000", HOP + TIME], EARLIER,
         datetime(2026, 11, 20, 11, 0, 1, tzinfo=UTC), "store.internal.ours.example"),
        (["by 2002:a05:6402:90b:b0:1 with SMTP id x; Fri, 20 Nov 2026 11:00:01 +0000"], None,
         datetime(2026, 11, 20, 11, 0, 1, tzinfo=UTC), "2002:a05:"),
        (["from a by mx.evil.example; Thu, 1 Jan 2026 00:00:00 +0000", HOP + TIME], EARLIER, EARLIER, "INTERNALDATE"),
        (["from a by mx.evil.example; Thu, 1 Jan 2026 00:00:00 +0000", HOP + TIME], None, NOW, "evil.example, which"),
        (["from by mx.ours.example (x) by mx.evil.example; Thu, 1 Jan 2026 00:00:00 +0000"], None, NOW, "kept it"),
        (["from a (by mx.ours.example) by mx.evil.example; Thu, 1 Jan 2026 00:00:00 +0000"], None, NOW, "evil.example"),
        (["from a by mx.ours.example.evil.example; Thu, 1 Jan 2026 00:00:00 +0000"], None, NOW, "first kept it"),
        ([HOP + "Fri, 99 Nov 2026 10:59:58"], EARLIER, EARLIER, "cannot be read"),
        (["(qmail 77 invoked by uid 89); Fri, 20 Nov 2026 10:59:58 -0000"], None, NOW, "nobody that it names"),
        ([], None, NOW, "no Received header"),
    ],
)  # fmt: skip
def test_the_time_that_counts_is_our_own_servers(
    trace: list[str], internal: datetime | None, at: datetime, said: str
) -> None:
    """The topmost Received header, if ours: what a sender wrote below it, or into a comment, or as a greeting, is
    nothing.
    """
    found = arrived([("received", each) for each in trace], OWN, internal=internal, kept_at=NOW, now=NOW)
    assert found.at == at
    assert said in found.by


def test_without_a_server_of_our_own_no_header_counts() -> None:
    """A header that anyone could have written moves no deadline."""
    forged = [("received", "from a by mx.evil.example; Thu, 1 Jan 2026 00:00:00 +0000")]
    found = arrived(forged, (), internal=None, kept_at=NOW, now=NOW)
    assert found.at == NOW
    assert "mail.own_servers" in found.by


def test_a_clock_that_is_ahead_is_told() -> None:
    """A server whose clock is wrong makes people late, or early; somebody should know."""
    ahead = [("received", HOP + "Sat, 21 Nov 2026 10:59:58 +0000")]
    assert "still to come" in arrived(ahead, OWN, internal=None, kept_at=NOW, now=NOW).notes[0]
    assert arrived([("received", HOP + TIME)], OWN, internal=None, kept_at=NOW, now=NOW).notes == ()


def test_only_our_own_servers_word_on_forgery_is_heard() -> None:
    """Authentication-Results: ours above all else warns; another's, or one below a stranger's header, is not heard."""
    ours = (
        "authentication-results",
        "mx.ours.example; dkim=none; spf=pass smtp.mailfrom=a@b; dmarc=fail header.from=b",
    )
    theirs = ("authentication-results", "mx.evil.example; dmarc=fail")
    foreign = ("received", "from a by mx.evil.example; " + TIME)
    assert "dmarc=fail" in doubts([ours, ("received", HOP + TIME)], OWN)[0]
    assert doubts([theirs, ("received", HOP + TIME)], OWN) == []
    assert doubts([foreign, ours], OWN) == []
    assert doubts([("authentication-results", "mx.ours.example; spf=fail; dkim=pass; dmarc=pass")], OWN) == []
    assert written_by(HOP + TIME) == "mx.ours.example"


@pytest.mark.parametrize(
    ("url", "counts"),
    [
        (letters.DRIVE, True),
        ("https://docs.google.com/document/d/abc/edit", False),
        ("https://www.dropbox.com/scl/fi/abc/team.zip?rlkey=x&dl=0", True),
        ("https://www.dropbox.com/login", False),
        ("https://we.tl/t-abc", True),
        ("https://uni-my.sharepoint.com/:u:/g/personal/ada_uni/Eabc?e=x", True),
        ("https://1drv.ms/u/s!Abc", True),
        ("https://cloud.uni.example/index.php/s/AbCdEf123456789", True),
        ("https://cloud.uni.example/s/AbCdEf123456789/download", True),
        ("https://seafile.uni.example/f/0123456789abcdef0123/", True),
        ("https://github.com/ada/model/releases/download/v1/team.tar.gz", True),
        ("https://github.com/ada/model", False),
        ("https://uni.example/TEAM.ZIP", True),
        ("https://uni.example/get?file=team.zip", True),
        ("https://uni.example/team.zip.html", False),
        ("https://uni.example/~ada", False),
        ("https://www.linkedin.com/in/ada", False),
        ("ftp://uni.example/team.zip", False),
        ("https:///team.zip", False),
        ("https://[::1/team.zip", False),
    ],
)
def test_addresses_of_files_are_told_from_others(url: str, counts: bool) -> None:
    """What a signature is full of is no submission; what a sharing service hands out is one."""
    assert is_file(url) is counts


def test_quoted_links_hide_none_and_too_many_are_told() -> None:
    """Attacks with a long quotation above the sender's own link, and with more links than are looked at."""
    quoted = "".join(f"> https://old.example/{number}.zip\n" for number in range(40))
    assert find(f"{quoted}https://x.example/new.zip\n", is_html=False).taken == ("https://x.example/new.zip",)
    many = "".join(f"https://x.example/{number}.zip\n" for number in range(40))
    letter = read(io.BytesIO(f"From: a@x.example\nSubject: many\n\n{many}".encode()))
    assert len(letter.links) == 20
    assert "it has more than 20 links; the rest was not looked at" in letter.notes


def test_links_are_trimmed_and_told_once() -> None:
    """A full stop is not part of an address; the same address in text and link is one."""
    text = f"(see {letters.DRIVE}), or [{letters.DRIVE}]. https://x.example/a_(1).zip! https://x.example/b.zip;"
    assert find(text, is_html=False).taken == (letters.DRIVE, "https://x.example/a_(1).zip", "https://x.example/b.zip")
    page = f'<a href="{letters.DRIVE}">{letters.DRIVE}</a><br><a href="mailto:a@b.example">x</a>'
    assert find(page, is_html=True).taken == (letters.DRIVE,)
    many = " ".join(f"https://x.example/{number}.zip" for number in range(1000))
    assert len(find(many, is_html=False).taken) == 21  # one more than are kept, so that it is told


@pytest.mark.parametrize(
    ("data", "kind", "whole", "damage"),
    [
        (b"QUJD\r\nREVG", Encoding.BASE64, b"ABCDEF", []),
        (b"QUJDRA==", Encoding.BASE64, b"ABCD", []),
        (b"QUJDRA", Encoding.BASE64, b"ABCD", []),
        (b"QUJDR", Encoding.BASE64, b"ABC", ["its last characters are missing"]),
        (b"QU-JD!", Encoding.BASE64, b"ABC", ["characters stand in it that are none of base64"]),
        (b"QUJDRA==\nlist footer", Encoding.BASE64, b"ABCD", ["text stands behind its end"]),
        (b"a=3Db=\r\nc=C3=A4", Encoding.QUOTED, b"a=bc\xc3\xa4", []),
        (b"a=ZZ=", Encoding.QUOTED, b"a=ZZ", []),
        (b"begin 644 x\n#04)#\n`\nend\n", Encoding.UU, b"ABC", []),
        (b"begin 644 x\n#04)#\n", Encoding.UU, b"ABC", ["its last line is missing"]),
        (
            b"begin 644 x\n#04)#\n\xff\xff\xff\nend\n",
            Encoding.UU,
            b"ABC",
            ["lines stand in it that are none of uuencode"],
        ),
        (b"as it is\r\n", Encoding.NONE, b"as it is\r\n", []),
    ],
)
def test_damaged_encodings_give_what_is_left_and_say_so(
    data: bytes, kind: Encoding, whole: bytes, damage: list[str]
) -> None:
    """Whatever a bad way did to the letters: what can be decoded is, and the sender is told."""
    said: list[str] = []
    assert b"".join(content(io.BytesIO(data), Span(start=0, end=len(data), encoding=kind), said)) == whole
    assert said == damage


@pytest.mark.parametrize(
    "data",
    [
        b"From: a@b.example\nAuto-Submitted: auto-replied\n\naway\n",
        b"From: a@b.example\nPrecedence: bulk\n\nnews\n",
        b"Return-Path: <>\nFrom: a@b.example\n\nlost\n",
        b"From: Mail Delivery <MAILER-DAEMON@b.example>\n\nlost\n",
        b'From: a@b.example\nContent-Type: multipart/report; boundary="x"\n\n--x\n\nlost\n--x--\n',
    ],
)
def test_what_a_program_wrote_is_not_answered(data: bytes) -> None:
    """Two programs that answer each other never end (RFC 3834)."""
    assert read(io.BytesIO(data)).is_automatic


def nested(depth: int, kind: str) -> bytes:
    """Parts in parts, or messages in messages."""
    top = b"From: a@b.example\n"
    if kind == "message":
        return top + b"Content-Type: message/rfc822\n\n" * depth + b"\nhello\n"
    marks = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    return top + marks.encode() + b"\nhello\n"


BOMBS = {
    "parts in parts": nested(20_000, "part"),
    "messages in messages": nested(50_000, "message"),
    "one boundary for all": b"From: a@b\n" + b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * 20_000,
    "many parts": b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 200_000,
    "many parts of many": b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n"
    + (b"--b\nContent-Type: multipart/mixed; boundary=c\n\n" + b"--c\n\nx\n" * 400) * 400,
    "a header without an end": b"From: a@b\nX: " + b"y" * 4_000_000,
    "a folded header without an end": b"From: a@b\nX: y" + b"\n y" * 1_000_000,
    "many fields": b"From: a@b\n" + b"Received: x by mx.ours.example; never\n" * 100_000,
    "comments in comments": b"From: " + b"(" * 200_000 + b"\nDate: " + b"(" * 200_000 + b"\n\n",
    "quotes": b'From: "' + b'\\"' * 100_000 + b"\nContent-Type: text/plain; name=" + b'"' * 100_001 + b"\n\n",
    "parameters": b"From: a@b\nContent-Type: text/plain" + b"; filename*0*=x" * 20_000 + b"\n\n",
    "half of a parameter": b"From: a@b\nContent-Type: text/plain;" + b" " * 100_000 + b"a" + b" " * 100_000 + b"\n\n",
    "encoded words": b"From: a@b\nSubject: " + b"=?utf-8?q?a?= " * 20_000 + b"\n\n",
    "comments of a page": b"From: a@b\nContent-Type: text/html\n\n" + b"<!--" * 100_000,
    "styles of a page": b"From: a@b\nContent-Type: text/html\n\n" + b"<style" * 100_000,
    "open elements": b"From: a@b\nContent-Type: text/html\n\n"
    + b"<div class='gmail_quote'>" * 20_000
    + b"</p>" * 50_000,
    "half of a tag": b"From: a@b\nContent-Type: text/html\n\n" + b"<a " * 100_000,
    "an address without an end": b"From: a@b\n\nhttps://" + b"a" * 1_000_000,
    "many addresses": b"From: a@b\n\n" + b"https://a.b/c.zip " * 50_000,
    "one line of base64": b"From: a@b\nContent-Transfer-Encoding: base64\n\n" + b"UEsDB" * 1_000_000,
    "one line of equal signs": b"From: a@b\nContent-Transfer-Encoding: quoted-printable\n\n" + b"=" * 3_000_000,
    "many files in a text": b"From: a@b\n\n" + b"begin 644 a.zip\n#4$L#\n" * 100_000,
    "nearly a boundary": b"From: a@b\nContent-Type: multipart/mixed; boundary=b\n\n" + b"\n--b" * 1_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon_and_small(name: str) -> None:
    """Nothing recurses, nothing takes quadratic time or memory: bounds hold for depth, number, length.

    No clock is asked: what is counted is memory, and a quadratic walk of these would not end within a working day.
    """
    file = io.BytesIO(BOMBS[name])
    tracemalloc.start()
    letter = read(file)
    kept = sum(len(part) for each in letter.attachments[:3] for part in content(file, each.span, []))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 << 20
    assert kept <= len(BOMBS[name])
    assert len(letter.attachments) <= mail.MAX_PARTS
    assert len(letter.notes) <= mail.MAX_NOTES + 1
    assert_bounded(letter)


def assert_bounded(letter: Letter) -> None:
    """All that is said fits where it is kept and shown, and holds nothing that a terminal misreads."""
    heading = letter.heading
    said = [heading.sender, heading.subject, heading.message_id or "", *letter.notes, *letter.links]
    said += [each.name for each in letter.attachments]
    assert all(text.isprintable() for text in said)
    assert max(map(len, said)) <= 2100
    assert len(heading.sender) <= 400
    assert len(heading.subject) <= 1000
    assert len(heading.message_id or "") <= 1000
    assert len(letter.links) <= 20
    assert len(letter.trace) <= mail.MAX_TRACE


def test_mutated_messages_are_read_or_told() -> None:
    """Whatever the bytes, reading ends with a letter that fits, and its attachments are decoded to bytes that fit."""
    rng = random.Random(SEED)
    others = [case.data for case in CORPUS]
    number = count("mutated messages, read and decoded", short=300, long=10_000)
    zips = notes = 0
    for _ in range(number):
        data = letters.mutated(rng.choice(others), others, rng)
        file = io.BytesIO(data)
        letter = read(file)
        assert_bounded(letter)
        found = payloads(file, letter)
        assert sum(len(whole) for _, _, whole in found) <= 3 * len(data)
        zips += sum(kind is Kind.ZIP for kind, _, _ in found)
        notes += len(letter.notes)
    assert zips > number / 4
    assert notes > number / 4


def test_fields_of_random_bytes_are_read() -> None:
    """Names, words, parameters, addresses, dates: no bytes make them raise, and no lone half of a character stays."""
    rng = random.Random(SEED)
    number = count("fields of random bytes", short=500, long=50_000)
    pieces = [
        *letters.TOKENS,
        b"; filename",
        b"*",
        b"=",
        b"''",
        b"?=",
        b"=?iso-2022-jp?B?",
        b"=?hz?q?~{",
        b"GMT",
        b"<",
        b">",
        b",",
    ]
    for _ in range(number):
        value = b"".join(
            rng.choice(pieces) if rng.random() < 0.6 else rng.randbytes(4) for _ in range(rng.randint(1, 12))
        )
        first, found = parameters(value)
        for text in (first, words(value), address(value) or "", *found.values(), *map(file_name, found.values())):
            text.encode()
        moment(decode(value, "latin-1"))
    assert number >= 500
