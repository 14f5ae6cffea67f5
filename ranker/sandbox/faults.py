"""Whose fault it is when a sandboxed encoder ends, hangs or talks nonsense. Pure: values in, a verdict out.

A participant pays for what only their code can have done; when it could have been us, it was us.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import StrEnum

from ranker.errors import InfraError, MissingError, OrganizerError, ParticipantError, RankerError, VanishedError
from ranker.settings import Limits
from ranker.types import Fault

LOG_TAIL_CHARACTERS = 300


class Seen(StrEnum):
    """What the client saw."""

    CLOSED = "closed"  # the connection ended
    LATE = "late"  # no answer before the deadline
    SPENT = "spent"  # no answer before all the time that a job may take was used up
    NONSENSE = "nonsense"  # an answer that breaks the protocol


class Phase(StrEnum):
    """What the server was doing. Before READY no line of the submission has run."""

    STARTING = "starting"
    INSPECTING = "inspecting"
    LOADING = "loading"
    ENCODING = "encoding"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the server's process ended.

    `exit_code` as a shell gives it (128 + signal), None if unknown; `killed_by_us` after a deadline or nonsense;
    `out_of_memory` if the kernel killed something inside for the sandbox's memory limit; `out_of_gpu_memory` if we
    ended it for the GPU's; `machine_short` if the kernel killed anything on this machine for lack of memory meanwhile;
    `log` is the end of what it printed.
    """

    exit_code: int | None
    killed_by_us: bool = False
    out_of_memory: bool = False
    out_of_gpu_memory: bool = False
    machine_short: bool = False
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whose fault, and the sentence that says so. `unexplained`: ours for now, theirs if it happens again and again."""

    fault: Fault
    sentence: str
    unexplained: bool = False

    def error(self) -> RankerError:
        """The exception to raise."""
        if self.fault is Fault.PARTICIPANT:
            return ParticipantError([self.sentence])
        if self.unexplained:
            return VanishedError(self.sentence)
        return (OrganizerError if self.fault is Fault.ORGANIZER else InfraError)(self.sentence)


_DOING = {
    Phase.STARTING: "while the sandbox was starting",
    Phase.INSPECTING: "while its Python files were imported",
    Phase.LOADING: "while it was imported and constructed",
    Phase.ENCODING: "while it encoded",
}

# What libraries say when an allocation fails (under an address-space limit nothing is killed; the call fails).
_ALLOCATION_FAILED = re.compile(
    r"^MemoryError|DefaultCPUAllocator: (can't|not enough) |std::bad_alloc|CUDA out of memory|Cannot allocate memory"
    r"|Unable to allocate [\d.]+ [KMGTP]?i?B"
)


def judge(seen: Seen, phase: Phase, ending: Ending, limits: Limits, *, subject: str = "", detail: str = "") -> Verdict:
    """Decide. `subject` says what was being encoded ("a clip of 1.00 s"); `detail` is the client's own words for
    nonsense.
    """
    doing = _DOING[phase] + (f" {subject}" if subject else "")
    if ending.out_of_memory or ending.out_of_gpu_memory:
        return _judge_memory(phase, doing, limits, gpu=not ending.out_of_memory)
    if phase is Phase.STARTING:
        what = "did not answer in time" if seen is Seen.LATE else f"ended with {exit_words(ending.exit_code)}"
        return Verdict(
            fault=Fault.INFRA,
            sentence=f"the encoder server {what} {doing}, before any submitted code ran{_said(ending.log)}",
        )
    if seen in {Seen.LATE, Seen.SPENT}:
        return Verdict(fault=Fault.PARTICIPANT, sentence=_time_sentence(seen, phase, doing, limits))
    if seen is Seen.NONSENSE:
        return Verdict(
            fault=Fault.PARTICIPANT,
            sentence=f"the encoder's process wrote to the server's own connection {doing}: {detail}",
        )
    return _judge_exit(ending, doing)


def _time_sentence(seen: Seen, phase: Phase, doing: str, limits: Limits) -> str:
    if seen is Seen.SPENT:
        allowed = f"{limits.run_timeout_s:g} s that all loading and calls of one job may take together"
        return f"the encoder used up the {allowed}, {doing}"
    limit = limits.call_timeout_s if phase is Phase.ENCODING else limits.load_timeout_s
    name = "one call" if phase is Phase.ENCODING else "loading"
    return f"the encoder gave no answer within {limit:g} s {doing}; the limit for {name} is {limit:g} s"


def _judge_memory(phase: Phase, doing: str, limits: Limits, *, gpu: bool) -> Verdict:
    if gpu:
        sentence = f"the encoder used more than the {limits.gpu_memory_gb:g} GB of GPU memory that it may have, {doing}"
        return Verdict(fault=Fault.PARTICIPANT, sentence=sentence)
    if phase is Phase.STARTING:
        sentence = (
            f"memory_gb is {limits.memory_gb:g}, which is too little to import torch, before any submitted code ran; "
            "raise limits.memory_gb in configs/service.yaml"
        )
        return Verdict(fault=Fault.ORGANIZER, sentence=sentence)
    return Verdict(fault=Fault.PARTICIPANT, sentence=memory_sentence(doing, limits))


def memory_sentence(doing: str, limits: Limits) -> str:
    """The sentence for an encoder that wanted more memory than it may have."""
    return f"the encoder used more than the {limits.memory_gb:g} GB of memory that it may have, {doing}"


def _judge_exit(ending: Ending, doing: str) -> Verdict:
    if ending.exit_code == 128 + signal.SIGKILL or ending.exit_code is None:
        # Their code can kill itself, but so can our machine's administrator and its own lack of memory.
        how = "was killed" if ending.exit_code is not None else "ended, nobody knows how,"
        why = "as this machine ran out of memory" if ending.machine_short else "without a limit being reached"
        sentence = f"the encoder server {how} {doing}, {why}"
        return Verdict(fault=Fault.INFRA, sentence=sentence, unexplained=not ending.machine_short)
    return Verdict(
        fault=Fault.PARTICIPANT,
        sentence=f"the encoder ended its own process with {exit_words(ending.exit_code)} {doing}{_said(ending.log)}",
    )


# What CUDA says when the GPU or its driver failed, and not the code that it was given (cudaError_t in the CUDA Runtime
# API's reference; torch puts "CUDA error: " in front). An illegal address, a failed assertion, an unspecified launch
# failure are a program's own mistakes.
_DEVICE_FAILED = re.compile(
    r"CUDA error: (uncorrectable ECC error|unknown error|hardware stack error|CUDA-capable device\(s\) is/are busy"
    r"|no CUDA-capable device is detected|initialization error|system not yet initialized|device not ready"
    r"|Invalid access of peer GPU memory over nvlink or a hardware error)"
    r"|CUDA unknown error|CUDA driver initialization failed"
)


def is_device_failure(text: str) -> bool:
    """Whether an exception (`Type: message`) of an encoder that was given a GPU says that the GPU itself failed."""
    return _DEVICE_FAILED.search(text) is not None


def judge_device(phase: Phase, subject: str, words: str) -> Verdict:
    """For such an exception. Their code may have made the words up: so it is one of those that are ours a few times."""
    doing = _DOING[phase] + (f" {subject}" if subject else "")
    return Verdict(fault=Fault.INFRA, sentence=f"the GPU failed {doing}: {words}", unexplained=True)


def is_allocation_failure(text: str) -> bool:
    """Whether an exception (`Type: message`) says that memory could not be had."""
    return _ALLOCATION_FAILED.search(text) is not None


def exit_words(code: int | None) -> str:
    """`exit code 3` or `signal SIGSEGV`."""
    if code is None:
        return "an unknown exit code"
    if code > 128:
        try:
            return f"signal {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"exit code {code}"


def plain(text: str, limit: int = LOG_TAIL_CHARACTERS) -> str:
    """Untrusted text made fit for one line of a terminal: printable characters only, the end kept."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= limit else "..." + line[-limit + 3 :]


