"""Tries to look into other processes of the machine, another submission's encoder among them: command lines,
environment, memory, open files.
"""

from pathlib import Path

import spy

OTHER = Path(f"/proc/{spy.KNOWN['pid']}")
SECRET = spy.KNOWN["marker"].encode()


def command_lines():
    return any(SECRET in (path / "cmdline").read_bytes() for path in Path("/proc").glob("[0-9]*"))


def environment():
    return SECRET in (OTHER / "environ").read_bytes()


def memory():
    for line in (OTHER / "maps").read_text().splitlines():
        if line.endswith("[stack]"):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            with (OTHER / "mem").open("rb") as file:
                file.seek(start)
                return SECRET in file.read(end - start)
    return False


def open_files():
    return len(list((OTHER / "fd").iterdir()))


class LookingEncoder(spy.Spy):
    attempts = (command_lines, environment, memory, open_files)
