"""The framing between client and server, on real sockets, against frames that no honest server sends."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from ranker.sandbox import encoder_server, wire

PREAMBLE = struct.Struct("!4sIQ")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon() -> float:
    return time.monotonic() + 20


def frame(header: bytes, payload: bytes = b"", magic: bytes = b"RKE1") -> bytes:
    return PREAMBLE.pack(magic, len(header), len(payload)) + header + payload


def test_what_is_sent_is_received(pair: tuple[socket.socket, socket.socket]) -> None:
    """Header and numbers arrive unchanged, several arrays as one payload, larger than any socket buffer."""
    arrays = [
        np.arange(3, dtype=np.float32),
        np.linspace(0, 1, 700_000, dtype=np.float32),
        np.empty(0, dtype=np.float32),
    ]
    sender = threading.Thread(target=wire.send, args=(pair[0], {"a": [1, "ü"]}, arrays), kwargs={"deadline": soon()})
    sender.start()
    header, numbers = wire.receive(pair[1], max_payload=4_000_000, deadline=soon())
    sender.join()
    assert header == {"a": [1, "ü"]}
    assert np.array_equal(numbers, np.concatenate(arrays))


def test_the_servers_own_copy_of_the_format_agrees(pair: tuple[socket.socket, socket.socket]) -> None:
    """Client to server and back, through the two implementations."""
    server = encoder_server.Server(pair[1], "/", 0, 1)
    clip = np.arange(5, dtype=np.float32)
    wire.send(pair[0], {"op": "x"}, [clip], deadline=soon())
    header, payload = server.receive()
    server.send(header, [np.frombuffer(payload, dtype="<f4")])
    answer, numbers = wire.receive(pair[0], max_payload=20, deadline=soon())
    assert answer == {"op": "x"}
    assert np.array_equal(numbers, clip)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frame(b"{}", magic=b"RKE0"), "RKE0"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "HTTP"),
        (PREAMBLE.pack(b"RKE1", 2**32 - 1, 0), "header of 4294967295 bytes"),
        (PREAMBLE.pack(b"RKE1", 2, 2**63), "9223372036854775808 bytes of numbers"),
        (frame(b"{}", b"x" * 5), "no whole number of float32"),
        (frame(b"not json"), "not JSON"),
        (frame(b"\xff\xfe"), "not JSON"),
        (frame(b"[1]"), "JSON list"),
        (frame(b'{"a": NaN}'), "not JSON"),
        (frame(b'{"a":' + b"9" * 5000 + b"}"), "not JSON"),
        (frame(b"[" * 60_000), "not JSON"),
    ],
)
def test_hostile_frames_are_refused(pair: tuple[socket.socket, socket.socket], data: bytes, words: str) -> None:
    """Each is refused with a WireError that says what came, before anything of the announced size is allocated."""
    pair[1].sendall(data)
    with pytest.raises(wire.WireError, match=words):
        wire.receive(pair[0], max_payload=1024, deadline=soon())


@pytest.mark.parametrize("cut", [0, 3, 15, 16, 20, 26])
def test_a_frame_that_is_cut_off_is_a_closed_connection(pair: tuple[socket.socket, socket.socket], cut: int) -> None:
    """Wherever the stream ends inside a frame, it is a ClosedError, never a short array."""
    whole = frame(b'{"a":1}', b"\0" * 8)
    assert cut < len(whole)
    pair[1].sendall(whole[:cut])
    pair[1].close()
    with pytest.raises(wire.ClosedError):
        wire.receive(pair[0], max_payload=1024, deadline=soon())


def test_one_deadline_holds_for_the_whole_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    """A server that sends a byte now and then is late like one that is silent: the deadline is not renewed."""
    pair[1].sendall(frame(b'{"a":1}')[:10])
    with pytest.raises(wire.LateError):
        wire.receive(pair[0], max_payload=0, deadline=time.monotonic() + 0.05)
    with pytest.raises(wire.LateError):
        wire.receive(pair[0], max_payload=0, deadline=time.monotonic() - 1)


def test_a_server_that_does_not_read_is_late(pair: tuple[socket.socket, socket.socket]) -> None:
    """Sending has the deadline too: a full socket buffer must not hold us for ever."""
    with pytest.raises(wire.LateError):
        wire.send(pair[0], {}, [np.zeros(4_000_000, dtype=np.float32)], deadline=time.monotonic() + 0.05)


def test_headers_of_ours_are_bounded_too(pair: tuple[socket.socket, socket.socket]) -> None:
    """A header that the other end would refuse is not sent."""
    with pytest.raises(wire.WireError, match="longer"):
        wire.send(pair[0], {"a": "x" * 70_000}, deadline=soon())
    assert len(json.dumps({"a": "x" * 70_000})) > wire.MAX_HEADER_BYTES
