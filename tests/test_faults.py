"""Whose fault it is, on what engines, kernels and libraries really said.

Captured from Docker 20.10 and torch 2.13 on a machine without a GPU: an engine killed during a call and one whose disk
was filled among them. What CUDA says of a failing GPU is as people reported it in issues of torch's users.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attack_world import World
from engine import missing

from ranker.errors import InfraError, MissingError, OrganizerError, ParticipantError, VanishedError
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import Raised
from ranker.sandbox.faults import (
    Ending,
    Phase,
    Seen,
    is_allocation_failure,
    is_device_failure,
    judge,
    judge_device,
    judge_engine,
    plain,
)
from ranker.sandbox.memory import PeakMemory
from ranker.sandbox.wire import Peer
from ranker.settings import Limits
from ranker.types import Fault

LIMITS = Limits(memory_gb=12, call_timeout_s=60, load_timeout_s=300)
API = "http+docker://localhost/v1.41/containers"


def ending(code: int | None = 0, **fields: object) -> Ending:
    return Ending(exit_code=code, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("seen", list(Seen))
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.STARTING])
def test_memory_is_named_with_its_limit_whatever_the_client_saw(seen: Seen, phase: Phase) -> None:
    """An out-of-memory kill explains every other symptom: the sentence names the limit, and it is the participant's."""
    verdict = judge(seen, phase, ending(137, out_of_memory=True), LIMITS)
    assert verdict.fault is Fault.PARTICIPANT
    assert "12 GB of memory" in verdict.sentence


@pytest.mark.parametrize("seen", list(Seen))
@pytest.mark.parametrize("code", [0, 1, 137, 139, None])
def test_nothing_before_the_greeting_is_the_participants_fault(seen: Seen, code: int | None) -> None:
    """No line of theirs has run before the server greets, so the blame must never fall on them."""
    assert judge(seen, Phase.STARTING, ending(code), LIMITS).fault is Fault.INFRA
    assert judge(seen, Phase.STARTING, ending(code, out_of_memory=True), LIMITS).fault is Fault.ORGANIZER


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (139, "signal SIGSEGV"), (134, "signal SIGABRT")]
)
def test_an_exit_of_its_own_names_code_or_signal(code: int, words: str) -> None:
    """Exit 0 in the middle of a call is as much a violation as a crash."""
    verdict = judge(Seen.CLOSED, Phase.ENCODING, ending(code, log="Aborted"), LIMITS, subject="a clip of 1.00 s")
    assert verdict.fault is Fault.PARTICIPANT
    assert words in verdict.sentence
    assert "a clip of 1.00 s" in verdict.sentence
    assert "Aborted" in verdict.sentence


@pytest.mark.parametrize("code", [137, None])
def test_a_kill_from_nowhere_is_ours(code: int | None) -> None:
    """SIGKILL without a limit reached may be the host's lack of memory or an administrator: retried, not blamed."""
    assert judge(Seen.CLOSED, Phase.ENCODING, ending(code), LIMITS).fault is Fault.INFRA


def test_only_a_kill_that_nothing_explains_is_counted() -> None:
    """A kill while the kernel was killing for lack of memory is an accident; one without a reason may be their own."""
    counted = [
        isinstance(judge(Seen.CLOSED, Phase.ENCODING, how, LIMITS).error(), VanishedError)
        for how in (ending(137), ending(None), ending(137, machine_short=True), ending(3))
    ]
    assert counted == [True, True, False, False]
    assert (
        "this machine ran out of memory"
        in judge(Seen.CLOSED, Phase.LOADING, ending(137, machine_short=True), LIMITS).sentence
    )


def test_limits_of_a_whole_job_and_of_the_gpu_are_named() -> None:
    """A team must learn that it was the sum of its calls, or the GPU's memory, that was too much."""
    spent = judge(Seen.SPENT, Phase.ENCODING, ending(137, killed_by_us=True), Limits(run_timeout_s=3600))
    full = judge(Seen.CLOSED, Phase.ENCODING, ending(137, out_of_gpu_memory=True), LIMITS)
    assert (spent.fault, full.fault) == (Fault.PARTICIPANT, Fault.PARTICIPANT)
    assert "the 3600 s that all loading and calls of one job may take" in spent.sentence
    assert "16 GB of GPU memory" in full.sentence


