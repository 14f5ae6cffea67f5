"""Python, its packages, the accelerator, the disk and the clock."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version

from sqlalchemy.exc import SQLAlchemyError

from ranker.doctor.finding import INSTALL, Check, Found, Patient, Verdict, one_line
from ranker.doctor.runs import typical_bytes
from ranker.doctor.work import latest_event, rows
from ranker.errors import RankerError
from ranker.executors.gpus import driver_gpus, torch_has_cuda
from ranker.types import JobKind, Status

LEAST_FREE_GB = 2.0
AMPLE_FREE_GB = 20.0
MOST_SKEW_S = 5.0
OPEN = (Status.QUEUED, Status.RUNNING)


def python(_: Patient) -> Iterator[Found]:
    """The interpreter."""
    yield Verdict.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}", ""


def torch(_: Patient) -> Iterator[Found]:
    """What models are run with."""
    missing = [
        name for name in ("torch", "transformers", "accelerate", "peft") if importlib.util.find_spec(name) is None
    ]
    if missing:
        yield Verdict.MISSING, f"not installed: {', '.join(missing)}", INSTALL.format(" ".join(missing))
    else:
        build = "with CUDA" if torch_has_cuda() else "for the CPU only"
        yield Verdict.OK, f"torch {version('torch')} {build}, transformers {version('transformers')}", ""


def gpu(_: Patient) -> Iterator[Found]:
    """The accelerators that jobs may use."""
    found = driver_gpus()
    if not found:
        yield Verdict.OK, "none that may be used: jobs run on the CPU", ""
        return
    names = ", ".join(gpu.name for gpu in found)
    if torch_has_cuda():
        yield Verdict.OK, f"{len(found)}: {names}", ""
    else:
        yield Verdict.WARNING, f"{names}; but torch is built for the CPU only", "install a torch with CUDA to use it"


def packages(parts: Sequence[str], purpose: str) -> Check:
    """A check that these packages are installed; without them, `purpose` is not served."""

    def check(_: Patient) -> Iterator[Found]:
        missing = [name for name in parts if importlib.util.find_spec(name.replace("-", "_")) is None]
        if missing:
            found = f"not installed: {', '.join(missing)} ({purpose})"
            yield Verdict.WARNING, found, INSTALL.format(" ".join(missing))
        else:
            yield Verdict.OK, ", ".join(f"{name} {_version(name)}" for name in parts), ""

    return check


def disk(patient: Patient) -> Iterator[Found]:
    """What is free, against a least, and against what queued evaluations will keep if they are like earlier ones."""
    folder = next(path for path in (patient.home.root, *patient.home.root.parents) if path.exists())
    usage = shutil.disk_usage(folder)
    free_gb = usage.free / 1e9
    found = f"{free_gb:.1f} GB free of {usage.total / 1e9:.1f} GB at {folder}"
    waiting = each = 0
    with suppress(SQLAlchemyError, RankerError):  # what is wrong with the database is told elsewhere
        waiting = sum(job.kind == JobKind.EVALUATE and job.status in OPEN for job in rows(patient))
        each = (typical_bytes(patient) if waiting else None) or 0
    need_gb = waiting * each / 1e9
    if free_gb < LEAST_FREE_GB:
        yield Verdict.MISSING, found, f"free at least {LEAST_FREE_GB:.0f} GB"
    elif free_gb < need_gb + LEAST_FREE_GB:
        found += f"; {waiting} evaluations that are to be done would keep {need_gb:.1f} GB, going by earlier ones"
        yield Verdict.WARNING, found, "checkpoints of finished runs (runs/*/*/*/step-*) can go; or get a larger disk"
    elif free_gb < AMPLE_FREE_GB:
        yield Verdict.WARNING, found, "enough for the benchmark mini; real challenges keep features of 60 GB and more"
    else:
        yield Verdict.OK, found, ""


def clock(patient: Patient) -> Iterator[Found]:
    """The time here, against the database's latest, the file system's, the time service's word and, if asked, the
    hub's.
    """
    local = patient.now.astimezone()
    found = f"{patient.now:%Y-%m-%d %H:%M} UTC, {local:%H:%M} {local.tzname()} here"
    advice = "set the clock (a time server): deadlines and leases are judged by it"
    wrong = [word for word in (_from_the_future(patient), _file_skew(patient), _unsynchronized()) if word]
    if patient.ask_hub:
        hub = _hub_skew(patient.service.weights.hub_url)
        wrong += [hub] if hub else []
        found += "" if hub else "; the hub's clock agrees"
    if wrong:
        yield Verdict.WARNING, f"{found}; but {'; and '.join(wrong)}", advice
    else:
        yield Verdict.OK, found, ""


def _from_the_future(patient: Patient) -> str | None:
    times = [(job.created_at, "a job was queued") for job in rows(patient)]
    event = latest_event(patient)
    times += [] if event is None else [(event, "something was recorded")]
    if not times or max(times)[0] <= patient.now:
        return None
    at, what = max(times)
    return f"{what} at {at:%Y-%m-%d %H:%M} UTC, later than now"


def _file_skew(patient: Patient) -> str | None:
    """A file server with a clock of its own; asked with a file without a name, which leaves nothing."""
    folder = next(path for path in (patient.home.root, *patient.home.root.parents) if path.exists())
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY)
    except OSError:
        return None
    try:
        os.write(descriptor, b"?")
        skew = os.fstat(descriptor).st_mtime - time.time()
    finally:
        os.close(descriptor)
    return f"files at {folder} are dated {skew:+.0f} s off" if abs(skew) > MOST_SKEW_S else None


def _unsynchronized() -> str | None:
    """What systemd says of the time service; None where it says nothing."""
    try:
        command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return "no time server keeps it right (timedatectl)" if answer.stdout.strip() == "no" else None


def _hub_skew(url: str) -> str | None:
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310  the configuration's own address
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
        error.close()
    except (OSError, ValueError) as error:
        return f"the hub at {url} cannot be asked for the time: {one_line(error)}"
    if date is None:
        return f"the hub at {url} does not tell the time"
    skew = parsedate_to_datetime(date).timestamp() - time.time()
    return f"the hub's clock is {skew:+.0f} s off" if abs(skew) > MOST_SKEW_S else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"
