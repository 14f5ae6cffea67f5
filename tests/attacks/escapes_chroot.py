"""Tries the old way out of a changed root: an open folder, another chroot below it, and up again."""

import os
from pathlib import Path

import spy


def climbs():
    inner = Path("/tmp/inner")
    inner.mkdir(exist_ok=True)
    top = os.open("/", os.O_RDONLY)
    os.chroot(inner)
    os.fchdir(top)
    return True


def out():
    return spy.in_a_child(climbs)


class ClimbingEncoder(spy.Spy):
    attempts = (out,)
