"""Who trains what two jobs share: one of them, unless it has lost its job."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranker.errors import LeaseLostError
from ranker.weights import only_trainer

ONE, OTHER = "a" * 64, "b" * 64


def attempt(runs: Path, job: str, number: int) -> Path:
    """The folder of an attempt that has begun."""
    folder = runs / job / f"attempt-{number:04d}"
    folder.mkdir(parents=True)
    return folder


def called_off() -> None:
    """What a job that may wait no longer does."""
    raise LeaseLostError("another attempt owns the job")


def test_one_trains_and_the_other_waits(tmp_path: Path) -> None:
    """Attacks two workers with the same training: the second waits, can be called off, and gets its turn."""
    public, hidden = attempt(tmp_path, "public", 2), attempt(tmp_path, "hidden", 1)
    attempt(tmp_path, "public", 1)
    with only_trainer(tmp_path, ONE, public, called_off):
        with pytest.raises(LeaseLostError), only_trainer(tmp_path, ONE, hidden, called_off):
            pytest.fail("two trainers of one training")
        with only_trainer(tmp_path, OTHER, hidden, called_off):
            pass
    with only_trainer(tmp_path, ONE, hidden, called_off):
        pass


def test_who_has_lost_its_job_is_not_waited_for(tmp_path: Path) -> None:
    """Attacks with an attempt that was stopped with the lock, while its job was given to another attempt: that one, and
    the other job that shares the training, get their turns; once it wakes it takes none of theirs.
    """
    asked: list[None] = []
    stopped = attempt(tmp_path, "public", 1)
    with only_trainer(tmp_path, ONE, stopped, called_off):
        again, hidden = attempt(tmp_path, "public", 2), attempt(tmp_path, "hidden", 1)
        with (
            only_trainer(tmp_path, ONE, again, lambda: asked.append(None)),
            pytest.raises(LeaseLostError),
            only_trainer(tmp_path, ONE, hidden, called_off),
        ):
            pytest.fail("two trainers of one training")
        assert len(asked) == 1
        with only_trainer(tmp_path, ONE, hidden, called_off):
            pass
    with only_trainer(tmp_path, ONE, hidden, called_off):
        pass
