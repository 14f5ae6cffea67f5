"""The tables of what arrives and what is answered: messages, deliveries, links, replies."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from ranker.db.base import Base, UtcDateTime, one_of
from ranker.types import Channel, LinkState, ReplyKind, ReplyState


class Message(Base):
    """One e-mail, known by its bytes, which lie in `mail/<digest>.eml` of the home.

    `id` is the first 12 hex digits of `digest` (SHA-256 of the bytes); `message_id` is the header of that name.
    `arrived_at` is the time that counts, `arrived_by` says where it was read from; `dated_at` is what the sender's
    clock said. `doubt`: why the sender's address may be forged, by the word of our own mail server. `is_automatic`: no
    person wrote it (a bounce, an absence notice), so nothing may answer it. `notes` says what was found in it, what was
    ignored and why, one sentence each. `handled_at` is None until all that the message holds has been taken in.
    """

    __tablename__ = "message"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    message_id: Mapped[str | None] = mapped_column(String(1000))
    channel: Mapped[str] = mapped_column(String(16))
    sender: Mapped[str] = mapped_column(String(400))
    subject: Mapped[str] = mapped_column(String(1000))
    arrived_at: Mapped[datetime] = mapped_column(UtcDateTime)
    arrived_by: Mapped[str] = mapped_column(String(1000))
    dated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    doubt: Mapped[str | None] = mapped_column(String(1000))
    is_automatic: Mapped[bool]
    notes: Mapped[list[str]] = mapped_column(JSON, default=list)
    kept_at: Mapped[datetime] = mapped_column(UtcDateTime)
    handled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint(one_of("channel", Channel), name="message_channel"),
        Index("message_by_header", "message_id"),
    )


class Delivery(Base):
    """One arrival of a submission's bytes: the same ZIP may come as a file, by mail, and again.

    `source` names where from (`file NAME`, `message ID`, `link ID`); `sender` is the address it came from, if any.
    """

    __tablename__ = "delivery"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    submission_id: Mapped[str] = mapped_column(ForeignKey("submission.id"))
    message_id: Mapped[str | None] = mapped_column(ForeignKey("message.id"))
    channel: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(400))
    sender: Mapped[str | None] = mapped_column(String(400))
    arrived_at: Mapped[datetime] = mapped_column(UtcDateTime)
    arrived_by: Mapped[str] = mapped_column(String(1000))

    __table_args__ = (
        UniqueConstraint("submission_id", "source", name="delivery_once"),
        CheckConstraint(one_of("channel", Channel), name="delivery_channel"),
    )


class Link(Base):
    """An address that a message gave instead of a file. Nothing is fetched until an organizer says so."""

    __tablename__ = "link"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    message_id: Mapped[str | None] = mapped_column(ForeignKey("message.id"))
    url: Mapped[str] = mapped_column(String(4000))
    state: Mapped[str] = mapped_column(String(16))
    found_at: Mapped[datetime] = mapped_column(UtcDateTime)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    decided_by: Mapped[str | None] = mapped_column(String(200))
    digest: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    why: Mapped[str | None] = mapped_column(String(2000))

    __table_args__ = (
        UniqueConstraint("message_id", "url", name="link_once"),
        CheckConstraint(one_of("state", LinkState), name="link_state"),
        CheckConstraint("(state = 'fetched') = (digest IS NOT NULL)", name="link_digest_when_fetched"),
    )


class Reply(Base):
    """One answer to a sender, drafted as `outbox/<key>.eml` of the home; sent only when asked, at most once.

    `key` is the identity of what it says: SHA-256 over kind, what it answers, and what it is based on. SENDING is
    written before the first byte goes out: a reply found so after a crash may have been sent, and is not sent again.
    """

    __tablename__ = "reply"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    message_id: Mapped[str | None] = mapped_column(ForeignKey("message.id"))
    submission_id: Mapped[str | None] = mapped_column(ForeignKey("submission.id"))
    recipient: Mapped[str] = mapped_column(String(400))
    subject: Mapped[str] = mapped_column(String(1000))
    state: Mapped[str] = mapped_column(String(16))
    drafted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    sending_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failure: Mapped[str | None] = mapped_column(String(2000))

    __table_args__ = (
        CheckConstraint(one_of("kind", ReplyKind), name="reply_kind"),
        CheckConstraint(one_of("state", ReplyState), name="reply_state"),
        CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="reply_sent_with_time"),
    )
