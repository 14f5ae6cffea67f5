"""Boards as a Markdown report: ranking, scores, hardware and durations, all from the database and the runs'
manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ranker.board import Board, Cell, Interval
from ranker.seeds import Spread
from ranker.site import SubmissionPage, TrackRun
from ranker.types import Part, Stage

_STAGES = (Stage.LOAD, Stage.ENCODE, Stage.TRAIN, Stage.GENERATE, Stage.SCORE, Stage.CHECK)


def markdown(
    boards: Sequence[Board],
    pages: Sequence[SubmissionPage],
    remarks: str | None,
    spreads: Mapping[str, Sequence[Spread]] = MappingProxyType({}),
) -> str:
    """The report; `remarks` (Markdown) is what people have to say about it, and stands below.

    `spreads`: by team, how far scores of these boards lie apart with several seeds.
    """
    runs = [(page.id, run) for page in pages for run in page.runs]
    parts = [f"# Results on {boards[0].benchmark_title} (`{boards[0].benchmark}`)"]
    parts.append(
        f"Written by `ranker results --benchmark {boards[0].benchmark}`; no figure above the remarks is typed by hand."
    )
    reasons = dict.fromkeys(reason for board in boards for reason in board.demonstration)
    if reasons:
        listed = "\n".join(f"- {reason}" for reason in reasons)
        parts.append(f"**A demonstration, not a result of the challenge:**\n\n{listed}")
    for board in boards:
        own = [
            (row.team if run.part is Part.PUBLIC else f"{row.team} ({run.part} part)", run)
            for row in board.rows
            for submission, run in runs
            if (submission, run.track) == (row.submission_id, board.track)
        ]
        parts += _board(board, own)
    parts += _seeds(spreads)
    if remarks is not None:
        parts.append(remarks.strip())
    return "\n\n".join(parts) + "\n"


def _board(board: Board, runs: Sequence[tuple[str, TrackRun]]) -> list[str]:
    ranking = _table(
        ["rank", "team", "score", "95% interval", "told apart from the next"],
        [
            [
                "-" if row.rank is None else str(row.rank),
                row.team,
                _number(row.score),
                _interval(row.interval),
                {True: "yes", False: "no", None: ""}[row.distinct_from_next],
            ]
            for row in board.rows
        ],
    )
    ranked = [row for row in board.rows if row.rank is not None]
    tasks = _table(
        ["task", "metric", "pairs", "without listening", "signal", *(row.team for row in ranked)],
        [
            [
                column.name,
                column.metric,
                str(column.items or ""),
                _number(column.blind),
                {True: "yes", False: "no", None: ""}[column.signal],
                *(_cell(row.cells.get(column.name)) for row in ranked),
            ]
            for column in board.columns
        ],
    )
    parts = [f"## Track {board.track}: {board.track_title}", ranking, tasks]
    if runs:
        parts += ["Seconds of each stage, and peak memory of the trainer:", _durations(runs), _conditions(board, runs)]
    confounds = [f"- {column.name}: {column.confound}" for column in board.columns if column.confound]
    if confounds:
        parts += ["What labels are confounded with:", "\n".join(confounds)]
    return parts


def _seeds(spreads: Mapping[str, Sequence[Spread]]) -> list[str]:
    rows = [
        [
            team,
            f"{each.track}{'' if each.part is Part.PUBLIC else f', {each.part} part'}",
            each.task,
            _number(each.values[0]),
            ", ".join(map(str, each.seeds)),
            *(_number(value) for value in (each.mean, each.deviation, min(each.values), max(each.values))),
        ]
        for team, found in spreads.items()
        for each in found
    ]
    if not rows:
        return []
    head = ["team", "track", "task", "score", "seeds", "mean", "deviation", "lowest", "highest"]
    words = (
        "Raw scores with further seeds of the training, as evidence: the board shows the first. The deviation is that "
        "of one training (n - 1 below the root)."
    )
    return ["## Seeds", words, _table(head, rows)]


def _durations(runs: Sequence[tuple[str, TrackRun]]) -> str:
    rows = []
    for team, run in runs:
        seconds: Mapping[str, float] = run.manifest["seconds"]
        stages = [f"{seconds.get(stage, 0.0):.0f}" for stage in _STAGES]
        rows.append([team, *stages, f"{sum(seconds.values()):.0f}", f"{run.manifest['peak_memory_gb']:.1f} GB"])
    return _table(["team", *_STAGES, "all", "memory"], rows)


def _conditions(board: Board, runs: Sequence[tuple[str, TrackRun]]) -> str:
    condition = board.condition
    if condition is None:
        source = board.origin.source if board.origin else ""
        return f"Scores of an imported table (SHA-256 `{board.basis[:12]}`): {source}."
    hardware = sorted(
        {f"{run.manifest['hardware']['cpu']}, {run.manifest['hardware']['cores']} cores" for _, run in runs}
    )
    threads = sorted({str(run.manifest["threads"]) for _, run in runs})
    sandboxes = sorted({str(run.manifest["sandbox"]) for _, run in runs})
    attempts = sorted({run.manifest["attempt"] for _, run in runs})
    others = "".join(f", {each.part} part `{each.digest[:12]}` ({each.steps} steps)" for each in board.others)
    device = f"{condition.device}{', with CUDA graphs' if condition.cuda_graphs else ''}"
    machine = f"{device} ({'; '.join(hardware)}; threads per job: {', '.join(threads)})"
    return (
        f"Condition `{condition.digest[:12]}`{others}: {condition.steps} steps, {condition.decoder_layers} decoder "
        f"layers, {condition.precision}, seed {board.seed}, on {machine}; sandbox: {', '.join(sandboxes)}; attempts: "
        f"{', '.join(map(str, attempts))}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return _number(cell.raw) if cell.interval is None else f"{_number(cell.raw)} ({_interval(cell.interval)})"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
