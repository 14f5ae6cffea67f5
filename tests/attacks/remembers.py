"""Tries to know in a second run what it saw in the first: a file in its scratch space."""

from pathlib import Path

import spy

NOTE = Path("/tmp/ranker-attack-note")


def remembered():
    found = NOTE.exists()
    NOTE.write_text("clip 1 was a dog")
    return found


class RememberingEncoder(spy.Spy):
    attempts = (remembered,)
