"""The submissions of tests/attacks that write to the server's connection themselves: none costs the client more than a
bounded time and memory, each is told as theirs, and without the bound each would cost more.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from attack_world import ATTACKS, BRIEF, LIMITS, World, clip, honest, load, spec
from effort import todays

from ranker.errors import ParticipantError
from ranker.sandbox import client as room
from ranker.sandbox import wire
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits

REFUSED = [
    ("floods", LIMITS, "7864320000 bytes of numbers, more than"),
    ("deep_json", LIMITS, "header is not JSON"),
    ("talks_garbage", LIMITS, "a frame starts with b'HTTP'"),
    ("cuts_answer", LIMITS, "ended its own process with exit code 0 while it encoded a clip of 1.00 s"),
    ("endless_header", LIMITS, "announces a header of 4294967295 bytes"),
    ("trickles", BRIEF, "no answer within 1 s"),
    ("wrong_count", LIMITS, "10 numbers came where 800 were announced"),
    ("pickles", LIMITS, "header is not JSON"),
]


@pytest.mark.parametrize(
    ("attack", "limits", "words"), todays("forged answers", REFUSED), ids=lambda value: str(value)[:20]
)
def test_forged_answers_are_refused_before_they_cost_anything(
    bubblewrap: ServedSandbox, world: World, attack: str, limits: Limits, words: str
) -> None:
    """The bound of one answer follows the audio, not what the encoder claims to be; the blame is theirs."""
    with bubblewrap.start(spec(world, attack), limits) as encoder, pytest.raises(ParticipantError, match=words):
        encoder.encode([clip()])
    assert not (world.home / "unpickled").exists()


def _endless(patch: pytest.MonkeyPatch) -> None:
    """One deadline for each byte instead of one for the frame."""
    patch.setattr(wire, "_time_left", lambda _deadline: 5.0)


def _any_header(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wire, "MAX_HEADER_BYTES", 2**33)


def _any_size(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(room, "max_feature_bytes", lambda _lengths: 2**40)


WITHOUT = [("floods", _any_size, False), ("endless_header", _any_header, False), ("trickles", _endless, True)]


@pytest.mark.parametrize(("attack", "lift", "through"), todays("forged answers, without the bound", WITHOUT))
def test_without_the_bound_it_is_read_until_the_time_is_over(
    bubblewrap: ServedSandbox,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    attack: str,
    lift: Callable[[pytest.MonkeyPatch], None],
    through: bool,
) -> None:
    """The control: what is announced is taken in, as far as half a second goes: the deadline is the layer behind. And
    without that, a right answer that trickles for three seconds is waited for, and for ever if it had more bytes.
    """
    limits = LIMITS.model_copy(update={"call_timeout_s": 0.5})
    late = pytest.raises(ParticipantError, match=r"no answer within 0\.5 s")
    with bubblewrap.start(spec(world, attack), limits) as encoder, nullcontext() if through else late:
        lift(monkeypatch)
        np.testing.assert_allclose(encoder.encode([clip()])[0], honest(clip()), atol=1e-5)


def test_the_parser_alone_would_not_survive() -> None:
    """The control of deep_json: Python's own parser raises what is no ValueError, and the client turns it into one."""
    header = b"[" * 60_000
    assert f'HEADER = b"[" * {len(header):_}' in (ATTACKS / "deep_json.py").read_text()
    with pytest.raises(RecursionError):
        json.loads(header)


def test_the_pickle_would_have_run(world: World) -> None:
    """The control of pickles: loading what it sends makes the file; so nothing outside ever loads one."""

    class Planted:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (world.home / "control",)

    pickle.loads(pickle.dumps(Planted()))
    assert (world.home / "control").exists()
    rooms = [file.read_text() for file in Path(room.__file__).parent.glob("*.py")]
    assert len(rooms) > 10
    assert not any("import pickle" in text or "torch.load" in text for text in rooms)


def test_answers_without_a_question_are_refused(bubblewrap: ServedSandbox, world: World) -> None:
    """The first of two answers is taken for the answer; whatever lies there before the next question is not."""
    with bubblewrap.connect(spec(world, "answers_ahead"), LIMITS) as client:
        assert load(client, "answers_ahead") == []
        assert (client.encode([clip()])[0] == 1).all()
        select.select([client._connection], [], [], 10)
        with pytest.raises(ParticipantError, match="answered before it was asked"):
            client.encode([clip(1)])


class Receiving:
    """A connection that takes files too, as `recvmsg` with room for them would."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.files: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def fileno(self) -> int:
        return self._connection.fileno()

    def recv_into(self, view: memoryview) -> int:
        data, files, _, _ = socket.recv_fds(self._connection, len(view), 200)
        self.files += files
        view[: len(data)] = data
        return len(data)


def test_files_that_come_with_an_answer_are_not_taken(bubblewrap: ServedSandbox, world: World) -> None:
    """The kernel drops what no room was made for. The control makes room, and gets all hundred."""
    with bubblewrap.connect(spec(world, "sends_files"), LIMITS) as client:
        assert load(client, "sends_files") == []
        receiving = Receiving(client._connection)
        for connection, files in ((client._connection, 0), (receiving, 100)):
            client._connection = connection  # type: ignore[assignment]
            before = len(list(Path("/proc/self/fd").iterdir()))
            np.testing.assert_allclose(client.encode([clip()])[0], honest(clip()), atol=1e-5)
            assert len(list(Path("/proc/self/fd").iterdir())) - before == files
        for file in receiving.files:
            os.close(file)
