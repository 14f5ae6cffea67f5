"""The technical report: whether it is a PDF that can be read, and how many pages it has.

A PDF is hostile, and pypdf is made to be lenient, not bounded: it runs in a process of its own, with little memory
and processor time. Run as a program (`python -m ranker.intake.report FILE`), this module is that process.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.settings import ReportLimits

MEMORY_BYTES = 1 << 30
CPU_S = 20
WALL_S = 120.0
_READY = "ready"
# An exception of pypdf's, its processor time, its stack: what a bad PDF can bring about. Any other end is ours.
_THEIR_ENDS = {1, -signal.SIGXCPU, -signal.SIGSEGV}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report that can be accepted."""

    pages: int
    size_bytes: int


def inspect_report(path: Path, limits: ReportLimits) -> Report:
    """What the PDF at `path` is. Raises ParticipantError if it is not acceptable, UsageError if it is not there."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; expected the report as a PDF")
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise ParticipantError(
            f"the report has {size:,} bytes; at most {limits.max_bytes:,} are accepted; reduce its images"
        )
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(1024):
            raise ParticipantError("the report is not a PDF; expected one; export it as PDF and send it again")
    found = _read(path)
    if found["encrypted"]:
        raise ParticipantError(
            "the report is encrypted; expected a PDF without password or restrictions; export it again without them"
        )
    if not 1 <= found["pages"] <= limits.max_pages:
        raise ParticipantError(
            f"the report has {found['pages']} pages; expected 1 to {limits.max_pages}; shorten it and send it again"
        )
    return Report(pages=found["pages"], size_bytes=size)


def _read(path: Path) -> dict[str, int]:
    command = [sys.executable, "-I", "-W", "ignore", "-m", "ranker.intake.report", str(path.resolve())]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise InfraError(
            f"reading {path} took more than {WALL_S:g} s; expected at most {CPU_S}; is the host busy?"
        ) from None
    began, _, answer = ended.stdout.partition("\n")
    if began != _READY or ended.returncode not in {0, *_THEIR_ENDS}:
        raise InfraError(f"the reader of {path} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    if ended.returncode != 0:
        raise ParticipantError(
            "the report cannot be read as a PDF; expected one that opens without errors; export it again"
        )
    found: dict[str, int] = json.loads(answer)
    return found


def main() -> None:
    """Read one PDF under limits and print what it is, as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pypdf

    logging.disable()
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    reader = pypdf.PdfReader(sys.argv[1])
    encrypted = reader.is_encrypted
    json.dump({"encrypted": int(encrypted), "pages": 0 if encrypted else len(reader.pages)}, sys.stdout)


if __name__ == "__main__":
    main()