@pytest.mark.parametrize(("phase", "limit"), [(Phase.ENCODING, "60 s"), (Phase.LOADING, "300 s")])
def test_silence_names_the_limit_of_its_phase(phase: Phase, limit: str) -> None:
    """A team must learn which of the two limits it met."""
    verdict = judge(Seen.LATE, phase, ending(137, killed_by_us=True), LIMITS)
    assert verdict.fault is Fault.PARTICIPANT
    assert limit in verdict.sentence


def test_verdicts_become_the_errors_of_their_fault() -> None:
    """The error's class decides on retries and exit codes."""
    assert isinstance(judge(Seen.LATE, Phase.ENCODING, ending(), LIMITS).error(), ParticipantError)
    assert isinstance(judge(Seen.LATE, Phase.STARTING, ending(), LIMITS).error(), InfraError)
    assert isinstance(judge(Seen.CLOSED, Phase.STARTING, ending(out_of_memory=True), LIMITS).error(), OrganizerError)


@pytest.mark.parametrize(
    "text",
    [
        "MemoryError: ",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)",
        "_ArrayMemoryError: Unable to allocate 372. GiB for an array with shape (100000000000,) and data type float32",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 14.58 GiB",
    ],
)
def test_failed_allocations_are_recognised(text: str) -> None:
    """Under an address-space limit nothing is killed: the library's own words are all there is."""
    assert is_allocation_failure(text)


@pytest.mark.parametrize(
    "text", ["ValueError: memory must be a tensor", "KeyError: 'allocate'", "RuntimeError: this is not a MemoryError"]
)
def test_other_errors_are_no_failed_allocations(text: str) -> None:
    """Talking of memory is not lacking it."""
    assert not is_allocation_failure(text)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (f'404 Client Error for {API}/create: Not Found ("No such image: ranker-encoder:none")', MissingError),
        (
            f'500 Server Error for {API}/5e1f/start: Internal Server Error ("could not select device driver "" with '
            'capabilities: [[gpu]]")',
            MissingError,
        ),
        (
            "Error while fetching server API version: ('Connection aborted.', FileNotFoundError(2, 'No such file or "
            "directory'))",
            MissingError,
        ),
        (
            f'400 Client Error for {API}/f70b/start: Bad Request ("failed to create shim task: OCI runtime '
            'create failed: runc create failed: unable to start container process: exec: "python99": executable file '
            'not found in $PATH: unknown")',
            OrganizerError,
        ),
        (f'400 Client Error for {API}/create: Bad Request ("Minimum memory limit allowed is 6MB")', OrganizerError),
        (
            f'400 Client Error for {API}/create: Bad Request ("Range of CPUs is from 0.01 to 2.00, as there are only 2 '
            'CPUs available")',
            OrganizerError,
        ),
        (
            f'400 Client Error for {API}/create: Bad Request ("invalid mount config for type "bind": bind source path '
            'does not exist: /nope")',
            OrganizerError,
        ),
        (
            f'500 Server Error for {API}/e1ee/start: Internal Server Error ("Decoding seccomp profile failed: invalid '
            "character 'n' looking for beginning of object key string\")",
            OrganizerError,
        ),
        (f'400 Client Error for {API}/create: Bad Request ("Unknown runtime specified runsc")', OrganizerError),
        ("UnixHTTPConnectionPool(host='localhost', port=None): Read timed out. (read timeout=60)", InfraError),
        ("('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))", InfraError),
        ("('Connection aborted.', ConnectionRefusedError(111, 'Connection refused'))", InfraError),
        (
            f'500 Server Error for {API}/create: Internal Server Error ("write /data/overlay2/539ad508-init/link: no '
            'space left on device")',
            InfraError,
        ),
        (
            f'400 Client Error for {API}/41bf/start: Bad Request ("failed to create shim task: OCI runtime create '
            'failed: runc create failed: unable to start container process: exec: "/opt/python": stat /opt/python: no '
            'such file or directory: unknown")',
            OrganizerError,
        ),
    ],
)
def test_the_engines_own_words_are_never_the_participants_fault(message: str, error: type[Exception]) -> None:
    """What Docker says about itself is missing, misconfigured or broken machinery, and keeps its words."""
    found = judge_engine(message)
    assert type(found) is error
    assert message[-20:-3] in str(found)


