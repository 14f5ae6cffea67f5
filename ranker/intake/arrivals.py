"""What came, and how: one ZIP by one channel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ranker.types import Channel


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One ZIP that came.

    `file` is where its bytes lie now: for an attachment a staged copy, which is gone once its message is dealt with.
    `name` is what its sender called it, fit to be shown, and no path. `source` is that of a Delivery (`file NAME`,
    `message ID`, `link ID`), `sender` the address it came from, if any; `arrived_at` is the time that counts, and
    `arrived_by` says in words where it was read from. `message_id` is the id of the message's row, `report` the PDF
    that belongs to it.
    """

    file: Path
    name: str
    channel: Channel
    source: str
    sender: str | None
    arrived_at: datetime
    arrived_by: str
    message_id: str | None
    report: Path | None
