"""Messages as mail programs write them, and as nobody should: built by the standard library, or by hand where it will
not.

Each case says what is in it: the ZIPs with their names and bytes, the reports, the links, and words that its
notes hold.
"""

from __future__ import annotations

import base64
import binascii
import io
import quopri
import random
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from urllib.parse import quote

FROM = "Ada Müller <ada@uni.example>"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<<>>\n%%EOF\n"
DRIVE = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOpQrStUv/view?usp=sharing"


def zipped(seed: int = 0, size: int = 3000) -> bytes:
    """A small ZIP that cannot be packed further, so that its bytes are of every kind."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("encoder.py", (2026, 11, 20, 0, 0, 0))
        archive.writestr(entry, random.Random(seed).randbytes(size))
    return memory.getvalue()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One message, and what should be found in it."""

    name: str
    data: bytes
    zips: tuple[tuple[str, bytes], ...] = ()
    pdfs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    sender: str = "ada@uni.example"
    is_sound: bool = True  # the standard library finds the same attachments in it


def headers(subject: str = "Submission", *extra: str) -> str:
    """The top of a message, its last field still open for more."""
    lines = [
        "From: =?utf-8?q?Ada_M=C3=BCller?= <ada@uni.example>",
        "To: challenge@ours.example",
        f"Subject: {subject}",
        "Date: Fri, 20 Nov 2026 11:22:33 +0100",
        f"Message-ID: <{zlib.crc32(subject.encode())}.{len(extra)}@uni.example>",
        "MIME-Version: 1.0",
        *extra,
    ]
    return "\n".join(lines) + "\n"


def b64(data: bytes) -> str:
    """Base64 in lines."""
    return base64.encodebytes(data).decode()


def mixed(parts: list[str], *extra: str, subject: str = "Submission", kind: str = "multipart/mixed") -> bytes:
    """A multipart of parts that are written out, with the line ends of the wire."""
    mark = f"----=_Part_0815.{zlib.crc32(repr(parts).encode()):x}"
    body = "".join(f"--{mark}\n{part.rstrip(chr(10))}\n" for part in parts) + f"--{mark}--\n"
    top = headers(subject, *extra, f'Content-Type: {kind};\n boundary="{mark}"')
    return wire(f"{top}\nThis is a multi-part message in MIME format.\n{body}")


def wire(text: str) -> bytes:
    """Text with the line ends that SMTP has."""
    return text.encode("utf-8", "surrogateescape").replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def part(content_type: str, body: str, *fields: str) -> str:
    """One part, written out."""
    return "\n".join([f"Content-Type: {content_type}", *fields]) + f"\n\n{body}"


def attached(data: bytes, content_type: str, disposition: str, *fields: str) -> str:
    """An attachment in base64."""
    return part(
        content_type, b64(data), "Content-Transfer-Encoding: base64", f"Content-Disposition: {disposition}", *fields
    )


def text(body: str = "Hello,\n\nplease find our model attached.\n") -> str:
    """A plain body."""
    return part("text/plain; charset=utf-8", body, "Content-Transfer-Encoding: 8bit")


