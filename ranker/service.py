"""What the command line (or another front) can ask of a home: each question or order is one method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ranker import config, settings
from ranker.db.session import open_database, session
from ranker.errors import ConfigError, MissingError, UsageError
from ranker.hidden import merged
from ranker.home import Home, asset
from ranker.types import Buildable, SandboxName

if TYPE_CHECKING:
    from ranker.audit import Asked, Audit
    from ranker.board import Board
    from ranker.calibration import Calibration
    from ranker.comparison import Difference
    from ranker.data.fetch import OnTransfer
    from ranker.doctor import Finding
    from ranker.estimate import Estimate
    from ranker.inspection import TaskInspection
    from ranker.intake.receive import Received
    from ranker.likeness import Likeness
    from ranker.metrics.recompute import Recomputed
    from ranker.overview import SubmissionView
    from ranker.planning import Plan
    from ranker.provision import Provided
    from ranker.scoretable import Ranked

Configured = TypeVar("Configured", bound=config.RankedBenchmark)

MISSING_EXIT_CODE = MissingError.exit_code


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to evaluate on; None means what the configuration says, or all."""

    benchmark: str | None = None
    track: str | None = None
    limit_steps: int | None = None
    sandbox: SandboxName | None = None


class Ranker:
    """One home, as its organizers use it. Methods raise the errors of `ranker.errors`, and print nothing.

    What is slow to import (pandas, and torch behind it) is imported by the methods that need it.
    """

    def __init__(self, root: Path, hidden: Path | None = None) -> None:
        self.home = Home(root=root.absolute(), hidden=None if hidden is None else hidden.absolute())

    def with_hidden(self, file: Path | None) -> Ranker:
        """The same home, with the hidden tasks of `file` merged into the benchmark that it names; None: without."""
        return Ranker(self.home.root, file)

    @cached_property
    def service(self) -> settings.Service:
        """configs/service.yaml of the home, or the one that ships with ranker."""
        return config.load(settings.Service, self.home.config_path("service"))

    def sandbox(self, asked: SandboxName | None) -> SandboxName:
        """Which sandbox is meant: what was asked for, or what the configuration says."""
        return asked or self.service.sandbox

    def benchmark(self, name: str | None) -> config.Benchmark:
        """A benchmark's configuration with its hidden tasks; None: the one that counts here. Raises UsageError,
        ConfigError.
        """
        name, path = self._config_of(name)
        if config.is_ranking_only(path):
            raise UsageError(
                f"benchmark {name} only ranks tables that were made elsewhere (its file says `ranking_only: true`), so "
                f"nothing can be evaluated on it; `ranker rank --scores TABLE.csv --benchmark {name}` ranks a table"
            )
        return self._with_hidden(_named(config.load(config.Benchmark, path), name, path))

    def _config_of(self, name: str | None) -> tuple[str, Path]:
        """A benchmark's name, and its file. Raises UsageError where there is none."""
        name = name or self.service.benchmark
        folders = (asset("configs"), self.home.root / "configs")
        known = {file.stem for folder in folders for file in folder.glob("*.yaml")} - {"service"}
        if name not in known:
            raise UsageError(
                f"there is no benchmark {name!r}; there are {', '.join(sorted(known))}, "
                f"and others may be put under {self.home.root / 'configs'}"
            )
        return name, self.home.config_path(name)

    @contextmanager
    def open(self) -> Iterator[Engine]:
        """The database, migrated, for this process."""
        engine = open_database(self.home)
        try:
            yield engine
        finally:
            engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One look at the database. Raises MissingError where there is none: looking makes no files."""
        if not self.home.database_path.is_file():
            raise MissingError(
                f"there is no ranker.db in {self.home.root}; `ranker ingest FILE.zip` begins one there, "
                "and --home DIR or RANKER_HOME names another folder"
            )
        with self.open() as engine, session(engine, read_only=True) as looking:
            yield looking

    def receive(self, file: Path, *, team: str | None, report: Path | None, encoder: str | None) -> Received:
        """Store and record one ZIP, and queue its check."""
        from ranker.intake.receive import receive

        with self.open() as engine, session(engine) as writing:
            return receive(self.home, writing, file, team=team, report=report, encoder=encoder, now=datetime.now(UTC))

    def allow_host(self, name: str, host: str) -> list[dict[str, str]]:
        """Let a submission's constructor ask one more host at intake; all that it may ask so, by whom and since when.

        Raises UsageError.
        """
        import getpass

        from ranker.intake.hosts import allow

        (view,) = self.find([name])
        with self.open() as engine, session(engine) as writing:
            allow(writing, view.submission.id, host, by=getpass.getuser(), now=datetime.now(UTC))
        (view,) = self.find([name])
        return view.allowed_hosts

    def run(
        self, job_ids: Sequence[int], *, sandbox: SandboxName | None, on_tick: Callable[[], None] = lambda: None
    ) -> None:
        """Do these jobs in worker processes of this machine, until each has ended.

        Raises MissingError, before any worker starts, if there is no sandbox; else what `executors.local.run` raises.
        """
        from ranker.executors import local
        from ranker.sandbox.backends import open_configured

        service = self.service.model_copy(update={"sandbox": self.sandbox(sandbox)})
        if job_ids:
            open_configured(service, self.home.root)
        local.run(self.home, service, job_ids, on_tick=on_tick)

    def queue_evaluations(self, names: Sequence[str] | None, wanted: Wanted) -> Plan:
        """Queue the evaluations that these submissions (None: all accepted ones) miss.

        Raises as `ranker.planning.conditions` and `ranker.planning.plan`; nothing is written where data is missing.
        """
        from ranker import planning

        benchmark = self.benchmark(wanted.benchmark)
        conditions = planning.conditions(
            self.home,
            benchmark,
            [wanted.track] if wanted.track else list(benchmark.tracks),
            limit_steps=wanted.limit_steps,
            sandboxed=self.sandbox(wanted.sandbox) is not SandboxName.NONE,
        )
        with self.open() as engine, session(engine) as writing:
            return planning.plan(writing, benchmark, conditions, names=names, now=datetime.now(UTC))

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

    def likeness(self, names: Sequence[str] | None) -> Likeness:
        """Which submissions (None: all) hold the same weights, or nearly the same."""
        from ranker.likeness import compare, member

        views = self.find(names) if names else self.submissions()
        return compare([member(self.home, view.submission) for view in views])

    def submissions(self) -> list[SubmissionView]:
        """Every submission, in the order of arrival; none where there is no database yet."""
        from ranker import overview

        if not self.home.database_path.is_file():
            return []
        with self.reading() as reading:
            return overview.submissions(reading)

    def find(self, names: Sequence[str]) -> list[SubmissionView]:
        """Submissions by id, beginning of an id, or team. Raises UsageError."""
        from ranker import overview

        with self.reading() as reading:
            return overview.find(reading, names)

    def boards(self, name: str | None, *, track: str | None = None, condition: str | None = None) -> list[Board]:
        """The benchmark's boards, one per track. Raises MissingError where there is none, or not the one asked for."""
        from ranker import board

        benchmark = self.benchmark(name)
        with self.reading() as reading:
            now = datetime.now(UTC)
            return [
                board.assemble(reading, self.home, benchmark, each, condition=condition, now=now)
                for each in _tracks(reading, benchmark, track)
            ]

    def rank_table(self, table: Path, benchmark: str | None, *, track: str | None) -> Ranked:
        """Rank a table of raw scores that was made elsewhere; looks at neither database nor data.

        `benchmark` is a benchmark's name, or the path of a YAML file (with a folder or `.yaml` in it). Raises
        UsageError, ConfigError.
        """
        from ranker.scoretable import rank_table

        if benchmark is not None and (Path(benchmark).suffix in {".yaml", ".yml"} or "/" in benchmark):
            return rank_table(table, self._with_hidden(config.load_ranking(Path(benchmark))), track)
        name, path = self._config_of(benchmark)
        return rank_table(table, self._with_hidden(_named(config.load_ranking(path), name, path)), track)

    def _with_hidden(self, found: Configured) -> Configured:
        """The configuration with its hidden tasks, if a file of them was given."""
        return found if self.home.hidden is None else merged(found, self.home.hidden)

    def compare(
        self, first: str, second: str, name: str | None, *, track: str | None, condition: str | None
    ) -> dict[str, tuple[Difference, ...]]:
        """By how much two submissions differ, per track of the benchmark (or on `track` alone)."""
        from ranker import comparison, overview

        benchmark = self.benchmark(name)
        with self.reading() as reading:
            found = overview.find(reading, [first, second])
            if len(found) < 2:
                raise UsageError(f"{first!r} and {second!r} are the same submission; name two that differ")
            one, other = (view.submission.id for view in found)
            return {
                each: comparison.compare(
                    reading, self.home, benchmark, each, first=one, second=other, condition=condition
                )
                for each in _tracks(reading, benchmark, track)
            }

    def publish(self, name: str | None, folder: Path | None, *, with_predictions: bool) -> Path:
        """Write the page of a benchmark's boards; returns its index.html. Before any evaluation it has no board.

        `with_predictions`: beside it stand all scored pairs of the public tasks, from which anyone can compute a score.
        """
        from ranker import board, calibration, overview, site

        benchmark = self.benchmark(name)
        with self.reading() as reading:
            now = datetime.now(UTC)
            boards = [
                board.assemble(reading, self.home, benchmark, track, now=now) for track in _ready(reading, benchmark)
            ]
            assessed = [calibration.assess(reading, benchmark, each.track, each) for each in boards]
            calibrations = [each for each in assessed if each is not None]
            calibration.refuse_uncalibrated(benchmark, calibrations)
            pages = overview.pages(reading, self.home, boards, with_predictions=with_predictions)
        return site.render(boards, pages, folder or self.home.site, calibrations=calibrations)

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

    def calibrations(self, name: str | None, *, asked: Sequence[int] = ()) -> list[Calibration]:
        """Each track's published figures beside what was measured in the jobs `asked`; without these, on its board."""
        from ranker import board, calibration
        from ranker.db.models import Job

        benchmark = self.benchmark(name)
        found = []
        with self.reading() as reading:
            digests = {reading.get_one(Job, job).condition_digest for job in asked}
            for track in calibration.tracks(benchmark):
                known = [choice.condition.digest for choice in board.conditions(reading, benchmark, track)]
                digest = next((each for each in known if each in digests or not asked), None)
                made = (
                    board.assemble(reading, self.home, benchmark, track, condition=digest, now=datetime.now(UTC))
                    if digest is not None
                    else None
                )
                found.append(calibration.assess(reading, benchmark, track, made))
        return [each for each in found if each is not None]

    def results(self, name: str | None, remarks: Path | None) -> str:
        """Ranking, scores, hardware and durations of a benchmark as Markdown; `remarks` is put below."""
        from ranker import overview
        from ranker.results import markdown

        boards = self.boards(name)
        with self.reading() as reading:
            pages = overview.pages(reading, self.home, boards)
        return markdown(boards, pages, None if remarks is None else remarks.read_text(encoding="utf-8"))

    def metric(self, name: str, file: Path, arguments: Mapping[str, str]) -> Recomputed:
        """A metric, by its name as computed, of a file of predictions. Raises UsageError, MissingError."""
        from ranker.metrics.recompute import recompute

        return recompute(name, file, arguments)

    def examine(self) -> list[Finding]:
        """What works here and what does not."""
        from ranker.doctor import examine

        return examine(self.home, self.service)

    def build_data(
        self, name: Buildable, packages: Path | None, *, again: bool, on_progress: Callable[[int, int], None]
    ) -> str:
        """Build a benchmark's data unless this version of it is there; returns its digest."""
        from ranker.data import store
        from ranker.data.benchmarks import field, mini

        root = self.home.data / name
        if packages is not None and name is not Buildable.FIELD:
            raise UsageError(f"--packages goes with `ranker data build field`; {name} is made from installed packages")
        version = field.VERSION if name is Buildable.FIELD else mini.VERSION
        if again or not store.is_built(root, version):
            if name is Buildable.FIELD:
                field.build(root, on_progress, packages=packages)
            else:
                store.build(root, mini.build, version=mini.VERSION, progress=on_progress)
        return store.digest(root)

    def fetch_data(
        self,
        name: str,
        *,
        lock: Path | None,
        only: Sequence[str],
        jobs: int,
        offline: bool,
        on_step: Callable[[str], None],
        on_transfer: OnTransfer,
    ) -> Provided:
        """Bring a benchmark's shards and models from the hub, as its lock file pins them; see `ranker.provision`."""
        from ranker.provision import provide

        return provide(
            self.home,
            self.benchmark(name),
            lock=lock,
            only=only,
            jobs=jobs,
            offline=offline,
            on_step=on_step,
            on_transfer=on_transfer,
        )

    def verify_data(self, name: str | None) -> dict[str, list[str]]:
        """What differs from its manifest, for each benchmark that is built (or the named one). Raises MissingError."""
        from ranker.data import store

        built = [path.name for path in sorted(self.home.data.glob("*")) if store.is_built(path)]
        if name is None and not built:
            raise MissingError(f"no benchmark is built under {self.home.data}; run `ranker data build mini`")
        if name is not None and name not in built:
            self.benchmark(name)
        return {each: store.verify(self.home.data / each) for each in ([name] if name else built)}

    def inspect_data(
        self, name: str | None, *, task: str | None, on_progress: Callable[[int, int], None]
    ) -> list[TaskInspection]:
        """What the shards of a benchmark's tasks (None: of all that are switched on) hold. Raises MissingError."""
        from ranker.inspection import inspect

        benchmark = self.benchmark(name)
        return inspect(benchmark, self.home.data / benchmark.name, task=task, on_progress=on_progress)


