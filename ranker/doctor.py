"""What works on this machine, what does not, and what to do. Looks only: nothing is migrated, cleaned or loaded."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import yaml
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from ranker import queue
from ranker.config import Benchmark, load, load_ranking
from ranker.db.migrate import current_revision, head_revision
from ranker.db.models import Job, Submission
from ranker.db.session import connect, session
from ranker.errors import RankerError
from ranker.executors.local import driver_gpus, torch_has_cuda
from ranker.home import Home, asset, model_cache
from ranker.settings import Service
from ranker.types import SandboxName, Status

if TYPE_CHECKING:
    from ranker.sandbox.serving import ServedSandbox

LEAST_FREE_GB = 2.0
AMPLE_FREE_GB = 20.0
SAFE_TOOLKIT = (1, 17, 8)
"""Older NVIDIA container toolkits let an image break out of its container: CVE-2025-23266."""
OLDEST_TOOLKIT = (1, 16, 2)
"""Older than this: CVE-2024-0132 too."""
LEFTOVER_AGE = timedelta(hours=1)
INSTALL = "run `make demo`, or `pip install -c constraints.txt {}`"


class Verdict(StrEnum):
    """OK; WARNING: works, but with less than one would want; MISSING: nothing can be evaluated before it is mended."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of the installation: what was found there, and what to do about it (empty if nothing)."""

    part: str
    verdict: Verdict
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"part": self.part, "verdict": self.verdict, "found": self.found, "advice": self.advice}


@dataclass(frozen=True, kw_only=True)
class _Patient:
    """What is examined, and when."""

    home: Home
    service: Service
    now: datetime


def examine(home: Home, service: Service, *, now: datetime | None = None) -> list[Finding]:
    """Every finding, in the order of `_CHECKS`. A check that cannot be carried out is a finding too."""
    patient = _Patient(home=home, service=service, now=now or datetime.now(UTC))
    return [finding for part in _CHECKS for finding in _examine(part, patient)]


def _examine(part: str, patient: _Patient) -> list[Finding]:
    try:
        return [_finding(part, *found) for found in _CHECKS[part](patient)]
    except (RankerError, SQLAlchemyError, OSError, ImportError, ValueError, subprocess.SubprocessError) as error:
        return [_finding(part, Verdict.MISSING, f"cannot be examined: {_one_line(error)}", "mend this first")]


_Found = tuple[Verdict, str, str]


def _finding(part: str, verdict: Verdict, found: str, advice: str) -> Finding:
    return Finding(part=part, verdict=verdict, found=found, advice=advice)


def _python(_: _Patient) -> Iterator[_Found]:
    yield Verdict.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""


def _torch(_: _Patient) -> Iterator[_Found]:
    missing = [
        name for name in ("torch", "transformers", "accelerate", "peft") if importlib.util.find_spec(name) is None
    ]
    if missing:
        yield Verdict.MISSING, f"not installed: {', '.join(missing)}", INSTALL.format(" ".join(missing))
    else:
        build = "with CUDA" if torch_has_cuda() else "for the CPU only"
        yield Verdict.OK, f"torch {version('torch')} {build}, transformers {version('transformers')}", ""


def _gpu(_: _Patient) -> Iterator[_Found]:
    found = driver_gpus()
    if not found:
        yield Verdict.OK, "none that may be used: jobs run on the CPU", ""
        return
    names = ", ".join(gpu.name for gpu in found)
    if torch_has_cuda():
        yield Verdict.OK, f"{len(found)}: {names}", ""
    else:
        yield Verdict.WARNING, f"{names}; but torch is built for the CPU only", "install a torch with CUDA to use it"


def _container_toolkit(_: _Patient) -> Iterator[_Found]:
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
        yield Verdict.WARNING, f"of unknown version: {_one_line(answer.stdout)}", "compare with 1.17.8 by hand"
    elif (found := tuple(map(int, match.groups()))) < SAFE_TOOLKIT:
        holes = "CVE-2025-23266" + (" and CVE-2024-0132" if found < OLDEST_TOOLKIT else "")
        advice = f"update to 1.17.8 or newer: code in a container can break out of this one ({holes})"
        yield Verdict.MISSING, match[0], advice
    else:
        yield Verdict.OK, match[0], ""


def _backend(name: SandboxName, patient: _Patient) -> ServedSandbox:
    from ranker.sandbox.backends import backend

    service = patient.service
    return backend(
        name,
        image=service.docker_image,
        home=patient.home.root,
        runtime=service.docker_runtime,
        remap=service.docker_remap,
    )