def test_untrusted_text_is_made_fit_for_a_terminal() -> None:
    """No control characters, no marks that turn the line around, no more than one short line."""
    text = plain("a\x1b[31m\nb\u202ec\x00" + "x" * 5000)
    assert text.isprintable()
    assert len(text) <= 300


DEVICE_FAILURES = [
    "RuntimeError: CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported",
    "AcceleratorError: CUDA error: unknown error\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
    "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env "
    "variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
    "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
]
OWN_MISTAKES = [
    "RuntimeError: CUDA error: device-side assert triggered",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "RuntimeError: CUDA error: unspecified launch failure",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "AssertionError: Torch not compiled with CUDA enabled",
    "RuntimeError: No CUDA GPUs are available",
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 14.58 GiB",
]


@pytest.mark.parametrize("text", DEVICE_FAILURES)
def test_a_broken_gpu_is_ours_for_a_few_attempts(text: str) -> None:
    """No code makes a GPU lose bits; but they can say that it did, so it is counted (tests/test_worker.py)."""
    assert is_device_failure(text)
    assert isinstance(judge_device(Phase.ENCODING, "a clip", text).error(), VanishedError)


@pytest.mark.parametrize("text", OWN_MISTAKES)
def test_a_program_that_misuses_a_gpu_is_at_fault_itself(text: str) -> None:
    """Illegal addresses, failed assertions, a GPU that was never promised, or more of its memory than there is."""
    assert not is_device_failure(text)


class Running:
    """A process that has so much of a GPU's memory. Implements `client.Confined`."""

    def __init__(self, gpu_bytes: int | None) -> None:
        self.gpu_bytes, self.killed = gpu_bytes, False

    def alive(self) -> bool:
        return not self.killed

    def end(self, *, kill: bool) -> Ending:
        self.killed = kill
        return ending(137, killed_by_us=kill)

    def owns(self, peer: Peer) -> bool:
        return True

    def peak_memory(self) -> PeakMemory | None:
        return None

    def gpu_peak(self) -> int | None:
        return self.gpu_bytes


@pytest.mark.parametrize("gpu_bytes", [None, 10**9])
def test_without_a_gpu_inside_nobody_can_blame_one(gpu_bytes: int | None) -> None:
    """The words alone do nothing in a sandbox that was given no GPU; with one, the process is ended and tried anew."""
    process, raised = Running(gpu_bytes), Raised(type="RuntimeError", message=DEVICE_FAILURES[1], frames=[])
    with socket.socket(socket.AF_UNIX) as connection:
        client = EncoderClient(connection, process, LIMITS)
        if gpu_bytes is None:
            client._raise_device_failure(raised, Phase.ENCODING, "a clip")
        else:
            with pytest.raises(VanishedError, match="the GPU failed while it encoded a clip"):
                client._raise_device_failure(raised, Phase.ENCODING, "a clip")
    assert process.killed == (gpu_bytes is not None)


KILLED_ENGINE = """
import os, signal, sys
from pathlib import Path
from attack_world import LIMITS, NO_IMAGE, clip, processes_with
from engine import docker_host, private_engine
from ranker.errors import RankerError
from ranker.sandbox.backends import backend
from ranker.sandbox.base import EncoderSpec
from ranker.types import EncoderSource, SandboxName

spec = EncoderSpec(tree=Path(sys.argv[1]), source=EncoderSource(root=".", module="hangs.py"))
with private_engine() as address, docker_host(address):
    try:
        with backend(SandboxName.DOCKER, image=NO_IMAGE).start(spec, LIMITS) as encoder:
            for pid in processes_with(f"--host\\0{address}\\0"):
                os.kill(int(pid), signal.SIGKILL)
            encoder.encode([clip()])
    except RankerError as error:
        print(type(error).__name__, error)
"""


def test_an_engine_that_dies_during_a_call_is_ours(world: World) -> None:
    """A call that hangs, and an engine that is killed meanwhile with all its containers: an InfraError of the engine's
    own. In a process of its own, since Docker's SDK leaves sockets open then.
    """
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("no Docker engine can be started here, to be killed")
    command = [sys.executable, "-W", "ignore", "-c", KILLED_ENGINE, str(world.tree)]
    told = subprocess.check_output(command, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)})
    assert told.startswith("InfraError Docker failed: ")
