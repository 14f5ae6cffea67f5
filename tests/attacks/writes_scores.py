"""Tries to write its own score: a manifest, a checkpoint and the database, where it knows that they lie."""

from pathlib import Path

import spy

HOME = Path(spy.KNOWN["home"])
RUN = HOME / "runs" / "attempt-0001"


def a_manifest():
    return (RUN / "manifest.json").write_text('{"scores": {"mean": 1.0}}')


def a_checkpoint():
    (RUN / "step-9").mkdir()
    return (RUN / "step-9" / "model.safetensors").write_bytes(bytes(8))


def the_database():
    with (HOME / "ranker.db").open("ab") as file:
        return file.write(b" ")


class ScoringEncoder(spy.Spy):
    attempts = (a_manifest, a_checkpoint, the_database)
