"""The proxy that stands between a sandbox and a few hosts: what it carries, where to, and what it counts."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import effort
import pytest

from ranker.errors import UsageError
from ranker.sandbox.proxy import MAX_HEAD_BYTES, MAX_LINES, Destination, Journal, Policy, is_public, policy, proxy
from ranker.types import Traffic

ROOM = 1_000_000


@dataclass(kw_only=True)
class Upstream:
    """A server that notes what it hears, and answers each connection with `answer` after `wants` bytes."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    endless: bool = False
    heard: list[bytes] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def destination(self) -> Destination:
        return Destination(host="127.0.0.1", port=self.port)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    found = Upstream()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found.port = listener.getsockname()[1]
        stopping = threading.Event()

        def serve() -> None:
            listener.settimeout(0.05)
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    connection = listener.accept()[0]
                    with connection:
                        answer(connection)

        def answer(connection: socket.socket) -> None:
            connection.settimeout(5)
            found.heard.append(connection.recv(65536))
            connection.sendall(found.answer)
            while found.endless and not stopping.is_set():
                connection.sendall(bytes(65536))
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                found.heard[-1] += connection.recv(65536)
            found.done.set()

        thread = threading.Thread(target=serve)
        thread.start()
        yield found
        stopping.set()
        thread.join()


def said(path: Path, request: bytes) -> bytes:
    """Say something to the proxy; all that it answers until it hangs up."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        with contextlib.suppress(OSError):
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                answer += part
        return answer


def get(destination: object, path: str = "/x", more: str = "") -> bytes:
    return f"GET http://{destination}{path} HTTP/1.1\r\nHost: elsewhere\r\n{more}\r\n".encode()


def connect(destination: object) -> bytes:
    return f"CONNECT {destination} HTTP/1.1\r\n\r\n".encode()


def only(*destinations: Destination, room: int = ROOM, private: frozenset[str] = frozenset()) -> Policy:
    return Policy(allowed=frozenset(destinations), max_bytes=room, private=private)


def test_what_is_allowed_is_carried_and_counted(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks the way itself: CONNECT and plain GET reach the listed host, and the journal says so with bytes."""
    with proxy(tmp_path / "p", only(upstream.destination)) as journal:
        plain = said(tmp_path / "p", get(upstream.destination))
        assert plain.endswith(b"\r\n\r\nok")
        tunnel = said(tmp_path / "p", connect(upstream.destination) + b"anything")
    assert b"\r\nConnection: close\r\n" in plain
    assert tunnel == b"HTTP/1.1 200 Connection established\r\n\r\n" + upstream.answer
    assert upstream.heard[1] == b"anything"
    (line,) = journal.lines
    assert (line.destination, line.outcome, line.requests) == (str(upstream.destination), Traffic.CARRIED, 2)
    assert line.bytes == journal.carried > 2 * len(upstream.answer)


def test_every_other_destination_is_refused_and_recorded(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks the list: another port of the host, another name for it, another host, the metadata service, no port."""
    elsewhere = ["127.0.0.1:1", f"localhost:{upstream.port}", "example.org:443", "169.254.169.254:80", "127.0.0.1:443"]
    with proxy(tmp_path / "p", only(upstream.destination)) as journal:
        for each in elsewhere:
            assert said(tmp_path / "p", connect(each)).startswith(b"HTTP/1.1 403 "), each
            assert said(tmp_path / "p", get(each)).startswith(b"HTTP/1.1 403 "), each
    assert upstream.heard == []
    assert journal.destinations(Traffic.REFUSED) == elsewhere
    assert journal.carried == 0


@pytest.mark.parametrize(
    "target",
    ["2130706433:80", "0x7f000001:80", "127.1:80", "[::1]:80", "127.0.0.1:080", "127.0.0.1:80:80", "user@127.0.0.1:80",
     "127.0.0.1\x00:80", "127.0.0.1:", "127.0.0.1:99999", ":80", "/etc/passwd", "file:///etc/passwd"],
)  # fmt: skip
def test_no_other_spelling_of_an_address_gets_through(tmp_path: Path, target: str) -> None:
    """Attacks parsing: what is listed is 127.0.0.1:80, and nothing that some resolver would take for it."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(f"{host}:{port}")
        raise OSError("nobody")

    with proxy(tmp_path / "p", only(Destination(host="127.0.0.1", port=80)), resolve):
        answer = said(tmp_path / "p", connect(target))
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    assert asked == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.5", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
     "64:ff9b::a00:1", "2002:a00:1::", "ff02::1", "fec0::1", "::127.0.0.1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1",
     "192.0.0.192", "168.63.129.16"],
)  # fmt: skip
def test_an_allowed_name_must_not_stand_for_a_machine_of_ours(tmp_path: Path, address: str) -> None:
    """Attacks through a name server: a host's owner points it at a private address, alone or beside a public one."""
    assert not is_public(address)
    name = Destination(host="weights.example.org", port=443)
    for answer in ([address], ["93.184.216.34", address]):
        with proxy(tmp_path / "p", only(name), lambda *_, answer=answer: answer) as journal:
            assert said(tmp_path / "p", connect(name)).startswith(b"HTTP/1.1 403 ")
        assert journal.destinations(Traffic.REFUSED) == [f"{name} ({address})"]
        (tmp_path / "p").unlink()


