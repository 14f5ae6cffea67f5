"""`ranker status --watch`: the queue as it is, again and again, until Ctrl-C."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from ranker import service as services
from ranker.cli.options import err, out
from ranker.journal import visible
from ranker.types import JobKind, Status
from ranker.watch import QUIET_S, Look, RunningJob, Trouble

INTERVAL_S = 2.0
PLAIN_INTERVAL_S = 30.0
WIDE = 100
"""Columns that the table needs; on a narrower terminal each job is a sentence."""
_MISSING = "-"


def watch(service: services.Ranker, *, as_json: bool, interval_s: float | None) -> None:
    """Show the queue until Ctrl-C, which is how one stops watching: no failure. A table on a terminal, else lines."""
    is_table = out.is_terminal and not as_json
    if interval_s is None:
        interval_s = INTERVAL_S if is_table else PLAIN_INTERVAL_S
    try:
        with service.watching() as look:
            if is_table:
                _live(look, interval_s, out)
            else:
                for seen in _ticks(look, interval_s):
                    sys.stdout.write(json.dumps(seen.to_json(), ensure_ascii=False) + "\n" if as_json else lines(seen))
                    sys.stdout.flush()
    except KeyboardInterrupt:
        pass


def _live(look: Callable[[], Look], interval_s: float, console: Console) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for seen in _ticks(look, interval_s):
            live.update(picture(seen, console.width), refresh=True)


def _ticks(look: Callable[[], Look], interval_s: float) -> Iterator[Look]:
    """A look each interval. One that fails (a locked database, a disk that is away) is told of, and does not end it."""
    while True:
        try:
            yield look()
        except (DBAPIError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            found = error.orig if isinstance(error, DBAPIError) else error
            err.print(Text(f"ranker: {found}; tried again in {interval_s:g} s"))
        time.sleep(interval_s)


def picture(seen: Look, width: int) -> RenderableType:
    """What a terminal of so many columns shows."""
    return table(seen) if width >= WIDE else _folded(lines(seen))


def table(seen: Look) -> RenderableType:
    """The whole picture: pause, running jobs, totals, troubles."""
    parts: list[RenderableType] = []
    if seen.paused is not None:
        parts.append(Panel(_folded(_pause(seen)), border_style="yellow", expand=False))
    if seen.running:
        grid = Table(box=box.SIMPLE_HEAD)
        for name in ("job", "team", "track", "stage"):
            grid.add_column(name, no_wrap=name == "job", overflow="ellipsis", max_width=24 if name == "team" else None)
        for name in ("done", "per s", "ETA", "try", "on", "GB", "beat"):
            grid.add_column(name, justify="right", no_wrap=True)
        for job in seen.running:
            grid.add_row(*_cells(job))
        parts.append(grid)
    parts.append(_folded(_totals(seen)))
    parts += [_folded(f"· {_words(trouble)}", "red" if trouble.fault else "yellow") for trouble in seen.troubles]
    return Group(*parts)


def _folded(text: str, style: str = "") -> Text:
    """A text in as many lines as it takes: the console would cut it."""
    return Text(text, style=style, no_wrap=False, overflow="fold")


def lines(seen: Look) -> str:
    """The same for a file or a pipe: a line of totals with its time, then one for each running job and each trouble."""
    found = [f"{seen.at}  {_totals(seen)}"]
    found += [f"  {_pause(seen)}"] if seen.paused is not None else []
    for job in seen.running:
        cells = [str(cell) for cell in _cells(job)]
        number, team, track, stage, done, rate, eta, attempt, device, memory, beat = cells
        told = f"{done}, {rate}/s, {eta} left" if job.rate else done
        found.append(
            f"  job {number} of {team}, {track}: {stage} {told}; attempt {attempt} on {device}, {memory} GB, "
            f"heard of {beat} ago"
        )
    found += [f"  {_words(trouble)}" for trouble in seen.troubles]
    return "\n".join(found) + "\n"


def _cells(job: RunningJob) -> list[Text]:
    stage = job.stage or "starting"
    stage += f" {job.task}" if job.task else ""
    stage += f", loss {job.loss:.3f}" if job.loss is not None else ""
    if job.quiet_s is not None and job.quiet_s > QUIET_S:
        stage += f" (still for {duration(job.quiet_s)})"
    memory = [f"{value:.1f}" for value in (job.memory_gb, job.encoder_memory_gb) if value is not None]
    beat_style = "bold red" if job.is_late else ""
    return [
        Text(str(job.job)),
        Text(visible(job.team)),
        Text(visible(job.track.removeprefix("track ")) if job.track else str(JobKind(job.kind))),
        Text(visible(stage)),
        Text(f"{job.done:,}/{job.total:,}" if job.total else _MISSING),
        Text(_MISSING if job.rate is None else f"{job.rate:.3g}"),
        Text(_MISSING if job.eta_s is None else duration(job.eta_s)),
        Text(str(job.attempt)),
        Text(_MISSING if job.device is None else short(job.device)),
        Text("+".join(memory) or _MISSING),
        Text(duration(job.beat_s), style=beat_style),
    ]


def short(device: str) -> str:
    """A GPU's UUID as far as it tells GPUs apart for people: `GPU-1a2b3c4d`."""
    return device if len(device) <= 12 else device[:12]


def duration(seconds: float) -> str:
    """`42 s`, `3:07 min`, `5:03 h` or `2.5 d`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole / 86400:.1f} d"


def _totals(seen: Look) -> str:
    counts = ", ".join(f"{count:,} {status}" for status, count in seen.counts.items() if count or status in _ALWAYS)
    oldest = "" if seen.oldest_queued_s is None else f"; the oldest has waited {duration(seen.oldest_queued_s)}"
    return f"jobs: {counts}{oldest}"


_ALWAYS = {Status.QUEUED, Status.RUNNING}


def _pause(seen: Look) -> str:
    assert seen.paused is not None
    return f"PAUSED since {seen.paused.since} by {visible(seen.paused.by)}: {visible(seen.paused.why)}"


def _words(trouble: Trouble) -> str:
    where = trouble.track or JobKind.CHECK
    what = f"failed, fault {trouble.fault}" if trouble.fault else f"to be tried again after attempt {trouble.attempt}"
    return visible(
        f"job {trouble.job} of {trouble.team}, {where}: {what}: {'; '.join(trouble.reasons)}".replace("\n", " ")
    )
