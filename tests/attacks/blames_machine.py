"""Tries to have its own failure written down as the organizer's, and be repeated for ever: says what engines, disks,
drivers and ranker itself say when they fail, as exceptions and in the log; a kind for each call.
"""

import errno
import os
import sys

import honest

WORDS = (
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error",
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    "the encoder server was killed while it encoded, without a limit being reached",
)


class InfraError(Exception):
    """Called like one of the organizer's own."""


KINDS = [
    *(RuntimeError(words) for words in WORDS),
    OSError(errno.ENOSPC, "No space left on device"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    InfraError("this machine failed"),
    KeyboardInterrupt(),
    SystemExit(137),
]


class BlamingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        how = int(audio[0, 0])
        if how < len(KINDS):
            raise KINDS[how]
        sys.stdout.write("\n".join((*WORDS, "Out of memory: Killed process 1 (python)", "signal SIGKILL\n")))
        sys.stdout.flush()
        os._exit(137)
