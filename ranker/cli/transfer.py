"""How far a download is: bytes, files, speed and time left on a terminal, one line per step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from ranker.data.fetch import Transfer


class TransferDisplay:
    """A bar per step. Use as a context; `step` and `transfer` are what a fetch reports to."""

    def __init__(self, console: Console, verb: str = "fetching") -> None:
        self._console = console
        self._verb = verb
        self._bar: TaskID | None = None
        self._begun = False
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TextColumn("{task.fields[files]}", markup=False),
            TransferSpeedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> TransferDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, name: str) -> None:
        """What is fetched next."""
        if not self._console.is_terminal:
            self._console.print(Text(f"{self._verb} {name}"))
        self._bar = self._progress.add_task(name, total=None, files="")
        self._begun = False

    def transfer(self, state: Transfer) -> None:
        """How far that is. What was there at the first report counts for no speed."""
        if self._bar is None:
            return
        files = f"{state.files_done}/{state.files_total} files"
        if not self._begun:
            self._progress.reset(self._bar, total=state.bytes_total, completed=state.bytes_done, files=files)
            self._begun = True
        self._progress.update(self._bar, total=state.bytes_total, completed=state.bytes_done, files=files)