def test_public_addresses_are_known_as_such() -> None:
    """A rule that refuses everything would pass the tests above."""
    assert all(map(is_public, ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"]))


def test_a_name_is_resolved_once(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks by changing answers: the address that was judged is the one that is used."""
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])
    name = Destination(host="mirror.example.org", port=upstream.port)
    allowed = only(name, private=frozenset({"mirror.example.org"}))
    with proxy(tmp_path / "p", allowed, lambda *_: next(answers)):
        assert said(tmp_path / "p", get(name)).endswith(b"ok")
    assert next(answers) == ["127.0.0.9"]


def test_a_plain_request_is_said_anew(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks the other end through the fields: the host is the listed one, and nothing follows the request."""
    more = "Proxy-Authorization: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\nX-Kept: 1\r\nX\nHost: y\r\n"
    smuggled = get(upstream.destination, more=more) + b"GET /secret HTTP/1.1\r\nHost: other\r\n\r\n"
    with proxy(tmp_path / "p", only(upstream.destination)):
        said(tmp_path / "p", smuggled)
        assert upstream.done.wait(10)
    assert upstream.heard == [
        f"GET /x HTTP/1.1\r\nHost: {upstream.destination}\r\nConnection: close\r\nX-Kept: 1\r\n\r\n".encode()
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reading_is_carried_in_the_open(tmp_path: Path, upstream: Upstream, method: str) -> None:
    """Attacks with methods that change something."""
    request = get(upstream.destination).replace(b"GET", method.encode())
    with proxy(tmp_path / "p", only(upstream.destination)) as journal:
        assert said(tmp_path / "p", request).startswith(b"HTTP/1.1 405 ")
    assert upstream.heard == []
    assert journal.destinations(Traffic.REFUSED) == [str(upstream.destination)]


def test_too_many_bytes_are_cut(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks the disk with an answer that never ends: no more than the bound comes, and nothing after that."""
    upstream.endless = True
    with proxy(tmp_path / "p", only(upstream.destination, room=300_000)) as journal:
        assert 0 < len(said(tmp_path / "p", get(upstream.destination))) <= 300_000
        said(tmp_path / "p", get(upstream.destination))
    assert journal.carried <= 300_000
    assert journal.destinations(Traffic.CUT) == [str(upstream.destination)]


def test_a_host_that_does_not_answer_is_told_apart(tmp_path: Path) -> None:
    """Our own trouble must not look like a refusal: nobody listens, or the name is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = Destination(host="127.0.0.1", port=taken.getsockname()[1])
    name = Destination(host="none.example.org", port=443)

    def resolve(host: str, port: int) -> list[str]:
        if host == name.host:
            raise OSError("unknown")
        return [host]

    with proxy(tmp_path / "p", only(free, name), resolve) as journal:
        for each in (free, name):
            assert said(tmp_path / "p", connect(each)).startswith(b"HTTP/1.1 502 ")
    assert journal.destinations(Traffic.UNREACHABLE) == [str(free), str(name)]


def test_the_end_of_the_phase_ends_its_connections(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks by keeping a connection: it is cut when the proxy ends, and the socket answers nobody."""
    upstream.endless = True
    with socket.socket(socket.AF_UNIX) as client:
        with proxy(tmp_path / "p", only(upstream.destination, room=10**12)):
            client.connect(str(tmp_path / "p"))
            client.sendall(get(upstream.destination))
            assert client.recv(100)
        client.settimeout(10)
        with contextlib.suppress(ConnectionError):
            while client.recv(1 << 20):
                pass
    with pytest.raises(ConnectionError), socket.socket(socket.AF_UNIX) as late:
        late.connect(str(tmp_path / "p"))


def test_the_journal_stays_small() -> None:
    """Attacks our memory and database with ever new destinations: a hundred are named, the others are counted."""
    journal = Journal()
    for number in range(10 * MAX_LINES):
        journal.line(f"{number}.example.org:443", Traffic.REFUSED)
    assert len(journal.lines) == MAX_LINES
    assert journal.to_json()["left_out"] == 9 * MAX_LINES


def test_nonsense_ends_its_own_connection_only(tmp_path: Path, upstream: Upstream) -> None:
    """Attacks the parser with random and with endless heads: it answers or hangs up, and serves the next one."""
    dice = random.Random(1)
    seeds = [get(upstream.destination), connect("a.example.org:443"), b"CONNECT \r\n\r\n", b"\r\n\r\n"]
    with proxy(tmp_path / "p", only(upstream.destination)):
        assert said(tmp_path / "p", b"GET " + b"x" * 2 * MAX_HEAD_BYTES)[:13] in {b"HTTP/1.1 400 ", b""}
        for _ in range(effort.count("broken requests to the proxy", short=100, long=5_000)):
            broken = bytearray(dice.choice(seeds))
            for _ in range(dice.randint(1, 6)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            assert said(tmp_path / "p", bytes(broken))[:9] in {b"HTTP/1.1 ", b""}
        assert said(tmp_path / "p", get(upstream.destination)).endswith(b"ok")


@pytest.mark.parametrize(
    "text",
    ["127.1", "2130706433", "0x7f.1", "0", "a.0x7f",
     "", "a b", "https://a", "a:0", "a:70000", "-a.org", "a..b", "a/b", "é.org", "*.a.org", "a:b"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    """A list with a mistake in it must not silently allow something else."""
    with pytest.raises(UsageError, match="is no host"):
        Destination.parse(text)


def test_a_policy_of_configured_hosts() -> None:
    """URLs give their host with its port, names the port of TLS, case does not matter."""
    found = policy(
        ["Files.Example.org", "b.org:8443"], urls=["http://a.org/simple", "https://c.org"], private=[], max_bytes=1
    )
    assert {str(each) for each in found.allowed} == {"files.example.org:443", "b.org:8443", "a.org:80", "c.org:443"}
