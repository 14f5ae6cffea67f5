"""The real client against a hostile server: whatever comes, it ends with a result or with one of its own errors.

The far side of a socket pair answers with what a hostile process wrote, and hangs up, so nothing waits: a client that
read on would meet the end of the stream, and one that waited for a clock would blame the encoder for being late, which
each test refuses.
"""

from __future__ import annotations

import json
import math
import random
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from effort import count, found
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.errors import InfraError, ParticipantError
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import LoadReport, max_feature_bytes
from ranker.sandbox.faults import Ending
from ranker.sandbox.memory import PeakMemory
from ranker.sandbox.wire import MAX_HEADER_BYTES, Peer
from ranker.settings import Limits
from ranker.types import EncoderSource

PREAMBLE = struct.Struct("!4sIQ")
SEED = 20261120
CLIP = np.linspace(-1, 1, 1600, dtype=np.float32)
MAX_SENTENCE = 4000
# What one frame may make the client hold: what was announced and is allowed, a header, and what is made of both.
MEMORY_BYTES = max_feature_bytes([len(CLIP)]) + 4000 * 4 + 64 * MAX_HEADER_BYTES

VALUE = {
    "type": "Tensor", "tensor": True, "dtype": "torch.float32", "number": "float", "layout": "strided", "device": "cpu",
    "shape": [1, 3, 4], "bad": None, "emptied": None,
}  # fmt: skip
GREETING: dict[str, Any] = {"hello": True, "python": "3.11.2", "torch": "2.13.0"}
FILE: dict[str, Any] = {"name": "encoder.py", "candidates": {"ToyEncoder": ""}, "error": None}
LOAD: dict[str, Any] = {
    "attribute": "ToyEncoder", "candidates": {"ToyEncoder": ""}, "error": None, "stage": "done", "needs": [],
    "instance_of": None, "is_module": True, "type": "ToyEncoder", "output_dim_type": "int", "output_dim_error": None,
    "output_dim": 4, "positional": 2, "keywords": [], "requires": [], "old_habits": [], "seconds": 0.1,
}  # fmt: skip
CALL: dict[str, Any] = {
    "error": None, "kind": "tuple", "length": 2, "features": VALUE, "mask": {**VALUE, "shape": [1, 3]}, "sent": True,
    "seconds": 0.1,
}  # fmt: skip
RAISED = {"type": "ValueError", "message": "no", "frames": ["encoder.py:3 in forward"]}
NUMBERS = np.array([*range(12), 1, 0, 1], dtype="<f4").tobytes()


class Ended:
    """A process that is over. Implements `client.Confined`."""

    def alive(self) -> bool:
        return False

    def end(self, *, kill: bool) -> Ending:
        return Ending(exit_code=0, killed_by_us=kill, log="\x1b]0;bye\x07")

    def peak_memory(self) -> PeakMemory | None:
        return None

    def gpu_peak(self) -> int | None:
        return None

    def owns(self, peer: Peer) -> bool:
        return True


class Asked(socket.socket):
    """A connection whose other end says all it will as soon as something is asked of it."""

    answer: Callable[[], None] | None = None

    def send(self, data: Any, flags: int = 0, /) -> int:
        count = super().send(data, flags)
        if self.answer is not None:
            self.answer()
            self.answer = None
        return count


def converse(sent: bytes, talk: Callable[[EncoderClient], object]) -> str:
    """Let the client talk with a server that says this, and then hangs up; the words of how that ended."""
    given, theirs = socket.socketpair()
    with Asked(fileno=given.detach()) as ours, theirs:

        def answer() -> None:
            theirs.sendall(sent)
            theirs.shutdown(socket.SHUT_WR)

        if talk is greet:
            answer()
        else:
            ours.answer = answer
        client = EncoderClient(ours, Ended(), Limits())
        try:
            talk(client)
        except ParticipantError as error:
            reasons = error.reasons
        except InfraError as error:
            reasons = (str(error),)
        else:
            return ""
    words = "; ".join(reasons)
    assert words.isprintable(), words
    assert len(words) < MAX_SENTENCE, words
    assert "before it was asked" not in words
    assert "no answer within" not in words, "the client waited for something that had not been sent"
    return words


def loaded(client: EncoderClient) -> None:
    client._loaded = LoadReport.model_validate(LOAD)


def greet(client: EncoderClient) -> None:
    client.greet(60)


def load(client: EncoderClient) -> None:
    report = client.load(EncoderSource(root=".", module="encoder.py"))
    raise ParticipantError(report.violations() or ["none"])


def inspect(client: EncoderClient) -> None:
    report = client.inspect("encoder.py", 1.0)
    if report.error is not None:
        raise ParticipantError([report.error.words()])


