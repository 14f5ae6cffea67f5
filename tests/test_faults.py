"""Whose fault it is, on what engines, kernels and libraries really said (captured from Docker 20.10 and torch 2.13)."""

from __future__ import annotations

import pytest

from ranker.errors import InfraError, MissingError, OrganizerError, ParticipantError, VanishedError
from ranker.sandbox.faults import Ending, Phase, Seen, is_allocation_failure, judge, judge_engine, plain
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
        (f'500 Server Error for {API}/create: Internal Server Error ("no space left on device")', InfraError),
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
