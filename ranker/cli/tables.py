"""Boards, submissions and findings for a terminal. Names that teams chose are shown as text, never as markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ranker.cli import history
from ranker.db.models import Job
from ranker.events import RANKER
from ranker.sandbox import probes, usage
from ranker.types import Group as TaskGroup
from ranker.types import Ruling, Standing, Status, SubmissionState

if TYPE_CHECKING:  # pandas stands behind these; a command that needs no table of scores does without
    from ranker.board import Board, Row, TaskColumn
    from ranker.doctor import Finding
    from ranker.overview import SubmissionView
    from ranker.scoretable import RankedRow, TableRanking
    from ranker.uncertainty import Agreement, Alternative

_TEAM_WIDTH = 32
_SCORE_WIDTH = 24  # score and its interval, with the gaps between
_CERTAINTY = ("ranks", "P(1st)", "group")
_CERTAINTY_WIDTH = 25  # these likewise
_WITHOUT_LISTENING = "(without listening)"

_COLOURS = {
    SubmissionState.REFUSED: "red",
    SubmissionState.FAILED: "red",
    SubmissionState.EVALUATED: "green",
    SubmissionState.ACCEPTED: "cyan",
}
_RULING_COLOURS = {
    Ruling.MET: "green",
    Ruling.PENDING: "yellow",
    Ruling.BROKEN: "red",
    Ruling.WAIVED: "cyan",
}


def demonstration(reasons: Sequence[str]) -> RenderableType:
    """The notice that what follows is no result of the challenge."""
    lines = Text("\n".join(f"· {reason}" for reason in reasons), no_wrap=False, overflow="fold")
    return Panel(lines, title="DEMONSTRATION, not a result of the challenge", border_style="yellow", expand=False)


def board(value: Board, width: int) -> RenderableType:
    """A ranking: rank, team, score with its interval, how sure the rank is, every task; in several tables where `width`
    columns do not hold it.
    """
    title = f"{value.benchmark_title} ({value.benchmark}), track {value.track}: {value.track_title}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    team = max([len(_WITHOUT_LISTENING), *(min(len(row.team), _TEAM_WIDTH) for row in value.rows)])
    left = list(value.columns)
    groups = _groups(value)
    means = sum(map(_mean_width, groups))
    least = team + 10 + _SCORE_WIDTH + _column_width(left[0])
    certainty = _CERTAINTY_WIDTH if width >= least + means + _CERTAINTY_WIDTH else 0
    if width < least + means:
        groups, means = [], 0
    while left or len(parts) == 1:
        shown: list[TaskColumn] = []
        room = width - team - 10 - (_SCORE_WIDTH + certainty + means if len(parts) == 1 else 0)
        while left and (not shown or room >= _column_width(left[0])):
            room -= _column_width(left[0])
            shown.append(left.pop(0))
        parts.append(_board_part(value, shown, groups if len(parts) == 1 else None, certainty=certainty > 0))
    return Group(*parts)


def _board_part(value: Board, columns: Sequence[TaskColumn], groups: Sequence[str] | None, *, certainty: bool) -> Table:
    """Some tasks of a board; with scores, means of `groups` and `certainty` of ranks, or without these (None)."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("#", justify="right")
    table.add_column("team", overflow="fold", max_width=_TEAM_WIDTH)
    if groups is not None:
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column("95%", justify="right", style="dim", no_wrap=True)
        if certainty:
            _add_certainty(table)
        for group in groups:
            table.add_column(group, justify="right", no_wrap=True)
    for column in columns:
        head = Text(f"{column.name}\n{column.metric}")  # as text: `[minilm]` would be taken for markup
        table.add_column(head, justify="right", no_wrap=True)
    for row in value.rows:
        means = [_number(row.groups[group]) for group in groups or ()]
        score = (
            []
            if groups is None
            else [_number(row.score), _interval(row), *(_certainty(row) if certainty else ()), *means]
        )
        cells = [row.cells.get(column.name) for column in columns]
        numbers = [_number(None if cell is None else cell.raw) for cell in cells]
        table.add_row("-" if row.rank is None else str(row.rank), _team(row), *score, *numbers)
    floor = [Text(_number(column.blind), style="dim") for column in columns]
    gap = [] if groups is None else [""] * (2 + 3 * certainty + len(groups))
    table.add_row("", Text(_WITHOUT_LISTENING, style="dim"), *gap, *floor)
    return table


