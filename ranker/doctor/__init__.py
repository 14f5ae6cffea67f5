"""What works on this machine, what does not, and what to do. Looks only: nothing is migrated, cleaned or loaded.

`machine`, `sandboxes`, `holdings`: what is installed. `work`, `runs`, `remains`: what was done, and what is left of it.
`ranker.mend` repairs what can be repaired.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from ranker.doctor import holdings, machine, remains, runs, sandboxes, work
from ranker.doctor.finding import Check, Finding, Found, Patient, Verdict, one_line
from ranker.errors import RankerError
from ranker.home import Home
from ranker.settings import Service
from ranker.types import SandboxName

__all__ = ["CHECKS", "Finding", "Patient", "Verdict", "examine", "examine_part"]


def examine(
    home: Home, service: Service, *, now: datetime | None = None, ask_hub: bool = False, thorough: bool = False
) -> list[Finding]:
    """Every finding, in the order of `CHECKS`. A check that cannot be carried out is a finding too."""
    patient = Patient(home=home, service=service, now=now or datetime.now(UTC), ask_hub=ask_hub, thorough=thorough)
    return [finding for part in CHECKS for finding in examine_part(part, patient)]


def examine_part(part: str, patient: Patient) -> list[Finding]:
    """What one check finds."""
    try:
        return [_finding(part, found) for found in CHECKS[part](patient)]
    except (RankerError, SQLAlchemyError, OSError, ImportError, ValueError, subprocess.SubprocessError) as error:
        return [_finding(part, (Verdict.MISSING, f"cannot be examined: {one_line(error)}", "mend this first"))]


def _finding(part: str, found: Found) -> Finding:
    verdict, words, advice = found
    return Finding(part=part, verdict=verdict, found=words, advice=advice)


CHECKS: dict[str, Check] = {
    "Python": machine.python,
    "torch": machine.torch,
    "GPU": machine.gpu,
    "NVIDIA container toolkit": sandboxes.container_toolkit,
    "Docker": sandboxes.engine(SandboxName.DOCKER),
    "bubblewrap": sandboxes.engine(SandboxName.BUBBLEWRAP),
    "sandbox": sandboxes.sandbox,
    "limits of the sandbox": sandboxes.limits,
    "containers": sandboxes.remap,
    "system calls": sandboxes.profile,
    "disk": machine.disk,
    "configuration": holdings.configuration,
    "clock": machine.clock,
    "database": work.database,
    "write-ahead log": work.write_ahead_log,
    "jobs": work.jobs,
    "runs": runs.runs,
    "submissions": runs.submissions,
    "benchmark": holdings.benchmark_data,
    "decoder": holdings.decoder,
    "models of caption metrics": holdings.caption_models,
    "speech and notes for mini": machine.packages(
        ("espeakng-loader", "tinysoundfont", "pretty-midi"), "`ranker data build mini` makes its clips with them"
    ),
    "sample submissions": machine.packages(("onnxruntime",), "two of the samples run on it"),
    "left-over folders": remains.leftovers,
    "left by dead workers": remains.left_running,
}
