"""Tries to reach disks and memory by device nodes of its own."""

import os
import stat
from pathlib import Path

import spy


def made():
    node = Path("/tmp/disk")
    os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    node.unlink()
    return True


class DeviceEncoder(spy.Spy):
    attempts = (made,)
