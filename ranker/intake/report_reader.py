"""The process that reads one hostile PDF: standard input in, one line of JSON per fact out.

It knows nothing of ranker: it runs alone, in a sandbox (`ranker.sandbox.reading`). Facts come out as they are found,
the dearest last, so that what is known before pypdf stumbles is not lost. Arguments: the user to become (or `-`), bytes
of memory, seconds of processor time, pages to read, characters of text to keep.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

READY = "ready"
OUT_OF_TIME = 71
OUT_OF_MEMORY = 72
_MAX_ANNOTATIONS = 1000  # of one page: a report has a few dozen


def settle(uid: str, memory_bytes: int, cpu_s: int) -> None:
    """Give up what reading does not take; nothing of it can be had back."""
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGXCPU, lambda *_: os._exit(OUT_OF_TIME))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 2))


def tell(**fact: object) -> None:
    """One fact, at once."""
    sys.stdout.write(f"{json.dumps(fact)}\n")
    sys.stdout.flush()


def actions(catalog: Any, pages: list[Any]) -> Iterator[str]:
    """What a viewer of the PDF would do beside showing it: the kinds of its actions, and names of what it carries."""
    if "/AA" in catalog:
        yield "/AA"
    yield from _kind(catalog.get("/OpenAction"))
    names = catalog.get("/Names")
    names = names.get_object() if names is not None else {}
    for key in ("/JavaScript", "/EmbeddedFiles"):
        if key in names:
            yield key
    if "/AcroForm" in catalog and "/XFA" in catalog["/AcroForm"].get_object():
        yield "/XFA"
    for page in pages:
        if "/AA" in page:
            yield "/AA"
        for each in (page.get("/Annots") or [])[:_MAX_ANNOTATIONS]:
            annotation = each.get_object()
            if annotation.get("/Subtype") in {"/FileAttachment", "/RichMedia", "/Movie", "/Sound", "/3D", "/Screen"}:
                yield str(annotation["/Subtype"])
            yield from _kind(annotation.get("/A"))


def _kind(action: Any) -> Iterator[str]:
    """The kind of an action, unless it only turns to another page or to an address."""
    found = None if action is None else action.get_object()
    kind = found.get("/S") if isinstance(found, dict) else None
    if kind not in {None, "/URI", "/GoTo"}:
        yield str(kind)


def read(open_pdf: Callable[[BinaryIO], Any], pages_read: int, characters: int) -> None:
    """Tell whether it is encrypted, its pages, their text, and what else it would do."""
    reader = open_pdf(sys.stdin.buffer)
    encrypted = bool(reader.is_encrypted)
    tell(encrypted=encrypted)
    if encrypted:
        return
    tell(pages=len(reader.pages))
    first = [reader.pages[number] for number in range(min(len(reader.pages), pages_read))]
    for number, page in enumerate(first, 1):
        text = page.extract_text()[: max(0, characters)]
        characters -= len(text)
        tell(page=number, text=text)
    found = []
    for name in actions(reader.root_object, first):
        if name[:40] not in found:
            found.append(name[:40])
        if len(found) >= 20:
            break
    tell(actions=found)


def warm_up(open_pdf: Callable[[BinaryIO], Any]) -> None:
    """Read a page of ours, so that all modules are there before root is left: the folder of our Python may be root's
    own, and pypdf imports on the way.
    """
    for codec in ("utf-16-be", "cp1252", "mac-roman", "gb18030", "gbk", "big5", "shift-jis", "euc-jp", "euc-kr"):
        codecs.lookup(codec)
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>",
        b"<</Length 24>>stream\nBT/F 9 Tf(Warming up)Tj ET\nendstream",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    )
    body, table = b"%PDF-1.4\n", b"0000000000 65535 f \n"
    for number, each in enumerate(objects, 1):
        table += b"%010d 00000 n \n" % len(body)
        body += b"%d 0 obj%s endobj\n" % (number, each)
    trailer = b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(body)
    open_pdf(io.BytesIO(body + b"xref\n0 6\n" + table + trailer)).pages[0].extract_text()


def main() -> None:
    """Settle, read, and say by the exit code if a limit was in the way."""
    uid, *numbers = sys.argv[1:]
    memory_bytes, cpu_s, pages_read, characters = map(int, numbers)
    from pypdf import PdfReader

    logging.disable()
    warm_up(PdfReader)
    settle(uid, memory_bytes, cpu_s)
    tell(**{READY: True})
    try:
        read(PdfReader, pages_read, characters)
    except (MemoryError, RecursionError):
        os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
