"""The compiled filter, simulated: what each system call would get on x86_64 and on aarch64, of which only one is here.

The kernel runs a filter as a small program over the number of a call, the machine's name and the arguments
(seccomp_data of linux/seccomp.h). So does `verdict`, which is all that is needed to look at every call on any machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from ranker.sandbox import seccomp
from ranker.sandbox.seccomp import Architecture

ROOT = Path(__file__).parent.parent
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
I386, ARM, X32_BIT = 0x40000003, 0x40000028, 0x40000000
INSTRUCTION = struct.Struct("=HBBI")
Program = tuple[tuple[int, int, int, int], ...]

# Numbers from the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
NUMBERS = {
    Architecture.X86_64: {
        "read": 0, "openat": 257, "mmap": 9, "execve": 59, "futex": 202, "exit_group": 231, "ioctl": 16,
        "clone": 56, "clone3": 435, "socket": 41, "socketpair": 53,
        "ptrace": 101, "mount": 165, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250, "io_uring_setup": 425,
        "perf_event_open": 298, "process_vm_readv": 310, "userfaultfd": 323, "init_module": 175, "kexec_load": 246,
        "pivot_root": 155, "chroot": 161, "personality": 135, "mknod": 133, "open_by_handle_at": 304, "seccomp": 317,
    },
    Architecture.AARCH64: {
        "read": 63, "openat": 56, "mmap": 222, "execve": 221, "futex": 98, "exit_group": 94, "ioctl": 29,
        "clone": 220, "clone3": 435, "socket": 198, "socketpair": 199,
        "ptrace": 117, "mount": 40, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219, "io_uring_setup": 425,
        "perf_event_open": 241, "process_vm_readv": 270, "userfaultfd": 282, "init_module": 105, "kexec_load": 104,
        "pivot_root": 41, "chroot": 51, "personality": 92, "mknodat": 33, "open_by_handle_at": 265, "seccomp": 277,
    },
}  # fmt: skip
NEEDED = ("read", "openat", "mmap", "execve", "futex", "exit_group", "ioctl")
RULED = ("clone", "clone3", "socket", "socketpair")


def program(architecture: Architecture, *, internet: bool = False) -> Program:
    file = seccomp.compiled_filter(architecture=architecture, internet=internet)
    with os.fdopen(file, "rb") as stream:
        return tuple(INSTRUCTION.iter_unpack(stream.read()))


def verdict(program: Program, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter returns for one call: a machine with one register, as in the kernel's net/core/filter.c."""
    given = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=iIQ6Q", number - 2**32 * (number >= 2**31), architecture, 0, *given)
    register, place = 0, 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        match code:
            case 0x20:  # load a word
                (register,) = struct.unpack_from("=I", data, value)
            case 0x54:  # and
                register &= value
            case 0x05:  # jump
                place += value
            case 0x15 | 0x25 | 0x35 | 0x45:  # equal, greater, not less, any bit
                true = {0x15: register == value, 0x25: register > value, 0x35: register >= value}
                place += yes if true.get(code, bool(register & value)) else no
            case 0x06:  # return
                return value
            case _:
                raise AssertionError(f"instruction {code:#x} is not known here")


def names(architecture: Architecture) -> Iterator[tuple[int, str]]:
    """Every call that libseccomp knows on that machine."""
    library = seccomp.library()
    resolve = library.seccomp_syscall_resolve_num_arch
    resolve.restype, resolve.argtypes = ctypes.c_void_p, [ctypes.c_uint32, ctypes.c_int]
    for number in range(1024):
        address = resolve(architecture, number)
        if address:
            yield number, ctypes.string_at(address).decode()


@pytest.fixture(scope="module", params=list(Architecture), ids=lambda each: each.name)
def built(request: pytest.FixtureRequest) -> tuple[Architecture, Program]:
    return request.param, program(request.param)


