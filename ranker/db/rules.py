"""The tables of who takes part, what the rules say of a submission, and who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ranker.db.base import Base, UtcDateTime, one_of
from ranker.types import Rule, Ruling


class Team(Base):
    """A registered team. `name` is what `Submission.team` says."""

    __tablename__ = "team"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(300), unique=True)
    affiliation: Mapped[str] = mapped_column(String(300))
    imported_at: Mapped[datetime] = mapped_column(UtcDateTime)
    addresses: Mapped[list[TeamAddress]] = relationship(order_by="TeamAddress.id", cascade="all, delete-orphan")
    members: Mapped[list[TeamMember]] = relationship(order_by="TeamMember.id", cascade="all, delete-orphan")


class TeamAddress(Base):
    """An address that a team writes from: lower case, one team's only."""

    __tablename__ = "team_address"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    address: Mapped[str] = mapped_column(String(400), unique=True)


class TeamMember(Base):
    """A person in a team. `person` tells people apart: an address if the list gives one, else the folded name.

    One person in two teams is a rule's matter, not the table's.
    """

    __tablename__ = "team_member"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("team.id"))
    name: Mapped[str] = mapped_column(String(300))
    person: Mapped[str] = mapped_column(String(400))

    __table_args__ = (
        UniqueConstraint("team_id", "person", name="member_once"),
        Index("member_by_person", "person"),
    )


class Verdict(Base):
    """What one rule says of one submission, with its evidence; `decided_by` is `ranker` or a person."""

    __tablename__ = "verdict"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    submission_id: Mapped[str] = mapped_column(ForeignKey("submission.id"))
    rule: Mapped[str] = mapped_column(String(16))
    ruling: Mapped[str] = mapped_column(String(16))
    why: Mapped[str] = mapped_column(String(2000))
    evidence: Mapped[dict[str, Any]] = mapped_column(JSON)
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime)
    decided_by: Mapped[str] = mapped_column(String(200))

    __table_args__ = (
        UniqueConstraint("submission_id", "rule", name="verdict_once"),
        CheckConstraint(one_of("rule", Rule), name="verdict_rule"),
        CheckConstraint(one_of("ruling", Ruling), name="verdict_ruling"),
    )


class Event(Base):
    """Who did what (an `Action`), and when. Rows are only ever added: the database refuses to change or delete one.

    `digest` is over the row and the digest of the one before it (see `ranker.events`).
    """

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(32))
    submission_id: Mapped[str | None] = mapped_column(ForeignKey("submission.id"))
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    digest: Mapped[str] = mapped_column(String(64), unique=True)

    __table_args__ = (Index("event_by_submission", "submission_id", "id"),)
