"""A file behind an address: asked for on an organizer's word, bounded in bytes and time, resumed where it was cut.

Names are resolved here, and the address that was judged is the one that is used, at each redirect anew: no link leads
to a machine of ours. No proxy is asked, since it would resolve names by itself. What is resumed must be the same file:
the server is asked by `If-Range` (RFC 9110, 13.1.5), and its answer is compared; where it gives no strong validator,
the file is begun anew. Not covered: a server that keeps an ETag while it changes the file.
"""

from __future__ import annotations

import contextlib
import email.message
import errno
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import ranker
from ranker.durable import flush, whole_file
from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.intake.sharing import direct
from ranker.sandbox.proxy import CONNECT_TIMEOUT_S, Destination, Resolve, is_address, is_public, resolve
from ranker.settings import LinkSettings

MAX_REDIRECTS = 10
ATTEMPTS = 5
_PIECE = 1 << 16
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_REDIRECTS = {301, 302, 303, 307, 308}
_FOR_LATER = {408, 425, 429}
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+)")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # a first entry, or an archive without any
_OTHERS = {
    b"\x1f\x8b": "a gzip file",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
    b"\xfd7zX": "an xz file",
    b"BZh": "a bzip2 file",
}


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A whole file. `changed_at` is what the server says of it (Last-Modified); `host` is where its bytes came from."""

    file: Path
    name: str
    host: str
    changed_at: str | None


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the server said of the file whose beginning is kept. `validator` goes into `If-Range`."""

    url: str
    validator: str | None
    total: int | None
    name: str
    host: str
    changed_at: str | None
    complete: bool = False


@dataclass(kw_only=True)
class _Bounds:
    """What an attempt must keep to, and whom it tells how far it is."""

    settings: LinkSettings
    private: Collection[str]
    resolve: Resolve
    on_bytes: Callable[[int, int | None], None]
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.settings.timeout_s

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()


class _Cut(Exception):  # noqa: N818  what follows is another attempt, or an error that says so
    """The connection ended before the file did."""


def download(
    url: str,
    folder: Path,
    *,
    settings: LinkSettings,
    private: Collection[str],
    on_bytes: Callable[[int, int | None], None] = lambda _done, _total: None,
    resolve: Resolve = resolve,
) -> Downloaded:
    """Bring the ZIP behind `url` (a share link is followed to its file) into `folder`, its own, which the caller holds
    alone (`ranker.data.fetch.alone`).

    Killed or cut, the same call goes on where it was; once it is whole, nothing is asked again. `on_bytes` is told how
    many bytes there are, and of how many. Raises UsageError (an address that may not be asked), ParticipantError (what
    is there is no ZIP, is too large, or is not to be had by us), InfraError (network, time, disk).
    """
    bounds = _Bounds(settings=settings, private=frozenset(private), resolve=resolve, on_bytes=on_bytes)
    target = direct(url)
    folder.mkdir(parents=True, exist_ok=True)
    part, notes = folder / "content.part", folder / "content.json"
    seen = _remembered(notes, part, target)
    cut: _Cut | None = None
    for _ in range(ATTEMPTS):
        if seen is None or not seen.complete:
            try:
                seen = _attempt(target, part, notes, seen, bounds)
            except _Cut as found:
                cut, seen = found, _remembered(notes, part, target)
                continue
        return Downloaded(file=part, name=seen.name, host=seen.host, changed_at=seen.changed_at)
    raise InfraError(
        f"{shown(target)} was cut off {ATTEMPTS} times ({cut}); what came is kept, and the same command goes on there"
    )


