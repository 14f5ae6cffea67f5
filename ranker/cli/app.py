"""The commands. Each parses, calls one function of the service, and prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError

import ranker
from ranker import service as services
from ranker.cli import tables
from ranker.cli.audit import audit
from ranker.cli.calibrate import calibrate
from ranker.cli.data import data_app
from ranker.cli.db import db_app
from ranker.cli.doctor import doctor
from ranker.cli.estimate import estimate
from ranker.cli.hosts import allow_host
from ranker.cli.inbox import inbox
from ranker.cli.ingest import check, ingest, run_checks
from ranker.cli.inspect import data_inspect
from ranker.cli.links import links_app
from ranker.cli.log import log
from ranker.cli.logs import logs
from ranker.cli.metric import metric
from ranker.cli.metrics import metrics
from ranker.cli.options import (
    AddressOption,
    BenchmarkOption,
    ConditionOption,
    ExecutorOption,
    HiddenOption,
    JsonFlag,
    SandboxOption,
    TrackOption,
    WithOption,
    WorkersOption,
    err,
    out,
    print_json,
    warn_without_sandbox,
)
from ranker.cli.outbox import outbox_app
from ranker.cli.plan import plan
from ranker.cli.progress import JobDisplay
from ranker.cli.queue import cancel, pause, print_pause, prioritize, rerun, resume, retry
from ranker.cli.rules import admit, disqualify, judge, reinstate, review, warn_of_outdated, withdraw
from ranker.cli.teams import teams_app
from ranker.cli.watch import watch
from ranker.cli.work import work
from ranker.errors import InfraError, ParticipantError, RankerError, UsageError
from ranker.types import ExecutorName

if TYPE_CHECKING:
    from ranker.scoretable import Ranked
    from ranker.uncertainty import Agreement, Alternative

app = typer.Typer(
    name="ranker",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Take in, run, score and rank audio encoders of a challenge for large audio language models.",
)
data_app.command("inspect")(data_inspect)
app.add_typer(data_app, name="data")
app.add_typer(db_app, name="db")
app.command()(ingest)
app.command()(check)
app.add_typer(links_app, name="links")
app.command()(inbox)
app.add_typer(outbox_app, name="outbox")
app.command("allow-host")(allow_host)
app.command()(audit)
app.command()(calibrate)
app.command()(estimate)
app.command()(plan)
app.command()(metric)
app.command()(logs)
app.command()(metrics)
app.command()(doctor)
app.add_typer(teams_app, name="teams")
for decide in (review, admit, withdraw, disqualify, reinstate, judge):
    app.command()(decide)
app.command()(log)
for each in (cancel, retry, prioritize, rerun, pause, resume, work):
    app.command()(each)

# Every complaint about the command line is a click exception; typer has its own copy of click, or not, by its version.
Misuse = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; every expected error is one sentence and an exit code, without a traceback."""
    command = typer.main.get_command(app)
    try:
        arguments = None if arguments is None else list(arguments)
        code = command.main(args=arguments, prog_name="ranker", standalone_mode=False) or 0
        if code == STOPPED:  # newer versions of typer turn Ctrl-C into this code, older ones let it through
            raise KeyboardInterrupt
        sys.stdout.flush()
        sys.exit(code)
    except Misuse as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except ParticipantError as error:
        tables.print_reasons(err, error.reasons)
        sys.exit(error.exit_code)
    except RankerError as error:
        err.print(Text(f"ranker: {error}"))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("ranker: stopped; the same command goes on from here")
        sys.exit(STOPPED)
    except BrokenPipeError:  # nobody reads on: what Python would still write at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(InfraError.exit_code)
    except (OSError, DBAPIError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        advice = "is the disk full, or the home another user's? `ranker doctor` looks at both, and at the database"
        err.print(Text(f"ranker: {found}; {advice}"))
        sys.exit(InfraError.exit_code)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    home: Annotated[
        Path,
        typer.Option(
            "--home", envvar="RANKER_HOME", file_okay=False, help="Folder of ranker.db, submissions/ and leaderboard/."
        ),
    ] = Path(),
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"ranker {ranker.__version__}")
        raise typer.Exit
    context.obj = services.Ranker(home)


