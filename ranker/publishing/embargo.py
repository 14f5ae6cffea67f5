"""Until when nothing may be published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ranker.deadline import Deadline
from ranker.errors import UsageError


class EmbargoError(UsageError):
    """It is too early to publish."""


def opens(written: str) -> datetime:
    """The moment that is written as `2026-02-25T12:00 AoE`: from then on it may be published. Raises UsageError."""
    try:
        return Deadline.parse(written).at
    except ValueError as error:
        raise UsageError(f"the embargo {error}") from None


def refuse_before(embargoes: Sequence[str], now: datetime) -> None:
    """Raise EmbargoError, with the time that is left, unless all of these moments have come. Raises UsageError too."""
    for written in embargoes:
        left = opens(written) - now
        if left > timedelta(0):
            raise EmbargoError(
                f"nothing is published before {written} ({opens(written).astimezone(UTC):%Y-%m-%d %H:%M} UTC): "
                f"{_words(left)} are left; type the same command then, or add --despite-embargo, which the log keeps"
            )


def _words(left: timedelta) -> str:
    minutes = -(-int(left.total_seconds()) // 60) or 1
    days, rest = divmod(minutes, 24 * 60)
    hours, minutes = divmod(rest, 60)
    parts = [(days, "day"), (hours, "hour"), (minutes, "minute")]
    said = [f"{number} {word}{'s' * (number != 1)}" for number, word in parts if number]
    return " and ".join(said[:2])
