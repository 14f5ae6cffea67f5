"""What attempts left on the disk, compared with what the database says of them; and the unpacked submissions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from ranker.db.models import Job
from ranker.doctor.finding import Found, Patient, Verdict
from ranker.doctor.work import rows
from ranker.durable import is_piece
from ranker.job import job_folder
from ranker.manifest import read_manifest
from ranker.types import JobKind, Stage, Status, digest_json

LEFTOVER_AGE = timedelta(hours=1)
SET_ASIDE = ".damaged-"
SHOWN = 5
CHECKPOINT_FILES = ("trained.safetensors", "optimizer.safetensors")


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that is wrong with a job's files: `path`, relative to the home, and in words what it is."""

    job: Job
    path: Path
    what: str


@dataclass(frozen=True, kw_only=True)
class Spoilt:
    """An accepted submission whose unpacked files are not those that were checked."""

    submission_id: str
    tree: Path
    digest: str
    what: str


def runs(patient: Patient) -> Iterator[Found]:
    """Finished evaluations without their files, damaged checkpoints, lost training, half-written pieces."""
    all_jobs, troubles = rows(patient), 0
    for found, advice in (
        (bare(patient, all_jobs), "restore runs/ from a backup: these scores cannot be shown or recomputed without it"),
        (damaged(patient, all_jobs), "`ranker doctor --mend` sets them aside, so that an earlier one is gone on from"),
        (begun_anew(patient, all_jobs), "restore runs/ from a backup, or let the next attempt begin anew"),
        (pieces(patient, all_jobs), "`ranker doctor --mend` removes them"),
    ):
        if found:
            troubles += 1
            listed = "; ".join(f"{each.path}: {each.what}" for each in found[:SHOWN])
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            yield Verdict.WARNING, f"{len(found)} times: {listed}{more}", advice
    if not troubles:
        finished = sum(job.kind == JobKind.EVALUATE and job.status == Status.SUCCEEDED for job in all_jobs)
        yield Verdict.OK, f"all files of {finished} finished evaluations are there", ""


def bare(patient: Patient, all_jobs: Sequence[Job]) -> list[Trouble]:
    """Finished evaluations whose manifest or predictions are gone, or whose manifest is not the one recorded."""
    root, found = patient.home.root, []
    for job in all_jobs:
        if job.kind != JobKind.EVALUATE or job.status != Status.SUCCEEDED or job.result is None:
            continue
        folder = Path(job.result["run"])
        try:
            manifest = read_manifest(root / folder)
        except ValueError:
            manifest = {}
        if manifest is None:
            found.append(Trouble(job=job, path=folder, what=f"job {job.id} has succeeded, but its manifest is gone"))
        elif digest_json(manifest) != job.result["manifest_digest"]:
            found.append(Trouble(job=job, path=folder, what=f"job {job.id} has another manifest than was recorded"))
        for score in job.scores:
            if not (root / score.predictions).is_file():
                what = f"job {job.id} has a score of {score.task}, but its predictions are gone"
                found.append(Trouble(job=job, path=Path(score.predictions), what=what))
    return found


def damaged(patient: Patient, all_jobs: Sequence[Job]) -> list[Trouble]:
    """Checkpoints of jobs that do not run, which lack a file, or hold one that was cut."""
    found = []
    for job in all_jobs:
        if job.status == Status.RUNNING:
            continue
        for folder in sorted(_folder(patient, job).glob("attempt-*/step-*")):
            wrong = checkpoint_fault(folder)
            if wrong is not None:
                found.append(Trouble(job=job, path=folder.relative_to(patient.home.root), what=wrong))
    return found


def checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as far as sizes and headers tell; None if nothing is."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state["step"], int):
            return "its state.json names no step"
    except (OSError, ValueError, KeyError, TypeError):
        return "its state.json is missing or cut"
    for name in CHECKPOINT_FILES:
        if not _is_whole(folder / name):
            return f"its {name} is missing or cut"
    return None


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has the size that its header tells: 8 bytes of length, the header, the numbers."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else None
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"] if header else []
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return False
    return header is not None and size == 8 + length + max(ends, default=0)


