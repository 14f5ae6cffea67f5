"""Boards and submissions for the tests of the page: the official table of 2026, and a small one full of oddities."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ranker.board import Board, Cell, Interval, RankInterval, Row, TaskColumn
from ranker.site import Sample, SubmissionPage, TrackRun
from ranker.types import Condition, Domain, Group, Precision, SubmissionState
from ranker.uncertainty import Pairs

OFFICIAL = Path(__file__).parent / "golden" / "interspeech2026_track_a.csv"
MADE_AT = datetime(2026, 3, 4, 16, 30, tzinfo=UTC)
HOSTILE = (
    '<script>document.title="owned"</script><img src=x onerror="document.title=1">',
    "\u202egnissecorp \u2066oidua\u202e",
    "Endless" + "ness" * 73,
)
_MAP = {"fsd50k", "fsdkaggle2018"}
_MUSIC = {"gtzan", "nsynth", "freemusicarchive"}
_SOUND = {"esc-50", "fsd50k", "fsdkaggle2018", "urbansound8k", "Fingersnap", "KeyScratch"}


def condition(track: str, **changes: object) -> Condition:
    """A condition of the whole protocol, unless told otherwise."""
    fields: dict[str, object] = {
        "benchmark": "challenge", "track": track, "measurement": "a1" * 32, "data": "b2" * 32, "decoder": "c3" * 32,
        "decoder_layers": 30, "metric_models": "d4" * 32, "steps": 100_000, "precision": Precision.FP32,
        "device": "NVIDIA A100-SXM4-40GB", "sandboxed": True,
    }  # fmt: skip
    return Condition(**(fields | changes))  # type: ignore[arg-type]


def column(name: str, **changes: object) -> TaskColumn:
    """One task from 0 to 1, of weight 1."""
    fields: dict[str, object] = {
        "name": name, "title": name.capitalize(), "domain": Domain.SPEECH, "group": Group.PUBLIC, "metric": "Accuracy",
        "worst": 0.0, "best": 1.0, "weight": 1.0, "items": None, "blind": None, "signal": None, "confound": None,
    }  # fmt: skip
    return TaskColumn(**(fields | changes))  # type: ignore[arg-type]


def official_board() -> Board:
    """The official Track A of 2026: 23 teams, 15 public and 6 hidden tasks, no intervals."""
    with OFFICIAL.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    tasks = list(lines[0])[6:]

    def task(name: str) -> TaskColumn:
        bare = name.rstrip("*")
        domain = Domain.MUSIC if bare in _MUSIC else Domain.SOUND if bare in _SOUND else Domain.SPEECH
        return column(
            bare,
            domain=domain,
            group=Group.HIDDEN if name.endswith("*") else Group.PUBLIC,
            metric="mAP" if bare in _MAP else "Accuracy",
        )

    lines.sort(key=lambda line: -float(line["(Public + Hidden) / 2"]))
    rows = tuple(
        Row(
            rank=place,
            team=line["Team"],
            submission_id=f"{place:012x}",
            score=float(line["(Public + Hidden) / 2"]),
            interval=None,
            groups={"public": float(line["Public test result"]), "hidden": float(line["Hidden test result"])},
            cells={
                name.rstrip("*"): Cell(raw=float(line[name]), normalized=float(line[name]), interval=None)
                for name in tasks
            },
            missing=(),
        )
        for place, line in enumerate(lines, start=1)
    )
    return Board(
        benchmark="challenge",
        benchmark_title="Interspeech 2026 Audio Encoder Capability Challenge",
        track="A",
        track_title="Classification",
        seed=42,
        condition=condition("A"),
        demonstration=(),
        columns=tuple(map(task, tasks)),
        rows=rows,
        made_at=MADE_AT,
    )


SMALL_REASONS = (
    "benchmark mini, made of synthetic clips",
    "the first 6 of the decoder's 30 layers",
    "300 training steps instead of 100,000",
)


def small_board(track: str = "A") -> Board:
    """Seven ranked teams with intervals, a tie, indistinguishable neighbours and hostile names; two incomplete ones."""
    columns = (
        column("keyword", title="Spoken keywords", items=240, blind=0.10, signal=True),
        column("language", title="Spoken language", items=200, blind=0.25, signal=True,
               confound="the voice: each language is spoken by its own synthetic voice"),
        column("speaker_count", title="Number of speakers", items=160, blind=0.34, signal=False),
        column("instrument", title="Musical instruments", domain=Domain.MUSIC, items=180, blind=0.08, signal=True,
               weight=2.0),
        column("effects", title="Sound effects", domain=Domain.SOUND, metric="mAP", items=120, blind=0.05, signal=True),
        column("secret", title="A hidden task", domain=Domain.SOUND, group=Group.HIDDEN, items=90, blind=0.5,
               signal=True),
    )  # fmt: skip
    names = ("moonshine", "speech_embedding", HOSTILE[0], HOSTILE[1], HOSTILE[2], "logmel", "noise")
    scores = (0.742, 0.661, 0.655, 0.512, 0.512, 0.488, 0.187)
    ranks = (1, 2, 3, 4, 4, 6, 7)
    distinct = (True, False, True, False, True, True, None)
    tiers = (1, 2, 2, 3, 3, 3, 4)
    spans = ((1, 1), (2, 3), (2, 3), (4, 6), (4, 6), (4, 6), (7, 7))
    first = (0.9965, 0.0031, 0.002, 0.0, 0.0, 0.0, 0.0)
    rows = [
        replace(
            _small_row(place, team, score, rank, differs, columns),
            rank_interval=RankInterval(best=span[0], worst=span[1]), tier=tier, p_first=ahead,
            p_next=None if differs is None else 0.004 if differs else 0.41,
        )
        for place, (team, score, rank, differs, tier, span, ahead) in enumerate(
            zip(names, scores, ranks, distinct, tiers, spans, first, strict=True), start=1
        )
    ]  # fmt: skip
    for place, (team, missing) in enumerate(
        (("=cmd|' /C calc'!A0", ("effects", "secret")), ("zeta", ("keyword",))), start=8
    ):
        whole = _small_row(place, team, 0.4, None, None, columns)
        cells = {name: cell for name, cell in whole.cells.items() if name not in missing}
        rows.append(
            Row(
                rank=None, team=team, submission_id=whole.submission_id, score=None, interval=None,
                groups={"public": None, "hidden": None}, cells=cells, missing=missing,
            )
        )  # fmt: skip
    return Board(
        benchmark="mini",
        benchmark_title="Mini",
        track=track,
        track_title="Classification" if track == "A" else "Recognition and captions",
        seed=42,
        condition=condition(
            track, benchmark="mini", decoder_layers=6, steps=300, device="cpu", precision=Precision.BF16
        ),
        demonstration=SMALL_REASONS,
        columns=columns,
        rows=tuple(rows),
        made_at=MADE_AT,
        pairs=_small_pairs(scores[:4]),
    )


def _small_pairs(scores: tuple[float, ...]) -> Pairs:
    """The best four against each other: an interval of a tenth around each difference, and what follows from it."""
    by = [[one - other for other in scores[place:]] for place, one in enumerate(scores[:-1], start=1)]
    return Pairs(
        rows=len(scores),
        ahead=tuple(tuple(0.999 if each > 0.05 else 0.62 for each in line) for line in by),
        low=tuple(tuple(round(each - 0.05, 5) for each in line) for line in by),
        high=tuple(tuple(round(each + 0.05, 5) for each in line) for line in by),
        p=tuple(tuple(0.0005 if each > 0.05 else 0.76 for each in line) for line in by),
    )


def _small_row(
    place: int, team: str, score: float, rank: int | None, differs: bool | None, columns: tuple[TaskColumn, ...]
) -> Row:
    cells = {}
    for index, task in enumerate(columns):
        raw = min(max(score + 0.09 * math.sin(3.1 * index + place), 0.02), 0.99)
        cells[task.name] = Cell(
            raw=raw, normalized=raw, interval=Interval(low=max(raw - 0.05, 0.0), high=min(raw + 0.04, 1.0))
        )
    return Row(
        rank=rank,
        team=team,
        submission_id=f"{place:012x}",
        score=score,
        interval=Interval(low=score - 0.021, high=score + 0.019),
        groups={"public": score + 0.01, "hidden": score - 0.01},
        cells=cells,
        missing=(),
        distinct_from_next=differs,
    )


def submission(row: Row, board: Board, **changes: object) -> SubmissionPage:
    """A submission's page for a row, with training curve, manifest, and predictions of a public and a hidden task."""
    curve = tuple((step, 5.5 * math.exp(-step / 90) + 0.6 + 0.15 * math.sin(step * 1.7)) for step in range(1, 301))
    samples = {
        task: tuple(
            Sample(item=f"clip-{task}-{n:04d}", reference=f"reference-of-{task}", candidate=said, score=float(n % 2))
            for n, said in enumerate(("yes", "<b>no</b>", "", "up", "يمين"))
        )
        for task in (board.columns[0].name, board.columns[-1].name)
    }
    manifest = {
        "attempt": 1, "finished_at": "2026-03-04T16:12:09+00:00", "peak_memory_gb": 1.82,
        "seconds": {"encode": 41.2, "generate": 38.05, "load": 1.9, "score": 0.42, "train": 222.7},
        "encoder": {
            "load_s": 1.9, "calls": 310, "audio_s": 2480.0, "encode_s": 79.25, "audio_s_per_s": 31.29,
            "peak_memory_gb": 0.81, "peak_memory_source": "control group", "gpu_peak_memory_gb": None,
        },
        "hardware": {"device": "cpu", "cpu": "AMD EPYC 7B13", "threads": 2},
        "versions": {"ranker": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "digests": {"submission": "e5" * 32, "decoder": "c3" * 32}, "seeds": {"training": 42},
    }  # fmt: skip
    encoder = {
        "attribute": "MoonshineEncoder", "output_dim": 288, "frames_per_second": 41.6, "batch_invariant": True,
        "padding_invariant": False,
    }  # fmt: skip
    fields: dict[str, object] = {
        "id": row.submission_id, "team": row.team, "digest": (row.submission_id * 6)[:64],
        "received_at": datetime(2026, 2, 12, 23, 58, tzinfo=UTC), "state": SubmissionState.EVALUATED,
        "encoder": encoder,
        "runs": (TrackRun(track=board.track, manifest=manifest, curve=curve, samples=samples),),
    }  # fmt: skip
    return SubmissionPage(**(fields | changes))  # type: ignore[arg-type]


def submissions(board: Board) -> list[SubmissionPage]:
    """A page for every row."""
    return [submission(row, board) for row in board.rows]
