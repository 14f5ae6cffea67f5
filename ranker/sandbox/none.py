"""No confinement: the encoder server as a plain process of the same user. For one's own code only, and only when
asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranker.sandbox.base import Availability
from ranker.sandbox.child import running
from ranker.sandbox.client import Confined
from ranker.sandbox.environment import OUTPUT, Launch
from ranker.sandbox.owner import SCRATCH_PREFIX, make_folder
from ranker.sandbox.serving import ServedSandbox
from ranker.types import SandboxName


class NoSandbox(ServedSandbox):
    """The same server and client, and the same environment variables, but nothing that would stop hostile code."""

    name = SandboxName.NONE

    def __init__(self, *, hidden: Path | None = None, python: Path | None = None) -> None:
        """`python`: another interpreter for the server than our own, with torch and numpy of its own."""
        super().__init__(hidden=hidden)
        self._python = str(python) if python is not None else sys.executable

    def available(self) -> Availability:
        """Always."""
        return Availability(ok=True, version="no confinement")

    def gaps(self) -> tuple[str, ...]:
        """See `ServedSandbox.gaps`."""
        return ("nothing is limited, and nothing is out of reach",)

    @contextmanager
    def launch(self, launch: Launch) -> Iterator[Confined]:
        """Start the server as a child process; memory, processes and files are not limited."""
        with make_folder(launch.hidden, prefix=SCRATCH_PREFIX) as scratch:
            command = launch.command(self._python, confined=False)
            environment = {"TMPDIR": scratch, **launch.environment(confined=False), "HOME": scratch}
            folder = scratch if launch.program is None else launch.seen(OUTPUT, confined=False)
            with running(
                command,
                environment=environment,
                folder=Path(folder),
                log_bytes=launch.limits.log_kb * 1024,
                log_file=launch.log_file,
            ) as child:
                yield child