def message(**named: bytes) -> EmailMessage:
    """A message of the standard library with these attachments (`zip_` before a name's end becomes `.zip`)."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = FROM, "challenge@ours.example", "Einreichung für die Challenge"
    made["Date"], made["Message-ID"] = "Fri, 20 Nov 2026 11:22:33 +0100", "<std@uni.example>"
    made.set_content("Hello,\n\nour model is attached.\n")
    for name, data in named.items():
        stem, _, suffix = name.rpartition("_")
        made.add_attachment(data, maintype="application", subtype=suffix, filename=f"{stem}.{suffix}")
    return made


def clients() -> Iterator[Case]:
    """What well-known programs write for a text and one ZIP called `Team Ä.zip`, or nearly so."""
    data = zipped(1)
    name = "Team Ä.zip"
    word = f"=?utf-8?B?{base64.b64encode(name.encode()).decode()}?="
    latin = "=?iso-8859-1?Q?Team_=C4.zip?="
    html = part("text/html; charset=utf-8", "<html><body><p>Hello</p></body></html>")
    found = ((name, data),)
    both = part('multipart/alternative; boundary="inner"', f"--inner\n{text()}\n--inner\n{html}\n--inner--\n")
    yield Case(name="the standard library", data=message(**{"Team Ä_zip": data}).as_bytes(policy=SMTP), zips=found)
    yield Case(name="the standard library, LF", data=message(**{"Team Ä_zip": data}).as_bytes(), zips=found)
    outlook = attached(
        data,
        f'application/x-zip-compressed;\n\tname="{latin}"',
        f'attachment;\n\tfilename="{latin}"; size={len(data)};\n\tcreation-date="Fri, 20 Nov 2026 10:00:00 GMT"',
        f"Content-Description: {latin}",
    )
    yield Case(name="Outlook", data=mixed([both, outlook], "X-MS-Has-Attach: yes", "Thread-Index: AdsX"), zips=found)
    apple_zip = attached(
        data,
        f'application/zip;\n\tname="{word}";\n\tx-unix-mode=0644',
        f"attachment;\n\tfilename*=utf-8''{quote(name)}",
    )
    inner = f"--in\n{html}\n--in\n{apple_zip}\n--in\n{html}\n--in--\n"
    apple = [text(), part('multipart/mixed; boundary="in"', inner)]
    yield Case(name="Apple Mail", data=mixed(apple, "X-Mailer: Apple Mail", kind="multipart/alternative"), zips=found)
    gmail = attached(
        data, f'application/zip; name="{word}"', f'attachment; filename="{word}"', "X-Attachment-Id: f_lx1",
        "Content-ID: <f_lx1>",
    )  # fmt: skip
    yield Case(name="Gmail", data=mixed([both, gmail], "X-Received: by 2002:a05:6402:1; Fri, 20 Nov 2026"), zips=found)
    bird = attached(
        data,
        f'application/x-zip-compressed; name="{word}"',
        f"attachment; filename*0*=UTF-8''{quote('Team ')}; filename*1*={quote('Ä')}; filename*2=.zip",
    )
    yield Case(name="Thunderbird", data=mixed([text(), bird]), zips=found)
    mutt = attached(data, "application/zip", f"attachment; filename*=utf-8''{quote(name)}")
    signature = part("application/pgp-signature; name=signature.asc", "-----BEGIN PGP SIGNATURE-----\n")
    signed = part('multipart/mixed; boundary="m"', f"--m\n{text()}\n--m\n{mutt}\n--m--\n")
    yield Case(
        name="mutt, signed", data=mixed([signed, signature], kind="multipart/signed; micalg=pgp-sha512"), zips=found
    )
    raw = attached(data, f"application/octet-stream; name={name}", f"attachment; filename={name}")
    yield Case(name="a script, with a raw name", data=mixed([text(), raw]), zips=found)
    inline = attached(data, "application/zip", f'inline; filename="{word}"')
    yield Case(name="attached inline", data=mixed([text(), inline, text("Regards\n")]), zips=found)
    footer = text("_______________\nchallenge mailing list\nhttps://lists.example/challenge\n")
    listed = part('multipart/mixed; boundary="l"', f"--l\n{text()}\n--l\n{gmail}\n--l--\n")
    yield Case(
        name="a mailing list", data=mixed([listed, footer], "Precedence: list", "List-Id: <c.example>"), zips=found
    )
    whole = headers(
        "Only the ZIP", f'Content-Type: application/zip; name="{word}"', "Content-Transfer-Encoding: base64"
    )
    yield Case(name="nothing but the ZIP", data=wire(f"{whole}\n{b64(data)}"), zips=found)
    words = f"=?utf-8?B?{base64.b64encode(b'Team ').decode()}?=\n =?utf-8?Q?=C3=84?=\n =?utf-8?Q?=2Ezip?="
    cut = attached(data, "application/zip", f'attachment; filename="{words}"')
    yield Case(name="a name in several words", data=mixed([text(), cut]), zips=found)


def oddities() -> Iterator[Case]:
    """Content types that lie, names that trick, encodings from before base64."""
    data = zipped(2)
    zips = (("team.zip", data),)
    for kind in ("text/plain; charset=us-ascii", "image/png", "application/octet-stream", "application/pdf", "x"):
        made = mixed([text(), attached(data, f'{kind}; name="team.zip"', "attachment")])
        yield Case(name=f"a ZIP sent as {kind}", data=made, zips=zips)
    renamed = attached(data, "text/plain", "attachment; filename=team.zip.txt")
    yield Case(name="called .zip.txt", data=mixed([text(), renamed]), zips=(("team.zip.txt", data),))
    nameless = attached(data, "application/octet-stream", "attachment")
    yield Case(name="without a name", data=mixed([text(), nameless]), zips=(("", data),))
    other = attached(data, "application/octet-stream", "attachment; filename=team.dat")
    yield Case(name="called .dat", data=mixed([text(), other]), zips=(("team.dat", data),))
    path = attached(data, "application/zip", 'attachment; filename="../../home/ada/.ssh/team.zip"')
    yield Case(name="a path for a name", data=mixed([text(), path]), zips=zips)
    windows = attached(data, "application/zip", r'attachment; filename="C:\\Users\\ada\\team.zip"')
    yield Case(name="a Windows path for a name", data=mixed([text(), windows]), zips=zips)
    turned = attached(data, "application/zip", "attachment; filename*=utf-8''te%E2%80%AE%07am.zip")
    yield Case(name="controls in a name", data=mixed([text(), turned]), zips=zips)
    said = attached(PDF, "application/octet-stream", "attachment; filename=team.pdf")
    yield Case(
        name="a ZIP and its report",
        data=mixed([text(), renamed, said]),
        zips=(("team.zip.txt", data),),
        pdfs=("team.pdf",),
    )
    encoded = quopri.encodestring(data.replace(b"\n", b"\x00")).decode()
    printable = part("application/zip; name=team.zip", encoded, "Content-Transfer-Encoding: quoted-printable")
    plain = data.replace(b"\n", b"\x00")
    yield Case(name="quoted-printable", data=mixed([text(), printable]), zips=(("team.zip", plain),))
    uu = "".join(binascii.b2a_uu(data[at : at + 45]).decode() for at in range(0, len(data), 45))
    written = f"begin 644 team.zip\n{uu}`\nend\n"
    yield Case(
        name="uuencode in the text", data=mixed([text(f"Here:\n\n{written}\nRegards\n")]), zips=zips, is_sound=False
    )
    older = part("application/zip; name=team.zip", written, "Content-Transfer-Encoding: x-uuencode")
    yield Case(name="uuencode as the encoding", data=mixed([text(), older]), zips=zips)
    bare = data.replace(b"\r", b"\x01").replace(b"\n", b"\x02")
    binary = part("application/zip; name=team.zip", "@@", "Content-Transfer-Encoding: binary")
    yield Case(name="binary", data=mixed([text(), binary]).replace(b"@@", bare), zips=(("team.zip", bare),))
    silent = part("application/zip; name=team.zip", b64(data))
    yield Case(
        name="base64 that does not say so",
        data=mixed([text(), silent]),
        zips=zips,
        words=("is in base64",),
        is_sound=False,
    )
    several = [attached(zipped(n), "application/zip", f"attachment; filename=t{n}.zip") for n in range(3)]
    reports = [
        attached(PDF + end, "application/pdf", f"attachment; filename={called}.pdf")
        for called, end in (("T1", b"%1"), ("paper", b"%2"))
    ]
    yield Case(
        name="several ZIPs", data=mixed([text(), *several, *reports]),
        zips=tuple((f"t{n}.zip", zipped(n)) for n in range(3)), pdfs=("T1.pdf", "paper.pdf"),
    )  # fmt: skip
    tight = mixed([text(), attached(data, "application/zip", "attachment; filename=team.zip")])
    yield Case(name="an mbox line before it", data=b"From ada@x Fri Nov 20 11:22:33 2026\r\n" + tight, zips=zips)
    yield Case(name="a byte order mark before it", data=b"\xef\xbb\xbf\r\n" + tight, zips=zips, is_sound=False)
    upper = tight.replace(b"Content-Type", b"CONTENT-TYPE").replace(b": base64", b":BASE64")
    yield Case(name="fields in capitals", data=upper, zips=zips)


def forwarded() -> Iterator[Case]:
    """Messages within messages: the outer one's sender counts, the inner one's is told."""
    data = zipped(3)
    zips = (("team.zip", data),)
    tight = mixed([text(), attached(data, "application/zip", "attachment; filename=team.zip")], subject="Inner")
    inner = tight.replace(b"ada@uni.example", b"ben@lab.example").decode()
    words = ("message of ben@lab.example (Inner)",)
    as_message = part("message/rfc822", inner, "Content-Disposition: attachment; filename=inner.eml")
    yield Case(name="forwarded as a message", data=mixed([text(), as_message]), zips=zips, words=words)
    twice = part("message/rfc822", mixed([text(), as_message], subject="Middle").decode())
    yield Case(name="forwarded twice", data=mixed([text(), twice]), zips=zips, words=(*words, "(Middle)"))
    packed = attached(inner.encode(), "message/rfc822", "attachment")
    yield Case(name="a message in base64", data=mixed([text(), packed]), zips=zips, words=words, is_sound=False)
    saved = attached(inner.encode(), "application/octet-stream", "attachment; filename=Fwd.eml")
    yield Case(name="a saved .eml", data=mixed([text(), saved]), zips=zips, words=words, is_sound=False)
    again = attached(mixed([text(), saved]), "application/octet-stream", "attachment; filename=again.eml")
    yield Case(name="a saved .eml in a saved .eml", data=mixed([again]), zips=zips, words=words, is_sound=False)
    digest = mixed([f"\n{inner}"], kind="multipart/digest")
    yield Case(name="a digest", data=digest, zips=zips, words=words)
    quoting = text("\n---------- Forwarded message ---------\nFrom: Ben <ben@lab.example>\nSubject: Inner\n\nHello\n")
    kept = attached(data, "application/zip", "attachment; filename=team.zip")
    yield Case(name="forwarded within the text", data=mixed([quoting, kept]), zips=zips)


def refused() -> Iterator[Case]:
    """What cannot be opened, or is no ZIP: told apart, with what to do."""
    data = zipped(4)
    tnef = attached(b"\x78\x9f\x3e\x22" + bytes(100), "application/ms-tnef; name=winmail.dat", "attachment")
    yield Case(name="Exchange, TNEF", data=mixed([text(), tnef]), words=("winmail.dat", "not as Rich Text"))
    blob = headers("sealed", "Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m")
    yield Case(
        name="S/MIME",
        data=wire(f"{blob}Content-Transfer-Encoding: base64\n\n{b64(bytes(300))}"),
        words=("without S/MIME",),
    )
    armour = [
        part("application/pgp-encrypted", "Version: 1\n"),
        part("application/octet-stream", "-----BEGIN PGP MESSAGE-----\n"),
    ]
    kind = "multipart/encrypted; protocol=application/pgp-encrypted"
    yield Case(name="PGP", data=mixed(armour, kind=kind), words=("without encryption",))
    yield Case(
        name="PGP in the text",
        data=mixed([text("-----BEGIN PGP MESSAGE-----\nabc\n")]),
        words=("it is encrypted by PGP",),
    )
    locked = attached(b"\x85\x01\x0c" + bytes(90), "application/octet-stream", "attachment; filename=team.zip.gpg")
    yield Case(name="a ZIP in PGP", data=mixed([text(), locked]), words=("team.zip.gpg is encrypted by PGP",))
    for called, magic in (
        ("team.rar", b"Rar!\x1a\x07\x01\x00"), ("team.7z", b"7z\xbc\xaf\x27\x1c"), ("team.tar.gz", b"\x1f\x8b\x08\x00"),
        ("team.tar", bytes(257) + b"ustar\x0000"),
    ):  # fmt: skip
        made = attached(magic + bytes(300), "application/octet-stream", f"attachment; filename={called}")
        yield Case(name=called, data=mixed([text(), made]), words=(f"{called} is packed as", "only ZIP is accepted"))
    office = attached(data, "application/octet-stream", "attachment; filename=report.docx")
    yield Case(
        name="a document that is a ZIP inside",
        data=mixed([text(), office]),
        words=("report.docx is no submission",),
        is_sound=False,
    )
    saved = attached(
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "application/vnd.ms-outlook", "attachment; filename=a.msg"
    )
    yield Case(
        name="an Outlook item", data=mixed([text(), saved]), words=("a.msg is a message in Outlook's own format",)
    )
    pieces = part('message/partial; id="a@b"; number=1; total=3', "From: a@b\n\nUEsDB\n")
    yield Case(name="a piece of a message", data=mixed([text(), pieces]), words=("message/partial",))
    emptied = attached(b"", "application/zip", "attachment; filename=team.zip")
    yield Case(
        name="emptied by a gateway",
        data=mixed([text(), emptied]),
        zips=(("team.zip", b""),),
        words=("does not begin as one",),
    )
    page = attached(b"<html>Sign in</html>", "application/zip", "attachment; filename=team.zip")
    yield Case(
        name="a web page called .zip", data=mixed([text(), page]), zips=(("team.zip", b"<html>Sign in</html>"),),
        words=("team.zip is called a ZIP, but does not begin as one",),
    )  # fmt: skip


def broken() -> Iterator[Case]:
    """Damage on the way, and forms that break the rules."""
    data = zipped(5)
    zips = (("team.zip", data),)
    tight = mixed([text(), attached(data, "application/zip", "attachment; filename=team.zip")])
    unclosed = tight[: tight.rindex(b"--") - 21]
    yield Case(name="the last line is lost", data=unclosed, zips=zips, words=("may have been cut",))
    nothing = headers("none", "Content-Type: multipart/mixed") + "\nHello https://x.example/team.zip\n"
    yield Case(
        name="no boundary",
        data=wire(nothing),
        links=("https://x.example/team.zip",),
        words=("cannot be told apart",),
        is_sound=False,
    )
    twice = tight.replace(b"To:", b"From: Eve <eve@evil.example>\r\nTo:", 1)
    yield Case(name="two senders", data=twice, zips=zips, words=("more than once whom",))
    spoof = tight.replace(b"From: ", b'From: "boss <ceo@ours.example>" ', 1)
    yield Case(name="a name like an address", data=spoof, zips=zips)
    junk = tight.replace(b"MIME-Version", b"this line is no field\r\nMIME-Version", 1)
    yield Case(name="a line that is no field", data=junk, zips=zips, is_sound=False)
    yield Case(name="no header", data=b"\r\nhello\r\n", sender="", words=("no header",))
    yield Case(name="no bytes", data=b"", sender="", words=("no header",))
    unknown = tight.replace(b"charset=utf-8", b"charset=x-klingon")
    yield Case(name="an alphabet that nobody knows", data=unknown, zips=zips)
    spaced = tight.replace(b"Content-Transfer-Encoding: base64", b"Content-Transfer-Encoding:  Base64 ")
    yield Case(name="spaces around the encoding", data=spaced, zips=zips, is_sound=False)


def linked() -> Iterator[Case]:
    """Links instead of files."""
    zip_url = "https://files.lab.example/models/team%20a.zip?token=1"
    signed = (
        f"The model: <{DRIVE}>.\nAlso {zip_url}, thanks\n-- \nAda, https://uni.example/cv.zip\nhttps://uni.example\n"
    )
    yield Case(
        name="links in a text", data=mixed([text(signed)]), links=(DRIVE, zip_url),
        words=("left aside: https://uni.example/cv.zip",),
    )  # fmt: skip
    outer = quote("https://www.dropbox.com/s/abc123/team.zip?dl=0", safe="")
    page = (
        '<html><head><style>a { background: url("https://x.example/s.zip") }</style></head><body>'
        f'<p>Model: <a href="{DRIVE.replace("?", "?a=1&amp;")}">team.zip</a></p>'
        f'<a href="https://eur01.safelinks.protection.outlook.com/?url={outer}&amp;data=05">here</a>'
        '<div class="gmail_signature"><div><a href="https://uni.example/cv.zip">CV</a></div></div>'
        '<a href="https://wetransfer.com/downloads/abc/def">WeTransfer</a>'
        '<blockquote type="cite"><a href="https://ours.example/baseline.zip">baseline</a></blockquote></body></html>'
    )
    yield Case(
        name="links in a page", data=mixed([part("text/html; charset=utf-8", page)]),
        links=(DRIVE.replace("?", "?a=1&"), "https://www.dropbox.com/s/abc123/team.zip?dl=0",
               "https://wetransfer.com/downloads/abc/def"),
        words=("https://uni.example/cv.zip", "https://ours.example/baseline.zip"),
    )  # fmt: skip
    social = text("Find us on https://www.linkedin.com/in/ada and https://github.com/ada/model .\n")
    yield Case(name="links that are no files", data=mixed([social]))
    quoted = text("> Please send it to https://ours.example/old.zip\n\nIt is at https://1drv.ms/u/s!Abc123\n")
    yield Case(
        name="a link in a quotation", data=mixed([quoted]), links=("https://1drv.ms/u/s!Abc123",), words=("old.zip",)
    )
    moved = text("Begin forwarded message:\n\n> From: Ben\n> https://we.tl/t-abc123\n")
    yield Case(name="a link that was forwarded", data=mixed([moved]), links=("https://we.tl/t-abc123",))
    scrambled = part(
        "text/html; charset=utf-8", b64(f"<a href='{DRIVE}'>x</a>".encode()), "Content-Transfer-Encoding: base64"
    )
    yield Case(name="a page in base64", data=mixed([scrambled]), links=(DRIVE,))


def corpus() -> list[Case]:
    """All of them."""
    return [*clients(), *oddities(), *forwarded(), *refused(), *broken(), *linked()]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The bytes with one to eight changes, such as a bad server, a bad day or a bad person makes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 7, 40, 300))
        match rng.randrange(9):
            case 0:
                changed[at : at + length] = rng.randbytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length] * rng.randint(1, 30)
            case 3:
                changed[at:at] = rng.choice(TOKENS)
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                changed[at:at] = other[start : start + rng.choice((20, 200, 3000))]
            case 5:
                changed[at:] = b""
            case 6:
                changed = changed.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\r\n", b"\x00")), rng.randint(1, 60))
            case 7:
                found = changed.find(rng.choice((b"Content-", b"boundary=", b"base64", b"--", b"?=", b"filename")), at)
                if found >= 0:
                    changed[found : found + length] = rng.choice(TOKENS)
            case _:
                changed[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(changed)


TOKENS = (
    b"\r\n\r\n", b"\n\n", b"\x00", b"--", b"Content-Type: multipart/mixed; boundary=a\n\n--a\n", b"(" * 3000, b"=?",
    b"Content-Type: message/rfc822\n\n", b"Content-Transfer-Encoding: base64\n", b"=?utf-7?B?2AA=?=", b"charset=idna",
    b"Content-Transfer-Encoding: x-uuencode\n", b"=?utf-16?Q?=D8=00?=", b"filename*0*=''%", b"filename*9999=x;",
    b"charset=utf-16", b"name*=punycode''%ff", b"begin 644 ../../x.zip\n", b"PK\x03\x04", b"UEsDB", b"=\r\n", b"=3D=",
    b"From: <a@b>\n", b"\xff\xfe", b'Content-Disposition: attachment; filename="', b"<div" * 300, b"\n ", b";" * 500,
    b"https://x.example/" + b"a" * 3000 + b".zip", b"Date: Sun, 31 Feb 0000 24:00:00 -2400\n", b'"' * 301, b"<!--",
    b"Received: from (((by ours.example; Mon, 99 Foo 99999 99:99:99 +9999\n", b"<style>", b"%00%0a", b"\xe2\x80\xae",
)  # fmt: skip
