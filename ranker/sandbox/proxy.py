"""The only way out of a sandbox that may talk to a few hosts: a proxy of ours on a unix socket, outside of it.

The sandbox has no network. What runs in it reaches this socket (through `door.py`, which looks like an ordinary HTTP
proxy to programs inside), and this process does the talking: `CONNECT`, and plain `GET` and `HEAD`, to destinations
that match the list exactly. Names are resolved here, once, and the address that was judged is the one that is used, so
that no answer of a name server leads to a machine of ours. Not covered: what is said inside an encrypted connection
to an allowed host; a content network that serves many customers may serve another one's files there.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ranker.errors import UsageError
from ranker.types import Traffic

MAX_HEAD_BYTES = 16_384
MAX_CONNECTIONS = 32
MAX_LINES = 100  # of the record; what is more is counted
HEAD_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 15.0
IDLE_TIMEOUT_S = 60.0
_PIECE = 65_536
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_REQUEST = re.compile(r"(?P<method>[A-Z]{1,16}) (?P<target>[\x21-\x7e]{1,8192}) HTTP/1\.[01]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # of IPv6; all else is no network's, or somebody's own
# Python calls them global; yet clouds have answered there with what is a machine's own (Oracle's, Azure's).
_CLOUDS = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("168.63.129.16/32"))
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")  # what a resolver takes for an IPv4 address, however it is written
_DROPPED = frozenset({"host", "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding",
                      "upgrade", "content-length"})  # fmt: skip

Resolve = Callable[[str, int], list[str]]
"""Host and port to addresses, as text. Raises OSError."""


@dataclass(frozen=True, kw_only=True, order=True)
class Destination:
    """A host (a name, or an IPv4 address) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Destination:
        """`HOST` (port 443) or `HOST:PORT`. Raises UsageError."""
        host, colon, port = text.strip().lower().rstrip(".").partition(":")
        is_host = _HOST.fullmatch(host) and (is_address(host) or not _NUMBER.fullmatch(host))
        if not is_host or (colon and not re.fullmatch(r"[1-9]\d{0,4}", port)) or int(port or 443) > 65535:
            raise UsageError(
                f"{text!r} is no host; expected a name such as example.org, or with a port example.org:443"
            )
        return cls(host=host, port=int(port or 443))

    @classmethod
    def of_url(cls, url: str) -> Destination:
        """Where an http or https URL leads. Raises UsageError."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{url!r} is no URL of a host; expected https://HOST/...")
        return cls.parse(f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Where the proxy goes, and how much it carries, both directions together.

    A name must resolve to public addresses only, unless it is in `private` (an organizer's own mirror). An address that
    is listed itself is meant.
    """

    allowed: frozenset[Destination]
    max_bytes: int
    private: frozenset[str] = frozenset()


@dataclass(kw_only=True)
class Line:
    """What became of all requests of one kind to one destination; `bytes` as they were carried, in both directions."""

    destination: str
    outcome: Traffic
    requests: int = 0
    bytes: int = 0


@dataclass(kw_only=True)
class Journal:
    """Every request that came. `left_out` counts those to destinations beyond the first hundred."""

    lines: list[Line] = field(default_factory=list)
    left_out: int = 0
    carried: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def line(self, destination: str, outcome: Traffic) -> Line:
        """Count a request; returns where its bytes are to be counted."""
        with self._lock:
            found = next(
                (each for each in self.lines if (each.destination, each.outcome) == (destination, outcome)), None
            )
            if found is None:
                found = Line(destination=destination, outcome=outcome)
                if len(self.lines) < MAX_LINES:
                    self.lines.append(found)
                else:
                    self.left_out += 1
            found.requests += 1
            return found

    def count(self, line: Line, size: int) -> None:
        """Bytes that were carried."""
        with self._lock:
            line.bytes += size
            self.carried += size

    def destinations(self, outcome: Traffic) -> list[str]:
        """Those that met this outcome, in the order in which they were first asked for."""
        return [line.destination for line in self.lines if line.outcome is outcome]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the check's record."""
        return {"lines": [asdict(line) for line in self.lines], "left_out": self.left_out, "bytes": self.carried}


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet: no loopback, no private network, no cloud's metadata service,
    also where an IPv6 address only wraps an IPv4 one.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None and not is_public(str(inner)):
            return False
        return (found in _UNICAST or found in _NAT64) and found.is_global
    return found.is_global and not found.is_multicast and not any(found in each for each in _CLOUDS)


