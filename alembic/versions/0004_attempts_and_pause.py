"""Every attempt of a job; its priority; why the queue stands still."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("paused_at", sa.DateTime(), nullable=False),
        sa.Column("paused_by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.String(length=2000), nullable=False),
        sa.CheckConstraint("id = 1", name="one_pause"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "job_attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("ending", sa.String(length=16), nullable=True),
        sa.Column("fault", sa.String(length=16), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "ending IS NULL OR ending IN ('succeeded', 'failed', 'released', 'lost', 'cancelled')",
            name="attempt_ending",
        ),
        sa.CheckConstraint("fault IS NULL OR fault IN ('participant', 'infra', 'organizer')", name="attempt_fault"),
        sa.CheckConstraint("(ending IS NULL) = (ended_at IS NULL)", name="attempt_ended_with_ending"),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id", "number", name="attempt_once"),
    )
    op.create_index(
        "attempt_live",
        "job_attempt",
        ["job_id"],
        unique=True,
        sqlite_where=sa.text("ending IS NULL"),
        postgresql_where=sa.text("ending IS NULL"),
    )
    op.add_column("job", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.drop_column("priority")
    op.drop_table("job_attempt")
    op.drop_table("pause")
