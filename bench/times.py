"""How long the README's commands take on a fresh clone with a fresh home folder: writes docs/results/times.md.

    python bench/times.py [--out docs/results/times.md]

Absolute times of one run on one machine: they say what to expect, and are compared with nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = ("make demo", "make demo", "make test")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "times.md")
    out = parser.parse_args().out
    rows = []
    with tempfile.TemporaryDirectory(prefix="ranker-times-") as folder:
        clone, home = Path(folder) / "ranker", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout.strip()
        # A fresh home; only where pip finds packages is kept.
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RANKER", "PYTHON", "VIRTUAL"))
        }
        environment = kept | {"HOME": str(home), "CI": "true"}
        for number, command in enumerate(COMMANDS):
            log = Path(folder) / f"{number}.log"
            started = time.monotonic()
            with log.open("w") as stream:
                done = subprocess.run(
                    command.split(), cwd=clone, env=environment, stdout=stream, stderr=subprocess.STDOUT, check=False
                )
            rows.append((command, time.monotonic() - started, done.returncode, last_words(log)))
            print(*rows[-1], flush=True)
            if done.returncode:
                print(log.read_text()[-4000:])
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# How long the README's commands take",
        "",
        f"Written by `python bench/times.py` on {datetime.now(UTC):%Y-%m-%d}, from a fresh clone of `{commit}` with",
        f"a fresh home folder: Python {platform.python_version()}, {platform.machine()}, {cores} cores, no GPU.",
        "One run each.",
        "",
        "| command | minutes | ended with | its last words |",
        "| --- | --- | --- | --- |",
    ]
    for number, (command, seconds, code, words) in enumerate(rows):
        again = " (again)" if command in COMMANDS[:number] else ""
        lines.append(
            f"| `{command}`{again} | {seconds / 60:.1f} | {'success' if code == 0 else f'exit {code}'} | {words} |"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return max(code for _, _, code, _ in rows)


def last_words(log: Path) -> str:
    """The last line of a log that says something, without what is particular to the folder it ran in."""
    lines = [line.strip(" =") for line in log.read_text(errors="replace").splitlines() if line.strip(" =")]
    words = re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else ""
    return re.sub(r"/\S*/ranker/", "", words).replace("|", "\\|")[:80]


if __name__ == "__main__":
    sys.exit(main())
