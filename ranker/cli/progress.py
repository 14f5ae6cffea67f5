"""What jobs are doing, live: bars on a terminal, one line per change of stage elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from sqlalchemy import Engine, or_, select
from sqlalchemy.orm import joinedload

from ranker import queue
from ranker.db.models import Job
from ranker.db.session import session
from ranker.types import Stage, Status

_VERBS = {
    Stage.UNPACK: "unpacking",
    Stage.CHECK: "checking the encoder",
    Stage.LOAD: "loading",
    Stage.ENCODE: "encoding clips",
    Stage.TRAIN: "training",
    Stage.GENERATE: "answering",
    Stage.SCORE: "scoring",
}


class JobDisplay:
    """A bar per job, fed from the database by `tick`; and a line when the queue is paused. Use as a context.

    `job_ids` None: every job that runs, whenever it was queued; its bar goes when it has ended.
    """

    def __init__(self, engine: Engine, job_ids: Sequence[int] | None, console: Console) -> None:
        self._engine = engine
        self._job_ids = None if job_ids is None else list(job_ids)
        self._paused: str | None = None
        self._console = console
        self._bars: dict[int, TaskID] = {}
        self._shown: dict[int, tuple[str, str]] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> JobDisplay:
        self._progress.start()
        self.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tick()
        self._progress.stop()

    def tick(self) -> None:
        """Read the jobs once and show what changed."""
        with session(self._engine, read_only=True) as reading:
            wanted = (
                or_(Job.status == Status.RUNNING, Job.id.in_(self._shown))
                if self._job_ids is None
                else Job.id.in_(self._job_ids)
            )
            query = select(Job).where(wanted).options(joinedload(Job.submission)).order_by(Job.id)
            jobs = list(reading.scalars(query))
            pause = queue.paused(reading)
        self._tell_pause(None if pause is None else f"by {pause.paused_by}: {pause.why}")
        for job in jobs:
            self._show(job)
            if self._job_ids is None and job.status not in {Status.QUEUED, Status.RUNNING}:
                del self._shown[job.id]
                if job.id in self._bars:
                    self._progress.remove_task(self._bars.pop(job.id))
                    self._console.print(Text(f"{_where(job)}: {self._stage(job)[0]}"))

    def _tell_pause(self, why: str | None) -> None:
        if why != self._paused:
            self._paused = why
            told = "the queue hands out jobs again" if why is None else f"the queue is paused {why}; `ranker resume`"
            self._console.print(Text(told, style="bold"))

    def _show(self, job: Job) -> None:
        where = _where(job)
        stage, note = self._stage(job)
        now = (stage, f"attempt {job.attempt}")
        changed = self._shown.get(job.id) != now
        self._shown[job.id] = now
        if not self._console.is_terminal:
            if changed and (job.status != Status.QUEUED or job.reasons):
                self._console.print(Text(f"{where}: {stage}"))
            return
        done, total = self._counts(job)
        if job.id not in self._bars:
            self._bars[job.id] = self._progress.add_task(where, total=None, note="", start=False)
        bar = self._bars[job.id]
        if changed and job.status == Status.RUNNING:
            self._progress.reset(bar, start=True)
        self._progress.update(bar, description=f"{where}: {stage}", completed=done, total=total, note=note)
        if job.status not in {Status.QUEUED, Status.RUNNING}:
            self._progress.stop_task(bar)

    @staticmethod
    def _stage(job: Job) -> tuple[str, str]:
        """What the job is at, and what else there is to say (the loss)."""
        if job.status == Status.QUEUED and job.reasons:
            return f"to be tried again, since {'; '.join(job.reasons)}", ""
        if job.status != Status.RUNNING:
            return str(job.status), ""
        if job.progress is None:
            return "starting", ""
        stage, task, loss = job.progress["stage"], job.progress["task"], job.progress["loss"]
        verb = _VERBS[Stage(stage)]
        return f"{verb} {task}" if task else verb, "" if loss is None else f"loss {loss:.3f}"

    @staticmethod
    def _counts(job: Job) -> tuple[int, int | None]:
        if job.status == Status.SUCCEEDED:
            return 1, 1
        if job.status != Status.RUNNING or job.progress is None or not job.progress["total"]:
            return 0, None
        return job.progress["done"], job.progress["total"]


def _where(job: Job) -> str:
    return f"{job.submission.team} · {job.where}" if job.track else job.submission.team
