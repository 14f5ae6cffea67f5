"""The tables. Times are UTC and naive in SQLite's eyes; `UtcDateTime` gives them their zone back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from ranker.types import Condition, Fault, JobKind, Part, Status


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone: stored in UTC, returned aware."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware time in, naive UTC out; a time without a zone is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Naive UTC in, aware UTC out."""
        return None if value is None else value.replace(tzinfo=UTC)


def _one_of(column: str, values: type[JobKind] | type[Status] | type[Fault]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class Base(DeclarativeBase):
    """Registry of the tables."""


class Submission(Base):
    """One ZIP, known by its bytes. Everything that happened to it stands in its jobs.

    `id` is the first 12 hex digits of `digest` (SHA-256 of the ZIP). `encoder_override` is what `--encoder` said.
    """

    __tablename__ = "submission"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    team: Mapped[str] = mapped_column(String(300))
    file_name: Mapped[str] = mapped_column(String(300))
    size_bytes: Mapped[int] = mapped_column(Integer)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    encoder_override: Mapped[str | None] = mapped_column(String(300))
    report_digest: Mapped[str | None] = mapped_column(String(64))
    jobs: Mapped[list[Job]] = relationship(back_populates="submission", order_by="Job.id")
    allowed_hosts: Mapped[list[AllowedHost]] = relationship(order_by="AllowedHost.id")

    @property
    def checks(self) -> list[Job]:
        """Its CHECK jobs, oldest first."""
        return [job for job in self.jobs if job.kind == JobKind.CHECK]


class AllowedHost(Base):
    """One host (`HOST:PORT`) that a submission's constructor may ask at intake, beside the hub."""

    __tablename__ = "allowed_host"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    submission_id: Mapped[str] = mapped_column(ForeignKey("submission.id"))
    host: Mapped[str] = mapped_column(String(300))
    allowed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    allowed_by: Mapped[str] = mapped_column(String(200))

    __table_args__ = (UniqueConstraint("submission_id", "host", name="host_once"),)


class Job(Base):
    """One unit of work. `ranker.queue` is the only writer of its state.

    `key` is its identity: SHA-256 over submission, kind, condition digest and seed. `attempt` is the fencing token.
    `result` is what a finished check found (see `ranker.sandbox.check`) or a finished evaluation's manifest digest.
    """

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    submission_id: Mapped[str] = mapped_column(ForeignKey("submission.id"))
    kind: Mapped[str] = mapped_column(String(16))
    benchmark: Mapped[str | None] = mapped_column(String(64))
    track: Mapped[str | None] = mapped_column(String(64))
    condition_digest: Mapped[str | None] = mapped_column(String(64))
    condition: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    seed: Mapped[int] = mapped_column(Integer, default=0)
    status: Mapped[str] = mapped_column(String(16), default=Status.QUEUED)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    infra_failures: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    fault: Mapped[str | None] = mapped_column(String(16))
    reasons: Mapped[list[str]] = mapped_column(JSON, default=list)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    submission: Mapped[Submission] = relationship(back_populates="jobs")
    scores: Mapped[list[Score]] = relationship(back_populates="job", order_by="Score.id")

    __table_args__ = (
        CheckConstraint(_one_of("kind", JobKind), name="job_kind"),
        CheckConstraint(_one_of("status", Status), name="job_status"),
        CheckConstraint(f"fault IS NULL OR {_one_of('fault', Fault)}", name="job_fault"),
        CheckConstraint("(status = 'running') = (worker IS NOT NULL)", name="job_worker_while_running"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="job_lease_while_running"),
        CheckConstraint("(status = 'failed') = (fault IS NOT NULL)", name="job_fault_when_failed"),
        Index("job_claim", "status", "not_before", "id"),
    )

    @property
    def part(self) -> Part:
        """Which part of its track an evaluation is of."""
        return Part.PUBLIC if self.condition is None else Condition.from_json(self.condition).part

    @property
    def where(self) -> str:
        """The track that an evaluation is of and, but for the public one, the part: `track A, hidden part`."""
        return f"track {self.track}" + ("" if self.part is Part.PUBLIC else f", {self.part} part")


class Score(Base):
    """One task's raw value from one finished evaluation.

    `metric` is the name as computed (`FENSE[minilm]` where a substitute model was used). `blind` is the value that the
    commonest training answer, given to every test clip, would get: the floor that a listening encoder must beat.
    `predictions` is the Parquet file of per-item results, relative to the home folder.
    """

    __tablename__ = "score"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    task: Mapped[str] = mapped_column(String(64))
    metric: Mapped[str] = mapped_column(String(64))
    value: Mapped[float] = mapped_column(Float)
    blind: Mapped[float | None] = mapped_column(Float)
    items: Mapped[int] = mapped_column(Integer)
    predictions: Mapped[str] = mapped_column(String(500))
    job: Mapped[Job] = relationship(back_populates="scores")

    __table_args__ = (UniqueConstraint("job_id", "task", name="score_once"),)