def resolve(host: str, port: int) -> list[str]:
    """The system's answer. Raises OSError."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@contextmanager
def proxy(path: Path, policy: Policy, resolve: Resolve = resolve) -> Iterator[Journal]:
    """Serve on a new unix socket at `path` until the block ends; all connections end with it."""
    journal = Journal()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o666)  # who asks runs as another user, and is shown this file alone
        listener.listen(MAX_CONNECTIONS)
        server = _Server(listener, policy, journal, resolve)
        accepting = threading.Thread(target=server.accept, name="proxy", daemon=True)
        accepting.start()
        try:
            yield journal
        finally:
            server.stop()
            accepting.join()


class _Refusal(Exception):  # noqa: N818  it is an answer, not an error
    """An answer instead of a connection."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Server:
    def __init__(self, listener: socket.socket, policy: Policy, journal: Journal, resolve: Resolve) -> None:
        self._listener = listener
        self._policy = policy
        self._journal = journal
        self._resolve = resolve
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def accept(self) -> None:
        while not self._stopping.is_set():
            if not select.select([self._listener], [], [], 0.1)[0]:
                continue
            try:
                connection = self._listener.accept()[0]
            except OSError:
                break
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if len(self._threads) >= MAX_CONNECTIONS:
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=[connection], name="proxy-connection", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(CONNECT_TIMEOUT_S)

    @contextmanager
    def _held(self, each: socket.socket) -> Iterator[socket.socket]:
        """A socket that `stop` will end."""
        with each:
            with self._lock:
                self._open.add(each)
            try:
                if self._stopping.is_set():
                    raise OSError("the proxy ends")
                yield each
            finally:
                with self._lock:
                    self._open.discard(each)

    def _serve(self, connection: socket.socket) -> None:
        # Whatever the other side does, it is its connection that breaks.
        with contextlib.suppress(OSError), self._held(connection):
            try:
                head, rest = _read_head(connection)
                self._answer(connection, head, rest)
            except _Refusal as refusal:
                body = f"{refusal}\n".encode("ascii", "replace")
                lines = [f"HTTP/1.1 {refusal.status}", "Content-Type: text/plain", f"Content-Length: {len(body)}"]
                connection.sendall(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode() + body)

    def _answer(self, connection: socket.socket, head: str, rest: bytes) -> None:
        line, *fields = head.split("\r\n")
        request = _REQUEST.fullmatch(line)
        if request is None:
            raise _Refusal("400 Bad Request", "no request of HTTP/1.1")
        method, target = request["method"], request["target"]
        if method == "CONNECT":
            destination = _destination(lambda: Destination.parse(target))
            with self._connected(destination) as (upstream, record):
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._relay(connection, upstream, record, first=rest)
            return
        destination = _destination(lambda: Destination.of_url(target))
        if method not in {"GET", "HEAD"} or not target.lower().startswith("http://"):
            self._journal.line(str(destination), Traffic.REFUSED)
            raise _Refusal("405 Method Not Allowed", "only GET, HEAD and CONNECT are carried")
        with self._connected(destination) as (upstream, record):
            asked = _plain_request(method, target, fields)
            if not self._room_for(asked, record):
                return
            upstream.sendall(asked)
            begun = _closing(_head_of_answer(upstream))
            if not self._room_for(begun, record):
                return
            connection.sendall(begun)
            # Nothing more of what the client says is carried: another request would be one that nobody has judged.
            self._relay(connection, upstream, record, first=None)

    @contextmanager
    def _connected(self, destination: Destination) -> Iterator[tuple[socket.socket, Line]]:
        with self._held(self._dial(destination)) as upstream:
            yield upstream, self._journal.line(str(destination), Traffic.CARRIED)

    def _dial(self, destination: Destination) -> socket.socket:
        """A connection to the very address that was judged. Raises _Refusal."""
        if destination not in self._policy.allowed:
            self._journal.line(str(destination), Traffic.REFUSED)
            raise _Refusal("403 Forbidden", f"{destination} is not among the hosts that may be asked")
        if self._journal.carried >= self._policy.max_bytes:
            self._journal.line(str(destination), Traffic.CUT)
            raise _Refusal("403 Forbidden", f"more than {self._policy.max_bytes:,} bytes were carried")
        try:
            addresses = self._resolve(destination.host, destination.port)
        except OSError as error:
            raise self._unreachable(destination, str(error)) from None
        if not (destination.host in self._policy.private or is_address(destination.host)):
            private = [address for address in addresses if not is_public(address)]
            if private:
                self._journal.line(f"{destination} ({private[0]})", Traffic.REFUSED)
                raise _Refusal("403 Forbidden", f"{destination} is said to be {private[0]}, which is no public address")
        reason = "it has no address"
        for address in addresses[:4]:
            try:
                return socket.create_connection((address, destination.port), timeout=CONNECT_TIMEOUT_S)
            except OSError as error:
                reason = str(error)
        raise self._unreachable(destination, reason)

    def _unreachable(self, destination: Destination, reason: str) -> _Refusal:
        self._journal.line(str(destination), Traffic.UNREACHABLE)
        return _Refusal("502 Bad Gateway", f"{destination} cannot be reached: {reason}")

    def _room_for(self, part: bytes, record: Line) -> bool:
        """Count bytes that are about to be carried; False, and noted, where they would be too many."""
        if self._journal.carried + len(part) > self._policy.max_bytes:
            self._journal.line(record.destination, Traffic.CUT)
            return False
        self._journal.count(record, len(part))
        return True

    def _relay(self, client: socket.socket, upstream: socket.socket, record: Line, *, first: bytes | None) -> None:
        """Carry bytes until both sides have finished, nothing has come for a minute, or too much has.

        `first`: what the client has said already; None where it may say nothing more.
        """
        for each in (client, upstream):
            each.settimeout(IDLE_TIMEOUT_S)
        if first:
            if not self._room_for(first, record):
                return
            upstream.sendall(first)
        other = {upstream: client} if first is None else {upstream: client, client: upstream}
        while other:
            ready = select.select(list(other), [], [], IDLE_TIMEOUT_S)[0]
            if not ready:
                return
            for source in ready:
                part = source.recv(_PIECE)
                if not part:
                    with contextlib.suppress(OSError):
                        other[source].shutdown(socket.SHUT_WR)
                    del other[source]
                    continue
                if not self._room_for(part, record):
                    return
                other[source].sendall(part)


