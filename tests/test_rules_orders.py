"""The same facts give the same verdicts, in whatever order they became known, and whatever the clock said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from challenge import ALL_RULES, CLOSES, EARLY, Book, came, decided, entry, ruling, team
from effort import count
from homes import new_engine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from ranker import events, rules
from ranker.db.models import Submission
from ranker.db.rules import Verdict
from ranker.home import Home
from ranker.rules import SHOWN, registry, sheet, standing
from ranker.rules.teams import Delivered, Roster
from ranker.rules.verdicts import Entry, judge
from ranker.settings import Rules
from ranker.types import Action, Rule, Ruling, Standing, Status

IN_ORDERS = count("orders in which the facts of a challenge became known", short=8, long=3000)
FIELDS = count("fields of submissions that were judged at once", short=60, long=10_000)

# Two lists of teams, with one person in both.
LISTS = (
    "team,e-mail,members\nLab,ann@lab.org;bob@lab.org,Ann;Bob\n",
    "team,e-mail,members\nOther,o@other.org,Ann;Oz\n",
)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that becomes known. `of`: the submission that must have arrived before; None: none."""

    what: str
    of: str | None
    learn: Callable[[Book, datetime], None]


def arrival(name: str, delivery: Delivered, *, report: bool = False) -> Fact:
    def learn(book: Book, now: datetime) -> None:
        rules.judge(book.session, book.home, book.arrive(name, delivery, report=report), now, rules=ALL_RULES)

    return Fact(what=f"{name} arrives {delivery.source}", of=None, learn=learn)


def of(name: str, what: str, change: Callable[[Book, str], None]) -> Fact:
    def learn(book: Book, now: datetime) -> None:
        key = entry(name).id
        change(book, key)
        rules.judge(book.session, book.home, key, now, rules=ALL_RULES)

    return Fact(what=f"{what} of {name}", of=name, learn=learn)


def imported(text: str) -> Fact:
    def learn(book: Book, now: datetime) -> None:
        registry.import_sheet(
            book.session, book.home, sheet.read(text.encode(), "t.csv"), file="t.csv", prune=False, by="eve", now=now
        )
        rules.judge_all(book.session, book.home, now, rules=ALL_RULES)

    return Fact(what=f"list {text!r}", of=None, learn=learn)


def decision(name: str, action: Action, **given: object) -> Fact:
    made = decided(action, **given)  # type: ignore[arg-type]
    return of(name, str(action), lambda book, key: book.decide(key, made))


def checked(name: str, status: Status = Status.SUCCEEDED, *, report: bool = False) -> Fact:
    return of(name, f"check {status}", lambda book, key: book.check(key, status, report=report))


