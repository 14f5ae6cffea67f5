"""What organizers decide of submissions: `ranker review`, `admit`, `withdraw`, `disqualify`, `reinstate`, `judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli import tables
from ranker.cli.options import JsonFlag, err, out, print_json
from ranker.errors import UsageError
from ranker.types import Action, Rule

if TYPE_CHECKING:
    from ranker.overview import SubmissionView
    from ranker.rules import Change

SubmissionArgument = Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")]
WhyOption = Annotated[str, typer.Option("--why", help="The reason, in a sentence; it is kept in the log.")]


class Disclosure(StrEnum):
    """What a human found in a report."""

    OK = "ok"
    MISSING = "missing"


class Admissible(StrEnum):
    """Rules that an organizer may set aside for one submission."""

    DEADLINE = Rule.DEADLINE.value
    REGISTRATION = Rule.REGISTRATION.value
    MEMBERSHIP = Rule.MEMBERSHIP.value
    REPORT = Rule.REPORT.value
    DISCLOSURE = Rule.DISCLOSURE.value


def review(
    context: typer.Context,
    submission: SubmissionArgument,
    disclosure: Annotated[
        Disclosure | None,
        typer.Option(
            "--disclosure", help="Whether the report says what the encoder was trained on; default: show where to look."
        ),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="What is missing, for the sender; or where it stands.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Record what a human found in a submission's report; or show where to look.

    It is said of the report that is there now: another one is to be read anew.
    """
    service: services.Ranker = context.obj
    if disclosure is None:
        if note:
            raise UsageError("--note goes with --disclosure ok or --disclosure missing")
        path, found = service.report(submission)
        if as_json:
            print_json({"path": str(path), "report": found})
        else:
            _print_report(path, found)
        return
    _print(service.review(submission, holds=disclosure is Disclosure.OK, note=note), as_json=as_json)


def admit(
    context: typer.Context,
    submission: SubmissionArgument,
    why: WhyOption,
    rule: Annotated[Admissible, typer.Option("--rule", help="What to set aside.")] = Admissible.DEADLINE,
    revoke: Annotated[bool, typer.Option("--revoke", help="Let the rule stand again.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Let a rule not stand against a submission: a late one is ranked.

    Only what is broken or open is set aside; an admission of what is met changes nothing.
    """
    service: services.Ranker = context.obj
    _print(service.admit(submission, rule=Rule(rule.value), why=why, revoked=revoke), as_json=as_json)


def withdraw(context: typer.Context, submission: SubmissionArgument, why: WhyOption, as_json: JsonFlag = False) -> None:
    """Take a submission out at its team's wish; the one before it counts again.

    Nothing is deleted.
    """
    service: services.Ranker = context.obj
    _print(service.conduct(submission, Action.WITHDRAW, why=why), as_json=as_json)


def disqualify(
    context: typer.Context, submission: SubmissionArgument, why: WhyOption, as_json: JsonFlag = False
) -> None:
    """Take a submission out by the organizers' decision.

    Nothing is deleted.
    """
    service: services.Ranker = context.obj
    _print(service.conduct(submission, Action.DISQUALIFY, why=why), as_json=as_json)


def reinstate(
    context: typer.Context, submission: SubmissionArgument, why: WhyOption, as_json: JsonFlag = False
) -> None:
    """Take a withdrawn or disqualified submission back."""
    service: services.Ranker = context.obj
    _print(service.conduct(submission, Action.REINSTATE, why=why), as_json=as_json)


def judge(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge all submissions anew, after a change of the rules in configs/service.yaml.

    Whatever else changes a fact (an arrival, a check, a list of teams, a decision) judges by itself.
    """
    service: services.Ranker = context.obj
    changes = service.judge(dry_run=dry_run)
    if as_json:
        print_json([{"submission": each.submission_id, **each.to_json()} for each in changes])
    elif not changes:
        out.print("every verdict is what the rules say")
    else:
        print_changes(changes)


def print_changes(changes: Sequence[Change]) -> None:
    """Verdicts that became others, a line for each."""
    for each in changes:
        before, after = each.before or "nothing said", each.after or "nothing said"
        out.print(Text(f"{each.submission_id}  {each.rule}: {before} -> {after}: {each.why}"))


def warn_of_outdated(service: services.Ranker) -> None:
    """Nobody shall read a ranking by rules that hold no more without having been told."""
    count = service.outdated()
    if count:
        err.print(
            Text.assemble(
                ("warning:", "bold yellow"),
                f" {count} verdict{'s are' if count > 1 else ' is'} of rules that were configured otherwise; "
                "`ranker judge` judges all anew, `ranker judge --dry-run` says what that changes",
            )
        )


def _print_report(path: Path, found: Mapping[str, Any] | None) -> None:
    """Where the report lies, and the places in it that may speak of training data."""
    out.print(Text(str(path)))
    if found is None:
        out.print("it has not been read yet: the check does that")
        return
    out.print(Text(f"{found['pages']} pages, {found['characters']} characters of text"))
    tables.print_reasons(out, [*found["problems"], *found["remarks"]])
    for mention in found["mentions"]:
        out.print(Text(f"  page {mention['page']}, {mention['term']}: {mention['text']}"))
    if not found["mentions"]:
        out.print("no word in it that speaks of training data: read it")


def _print(view: SubmissionView, *, as_json: bool) -> None:
    if as_json:
        print_json(view.to_json())
    else:
        out.print(tables.standing(view))
