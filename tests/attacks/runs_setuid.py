"""Tries to become root by a program that the system gives root's rights to: umount, stopped in its first output."""

import fcntl
import os
import subprocess
import time
from pathlib import Path

import spy

PROGRAM = "/usr/bin/umount"
F_SETPIPE_SZ = 1031


def effective_root():
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(size))
    child = subprocess.Popen([PROGRAM, "--help"], stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    try:
        while child.poll() is None:
            status = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
            if status["Name"].strip() == "umount" and status["State"].split()[0] == "S":
                return status["Uid"].split()[1] == "0"
            time.sleep(0.01)
        return False
    finally:
        os.close(reader)
        child.wait()


class SetuidEncoder(spy.Spy):
    attempts = (effective_root,)
