"""What everybody may see: a preview for organizers, the gate, publications and their versions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranker import config, events
from ranker.db.session import session
from ranker.errors import UsageError
from ranker.service.opened import Opened
from ranker.types import Action, Standing

if TYPE_CHECKING:
    from ranker.publishing.gate import Forbidden
    from ranker.publishing.publication import Material, Plan
    from ranker.publishing.versions import Version


@dataclass(frozen=True, kw_only=True)
class Edition:
    """What of a benchmark is to be seen, and under which names.

    `with_predictions`: all scored pairs of the public tasks stand beside the page, from which anyone can compute a
    score. `including`: standings that are taken as if they were ranked. `anonymous`: every team under a pseudonym.
    `named`: teams may be named though the last version has them under pseudonyms.
    """

    benchmark: str | None = None
    with_predictions: bool = False
    including: tuple[Standing, ...] = ()
    anonymous: bool = False
    named: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """The public page's index.html, and the version that it is; None where nothing but the time would differ."""

    index: Path
    version: Version | None


class Publishing(Opened):
    """What everybody may see: a preview for organizers, the gate, publications and their versions."""

    def preview(self, edition: Edition, folder: Path | None) -> Path:
        """Write the page as it would be published, for organizers; returns its index.html. Nothing becomes public.

        Each page says that it is a preview; where teams are anonymous, a table beside it says who is who. Verdicts are
        brought up to date first. Before any evaluation it has no board.
        """
        from ranker import site

        benchmark = self.ranking_config(edition.benchmark)
        self._judge()
        names = self._names(benchmark, edition, is_kept=True)
        with self.reading() as reading:
            made = self._material(reading, benchmark, edition, names, is_calibrated=False)
        return site.render(
            made.boards,
            made.pages,
            folder or self.home.preview,
            calibrations=made.calibrations,
            preview=True,
            who=sorted((shown, team) for team, shown in names.items()),
        )

    def publish(self, edition: Edition, *, not_before: str | None, despite_embargo: bool, why: str) -> Published:
        """Make the page public, as a new version.

        Verdicts are brought up to date first, and the log tells who published what. Raises EmbargoError before the
        benchmark's embargo, or `not_before`; RefusedError for what the gate finds; and UsageError, also where teams
        would be named whose pseudonyms everybody sees now.
        """
        from ranker.publishing import embargo, publication

        benchmark, now = self.ranking_config(edition.benchmark), datetime.now(UTC)
        embargoes = [each for each in (benchmark.embargo, not_before) if each]
        if not despite_embargo:
            embargo.refuse_before(embargoes, now)
        self._judge()
        names = self._names(benchmark, edition, is_kept=True)
        with self.reading() as reading:
            made = self._material(reading, benchmark, edition, names)
        if not edition.named:
            self._refuse_to_unveil(made)
        early = any(embargo.opens(each) > now for each in embargoes)
        act = publication.Act(now=now, by=events.whoami(), why=why, despite_embargo=early)
        version = publication.publish(self.home, made, act)
        self._log(
            version,
            conditions={each.track: each.basis for each in made.boards},
            including=sorted(edition.including),
            predictions=edition.with_predictions,
        )
        return Published(index=self.home.site / "index.html", version=version)

    def publish_check(self, edition: Edition) -> Plan:
        """What `publish` would make visible now, and what stands against it. Changes nothing."""
        from ranker.publishing import publication

        benchmark = self.ranking_config(edition.benchmark)
        names = self._names(benchmark, edition, is_kept=False)
        with self.reading() as reading:
            made = self._material(reading, benchmark, edition, names, is_kept=False)
        act = publication.Act(now=datetime.now(UTC), by=events.whoami())
        return publication.check(self.home, made, act)

    def embargoes(self, edition: Edition, not_before: str | None) -> list[str]:
        """Times, of the benchmark and as asked, before which nothing is published now. Raises UsageError."""
        from ranker.publishing import embargo

        asked = [each for each in (self.ranking_config(edition.benchmark).embargo, not_before) if each]
        return [each for each in asked if embargo.opens(each) > datetime.now(UTC)]

    def roll_back(self, number: int, *, including: tuple[Standing, ...], why: str) -> Published:
        """Make an older version public again, as a new one; what lay between is taken back. Raises as `publish`."""
        from ranker.publishing import publication, versions

        old = versions.one(self.home, number)
        benchmark = self.ranking_config(old.benchmark)
        edition = Edition(benchmark=old.benchmark, including=including)
        self._judge()
        # Whoever was anonymous in it stays so, however the versions between were published.
        names = {**self._veiled_in(number), **self._names(benchmark, edition, is_kept=True)}
        with self.reading() as reading:
            forbidden = self._forbidden(reading, benchmark, edition, names)
        act = publication.Act(now=datetime.now(UTC), by=events.whoami(), why=why)
        version = publication.roll_back(self.home, number, forbidden, act)
        self._log(version, including=sorted(including))
        return Published(index=self.home.site / "index.html", version=version)

    def shown_folder(self, *, preview: bool) -> Path:
        """The folder of the page that is public, or of the preview. Raises UsageError where there is none yet."""
        folder = self.home.preview if preview else self.home.site
        if not folder.is_dir():
            command = "ranker leaderboard" if preview else "ranker publish"
            raise UsageError(f"there is no page in {folder} yet; `{command}` writes it")
        return folder

    def _judge(self) -> None:
        from ranker import rules

        self.refuse_without_database()
        with self.open() as engine, session(engine) as writing:
            rules.judge_all(writing, self.home, datetime.now(UTC), rules=self.service.rules)

    def _names(self, benchmark: config.RankedBenchmark, edition: Edition, *, is_kept: bool) -> Mapping[str, str]:
        """Pseudonyms of the teams that are to have one, by their own names. Raises UsageError for an unknown team."""
        from ranker import imports
        from ranker.db.models import Submission
        from ranker.publishing.pseudonyms import pseudonyms

        wanted = self.service.publish
        with self.reading() as reading:
            if isinstance(benchmark, config.Benchmark):
                known = [(team, digest) for team, digest in reading.execute(select(Submission.team, Submission.digest))]
                baselines = benchmark.baselines
                teams = {team for team, digest in known if not any(each.fits(team, digest) for each in baselines)}
            else:
                teams = imports.teams(reading, self.home, benchmark)
                known = [(team, "") for team in teams]
        if not (edition.anonymous or wanted.anonymous):
            unknown = sorted(set(wanted.anonymous_teams) - {team for team, _ in known})
            if unknown:
                raise UsageError(
                    f"publish: anonymous_teams of configs/service.yaml names {unknown[0]!r}, and no submission is of a "
                    f"team so called; there are {', '.join(sorted(teams)) or 'none yet'}"
                )
            teams = set(wanted.anonymous_teams)
        taken = [team for team, _ in known]
        return pseudonyms(self.home.pseudonyms, teams, taken=taken, is_kept=is_kept) if teams else {}

    def _veiled_in(self, number: int) -> Mapping[str, str]:
        """Pseudonyms that stand in a version, by the teams' own names."""
        from ranker.publishing import pseudonyms, publication

        shown = publication.teams_of(self.home, number)
        return {team: name for team, name in pseudonyms.read(self.home.pseudonyms).items() if name in shown}

    def _refuse_to_unveil(self, made: Material) -> None:
        """Raises UsageError where the last version has teams under pseudonyms that would be named now."""
        from ranker.publishing import versions

        shown = {row.team for board in made.boards for row in board.rows} | {page.team for page in made.pages}
        last = versions.kept(self.home)[-1:]
        named = sorted(team for each in last for team in self._veiled_in(each.number) if team in shown)
        if named:
            others = f" and {len(named) - 1} more" if len(named) > 1 else ""
            raise UsageError(
                f"version {last[0].number} has {named[0]!r}{others} under pseudonyms, and would be followed by their "
                "names, which nobody can take back; add --anonymous (or list them under publish: in "
                "configs/service.yaml; baselines always have their names), or --named if it is meant"
            )

    def _material(
        self,
        reading: Session,
        benchmark: config.RankedBenchmark,
        edition: Edition,
        names: Mapping[str, str],
        *,
        is_calibrated: bool = True,
        is_kept: bool = True,
    ) -> Material:
        """All that a page is made of. `is_calibrated`: where the benchmark asks for it, refuse before baselines fit.

        `is_kept`: whether ids that are drawn for anonymous teams' submissions are kept.
        """
        from ranker import board, calibration, imports, overview
        from ranker.db.models import Submission
        from ranker.publishing import pseudonyms
        from ranker.publishing.publication import Material

        now, including = datetime.now(UTC), edition.including
        if not isinstance(benchmark, config.Benchmark):
            if including:
                raise UsageError("--with chooses among standings of submissions; an imported table has none")
            return Material(
                benchmark=benchmark.name,
                boards=[
                    imports.board(reading, self.home, benchmark, track, names=names, now=now)
                    for track in imports.tracks(reading, benchmark)
                ],
                pages=[],
                calibrations=[],
                forbidden=self._forbidden(reading, benchmark, edition, names),
            )
        boards = [
            board.assemble(reading, self.home, benchmark, track, including=including, names=names, now=now)
            for track in benchmark.tracks
            if board.conditions(reading, benchmark, track, including=including)
        ]
        assessed = [calibration.assess(reading, benchmark, each.track, each) for each in boards]
        calibrations = [each for each in assessed if each is not None]
        if is_calibrated:
            calibration.refuse_uncalibrated(benchmark, calibrations)
        pages = overview.pages(
            reading,
            self.home,
            boards,
            with_predictions=edition.with_predictions,
            including=including,
            names=names,
        )
        of_anonymous = reading.scalars(select(Submission.id).where(Submission.team.in_(names))).all()
        ids = pseudonyms.identities(self.home.pseudonyms, of_anonymous, is_kept=is_kept)
        boards, pages = pseudonyms.veiled(boards, pages, ids)
        return Material(
            benchmark=benchmark.name,
            boards=boards,
            pages=pages,
            calibrations=calibrations,
            forbidden=self._forbidden(reading, benchmark, edition, names),
        )

    def _forbidden(
        self, reading: Session, benchmark: config.RankedBenchmark, edition: Edition, names: Collection[str]
    ) -> Forbidden:
        from ranker.publishing.knowledge import forbidden

        return forbidden(reading, self.home, benchmark, self.service, including=edition.including, names=names)

    def _log(self, made: Version | None, **details: object) -> None:
        """One event for each version that has none yet: this one, and what was stopped before it wrote its own."""
        from ranker.publishing import versions

        with self.open() as engine, session(engine) as writing:
            told = [event.details.get("version") for event in events.since(writing) if event.action == Action.PUBLISH]
            for version in versions.kept(self.home):
                if version.number in told:
                    continue
                is_now = made is not None and version.number == made.number
                events.record(
                    writing,
                    actor=version.published_by,
                    action=Action.PUBLISH,
                    now=version.published_at if is_now else datetime.now(UTC),
                    benchmark=version.benchmark,
                    version=version.number,
                    published_at=version.published_at.isoformat(),
                    data=version.data,
                    anonymous=version.is_anonymous,
                    despite_embargo=version.despite_embargo,
                    rollback_of=version.rollback_of,
                    why=version.why,
                    **(details if is_now else {"noted_late": True}),
                )