def _named(found: Configured, name: str, path: Path) -> Configured:
    """The configuration, provided that it bears the name of its file."""
    if found.name != name:
        raise ConfigError(f"{path}: its name is {found.name!r}; expected {name!r}, as the file is called")
    return found


def _ready(reading: Session, benchmark: config.Benchmark) -> list[str]:
    """The tracks that have a board."""
    from ranker import board

    return [track for track in benchmark.tracks if board.conditions(reading, benchmark, track)]


def _tracks(reading: Session, benchmark: config.Benchmark, asked: str | None) -> list[str]:
    """The track that is asked for; else those that have a board, or one that says that there is none yet."""
    return [asked] if asked else _ready(reading, benchmark) or list(benchmark.tracks)[:1]


def ranking_json(board: Board) -> dict[str, object]:
    """A board as `ranker rank --json` prints it."""
    from ranker.board import ranking_json as as_json

    return as_json(board)


def estimate_json(value: Estimate, submissions: int) -> dict[str, object]:
    """An estimate as `ranker estimate --json` prints it."""
    from ranker.estimate import to_json

    return to_json(value, submissions)


def is_lame(findings: Sequence[Finding]) -> bool:
    """Whether something is missing without which nothing can be evaluated."""
    from ranker.doctor import Verdict

    return any(finding.verdict is Verdict.MISSING for finding in findings)
