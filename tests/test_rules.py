"""What the rules say of a submission, and where it stands by that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from challenge import (
    ALL_RULES,
    CLOSES,
    EARLY,
    REPORT,
    came,
    decided,
    entry,
    roster,
    ruling,
    said,
    team,
)
from pydantic import ValidationError

from ranker.deadline import Deadline
from ranker.rules import missing, public_words, shown_name, standing
from ranker.rules.teams import Delivered, Roster
from ranker.rules.verdicts import Entry, Judged, Report, judge
from ranker.settings import Rules, Service
from ranker.types import Action, Rule, Ruling, Standing

NOBODY = Roster()
ONE_MODEL = Rules(one_model_per_team=True)
DEADLINE = Rules(deadline="2026-02-12T23:59 AoE", grace_minutes=10)


def judged(one: Entry, rules: Rules, known: Roster = NOBODY) -> Judged:
    return judge([one], known, rules)[one.id]


def standings(rules: Rules, *entries: Entry, known: Roster = NOBODY) -> list[Standing]:
    """Where each stands, in their order."""
    found = judge(entries, known, rules)
    return [standing(found[each.id].ruled) for each in entries]


# -- the deadline


@pytest.mark.parametrize(
    ("text", "over"),
    [
        ("2026-02-12T23:59 AoE", "2026-02-13T12:00:00+00:00"),
        ("2026-02-12 23:59 aoe", "2026-02-13T12:00:00+00:00"),
        ("2026-02-12T23:59:00 AoE", "2026-02-13T11:59:01+00:00"),
        ("2026-02-12T18:00 Europe/Vienna", "2026-02-12T17:01:00+00:00"),
        ("2026-07-12T18:00 Europe/Vienna", "2026-07-12T16:01:00+00:00"),
        ("2026-02-12T18:00+05:30", "2026-02-12T12:31:00+00:00"),
        ("2026-02-12T18:00 UTC-3", "2026-02-12T21:01:00+00:00"),
        ("2026-02-12T18:00Z", "2026-02-12T18:01:00+00:00"),
        ("2026-02-12T23:59 Etc/GMT+12", "2026-02-13T12:00:00+00:00"),
        ("2026-10-25T02:30 Europe/Vienna", "2026-10-25T01:31:00+00:00"),  # twice that night; the later one holds
    ],
)
def test_a_deadline_lasts_through_what_is_written(text: str, over: str) -> None:
    """23:59 is in time till midnight in its own zone, summer or winter; 23:59:00 only for that second."""
    assert Deadline.parse(text).over.isoformat() == over


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-02-12T23:59", "is not understood"),
        ("2026-02-12", "is not understood"),
        ("tomorrow AoE", "is not understood"),
        ("2026-02-12T24:00 AoE", "is no time"),
        ("2026-02-30T10:00 AoE", "is no time"),
        ("9999-12-31T23:59 AoE", "is no time"),
        ("2026-03-29T02:30 Europe/Vienna", "never comes"),
        ("2026-02-12T23:59 CEST", "summer time belongs to places"),
        ("2026-02-12T23:59+19:00", "no place on Earth"),
    ],
)
def test_a_deadline_without_a_zone_or_that_is_no_time_is_refused(text: str, words: str) -> None:
    """A deadline that means another hour to somebody is found when the configuration is read, not on the last day."""
    with pytest.raises(ValidationError, match=words):
        Rules(deadline=text)


def test_times_that_yaml_reads_by_itself_keep_their_zone() -> None:
    """YAML makes times of some strings: one with a zone is as good as text, one without is as bad."""
    aware = datetime(2026, 2, 12, 23, 59, tzinfo=UTC)
    found = Rules.model_validate({"deadline": aware}).closes
    assert found is not None
    assert found.over == aware + timedelta(seconds=1)
    with pytest.raises(ValidationError, match="is not understood"):
        Rules.model_validate({"deadline": aware.replace(tzinfo=None)})
    with pytest.raises(ValidationError, match="is not understood"):
        Rules.model_validate({"deadline": aware.date()})


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(microseconds=-1), Ruling.MET),
        (timedelta(0), Ruling.MET),
        (timedelta(minutes=10, microseconds=-1), Ruling.MET),
        (timedelta(minutes=10), Ruling.BROKEN),
        (timedelta(days=3), Ruling.BROKEN),
    ],
)
def test_the_grace_ends_on_the_moment(after: timedelta, expected: Ruling) -> None:
    """One microsecond decides on both sides of the end of the grace, and nothing at the deadline itself."""
    arrival = Delivered(arrived_at=CLOSES + after, arrived_by="Received: by mx", source="message 1")
    found = said(judged(entry("a", arrival), DEADLINE), Rule.DEADLINE)
    assert found is not None
    assert found.ruling is expected
    assert found.evidence["arrived_at"] == (CLOSES + after).isoformat()
    assert found.evidence["read_from"] == "Received: by mx"
    assert found.evidence["arrived_local"].endswith("AoE")


def test_the_earliest_arrival_of_the_bytes_counts() -> None:
    """Who sends the same file again after the deadline, to be sure, is not late by that."""
    late, early = came(100, "a@x.org"), came(-1, "a@x.org")
    found = said(judged(entry("a", late, early), DEADLINE), Rule.DEADLINE)
    assert found is not None
    assert (found.ruling, found.evidence["source"]) == (Ruling.MET, early.source)
    assert ruling(judged(entry("a", late), DEADLINE), Rule.DEADLINE) is Ruling.BROKEN


def test_a_late_one_is_kept_unranked_until_it_is_admitted() -> None:
    """Admitted, it is ranked like any other, with who did so and why; taken back, it is late again."""
    late = entry("a", came(100))
    admission = decided(Action.ADMIT, rule=Rule.DEADLINE)
    admitted = entry("a", came(100), decisions=(admission,))
    revoked = entry("a", came(100), decisions=(admission, decided(Action.ADMIT, rule=Rule.DEADLINE, holds=False)))
    assert [standings(DEADLINE, each)[0] for each in (late, admitted, revoked)] == [
        Standing.LATE,
        Standing.RANKED,
        Standing.LATE,
    ]
    found = said(judged(admitted, DEADLINE), Rule.DEADLINE)
    assert found is not None
    assert (found.ruling, found.decided_by) == (Ruling.WAIVED, "eve@host")
    assert found.evidence["admitted"]["why"] == "a reason"
    assert found.evidence["late_s"] > 0


def test_an_admission_of_what_is_met_changes_nothing() -> None:
    """An admission given in advance stays without effect, and visible in the log alone, while the rule is met."""
    early = entry("a", came(-1), decisions=(decided(Action.ADMIT, rule=Rule.DEADLINE),))
    assert ruling(judged(early, DEADLINE), Rule.DEADLINE) is Ruling.MET


# -- what can still be mended


def test_a_fresh_home_asks_for_nothing() -> None:
    """Without rules no verdict stands against anybody, however odd a submission is, and all are ranked."""
    assert Service().rules == Rules()
    odd = [entry("a", came(1000, "x@y.zz"), is_accepted=accepted) for accepted in (True, False)]
    assert [judged(each, Rules()).ruled for each in odd] == [(), ()]
    assert standings(Rules(), entry("a"), entry("a ", came(1))) == [Standing.RANKED, Standing.RANKED]


def test_what_a_sender_can_mend_is_pending_and_says_how() -> None:
    """Not registered, no report, nothing disclosed: pending, each with one sentence that names the way out."""
    found = judged(entry("a", came(0, "ann@x.org")), ALL_RULES)
    open_rules = {each.rule: each.why for each in found.ruled if each.ruling is Ruling.PENDING}
    assert set(open_rules) == {Rule.REGISTRATION, Rule.REPORT, Rule.DISCLOSURE}
    assert "no registered team writes from ann@x.org" in open_rules[Rule.REGISTRATION]
    assert "register the team with this address" in open_rules[Rule.REGISTRATION]
    assert "send it as a PDF" in open_rules[Rule.REPORT]
    assert standing(found.ruled) is Standing.PENDING
    known = roster(team("A", "ann@x.org"))
    settled = entry(
        "a",
        came(0, "ann@x.org"),
        report_digest="d1",
        report=Report(pages=4, found=REPORT),
        decisions=(decided(Action.REVIEW, report="d1"),),
    )
    assert standing(judged(settled, ALL_RULES, known).ruled) is Standing.RANKED


def test_a_report_that_is_wrong_is_pending_with_all_that_is_wrong() -> None:
    """The sender reads every fault of the report at once."""
    report = Report(pages=9, problems=("it has 9 pages", "it is encrypted"), found={"pages": 9})
    found = said(judged(entry("a", report_digest="d1", report=report), Rules(report=True)), Rule.REPORT)
    assert found is not None
    assert (found.ruling, found.why) == (Ruling.PENDING, "it has 9 pages; it is encrypted")
    assert found.evidence == {"digest": "d1", "found": {"pages": 9}}


def test_a_review_is_of_one_report() -> None:
    """What a human read in one report says nothing of the next one; the last word on a report holds."""
    rules = Rules(disclosure=True)
    ok, bad = decided(Action.REVIEW, report="d1"), decided(Action.REVIEW, report="d1", holds=False)
    for decisions, digest, expected in [
        ((ok,), "d1", Ruling.MET),
        ((ok,), "d2", Ruling.PENDING),
        ((bad,), "d1", Ruling.PENDING),
        ((bad, ok), "d1", Ruling.MET),
        ((ok, bad), "d1", Ruling.PENDING),
    ]:
        one = entry("a", report_digest=digest, decisions=decisions)
        assert ruling(judged(one, rules), Rule.DISCLOSURE) is expected


def test_one_person_in_two_teams_leaves_both_pending() -> None:
    """Neither team is judged by the order in which the lists came; a third one is not touched."""
    known = roster(
        team("A", "a@x.org", members=("Ann Lee", "Bob")),
        team("B", "b@x.org", members=("ann lee",)),
        team("C", "c@x.org"),
    )
    rules = Rules(one_team_per_person=True)
    of_teams = [judged(entry(name, came(0, f"{name}@x.org")), rules, known) for name in "abc"]
    assert [ruling(each, Rule.MEMBERSHIP) for each in of_teams] == [Ruling.PENDING, Ruling.PENDING, Ruling.MET]
    found = said(of_teams[0], Rule.MEMBERSHIP)
    assert found is not None
    assert "Ann Lee is also in B" in found.why
    assert "Bob" not in found.why


# -- one model of each team


def test_the_last_valid_one_counts_and_earlier_ones_are_superseded() -> None:
    """Of a team's submissions the last is ranked; the others stay known, with what took their place."""
    first, second, third = (entry(f"model {hours}", came(hours, "a@x.org")) for hours in range(3))
    assert standings(ONE_MODEL, third, first, second) == [
        Standing.RANKED,
        Standing.SUPERSEDED,
        Standing.SUPERSEDED,
    ]
    found = said(judge([first, second, third], NOBODY, ONE_MODEL)[first.id], Rule.ONE_MODEL)
    assert found is not None
    assert found.evidence["counts"] == third.id
    assert third.id in found.why


