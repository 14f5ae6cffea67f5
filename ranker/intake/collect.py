"""What waits in the mailbox is taken in: kept, recorded and handed on first, and only then marked there.

Killed between any two steps, the next look finds the message again, and `ranker.intake.post` knows it by its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from ranker.db.mail import Message
from ranker.errors import InfraError, RankerError
from ranker.intake.inbox import Mailbox, Waiting
from ranker.intake.ingest import Ingest, Taken
from ranker.intake.post import take_in
from ranker.types import Channel


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What became of one message of the mailbox; `message` is its row.

    Where `taken` has an error of our own (a full disk), the message waits on. `error`: it could not be kept, and is
    flagged in the mailbox for someone to look at.
    """

    waiting: Waiting
    message: Message | None
    taken: tuple[Taken, ...]
    error: RankerError | None = None


def collect(
    mailbox: Mailbox,
    ingest: Ingest,
    passed_over: set[tuple[int, int]],
    *,
    on_message: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Collected]:
    """Take in all that waits, oldest first. What could not be taken is added to `passed_over`, by UIDVALIDITY and UID,
    and not tried again as long as that set is given.

    `on_message` is told how many are done, of how many. Raises InfraError where the server fails, or our own disk: what
    was yielded is taken, and the rest still waits.
    """
    waiting = [each for each in mailbox.waiting() if (each.validity, each.uid) not in passed_over]
    for done, each in enumerate(waiting):
        on_message(done, len(waiting))
        collected = _collected(mailbox, ingest, each)
        if collected.error is None:
            mailbox.mark_taken(each)
        else:
            passed_over.add((each.validity, each.uid))
            mailbox.mark_trouble(each)
        yield collected
    on_message(len(waiting), len(waiting))


def _collected(mailbox: Mailbox, ingest: Ingest, waiting: Waiting) -> Collected:
    what = f"{waiting.sender or 'nobody'}: {waiting.subject or 'without a subject'}"
    try:
        with take_in(
            ingest.home,
            ingest.engine,
            partial(mailbox.read, waiting),
            Channel.IMAP,
            settings=ingest.service.mail,
            arrived_at=waiting.arrived_at,
            now=datetime.now(UTC),
        ) as letter:
            taken = tuple(ingest.letter(what, letter))
            for each in taken:
                if isinstance(each.error, InfraError):
                    raise each.error
    except InfraError:
        raise
    except RankerError as error:
        return Collected(waiting=waiting, message=None, taken=(), error=error)
    return Collected(waiting=waiting, message=letter.message, taken=taken)
