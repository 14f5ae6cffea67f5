"""Doing a CHECK job: all that is wrong with a submission is found at once, and its code runs in the sandbox only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ranker.errors import ParticipantError
from ranker.home import Home
from ranker.intake.archive import Unpacked, unpack
from ranker.intake.receive import ARCHIVE_NAME, REPORT_NAME, TREE_NAME, submission_folder
from ranker.intake.report import inspect_report
from ranker.job import JobContext, Outcome, SubmissionSnapshot
from ranker.sandbox.backends import open_configured
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.check import check_encoder, find_encoder
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Service
from ranker.types import Progress, Stage


def check_submission(context: JobContext) -> Outcome:
    """Handler of CHECK jobs; raises what `examine` and `ranker.sandbox.backends.open_configured` raise."""
    service = context.service
    sandbox = open_configured(service, context.home.root)
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
    CheckResult of `ranker.sandbox.check`; `report`: pages and bytes, None without one; `sandbox`: which was used.
    Raises one ParticipantError with every reason that was found in any part; InfraError and MissingError where we fail.
    """
    folder = submission_folder(home, submission.digest)
    reasons: list[str] = []
    found: dict[str, Any] = {"sandbox": sandbox.name, "report": None}
    report(Progress(stage=Stage.UNPACK))
    if (folder / REPORT_NAME).is_file():
        with _collected(reasons):
            found["report"] = dataclasses.asdict(inspect_report(folder / REPORT_NAME, service.report))
    with _collected(reasons):
        unpacked = unpack(folder / ARCHIVE_NAME, folder / TREE_NAME, service.archive)
        report(Progress(stage=Stage.CHECK))
        found |= _try_encoder(unpacked, submission.encoder_override, sandbox, service)
    if reasons:
        raise ParticipantError(reasons)
    return found


def _try_encoder(unpacked: Unpacked, override: str | None, sandbox: ServedSandbox, service: Service) -> dict[str, Any]:
    source = find_encoder(sandbox, unpacked.tree, service.limits, override)
    result = check_encoder(sandbox, EncoderSpec(tree=unpacked.tree, source=source), service.limits)
    return {
        "tree": {"digest": unpacked.digest, "files": unpacked.files, "size_bytes": unpacked.size_bytes},
        "source": dataclasses.asdict(result.source),
        "encoder": result.to_json(),
    }


@contextmanager
def _collected(reasons: list[str]) -> Iterator[None]:
    """Keep a refusal's reasons and go on with the other parts."""
    try:
        yield
    except ParticipantError as refusal:
        reasons += refusal.reasons
