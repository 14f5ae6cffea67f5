"""Which defence keeps each attack of tests/attacks from what it tries; a control run lifts it.

Several layers of one attack are alternatives: each alone is enough, so the control lifts them all, and another run
lifts all but one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """One defence that can be lifted by itself (tests/lifting.py)."""

    NETWORK = "a network of its own"
    SECCOMP = "the filter of system calls"
    VIEW = "only its own files are shown"
    PROCESSES = "a process namespace of its own"
    ENVIRONMENT = "an empty environment"
    USER = "user 10001"
    RIGHTS = "no rights of root"
    READ_ONLY = "everything is mounted read-only"
    NOT_DUMPABLE = "the watching process cannot be looked into"
    SCRATCH = "a scratch space of its own, which ends with it"
    IPC = "an IPC namespace of its own"
    RLIMITS = "limits that cannot be raised"
    NO_NEW_PRIVILEGES = "no program gives new rights"
    NOTHING_SENT = "labels never enter the sandbox"
    CLOSED_FILES = "no open file is inherited"
    ONE_CONNECTION = "the socket listens for one connection"
    NO_CONTROL_FILES = "control groups are not shown"
    OWN_PROCESS = "a process of its own"
    PROCESS_LIMIT = "pids"
    MEMORY_LIMIT = "memory_gb"
    SCRATCH_LIMIT = "scratch_mb"
    LOG_LIMIT = "log_kb"
    CALL_LIMIT = "call_timeout_s"
    LOAD_LIMIT = "load_timeout_s"
    GROUP_KILL = "the control group's processes are killed"
    SEARCH_PATH = "the submission's folder comes last and late to Python's search path"
    JUDGEMENT = "faults.py"
    CONTRACT = "contract.py judges what is returned"
    WIRE = "wire.py bounds what is read"
    WITNESS = "some clips are encoded again in a fresh process"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A file of tests/attacks. `no_control`: why there is nothing that could be lifted."""

    file: str
    layers: tuple[Layer, ...]
    no_control: str = ""


def _attack(file: str, *layers: Layer, no_control: str = "") -> Attack:
    return Attack(file=file, layers=layers, no_control=no_control)


# Those that look for something outside, and tell in their features what each attempt got: tests/test_attacks_peek.py.
PEEKING = (
    _attack("reads_labels", Layer.VIEW),
    _attack("reads_others", Layer.VIEW),
    _attack("writes_scores", Layer.VIEW),
    _attack("talks_engine", Layer.VIEW),
    _attack("runs_from_memory", Layer.VIEW),
    _attack("reads_processes", Layer.PROCESSES),
    _attack("signals_others", Layer.PROCESSES),
    _attack("reads_environment", Layer.ENVIRONMENT),
    _attack("walks_frames", Layer.NOTHING_SENT),
    _attack("inherits_files", Layer.CLOSED_FILES),
    _attack("talks_tcp", Layer.NETWORK, Layer.SECCOMP),
    _attack("talks_udp", Layer.NETWORK, Layer.SECCOMP),
    _attack("asks_dns", Layer.NETWORK, Layer.SECCOMP),
    _attack("talks_vsock", Layer.SECCOMP),
    _attack("talks_netlink", Layer.SECCOMP),
    _attack("talks_abstract", Layer.NETWORK),
    _attack("connects_again", Layer.ONE_CONNECTION),
    _attack("uses_io_uring", Layer.SECCOMP),
    _attack("calls_32bit", Layer.SECCOMP),
    _attack("makes_namespaces", Layer.SECCOMP),
    _attack("uses_keyrings", Layer.SECCOMP),
    _attack("uses_kernel_tools", Layer.SECCOMP),
    _attack("loads_bpf", Layer.SECCOMP, Layer.RIGHTS),
    _attack("mounts", Layer.SECCOMP, Layer.RIGHTS),
    _attack("escapes_chroot", Layer.SECCOMP, Layer.RIGHTS),
    _attack("makes_devices", Layer.SECCOMP, Layer.RIGHTS),
    _attack("raises_priority", Layer.SECCOMP, Layer.RIGHTS),
    _attack("sets_clock", Layer.SECCOMP, Layer.RIGHTS),
    _attack("gains_root", Layer.USER),
    _attack("runs_setuid", Layer.NO_NEW_PRIVILEGES),
    _attack("writes_kernel", Layer.NO_CONTROL_FILES, Layer.USER),
    _attack("writes_sysctl", Layer.READ_ONLY, Layer.USER),
    _attack("writes_tree", Layer.READ_ONLY),
    _attack("patches_environment", Layer.READ_ONLY),
    _attack("traces", Layer.SECCOMP, Layer.NOT_DUMPABLE),
    _attack("reads_supervisor", Layer.NOT_DUMPABLE),
    _attack("remembers", Layer.SCRATCH),
    _attack("leaves_messages", Layer.SECCOMP, Layer.IPC),
    _attack("raises_limits", Layer.RLIMITS),
)