def _team(row: Row) -> Text:
    """The team, whether it is a baseline, and its submission's standing unless it is simply ranked."""
    marks = ["baseline"] * row.is_baseline + [str(row.standing)] * (row.standing is not Standing.RANKED)
    return Text.assemble(row.team, *((f" ({mark})", "dim") for mark in marks))


def _add_certainty(table: Table) -> None:
    for name in _CERTAINTY:
        table.add_column(name, justify="right", no_wrap=True, style="dim")


def _certainty(row: Row) -> list[str]:
    """The interval of its rank, how often it is first, and its significance group."""
    if row.rank_interval is None or row.p_first is None or row.tier is None:
        return ["", "", ""]
    return [_ranks(row.rank_interval.best, row.rank_interval.worst), f"{row.p_first:.2f}", str(row.tier)]


def _ranks(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}-{worst}"


def sensitivity(
    track: str,
    teams: Sequence[str],
    ranks: Sequence[int],
    alternatives: Sequence[Alternative],
    agreement: Agreement | None,
) -> RenderableType:
    """Who would stand elsewhere under other choices; `teams` and `ranks` are the ranked rows' own, in order."""
    table = Table(title=f"track {track}: ranks under other choices", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("choice", no_wrap=True)
    table.add_column("tau-b", justify="right", no_wrap=True)
    table.add_column("moved", justify="right", no_wrap=True)
    table.add_column("who", overflow="fold")
    for each in alternatives:
        changes = [
            f"{team} {old}\N{RIGHTWARDS ARROW}{new}"
            for team, old, new in zip(teams, ranks, each.ranks, strict=True)
            if old != new
        ]
        if each.without:
            changes.append(f"(without a floor, as it is: {', '.join(each.without)})")
        name = str(each.choice) if each.task is None else f"{each.task} {each.choice}"
        table.add_row(Text(name), _number(each.tau), str(each.changed), Text(", ".join(changes)))
    if agreement is None:
        return table
    line = (
        f"public against hidden tasks: Kendall's tau-b {agreement.tau:.2f} (95% {agreement.low:.2f} to "
        f"{agreement.high:.2f}) over {agreement.teams} teams"
    )
    return Group(table, Text(line))


def left_out(standings: Mapping[str, Standing]) -> RenderableType:
    """Why `--all` is not all."""
    counts = Counter(standings.values())
    kinds = ", ".join(f"{count} {standing}" for standing, count in counts.items())
    return Text(f"left out: {kinds}; `ranker evaluate ID` evaluates one all the same")


def pending(value: Board) -> RenderableType:
    """What the rules still ask of submissions that have no rank for it."""
    lines = [f"· {row.team} ({row.submission_id}): {'; '.join(row.pending)}" for row in value.rows if row.pending]
    return Text("\n".join(["not ranked yet:", *lines]))


def _groups(value: Board) -> list[str]:
    """The groups of tasks whose means are worth a column: more than one."""
    groups = list(dict.fromkeys(str(column.group) for column in value.columns))
    return groups if len(groups) > 1 else []


def _mean_width(group: str) -> int:
    return max(len(group), 5) + 2


def _column_width(column: TaskColumn) -> int:
    return max(len(column.name), len(column.metric), 5) + 2


def ranking(value: TableRanking, width: int) -> RenderableType:
    """A table that was made elsewhere, ranked: like `board`, with groups' means and without intervals."""
    title = f"{value.benchmark_title} ({value.benchmark}), track {value.track}: {value.track_title}"
    parts: list[RenderableType] = [Text(title, style="bold")]
    team = max(min(len(row.team), _TEAM_WIDTH) for row in value.rows)
    means = value.groups if len(value.groups) > 1 else ()
    left = [task.name for task in value.tasks]
    least = ("#" * len(str(len(value.rows))), "-" * team, "score", *_CERTAINTY, *means, left[0])
    certainty = sum(map(_room_of, least)) < width
    while left or len(parts) == 1:
        is_first = len(parts) == 1
        heads = ("score", *(_CERTAINTY if certainty else ()), *means)
        taken = ["#" * len(str(len(value.rows))), "-" * team, *(heads if is_first else ())]
        room = width - 1 - sum(map(_room_of, taken))
        shown: list[str] = []
        while left and (not shown or room >= _room_of(left[0])):
            room -= _room_of(left[0])
            shown.append(left.pop(0))
        parts.append(_ranking_part(value.rows, shown, means if is_first else None, certainty=certainty))
    if certainty:
        parts.append(
            Text(f"ranks, P(1st) and group: {value.resampling} drawn with replacement, since nothing else is known")
        )
    return Group(*parts)


def _room_of(head: str) -> int:
    """Columns that a column of numbers takes, with the gap after it; 0.123 takes five itself."""
    return max(len(head), 5) + 3


def _ranking_part(
    rows: Sequence[RankedRow], tasks: Sequence[str], means: Sequence[TaskGroup] | None, *, certainty: bool
) -> Table:
    """`means`: the groups whose means stand beside the score; None for a part that repeats neither."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("#", justify="right")
    table.add_column("team", overflow="fold", max_width=_TEAM_WIDTH)
    if means is not None:
        table.add_column("score", justify="right", no_wrap=True)
    if means is not None and certainty:
        _add_certainty(table)
    for name in (*(means or ()), *tasks):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in rows:
        own = [] if means is None else [_number(row.score), *(_table_certainty(row) if certainty else ())]
        groups = [row.groups[group] for group in means or ()]
        numbers = [_number(value) for value in (*groups, *(row.raw.get(task) for task in tasks))]
        table.add_row("-" if row.rank is None else str(row.rank), Text(row.team), *own, *numbers)
    return table


def _table_certainty(row: RankedRow) -> list[str]:
    if row.sure is None:
        return ["", "", ""]
    return [_ranks(row.sure.best, row.sure.worst), f"{row.sure.first:.2f}", str(row.sure.tier)]


def received(view: SubmissionView, *, is_new: bool) -> RenderableType:
    """One line: what became of a file, and which encoder was found in it."""
    line = f"{view.submission.id}  {view.submission.team}: {view.state}"
    if not is_new:
        line += " (these bytes were known already)"
    if view.check is not None and view.check.result is not None:
        found = view.check.result["encoder"]
        line += (
            f"; {found['attribute']} of {found['module']}, {found['output_dim']}-d, {found['frames_per_s']:g} frames/s"
        )
    return Text(line)


def submissions(views: Sequence[SubmissionView]) -> RenderableType:
    """One line per submission, with its jobs."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("id", "team", "received (UTC)", "state", "evaluations"):
        table.add_column(name, overflow="fold")
    for view in views:
        state = Text(_stands(view), style=_COLOURS.get(view.state, ""))
        lines = Counter(_job_line(job) for job in view.evaluations)
        jobs = Text("\n".join(f"{line} ({count} conditions)" if count > 1 else line for line, count in lines.items()))
        received = view.submission.received_at.strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(view.submission.id, Text(view.submission.team), received, state, jobs)
    return table


def submission(view: SubmissionView) -> RenderableType:
    """All about one submission."""
    own = view.submission
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("id", own.id)
    facts.add_row("team", Text(own.team))
    facts.add_row("state", Text(_stands(view), style=_COLOURS.get(view.state, "")))
    facts.add_row("file", Text(f"{own.file_name} ({decimal(own.size_bytes)})"))
    facts.add_row("sha256", own.digest)
    facts.add_row("received", own.received_at.isoformat())
    for allowed in view.allowed_hosts:
        facts.add_row(
            "may ask", Text(f"{allowed['host']} (allowed {allowed['allowed_at']} by {allowed['allowed_by']})")
        )
    parts: list[RenderableType] = [facts]
    if view.reasons:
        parts.append(Text("\nwhy:\n" + "\n".join(f"  · {reason}" for reason in view.reasons), style="red"))
    if view.verdicts:
        parts += [Text("\nthe rules say:"), *_verdicts(view)]
    if view.check is not None:
        parts += history.attempts(view.check)
    if view.check is not None and view.check.result is not None:
        parts += _checked(view.check.result["encoder"])
        parts += _phases(view.check.result)
    for job in view.evaluations:
        parts.append(Text(f"\njob {job.id}: {_job_line(job)}{_condition(job)}, attempt {job.attempt}"))
        parts += history.attempts(job)
        if job.scores:
            scores = Table(box=None, padding=(0, 2, 0, 2))
            for name in ("task", "metric", "score", "without listening", "pairs"):
                scores.add_column(name, justify="left" if name in {"task", "metric"} else "right")
            for score in job.scores:
                scores.add_row(
                    score.task, Text(score.metric), _number(score.value), _number(score.blind), str(score.items)
                )
            parts.append(scores)
        if job.result is not None:
            took = [f"{what} {how}" for what, how in usage.words(job.result.get("encoder") or {})]
            parts += [Text(f"  the encoder: {'; '.join(took)}")] if took else []
            parts.append(Text(f"  manifest: {job.result['run']}/manifest.json", style="dim"))
    return Group(*parts, *history.seeds(view))


def standing(view: SubmissionView) -> RenderableType:
    """Where a submission stands, and what each rule says of it."""
    line = f"{view.submission.id}  {view.submission.team}: {_stands(view)}"
    return Group(Text(line), *_verdicts(view))


def _stands(view: SubmissionView) -> str:
    """The state of its jobs and, once it is accepted and unless it is simply ranked, its standing."""
    is_plain = view.is_out or view.standing is Standing.RANKED
    return view.state if is_plain else f"{view.state}, {view.standing}"


def _verdicts(view: SubmissionView) -> list[RenderableType]:
    if not view.verdicts:
        return []
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for _ in ("rule", "ruling", "why"):
        table.add_column(overflow="fold")
    for verdict in view.verdicts:
        by = "" if verdict.decided_by == RANKER else f" (decided by {verdict.decided_by})"
        ruling = Text(verdict.ruling, style=_RULING_COLOURS[Ruling(verdict.ruling)])
        table.add_row(Text(verdict.rule.replace("_", " ")), ruling, Text(verdict.why + by))
    return [table]


def _checked(encoder: Mapping[str, Any]) -> list[RenderableType]:
    """Which encoder the check found, and a row for each of its probes."""
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for name, value in probes.identity(encoder).items():
        facts.add_row(name.replace("_", " "), Text(str(value)))
    table = Table(box=None, padding=(0, 2, 0, 2))
    for name in ("probe", "found", "what follows"):
        table.add_column(name, overflow="fold")
    for probe in probes.rows(encoder):
        table.add_row(Text(probe.name), Text(probe.found), Text(probe.follows))
    return [Text("\nthe check found:"), facts, Text(), table]


def _phases(check: Mapping[str, Any]) -> list[RenderableType]:
    """What was installed and fetched for the encoder, and which hosts were asked. An early check knew of neither."""
    lines: list[str] = []
    environment, weights = check.get("environment"), check.get("weights")
    if environment is not None:
        lines += ["", f"its requirements.txt ({', '.join(environment['requirements'])}):"]
        for each in environment["installed"]:
            lines.append(f"  installed {each['name']} {each['version']}  sha256 {each['sha256'][:16]}  {each['file']}")
        if not environment["installed"]:
            lines.append("  nothing was installed: the base environment has all of it")
        lines += _asked(environment)
    if weights is not None:
        lines += ["", f"its constructor fetched {decimal(weights['tree']['size_bytes'])}:"]
        for each in weights["repositories"]:
            when = f", of {each['committed_at']}" if each["committed_at"] else ""
            lines.append(f"  {each['kind']} {each['repository']} at {each['commit'][:12]} ({each['revision']}){when}")
        lines += _asked(weights)
    return [Text("\n".join(lines))] if lines else []


def _asked(phase: Mapping[str, Any]) -> list[str]:
    tree = f"  kept as {phase['tree']['digest'][:16]} ({phase['tree']['files']} files)"
    network = phase["network"]["lines"]
    return [tree, *(f"  asked {each['destination']}: {each['outcome']}, {each['requests']} times" for each in network)]


def findings(values: Sequence[Finding]) -> RenderableType:
    """What doctor found, with what to do."""
    from ranker.doctor import Verdict

    signs = {Verdict.OK: ("✓", "green"), Verdict.WARNING: ("!", "yellow"), Verdict.MISSING: ("✗", "red")}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in ("sign", "part", "found"):
        table.add_column(overflow="fold")  # a path is of no use without its end
    for value in values:
        sign, colour = signs[value.verdict]
        text = Text(value.found)
        if value.advice:
            text.append(f"\n→ {value.advice}", style="italic")
        table.add_row(Text(sign, style=colour), Text(value.part), text)
    return table


def print_reasons(console: Console, reasons: Sequence[str]) -> None:
    """A list of full sentences."""
    for reason in reasons:
        console.print(Text(f"  · {reason}"))


def _interval(row: Row) -> str:
    return "" if row.interval is None else f"{row.interval.low:.3f}-{row.interval.high:.3f}"


def _condition(job: Job) -> str:
    if job.condition is None or job.condition_digest is None:
        return ""
    return f", condition {job.condition_digest[:8]} ({job.condition['steps']} steps)"


def _job_line(job: Job) -> str:
    if job.status == Status.RUNNING and job.progress is not None:
        doing = f"{job.progress['stage']} {job.progress['done']}/{job.progress['total']}"
    else:
        doing = str(job.status) + (f" ({job.fault})" if job.fault else "")
    return f"{job.benchmark}, {job.where}: {doing}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
