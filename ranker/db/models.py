"""The tables of the main way: submissions, their jobs, and the scores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ranker.db.base import Base, UtcDateTime, one_of
from ranker.db.rules import Verdict
from ranker.types import Condition, Ending, Fault, JobKind, Part, Status


class Submission(Base):
    """One ZIP, known by its bytes. Everything that happened to it stands in its jobs.

    `id` is the first 12 hex digits of `digest` (SHA-256 of the ZIP). `encoder_override` is what `--encoder` said.
    """

    __tablename__ = "submission"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    team: Mapped[str] = mapped_column(String(300))
    file_name: Mapped[str] = mapped_column(String(300))
    size_bytes: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"))  # SQLite has one width
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    encoder_override: Mapped[str | None] = mapped_column(String(300))
    report_digest: Mapped[str | None] = mapped_column(String(64))
    jobs: Mapped[list[Job]] = relationship(back_populates="submission", order_by="Job.id")
    allowed_hosts: Mapped[list[AllowedHost]] = relationship(order_by="AllowedHost.id")
    verdicts: Mapped[list[Verdict]] = relationship(order_by="Verdict.id", viewonly=True)

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
    Among jobs that are due, those of the highest `priority` go first. `lease_s` is how long the lease of a running job
    is, which each heartbeat prolongs by as much: two terminals may be configured differently.
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
    priority: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    status: Mapped[str] = mapped_column(String(16), default=Status.QUEUED)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    infra_failures: Mapped[int] = mapped_column(Integer, default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_s: Mapped[float | None] = mapped_column(Float)
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
    attempts: Mapped[list[JobAttempt]] = relationship(order_by="JobAttempt.number")

    __table_args__ = (
        CheckConstraint(one_of("kind", JobKind), name="job_kind"),
        CheckConstraint(one_of("status", Status), name="job_status"),
        CheckConstraint(f"fault IS NULL OR {one_of('fault', Fault)}", name="job_fault"),
        CheckConstraint("(status = 'running') = (worker IS NOT NULL)", name="job_worker_while_running"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="job_lease_while_running"),
        CheckConstraint("(status = 'failed') = (fault IS NOT NULL)", name="job_fault_when_failed"),
        # In the order of claims; with `not_before` in it, jobs that are not due are passed over without being read.
        Index("job_claim", "status", priority.desc(), "id", "not_before"),
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


class JobAttempt(Base):
    """One claim of a job, and how it ended; `ending` is None while it runs. The history of a job: the database refuses
    to delete one, or to change one that has ended.
    """

    __tablename__ = "job_attempt"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    number: Mapped[int] = mapped_column(Integer)
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ending: Mapped[str | None] = mapped_column(String(16))
    fault: Mapped[str | None] = mapped_column(String(16))
    reasons: Mapped[list[str]] = mapped_column(JSON, default=list)

    __table_args__ = (
        UniqueConstraint("job_id", "number", name="attempt_once"),
        CheckConstraint(f"ending IS NULL OR {one_of('ending', Ending)}", name="attempt_ending"),
        CheckConstraint(f"fault IS NULL OR {one_of('fault', Fault)}", name="attempt_fault"),
        CheckConstraint("(ending IS NULL) = (ended_at IS NULL)", name="attempt_ended_with_ending"),
        CheckConstraint(
            "(fault IS NOT NULL) = (ending IS NOT NULL AND ending IN ('failed', 'lost'))",
            name="attempt_fault_when_failed",
        ),
        CheckConstraint("number >= 1", name="attempt_number"),
        # At most one live attempt of a job, whatever the code above does.
        Index(
            "attempt_live",
            "job_id",
            unique=True,
            sqlite_where=text("ending IS NULL"),
            postgresql_where=text("ending IS NULL"),
        ),
        Index("attempt_worker", "worker"),
    )


class Pause(Base):
    """Why no job is handed out at present; the table holds one row, or none while the queue runs.

    `give_back`: workers give running jobs back where that loses nothing; else they end what they have begun.
    """

    __tablename__ = "pause"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    paused_at: Mapped[datetime] = mapped_column(UtcDateTime)
    paused_by: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(String(2000))
    give_back: Mapped[bool] = mapped_column(Boolean)

    __table_args__ = (CheckConstraint("id = 1", name="one_pause"),)
