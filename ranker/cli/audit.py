"""`ranker audit`: whether a score survives slight changes of the test clips, and who has the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ranker import service as services
from ranker.cli.options import (
    BenchmarkOption,
    HiddenOption,
    JsonFlag,
    SandboxOption,
    TrackOption,
    err,
    out,
    print_json,
    warn_without_sandbox,
)
from ranker.durable import whole_file
from ranker.errors import ParticipantError, UsageError
from ranker.sandbox.faults import plain
from ranker.types import AuditVerdict

if TYPE_CHECKING:  # torch stands behind it
    from ranker.audit import Audit, AuditedTask, Changed
    from ranker.likeness import Likeness, Pair

_NAMES, _NAME_CHARACTERS = 20, 100  # of files that are shown
_COLOURS = {AuditVerdict.HOLDS: "green", AuditVerdict.TOO_FEW: "yellow", AuditVerdict.COLLAPSES: "bold red"}


def audit(
    context: typer.Context,
    submission: Annotated[
        str | None, typer.Argument(metavar="ID", help="An id, its beginning, or a team; --weights needs none.")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="List submissions that hold the same, or nearly the same, weights.")
    ] = False,
    benchmark: BenchmarkOption = None,
    track: TrackOption = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    items: Annotated[
        int | None,
        typer.Option("--items", min=1, help="Test clips of each task; default: audit.clips of configs/service.yaml."),
    ] = None,
    seed: Annotated[
        str | None, typer.Option("--seed", help="Draw the clips and changes of an earlier audit again.")
    ] = None,
    hidden: HiddenOption = None,
    sandbox: SandboxOption = None,
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.json", dir_okay=False, help="Write the JSON to a file, too.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score changed test clips again, or compare weights.

    With ID: test clips of its finished evaluation are shifted by milliseconds, or made louder or softer by about a
    decibel, and its encoder and trained model are asked again. A score that was looked up collapses. Exit code 3: one
    did. With --weights: groups of submissions that share weights; public checkpoints often are, and honestly so.
    """
    service: services.Ranker = context.obj.with_hidden(hidden)
    if weights:
        shared = service.likeness([submission] if submission else None)
        _write(shared.to_json(), file, as_json=as_json)
        if not as_json:
            out.print(likeness_table(shared))
        return
    if submission is None:
        raise UsageError("name the submission to audit (`ranker status` lists them), or give --weights to compare all")
    found = _ask(service, submission, benchmark, track=track, task=task, items=items, seed=seed, sandbox=sandbox)
    _write(found.to_json(), file, as_json=as_json)
    if not as_json:
        out.print(audit_table(found))
    if found.collapsed:
        raise typer.Exit(ParticipantError.exit_code)


def _ask(service: services.Ranker, submission: str, benchmark: str | None, **options: Any) -> Audit:
    from ranker.audit import Asked

    warn_without_sandbox(service.sandbox(options["sandbox"]))
    asked = Asked(clips=options.pop("items"), **options)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("loading", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        return service.audit(submission, benchmark, asked=asked, on_progress=show)


def _write(value: dict[str, Any], file: Path | None, *, as_json: bool) -> None:
    if file is not None:
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(value)


def audit_table(found: Audit) -> RenderableType:
    """One line per task: recorded, after each change with the drop and its interval, verdict; and what it means."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", no_wrap=True)
    for column in ("score", "changed", "drop (95%)"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in found.tasks:
        table.add_row(*_cells(each))
    if found.collapsed:
        words = f"{', '.join(found.collapsed)}: far below the recorded score on clips that sound the same"
    else:
        words = "no score is far below the recorded one on clips that sound the same"
    return Group(
        Text(f"{found.team} ({found.submission}) on {found.benchmark}", style="bold"),
        table,
        Text(words, style="red" if found.collapsed else "green"),
        Text(f"a drop of {found.settings.allowed_drop:g} is allowed; --seed {found.seed} draws the same again", "dim"),
    )


def _cells(task: AuditedTask) -> tuple[str | Text, ...]:
    changes = task.changes.items()
    return (
        f"{task.task}\n{task.clips} clips",
        f"{task.recorded:.3f}",
        "\n".join(f"{change} {each.value:.3f}" for change, each in changes),
        "\n".join(_drop(each) for _, each in changes),
        Text("\n").join(Text(str(each.verdict), style=_COLOURS[each.verdict]) for _, each in changes),
    )


def _drop(changed: Changed) -> str:
    return f"{changed.drop:+.2f} ({changed.low:+.2f} to {changed.high:+.2f})"


def likeness_table(found: Likeness) -> RenderableType:
    """Each group of submissions with shared weights: what they share, pair by pair, and what of their code differs."""
    words = "these share weights:" if found.groups else "no two submissions share weights"
    parts: list[RenderableType] = [
        Text(f"{found.members} submissions, {found.files} weight files; {words}", style="bold")
    ]
    for number, group in enumerate(found.groups, 1):
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("submissions", "same files", "alike numbers", "same code"):
            table.add_column(column, overflow="fold", justify="left" if column == "submissions" else "right")
        for pair in group.pairs:
            table.add_row(*_pair_cells(pair))
        parts += [Text(f"group {number}: {', '.join(group.teams)}"), table]
    if found.groups:
        parts.append(Text("Shared weights are no offence: public checkpoints look like this. Read the reports.", "dim"))
    if found.unread:
        shown = [plain(name, _NAME_CHARACTERS) for name in found.unread[:_NAMES]]
        more = f" and {len(found.unread) - _NAMES} more" if len(found.unread) > _NAMES else ""
        parts.append(Text(f"compared by their bytes alone: {', '.join(shown)}{more}", style="dim"))
    return Group(*parts)


def _pair_cells(pair: Pair) -> tuple[Text, ...]:
    """Files are called as teams like."""
    same = [plain(name, _NAME_CHARACTERS) for name in pair.same_files[:_NAMES]]
    if len(pair.same_files) > _NAMES:
        same.append(f"and {len(pair.same_files) - _NAMES} more")
    code = "no code" if not pair.code_files else f"{pair.same_code} of {pair.code_files}"
    return (
        Text(f"{pair.first_team} ({pair.first}), {pair.second_team} ({pair.second})"),
        Text(", ".join(same) or "-"),
        Text("not read" if pair.alike is None else f"{pair.alike:.1%}"),
        Text(code),
    )
