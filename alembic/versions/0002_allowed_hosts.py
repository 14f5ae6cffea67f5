"""Hosts that a submission's constructor may ask for weights, beside the hub."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "allowed_host",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("submission_id", sa.String(length=12), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("allowed_at", sa.DateTime(), nullable=False),
        sa.Column("allowed_by", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["submission_id"], ["submission.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("submission_id", "host", name="host_once"),
    )


def downgrade() -> None:
    op.drop_table("allowed_host")
