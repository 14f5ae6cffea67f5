"""What the database knows about submissions, as plain values: for `status`, `show` and the page. Reads only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker import privacy, seeds
from ranker.db.models import Job, Submission
from ranker.db.rules import Verdict
from ranker.errors import UsageError
from ranker.home import Home
from ranker.manifest import read_manifest
from ranker.rules import SHOWN, public_words, shown_name, standing
from ranker.sandbox.probes import Probe, rows
from ranker.types import Fault, Group, JobKind, Part, Pick, Rule, Standing, Status, SubmissionState

if TYPE_CHECKING:  # pandas and the templates take seconds, and most commands only ask who is who
    import pandas as pd

    from ranker.board import Board
    from ranker.site import Sample, SubmissionPage, TrackRun

OUR_FAILURE = "Something failed that was no fault of the team; the organizers will try it again."
HIDDEN_FAILURE = "It failed on hidden tasks by its own fault; the organizers tell the team what happened."
_EXTREMES = 5
_RANDOM = 15


@dataclass(frozen=True, kw_only=True)
class SubmissionView:
    """A submission with its derived state and its jobs, oldest first. `further`: evaluations with other seeds than the
    one that counts, which are evidence and change nothing else (`ranker.seeds`).
    """

    submission: Submission
    state: SubmissionState
    check: Job | None
    evaluations: tuple[Job, ...]
    verdicts: tuple[Verdict, ...] = ()
    further: tuple[Job, ...] = ()

    @property
    def standing(self) -> Standing:
        """Whether it is ranked, once it is accepted, by what the rules say of it."""
        return standing(self.verdicts)

    @property
    def is_out(self) -> bool:
        """Whether no check has accepted it, so that its standing does not matter."""
        return self.state in {SubmissionState.RECEIVED, SubmissionState.REFUSED}

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused, or why its evaluations failed; empty if neither."""
        return _reasons(self.failed)

    @property
    def failed(self) -> tuple[Job, ...]:
        """The check and the evaluations that failed, by whatever fault."""
        return tuple(job for job in (self.check, *self.evaluations) if job is not None and job.status == Status.FAILED)

    @property
    def public_reasons(self) -> tuple[str, ...]:
        """Like `reasons`, for everybody to read: our own failures are named without machines, paths and details, and
        those on hidden tasks without what was found there.
        """
        own = [job for job in self.failed if job.fault == Fault.PARTICIPANT]
        ours = [OUR_FAILURE] if len(own) < len(self.failed) else []
        hidden = [HIDDEN_FAILURE] if any(job.part is not Part.PUBLIC for job in own) else []
        return (*_reasons(job for job in own if job.part is Part.PUBLIC), *hidden, *ours)

    def failures_of(self, job_ids: Collection[int]) -> tuple[str, ...]:
        """Why those of these jobs failed that did so by the team's own fault."""
        return _reasons(job for job in self.failed if job.id in job_ids and job.fault == Fault.PARTICIPANT)

    @property
    def spreads(self) -> tuple[seeds.Spread, ...]:
        """How far the scores of tasks that were run with several seeds lie apart."""
        return seeds.spreads((*self.evaluations, *self.further))

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What the check's probes found; none where no check has succeeded."""
        found = None if self.check is None else self.check.result
        return () if found is None else rows(found["encoder"])

    @property
    def allowed_hosts(self) -> list[dict[str, str]]:
        """Hosts that its constructor may ask at intake beside the hub: since when, and by whose word."""
        return [
            {"host": each.host, "allowed_at": each.allowed_at.isoformat(), "allowed_by": each.allowed_by}
            for each in self.submission.allowed_hosts
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in ISO 8601 with their zone."""
        return {
            "id": self.submission.id,
            "team": self.submission.team,
            "state": self.state,
            "standing": self.standing,
            "verdicts": [verdict_json(verdict) for verdict in self.verdicts],
            "file": self.submission.file_name,
            "sha256": self.submission.digest,
            "bytes": self.submission.size_bytes,
            "received_at": self.submission.received_at.isoformat(),
            "reasons": list(self.reasons),
            "allowed_hosts": self.allowed_hosts,
            "check": None if self.check is None else job_json(self.check),
            "probes": [dataclasses.asdict(probe) for probe in self.probes],
            "evaluations": [job_json(job) for job in self.evaluations],
            "further_seeds": [job_json(job) for job in self.further],
            "spreads": [spread.to_json() for spread in self.spreads],
        }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """What a rule says of a submission, as plain values."""
    return {
        "rule": verdict.rule,
        "ruling": verdict.ruling,
        "why": verdict.why,
        "evidence": verdict.evidence,
        "decided_at": verdict.decided_at.isoformat(),
        "decided_by": verdict.decided_by,
    }


def job_json(job: Job) -> dict[str, Any]:
    """A job, its scores and its history as plain values."""
    return {
        "job": job.id,
        "kind": job.kind,
        "benchmark": job.benchmark,
        "track": job.track,
        "part": None if job.condition is None else job.part,
        "condition": job.condition_digest,
        "seed": job.seed,
        "status": job.status,
        "priority": job.priority,
        "attempt": job.attempt,
        "fault": job.fault,
        "reasons": job.reasons,
        "progress": job.progress,
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "result": job.result,
        "scores": {
            score.task: {"metric": score.metric, "value": score.value, "blind": score.blind, "items": score.items}
            for score in job.scores
        },
        "attempts": [
            {
                "attempt": attempt.number,
                "worker": attempt.worker,
                "started_at": _iso(attempt.started_at),
                "ended_at": _iso(attempt.ended_at),
                "ending": attempt.ending,
                "fault": attempt.fault,
                "reasons": attempt.reasons,
            }
            for attempt in job.attempts
        ],
    }


def state_of(jobs: Sequence[Job]) -> SubmissionState:
    """A submission's state from its jobs; those with further seeds do not count."""
    checks = [job for job in jobs if job.kind == JobKind.CHECK]
    further = seeds.further(jobs)
    evaluations = [
        job for job in jobs if job.kind == JobKind.EVALUATE and job.status != Status.CANCELLED and job.id not in further
    ]
    if not checks or checks[-1].status != Status.SUCCEEDED:
        refused = bool(checks) and checks[-1].fault == Fault.PARTICIPANT
        return SubmissionState.REFUSED if refused else SubmissionState.RECEIVED
    if not evaluations:
        return SubmissionState.ACCEPTED
    statuses = {job.status for job in evaluations}
    if statuses & {Status.QUEUED, Status.RUNNING}:
        return SubmissionState.EVALUATING
    return SubmissionState.FAILED if Status.FAILED in statuses else SubmissionState.EVALUATED


def submissions(session: Session) -> list[SubmissionView]:
    """Every submission, in the order of arrival."""
    query = (
        select(Submission)
        .options(selectinload(Submission.jobs).selectinload(Job.scores), selectinload(Submission.allowed_hosts))
        .options(selectinload(Submission.jobs).selectinload(Job.attempts), selectinload(Submission.verdicts))
        .order_by(Submission.received_at, Submission.id)
    )
    return [_view(submission) for submission in session.scalars(query)]


def find(session: Session, names: Sequence[str]) -> list[SubmissionView]:
    """Submissions by id, by the beginning of an id or digest, or by team, each once. Raises UsageError for a name that
    fits none or many.
    """
    known = submissions(session)
    found = []
    for name in names:
        fitting = [
            view for view in known if view.submission.team == name or (name and view.submission.digest.startswith(name))
        ]
        counting = [
            view
            for view in fitting
            if not view.is_out and view.standing in SHOWN and shown_name(view.submission.team, view.verdicts) == name
        ]
        if len(fitting) > 1 and len(counting) == 1:
            fitting = counting  # a team's name stands for what of the team's counts
        if len(fitting) != 1:
            listed = ", ".join(
                f"{view.submission.id} ({view.submission.team}, {view.state if view.is_out else view.standing})"
                for view in fitting or known[:10]
            )
            raise UsageError(
                f"{name!r} names {len(fitting) or 'no'} submission{'s' * (len(fitting) != 1)}: "
                f"give an id, its beginning, or a team's name; there is {listed or 'none yet'}"
            )
        found += [view for view in fitting if view not in found]
    return found


def pages(
    session: Session,
    home: Home,
    boards: Sequence[Board],
    *,
    with_predictions: bool = False,
    including: Collection[Standing] = (),
    names: Mapping[str, str] | None = None,
) -> list[SubmissionPage]:
    """What the site says of each submission, with the runs that stand on `boards`.

    None is made of those that the rules neither rank nor leave pending, unless `including` has their standing.
    `with_predictions`: the files of all scored pairs of the public tasks are to stand beside the page. `names`: other
    names for teams, whose pages tell nothing of what they call their files, classes and repositories, and stand last,
    in the order of these names.
    """
    shown, names = {*SHOWN, *including}, names or {}
    found = [_page(view, home, boards, names) for view in submissions(session) if view.standing in shown]
    found.sort(key=lambda page: page.team if page.team in {*names.values()} else "")  # stable: others stay by arrival
    if with_predictions:
        return found
    return [replace(page, runs=tuple(replace(run, predictions={}) for run in page.runs)) for page in found]


def training_log(run: Path) -> tuple[dict[str, Any], ...]:
    """The lines of a run's `train.jsonl`, one for each step; none where there is no such file."""
    try:
        lines = (run / "train.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(json.loads(line) for line in lines)


def _page(view: SubmissionView, home: Home, boards: Sequence[Board], names: Mapping[str, str]) -> SubmissionPage:
    from ranker.site import SubmissionPage

    check = view.check.result if view.check is not None else None
    team = view.submission.team
    is_anonymous = team in names
    runs = [
        replace(run, manifest=privacy.public(run.manifest, is_anonymous=is_anonymous))
        for board in boards
        for run in _runs(view, home, board)
    ]
    return SubmissionPage(
        id=view.submission.id,
        team=shown_name(names.get(team, team), view.verdicts),
        digest=view.submission.digest,
        received_at=view.submission.received_at,
        state=view.state,
        encoder=privacy.public(check["encoder"], is_anonymous=is_anonymous) if check is not None else None,
        reasons=tuple(map(privacy.scrubbed, view.public_reasons)),
        standing="" if view.is_out or view.standing is Standing.RANKED else public_words(view.verdicts),
        runs=tuple(runs),
    )


def _runs(view: SubmissionView, home: Home, board: Board) -> Iterator[TrackRun]:
    """The submission's runs that stand on the board, one for each part that has finished."""
    import pandas as pd

    from ranker.site import TrackRun

    public = {column.name for column in board.columns if column.group is Group.PUBLIC}
    for condition in board.conditions:
        for job in view.evaluations:
            on_board = (job.condition_digest, job.seed) == (condition.digest, board.seed)
            if job.status != Status.SUCCEEDED or not on_board or job.result is None:
                continue
            folder = home.root / job.result["run"]
            steps = training_log(folder)
            yield TrackRun(
                track=board.track,
                part=condition.part,
                manifest=read_manifest(folder) or {},
                curve=tuple((each["step"], each["loss"]) for each in steps),
                gradient_norms=tuple(
                    (each["step"], each["gradient_norm"]) for each in steps if "gradient_norm" in each
                ),
                samples={
                    s.task: samples(pd.read_parquet(home.root / s.predictions)) for s in job.scores if s.task in public
                },
                predictions={s.task: home.root / s.predictions for s in job.scores if s.task in public},
            )


def samples(items: pd.DataFrame) -> tuple[Sample, ...]:
    """Some of a task's scored pairs: the 5 worst, the 5 best, and 15 others at random, in this order.

    Chance is the SHA-256 of clip and reference: the same pairs come out each time, and of every submission, unless they
    are among its extremes; among equal scores it decides too. Without scores of items all 25 are random.
    """
    import pandas as pd

    keys = [
        hashlib.sha256(f"{clip}\0{said}".encode()).digest()
        for clip, said in zip(items["clip"], items["reference"], strict=True)
    ]
    by_chance = sorted(range(len(items)), key=keys.__getitem__)
    scored = [at for at in by_chance if not pd.isna(items["item"].iloc[at])]
    extremes = min(_EXTREMES, len(scored) // 2)
    ordered = sorted(scored, key=lambda at: float(items["item"].iloc[at]))
    worst, best = ordered[:extremes], ordered[len(ordered) - extremes :][::-1]
    others = [at for at in by_chance if at not in {*worst, *best}][: _RANDOM + 2 * (_EXTREMES - extremes)]
    picked = [
        *((at, Pick.WORST) for at in worst),
        *((at, Pick.BEST) for at in best),
        *((at, Pick.RANDOM) for at in others),
    ]
    return tuple(_sample(items.iloc[at], pick) for at, pick in picked)


def _sample(row: pd.Series[Any], pick: Pick) -> Sample:
    import pandas as pd

    from ranker.site import Sample

    return Sample(
        item=str(row["clip"]),
        reference=str(row["reference"]),
        candidate=str(row["candidate"]),
        score=None if pd.isna(row["item"]) else float(row["item"]),
        pick=pick,
    )


def _reasons(failed: Iterable[Job]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason for job in failed for reason in job.reasons))


def _view(submission: Submission) -> SubmissionView:
    jobs = sorted(submission.jobs, key=lambda job: job.id)
    checks = [job for job in jobs if job.kind == JobKind.CHECK]
    evaluations = [job for job in jobs if job.kind == JobKind.EVALUATE]
    further = seeds.further(evaluations)
    order = list(Rule)
    return SubmissionView(
        submission=submission,
        state=state_of(jobs),
        check=checks[-1] if checks else None,
        evaluations=tuple(job for job in evaluations if job.id not in further),
        further=tuple(job for job in evaluations if job.id in further),
        verdicts=tuple(sorted(submission.verdicts, key=lambda verdict: order.index(Rule(verdict.rule)))),
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
