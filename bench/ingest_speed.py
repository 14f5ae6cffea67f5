"""How fast submissions are taken in: writes docs/results/ingest_speed.md.

    python bench/ingest_speed.py [--count 1000] [--size-mb 20] [--batches 10] [--work DIR] [--out FILE]

Batch after batch of ZIPs is taken into one home by `ranker ingest --no-check`, as a process of its own with its
progress bar on a terminal; the same files are then unpacked by `unzip` and digested by `sha256sum`, in a shell loop;
and copied by `dd conv=fsync`, which is the disk's own speed. Who begins changes from batch to batch. Before each, the
disk is flushed (not timed), so that nobody pays for what another has left to be written. The files are what is hardest
for us: stored, not deflated, which `unzip` is quickest with, and without anything in common. They come from the page
cache for all three. Needs COUNT x SIZE of room and a fifth more; everything is deleted at the end.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ranker.durable import whole_file

ROOT = Path(__file__).parent.parent
TARGET = 1.5
SHELL = 'for f in "$1"/*.zip; do unzip -q -o "$f" -d "$2" && sha256sum "$f" >> "$2/digests" || exit 1; done'
COPY = 'for f in "$1"/*.zip; do dd if="$f" of="$2/${f##*/}" bs=1M conv=fsync status=none || exit 1; done'


@dataclass(kw_only=True)
class Times:
    """Seconds of each batch, by who did it."""

    ranker: list[float]
    tools: list[float]
    copy: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="submissions in all")
    parser.add_argument("--size-mb", type=int, default=20, help="of each, in 10^6 bytes")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--work", type=Path, help="a folder on the disk that is measured; default: a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "ingest_speed.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ingest-speed-", dir=given.work) as folder:
        times, taken = measure(Path(folder), given.count, given.size_mb * 10**6, given.batches)
    if taken != given.count:
        sys.exit(f"{taken} submissions were recorded; expected {given.count}")
    with whole_file(given.out) as out:
        out.write_text(report(times, given.count, given.size_mb), encoding="utf-8")
    print(given.out)
    return 0


def measure(folder: Path, count: int, size: int, batches: int) -> tuple[Times, int]:
    """Take turns, batch by batch; the seconds, and how many submissions are recorded at the end."""
    home, block = folder / "home", random.Random(0).randbytes(size)
    times = Times(ranker=[], tools=[], copy=[])
    columns = (TextColumn("batches"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for number in progress.track(range(batches)):
            handed = folder / "handed"
            pack(handed, block, range(count * number // batches, count * (number + 1) // batches))
            turns = [
                (times.ranker, timed_ingest, (home, handed)),
                (times.tools, timed_shell, (SHELL, handed, folder / "unpacked")),
                (times.copy, timed_shell, (COPY, handed, folder / "copied")),
            ]
            for seconds, turn, arguments in turns[number % 3 :] + turns[: number % 3]:
                seconds.append(turn(*arguments))
            shutil.rmtree(handed)
    with closing(sqlite3.connect(home / "ranker.db")) as database:
        (taken,) = database.execute(
            "SELECT count(*) FROM submission JOIN job ON submission_id = submission.id"
        ).fetchone()
    return times, taken


def pack(folder: Path, block: bytes, numbers: range) -> None:
    """ZIPs that look like a repository with weights; each begins elsewhere in the same random block."""
    folder.mkdir()
    for number in numbers:
        shift = number * 4099 % len(block)
        with zipfile.ZipFile(folder / f"team{number:05d}.zip", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(f"team{number:05d}/encoder.py", f"NUMBER = {number}\n")
            with archive.open(f"team{number:05d}/model.safetensors", "w") as entry:
                entry.write(memoryview(block)[shift:])
                entry.write(memoryview(block)[:shift])


def timed_ingest(home: Path, handed: Path) -> float:
    """Seconds of `ranker ingest --no-check` of a folder, all of its process, with its bar on a terminal of its own."""
    terminal, side = pty.openpty()
    drain = threading.Thread(target=_drain, args=[terminal], daemon=True)
    drain.start()
    command = [sys.executable, "-m", "ranker", "--home", str(home), "ingest", "--no-check", str(handed)]
    os.sync()
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=side)
    took = time.monotonic() - began
    os.close(side)
    drain.join()
    os.close(terminal)
    return took


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:  # the other side is closed
        return


def timed_shell(script: str, handed: Path, target: Path) -> float:
    """Seconds of a shell loop over the ZIPs of a folder; what it wrote is removed."""
    target.mkdir()
    os.sync()
    began = time.monotonic()
    subprocess.run(["sh", "-c", script, "sh", str(handed), str(target)], check=True)
    took = time.monotonic() - began
    shutil.rmtree(target)
    return took


def report(times: Times, count: int, size_mb: int) -> str:
    """The page. A ratio is the median over the batches of what each took, one by the other."""
    each = count / len(times.ranker)
    ratio = statistics.median(times.ranker) / statistics.median(times.tools)
    pairs = sorted(ours / theirs for ours, theirs in zip(times.ranker, times.tools, strict=True))
    lines = [
        "# How fast submissions are taken in",
        "",
        f"Written by `python bench/ingest_speed.py` on {datetime.now(UTC):%Y-%m-%d}: {count:,} submissions of {size_mb}"
        f" MB, in {len(times.ranker)} batches, into one home; {platform.machine()}, {os.cpu_count()} cores, load of the"
        f" machine at the end {os.getloadavg()[0]:.1f}.",
        "Before each turn the disk was flushed; `ranker` and `dd` flush every file themselves, `unzip` does not.",
        "",
        "| what | median of a batch | per submission | MB/s | fastest and slowest batch |",
        "| --- | ---: | ---: | ---: | ---: |",
        row("`ranker ingest --no-check`, with its progress bar", times.ranker, each, size_mb),
        row("`unzip` and `sha256sum` of each", times.tools, each, size_mb),
        row("`dd conv=fsync` of each", times.copy, each, size_mb),
        "",
        f"`ranker ingest` by `unzip` and `sha256sum`: **{ratio:.2f}** (batch by batch {pairs[0]:.2f} to"
        f" {pairs[-1]:.2f}); at most {TARGET} was asked for: {'yes' if ratio <= TARGET else 'no'}.",
        "",
        "In the time of `ranker` are its start and its commits: a transaction for each submission, which is told as",
        "taken in only after its bytes and its row are on the disk.",
    ]
    return "\n".join(lines) + "\n"


def row(what: str, seconds: list[float], each: float, size_mb: int) -> str:
    """One line of the table."""
    median = statistics.median(seconds)
    return (
        f"| {what} | {median:.2f} s | {median / each * 1000:.0f} ms | {size_mb * each / median:.0f} |"
        f" {min(seconds):.2f} s, {max(seconds):.2f} s |"
    )


if __name__ == "__main__":
    sys.exit(main())
