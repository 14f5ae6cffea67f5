"""Measures of the queue and the machine as OpenMetrics text, version 1.0.0, for Prometheus and what reads the same.

Written here rather than by prometheus_client: all values come from the database at the moment of asking, so nothing of
its registry would be used; its strict parser judges this text in the tests. No label holds a name that a team chose.
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

import ranker
from ranker.db.facts import size_bytes
from ranker.db.models import Job, JobAttempt, Submission
from ranker.db.place import database_url
from ranker.db.rules import Event
from ranker.home import Home
from ranker.types import Action, JobKind, Stage, Status
from ranker.watch import Look, look

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_GPU_FIELDS = ("uuid", "utilization.gpu", "memory.used", "memory.total")


class Kind(StrEnum):
    """How a family's values are to be read."""

    GAUGE = "gauge"
    COUNTER = "counter"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Values of one name, told apart by labels. `name` ends in `unit` if there is one; counters grow without end."""

    name: str
    kind: Kind
    about: str
    samples: Sequence[tuple[Mapping[str, str], float]]
    unit: str = ""


def text(families: Iterable[Family]) -> str:
    """The families one after another, and the mark that nothing is missing. What holds no sample is left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [f"# UNIT {family.name} {family.unit}"] if family.unit else []
        lines.append(f"# HELP {family.name} {_escaped(family.about)}")
        suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info", Kind.GAUGE: ""}[family.kind]
        for labels, value in family.samples:
            listed = ",".join(f'{name}="{_escaped(item)}"' for name, item in labels.items())
            lines.append(f"{family.name}{suffix}{{{listed}}} {_number(value)}" if listed else
                         f"{family.name}{suffix} {_number(value)}")  # fmt: skip
    return "\n".join([*lines, "# EOF"]) + "\n"


def of_queue(session: Session, *, now: datetime, lease_s: float) -> list[Family]:
    """Jobs, leases, attempts and rates."""
    seen = look(session, now=now, lease_s=lease_s)
    groups = session.execute(
        select(Job.kind, Job.track, Job.status, func.count()).group_by(Job.kind, Job.track, Job.status)
    )
    endings = select(Job.kind, JobAttempt.ending, JobAttempt.fault, func.count()).join(Job, Job.id == JobAttempt.job_id)
    ended = session.execute(
        endings.where(JobAttempt.ending.is_not(None)).group_by(Job.kind, JobAttempt.ending, JobAttempt.fault)
    )
    return [
        Family(
            name="ranker_jobs",
            kind=Kind.GAUGE,
            about="Jobs by what they do, where, and how they are.",
            samples=[
                ({"kind": kind, "track": track or "", "status": status}, count) for kind, track, status, count in groups
            ],
        ),
        Family(
            name="ranker_submissions",
            kind=Kind.GAUGE,
            about="Submissions taken in.",
            samples=[({}, session.scalar(select(func.count()).select_from(Submission)) or 0)],
        ),
        Family(
            name="ranker_queue_paused",
            kind=Kind.GAUGE,
            about="1 while no job is handed out.",
            samples=[({}, float(seen.paused is not None))],
        ),
        Family(
            name="ranker_queue_oldest_age_seconds",
            kind=Kind.GAUGE,
            unit="seconds",
            about="How long the first of the queued jobs has been waiting; 0 where none is queued.",
            samples=[({}, seen.oldest_queued_s or 0.0)],
        ),
        Family(
            name="ranker_attempts",
            kind=Kind.COUNTER,
            about="Attempts that ended, by how, and whose fault it was (empty: nobody's).",
            samples=[
                ({"kind": kind, "ending": ending or "", "fault": fault or ""}, count)
                for kind, ending, fault, count in ended
            ],
        ),
        Family(
            name="ranker_infra_faults",
            kind=Kind.COUNTER,
            about="Attempts that failed or were lost by no fault of a team.",
            samples=[({}, _faults(session))],
        ),
        *_of_running(seen),
        *_of_server(session),
    ]


def _of_server(session: Session) -> list[Family]:
    """What a server holds for this home; `of_machine` tells of files."""
    if session.get_bind().dialect.name == "sqlite":
        return []
    return [
        Family(
            name="ranker_database_size_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Size of the database's tables and indexes.",
            samples=[({"file": ""}, size_bytes(session.connection()))],
        )
    ]


def _faults(session: Session) -> int:
    from ranker.types import Fault

    counted = select(func.count()).select_from(JobAttempt).where(JobAttempt.fault == Fault.INFRA)
    return session.scalar(counted) or 0


