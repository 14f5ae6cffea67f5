"""Our end of the socket: sends clips, believes nothing that comes back, and turns every surprise into somebody's
fault.
"""

from __future__ import annotations

import hashlib
import logging
import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from ranker.config import Recipe
from ranker.errors import InfraError, ParticipantError
from ranker.pace import PULSE
from ranker.sandbox import wire
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, Features
from ranker.sandbox.contract import (
    CallReport,
    FileReport,
    Greeting,
    LoadReport,
    Raised,
    frames_allowed,
    max_feature_bytes,
    split_features,
)
from ranker.sandbox.faults import (
    Ending,
    Phase,
    Seen,
    is_allocation_failure,
    is_device_failure,
    judge,
    judge_device,
    memory_sentence,
    plain,
)
from ranker.sandbox.memory import PeakMemory
from ranker.sandbox.processes import kernel_kills
from ranker.sandbox.usage import Usage
from ranker.settings import Limits
from ranker.types import EncoderSource

log = logging.getLogger("ranker.sandbox")

# No array of a right answer is longer in any dimension; numpy cannot make one of [0, 2^31, 2^31].
MAX_LENGTH = 2**20
DEFAULT_MAX_FRAMES: int = Recipe.model_fields["max_frames"].default
Report = TypeVar("Report", bound=BaseModel)


