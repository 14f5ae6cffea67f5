"""Bringing a whole database over to another, from SQLite to PostgreSQL or back: same rows, same ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Integer, Table, func, insert, select, text
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.orm import Session

from ranker.credentials import scrubbed
from ranker.db.models import Job
from ranker.db.place import described
from ranker.db.schema import Base
from ranker.errors import InfraError, UsageError
from ranker.types import Status

ROWS_AT_A_TIME = 500
OnRows = Callable[[str, int, int], None]
"""Called with a table's name, how many of its rows are there, and how many there will be."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What went over: rows by table in the order of dependence, and a digest (SHA-256, hex) over all rows of both."""

    origin: str
    target: str
    rows: Mapping[str, int]
    digest: str

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def copy(
    source: Engine,
    target: Engine,
    *,
    now: datetime,
    on_rows: OnRows = lambda _table, _done, _total: None,
    also: Callable[[Session, Copied], object] = lambda _session, _copied: None,
) -> Copied:
    """Copy every row; both databases are at the newest revision, and `target` holds nothing.

    One transaction on the target, in which all rows are read back and compared before `also` is done and all of it is
    committed; the source is locked against writers meanwhile, and stays as it is. Raises UsageError if the target holds
    anything, the source has jobs whose lease has not run out, or a value does not fit; InfraError if rows came over
    changed.
    """
    with target.connect().execution_options(read_only=True) as looking, looking.begin():
        _refuse_what_holds_rows(looking, target)  # before any lock: the two may be one
    try:
        with source.begin() as reading, target.begin() as writing:
            _refuse_live_leases(reading, source, now)
            _refuse_what_holds_rows(writing, target)
            copied = _copy(reading, writing, on_rows)
            with Session(writing, join_transaction_mode="create_savepoint") as session:
                also(session, copied)
                session.commit()
            return copied
    except DBAPIError as error:
        words = scrubbed(error.orig, target.url.password or source.url.password or "")
        raise InfraError(
            f"{described(source.url)} was not copied to {described(target.url)}, which is as empty as before: {words}"
        ) from None


def _copy(reading: Connection, writing: Connection, on_rows: OnRows) -> Copied:
    rows: dict[str, int] = {}
    digests: list[str] = []
    for table in Base.metadata.sorted_tables:
        sent = _send(reading, writing, table, on_rows)
        arrived = _Digest()
        for chunk in _chunks(writing, table):
            arrived.add(chunk)
        if (arrived.rows, arrived.value) != (sent.rows, sent.value):
            raise InfraError(
                f"table {table.name} did not arrive as it was: {sent.rows} rows with digest {sent.value[:12]} were "
                f"read, {arrived.rows} with {arrived.value[:12]} were written; nothing was kept, please report it"
            )
        rows[table.name] = sent.rows
        digests.append(f"{table.name} {sent.rows} {sent.value}")
    return Copied(
        origin=described(reading.engine.url),
        target=described(writing.engine.url),
        rows=rows,
        digest=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    )


def _send(reading: Connection, writing: Connection, table: Table, on_rows: OnRows) -> _Digest:
    """Read and write all rows of a table; returns the digest over what was read."""
    total = reading.scalar(select(func.count()).select_from(table)) or 0
    read = _Digest()
    for chunk in _chunks(reading, table):
        read.add(chunk)
        try:
            writing.execute(insert(table), chunk)
        except DataError as error:
            raise _unfit(error, table, chunk) from None
        on_rows(table.name, read.rows, total)
    _go_on_counting(writing, table)
    return read


class _Digest:
    """Over the rows of a table, in whatever order they come: each database has its own order of words."""

    def __init__(self) -> None:
        self.rows = 0
        self._each: list[bytes] = []

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows += len(rows)
        for row in rows:
            plain = json.dumps(row, sort_keys=True, ensure_ascii=False, default=datetime.isoformat)
            self._each.append(hashlib.sha256(plain.encode()).digest())

    @property
    def value(self) -> str:
        return hashlib.sha256(b"".join(sorted(self._each))).hexdigest()


def _chunks(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    with connection.execute(select(table), execution_options={"yield_per": ROWS_AT_A_TIME}) as found:
        for chunk in found.mappings().partitions():
            yield [dict(row) for row in chunk]


def _go_on_counting(connection: Connection, table: Table) -> None:
    """PostgreSQL counts ids apart from rows; SQLite goes on after the highest by itself."""
    (key,) = table.primary_key.columns
    if connection.dialect.name == "sqlite" or not isinstance(key.type, Integer) or key.autoincrement is False:
        return
    highest = connection.scalar(select(func.max(key)))
    if highest is not None:
        sequence = connection.scalar(select(func.pg_get_serial_sequence(table.name, key.name)))
        connection.execute(select(func.setval(sequence, highest)))


def _refuse_what_holds_rows(connection: Connection, target: Engine) -> None:
    for table in Base.metadata.sorted_tables:
        if connection.scalar(select(text("1")).select_from(table).limit(1)) is not None:
            raise UsageError(
                f"{described(target.url)} holds rows already (table {table.name}); expected an empty database: name "
                "another, or another schema (?options=-csearch_path=NAME)"
            )


def _refuse_live_leases(connection: Connection, source: Engine, now: datetime) -> None:
    live = select(Job.id).where(Job.status == Status.RUNNING, Job.lease_expires_at > now).order_by(Job.id)
    jobs = connection.scalars(live).all()
    if jobs:
        raise UsageError(
            f"{described(source.url)} cannot be moved while workers write to it: job {', '.join(map(str, jobs[:5]))} "
            "of theirs runs; `ranker pause --now`, wait until `ranker status` shows none running, and end the workers"
        )


def _unfit(error: DBAPIError, table: Table, chunk: list[dict[str, Any]]) -> UsageError:
    keys = [str(row[column.name]) for row in (chunk[0], chunk[-1]) for column in table.primary_key.columns]
    return UsageError(
        f"a value of table {table.name}, between the rows {keys[0]} and {keys[-1]}, does not fit into the target: "
        f"{scrubbed(error.orig, '')}; shorten it in the source, or report it"
    )
