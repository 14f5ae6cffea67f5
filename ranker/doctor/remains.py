"""What commands and workers that did not end left behind."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ranker.doctor.finding import Found, Patient, Verdict
from ranker.doctor.runs import LEFTOVER_AGE
from ranker.home import model_cache
from ranker.sandbox import orphans


def leftovers(patient: Patient) -> Iterator[Found]:
    """Hidden folders beside what they were to become."""
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


def abandoned(patient: Patient) -> list[Path]:
    """Folders in which a submission was being taken in, an hour old, whose maker is dead: their lock is free."""
    before = (patient.now - LEFTOVER_AGE).timestamp()
    found = [*patient.home.submissions.glob(".*"), *patient.home.submissions.glob("[!.]*/.*")]
    return sorted(path for path in found if path.is_dir() and path.lstat().st_mtime < before and is_unlocked(path))


def is_unlocked(folder: Path) -> bool:
    """Whether nobody holds the lock that a staging folder's maker holds as long as it lives."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def left_running(patient: Patient) -> Iterator[Found]:
    """What sandboxes of dead workers of this home left on this machine."""
    found = orphans.find(patient.home.root)
    if found:
        kinds = Counter(orphan.kind for orphan in found)
        listed = ", ".join(f"{count} of kind {kind}" for kind, count in kinds.items())
        names = ", ".join(orphan.name[:100] for orphan in found[:5])
        advice = "`ranker doctor --mend` removes them; so does the next evaluation"
        yield Verdict.WARNING, f"dead workers left {len(found)} things ({listed}): {names}", advice
    else:
        yield Verdict.OK, "no container, process, control group or socket of a dead worker", ""
