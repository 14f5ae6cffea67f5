"""What alembic runs for a migration: on the connection, and in the transaction, that `ranker.db.migrate` gives it.

For developers, `alembic.ini` is not needed: `ranker.db.migrate` is the only way in.
"""

from alembic import context

from ranker.db.schema import Base

connection = context.config.attributes["connection"]
# Batch mode rewrites a table where SQLite's ALTER TABLE cannot do what a migration asks for.
context.configure(connection=connection, target_metadata=Base.metadata, transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
