"""Tries to become root in a user namespace of its own, where mounts and much kernel code open up."""

import os

import spy

NEWUSER, NEWNS, SIGCHLD = 0x10000000, 0x00020000, 17
CLONE = 56


def by_unshare():
    return spy.in_a_child(lambda: spy.LIBC.unshare(NEWUSER | NEWNS) == 0)


def by_clone():
    """The child of a raw clone comes back here too."""
    pid = spy.called(CLONE if os.uname().machine == "x86_64" else 220, NEWUSER | SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


class NamespaceEncoder(spy.Spy):
    attempts = (by_unshare, by_clone)
