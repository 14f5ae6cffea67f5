"""Tries what lets code look into or race with the kernel: performance counters, user fault handling."""

import ctypes
import os
import struct

import spy

PERF_EVENT_OPEN, USERFAULTFD, USER_MODE_ONLY = 298, 323, 1


def counters():
    attributes = bytearray(128)
    struct.pack_into("=II", attributes, 0, 1, 128)
    struct.pack_into("=Q", attributes, 40, (1 << 5) | (1 << 6))  # not of the kernel, nor of a hypervisor
    given = (ctypes.c_char * 128).from_buffer(attributes)
    os.close(spy.called(PERF_EVENT_OPEN, given, 0, -1, ctypes.c_long(-1), 0))
    return True


def faults():
    os.close(spy.called(USERFAULTFD, USER_MODE_ONLY))
    return True


class KernelEncoder(spy.Spy):
    attempts = (counters, faults)
