"""Tries to change the kernel's settings, such as the program that it runs for a crash outside of all namespaces."""

from pathlib import Path

import spy


def same_again(path):
    file = Path(path)
    return file.write_text(file.read_text())


def core_pattern():
    return same_again("/proc/sys/kernel/core_pattern")


def hostname():
    return same_again("/proc/sys/kernel/hostname")


class SysctlEncoder(spy.Spy):
    attempts = (core_pattern, hostname)