class Confined(Protocol):
    """A server process that a backend started."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def end(self, *, kill: bool) -> Ending:
        """Let it finish dying, or kill it, and say how it ended. May be called again."""

    def owns(self, peer: wire.Peer) -> bool:
        """Whether whoever connected is a process of this sandbox. Never raises."""

    def peak_memory(self) -> PeakMemory | None:
        """The most memory that it has taken so far; None where that cannot be known. Never raises."""

    def gpu_peak(self) -> int | None:
        """The most bytes of GPU memory that it was seen to have; None without a GPU."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the encoder: what the server reported, and the features that could be read, with what is wrong with
    them.
    """

    report: CallReport
    features: list[Features]
    violations: list[str]


class EncoderClient:
    """A server that answered, and (after `load`) its encoder. Implements `base.StartedEncoder`."""

    def __init__(
        self, connection: socket.socket, process: Confined, limits: Limits, *, max_frames: int = DEFAULT_MAX_FRAMES
    ) -> None:
        self._connection = connection
        self._process = process
        self._limits = limits
        self._max_frames = max_frames
        self._loaded: LoadReport | None = None
        self._greeting: Greeting | None = None
        self._kernel_kills = kernel_kills()
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._calls, self._audio_s = 0, 0.0

    @property
    def greeting(self) -> Greeting:
        """The server's versions of Python and torch, told before any submitted code ran."""
        if self._greeting is None:
            raise RuntimeError("greet() has not been called")
        return self._greeting

    @property
    def loaded(self) -> LoadReport:
        """What `load` found; a programming error before it."""
        if self._loaded is None:
            raise RuntimeError("load() has not been called")
        return self._loaded

    @property
    def output_dim(self) -> int:
        """D, the size of one feature frame."""
        if self.loaded.output_dim is None:
            raise RuntimeError("the encoder has no output_dim; its violations were not looked at")
        return self.loaded.output_dim

    @property
    def attribute(self) -> str:
        """Name of the encoder class that was found."""
        if self.loaded.attribute is None:
            raise RuntimeError("no encoder class was found; the violations were not looked at")
        return self.loaded.attribute

    def greet(self, timeout_s: float, phase: Phase = Phase.STARTING) -> None:
        """Wait for the server's first words: no submitted code has run yet, unless `phase` says so. Raises InfraError
        or OrganizerError; ParticipantError for another phase.
        """
        header, _ = self._receive(phase, max_payload=0, deadline=time.monotonic() + timeout_s)
        self._greeting = self._parse(Greeting, header, phase)

    def peak_memory(self) -> PeakMemory | None:
        """The most memory that the server, and with it the encoder, has taken so far."""
        return self._process.peak_memory()

    def usage(self) -> Usage:
        """See `base.StartedEncoder.usage`."""
        return Usage(
            load_s=self._seconds[Phase.LOADING],
            calls=self._calls,
            audio_s=self._audio_s,
            encode_s=self._seconds[Phase.ENCODING],
            peak=self.peak_memory(),
            gpu_peak_bytes=self._process.gpu_peak(),
        )

    def inspect(self, file: str, timeout_s: float) -> FileReport:
        """Have one Python file of the root folder imported in a process of its own, and its candidates listed."""
        request = {"op": "inspect", "file": file, "timeout_s": timeout_s}
        header, _ = self._ask(
            Phase.INSPECTING, request, timeout_s=timeout_s + self._limits.call_timeout_s, subject=f"({file})"
        )
        return self._parse(FileReport, header, Phase.INSPECTING)

    def load(self, source: EncoderSource) -> LoadReport:
        """Import and construct the encoder. Violations stand in the report; raises only if the server did not
        survive.
        """
        request = {"op": "load", "module": source.module, "attribute": source.attribute}
        header, _ = self._ask(Phase.LOADING, request, timeout_s=self._limits.load_timeout_s)
        report = self._parse(LoadReport, header, Phase.LOADING)
        if source.attribute is not None and report.attribute != source.attribute:
            raise self._fail(Seen.NONSENSE, Phase.LOADING, "it claims to have loaded another class than was asked for")
        if report.error is not None:
            self._raise_device_failure(report.error, Phase.LOADING)
        self._loaded = report
        return report

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """See `base.Encoder.encode`. Raises ParticipantError with every violation of this call."""
        call = self.call(clips, seed=seed)
        if call.violations:
            raise ParticipantError(call.violations)
        return call.features

    def call(self, clips: Sequence[Audio], *, seed: int | None = None, with_mask: bool = True) -> Call:
        """One call, violations reported instead of raised; raises only if the server did not survive it."""
        lengths = [len(clip) for clip in clips]
        if not lengths or min(lengths) == 0:
            raise ValueError("each call needs at least one clip, and each clip at least one sample")
        request = {
            "op": "encode",
            "lengths": lengths,
            "mask": with_mask,
            "seed": clip_seed(clips[0]) if seed is None else seed,
            "max_frames": frames_allowed(self._max_frames, lengths),
        }
        subject = _words(lengths)
        masks = len(clips) * frames_allowed(self._max_frames, lengths) * 4
        header, numbers = self._ask(
            Phase.ENCODING,
            request,
            clips=clips,
            max_payload=max_feature_bytes(lengths) + masks,
            timeout_s=self._limits.call_timeout_s,
            subject=subject,
        )
        report = self._parse(CallReport, header, Phase.ENCODING)
        self._calls, self._audio_s = self._calls + 1, self._audio_s + sum(lengths) / SAMPLE_RATE_HZ
        return self._judge_call(report, numbers, lengths, subject)

    def _judge_call(
        self, report: CallReport, numbers: npt.NDArray[np.float32], lengths: Sequence[int], subject: str
    ) -> Call:
        if report.error is not None:
            self._raise_device_failure(report.error, Phase.ENCODING, subject)
            if is_allocation_failure(f"{report.error.type}: {report.error.message}"):
                sentence = memory_sentence(f"while it encoded {subject}: {report.error.words()}", self._limits)
            else:
                sentence = f"the encoder raised an exception on {subject}: {report.error.words()}"
            return Call(report=report, features=[], violations=[sentence])
        dim = self.loaded.known_dim
        found = report.violations(
            batch=len(lengths),
            output_dim=dim,
            max_frames=frames_allowed(self._max_frames, lengths),
            max_bytes=max_feature_bytes(lengths),
        )
        shape = [] if report.features is None else report.features.shape
        wanted = math.prod(shape) + (math.prod(shape[:2]) if report.mask is not None else 0)
        readable = report.sent and len(shape) == 3 and max(shape) <= MAX_LENGTH and numbers.size == wanted
        if not found and not readable:
            raise self._fail(
                Seen.NONSENSE, Phase.ENCODING, f"{numbers.size} numbers came where {wanted} were announced"
            )
        kept: list[Features] = []
        if readable:
            features = numbers[: math.prod(shape)].reshape(shape)
            mask = numbers[math.prod(shape) :].reshape(shape[:2]) if report.mask is not None else None
            kept, wrong = split_features(features, mask)
            found += wrong
        violations = [f"on {subject}, {violation}" for violation in found]
        return Call(report=report, features=[] if violations else kept, violations=violations)

    def _ask(
        self,
        phase: Phase,
        request: dict[str, Any],
        *,
        clips: Sequence[Audio] = (),
        max_payload: int = 0,
        timeout_s: float,
        subject: str = "",
    ) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
        left_s = self._limits.run_timeout_s - sum(self._seconds.values())
        late = Seen.LATE if timeout_s < left_s else Seen.SPENT
        started = time.monotonic()
        deadline = started + min(timeout_s, left_s)
        self._must_be_quiet(phase, subject)
        try:
            wire.send(self._connection, request, clips, deadline=deadline)
        except wire.LateError as error:
            raise self._fail(late, phase, str(error), subject) from None
        except wire.ClosedError as error:
            raise self._fail(Seen.CLOSED, phase, str(error), subject) from None
        answer = self._receive(phase, max_payload=max_payload, deadline=deadline, subject=subject, late=late)
        self._seconds[phase] += time.monotonic() - started
        PULSE.mark()
        return answer

    def _must_be_quiet(self, phase: Phase, subject: str) -> None:
        """What lies there before a question is no answer to it, and would bring all later ones out of step."""
        if wire.has_unread(self._connection):
            raise self._fail(Seen.NONSENSE, phase, "it answered before it was asked", subject)

    def _receive(
        self, phase: Phase, *, max_payload: int, deadline: float, subject: str = "", late: Seen = Seen.LATE
    ) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
        try:
            return wire.receive(self._connection, max_payload=max_payload, deadline=deadline)
        except MemoryError:
            self._process.end(kill=True)
            raise InfraError(
                f"this machine has no {max_payload / 1e6:,.0f} MB of memory for one call's features"
            ) from None
        except wire.LateError as error:
            raise self._fail(late, phase, str(error), subject) from None
        except wire.ClosedError as error:
            raise self._fail(Seen.CLOSED, phase, str(error), subject) from None
        except wire.WireError as error:
            raise self._fail(Seen.NONSENSE, phase, str(error), subject) from None

    def _parse(self, model: type[Report], header: dict[str, Any], phase: Phase) -> Report:
        try:
            return model.model_validate(header)
        except ValidationError as error:
            # Names of fields that should not be there are theirs.
            found = error.errors(include_url=False, include_context=False, include_input=False)
            fields = ", ".join(sorted({plain(".".join(map(str, mistake["loc"])), 80) for mistake in found})[:5])
            raise self._fail(Seen.NONSENSE, phase, f"its report has wrong fields ({fields})") from None

    def _raise_device_failure(self, raised: Raised, phase: Phase, subject: str = "") -> None:
        """Raises InfraError for words that only a broken GPU says, if there is one inside: a new process may help."""
        if is_device_failure(f"{raised.type}: {raised.message}") and self._process.gpu_peak() is not None:
            self._connection.close()
            self._process.end(kill=True)
            raise judge_device(phase, subject, raised.words()).error()

    def _fail(self, seen: Seen, phase: Phase, detail: str, subject: str = "") -> Exception:
        """End the process and say whose fault it was."""
        self._connection.close()
        ending = self._process.end(kill=seen is not Seen.CLOSED)
        ending = replace(ending, machine_short=kernel_kills() > self._kernel_kills)
        return judge(seen, phase, ending, self._limits, subject=subject, detail=detail).error()


