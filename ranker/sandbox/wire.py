"""Frames between the client and the encoder server: one JSON header with raw float32 numbers behind it. No pickle.

    magic and version (4 bytes) | header length (uint32) | payload length (uint64) | header, UTF-8 JSON | payload

All integers are big-endian; payloads are little-endian float32. The last byte of the magic is the protocol's version.
The other end is not trusted: both lengths are checked against a bound before anything is allocated, and one deadline
holds for a whole frame, so that a byte every second does not keep us. `encoder_server.py` has its own copy of the
format, since it imports nothing of ranker.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"RKE1"
PREAMBLE = struct.Struct("!4sIQ")
MAX_HEADER_BYTES = 1 << 16
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)


class WireError(Exception):
    """What came is not a frame of ours, or is larger than was allowed."""


class ClosedError(WireError):
    """The other end closed the connection."""


class LateError(WireError):
    """The deadline passed before the frame was through."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Who connected, as the kernel noted it at that moment; ids are those of our own namespaces.

    `pid` is 0 for a process that our process namespace does not hold. Under a remap of users `uid` is the host's id.
    """

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """The other end of a connected unix socket (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid=pid, uid=uid, gid=gid)


def send(
    connection: socket.socket,
    header: dict[str, Any],
    payload: Sequence[npt.NDArray[np.float32]] = (),
    *,
    deadline: float,
) -> None:
    """Write one frame. `deadline` is on `time.monotonic`'s clock. Raises ClosedError or LateError."""
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise WireError(f"a header of {len(text)} bytes is longer than the {MAX_HEADER_BYTES} that a frame may have")
    parts = [np.ascontiguousarray(part, dtype="<f4") for part in payload]
    _send_all(connection, PREAMBLE.pack(MAGIC, len(text), sum(part.nbytes for part in parts)) + text, deadline)
    for part in parts:
        _send_all(connection, part.reshape(-1).view(np.uint8).data, deadline)


def has_unread(connection: socket.socket) -> bool:
    """Whether something lies there to be read now."""
    connection.settimeout(0.0)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def receive(
    connection: socket.socket, *, max_payload: int, deadline: float
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Read one frame: its header and its payload, shape (n,) float32. Raises WireError or one of its children."""
    magic, header_length, payload_length = PREAMBLE.unpack(_receive_exactly(connection, PREAMBLE.size, deadline).data)
    if magic != MAGIC:
        raise WireError(f"a frame starts with {magic!r} where {MAGIC!r} was expected")
    if header_length > MAX_HEADER_BYTES:
        raise WireError(
            f"a frame announces a header of {header_length} bytes, more than the {MAX_HEADER_BYTES} allowed"
        )
    if payload_length > max_payload:
        raise WireError(
            f"a frame announces {payload_length} bytes of numbers, more than the {max_payload} allowed here"
        )
    if payload_length % 4:
        raise WireError(f"a frame announces {payload_length} bytes of numbers, which is no whole number of float32")
    header = _parse_header(_receive_exactly(connection, header_length, deadline))
    raw = _receive_exactly(connection, payload_length, deadline)
    numbers = raw.view("<f4")
    return header, numbers if sys.byteorder == "little" else numbers.astype(np.float32)


def _parse_header(raw: npt.NDArray[np.uint8]) -> dict[str, Any]:
    try:
        header = json.loads(raw.tobytes().decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame's header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WireError(f"a frame's header is a JSON {type(header).__name__} where an object was expected")
    return header


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise LateError("the deadline passed")
    return left


def _send_all(connection: socket.socket, data: bytes | memoryview, deadline: float) -> None:
    view = memoryview(data)
    while view:
        connection.settimeout(_time_left(deadline))
        try:
            view = view[connection.send(view) :]
        except TimeoutError:
            raise LateError("the deadline passed while sending") from None
        except OSError as error:
            raise ClosedError(f"the connection is closed: {error}") from None


def _receive_exactly(connection: socket.socket, size: int, deadline: float) -> npt.NDArray[np.uint8]:
    buffer = np.empty(size, dtype=np.uint8)
    view = buffer.data
    while view:
        connection.settimeout(_time_left(deadline))
        try:
            count = connection.recv_into(view)
        except TimeoutError:
            raise LateError("the deadline passed while receiving") from None
        except OSError as error:
            raise ClosedError(f"the connection is closed: {error}") from None
        if count == 0:
            raise ClosedError("the connection is closed")
        view = view[count:]
    return buffer