@app.command()
def evaluate(
    context: typer.Context,
    submissions: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, their beginnings, or teams.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every accepted submission that may be ranked.")] = False,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    limit_steps: Annotated[
        int | None, typer.Option("--limit-steps", min=1, help="Stop training early: a demonstration.")
    ] = None,
    hidden: HiddenOption = None,
    sandbox: SandboxOption = None,
    executor: ExecutorOption = ExecutorName.LOCAL,
    address: AddressOption = None,
    workers: WorkersOption = None,
    only_queue: Annotated[
        bool, typer.Option("--queue", help="Only queue it, for `ranker work` in another terminal.")
    ] = False,
) -> None:
    """Run what is missing for these submissions.

    One job per track: train, answer, score. Stopped or killed, the same command goes on from the last checkpoint.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if bool(submissions) == everyone:
        raise UsageError("say which submissions: ids or teams, or --all")
    warn_without_sandbox(service.sandbox(sandbox))
    wanted = services.Wanted(benchmark=benchmark, track=track, limit_steps=limit_steps, sandbox=sandbox)
    placing = services.Placing(executor=executor, address=address, workers=workers)
    if everyone and not only_queue:
        run_checks(service, list(service.queue_checks(None).values()), sandbox)
    queued = service.queue_evaluations(submissions, wanted, placing=placing)
    if queued.demonstration:
        err.print(tables.demonstration(queued.demonstration))
    if queued.left_out:
        err.print(tables.left_out(queued.left_out))
    if not queued.asked:
        err.print("no submission has been accepted yet: `ranker ingest FILE.zip` takes one in")
        return
    err.print(Text(f"{len(queued.job_ids)} of {len(queued.asked)} evaluations on {queued.benchmark} are to be done"))
    if only_queue:
        print_pause(service)
        err.print("they are queued: `ranker work` does them")
        return
    with service.open() as engine, JobDisplay(engine, queued.job_ids, err) as display:
        service.run(queued.job_ids, sandbox=sandbox, placing=placing, on_tick=display.tick)
    failures = [(view, view.failures_of(queued.asked)) for view in service.find(queued.submission_ids)]
    failures = [(view, reasons) for view, reasons in failures if reasons]
    for view, reasons in failures:
        err.print(Text(f"{view.submission.id}  {view.submission.team}: failed"))
        tables.print_reasons(err, reasons)
    if failures:
        raise typer.Exit(ParticipantError.exit_code)


@app.command()
def status(
    context: typer.Context,
    watching: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Show what runs, again and again, until Ctrl-C; with --json, as lines."),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option("--interval", min=0.1, metavar="SECONDS", help="With --watch; default: 2, or 30 in a file."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List submissions and their jobs."""
    service: services.Ranker = context.obj
    if watching:
        watch(service, as_json=as_json, interval_s=interval)
        return
    views = service.submissions()
    if not as_json:
        print_pause(service)
    if as_json:
        print_json([view.to_json() for view in views])
        warn_of_outdated(service)
    elif not views:
        out.print("no submissions yet: `ranker ingest FILE.zip` takes one in")
    else:
        out.print(tables.submissions(views))
        warn_of_outdated(service)


