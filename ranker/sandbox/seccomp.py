"""Compiles docker/seccomp.json to a kernel filter for bubblewrap, through the system's libseccomp (Docker does it
itself).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
from enum import IntEnum
from pathlib import Path
from typing import Any

from ranker.errors import MissingError
from ranker.home import asset

# libseccomp's seccomp.h
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_ATTRIBUTE_BAD_ARCHITECTURE = 2
_COMPARE = {"SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_EPERM = 1
_UNKNOWN_CALL = -1
_AF_INET = 2
_SOCK_STREAM = 1
_SOCK_TYPE_MASK = 0xF  # without SOCK_CLOEXEC and SOCK_NONBLOCK


class Architecture(IntEnum):
    """The machines that the profile is for; the values are the kernel's (AUDIT_ARCH_* of linux/audit.h)."""

    X86_64 = 0xC000003E
    AARCH64 = 0xC00000B7


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("value_two", ctypes.c_uint64),
    )


def profile_path() -> Path:
    """The profile that both backends use."""
    return asset("docker") / "seccomp.json"


def profile(*, internet: bool = False) -> dict[str, Any]:
    """The profile's rules; `internet`: with TCP, for a sandbox whose own empty network holds nothing but our door."""
    found: dict[str, Any] = json.loads(profile_path().read_text(encoding="utf-8"))
    if internet:
        only_tcp = [
            {"index": 0, "value": _AF_INET, "valueTwo": 0, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": _SOCK_TYPE_MASK, "valueTwo": _SOCK_STREAM, "op": "SCMP_CMP_MASKED_EQ"},
        ]
        found["syscalls"].append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": only_tcp})
    return found


def profile_text(*, internet: bool = False) -> str:
    """The same as Docker wants it."""
    return json.dumps(profile(internet=internet))


def library() -> ctypes.CDLL:
    """The system's libseccomp. Raises MissingError."""
    try:
        found = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    except OSError:
        raise MissingError("libseccomp is missing; install the system's package libseccomp2") from None
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    found.seccomp_release.argtypes = [ctypes.c_void_p]
    found.seccomp_arch_native.restype = ctypes.c_uint32
    found.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    found.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    found.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    found.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    found.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    found.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return found


def compiled_filter(*, internet: bool = False, architecture: Architecture | None = None) -> int:
    """An open file, its descriptor at the start of the compiled profile; the caller closes it. Raises MissingError.

    `architecture`: another machine than this one. Calls through any ABI but the machine's own 64-bit one kill the
    process.
    """
    rules = profile(internet=internet)["syscalls"]
    lib = library()
    native = lib.seccomp_arch_native()
    if native not in set(Architecture):
        known = " and ".join(each.name.lower() for each in Architecture)
        raise MissingError(
            f"docker/seccomp.json is for {known}; this machine is neither, so nothing can be confined here"
        )
    context = lib.seccomp_init(_ERRNO | _EPERM)
    try:
        if architecture not in {None, native}:
            _must(lib.seccomp_arch_add(context, architecture), "seccomp_arch_add")
            _must(lib.seccomp_arch_remove(context, native), "seccomp_arch_remove")
        _must(lib.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCHITECTURE, _KILL_PROCESS), "seccomp_attr_set")
        for rule in rules:
            _add(lib, context, rule)
        file = os.memfd_create("seccomp")
        _must(lib.seccomp_export_bpf(context, file), "seccomp_export_bpf")
        os.lseek(file, 0, os.SEEK_SET)
        return file
    finally:
        lib.seccomp_release(context)


def _add(lib: ctypes.CDLL, context: int, rule: dict[str, Any]) -> None:
    action = _ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else _ERRNO | rule["errnoRet"]
    arguments = rule.get("args", [])
    comparisons = (_Comparison * len(arguments))(
        *(_Comparison(a["index"], _COMPARE[a["op"]], a["value"], a["valueTwo"]) for a in arguments)
    )
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        # A number below zero stands for a call that some other architecture has; that it has none, for one that this
        # libseccomp is too old to know.
        if number != _UNKNOWN_CALL:
            _must(
                lib.seccomp_rule_add_array(context, action, number, len(arguments), comparisons), f"a rule for {name}"
            )


def _must(code: int, what: str) -> None:
    if code < 0:
        raise MissingError(f"libseccomp refuses {what}: {os.strerror(-code)}; libseccomp 2.4 or newer is needed")
