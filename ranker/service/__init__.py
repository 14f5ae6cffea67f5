"""What the command line (or another front) can ask of a home: each question or order is one method of `Ranker`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ranker.errors import MissingError
from ranker.service.data import Data
from ranker.service.database import Database
from ranker.service.evaluations import Placing, Wanted
from ranker.service.exporting import Exporting
from ranker.service.intake import Intake
from ranker.service.mail import Mail
from ranker.service.planning import Planning
from ranker.service.publishing import Edition, Publishing, plan_sections
from ranker.service.queue import Queue
from ranker.service.rules import Challenge
from ranker.service.watching import Watching

if TYPE_CHECKING:
    from ranker.board import Board
    from ranker.db.models import Pause
    from ranker.doctor import Finding
    from ranker.estimate import Estimate

__all__ = [
    "MISSING_EXIT_CODE",
    "Edition",
    "Placing",
    "Ranker",
    "Wanted",
    "estimate_json",
    "is_lame",
    "pause_json",
    "plan_sections",
    "ranking_json",
    "sensitivity_json",
]

MISSING_EXIT_CODE = MissingError.exit_code


class Ranker(Intake, Mail, Queue, Planning, Exporting, Publishing, Challenge, Watching, Data, Database):
    """One home, as its organizers use it. Methods raise the errors of `ranker.errors`, and print nothing.

    What is slow to import (pandas, and torch behind it) is imported by the methods that need it.
    """


def ranking_json(board: Board) -> dict[str, object]:
    """A board as `ranker rank --json` prints it."""
    from ranker.board import ranking_json as as_json

    return as_json(board)


def sensitivity_json(board: Board) -> dict[str, object]:
    """Ranks under other choices as `ranker rank --sensitivity --json` prints them."""
    from ranker.board import sensitivity_json as as_json

    return as_json(board)


def estimate_json(value: Estimate, submissions: int) -> dict[str, object]:
    """An estimate as `ranker estimate --json` prints it."""
    from ranker.estimate import to_json

    return to_json(value, submissions)


def pause_json(found: Pause | None) -> dict[str, object] | None:
    """A pause as `ranker pause --json` prints it; None where there is none."""
    from ranker.orders import pause_json as as_json

    return as_json(found)


def is_lame(findings: Sequence[Finding]) -> bool:
    """Whether something is missing without which nothing can be evaluated."""
    from ranker.doctor import Verdict

    return any(finding.verdict is Verdict.MISSING for finding in findings)