def _said(log: str) -> str:
    line = plain(log)
    return f"; it printed last: {line}" if line else ""


# Docker's answers, as captured from engine 20.10 (tests/test_faults.py), and what they mean for whom.
_ENGINE_MISSING = (
    re.compile(r"No such image"),
    re.compile(r"could not select device driver .* with capabilities: \[\[gpu\]\]"),
    re.compile(r"Error while fetching server API version"),
)
_ENGINE_MISCONFIGURED = (
    re.compile(r"executable file not found in \$PATH|exec: .*: no such file or directory"),
    re.compile(r"bind source path does not exist"),
    re.compile(r"Decoding seccomp profile failed"),
    re.compile(r"Minimum memory limit allowed is"),
    re.compile(r"Range of CPUs is from"),
    re.compile(r"Unknown runtime specified"),
)


def judge_engine(message: str) -> RankerError:
    """The error to raise for something that the container engine itself said. Never the participant's fault."""
    line = plain(message, 500)
    if any(pattern.search(message) for pattern in _ENGINE_MISSING):
        return MissingError(f"Docker cannot run the encoder: {line}; `ranker doctor` says what is missing")
    if any(pattern.search(message) for pattern in _ENGINE_MISCONFIGURED):
        return OrganizerError(
            f"Docker refuses how the sandbox is configured: {line}; see limits and docker_image in service.yaml"
        )
    return InfraError(f"Docker failed: {line}")