def forget(folder: Path) -> None:
    """Remove what a finished download left, which the caller still holds alone."""
    for path in (folder / "content.part", folder / "content.json", folder / ".content.json.tmp"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def shown(url: str) -> str:
    """An address for people: what follows `?` may be a key to somebody's files."""
    parts = urlsplit(url)
    return parts._replace(query="…" if parts.query else "", fragment="").geturl()[:300]


def _remembered(notes: Path, part: Path, url: str) -> _Seen | None:
    """What is known of a beginning that is kept; None where there is none that could be gone on with."""
    try:
        seen = _Seen(**json.loads(notes.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    usable = seen.url == url and part.is_file() and (seen.complete or seen.validator is not None)
    return seen if usable else None


def _note(notes: Path, seen: _Seen) -> None:
    with whole_file(notes) as writing:
        writing.write_text(json.dumps(asdict(seen)), encoding="utf-8")


def _attempt(
    url: str,
    part: Path,
    notes: Path,
    seen: _Seen | None,
    bounds: _Bounds,
) -> _Seen:
    """Ask once, from where the kept beginning ends, and keep what comes. Raises _Cut where another attempt may help."""
    have = part.stat().st_size if seen is not None else 0
    asked = {} if seen is None or not have else {"Range": f"bytes={have}-", "If-Range": seen.validator or ""}
    with _ended(bounds, url), _opened(url, asked, bounds) as (answer, host):
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise _Cut("it has no such part any more")
        found = _described(url, host, answer)
        first = _first_byte(answer, found, seen, have)
        if first is None:
            part.unlink(missing_ok=True)
            raise _Cut("it had changed since its beginning was fetched")
        if found.total is not None and found.total > bounds.settings.max_bytes:
            raise _too_large(url, bounds)
        if not first:
            part.unlink(missing_ok=True)
            _note(notes, found)
        _keep(answer, part, first, found, bounds)
    flush(part)
    _note(notes, done := _Seen(**{**asdict(found), "complete": True}))
    return done


def _described(url: str, host: str, answer: http.client.HTTPResponse) -> _Seen:
    """What an answer with content says of the file. Raises ParticipantError, InfraError for any other answer."""
    if answer.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        said = f"{host} answered {answer.status} {_legible(answer.reason)} for {shown(url)}"
        if answer.status in _FOR_LATER or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InfraError(f"{said}; it may do better later: the same command goes on")
        raise ParticipantError(f"{said}; expected a ZIP that anybody who has the link can fetch, without signing in")
    coding = answer.getheader("Content-Encoding", "identity").strip().lower()
    if coding not in {"", "identity"}:
        raise InfraError(f"{host} sends {shown(url)} encoded ({_legible(coding)}), though asked not to")
    etag, changed_at = answer.getheader("ETag"), answer.getheader("Last-Modified")
    strong = etag if etag is not None and not etag.startswith("W/") else None
    total: int | None = answer.length
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        range_ = _CONTENT_RANGE.fullmatch(answer.getheader("Content-Range", "").strip())
        total = None if range_ is None else int(range_["total"])
    return _Seen(
        url=url, validator=strong or changed_at, total=total, name=_name(url, answer), host=host, changed_at=changed_at
    )


def _first_byte(answer: http.client.HTTPResponse, found: _Seen, seen: _Seen | None, have: int) -> int | None:
    """Which byte of the file the answer begins with; None if that is not where we are, or not of the same file."""
    if answer.status == HTTPStatus.OK:
        return 0
    range_ = _CONTENT_RANGE.fullmatch(answer.getheader("Content-Range", "").strip())
    if seen is None or range_ is None or int(range_["first"]) != have:
        return None
    said_same = found.validator in {None, seen.validator} and found.total == (seen.total or found.total)
    return have if said_same else None


def _keep(
    answer: http.client.HTTPResponse,
    part: Path,
    first: int,
    found: _Seen,
    bounds: _Bounds,
) -> None:
    """Write the body behind the first `first` bytes; the file's own first bytes are judged as soon as they are here."""
    size, head = first, b""
    with part.open("ab" if first else "wb") as file:
        bounds.on_bytes(size, found.total)
        while piece := answer.read1(_PIECE):
            if size < 4:
                head += piece[: 4 - size]
            size += len(piece)
            if not first and len(head) == 4 and size - len(piece) < 4:
                _require_zip(head, answer, found)
            if size > bounds.settings.max_bytes:
                raise _too_large(found.url, bounds)
            file.write(piece)
            bounds.on_bytes(size, found.total)
            if bounds.left_s <= 0:
                raise _out_of_time(found.url, bounds)
    if bounds.left_s <= 0:
        raise _out_of_time(found.url, bounds)
    if found.total is not None and size != found.total:
        raise _Cut(f"{size:,} of {found.total:,} bytes came")
    if not first and len(head) < 4:
        _require_zip(head, answer, found)
    if found.total is None and not _has_end(part):
        part.unlink()
        raise _Cut(f"{found.host} does not say how long it is, and no archive ends where it ended")


def _require_zip(head: bytes, answer: http.client.HTTPResponse, found: _Seen) -> None:
    if head.startswith(_ZIP):
        return
    kind = answer.getheader("Content-Type", "").lower()
    if "html" in kind or head.lstrip().startswith(b"<"):
        raise ParticipantError(
            f"{found.host} answers {shown(found.url)} with a web page, not a ZIP: it asks to sign in, or the link is"
            " one to a page about the file; ask the team for a link by which anybody can fetch the file itself"
        )
    what = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), f"something else ({head.hex()})")
    raise ParticipantError(f"{shown(found.url)} is {what}; expected a ZIP")


def _has_end(part: Path) -> bool:
    """Whether the last 64 KiB hold the record that ends a ZIP (PKWARE's APPNOTE, 4.3.16)."""
    with part.open("rb") as file:
        file.seek(max(0, part.stat().st_size - 65_557))
        return b"PK\x05\x06" in file.read()


@contextmanager
def _ended(bounds: _Bounds, url: str) -> Iterator[None]:
    """What breaks inside, as our own errors: the network's, and the disk's."""
    try:
        yield
    except (http.client.HTTPException, ssl.SSLEOFError, ConnectionError, TimeoutError) as error:
        if bounds.left_s <= 0:
            raise _out_of_time(url, bounds) from error
        raise _Cut(f"{type(error).__name__}: {error}"[:200]) from error
    except ssl.SSLError as error:
        raise InfraError(f"{shown(url)} cannot be trusted: {error.reason or error}") from error
    except OSError as error:
        if bounds.left_s <= 0:
            raise _out_of_time(url, bounds) from error
        advice = "; is the disk full?" if error.errno in _NO_ROOM else ""
        raise InfraError(
            f"{shown(url)} could not be fetched: {error}{advice}; what came is kept, and the same command goes on there"
        ) from error


@contextmanager
def _opened(url: str, asked: dict[str, str], bounds: _Bounds) -> Iterator[tuple[http.client.HTTPResponse, str]]:
    """The answer behind all redirects, and who gave it."""
    headers = {"User-Agent": f"ranker/{ranker.__version__}", "Accept-Encoding": "identity", **asked}
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        connection = _connect(url, bounds)
        watch = threading.Timer(max(0.0, bounds.left_s), _hang_up, [connection.sock])
        watch.daemon = True
        watch.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as answer:
                if answer.status not in _REDIRECTS:
                    yield answer, parts.hostname or ""
                    return
                location = answer.getheader("Location")
            if not location:
                raise ParticipantError(f"{shown(url)} leads on to nowhere ({answer.status} without a Location)")
            url = direct(urljoin(url, location))
        finally:
            watch.cancel()
            connection.close()
    raise ParticipantError(f"{shown(url)} leads from address to address, more than {MAX_REDIRECTS} times")


def _hang_up(held: socket.socket) -> None:
    # Not the method of a TLS socket, which would take its state from under the thread that reads.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(held, socket.SHUT_RDWR)


def _connect(url: str, bounds: _Bounds) -> http.client.HTTPConnection:
    """A connection to an address that was judged. Raises UsageError for one that may not be asked."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and bounds.settings.allow_http):
        raise UsageError(
            f"{shown(url)} is not https; a file that came without would be anybody's on the way: ask the team for an"
            " https link, or set links.allow_http in configs/service.yaml"
        )
    if "@" in parts.netloc:
        raise UsageError(f"the address of {parts.hostname} holds a user's name; nobody is signed in for a link")
    there = Destination.of_url(url)
    addresses = bounds.resolve(there.host, there.port)
    if there.host not in bounds.private:
        private = [address for address in addresses if not is_public(address)]
        if private:
            meant = "" if is_address(there.host) else f" ({private[0]})"
            raise UsageError(
                f"{shown(url)} leads to {there.host}{meant}, which is no public address; if that is a server of your"
                " own, put its name into private_hosts of configs/service.yaml"
            )
    raw = _first_that_answers(there, addresses, bounds)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(there.host, there.port)
    connection.sock = raw
    if parts.scheme == "https":
        try:
            connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=there.host)
        except BaseException:
            raw.close()
            raise
    return connection


def _first_that_answers(there: Destination, addresses: list[str], bounds: _Bounds) -> socket.socket:
    failed: OSError = TimeoutError(f"{there} has no address")
    for address in addresses[:4]:
        try:
            limit_s = min(CONNECT_TIMEOUT_S, max(0.01, bounds.left_s))
            found = socket.create_connection((address, there.port), timeout=limit_s)
        except OSError as error:
            failed = error
            continue
        found.settimeout(bounds.settings.idle_timeout_s)
        return found
    raise InfraError(f"{there} cannot be reached: {failed}; the same command tries again") from failed


def _name(url: str, answer: http.client.HTTPResponse) -> str:
    """What the file is called: by the answer (RFC 6266), else by the address; never with a folder."""
    header = email.message.Message()
    header["Content-Disposition"] = answer.getheader("Content-Disposition", "")
    given = header.get_filename() or unquote(urlsplit(url).path)
    name = PurePosixPath(given.replace("\\", "/")).name
    return name if name not in {"", ".", ".."} else "submission.zip"


def _legible(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:100]


def _too_large(url: str, bounds: _Bounds) -> ParticipantError:
    return ParticipantError(
        f"{shown(url)} holds more than the {bounds.settings.max_bytes:,} bytes that a link may bring"
        " (links.max_bytes in configs/service.yaml)"
    )


def _out_of_time(url: str, bounds: _Bounds) -> InfraError:
    return InfraError(
        f"{shown(url)} was not whole after {bounds.settings.timeout_s:g} s (links.timeout_s in configs/service.yaml);"
        " what came is kept, and the same command goes on there"
    )