def test_a_refused_late_or_withdrawn_one_never_supersedes() -> None:
    """A broken last attempt must not cost a team the model that it had."""
    rules = Rules(one_model_per_team=True, deadline="2026-02-12T23:59 AoE")
    good = entry("good", came(0, "a@x.org"))
    for bad in (
        entry("refused", came(1, "a@x.org"), is_accepted=False),
        entry("late", came(100, "a@x.org")),
        entry("gone", came(1, "a@x.org"), decisions=(decided(Action.WITHDRAW),)),
        entry("out", came(1, "a@x.org"), decisions=(decided(Action.DISQUALIFY),)),
    ):
        assert standings(rules, good, bad)[0] is Standing.RANKED
    admitted = entry("late", came(100, "a@x.org"), decisions=(decided(Action.ADMIT, rule=Rule.DEADLINE),))
    assert standings(rules, good, admitted) == [Standing.SUPERSEDED, Standing.RANKED]


def test_a_withdrawn_one_gives_way_to_the_one_before() -> None:
    """And takes its place back when it is reinstated."""
    first, second = entry("first", came(0, "a@x.org")), entry("second", came(1, "a@x.org"))
    gone = entry("second", came(1, "a@x.org"), decisions=(decided(Action.WITHDRAW),))
    back = entry("second", came(1, "a@x.org"), decisions=(decided(Action.WITHDRAW), decided(Action.REINSTATE)))
    assert standings(ONE_MODEL, first, second) == [Standing.SUPERSEDED, Standing.RANKED]
    assert standings(ONE_MODEL, first, gone) == [Standing.RANKED, Standing.WITHDRAWN]
    assert standings(ONE_MODEL, first, back) == [Standing.SUPERSEDED, Standing.RANKED]


