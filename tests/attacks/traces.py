"""Tries to take over the process that watches it: ptrace(2), process_vm_readv(2)."""

import ctypes
import os
from pathlib import Path

import spy

PTRACE, VM_READ, SEIZE = 101, 310, 0x4206


class Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def reads():
    """Where a forked process has Python's program, its parent has it too."""
    start = int(Path("/proc/self/maps").read_text().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(16)
    here, there = Part(ctypes.addressof(buffer), 16), Part(start, 16)
    return spy.called(VM_READ, os.getppid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0


def seizes():
    watcher = os.getppid()
    return spy.in_a_child(lambda: spy.called(PTRACE, SEIZE, watcher, 0, 0) == 0)


class TracingEncoder(spy.Spy):
    attempts = (seizes, reads)
