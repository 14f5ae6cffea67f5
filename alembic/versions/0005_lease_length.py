"""Each lease says how long it is; attempts are found by their worker."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("lease_s", sa.Float(), nullable=True))
    op.create_index("attempt_worker", "job_attempt", ["worker"], unique=False)


def downgrade() -> None:
    op.drop_index("attempt_worker", table_name="job_attempt")
    with op.batch_alter_table("job") as job:
        job.drop_column("lease_s")
