"""Tries to read the labels from the organizer's disk: by their path, through /proc, through a link, and by search."""

import os
from pathlib import Path

import spy

LABELS = Path(spy.KNOWN["labels"])


def by_path():
    return "dog" in LABELS.read_text()


def through_proc():
    return any("dog" in Path(f"/proc/{which}/root{LABELS}").read_text() for which in ("self", os.getpid()))


def through_a_link():
    link = Path("/tmp/link")
    link.symlink_to(LABELS)
    try:
        return "dog" in link.read_text()
    finally:
        link.unlink()


def by_search():
    for top in ("/tmp", "/home", "/root", "/mnt", "/srv", "/var"):
        for folder, _, files in os.walk(top):
            if LABELS.name in files:
                return "dog" in (Path(folder) / LABELS.name).read_text()
    return False


def from_the_submissions_folder():
    os.chdir(Path(__file__).parent)
    for depth in range(8):
        for path in (LABELS, LABELS.relative_to("/")):
            if Path("../" * depth + str(path)).exists():
                return True
    return False


class ReadingEncoder(spy.Spy):
    attempts = (by_path, through_proc, through_a_link, by_search, from_the_submissions_folder)
