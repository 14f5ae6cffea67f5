"""Tries to read the other teams' submissions, the database of scores, and the organizer's own keys."""

from pathlib import Path

import spy

HOME = Path(spy.KNOWN["home"])


def another_submission():
    return (HOME / "submissions" / "other" / "weights.bin").read_bytes()[:1] == b"w"


def the_database():
    return (HOME / "ranker.db").read_bytes().startswith(b"SQLite")


def keys():
    return bool((HOME / ".ssh" / "id_ed25519").read_bytes())


def what_there_is():
    return len(list(HOME.iterdir()))


class CopyingEncoder(spy.Spy):
    attempts = (another_submission, the_database, keys, what_there_is)
