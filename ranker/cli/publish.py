"""`ranker publish`: the page becomes public, or what would, or an older one again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import BenchmarkOption, HiddenOption, JsonFlag, WithOption, err, out, print_json
from ranker.cli.pages import AnonymousOption, PredictionsOption
from ranker.errors import UsageError


def publish(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    predictions: PredictionsOption = False,
    anonymous: AnonymousOption = False,
    named: Annotated[
        bool, typer.Option("--named", help="Name teams that the last version has under pseudonyms.")
    ] = False,
    including: WithOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only list what would become visible, and what stands against it.")
    ] = False,
    not_before: Annotated[
        str | None, typer.Option("--not-before", metavar="TIME", help='Refuse before it: "2026-02-25T12:00 AoE".')
    ] = None,
    despite_embargo: Annotated[
        bool, typer.Option("--despite-embargo", help="Publish though it is too early; the log keeps that.")
    ] = False,
    rollback: Annotated[
        int | None, typer.Option("--rollback", metavar="N", min=1, help="Show version N again, as a new version.")
    ] = None,
    why: Annotated[str, typer.Option("--why", help="The reason; everybody reads it in the history.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make the page public: into leaderboard/site, looked through before, with its history.

    Nothing is published that holds an e-mail address, a path or name of a machine, a password, what belongs to a hidden
    task, or a submission that the rules leave out. Each version is kept whole under leaderboard/versions.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    edition = services.Edition(
        benchmark=benchmark,
        with_predictions=predictions,
        including=tuple(including or ()),
        anonymous=anonymous,
        named=named,
    )
    if check:
        if rollback is not None:
            raise UsageError("--check and --rollback do not go together; a rollback is looked through as it is made")
        _check(service, edition, not_before, as_json=as_json)
        return
    if rollback is not None:
        made = service.roll_back(rollback, including=edition.including, why=why)
    else:
        made = service.publish(edition, not_before=not_before, despite_embargo=despite_embargo, why=why)
    if as_json:
        print_json({"index": str(made.index), "version": None if made.version is None else made.version.to_json()})
        return
    if made.version is None:
        err.print("nothing has changed since the last version but the time, so there is no new one")
    else:
        for sentence in made.version.changed:
            err.print(Text(f"version {made.version.number}: {sentence}"))
    out.print(Text(str(made.index)))


def _check(service: services.Ranker, edition: services.Edition, not_before: str | None, *, as_json: bool) -> None:
    """List what would become visible; exit code 1 if it would be refused."""
    plan, embargoes, outdated = (
        service.publish_check(edition),
        service.embargoes(edition, not_before),
        service.outdated(),
    )
    if as_json:
        print_json(plan.to_json() | {"embargoes": embargoes, "outdated_verdicts": outdated})
    else:
        for heading, lines in services.plan_sections(plan):
            out.print(Text(heading, style="bold"))
            for line in lines:
                out.print(Text(f"  {line}"))
        for finding in plan.findings:
            err.print(Text(f"must not be published: {finding.words()}", style="red"))
        for embargo in embargoes:
            err.print(Text(f"nothing is published before {embargo}, but for --despite-embargo", style="yellow"))
        if outdated:
            err.print(Text(f"{outdated} verdicts will be judged anew first; `ranker judge --dry-run` shows how"))
        said = f"would be refused: {len(plan.findings)} to mend" if plan.findings else "nothing stands against it"
        out.print(Text(f"version {plan.number}: {said}"))
    if plan.findings or embargoes:
        raise typer.Exit(1)