def _of_running(seen: Look) -> list[Family]:
    labels = [{"job": str(job.job), "submission": job.submission, "track": job.track or ""} for job in seen.running]
    each = list(zip(labels, seen.running, strict=True))
    rates = {stage: [job.rate for job in seen.running if job.stage == stage and job.rate] for stage in Stage}
    return [
        Family(
            name="ranker_job_heartbeat_age_seconds",
            kind=Kind.GAUGE,
            unit="seconds",
            about="How long ago the worker of a running job was last heard of.",
            samples=[(label, job.beat_s) for label, job in each],
        ),
        Family(
            name="ranker_job_still_seconds",
            kind=Kind.GAUGE,
            unit="seconds",
            about="Since when nothing of a running job has moved.",
            samples=[(label, job.quiet_s) for label, job in each if job.quiet_s is not None],
        ),
        Family(
            name="ranker_job_stage_ratio",
            kind=Kind.GAUGE,
            unit="ratio",
            about="How much of its stage a running job has done.",
            samples=[
                ({**label, "stage": job.stage or ""}, job.done / job.total) for label, job in each if job.total > 0
            ],
        ),
        Family(
            name="ranker_job_memory_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Highest memory of a running job's worker and of its encoder so far.",
            samples=[
                ({**label, "of": of}, value * 1e9)
                for label, job in each
                for of, value in (("worker", job.memory_gb), ("encoder", job.encoder_memory_gb))
                if value is not None
            ],
        ),
        Family(
            name="ranker_training_steps_per_second",
            kind=Kind.GAUGE,
            about="Training steps of all running jobs together.",
            samples=[({}, sum(rates[Stage.TRAIN]))],
        ),
        Family(
            name="ranker_encoding_clips_per_second",
            kind=Kind.GAUGE,
            about="Clips that the encoders of all running jobs turn into features, together.",
            samples=[({}, sum(rates[Stage.ENCODE]))],
        ),
        Family(
            name="ranker_answering_clips_per_second",
            kind=Kind.GAUGE,
            about="Test clips that all running jobs answer, together.",
            samples=[({}, sum(rates[Stage.GENERATE]))],
        ),
    ]


def of_pages(session: Session, home: Home) -> list[Family]:
    """When the page was last written, and how fast the encoders of the last finished evaluations were."""
    published = session.scalar(select(func.max(Event.at)).where(Event.action == Action.PUBLISH))
    times = [] if published is None else [published.timestamp()]
    page = home.site / "index.html"
    times += [page.stat().st_mtime] if page.is_file() else []
    done = session.scalars(
        select(Job)
        .where(Job.kind == JobKind.EVALUATE, Job.status == Status.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(100)
    )
    fast = [
        ({"job": str(job.id), "submission": job.submission_id, "track": job.track or ""}, encoder["audio_s_per_s"])
        for job in done
        if (encoder := (job.result or {}).get("encoder")) and encoder.get("audio_s_per_s")
    ]
    return [
        Family(
            name="ranker_published_timestamp_seconds",
            kind=Kind.GAUGE,
            unit="seconds",
            about="When the page was last written, in seconds since 1970.",
            samples=[({}, max(times))] if times else [],
        ),
        Family(
            name="ranker_encoder_audio_ratio",
            kind=Kind.GAUGE,
            unit="ratio",
            about="Seconds of audio that an encoder took per second, in the last hundred finished evaluations.",
            samples=fast,
        ),
    ]


def of_machine(home: Home, *, now: datetime) -> list[Family]:
    """Disk, database, accelerators, version."""
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    disk = shutil.disk_usage(folder)
    is_file = database_url(home).get_backend_name() == "sqlite"
    names = [f"{home.database_path.name}{end}" for end in ("", "-wal")] if is_file else []
    files = {name: home.database_path.with_name(name) for name in names}
    gpus = _gpus()
    return [
        Family(
            name="ranker_build",
            kind=Kind.INFO,
            about="Version of ranker.",
            samples=[({"version": ranker.__version__}, 1)],
        ),
        Family(
            name="ranker_time_seconds",
            kind=Kind.GAUGE,
            unit="seconds",
            about="The clock here, in seconds since 1970.",
            samples=[({}, now.timestamp())],
        ),
        Family(
            name="ranker_disk_free_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="What is free on the home's disk.",
            samples=[({}, disk.free)],
        ),
        Family(
            name="ranker_disk_size_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Size of the home's disk.",
            samples=[({}, disk.total)],
        ),
        Family(
            name="ranker_database_size_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Size of the database's files.",
            samples=[({"file": name}, path.stat().st_size) for name, path in files.items() if path.is_file()],
        ),
        Family(
            name="ranker_gpu_utilization_ratio",
            kind=Kind.GAUGE,
            unit="ratio",
            about="How much of the time a GPU was busy, as its driver says.",
            samples=[({"uuid": uuid}, busy / 100) for uuid, busy, _, _ in gpus if busy is not None],
        ),
        Family(
            name="ranker_gpu_memory_used_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Memory of a GPU that is taken.",
            samples=[({"uuid": uuid}, used * 2**20) for uuid, _, used, _ in gpus if used is not None],
        ),
        Family(
            name="ranker_gpu_memory_size_bytes",
            kind=Kind.GAUGE,
            unit="bytes",
            about="Memory of a GPU.",
            samples=[({"uuid": uuid}, size * 2**20) for uuid, _, _, size in gpus if size is not None],
        ),
    ]


def _gpus() -> list[tuple[str, float | None, float | None, float | None]]:
    """(UUID, percent busy, MiB used, MiB in all) of each GPU; a field that the driver does not tell is None."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in answer.stdout.splitlines() if answer.returncode == 0 else []:
        words = [word.strip() for word in line.split(",")]
        if len(words) == len(_GPU_FIELDS):
            busy, used, size = (float(word) if word.replace(".", "", 1).isdecimal() else None for word in words[1:])
            found.append((words[0], busy, used, size))
    return found


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
