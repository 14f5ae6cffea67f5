"""What is known of a database without its meaning: where it is, how new, how large, how many rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, func, inspect, select, text

from ranker.db.migrate import current_revision, head_revision
from ranker.db.place import described
from ranker.db.schema import Base

_SERVER_BYTES = text(
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n ON n.oid = "
    "c.relnamespace WHERE n.nspname = current_schema() AND c.relkind = 'r'"
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One database. `revision` is None where nothing was written yet; `rows` has each table, in order of dependence."""

    where: str
    kind: str
    version: str
    revision: str | None
    newest_revision: str
    size_bytes: int
    rows: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def facts(engine: Engine) -> Facts:
    """Look at a database of any revision, and change nothing."""
    revision = current_revision(engine)
    with engine.connect().execution_options(read_only=True) as connection, connection.begin():
        there = set(inspect(connection).get_table_names())
        rows = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
            if table.name in there
        }
        version = connection.scalar(text(_version_query(engine)))
        size = size_bytes(connection)
    return Facts(
        where=described(engine.url),
        kind=engine.dialect.name,
        version=str(version),
        revision=revision,
        newest_revision=head_revision(),
        size_bytes=size,
        rows=rows,
    )


def size_bytes(connection: Connection) -> int:
    """Bytes of the file and its log, or of the schema's tables with their indexes."""
    if connection.dialect.name != "sqlite":
        return int(connection.scalar(_SERVER_BYTES) or 0)
    path = Path(str(connection.engine.url.database))
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _version_query(engine: Engine) -> str:
    return "SELECT sqlite_version()" if engine.dialect.name == "sqlite" else "SHOW server_version"
