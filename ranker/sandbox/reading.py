"""Runs a program of ours on one file of somebody else's: the program may turn against us, and it may never end.

Confined by bubblewrap where that works (no network, nothing to see but Python, nothing to write to, the seccomp
filter); and always in a process without a right to fork or to write files, with little memory and processor time.
The program is one file that needs the standard library and installed packages alone. It gets the other file as its
standard input, and sets its own limits before it reads a byte of that: `ranker/intake/report_reader.py` is one.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import InfraError
from ranker.sandbox import seccomp
from ranker.sandbox.bubblewrap import Bubblewrap, folders_above, namespaces, system_links
from ranker.sandbox.environment import UID, covered, python_folders

PROGRAM = "/reader/program.py"
_PART = 65536


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the program printed (its errors, too), cut off at the bound, and how it ended. `exit_code` is None where it
    was killed for printing or running too long.
    """

    output: bytes
    exit_code: int | None
    confined: bool


def read_confined(
    program: Path,
    file: Path,
    arguments: Sequence[str] = (),
    *,
    wall_s: float,
    max_output: int,
    hidden: Path | None = None,
    confine: bool = True,
) -> Reading:
    """Run `program` on `file`; `hidden` is a folder that must not be seen inside. Raises InfraError if nothing starts.

    `confine` False: never by bubblewrap, as where there is none.
    """
    confined = confine and Bubblewrap().available().ok
    with _command(program, arguments, hidden, confined=confined) as (command, files), file.open("rb") as content:
        try:
            process = subprocess.Popen(
                command,
                stdin=content,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
                cwd="/",
                pass_fds=files,
                start_new_session=True,
            )
        except OSError as error:
            raise InfraError(f"the reader of {file} cannot be started: {error}") from error
        with process:
            try:
                output, is_over = _collect(process, time.monotonic() + wall_s, max_output)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return Reading(output=output, exit_code=process.wait() if is_over else None, confined=confined)


def _collect(process: subprocess.Popen[bytes], deadline: float, max_output: int) -> tuple[bytes, bool]:
    """What it prints until it ends; False: it went beyond one of the bounds."""
    assert process.stdout is not None
    stream, output = process.stdout.fileno(), b""
    while select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(stream, _PART)
        if not part:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
                return output, True
            return output, False
        output += part
        if len(output) > max_output:
            return output[:max_output], False
    return output, False


@contextmanager
def _command(
    program: Path, arguments: Sequence[str], hidden: Path | None, *, confined: bool
) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """The command, and the descriptors that it needs. As root, the program leaves root by itself."""
    step_down = [str(UID)] if os.geteuid() == 0 else ["-"]
    python = [sys.executable, "-I", "-W", "ignore"]
    if not confined:
        yield [*python, str(program), *step_down, *arguments], ()
        return
    folders = python_folders()
    flags = [*namespaces(), *system_links()]
    flags += folders_above([*folders, Path("/etc"), Path(PROGRAM).parent])
    shown = [(folder, ["--ro-bind", str(folder), str(folder)]) for folder in folders]
    shown += [(folder, ["--tmpfs", str(folder)]) for folder in covered(folders, hidden)]
    for _, mount in sorted(shown, key=lambda pair: len(pair[0].parts)):
        flags += mount
    flags += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind", str(program), PROGRAM]
    filter_file = seccomp.compiled_filter()
    try:
        flags += ["--remount-ro", "/", "--chdir", "/", "--seccomp", str(filter_file)]
        yield [*flags, *python, PROGRAM, *step_down, *arguments], (filter_file,)
    finally:
        os.close(filter_file)
