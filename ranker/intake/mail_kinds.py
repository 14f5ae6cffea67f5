"""What a file is, by its first bytes before its name, and by both before what its sender's program called it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import PurePosixPath

HEAD = 4096  # bytes of a file that are looked at
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK\x03\x04")  # APPNOTE.TXT 4.3.7, 4.3.16, 8.5
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP_TYPES = {"application/zip", "application/x-zip", "application/x-zip-compressed", "multipart/x-zip"}
_PDF_TYPES = {"application/pdf", "application/x-pdf"}
_TEXT_TYPES = {"text/plain", "text/html"}
_MESSAGE_TYPES = {"message/rfc822", "message/global"}
# Formats that are ZIPs inside, and no submission: an office's documents, programs' packages, saved weights.
_ZIP_INSIDE = {
    *(".docx", ".docm", ".dotx", ".xlsx", ".xlsm", ".pptx", ".pptm", ".odt", ".ods", ".odp", ".pages", ".numbers"),
    *(".key", ".epub", ".jar", ".war", ".apk", ".ipa", ".whl", ".xpi", ".crx", ".vsdx", ".kmz"),
    *(".pt", ".pth", ".ckpt", ".npz", ".keras", ".mar", ".nemo"),
}
_ARCHIVES = (
    (b"Rar!\x1a\x07", "RAR"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
)
_ARCHIVE_NAMES = {".rar", ".7z", ".gz", ".tgz", ".bz2", ".tbz", ".xz", ".txz", ".zst", ".tar"}
_FIELD = re.compile(rb"^([!-9;-~]{1,76})[ \t]*:", re.MULTILINE)
_KNOWN_FIELDS = {
    *(b"received", b"return-path", b"delivered-to", b"from", b"to", b"date", b"subject", b"message-id", b"cc"),
    *(b"mime-version", b"content-type", b"reply-to", b"dkim-signature", b"x-received", b"sender", b"x-mozilla-status"),
}


class Kind(StrEnum):
    """What an attachment is to intake."""

    ZIP = "zip"
    PDF = "pdf"
    MESSAGE = "message"
    TEXT = "text"
    REFUSED = "refused"  # something that its sender must send otherwise
    OTHER = "other"


def is_zip(head: bytes) -> bool:
    """Whether a file begins as ZIPs do."""
    return head.startswith(ZIP_MAGIC)


def is_pdf(head: bytes) -> bool:
    """Whether it begins as PDFs do; readers accept some bytes before."""
    return b"%PDF-" in head[:1024]


def is_message(head: bytes) -> bool:
    """Whether it begins with a message's header: a first line that is a field, and two that messages have."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if text.startswith((b"From ", b">From ")):
        text = text.partition(b"\n")[2]
    first = _FIELD.match(text)
    block = re.split(rb"\n\r?\n", text, maxsplit=1)[0]
    return first is not None and len({name.lower() for name in _FIELD.findall(block)} & _KNOWN_FIELDS) >= 2


def kind(head: bytes, name: str, declared: str) -> tuple[Kind, str | None]:
    """What an attachment is, and what its sender has to know, if anything: `head` are its first decoded bytes.

    `name` is fit to be shown, or ""; `declared` is the content type. A file that is called a ZIP and is none counts as
    one, so that it is refused with its reasons; one that is a ZIP and called otherwise does too, unless its name says
    what else it is.
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if is_zip(head) and last in _ZIP_INSIDE:
        return Kind.OTHER, f"{name} is no submission by its name ({last}), though it is packed as a ZIP"
    if is_zip(head) or is_pdf(head):
        return Kind.ZIP if is_zip(head) else Kind.PDF, None
    refusal = _refusal(head, name, declared, last)
    if refusal is not None:
        return Kind.REFUSED, refusal
    if declared in _MESSAGE_TYPES or (last == ".eml" and is_message(head)):
        return Kind.MESSAGE, None
    return _by_name(name or "an attachment", suffixes, declared)


def _by_name(called: str, suffixes: Sequence[str], declared: str) -> tuple[Kind, str | None]:
    if ".zip" in suffixes or declared in _ZIP_TYPES:
        return Kind.ZIP, f"{called} is called a ZIP, but does not begin as one"
    if ".pdf" in suffixes[-1:] or declared in _PDF_TYPES:
        return Kind.PDF, f"{called} is called a PDF, but does not begin as one"
    return (Kind.TEXT if declared in _TEXT_TYPES else Kind.OTHER), None


def _refusal(head: bytes, name: str, declared: str, last: str) -> str | None:
    called = name or "it"
    if declared in {"application/ms-tnef", "application/vnd.ms-tnef"} or head.startswith(b"\x78\x9f\x3e\x22"):
        return (
            f"{called} is Outlook's own packing of a message (TNEF), which hides what was attached; send the message "
            "again as HTML or plain text, not as Rich Text, or put the ZIP where it can be downloaded and send the link"
        )
    if declared in {"application/pkcs7-mime", "application/x-pkcs7-mime"} or last == ".p7m":
        return (
            f"{called} is encrypted, or packed into its signature, by S/MIME, and cannot be opened here; send the "
            "message again without S/MIME"
        )
    if (
        declared == "application/pgp-encrypted"
        or last in {".pgp", ".gpg"}
        or head.startswith(b"-----BEGIN PGP MESSAGE")
    ):
        return f"{called} is encrypted by PGP, and cannot be opened here; send the ZIP again as it is"
    if head.startswith(OLE_MAGIC) and (last in {".msg", ""} or declared == "application/vnd.ms-outlook"):
        return f"{called} is a message in Outlook's own format, which cannot be read here; attach the ZIP itself"
    packed = next((title for magic, title in _ARCHIVES if head.startswith(magic)), None)
    if packed is None and head[257:262] == b"ustar":
        packed = "tar"
    if packed is not None or last in _ARCHIVE_NAMES:
        return f"{called} is packed as {packed or last[1:]}; only ZIP is accepted; pack the same files as a ZIP"
    return None
