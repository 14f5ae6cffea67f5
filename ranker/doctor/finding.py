"""What an examination is of, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ranker.home import Home
from ranker.settings import Service

INSTALL = "run `make demo`, or `pip install -c constraints.txt {}`"


class Verdict(StrEnum):
    """OK; WARNING: works, but with less than one would want; MISSING: nothing can be evaluated before it is mended."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part of the installation: what was found there, and what to do about it (empty if nothing)."""

    part: str
    verdict: Verdict
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values."""
        return {"part": self.part, "verdict": self.verdict, "found": self.found, "advice": self.advice}


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What is examined, and when. `ask_hub`: whether the hub may be asked for the time; `thorough`: whether files'
    contents are read where their sizes would do.
    """

    home: Home
    service: Service
    now: datetime
    ask_hub: bool = False
    thorough: bool = False


Found = tuple[Verdict, str, str]
Check = Callable[[Patient], Iterator[Found]]


def one_line(value: object) -> str:
    """A message without line breaks, bounded."""
    return " ".join(str(value).split())[:500]
