"""Where encoders can run here, and what of its promises holds."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ranker.doctor.finding import Check, Found, Patient, Verdict, one_line
from ranker.executors.gpus import driver_gpus
from ranker.types import SandboxName

if TYPE_CHECKING:
    from ranker.sandbox.serving import ServedSandbox

SAFE_TOOLKIT = (1, 17, 8)
"""Older NVIDIA container toolkits let an image break out of its container: CVE-2025-23266."""
OLDEST_TOOLKIT = (1, 16, 2)
"""Older than this: CVE-2024-0132 too."""


def container_toolkit(_: Patient) -> Iterator[Found]:
    """Whether containers with a GPU hold what is in them."""
    if not driver_gpus():
        return
    try:
        answer = subprocess.run(
            ["nvidia-ctk", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except FileNotFoundError:
        yield (
            Verdict.WARNING,
            "not installed: encoders in containers see no GPU",
            "install nvidia-container-toolkit 1.17.8+",
        )
        return
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", answer.stdout)
    if match is None:
        yield Verdict.WARNING, f"of unknown version: {one_line(answer.stdout)}", "compare with 1.17.8 by hand"
    elif (found := tuple(map(int, match.groups()))) < SAFE_TOOLKIT:
        holes = "CVE-2025-23266" + (" and CVE-2024-0132" if found < OLDEST_TOOLKIT else "")
        advice = f"update to 1.17.8 or newer: code in a container can break out of this one ({holes})"
        yield Verdict.MISSING, match[0], advice
    else:
        yield Verdict.OK, match[0], ""


def _backend(name: SandboxName, patient: Patient) -> ServedSandbox:
    from ranker.sandbox.backends import backend

    service = patient.service
    return backend(
        name,
        image=service.docker_image,
        home=patient.home.root,
        runtime=service.docker_runtime,
        remap=service.docker_remap,
    )


def engine(name: SandboxName) -> Check:
    """A check that a backend works; it must, if it is the one that is configured."""

    def check(patient: Patient) -> Iterator[Found]:
        found = _backend(name, patient).available()
        if found.ok:
            yield Verdict.OK, found.version, ""
        else:
            needed = patient.service.sandbox is name
            yield (Verdict.MISSING if needed else Verdict.WARNING), "does not work here", found.reason

    return check


def sandbox(patient: Patient) -> Iterator[Found]:
    """Where encoders will run."""
    asked = patient.service.sandbox
    if asked is SandboxName.NONE:
        advice = "set `sandbox: auto` in configs/service.yaml before you take in other people's code"
        yield Verdict.WARNING, "none is configured: submitted code runs with all your rights", advice
        return
    names = (SandboxName.DOCKER, SandboxName.BUBBLEWRAP) if asked is SandboxName.AUTO else (asked,)
    for name in names:
        if _backend(name, patient).available().ok:
            yield Verdict.OK, f"encoders run in {name}", ""
            return
    advice = "install docker.io or bubblewrap; for code that you wrote yourself, `--sandbox none` runs without one"
    yield Verdict.MISSING, f"none of {', '.join(names)} works", advice


def limits(patient: Patient) -> Iterator[Found]:
    """What of its limits the sandbox in use cannot hold here; other parts say whether there is one."""
    asked = patient.service.sandbox
    names = (SandboxName.DOCKER, SandboxName.BUBBLEWRAP) if asked is SandboxName.AUTO else (asked,)
    for name in names:
        sandbox = _backend(name, patient)
        if sandbox.available().ok:
            gaps = sandbox.gaps()
            advice = "use Docker for other people's code" if name is not SandboxName.DOCKER else "see the engine's host"
            yield (
                (Verdict.WARNING if gaps else Verdict.OK),
                f"{name}: {'; '.join(gaps) or 'all hold'}",
                advice * bool(gaps),
            )
            return
    yield Verdict.OK, "no sandbox works here", ""


def remap(patient: Patient) -> Iterator[Found]:
    """Who root in a container is outside."""
    from ranker.sandbox.docker import engine_facts

    facts = engine_facts()
    if facts is None:
        yield Verdict.OK, "no Docker engine answers, so there are none", ""
        return
    runtime = patient.service.docker_runtime or facts.default_runtime
    users = (
        "users are remapped" if facts.remaps_users else "users are not remapped: root in a container would be root here"
    )
    yield Verdict.OK, f"runtime {runtime}; {users} (encoders are user 10001, without rights)", ""


def profile(_: Patient) -> Iterator[Found]:
    """Whether the filter of system calls can be compiled here."""
    from ranker.errors import MissingError
    from ranker.sandbox import seccomp

    try:
        os.close(seccomp.compiled_filter())
    except MissingError as error:
        yield Verdict.WARNING, f"docker/seccomp.json cannot be compiled here: {error}", "Docker compiles it itself"
        return
    count = sum(len(rule["names"]) for rule in seccomp.profile()["syscalls"])
    yield Verdict.OK, f"docker/seccomp.json is compiled; it lists {count} system calls, and refuses all others", ""
