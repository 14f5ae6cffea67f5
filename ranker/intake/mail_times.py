"""When a message arrived, by the word of a server of our own; what its sender wrote into it counts for nothing.

RFC 5321, 4.4: each server puts its Received header above those that are there. So the topmost ones are ours, and all
below the first one of a stranger is what that stranger says. Of ours, only the topmost is beyond doubt: whoever hands a
message in may have written more that look like ours below it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ranker.intake.mail_names import line, moment, without_comments

RECEIVED = "received"
AUTHENTICATED = "authentication-results"
MAX_WORDS = 900  # of a header that is quoted
_BY = re.compile(r"(?:from\s+\S+\s+)?by\s+([^\s;]+)", re.IGNORECASE)
_RESULT = re.compile(r"\b(dmarc|spf|dkim)\s*=\s*(\w+)", re.IGNORECASE)
_AHEAD = timedelta(minutes=10)

Trace = Sequence[tuple[str, str]]
"""The Received and Authentication-Results headers of a message, topmost first: lower-case name, unfolded text."""


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """When it counts, where that was read in words, and what is odd about it."""

    at: datetime
    by: str
    notes: tuple[str, ...] = ()


def arrived(
    trace: Trace, own_servers: Sequence[str], *, internal: datetime | None, kept_at: datetime, now: datetime
) -> Arrived:
    """The topmost Received header, if one of `own_servers` wrote it; else `internal` (IMAP); else when we kept it."""
    topmost = next((text for name, text in trace if name == RECEIVED), None)
    doubt = None
    if topmost is not None and own_servers:
        host = written_by(topmost)
        when = moment(topmost.rpartition(";")[2])
        if host is None or not is_own(host, own_servers):
            named = line(host or "nobody that it names", 100)
            doubt = f"the topmost Received header was written by {named}, which mail.own_servers does not name"
        elif when is None:
            doubt = f"the date in the Received header of {host} cannot be read"
        else:
            ahead = when > now + _AHEAD
            notes = (f"the clock of {host} said {when:%Y-%m-%d %H:%M} UTC, which is still to come",) if ahead else ()
            return Arrived(at=when, by=f"Received header of {host}: {line(topmost, MAX_WORDS)}", notes=notes)
    elif own_servers:
        doubt = "it has no Received header"
    behind = "" if doubt is None else f"; {doubt}"
    if internal is not None:
        return Arrived(at=internal, by=f"date of arrival in the mailbox (INTERNALDATE){behind}")
    known = "" if own_servers else "; no server of our own is named (mail.own_servers)"
    return Arrived(at=kept_at, by=f"when ranker first kept it{behind}{known}")


def doubts(trace: Trace, own_servers: Sequence[str]) -> list[str]:
    """What our own servers say against the sender's address; what others say, or below their headers, is not heard."""
    found = []
    for name, text in trace:
        words = without_comments(text)
        if name == RECEIVED:
            host = written_by(text)
            if host is None or not is_own(host, own_servers):
                break
        elif (server := (words.partition(";")[0].split() or [""])[0]) and is_own(server, own_servers):
            results = {each[0].lower(): each[1].lower() for each in _RESULT.findall(words[:4000])}
            if results.get("dmarc") == "fail" or (
                "dmarc" not in results and "pass" not in results.values() and "fail" in results.values()
            ):
                said = ", ".join(f"{method}={results[method]}" for method in sorted(results))
                found.append(f"the sender's address may be forged: {line(server, 100)} says {line(said, 100)}")
    return found


def written_by(received: str) -> str | None:
    """The host that wrote a Received header; None if it names none."""
    found = _BY.match(without_comments(received).strip())
    return found[1].strip("[]<>").rstrip(".").lower() if found is not None else None


def is_own(host: str, own_servers: Sequence[str]) -> bool:
    """Whether one of the names, or of the patterns with `*`, is this host's."""
    return any(fnmatch.fnmatchcase(host.lower(), own.lower().rstrip(".")) for own in own_servers)
