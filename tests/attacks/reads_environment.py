"""Tries to find secrets in the environment: its own, and that of every process it can see."""

import contextlib
import os
from pathlib import Path

import spy

SECRET = spy.KNOWN["secret_name"]


def its_own():
    return SECRET in os.environ


def anybodys():
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if SECRET.encode() in path.read_bytes():
                return True
    return False


class EnvironmentEncoder(spy.Spy):
    attempts = (its_own, anybodys)