def _engine(name: SandboxName) -> Callable[[_Patient], Iterator[_Found]]:
    def check(patient: _Patient) -> Iterator[_Found]:
        found = _backend(name, patient).available()
        if found.ok:
            yield Verdict.OK, found.version, ""
        else:
            needed = patient.service.sandbox is name
            yield (Verdict.MISSING if needed else Verdict.WARNING), "does not work here", found.reason

    return check


def _sandbox(patient: _Patient) -> Iterator[_Found]:
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


def _limits(patient: _Patient) -> Iterator[_Found]:
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


def _remap(patient: _Patient) -> Iterator[_Found]:
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


def _profile(_: _Patient) -> Iterator[_Found]:
    from ranker.errors import MissingError
    from ranker.sandbox import seccomp

    try:
        os.close(seccomp.compiled_filter())
    except MissingError as error:
        yield Verdict.WARNING, f"docker/seccomp.json cannot be compiled here: {error}", "Docker compiles it itself"
        return
    count = sum(len(rule["names"]) for rule in seccomp.profile()["syscalls"])
    yield Verdict.OK, f"docker/seccomp.json is compiled; it lists {count} system calls, and refuses all others", ""


def _disk(patient: _Patient) -> Iterator[_Found]:
    folder = next(path for path in (patient.home.root, *patient.home.root.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    free_gb = usage.free / 1e9
    found = f"{free_gb:.1f} GB free of {usage.total / 1e9:.1f} GB at {folder}"
    if free_gb < LEAST_FREE_GB:
        yield Verdict.MISSING, found, f"free at least {LEAST_FREE_GB:.0f} GB"
    elif free_gb < AMPLE_FREE_GB:
        yield Verdict.WARNING, found, "enough for the benchmark mini; real challenges keep features of 60 GB and more"
    else:
        yield Verdict.OK, found, ""


def _database(patient: _Patient) -> Iterator[_Found]:
    path = patient.home.database_path
    if not path.exists():
        yield Verdict.OK, f"{path} is not there yet; the first `ranker ingest` makes it", ""
        return
    engine = connect(path)
    try:
        revision, head = current_revision(engine), head_revision()
        with session(engine, read_only=True) as reading:
            damage = list(reading.scalars(text("PRAGMA quick_check(3)")))
            if damage != ["ok"]:
                found = f"{path} is damaged: {'; '.join(map(str, damage))}"
                yield (
                    Verdict.MISSING,
                    found,
                    "put the newest ranker.db.backup-* in its place, or use sqlite3's .recover",
                )
                return
            if revision != head:
                found = f"{path} is at revision {revision}, this ranker's is {head}"
                yield Verdict.WARNING, found, "the next command migrates it, and keeps a copy"
                return
            count = reading.scalar(select(func.count()).select_from(Submission))
        yield Verdict.OK, f"revision {revision}, {count} submissions, {path.stat().st_size / 1e6:.1f} MB, intact", ""
    finally:
        engine.dispose()


def _jobs_left_behind(patient: _Patient) -> Iterator[_Found]:
    jobs = _rows(patient)
    running = [job for job in jobs if job.status == Status.RUNNING and job.worker and job.lease_expires_at]
    stale = [
        job
        for job in running
        if job.lease_expires_at is not None
        and job.worker is not None
        and (job.lease_expires_at <= patient.now or queue.is_dead_here(job.worker))
    ]
    queued = sum(job.status == Status.QUEUED for job in jobs)
    if stale:
        numbers = ", ".join(str(job.id) for job in stale)
        found = f"{len(stale)} of {len(running)} running jobs have lost their worker: {numbers}"
        yield Verdict.WARNING, found, "`ranker evaluate --all` takes these jobs over and goes on from their checkpoints"
    else:
        yield Verdict.OK, f"{len(running)} jobs running, {queued} queued, none left behind", ""


def _decoder(patient: _Patient) -> Iterator[_Found]:
    from ranker.lalm.decoder import locate

    files = locate(_benchmark(patient).recipe.decoder)
    folder = model_cache() / f"{files.name}-{files.digest[:16]}"
    converted = files.weights.suffix == ".safetensors" or folder.is_dir()
    later = "" if converted else "; it is converted at its first use, which takes about 15 s"
    yield Verdict.OK, f"{files.name} at {files.weights}{later}", ""


def _caption_models(patient: _Patient) -> Iterator[_Found]:
    from ranker.metrics import caption_models

    models = caption_models(_benchmark(patient).recipe.metric_models)
    checker = "without a fluency checker" if models.checker is None else f"fluency checker {models.checker.weights}"
    yield Verdict.OK, f"{models.name}: sentence model {models.sentence.folder}, {checker}", ""


def _benchmark_data(patient: _Patient) -> Iterator[_Found]:
    from ranker.data import store
    from ranker.data.origin import how_to_get

    name = patient.service.benchmark
    root = patient.home.data / name
    if store.is_built(root):
        yield Verdict.OK, f"{name} is at {root}, digest {store.digest(root)[:12]}", ""
    else:
        yield Verdict.MISSING, f"{name} is not under {patient.home.data}", how_to_get(name)


def _packages(parts: Sequence[str], purpose: str) -> Callable[[_Patient], Iterator[_Found]]:
    def check(_: _Patient) -> Iterator[_Found]:
        missing = [name for name in parts if importlib.util.find_spec(name.replace("-", "_")) is None]
        if missing:
            found = f"not installed: {', '.join(missing)} ({purpose})"
            yield Verdict.WARNING, found, INSTALL.format(" ".join(missing))
        else:
            yield Verdict.OK, ", ".join(f"{name} {_version(name)}" for name in parts), ""

    return check


def _configs(patient: _Patient) -> Iterator[_Found]:
    paths = {
        path.name: path
        for folder in (asset("configs"), patient.home.root / "configs")
        for path in folder.glob("*.yaml")
    }
    wrong = []
    for name, path in sorted(paths.items()):
        try:
            load(Service, path) if name == "service.yaml" else load_ranking(path)
        except (RankerError, yaml.YAMLError) as error:
            wrong.append(_one_line(error))
    if wrong:
        yield Verdict.WARNING, "; ".join(wrong), "correct these files"
    else:
        yield Verdict.OK, f"{len(paths)} files are valid: {', '.join(sorted(paths))}", ""


def _clock(patient: _Patient) -> Iterator[_Found]:
    local = patient.now.astimezone()
    found = f"{patient.now:%Y-%m-%d %H:%M} UTC, {local:%H:%M} {local.tzname()} here"
    times = [job.created_at for job in _rows(patient)]
    if times and max(times) > patient.now:
        advice = "set the clock (a time server): deadlines and leases are judged by it"
        yield (
            Verdict.WARNING,
            f"{found}; but a job was queued at {max(times):%Y-%m-%d %H:%M} UTC, later than now",
            advice,
        )
    else:
        yield Verdict.OK, found, ""


def _leftovers(patient: _Patient) -> Iterator[_Found]:
    home = patient.home
    before = (patient.now - LEFTOVER_AGE).timestamp()
    folders = (home.submissions, home.data, home.site.parent, model_cache())
    hidden = [path for folder in folders if folder.is_dir() for path in folder.glob(".*") if path.is_dir()]
    old = sorted(str(path) for path in hidden if path.stat().st_mtime < before)
    if old:
        found = f"{len(old)} folders of commands that did not end: {', '.join(old[:5])}"
        yield Verdict.WARNING, found, "remove them if no ranker command is running"
    else:
        yield Verdict.OK, "none", ""


def _benchmark(patient: _Patient) -> Benchmark:
    return load(Benchmark, patient.home.config_path(patient.service.benchmark))


def _rows(patient: _Patient) -> Sequence[Job]:
    """All jobs; none where there is no database, or one that a command must migrate first."""
    if not patient.home.database_path.exists():
        return []
    engine = connect(patient.home.database_path)
    try:
        if current_revision(engine) != head_revision():
            return []
        with session(engine, read_only=True) as reading:
            return reading.scalars(select(Job)).all()
    finally:
        engine.dispose()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:500]


_CHECKS: dict[str, Callable[[_Patient], Iterator[_Found]]] = {
    "Python": _python,
    "torch": _torch,
    "GPU": _gpu,
    "NVIDIA container toolkit": _container_toolkit,
    "Docker": _engine(SandboxName.DOCKER),
    "bubblewrap": _engine(SandboxName.BUBBLEWRAP),
    "sandbox": _sandbox,
    "limits of the sandbox": _limits,
    "containers": _remap,
    "system calls": _profile,
    "disk": _disk,
    "configuration": _configs,
    "clock": _clock,
    "database": _database,
    "jobs": _jobs_left_behind,
    "benchmark": _benchmark_data,
    "decoder": _decoder,
    "models of caption metrics": _caption_models,
    "speech and notes for mini": _packages(
        ("espeakng-loader", "tinysoundfont", "pretty-midi"), "`ranker data build mini` makes its clips with them"
    ),
    "sample submissions": _packages(("onnxruntime",), "two of the samples run on it"),
    "left-over folders": _leftovers,
}
