"""Tries to leave its bounds by a program that lies on no disk: what runs from memory may do no more than it may."""

import os
from pathlib import Path

import spy


def program_gets(number):
    """Exit code of `sh` run from memory: 0 as long as it could be read and started."""
    file = os.memfd_create("program")
    os.write(file, Path("/bin/sh").read_bytes())
    pid = os.fork()
    if pid == 0:
        script = f"test -r {spy.KNOWN['labels']} && exit 7; exit 8"
        os.execve(f"/proc/self/fd/{file}", ["sh", "-c", script], {})
    os.close(file)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number


def reads_labels():
    return program_gets(7)


class MemoryEncoder(spy.Spy):
    attempts = (reads_labels,)