def plan_sections(plan: Plan) -> Sequence[tuple[str, Sequence[str]]]:
    """What `ranker publish --check` lists, under headings."""
    pages = [name for name in plan.files if name.endswith(".html")]
    size = sum(plan.files.values())
    changed = [f"track {each.track}: {sentence}" for each in plan.changes for sentence in each.sentences()]
    differing = (("+", plan.files_new), ("~", plan.files_changed), ("-", plan.files_gone))
    of_fields = (("+", plan.fields_new), ("-", plan.fields_gone))
    differences = [f"{mark} {name}" for mark, names in (*differing, *of_fields) for name in names]
    by_file: dict[str, list[str]] = {}
    for field in plan.fields:
        file, _, name = field.partition(": ")
        by_file.setdefault(file, []).append(name)
    shown = "the first publication" if plan.before is None else f"against version {plan.before}"
    return (
        (f"pages ({len(pages)})", pages),
        (
            f"files ({len(plan.files)}, {size:,} bytes)",
            [f"{name}  {count:,} bytes" for name, count in plan.files.items()],
        ),
        (f"teams ({len(plan.teams)})", plan.teams),
        (f"fields ({len(plan.fields)})", [f"{file}: {', '.join(names)}" for file, names in by_file.items()]),
        (f"what differs, {shown}", [*changed, *([] if plan.before is None else differences)] or ["nothing but times"]),
    )
