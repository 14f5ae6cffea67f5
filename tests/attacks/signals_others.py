"""Tries to disturb other processes of the machine, another submission's encoder among them: signals, process
descriptors, processor affinity, limits.
"""

import os
import resource
import signal
from pathlib import Path

import spy

OTHER = spy.KNOWN["pid"]


def is_the_one():
    """A small number may be somebody's in any namespace."""
    return spy.KNOWN["marker"] in Path(f"/proc/{OTHER}/cmdline").read_text()


def a_signal():
    os.kill(OTHER, signal.SIGCONT)
    return is_the_one()


def a_process_descriptor():
    os.close(os.pidfd_open(OTHER))
    return is_the_one()


def affinity():
    os.sched_setaffinity(OTHER, os.sched_getaffinity(OTHER))
    return is_the_one()


def limits():
    resource.prlimit(OTHER, resource.RLIMIT_CORE, (0, 0))
    return is_the_one()


class DisturbingEncoder(spy.Spy):
    attempts = (a_signal, a_process_descriptor, affinity, limits)