def _destination(parse: Callable[[], Destination]) -> Destination:
    try:
        return parse()
    except (UsageError, ValueError):
        raise _Refusal("400 Bad Request", "no destination that can be understood") from None


def without_password(url: str) -> str:
    """A configured URL as it may be shown and recorded: a mirror's can hold a name and a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _read_head(connection: socket.socket) -> tuple[str, bytes]:
    """Request line and fields, and what came after them. Raises _Refusal, OSError."""
    head, deadline = b"", time.monotonic() + HEAD_TIMEOUT_S
    while b"\r\n\r\n" not in head:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        part = connection.recv(4096)
        if not part or len(head) + len(part) > MAX_HEAD_BYTES or time.monotonic() > deadline:
            raise _Refusal("400 Bad Request", "no whole request")
        head += part
    head, _, rest = head.partition(b"\r\n\r\n")
    return head.decode("latin-1"), rest


def _head_of_answer(upstream: socket.socket) -> bytes:
    """What has come of an answer when its fields are whole; without them, if it never says so. Raises OSError."""
    upstream.settimeout(IDLE_TIMEOUT_S)
    head = b""
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
        part = upstream.recv(_PIECE)
        if not part:
            break
        head += part
    return head


def _closing(answer: bytes) -> bytes:
    """The answer, saying that the connection ends with it: else the client would ask on it again, and be cut off."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return answer
    first, *fields = head.split(b"\r\n")
    kept = [each for each in fields if each.partition(b":")[0].strip().lower() not in {b"connection", b"keep-alive"}]
    return b"\r\n".join([first, *kept, b"Connection: close"]) + end + body


def _plain_request(method: str, target: str, fields: list[str]) -> bytes:
    """The request as the destination gets it: our own words for what says where it goes and how long it is."""
    url = urlsplit(target)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    kept = [each for each in fields if each.partition(":")[0].strip().lower() not in _DROPPED]
    kept = [each for each in kept if not each.lower().startswith("proxy-") and each[:1] not in {" ", "\t", ""}]
    # No field may hold a line break of another kind, which a lenient server could take for the end of the fields.
    kept = [each for each in kept if not re.search(r"[\r\n\0]", each)]
    host = url.netloc.rpartition("@")[2]
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *kept, "", ""]).encode(
        "latin-1"
    )


def policy(hosts: Collection[str], *, urls: Collection[str], private: Collection[str], max_bytes: int) -> Policy:
    """What a phase may reach: the hosts of configured `urls`, and `hosts`. Raises UsageError for what is no host."""
    configured = {Destination.of_url(url) for url in urls}
    return Policy(
        allowed=frozenset(configured | {Destination.parse(host) for host in hosts}),
        max_bytes=max_bytes,
        private=frozenset(private),
    )