def clip_seed(clip: Audio) -> int:
    """The seed for a call that begins with this clip: from its samples alone, so that no order of calls can matter."""
    digest = hashlib.sha256(np.ascontiguousarray(clip, dtype="<f4").tobytes()).digest()
    return int.from_bytes(digest[:6], "big")


def accept(listener: socket.socket, process: Confined, limits: Limits, timeout_s: float) -> socket.socket:
    """The server's connection; whoever else connects is hung up on. Raises InfraError if the process ends, or the time
    passes, before it has connected.
    """
    deadline = time.monotonic() + timeout_s
    listener.settimeout(0.25)
    while time.monotonic() < deadline:
        try:
            connection = listener.accept()[0]
        except TimeoutError:
            if not process.alive():
                break
            continue
        peer = wire.peer_of(connection)
        if process.owns(peer):
            return connection
        log.warning("a process that is not the sandbox's (pid %d, uid %d) was hung up on", peer.pid, peer.uid)
        connection.close()
    seen = Seen.LATE if process.alive() else Seen.CLOSED
    raise judge(seen, Phase.STARTING, process.end(kill=True), limits).error()


def _words(lengths: Sequence[int]) -> str:
    seconds = max(lengths) / SAMPLE_RATE_HZ
    return (
        f"a clip of {seconds:.2f} s"
        if len(lengths) == 1
        else f"a batch of {len(lengths)} clips of up to {seconds:.2f} s"
    )