def encode(client: EncoderClient) -> None:
    loaded(client)
    for features in client.encode([CLIP]):
        assert features.ndim == 2
        assert np.isfinite(features).all()
        assert 1 <= len(features) <= 4000


TALKS: tuple[tuple[Callable[[EncoderClient], object], Mapping[str, Any], bytes], ...] = (
    (greet, GREETING, b""),
    (inspect, FILE, b""),
    (inspect, {**FILE, "error": RAISED}, b""),
    (load, LOAD, b""),
    (load, {**LOAD, "stage": "choose"}, b""),
    (load, {**LOAD, "stage": "import", "error": RAISED}, b""),
    (encode, CALL, NUMBERS),
    (encode, {**CALL, "mask": None}, NUMBERS[:48]),
    (encode, {**CALL, "length": 1}, NUMBERS),
    (encode, {**CALL, "mask": None, "features": {**VALUE, "shape": [1, 0, 4]}}, b""),
    (encode, {**CALL, "error": RAISED, "sent": False}, b""),
    (encode, {**CALL, "features": {**VALUE, "bad": 3}, "mask": None, "sent": False}, b""),
)


def frame(header: bytes, payload: bytes = b"") -> bytes:
    return PREAMBLE.pack(b"RKE1", len(header), len(payload)) + header + payload


def test_the_frames_that_are_mutated_are_good_ones() -> None:
    """Attacks the fuzzer itself: before a mutation each frame gets as far as a result or a violation that it tells."""
    ends = [converse(frame(json.dumps(header).encode(), payload), talk) for talk, header, payload in TALKS]
    assert [words == "" for words in ends] == [True, True] + [False] * 4 + [True] * 2 + [False] * 4
    assert not [words for words in ends if "wrote to the server's own connection" in words]


# -- mutations, from bytes to meanings

ODD_BYTES = (b"", b"\0", b"\xff" * 8, b"RKE1", b"RKE2", b'"', b"{", b"}", b"[" * 2000, b"1e999", b"NaN", b"\\ud800")
ODD_LENGTHS = (0, 1, 3, 4, 2**16, 2**16 + 1, 2**31 - 1, 2**31, 2**32 - 1)
ODD_SIZES = (*ODD_LENGTHS, 2**53, 2**62, 2**63 - 4, 2**63, 2**64 - 4, max_feature_bytes([len(CLIP)]))
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**300, 0.5, -0.0, 1e308, "", "\ud800", "\u202e\x1b[2J",
    "x" * 1000, "x" * 1001, "\0", "__class__", [], [[]], {}, {"a": None}, "torch.float64", "sparse_coo", "complex",
)  # fmt: skip
ODD_SHAPES: tuple[Any, ...] = (
    [], [0], [12], [1, 12], [3, 4], [1, 1, 12], [1, 4, 3], [2, 3, 4], [1, 3, 4, 1], [1] * 9, [1, -3, -4], [1, 0, 4],
    [1, 0, 2**53], [0, 2**53, 2**53], [0, 2**31, 2**31], [2**53, 2**53, 0], [2**53] * 3, [2**53] * 8, [1, 2**32, 2**32],
    [1, 3, True],
)  # fmt: skip
ODD_NUMBERS = (float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -0.0, 0.5, 2.0)


