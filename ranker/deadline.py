"""A deadline as people announce it: a local time and its zone, such as `2026-02-12T23:59 AoE`.

AoE, "anywhere on Earth", is UTC-12: the day is over when it is over everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

AOE = timezone(timedelta(hours=-12), "AoE")
EXPECTED = (
    "expected a date, a time and a zone: 2026-02-12T23:59 AoE, 2026-02-12T18:00 Europe/Vienna, or ...T18:00+01:00"
)
_WRITTEN = re.compile(
    r"(?P<day>\d{4}-\d{2}-\d{2})[T ](?P<minute>\d{2}:\d{2})(?P<second>:\d{2})?\s*(?P<zone>[A-Za-z+-][\w+/:-]*)"
)
_OFFSET = re.compile(r"(?:UTC|GMT)?(?P<sign>[+-])(?P<hours>\d{1,2}):?(?P<minutes>\d{2})?")


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """`text` as it was written, the moment `at` that it names, and `over`: the first moment that is too late.

    The minute that is written, or the second if one is, belongs to the time that is left: 23:59 lasts till midnight.
    """

    text: str
    at: datetime
    over: datetime
    zone: tzinfo = field(repr=False)
    zone_name: str

    @classmethod
    def parse(cls, text: str) -> Deadline:
        """Raises ValueError, saying what was expected, for what is no time in a known zone, or never comes there."""
        written = _WRITTEN.fullmatch(text.strip())
        if written is None:
            raise ValueError(f"{text!r} is not understood; {EXPECTED}")
        name = written["zone"]
        zone = _zone(name, text)
        try:
            local = datetime.fromisoformat(f"{written['day']}T{written['minute']}{written['second'] or ':00'}")
            moment = local.replace(
                tzinfo=zone, fold=1
            )  # of two, where the clock is set back: the later, for the sender
            at = moment.astimezone(UTC)
            is_skipped = at.astimezone(zone).replace(tzinfo=None) != local
            over = at + (timedelta(seconds=1) if written["second"] else timedelta(minutes=1))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{text!r} is no time ({error}); {EXPECTED}") from None
        if is_skipped:
            raise ValueError(f"{text!r} never comes: the clock is set forward over it in {name}; choose another time")
        return cls(text=text.strip(), at=at, over=over, zone=zone, zone_name=name)

    def lateness(self, moment: datetime) -> timedelta:
        """How long after the end it was; zero if it was in time."""
        return max(moment - self.over + timedelta.resolution, timedelta(0))

    def local(self, moment: datetime) -> str:
        """A moment in the deadline's zone, for people."""
        return f"{moment.astimezone(self.zone):%Y-%m-%d %H:%M:%S} {self.zone_name}"


def _zone(name: str, text: str) -> tzinfo:
    if name.casefold() == "aoe":
        return AOE
    if name.casefold() in {"utc", "gmt", "z"}:
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        hours, minutes = int(offset["hours"]), int(offset["minutes"] or 0)
        if hours > 14 or minutes > 59:
            raise ValueError(f"{text!r}: no place on Earth is {name} from UTC; {EXPECTED}")
        away = timedelta(hours=hours, minutes=minutes)
        return timezone(-away if offset["sign"] == "-" else away)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{text!r}: the zone {name!r} is not known here; {EXPECTED}; summer time belongs to places, not to "
            "abbreviations such as CET"
        ) from None
