"""Tries to use files that its parents left open, and to climb from an open folder to the rest of the disk."""

import os
from pathlib import Path

import spy


def a_file_of_ours():
    for number in range(3, 64):
        try:
            if b"dog" in os.pread(number, 1000, 0):
                return True
        except OSError:
            pass
    return False


def an_open_folder():
    return any(Path(f"/proc/self/fd/{number}").is_dir() for number in range(3, 64))


class InheritingEncoder(spy.Spy):
    attempts = (a_file_of_ours, an_open_folder)
