"""What arrives and what is answered; who takes part, what the rules say, and who did what."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEPT = "what was done stays written: rows of event are only ever added"
POSTGRESQL = f"""
CREATE FUNCTION event_is_kept() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '{KEPT}' USING ERRCODE = 'integrity_constraint_violation'; END
$$ LANGUAGE plpgsql;
"""


def upgrade() -> None:
    op.create_table(
        "message",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=1000), nullable=True),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("sender", sa.String(length=400), nullable=False),
        sa.Column("subject", sa.String(length=1000), nullable=False),
        sa.Column("arrived_at", sa.DateTime(), nullable=False),
        sa.Column("arrived_by", sa.String(length=1000), nullable=False),
        sa.Column("dated_at", sa.DateTime(), nullable=True),
        sa.Column("doubt", sa.String(length=1000), nullable=True),
        sa.Column("is_automatic", sa.Boolean(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("kept_at", sa.DateTime(), nullable=False),
        sa.Column("handled_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint("channel IN ('file', 'mail', 'imap', 'link')", name="message_channel"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("message_by_header", "message", ["message_id"], unique=False)
    op.create_table(
        "team",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("affiliation", sa.String(length=300), nullable=False),
        sa.Column("imported_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("submission_id", sa.String(length=12), nullable=False),
        sa.Column("message_id", sa.String(length=12), nullable=True),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=400), nullable=False),
        sa.Column("sender", sa.String(length=400), nullable=True),
        sa.Column("arrived_at", sa.DateTime(), nullable=False),
        sa.Column("arrived_by", sa.String(length=1000), nullable=False),
        sa.CheckConstraint("channel IN ('file', 'mail', 'imap', 'link')", name="delivery_channel"),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["message.id"],
        ),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("submission_id", "source", name="delivery_once"),
    )
    op.create_table(
        "link",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(length=12), nullable=True),
        sa.Column("url", sa.String(length=4000), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("found_at", sa.DateTime(), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("decided_by", sa.String(length=200), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("why", sa.String(length=2000), nullable=True),
        sa.CheckConstraint("(state = 'fetched') = (digest IS NOT NULL)", name="link_digest_when_fetched"),
        sa.CheckConstraint("state IN ('pending', 'fetched', 'declined', 'failed')", name="link_state"),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["message.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", "url", name="link_once"),
    )
    op.create_table(
        "reply",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("message_id", sa.String(length=12), nullable=True),
        sa.Column("submission_id", sa.String(length=12), nullable=True),
        sa.Column("recipient", sa.String(length=400), nullable=False),
        sa.Column("subject", sa.String(length=1000), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("drafted_at", sa.DateTime(), nullable=False),
        sa.Column("sending_at", sa.DateTime(), nullable=True),
        sa.Column("sent_at", sa.DateTime(), nullable=True),
        sa.Column("failure", sa.String(length=2000), nullable=True),
        sa.CheckConstraint("(state = 'sent') = (sent_at IS NOT NULL)", name="reply_sent_with_time"),
        sa.CheckConstraint("kind IN ('received', 'accepted', 'refused', 'result')", name="reply_kind"),
        sa.CheckConstraint("state IN ('drafted', 'sending', 'sent', 'failed', 'dropped')", name="reply_state"),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["message.id"],
        ),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "team_address",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("team_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.String(length=400), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"],
            ["team.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("address"),
    )
    op.create_table(
        "team_member",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("team_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=300), nullable=False),
        sa.Column("person", sa.String(length=400), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"],
            ["team.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("team_id", "person", name="member_once"),
    )
    op.create_index("member_by_person", "team_member", ["person"], unique=False)
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("submission_id", sa.String(length=12), nullable=False),
        sa.Column("rule", sa.String(length=16), nullable=False),
        sa.Column("ruling", sa.String(length=16), nullable=False),
        sa.Column("why", sa.String(length=2000), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.Column("decided_by", sa.String(length=200), nullable=False),
        sa.CheckConstraint(
            "rule IN ('registration', 'membership', 'deadline', 'report', 'disclosure', 'one_model', 'conduct')",
            name="verdict_rule",
        ),
        sa.CheckConstraint("ruling IN ('met', 'pending', 'broken', 'waived')", name="verdict_ruling"),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("submission_id", "rule", name="verdict_once"),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("submission_id", sa.String(length=12), nullable=True),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("event_by_submission", "event", ["submission_id", "id"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        for what in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER event_no_{what.lower()} BEFORE {what} ON event "
                f"BEGIN SELECT RAISE(ABORT, '{KEPT}'); END"
            )
    else:
        op.execute(POSTGRESQL)
        op.execute(
            "CREATE TRIGGER event_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON event EXECUTE FUNCTION event_is_kept()"
        )


def downgrade() -> None:
    op.drop_table("event")
    op.drop_table("verdict")
    op.drop_table("team_member")
    op.drop_table("team_address")
    op.drop_table("reply")
    op.drop_table("link")
    op.drop_table("delivery")
    op.drop_table("team")
    op.drop_table("message")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION event_is_kept()")