ARRIVALS = {
    "v1": [came(0, "ann@lab.org"), came(200, "ann@lab.org")],  # sent again, after the deadline
    "v2": [came(3, "Bob+x@lab.org")],
    "v3": [came(100, "bob@lab.org")],  # late, and admitted below
    "v4": [came(101, "bob@lab.org")],  # later still
    "v5": [came(4, "o@other.org"), came(4, "ann@lab.org")],  # one moment, two teams
    "lab": [came(5)],  # by hand
    "v6": [came(6, "nobody@no.where")],
    "v7": [came(7, "bob@lab.org")],  # refused
}
FACTS = [
    *[arrival(name, each, report=name in {"v1", "v3"}) for name, several in ARRIVALS.items() for each in several],
    *map(imported, LISTS),
    *[checked(name, report=name in {"v1", "v3"}) for name in ("v1", "v2", "v3", "v4", "v5", "lab", "v6")],
    checked("v7", Status.FAILED),
    decision("v1", Action.REVIEW, report="ab" * 32),
    decision("v3", Action.ADMIT, rule=Rule.DEADLINE),
    decision("v2", Action.WITHDRAW),
    decision("v5", Action.ADMIT, rule=Rule.MEMBERSHIP),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = new_engine(Home(root=tmp_path_factory.mktemp("home")))
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def in_their_order(engine: Engine) -> dict[str, object]:
    """What the facts lead to as they are listed, each learned at one moment."""
    with Session(engine) as session:
        home = Home(root=Path(str(engine.url.database)).parent)
        found = learned(session, home, FACTS, [EARLY] * len(FACTS))
        session.rollback()
    assert len(found) > 5 * len(ARRIVALS)
    return found


def learned(session: Session, home: Home, facts: list[Fact], clock: list[datetime]) -> dict[str, object]:
    """All verdicts, and what teams submissions are of, after these facts in this order; nothing else of them."""
    book = Book(session=session, home=home)
    waiting = list(zip(facts, clock, strict=True))
    there: set[str] = set()
    while waiting:  # a check or a decision waits for the first arrival
        place = next(n for n, (fact, _) in enumerate(waiting) if fact.of is None or fact.of in there)
        fact, now = waiting.pop(place)
        fact.learn(book, now)
        there |= {name for name in ARRIVALS if fact.what.startswith(f"{name} arrives")}
    session.flush()
    found: dict[str, object] = {
        f"{each.submission_id} {each.rule}": (each.ruling, each.why, each.evidence, each.decided_by)
        for each in session.scalars(select(Verdict))
    }
    return found | {each.id: each.team for each in session.scalars(select(Submission))}


@settings(
    max_examples=IN_ORDERS,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_the_order_in_which_facts_become_known_does_not_matter(
    engine: Engine, in_their_order: dict[str, object], data: st.DataObject
) -> None:
    """Arrivals, checks, lists of teams, decisions, in any order, at any time of our clock, and judged after each."""
    order = data.draw(st.permutations(FACTS))
    hours = data.draw(st.lists(st.integers(-10_000, 10_000), min_size=len(FACTS), max_size=len(FACTS)))
    home = Home(root=Path(str(engine.url.database)).parent)
    with Session(engine) as session:
        found = learned(session, home, list(order), [EARLY + timedelta(hours=each) for each in hours])
        assert rules.outdated(session, home, rules=ALL_RULES) == []
        assert events.verify(events.since(session)) is None
        session.rollback()
    assert found == in_their_order


def test_what_the_orders_lead_to(engine: Engine) -> None:
    """The challenge of the test above, as a person would settle it: one of each team counts, and everybody's reason."""
    home = Home(root=Path(str(engine.url.database)).parent)
    with Session(engine) as session:
        learned(session, home, FACTS, [EARLY] * len(FACTS))
        stands = rules.standings(session)
        teams = {each.id: each.team for each in session.scalars(select(Submission))}
        session.rollback()
    found = {name: stands[entry(name).id] for name in ARRIVALS}
    assert found == {
        "v1": Standing.SUPERSEDED,
        "v2": Standing.WITHDRAWN,
        "v3": Standing.PENDING,  # admitted though late; Ann is in two teams
        "v4": Standing.LATE,
        "v5": Standing.SUPERSEDED,  # of Lab: of two that came at one moment, the message that sorts first
        "lab": Standing.SUPERSEDED,
        "v6": Standing.PENDING,
        "v7": Standing.PENDING,  # refused: where it stands does not matter
    }
    assert teams[entry("v1").id] == "Lab"
    assert teams[entry("v6").id] == "v6"


# -- of any field of submissions

SENDERS = ("ann@lab.org", "bob@lab.org", "o@other.org", "x@y.zz", None)
KNOWN = Roster(teams=(team("Lab", "ann@lab.org", "bob@lab.org", members=("Ann",)), team("Other", "o@other.org")))


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """Up to eight submissions around the deadline, of few teams, accepted or not, with some decisions."""
    found = []
    for place in range(draw(st.integers(1, 8))):
        arrivals = draw(
            st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(SENDERS)), min_size=1, max_size=3, unique=True)
        )
        deliveries = tuple(
            Delivered(arrived_at=CLOSES + timedelta(minutes=7 * shift), arrived_by="", source=f"{n}", sender=sender)
            for n, (shift, sender) in enumerate(arrivals)
        )
        actions = draw(st.lists(st.sampled_from([Action.ADMIT, Action.WITHDRAW, Action.REINSTATE]), max_size=2))
        decisions = tuple(decided(each, rule=Rule.DEADLINE if each is Action.ADMIT else None) for each in actions)
        found.append(
            entry(
                f"s{place}",
                *deliveries,
                team=draw(st.sampled_from(["Lab", "lab", "Nobody", "x"])),
                is_accepted=draw(st.booleans()),
                decisions=decisions,
            )
        )
    return found


@settings(max_examples=FIELDS, deadline=None, derandomize=True)
@given(field=entries(), asked=st.sampled_from([ALL_RULES, Rules(one_model_per_team=True), ALL_RULES.model_copy(
    update={"report": False, "disclosure": False})]))  # fmt: skip
def test_one_of_each_team_counts_and_it_is_the_last_that_may(field: list[Entry], asked: Rules) -> None:
    """At most one of a registered team's is shown; what counts is valid, and no valid one came after it."""
    judged = judge(field, KNOWN, asked)
    assert judge(list(reversed(field)), KNOWN, asked) == judged
    shown: dict[str, list[Entry]] = {}
    for each in field:
        own = judged[each.id]
        if each.is_accepted and own.match.team is not None and standing(own.ruled) in SHOWN:
            shown.setdefault(own.match.team.name, []).append(each)
        if ruling(own, Rule.ONE_MODEL) is Ruling.BROKEN:
            (verdict,) = [said for said in own.ruled if said.rule is Rule.ONE_MODEL]
            counting = next(other for other in field if other.id == verdict.evidence["counts"])
            assert counting.is_accepted
            assert Ruling.BROKEN not in {said.ruling for said in judged[counting.id].ruled}
            assert (counting.first.arrived_at, counting.id) > (each.first.arrived_at, each.id)
    assert all(len(several) == 1 for several in shown.values())


@settings(max_examples=FIELDS, deadline=None, derandomize=True)
@given(
    seconds=st.integers(-(10**6), 10**6), grace=st.integers(0, 600), zone=st.sampled_from(["AoE", "Asia/Tokyo", "Z"])
)
def test_lateness_is_the_same_in_every_zone(seconds: int, grace: int, zone: str) -> None:
    """A deadline and an arrival are moments: the zone that either is written in decides nothing."""
    asked = Rules(deadline=f"2026-02-12T23:59 {zone}", grace_minutes=grace)
    closes = asked.closes
    assert closes is not None
    at = closes.over + timedelta(seconds=seconds)
    for moment in (at, at.astimezone(closes.zone), at.astimezone(UTC)):
        one = entry("a", Delivered(arrived_at=moment, arrived_by="", source="m"))
        expected = Ruling.BROKEN if seconds >= grace * 60 else Ruling.MET
        assert ruling(judge([one], Roster(), asked)[one.id], Rule.DEADLINE) is expected
