"""Tries to take all processes of the machine: as many children as it gets, up to a hundred, and tells how many."""

import os
import signal

import spy


def children():
    found = []
    try:
        while len(found) < 100:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            found.append(pid)
    except OSError:
        pass
    for pid in found:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(found)


class ChildrenEncoder(spy.Spy):
    attempts = (children,)