@app.command()
def show(
    context: typer.Context,
    submission: Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a submission: faults, scores, manifests."""
    service: services.Ranker = context.obj
    (view,) = service.find([submission])
    if as_json:
        print_json(view.to_json())
    else:
        out.print(tables.submission(view))


@app.command()
def rank(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="TABLE.csv",
            exists=True,
            dir_okay=False,
            help="Rank this table of raw scores, a column `team` and one per task, instead of what was measured here; "
            "--benchmark may then be the path of a YAML file.",
        ),
    ] = None,
    including: WithOption = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Print instead who would stand elsewhere under other weights, tasks and means."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Print the ranking, normalised and weighted, and how sure it is (docs/statistics.md).

    What the rules leave pending stands below, without a rank; what is superseded, late, withdrawn or disqualified
    appears only where --with asks for it. Baselines stand where their scores belong, and take no rank.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if scores is not None:
        if condition is not None or including:
            raise UsageError(
                "--condition and --with choose among what was measured here; a table made elsewhere has neither "
                "conditions nor standings"
            )
        print_ranked(service.rank_table(scores, benchmark, track=track), as_json=as_json, sensitivity=sensitivity)
        return
    boards = service.boards(benchmark, track=track, condition=condition, including=including or ())
    warn_of_outdated(service)
    if as_json:
        rankings = [services.sensitivity_json(b) if sensitivity else services.ranking_json(b) for b in boards]
        print_json(rankings[0] if len(rankings) == 1 else rankings)
        return
    for board in boards if sensitivity else ():
        ranked = [(row.team, row.rank) for row in board.rows if row.rank is not None]
        print_sensitivity(board.track, ranked, board.alternatives, board.agreement)
    for board in boards if not sensitivity else ():
        out.print(tables.board(board, out.width))
        if any(row.pending for row in board.rows):
            out.print(tables.pending(board))
    reasons = dict.fromkeys(reason for board in boards for reason in board.demonstration)
    if reasons:
        out.print(tables.demonstration(list(reasons)))


def print_sensitivity(
    track: str, ranked: Sequence[tuple[str, int]], alternatives: Sequence[Alternative], agreement: Agreement | None
) -> None:
    """Ranks under other choices; `ranked`: teams and their ranks, best first."""
    teams, ranks = [team for team, _ in ranked], [rank for _, rank in ranked]
    out.print(tables.sensitivity(track, teams, ranks, alternatives, agreement))


def print_ranked(ranked: Ranked, *, as_json: bool, sensitivity: bool) -> None:
    """The rankings of a table that was made elsewhere, and to standard error what its maker should look at."""
    for warning in ranked.warnings:
        err.print(Text.assemble(("warning:", "bold yellow"), " ", warning))
    if as_json:
        rankings = [each.sensitivity_json() if sensitivity else each.to_json() for each in ranked.rankings]
        print_json(rankings[0] if len(rankings) == 1 else rankings)
        return
    for ranking in ranked.rankings:
        if sensitivity:
            places = [(row.team, row.rank) for row in ranking.rows if row.rank is not None]
            print_sensitivity(ranking.track, places, ranking.alternatives, ranking.agreement)
            continue
        out.print(tables.ranking(ranking, out.width))


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="ID", help="An id, its beginning, or a team.")],
    second: Annotated[str, typer.Argument(metavar="ID", help="The other one.")],
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    condition: ConditionOption = None,
    hidden: HiddenOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say by how much two submissions differ, with the interval of the paired difference."""
    service: services.Ranker = context.obj.with_hidden(hidden)
    found = service.compare(first, second, benchmark, track=track, condition=condition)
    if as_json:
        print_json({name: [each.to_json() for each in differences] for name, differences in found.items()})
        return
    for name, differences in found.items():
        out.print(tables.comparison(name, first, second, differences))


@app.command()
def leaderboard(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    folder: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Folder; default: leaderboard/site of the home.")
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Publish every prediction of the public tasks, with its reference.")
    ] = False,
    including: WithOption = None,
) -> None:
    """Write the static page, with JSON and CSV beside it.

    What is superseded, late, withdrawn or disqualified has no place on it, unless --with asks for it.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    index = service.publish(benchmark, folder, with_predictions=predictions, including=including or ())
    out.print(Text(str(index)))


@app.command()
def results(
    context: typer.Context,
    benchmark: BenchmarkOption = None,
    hidden: HiddenOption = None,
    remarks: Annotated[
        Path | None, typer.Option("--remarks", exists=True, dir_okay=False, help="Markdown to stand below the figures.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", dir_okay=False, help="File; default: standard output.")] = None,
    including: WithOption = None,
) -> None:
    """Write a benchmark's figures as Markdown.

    Ranking, scores, hardware and durations, all from the database.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    text = service.results(benchmark, remarks, including=including or ())
    warn_of_outdated(service)
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
        out.print(Text(str(file)))
