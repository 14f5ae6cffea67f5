"""No attack, but what many of them share: what the test told them to look for, and how they tell it what they got."""

import ctypes
import json
import os
import sys
from pathlib import Path

import honest
import torch

KNOWN = json.loads(Path(__file__).with_name("known.json").read_text())
RAN = 100.0
LIBC = ctypes.CDLL(None, use_errno=True)


def outcome(attempt):
    """What an attempt returned, as a number; 0 if it raised anything."""
    try:
        return float(attempt() or 0)
    except BaseException as error:  # noqa: BLE001  whatever stops an attempt, the next is made
        sys.stdout.write(f"{attempt.__name__}: {error!r}\n")
        return 0.0


def called(number, *arguments):
    """The result of a system call by its number. Raises OSError."""
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def in_a_child(attempt):
    """What an attempt returns (0 to 255) in a forked process, so that it may be killed, or change what cannot be
    changed back.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(attempt() or 0))
        except BaseException as error:  # noqa: BLE001  the same in a child
            sys.stdout.write(f"{attempt.__name__}: {error!r}\n")
            sys.stdout.flush()
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return max(code, 0)


class Spy(honest.HonestEncoder):
    """Its features are what its attempts returned, and in the last place 100 and how many they were."""

    attempts = ()

    def forward(self, audio, mask=None):
        found = [outcome(attempt) for attempt in self.attempts]
        found += [0.0] * (15 - len(found)) + [RAN + len(found)]
        return torch.tensor([[found]]), None