def test_a_pending_one_supersedes_for_it_is_valid() -> None:
    """The last one counts though its report is missing: the team is unranked until that is settled."""
    rules = Rules(one_model_per_team=True, report=True)
    whole = entry("first", came(0, "a@x.org"), report_digest="d", report=Report(pages=3))
    assert standings(rules, whole, entry("second", came(1, "a@x.org"))) == [Standing.SUPERSEDED, Standing.PENDING]


def test_two_at_one_moment_have_one_that_counts() -> None:
    """Two attachments of one message arrive together: one of them counts, always the same."""
    two = [entry(name, came(0, "a@x.org", source=f"message {name}")) for name in ("x", "y")]
    assert standings(ONE_MODEL, *two) == list(reversed(standings(ONE_MODEL, *reversed(two))))
    assert sorted(standings(ONE_MODEL, *two)) == [Standing.RANKED, Standing.SUPERSEDED]


def test_strangers_with_one_file_name_do_not_supersede_each_other() -> None:
    """Everybody's ZIP may be called submission.zip: who is not registered is told by his mailbox, not by that name."""
    one, other = entry("submission", came(0, "a@x.org")), entry("submission.", came(1, "b@y.org"), team="submission")
    assert standings(ONE_MODEL, one, other) == [Standing.RANKED, Standing.RANKED]
    by_hand = [entry("lab", came(0)), entry("lab 2", came(1), team="LAB ")]
    assert standings(ONE_MODEL, *by_hand) == [Standing.SUPERSEDED, Standing.RANKED]