# Those that take more than their share: tests/test_attacks_exhaust.py.
EXHAUSTING = (
    _attack("makes_children", Layer.PROCESS_LIMIT),
    _attack("starts_threads", Layer.PROCESS_LIMIT),
    _attack("forks", Layer.PROCESSES, Layer.GROUP_KILL, no_control="leaves_daemons is it, with one process that stays"),
    _attack("leaves_daemons", Layer.PROCESSES, Layer.GROUP_KILL),
    _attack("kills_supervisor", Layer.PROCESSES),
    _attack("opens_files", Layer.RLIMITS),
    _attack("fills", Layer.SCRATCH_LIMIT),
    _attack("fills_memory", Layer.MEMORY_LIMIT),
    _attack("fills_log", Layer.LOG_LIMIT),
    _attack("scratch_is_full", Layer.JUDGEMENT, no_control="its own exception is told; nothing is lifted"),
    _attack("hangs", Layer.CALL_LIMIT),
    _attack("hangs_at_import", Layer.LOAD_LIMIT),
    _attack("exits", Layer.JUDGEMENT, no_control="a status means nothing to anybody outside"),
)
# Those that return, or pretend, what they should not: tests/test_attacks_lie.py and tests/test_witness.py.
LYING = (
    _attack("neighbours", Layer.SEARCH_PATH),
    _attack("patches_scorer", Layer.OWN_PROCESS),
    _attack("odd_tensors", Layer.CONTRACT),
    _attack("odd_layouts", Layer.CONTRACT, no_control="all of it is allowed, and must be read right"),
    _attack("odd_names", Layer.CONTRACT, no_control="the names stand in its file; what is not listed is not shown"),
    _attack("metaclass", Layer.CONTRACT, no_control="whatever raises is caught; there is no bound to lift"),
    _attack("leaves_at_import", Layer.JUDGEMENT, no_control="a status means nothing to anybody outside"),
    _attack("shouts", Layer.CONTRACT, no_control="its ten megabytes stand in its file; what is shown is short"),
    _attack("forged_name", Layer.CONTRACT),
    _attack("another_size", Layer.CONTRACT),
    _attack("kills_itself", Layer.JUDGEMENT, no_control="one kill counts as ours; test_worker.py counts them"),
    _attack("blames_machine", Layer.JUDGEMENT),
    _attack("counts_calls", Layer.WITNESS),
    _attack("counts_in_scratch", Layer.WITNESS),
    _attack("peeks", Layer.WITNESS),
    _attack("late_counts", Layer.WITNESS),
    _attack("late_clock", Layer.WITNESS),
    _attack("late_neighbours", Layer.WITNESS),
    _attack("late_remembers", Layer.WITNESS),
)
# Those that write to the server's connection themselves: tests/test_attacks_wire.py.
WRITING = (
    _attack("floods", Layer.WIRE),
    _attack("deep_json", Layer.WIRE),
    _attack("endless_header", Layer.WIRE),
    _attack("trickles", Layer.WIRE),
    _attack("pickles", Layer.WIRE),
    _attack("sends_files", Layer.WIRE),
    _attack("answers_ahead", Layer.WIRE, no_control="it gains nothing: its answers are to other clips"),
    _attack("talks_garbage", Layer.WIRE, no_control="without the first check the next refuses it"),
    _attack("cuts_answer", Layer.WIRE, no_control="half an answer is none"),
    _attack("wrong_count", Layer.WIRE, no_control="numbers that did not come cannot be read"),
)
ATTACKS = (*PEEKING, *EXHAUSTING, *LYING, *WRITING)
# Files beside them that the others share.
PARTS = ("honest", "spy", "line")
