"""Which answers should be there: a function of what the database says, without regard to what was written so far.

Each message that was dealt with has one answer if it brought no ZIP, and one for each submission that came with it. The
same submission sent again by the same person is answered below the newest message. Who sends bytes that are another
team's submission hears that, and nothing of the other team.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import overview
from ranker.config import Benchmark
from ranker.db.mail import Delivery, Link, Message
from ranker.db.rules import Verdict
from ranker.overview import SubmissionView
from ranker.replies.answer import About, Address, Answer, TrackResult
from ranker.replies.results import failures, is_under_way, results
from ranker.rules.judging import deliveries, roster
from ranker.rules.names import mailbox
from ranker.rules.standing import standing
from ranker.types import ReplyKind, Rule, Ruling, SubmissionState

_NOT_THEIRS = (
    "a ZIP in it has the same bytes as a submission that came from somebody else; that is noted, and nothing else was "
    "done with it; the organizers will write to you"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One answer that should have been given by now: to whom, to which message, and what it tells."""

    message: Message
    recipient: str
    submission_id: str | None
    answer: Answer


def wanted(reading: Session, benchmark: Benchmark, *, organizers: str) -> list[Wanted]:
    """Every answer that should have been given, in the order of the messages' arrival."""
    known = _Known.of(reading, benchmark)
    query = select(Message).where(Message.handled_at.is_not(None)).order_by(Message.arrived_at, Message.id)
    messages = list(reading.scalars(query))
    newest: dict[tuple[str, str], Message] = {}
    brought: dict[str, list[tuple[str, str]]] = defaultdict(list)  # message -> (submission, recipient)
    not_theirs: set[str] = set()
    for message in messages:
        for delivery in known.deliveries.get(message.id, ()):
            thread = delivery.submission_id, delivery.sender or message.sender
            if mailbox(thread[1]) not in known.owners[delivery.submission_id]:
                not_theirs.add(message.id)
                continue
            if thread not in brought[message.id]:
                brought[message.id].append(thread)
            newest[thread] = message
    found = []
    for message in messages:
        if message.is_automatic:
            continue
        notes = (*message.notes, *([_NOT_THEIRS] if message.id in not_theirs else []))
        if not brought[message.id]:
            answer = known.answer(message, None, notes, benchmark, organizers)
            found.append(Wanted(message=message, recipient=message.sender, submission_id=None, answer=answer))
        for submission, recipient in brought[message.id]:
            if newest[submission, recipient] is message:
                answer = known.answer(message, known.views[submission], notes, benchmark, organizers)
                found.append(Wanted(message=message, recipient=recipient, submission_id=submission, answer=answer))
    return found


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the database says, by message or by submission. `owners`: the mailboxes that may hear of a submission."""

    views: Mapping[str, SubmissionView]
    verdicts: Mapping[str, Sequence[Verdict]]
    deliveries: Mapping[str, Sequence[Delivery]]
    links: Mapping[str, Sequence[Link]]
    results: Mapping[str, tuple[TrackResult, ...]]
    owners: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, reading: Session, benchmark: Benchmark) -> _Known:
        came = reading.scalars(select(Delivery).order_by(Delivery.id))
        views = {view.submission.id: view for view in overview.submissions(reading)}
        return cls(
            views=views,
            verdicts=_grouped(reading.scalars(select(Verdict).order_by(Verdict.id)), "submission_id"),
            deliveries=_grouped((each for each in came if each.message_id is not None), "message_id"),
            links=_grouped(reading.scalars(select(Link).order_by(Link.id)), "message_id"),
            results=results(reading, benchmark),
            owners=_owners(reading, views),
        )

    def answer(
        self,
        message: Message,
        view: SubmissionView | None,
        notes: Sequence[str],
        benchmark: Benchmark,
        organizers: str,
    ) -> Answer:
        kind, reasons, tracks = self._state(view, benchmark)
        verdicts: Sequence[Verdict] = ()
        if view is not None and kind in {ReplyKind.ACCEPTED, ReplyKind.RESULT}:
            verdicts = self.verdicts.get(view.submission.id, ())
        broken = [each for each in verdicts if each.ruling == Ruling.BROKEN]
        # Where one is broken, to mend the others would be work for nothing.
        unsettled = broken or [each for each in verdicts if each.ruling == Ruling.PENDING]
        return Answer(
            kind=kind,
            challenge=benchmark.title,
            organizers=organizers,
            subject=message.subject,
            arrived=f"{message.arrived_at:%Y-%m-%d %H:%M:%S} UTC",
            submission=None if view is None else _about(view),
            notes=tuple(notes),
            links=tuple(
                Address(url=link.url, state=link.state, why=link.why or "") for link in self.links.get(message.id, ())
            ),
            reasons=reasons,
            standing=str(standing(verdicts)) if kind in {ReplyKind.ACCEPTED, ReplyKind.RESULT} else "",
            unsettled=tuple(_unsettled(each) for each in unsettled),
            tracks=tracks,
        ).cleaned()

    def _state(
        self, view: SubmissionView | None, benchmark: Benchmark
    ) -> tuple[ReplyKind, tuple[str, ...], tuple[TrackResult, ...]]:
        """How far a submission has come, why no further, and its results."""
        if view is None or view.state is SubmissionState.RECEIVED:
            return ReplyKind.RECEIVED, (), ()
        if view.state is SubmissionState.REFUSED:
            return ReplyKind.REFUSED, view.reasons, ()
        evaluations = list(view.evaluations)
        reasons = failures(evaluations, benchmark)
        tracks = self.results.get(view.submission.id, ())
        if is_under_way(evaluations, benchmark) or not (tracks or reasons):
            return ReplyKind.ACCEPTED, (), ()
        return ReplyKind.RESULT, reasons, tracks


def _owners(reading: Session, views: Mapping[str, SubmissionView]) -> dict[str, frozenset[str]]:
    """Whose a submission is: the mailboxes of its registered team, and of the person who sent it first, unless it was
    handed in before that as a registered team's.
    """
    teams, came = roster(reading), deliveries(reading)
    found = {}
    for key, view in views.items():
        team = teams.match(view.submission.team, came[key]).team
        senders = [each.sender for each in sorted(came[key], key=lambda each: each.order)]
        first = senders[:1] if team is not None else [each for each in senders if each][:1]
        own = () if team is None else team.addresses
        found[key] = frozenset(mailbox(each) for each in (*own, *first) if each)
    return found


def _about(view: SubmissionView) -> About:
    submission = view.submission
    encoder: Mapping[str, Any] = {}
    if view.state is not SubmissionState.REFUSED and view.check is not None and view.check.result is not None:
        encoder = view.check.result["encoder"]
    return About(
        id=submission.id,
        sha256=submission.digest,
        team=submission.team,
        file=submission.file_name,
        bytes=submission.size_bytes,
        encoder=str(encoder["attribute"]) if encoder else "",
        features=int(encoder["output_dim"]) if encoder else None,
        frames_per_s=round(float(encoder["frames_per_s"]), 2) if encoder else None,
    )


def _unsettled(verdict: Verdict) -> str:
    """What a verdict means to whoever reads the answer; other people's addresses and teams are none of theirs."""
    if "doubt" in verdict.evidence:
        return (
            "our mail server doubts that the message came from the address that it bears: send it again through the "
            "mail server of that address, or write to us from another that is registered"
        )
    words = {
        Rule.REGISTRATION: "the address that it came from belongs to no registered team: register the team with this "
        "address, or send the same file again from a registered one",
        Rule.MEMBERSHIP: "a member of the team is in another team, too, and one person may be in one: tell us which "
        "team it is, or, if these are two people of one name, their addresses",
    }
    return words.get(Rule(verdict.rule), verdict.why)


def _grouped(rows: Iterable[Any], by: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[getattr(row, by)].append(row)
    return found