def test_the_profile_is_what_its_script_writes() -> None:
    """A profile edited by hand would lose the reasons why each call is in it; each rule has one."""
    made = subprocess.run(
        [sys.executable, "docker/make_seccomp.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (ROOT / "docker/seccomp.json").read_text(encoding="utf-8") == made.stdout
    rules = json.loads(made.stdout)["syscalls"]
    assert len(rules) > 10
    assert all(len(rule["comment"]) > 20 for rule in rules)


def test_exactly_the_listed_calls_are_allowed(built: tuple[Architecture, Program]) -> None:
    """Every call of the machine, by name: allowed if the profile lists it without conditions, else refused."""
    architecture, filter_ = built
    rules = seccomp.profile()["syscalls"]
    listed = {name for rule in rules if "args" not in rule and "errnoRet" not in rule for name in rule["names"]}
    seen = dict(names(architecture))
    assert len(seen) > 250
    wrong = {
        name: hex(verdict(filter_, number, architecture))
        for number, name in seen.items()
        if name not in RULED and verdict(filter_, number, architecture) != (ALLOW if name in listed else EPERM)
    }
    assert wrong == {}
    assert len(listed & set(seen.values())) > 150


def test_numbers_from_the_kernels_own_tables(built: tuple[Architecture, Program]) -> None:
    """The library could be wrong about a machine that is not here: what is needed, and what is dangerous, by number."""
    architecture, filter_ = built
    known = NUMBERS[architecture]
    allowed = {name for name, number in known.items() if verdict(filter_, number, architecture) == ALLOW}
    assert {name for name in known if name not in RULED} - allowed == set(known) - set(NEEDED) - set(RULED)
    assert set(NEEDED) <= allowed
    assert verdict(filter_, known["clone3"], architecture) == ENOSYS


def test_other_abis_of_the_machine_kill(built: tuple[Architecture, Program]) -> None:
    """32-bit x86, x32, ARM and any other machine's calls end the process, whatever they ask for."""
    architecture, filter_ = built
    others = {I386, ARM, *Architecture, 0} - {architecture}
    found = {verdict(filter_, number, other) for other, number in product(others, range(450))}
    assert found == {KILL}
    if architecture is Architecture.X86_64:
        assert {verdict(filter_, X32_BIT | number, architecture) for number in range(550)} == {KILL}


def test_sockets_are_local_only(built: tuple[Architecture, Program]) -> None:
    """All of 64 families but AF_UNIX are refused, and so is AF_UNIX with bits above it set."""
    architecture, filter_ = built
    for name in ("socket", "socketpair"):
        number = NUMBERS[architecture][name]
        allowed = [family for family in range(64) if verdict(filter_, number, architecture, (family, 1, 0)) == ALLOW]
        assert allowed == [1]
        assert verdict(filter_, number, architecture, (2**32 + 2, 1, 0)) == EPERM
        assert verdict(filter_, number, architecture, (2**64 - 1, 1, 0)) == EPERM


def test_with_a_door_to_the_internet_there_is_tcp_and_no_more(built: tuple[Architecture, Program]) -> None:
    """For a sandbox that may fetch weights: AF_INET streams beside AF_UNIX; no datagrams, raw sockets, other family."""
    architecture, _ = built
    filter_ = program(architecture, internet=True)
    number = NUMBERS[architecture]["socket"]
    flags = (0, 0o2000000, 0o4000, 0o2004000)  # SOCK_CLOEXEC, SOCK_NONBLOCK
    allowed = {
        (family, kind)
        for family, kind, flag in product(range(64), range(16), flags)
        if family != 1 and verdict(filter_, number, architecture, (family, kind | flag, 0)) == ALLOW
    }
    assert allowed == {(2, 1)}
    assert verdict(filter_, NUMBERS[architecture]["socketpair"], architecture, (2, 1, 0)) == EPERM


def test_threads_but_no_namespaces(built: tuple[Architecture, Program]) -> None:
    """The flags of a thread and of a fork pass; any flag for a new namespace is refused, alone or among others."""
    architecture, filter_ = built
    number = NUMBERS[architecture]["clone"]
    thread, fork = 0x3D0F00, 0x1200011
    assert [verdict(filter_, number, architecture, (flags,)) for flags in (thread, fork)] == [ALLOW, ALLOW]
    spaces = {"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
              "pid": 0x20000000, "net": 0x40000000}  # fmt: skip
    found = {verdict(filter_, number, architecture, (flag | other,)) for flag in spaces.values() for other in (0, fork)}
    assert found == {EPERM}


def test_the_kernel_agrees_with_the_simulation(bubblewrap: object) -> None:
    """On the machine that is here, calls under the real filter get what the simulation says."""
    native = Architecture(seccomp.library().seccomp_arch_native())
    filter_ = program(native)
    asked = {
        name: number
        for name, number in NUMBERS[native].items()
        if name in {"ptrace", "keyctl", "bpf", "clone3", "unshare"}
    }
    script = (
        "import ctypes, json; c = ctypes.CDLL(None, use_errno=True)\n"
        f"print(json.dumps([[n, c.syscall(n, *[0] * 6), ctypes.get_errno()] for n in {sorted(asked.values())}]))"
    )
    file = seccomp.compiled_filter()
    try:
        words = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--seccomp", str(file), sys.executable, "-c", script]
        answer = subprocess.run(words, pass_fds=(file,), capture_output=True, text=True, check=True)
    finally:
        os.close(file)
    found = {number: 0x00050000 | error for number, result, error in json.loads(answer.stdout) if result == -1}
    assert found == {number: verdict(filter_, number, native) for number in asked.values()}
    assert len(found) == 5
