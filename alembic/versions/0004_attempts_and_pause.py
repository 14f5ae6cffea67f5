"""Every attempt of a job; its priority; why the queue stands still."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What a job's state may not do, whoever writes: `ranker.queue.moves` has the same table. A finished evaluation stays.
FORBIDDEN_MOVE = """
    (NEW.status <> OLD.status AND OLD.status || '>' || NEW.status NOT IN (
        'queued>running', 'queued>cancelled', 'running>succeeded', 'running>failed', 'running>cancelled',
        'running>queued', 'succeeded>queued', 'failed>queued', 'failed>cancelled', 'cancelled>queued'))
    OR (OLD.status = 'succeeded' AND NEW.status <> 'succeeded' AND OLD.kind <> 'check')
    OR NEW.attempt < OLD.attempt
"""
MOVE = "a job cannot make this move"
KEPT = "an attempt that has ended stays as it is"
POSTGRESQL = f"""
CREATE FUNCTION job_moves() RETURNS trigger AS $$
BEGIN
IF {FORBIDDEN_MOVE} THEN RAISE EXCEPTION '{MOVE}' USING ERRCODE = 'integrity_constraint_violation'; END IF;
RETURN NEW; END
$$ LANGUAGE plpgsql;
CREATE FUNCTION attempt_is_kept() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION '{KEPT}' USING ERRCODE = 'integrity_constraint_violation'; END
$$ LANGUAGE plpgsql;
CREATE TRIGGER job_moves BEFORE UPDATE ON job FOR EACH ROW EXECUTE FUNCTION job_moves();
CREATE TRIGGER attempt_no_update BEFORE UPDATE ON job_attempt FOR EACH ROW WHEN (OLD.ending IS NOT NULL)
EXECUTE FUNCTION attempt_is_kept();
CREATE TRIGGER attempt_no_delete BEFORE DELETE OR TRUNCATE ON job_attempt EXECUTE FUNCTION attempt_is_kept()
"""
SQLITE = (
    f"CREATE TRIGGER job_moves BEFORE UPDATE ON job WHEN {FORBIDDEN_MOVE} BEGIN SELECT RAISE(ABORT, '{MOVE}'); END",
    "CREATE TRIGGER attempt_no_update BEFORE UPDATE ON job_attempt WHEN OLD.ending IS NOT NULL "
    f"BEGIN SELECT RAISE(ABORT, '{KEPT}'); END",
    f"CREATE TRIGGER attempt_no_delete BEFORE DELETE ON job_attempt BEGIN SELECT RAISE(ABORT, '{KEPT}'); END",
)


def upgrade() -> None:
    op.create_table(
        "pause",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("paused_at", sa.DateTime(), nullable=False),
        sa.Column("paused_by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.String(length=2000), nullable=False),
        sa.Column("give_back", sa.Boolean(), nullable=False),
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
        sa.CheckConstraint(
            "(fault IS NOT NULL) = (ending IS NOT NULL AND ending IN ('failed', 'lost'))",
            name="attempt_fault_when_failed",
        ),
        sa.CheckConstraint("number >= 1", name="attempt_number"),
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
    op.drop_index("job_claim", table_name="job")
    op.create_index("job_claim", "job", ["status", sa.text("priority DESC"), "id", "not_before"], unique=False)
    # A job that runs while its database is brought up to date has an attempt as well.
    op.execute(
        "INSERT INTO job_attempt (job_id, number, worker, started_at, reasons) "
        "SELECT id, attempt, worker, COALESCE(started_at, created_at), '[]' FROM job WHERE status = 'running'"
    )
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else [POSTGRESQL]:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER job_moves")
    else:
        op.execute("DROP TRIGGER job_moves ON job; DROP FUNCTION job_moves()")
    op.drop_index("job_claim", table_name="job")
    op.create_index("job_claim", "job", ["status", "not_before", "id"], unique=False)
    with op.batch_alter_table("job") as job:
        job.drop_column("priority")
    op.drop_table("job_attempt")
    op.drop_table("pause")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION attempt_is_kept()")
