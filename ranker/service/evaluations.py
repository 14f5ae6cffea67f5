"""What is ordered of the workers, and what it will cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from ranker.db.session import session
from ranker.errors import PausedError, UsageError
from ranker.service.opened import Opened
from ranker.types import Action, ExecutorName, SandboxName

if TYPE_CHECKING:
    from ranker.audit import Asked, Audit
    from ranker.config import Benchmark
    from ranker.db.models import Pause
    from ranker.estimate import Estimate
    from ranker.executors.base import Executor
    from ranker.planning import Plan
    from ranker.types import Condition


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to evaluate on; None means what the configuration says, or all."""

    benchmark: str | None = None
    track: str | None = None
    limit_steps: int | None = None
    sandbox: SandboxName | None = None


@dataclass(frozen=True, kw_only=True)
class Placing:
    """Where jobs are done; None means what the configuration says, and as many at a time as there is room for."""

    executor: ExecutorName = ExecutorName.LOCAL
    address: str | None = None
    workers: int | None = None


HERE = Placing()


class Evaluations(Opened):
    """What is ordered of the workers, and what it will cost."""

    def run(
        self,
        job_ids: Sequence[int],
        *,
        sandbox: SandboxName | None,
        placing: Placing = HERE,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Do these jobs in worker processes of this machine, or where `placing` says, until each has ended.

        Raises PausedError while the queue is paused; MissingError, before any worker starts, if there is no sandbox on
        this machine and jobs are done here; else what `executors.base.Executor.run` raises.
        """
        from ranker.sandbox.backends import open_configured

        service = self.service.model_copy(update={"sandbox": self.sandbox(sandbox)})
        executor = self.executor(placing)
        if job_ids:
            self.refuse_while_paused()
        if job_ids and placing.executor is ExecutorName.LOCAL:
            open_configured(service, self.home.root)
        executor.run(self.home, service, job_ids, on_tick=on_tick)

    def work(
        self,
        *,
        sandbox: SandboxName | None,
        until_empty: bool,
        placing: Placing = HERE,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Do whatever is queued, in worker processes of this machine; for ever, or `until_empty`. It waits out pauses.

        On a cluster: the evaluations that are queued, as `run` does them, until none is. Raises UsageError for a
        cluster without `until_empty`; MissingError, before any worker starts, if there is no sandbox; else what
        `executors.local.Local.work`, or `run`, raises.
        """
        from ranker.executors.local import Local
        from ranker.sandbox.backends import open_configured

        executor = self.executor(placing)
        if not isinstance(executor, Local):
            if not until_empty:
                raise UsageError("--executor ray does what is queued and ends: add --until-empty")
            while waiting := self._waiting_evaluations():
                self.run(waiting, sandbox=sandbox, placing=placing, on_tick=on_tick)
            return
        service = self.service.model_copy(update={"sandbox": self.sandbox(sandbox)})
        open_configured(service, self.home.root)
        executor.work(self.home, service, until_empty=until_empty, on_tick=on_tick)

    def _waiting_evaluations(self) -> list[int]:
        from ranker.db.models import Job
        from ranker.types import JobKind, Status

        with self.open() as engine, session(engine, read_only=True) as reading:
            waiting = select(Job.id).where(Job.kind == JobKind.EVALUATE, Job.status == Status.QUEUED)
            return list(reading.scalars(waiting.order_by(Job.id)))

    def executor(self, placing: Placing) -> Executor:
        """What places jobs. Raises UsageError for an address without --executor ray, MissingError without the extra."""
        if placing.executor is ExecutorName.RAY:
            from ranker.executors.ray import Ray

            return Ray(address=placing.address or self.service.cluster.address, workers=placing.workers)
        if placing.address is not None:
            raise UsageError("--address names a Ray cluster: add --executor ray, or leave it out")
        from ranker.executors.local import Local

        return Local(workers=placing.workers)

    def queue_evaluations(self, names: Sequence[str] | None, wanted: Wanted, *, placing: Placing = HERE) -> Plan:
        """Queue the evaluations that these submissions (None: all accepted ones that may be ranked) miss.

        Raises as `executor`, `ranker.planning.conditions` and `ranker.planning.plan`; nothing is written where data is
        missing.
        """
        from ranker import events, planning, rules
        from ranker.db.models import Job

        benchmark = self.benchmark(wanted.benchmark)
        conditions = self.conditions(benchmark, wanted, placing=placing)
        now = datetime.now(UTC)
        with self.open() as engine, session(engine) as writing:
            rules.judge_all(writing, self.home, now, rules=self.service.rules)
            plan = planning.plan(writing, benchmark, conditions, names=names, now=now)
            ordered: dict[str, list[int]] = {}
            for job in plan.job_ids:
                ordered.setdefault(writing.get_one(Job, job).submission_id, []).append(job)
            for submission_id, jobs in ordered.items():
                events.record(
                    writing,
                    actor=events.whoami(),
                    action=Action.EVALUATE,
                    submission_id=submission_id,
                    now=now,
                    benchmark=benchmark.name,
                    jobs=jobs,
                )
            return plan

    def conditions(self, benchmark: Benchmark, wanted: Wanted, *, placing: Placing = HERE) -> list[Condition]:
        """Under which conditions evaluations would be made now. Raises as `ranker.planning.conditions`."""
        from ranker import planning

        return planning.conditions(
            self.home,
            benchmark,
            [wanted.track] if wanted.track else list(benchmark.tracks),
            limit_steps=wanted.limit_steps,
            sandboxed=self.sandbox(wanted.sandbox) is not SandboxName.NONE,
            devices=self.executor(placing).devices(self.service),
            cuda_graphs=self.service.cuda_graphs,
        )

    def paused(self) -> Pause | None:
        """Why no job is handed out at present; None while the queue runs, or before there is one."""
        from ranker import queue

        if not self.has_database():
            return None
        with self.reading() as reading:
            return queue.paused(reading)

    def refuse_while_paused(self) -> None:
        """Raises PausedError if jobs would only wait."""
        pause = self.paused()
        if pause is not None:
            raise PausedError(
                f"the queue is paused since {pause.paused_at:%Y-%m-%d %H:%M} UTC by {pause.paused_by}, so nothing is "
                f"begun and what was asked for stays queued: {pause.why}; `ranker resume` ends the pause"
            )

    def queue_baselines(self, name: str | None, sandbox: SandboxName | None) -> Plan | None:
        """Queue the evaluations that the benchmark's baselines miss; None where none of them has been taken in.

        Raises UsageError for a benchmark without baselines, and as `queue_evaluations`.
        """
        from ranker import calibration

        benchmark = self.benchmark(name)
        if not benchmark.baselines:
            raise UsageError(
                f"benchmark {benchmark.name} has no `baselines:` in its file, so there is nothing to compare with; "
                "configs/mini.yaml shows how to give encoders with published scores"
            )
        with self.reading() as reading:
            digests = [submission.digest for submission in calibration.found(reading, benchmark).values()]
        return self.queue_evaluations(digests, Wanted(benchmark=name, sandbox=sandbox)) if digests else None

    def estimate(
        self,
        name: str | None,
        track: str | None,
        *,
        submission: str | None,
        sandbox: SandboxName | None,
        submissions: int,
        measure: bool,
    ) -> Estimate:
        """What a submission costs on a benchmark, or on one of its tracks: this one, or one with assumed features.

        Raises UsageError for a submission that no check has accepted, else what `ranker.estimate.estimate` raises.
        """
        from ranker.estimate import EncoderFacts, estimate
        from ranker.intake.phases import frozen_folders
        from ranker.types import EncoderSource

        benchmark, encoder = self.benchmark(name), None
        tracks = [track] if track else list(benchmark.tracks)
        for each in tracks:
            benchmark.track(each)
        if submission is not None:
            (view,) = self.find([submission])
            found = None if view.check is None else view.check.result
            if found is None:
                raise UsageError(
                    f"submission {view.submission.id} of {view.submission.team} is {view.state}: only an encoder that "
                    f"was accepted can be measured; `ranker show {view.submission.id}` says more"
                )
            folder = self.home.submissions / view.submission.digest
            frozen = frozen_folders(folder, found)
            encoder = EncoderFacts(
                tree=folder / "tree",
                packages=frozen.packages,
                weights=frozen.weights,
                source=EncoderSource(**found["source"]),
                output_dim=int(found["encoder"]["output_dim"]),
                frames_per_s=float(found["encoder"]["frames_per_s"]),
                batch_invariant=bool(found["encoder"]["batch_invariant"]),
            )
        return estimate(
            self.home,
            self.service,
            benchmark,
            tracks,
            encoder=encoder,
            sandbox=self.sandbox(sandbox),
            submissions=submissions,
            measure=measure,
        )

    def audit(
        self, submission: str, name: str | None, *, asked: Asked, on_progress: Callable[[str, int, int], None]
    ) -> Audit:
        """Ask a submission's encoder again for changed test clips. Raises as `ranker.audit.prepare` and `ask`."""
        from ranker.audit import prepare

        service = self.service.model_copy(update={"sandbox": self.sandbox(asked.sandbox)})
        benchmark = self.benchmark(name)
        with self.reading() as reading:
            auditor = prepare(reading, self.home, service, benchmark, submission, asked=asked)
        return auditor.ask(on_progress)
