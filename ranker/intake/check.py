"""Doing a CHECK job: all that is wrong with a submission is found at once, and its code runs in the sandbox only."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ranker.data.hub import Hub
from ranker.data.lock import Source
from ranker.durable import locked
from ranker.errors import ParticipantError
from ranker.executors.gpus import own_gpu
from ranker.home import Home
from ranker.intake import weights
from ranker.intake.archive import Unpacked, unpack
from ranker.intake.build import build
from ranker.intake.phases import require_same
from ranker.intake.receive import (
    ARCHIVE_NAME,
    ENVIRONMENT_NAME,
    REPORT_NAME,
    TREE_NAME,
    WEIGHTS_NAME,
    submission_folder,
)
from ranker.intake.report import examine_report
from ranker.intake.weights import Fetched
from ranker.job import JobContext, Outcome, SubmissionSnapshot
from ranker.journal import ENCODER_NAME
from ranker.sandbox.backends import open_configured
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.check import CheckResult, check_encoder, find_encoder, root_folder
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Service
from ranker.types import EncoderSource, Progress, RepoKind, Stage

LOCK_NAME = ".check.lock"


def check_submission(context: JobContext) -> Outcome:
    """Handler of CHECK jobs; raises what `examine` and `ranker.sandbox.backends.open_configured` raise.

    One attempt at a time: all write to the submission's folder, and one that has lost its job may live a moment longer.
    """
    service = context.service
    sandbox = open_configured(service, context.home.root, gpu=own_gpu())
    sandbox.log_file = context.run_folder / ENCODER_NAME
    with locked(context.run_folder.parent / LOCK_NAME, lambda: context.report(Progress(stage=Stage.UNPACK))):
        return Outcome(result=examine(context.home, service, context.submission, sandbox, context.report))


def examine(
    home: Home,
    service: Service,
    submission: SubmissionSnapshot,
    sandbox: ServedSandbox,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    """Unpack a kept submission, read its report and try its encoder; what was found, as JSON.

    `tree`: digest, number and bytes of the unpacked files; `source`: the fields of EncoderSource; `encoder`: the
    CheckResult of `ranker.sandbox.check`; `environment` and `weights`: what was installed and fetched for it, and what
    was asked of the network, None where nothing was; `report`: the ReportFinding of `ranker.intake.report`, None
    without one (its problems alone refuse nothing: they are a rule's matter); `sandbox`: which.
    Raises one ParticipantError with every reason that was found in any part; InfraError and MissingError where we fail.
    """
    folder = submission_folder(home, submission.digest)
    found: dict[str, Any] = {"sandbox": sandbox.name, "report": None}
    problems: tuple[str, ...] = ()
    report(Progress(stage=Stage.UNPACK))
    if (folder / REPORT_NAME).is_file():
        finding = examine_report(folder / REPORT_NAME, service.report, hidden=home.root)
        found["report"], problems = finding.to_json(), finding.problems
    try:
        unpacked = unpack(folder / ARCHIVE_NAME, folder / TREE_NAME, service.archive)
        report(Progress(stage=Stage.CHECK))
        return found | _try_encoder(home, unpacked, submission, sandbox, service)
    except ParticipantError as refusal:
        raise ParticipantError([*problems, *refusal.reasons]) from None


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What the phases of one check are given."""

    sandbox: ServedSandbox
    service: Service
    submission: SubmissionSnapshot
    folder: Path
    tree: Path
    packages: Path | None

    def check(self, weights: Path | None, source: EncoderSource | None = None) -> CheckResult:
        """Find the encoder, unless it is known, and check it, without a network. Raises as these do."""
        sandbox, limits = self.sandbox, self.service.limits
        if source is None:
            source = self.find(weights)
        spec = EncoderSpec(tree=self.tree, source=source, packages=self.packages, weights=weights)
        return check_encoder(sandbox, spec, limits)

    def find(self, weights: Path | None) -> EncoderSource:
        return find_encoder(
            self.sandbox,
            self.tree,
            self.service.limits,
            self.submission.encoder_override,
            packages=self.packages,
            weights=weights,
        )


def _try_encoder(
    home: Home, unpacked: Unpacked, submission: SubmissionSnapshot, sandbox: ServedSandbox, service: Service
) -> dict[str, Any]:
    """The phases: build; then, without a network, the check; and if that fails, weights, and the check with them."""
    folder = submission_folder(home, submission.digest)
    built = build(sandbox, service, unpacked.tree / root_folder(unpacked.tree), folder)
    require_same(folder, submission.check, ENVIRONMENT_NAME, None if built is None else built.record)
    packages = None if built is None else built.packages
    trial = _Trial(
        sandbox=sandbox,
        service=service,
        submission=submission,
        folder=folder,
        tree=unpacked.tree,
        packages=packages,
    )
    result, fetched = _with_weights(trial)
    require_same(folder, submission.check, WEIGHTS_NAME, None if fetched is None else fetched.record)
    return {
        "tree": {"digest": unpacked.digest, "files": unpacked.files, "size_bytes": unpacked.size_bytes},
        "source": dataclasses.asdict(result.source),
        "encoder": result.to_json(),
        ENVIRONMENT_NAME: None if built is None else built.record,
        WEIGHTS_NAME: None if fetched is None else fetched.record,
    }


def _with_weights(trial: _Trial) -> tuple[CheckResult, Fetched | None]:
    """Without a network first, so that nothing is fetched for an encoder that has all it needs."""
    fetched = weights.kept(trial.folder)
    accepted = fetched is not None and bool((trial.submission.check or {}).get(WEIGHTS_NAME))
    if fetched is not None and not accepted and fetched.record["hosts"] != sorted(trial.submission.allowed_hosts):
        shutil.rmtree(trial.folder / WEIGHTS_NAME)  # of a check that was killed, which might have asked other hosts
        fetched = None
    if fetched is not None:
        return _check_with(fetched, trial, None, accepted=accepted), fetched
    source = None
    try:
        source = trial.find(None)
        return trial.check(None, source), None
    except ParticipantError:
        fetched = weights.fetch(
            trial.sandbox,
            trial.service,
            trial.tree,
            trial.folder,
            source=source,
            override=trial.submission.encoder_override,
            packages=trial.packages,
            hosts=trial.submission.allowed_hosts,
            dated=_dated(trial.service.weights.hub_url),
        )
        if fetched is None:
            raise
    return _check_with(fetched, trial, source, accepted=False), fetched


def _check_with(fetched: Fetched, trial: _Trial, source: EncoderSource | None, *, accepted: bool) -> CheckResult:
    """The check with fetched weights. If it refuses, they are thrown away, unless an earlier one accepted them."""
    try:
        return trial.check(fetched.weights, source)
    except ParticipantError as refusal:
        if accepted:
            raise
        shutil.rmtree(trial.folder / WEIGHTS_NAME)  # no run has seen it: another check may fetch anew
        raise ParticipantError(
            [
                *refusal.reasons,
                "this was found without a network, as in every run, but with the weights that the constructor fetched",
            ]
        ) from None


def _dated(hub_url: str) -> weights.Dated:
    """Asks the hub when a commit was made."""

    def asked(kind: RepoKind, repository: str, commit: str) -> datetime | None:
        return Hub(endpoint=hub_url).committed_at(Source(kind=kind, repo=repository, revision=commit))

    return asked