def test_a_stranger_who_names_a_team_does_not_supersede_it() -> None:
    """A mail from elsewhere with another team's name neither counts as that team's nor takes its place."""
    known = roster(team("Lab", "ann@lab.org", "bob@lab.org"))
    rules = Rules(one_model_per_team=True, registration=True)
    own = entry("v1", came(0, "Bob+challenge@LAB.org"))
    forged = entry("v2", came(1, "mallory@evil.org"), team="Lab")
    assert standings(rules, own, forged, known=known) == [Standing.RANKED, Standing.PENDING]
    found = said(judged(forged, rules, known), Rule.REGISTRATION)
    assert found is not None
    assert "mallory@evil.org, which is no address of that team" in found.why
    assert shown_name("Lab", judged(forged, rules, known).ruled) == "Lab (not confirmed)"
    assert shown_name("Lab", judged(own, rules, known).ruled) == "Lab"
    both = entry("v3", came(2, "ann@lab.org"))
    assert standings(rules, own, both, known=known) == [Standing.SUPERSEDED, Standing.RANKED]


# -- conduct


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([], Standing.RANKED),
        ([Action.WITHDRAW], Standing.WITHDRAWN),
        ([Action.WITHDRAW, Action.REINSTATE], Standing.RANKED),
        ([Action.DISQUALIFY, Action.WITHDRAW], Standing.DISQUALIFIED),
        ([Action.WITHDRAW, Action.DISQUALIFY], Standing.DISQUALIFIED),
        ([Action.DISQUALIFY, Action.REINSTATE, Action.WITHDRAW], Standing.WITHDRAWN),
        ([Action.REINSTATE], Standing.RANKED),
    ],
)
def test_the_last_word_on_conduct_holds(actions: list[Action], expected: Standing) -> None:
    """Nobody escapes a disqualification by withdrawing."""
    one = entry("a", decisions=tuple(map(decided, actions)))
    assert standings(Rules(), one) == [expected]


def test_the_gravest_verdict_gives_the_standing() -> None:
    """A late submission that was also disqualified is disqualified, and one that is pending and late is late."""
    late_and_bad = entry("a", came(100), decisions=(decided(Action.DISQUALIFY),))
    assert standings(ALL_RULES, late_and_bad, entry("b", came(100))) == [Standing.DISQUALIFIED, Standing.LATE]


def test_public_words_name_nobody() -> None:
    """What stands on the page has no address, no person and no other team's name in it."""
    known = roster(team("Lab", "ann@lab.org", members=("Ann Lee",)), team("Other", "o@o.org", members=("ann lee",)))
    one = entry("v1", came(0, "ann@lab.org"))
    stranger = entry("v2", came(0, "mallory@evil.org"), team="Lab")
    words = [public_words(judged(each, ALL_RULES, known).ruled) for each in (one, stranger)]
    assert "which team a member belongs to" in words[0]
    assert "does not belong to a registered team" in words[1]
    for secret in ("@", "Ann", "Lab", "Other", "mallory"):
        assert secret not in " ".join(words)
    assert len(missing(judged(one, ALL_RULES, known).ruled)) == 3
    assert public_words([]) == "It is ranked."
    assert EARLY < CLOSES
