"""What the page says of a submission beyond its row on a board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ranker.types import Part, Pick, SubmissionState


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One scored test item. `score` is the item's own part of the metric, None where the metric has no such part.

    `pick`: why it is one of those that are shown.
    """

    item: str
    reference: str
    candidate: str
    score: float | None
    pick: Pick = Pick.RANDOM


@dataclass(frozen=True, kw_only=True)
class TrackRun:
    """How a submission was evaluated in one part of one track.

    `manifest`: the run's manifest, as plain JSON values. `curve`: (step, training loss in nats per token);
    `gradient_norms`: (step, norm before it is cut). `samples`: some items per task name, and `predictions`: the Parquet
    file of all its scored pairs, to stand beside the page; `render` drops those of tasks that no board shows as public,
    whatever the caller gives.
    """

    track: str
    part: Part = Part.PUBLIC
    manifest: Mapping[str, Any]
    curve: tuple[tuple[int, float], ...] = ()
    gradient_norms: tuple[tuple[int, float], ...] = ()
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)
    predictions: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SubmissionPage:
    """One submission. Its scores are not here: they stand on the boards, under the same `id`.

    `digest`: SHA-256 of the ZIP. `received_at` has a zone. Both are None of an anonymous team's. `encoder`: what the
    check found, as plain JSON values; None where no check has finished. `reasons`: why it was refused or failed, one
    sentence each. `standing`: why it is not ranked though it was accepted, in a sentence for everybody; empty if it
    is. `runs`: one per track and part; `render` drops those of parts that are not public, whatever the caller gives.
    """

    id: str
    team: str
    digest: str | None
    received_at: datetime | None
    state: SubmissionState
    encoder: Mapping[str, Any] | None = None
    reasons: tuple[str, ...] = ()
    standing: str = ""
    runs: tuple[TrackRun, ...] = ()


def page_path(submission_id: str) -> str:
    """A submission's page, relative to the folder."""
    return f"submission/{submission_id}.html"


def predictions_path(submission_id: str, track: str, task: str) -> str:
    """A task's predictions, relative to the folder; `track` is the track's slug."""
    return f"predictions/{submission_id}/{track}/{task}.parquet"