def begun_anew(patient: Patient, all_jobs: Sequence[Job]) -> list[Trouble]:
    """Jobs that wait to go on with training, and have no checkpoint to go on from though they were far enough."""
    found = []
    for job in all_jobs:
        told = job.progress or {}
        if job.status != Status.QUEUED or job.attempt == 0 or told.get("stage") not in {Stage.GENERATE, Stage.SCORE}:
            continue
        folder = _folder(patient, job)
        if not any((path / "state.json").is_file() for path in folder.glob("attempt-*/step-*")):
            what = f"job {job.id} had been trained, and its checkpoints are gone"
            found.append(Trouble(job=job, path=folder.relative_to(patient.home.root), what=what))
    return found


def pieces(patient: Patient, all_jobs: Sequence[Job]) -> list[Trouble]:
    """What attempts that run no longer were writing when they ended, if it is an hour old."""
    before = (patient.now - LEFTOVER_AGE).timestamp()
    found = []
    for job in all_jobs:
        for path in sorted(_folder(patient, job).glob("attempt-*/**/.*")):
            attempt = path.relative_to(_folder(patient, job)).parts[0]
            is_live = job.status == Status.RUNNING and attempt == f"attempt-{job.attempt:04d}"
            if not is_live and is_piece(path) and path.lstat().st_mtime < before:
                relative = path.relative_to(patient.home.root)
                found.append(Trouble(job=job, path=relative, what=f"half-written by {attempt} of job {job.id}"))
    return found


def submissions(patient: Patient) -> Iterator[Found]:
    """Whether the unpacked files of accepted submissions are there as they were checked."""
    checks = _accepted(patient)
    found = spoilt(patient)
    if found:
        listed = "; ".join(f"{each.submission_id}: {each.what}" for each in found[:SHOWN])
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        advice = "`ranker doctor --mend` unpacks them again from the ZIPs that are kept"
        yield Verdict.WARNING, f"{len(found)} of {len(checks)} accepted ones are spoilt: {listed}{more}", advice
    else:
        how = "contents compared" if patient.thorough else "names counted and sizes compared"
        yield Verdict.OK, f"the unpacked files of all {len(checks)} accepted ones are there ({how})", ""


def spoilt(patient: Patient) -> list[Spoilt]:
    """Accepted submissions whose tree is gone, or has another number of files or bytes; if `thorough`, other bytes."""
    found = []
    for job in _accepted(patient):
        checked = (job.result or {})["tree"]
        tree = patient.home.submissions / job.submission.digest / "tree"
        wrong = tree_fault(tree, checked, thorough=patient.thorough)
        if wrong is not None:
            found.append(Spoilt(submission_id=job.submission_id, tree=tree, digest=checked["digest"], what=wrong))
    return found


def tree_fault(tree: Path, checked: dict[str, object], *, thorough: bool) -> str | None:
    """How an unpacked tree differs from what a check saw; None if it does not."""
    from ranker.intake.archive import describe

    if not tree.is_dir():
        return "its unpacked files are gone"
    files = [path for path in tree.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if (len(files), size) != (checked["files"], checked["size_bytes"]):
        return (
            f"{len(files)} files of {size:,} bytes are there; expected {checked['files']} of {checked['size_bytes']:,}"
        )
    if thorough and describe(tree).digest != checked["digest"]:
        return "a file was changed"
    return None


def typical_bytes(patient: Patient, newest: int = 10) -> int | None:
    """What one finished evaluation keeps on the disk, on average over the newest; None if none has finished."""
    done = [job for job in rows(patient) if job.kind == JobKind.EVALUATE and job.status == Status.SUCCEEDED]
    folders = [_folder(patient, job) for job in done[-newest:]]
    sizes = [
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in folders
        if folder.is_dir()
    ]
    return sum(sizes) // len(sizes) if sizes else None


def _accepted(patient: Patient) -> list[Job]:
    """The last successful check of each submission."""
    latest = {
        job.submission_id: job
        for job in rows(patient)
        if job.kind == JobKind.CHECK and job.status == Status.SUCCEEDED and "tree" in (job.result or {})
    }
    return list(latest.values())


def _folder(patient: Patient, job: Job) -> Path:
    return job_folder(patient.home, job.submission_id, job.key)