def mutate_bytes(draw: random.Random, data: bytes) -> bytes:
    """One change of bytes: flip, cut out, repeat, insert, cut off, append."""
    at = draw.randrange(len(data) + 1)
    to = min(len(data), at + draw.choice((1, 2, 8, 64)))
    match draw.randrange(6):
        case 0:
            at = min(at, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if data else b"\1"
        case 1:
            return data[:at] + data[to:]
        case 2:
            return data[:to] + data[at:]
        case 3:
            return data[:at] + draw.choice(ODD_BYTES) + data[at:]
        case 4:
            return data[:at]
        case _:
            return data + draw.choice((data, *ODD_BYTES))


def mutate_value(draw: random.Random, value: Any) -> Any:
    """One change of meaning somewhere inside a JSON value: an odd value, a field less, or one more."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        changed = {**value, name: mutate_value(draw, value[name])}
        if draw.random() < 0.02:
            del changed[name]
        elif draw.random() < 0.02:
            changed[draw.choice(("extra", "\x1b[31m" * 20, "\ud800", "x" * 2000, ""))] = draw.choice(ODD_VALUES)
        return changed
    if isinstance(value, list) and value and isinstance(value[0], int) and draw.random() < 0.6:
        return draw.choice(ODD_SHAPES)
    if isinstance(value, list) and value and draw.random() < 0.6:
        at = draw.randrange(len(value))
        return [*value[:at], mutate_value(draw, value[at]), *value[at + draw.randrange(2) :]]
    return draw.choice(ODD_VALUES)


def fitting(value: Any, payload: bytes) -> bytes:
    """As many numbers as the mutated report announces, if that can be made out and is not too much to send."""
    try:
        shapes = [value["features"]["shape"], *([value["mask"]["shape"]] if value["mask"] is not None else [])]
        number = sum(math.prod(shape) for shape in shapes)
        return (payload * 700)[: 4 * number] if 0 <= number < 10_000 else payload
    except (TypeError, KeyError):
        return payload


def mutated(draw: random.Random, header: Mapping[str, Any], payload: bytes) -> bytes:
    """A frame with one to three mutations, at each of its levels; often one that is still well framed."""
    value: Any = dict(header)
    for _ in range(draw.choice((0, 1, 1, 1, 2))):
        value = mutate_value(draw, value)
    if isinstance(value, dict) and isinstance(value.get("features"), dict) and draw.random() < 0.3:
        value = {**value, "features": {**value["features"], "shape": draw.choice(ODD_SHAPES)}}
    if draw.random() < 0.2 and payload:
        numbers = np.frombuffer(payload, dtype="<f4").copy()
        numbers[draw.randrange(len(numbers))] = draw.choice(ODD_NUMBERS)
        payload = numbers.tobytes()
    if draw.random() < 0.5:
        payload = fitting(value, payload)
    if draw.random() < 0.1:
        payload = mutate_bytes(draw, payload)
    text = json.dumps(value).encode()
    if draw.random() < 0.1:
        text = mutate_bytes(draw, text)
    lengths = [len(text), len(payload)]
    if draw.random() < 0.1:
        lengths = [draw.choice((*ODD_LENGTHS, len(text))), draw.choice((*ODD_SIZES, len(payload)))]
    whole = PREAMBLE.pack(b"RKE1", *lengths) + text + payload
    return mutate_bytes(draw, whole) if draw.random() < 0.1 else whole


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
def test_mutated_frames_end_in_a_result_or_an_error_of_ours() -> None:
    """Each of many frames, mutated by a fixed seed: no other exception, no memory beyond the bound, no waiting."""
    draw = random.Random(SEED)
    number = count("mutated frames that the client was sent", short=2_000, long=100_000)
    ends: dict[str, int] = {"result": 0, "participant": 0, "protocol": 0}
    largest = 0
    for _ in range(number):
        talk, header, payload = draw.choice(TALKS)
        sent = mutated(draw, header, payload)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        words = converse(sent, talk)
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
        ends["result" if not words else "protocol" if "own connection" in words else "participant"] += 1
    found("mutated frames that broke the protocol", ends["protocol"])
    assert largest < MEMORY_BYTES
    assert all(seen > number / 20 for seen in ends.values()), ends


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD_VALUES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
EXAMPLES = count("frames that Hypothesis made", short=150, long=5_000)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    talk=st.sampled_from(TALKS),
    changes=st.dictionaries(st.sampled_from(sorted({*LOAD, *CALL, *FILE, *GREETING})), ANYTHING, max_size=3),
    payload=st.binary(max_size=120),
    keep=st.booleans(),
)
def test_any_report_ends_in_a_result_or_an_error_of_ours(
    talk: tuple[Callable[[EncoderClient], object], Mapping[str, Any], bytes],
    changes: dict[str, Any],
    payload: bytes,
    keep: bool,
) -> None:
    """Reports whose fields hold anything JSON can say, followed by any numbers."""
    talking, header, numbers = talk
    fitting = {name: value for name, value in changes.items() if name in header}
    text = json.dumps({**header, **fitting}).encode()
    assert isinstance(converse(frame(text, numbers if keep else payload), talking), str)


@settings(max_examples=EXAMPLES, deadline=None)
@given(talk=st.sampled_from(TALKS), data=st.binary(max_size=200))
def test_any_bytes_end_in_an_error_of_ours(
    talk: tuple[Callable[[EncoderClient], object], Mapping[str, Any], bytes], data: bytes
) -> None:
    """What is no frame at all is nobody's result."""
    assert converse(data, talk[0])


def test_an_announced_size_is_not_allocated(traced: None) -> None:
    """Attacks with sizes alone: a refused announcement costs no memory, an allowed one no more than is allowed."""
    seen = 0
    for header_bytes in (0, 2, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 2**32 - 1):
        for payload_bytes in (0, 4, max_feature_bytes([len(CLIP)]) + 16_004, 2**40, 2**64 - 4):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            words = converse(PREAMBLE.pack(b"RKE1", header_bytes, payload_bytes) + b"{}", encode)
            assert words
            assert tracemalloc.get_traced_memory()[1] - before < 2**20
            seen += 1
    assert seen == 25
