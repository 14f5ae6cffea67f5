"""A real PostgreSQL server for tests: its own data folder, a Unix socket, no TCP; gone with the process that began it.

`RANKER_TEST_DATABASE=postgresql` puts every home of the whole suite there, each into a schema of its own, by the
variable RANKER_DATABASE alone, and leaves aside the modules that open no database at all. Where CI is set, a missing
server fails the test; elsewhere it skips, saying why.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from engine import missing
from sqlalchemy import Engine, text

from ranker.db.place import VARIABLE, database_url, parsed, schema_of
from ranker.db.session import connect, session
from ranker.home import Home

SWITCH = "RANKER_TEST_DATABASE"
START_TIMEOUT_S = 60
EVERYWHERE = os.environ.get(SWITCH) == "postgresql"
# Nothing survives the test, so nothing is forced to disk; text is sorted as no SQLite would.
SETTINGS = (
    *("fsync=off", "full_page_writes=off", "listen_addresses=", "shared_buffers=32MB", "max_connections=60"),
    "dynamic_shared_memory_type=mmap",  # in the data folder
)
sqlite_only = pytest.mark.skipif(EVERYWHERE, reason="this test is about a SQLite file")
_OPENS = re.compile(r'(from|import) ranker\.(db|service)\b|ranker\.cli(\.app)? import main|"-m", "ranker"')
_IMPORTED = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On a server, run what may open a database."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if EVERYWHERE and is_test and not opens_database(collection_path) else None


@cache
def opens_database(module: Path) -> bool:
    """Whether a module of tests, or one beside it that it imports, names a way to a home's database."""
    source = module.read_text(encoding="utf-8")
    beside = (module.with_name(f"{name}.py") for name in _IMPORTED.findall(source))
    return _OPENS.search(source) is not None or any(opens_database(each) for each in beside if each.is_file())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database on a server of our own; `{home}` in it gives each home its schema."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        missing("no PostgreSQL server is installed (Debian's package postgresql)")
    with server(programs[-1]) as socket_folder:
        yield f"postgresql+psycopg://ranker@/ranker?host={socket_folder}&options=-csearch_path%3D{{home}}"


@pytest.fixture(scope="session", autouse=EVERYWHERE)
def _everywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """The switch."""
    if not EVERYWHERE:
        yield
        return
    with on_server(request.getfixturevalue("postgres_server")):
        yield


@pytest.fixture(scope="module", autouse=EVERYWHERE)
def _no_schemas_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a module's homes held goes with it: a thousand of them would fill the disk."""
    url = request.getfixturevalue("postgres_server") if EVERYWHERE else None
    yield
    if url is not None:
        drop_schemas(url)


@contextlib.contextmanager
def on_server(url: str) -> Iterator[None]:
    """All homes of this process and its children are on the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, url)
        yield


def drop_schemas(url: str) -> None:
    """Drop the schemas of all homes, a few at a time: each table holds a lock until the commit."""
    engine = connect(parsed(url, Home(root=Path("/nowhere")), where="the test"))
    with session(engine, read_only=True) as reading:
        names = reading.scalars(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'ranker\\_%'")).all()
    for start in range(0, len(names), 10):
        with session(engine) as writing:
            for name in names[start : start + 10]:
                writing.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@contextlib.contextmanager
def server(programs: Path) -> Iterator[Path]:
    """The folder of a running server's socket. The server refuses to be root, and is killed with this process."""
    folder = Path(tempfile.mkdtemp(prefix="ranker-postgres-"))  # short: a socket's path has 107 bytes at most
    unprivileged = ["setpriv", "--pdeathsig", "QUIT"]  # at once, but for its shared memory, which a kill would leave
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        unprivileged += ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    folder.chmod(0o755)
    data = folder / "data"
    initdb = [programs / "initdb", "--pgdata", data, "--username=ranker", "--auth=trust", "--no-sync"]
    initdb += ["--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
    subprocess.run([*unprivileged, *initdb], check=True, capture_output=True, cwd=folder)
    settings = [part for each in SETTINGS for part in ("-c", each)]
    command = [*unprivileged, programs / "postgres", "-D", data, "-k", folder, *settings]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        _wait(process, programs, folder)
        yield folder
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(START_TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], programs: Path, folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    create = [programs / "createdb", "-h", folder, "-U", "ranker", "ranker"]
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run(create, capture_output=True, check=False).returncode == 0:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    missing(f"a PostgreSQL server did not start: {(folder / 'log').read_text(errors='replace')[-600:]}")


@cache
def saved(home: Home) -> bytes:
    """All of a home's database that nobody uses: the file, or the SQL that makes such a schema with all its rows."""
    url = database_url(home)
    if url.get_backend_name() == "sqlite":
        return home.database_path.read_bytes()
    schema = str(schema_of(url))
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    command = [programs / "pg_dump", "-h", str(url.query["host"]), "-U", "ranker", "--no-owner", "--inserts"]
    dump = subprocess.run([*command, "-n", schema, "ranker"], check=True, capture_output=True).stdout
    lines = [
        line
        for line in dump.splitlines()
        if not line.startswith((b"--", b"\\", b"SET ", b"SELECT pg_catalog.set_config"))
    ]
    return b"\n".join(lines).replace(schema.encode(), b"{schema}")


def restored(copy: bytes, home: Home) -> Engine:
    """Such a copy as this home's database, whatever it had. A tenth of the time that migrations take."""
    url = database_url(home)
    if url.get_backend_name() == "sqlite":
        forget(home)
        home.database_path.write_bytes(copy)
        return connect(url)
    forget(home)
    engine = connect(url)
    with engine.connect() as connection, connection.begin():
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute(copy.replace(b"{schema}", str(schema_of(url)).encode()))
    return engine


def copied(source: Home, target: Home) -> None:
    """A home that nobody uses, with its database, again in another folder."""
    shutil.copytree(source.root, target.root)
    if EVERYWHERE:
        restored(saved(source), target).dispose()


def forget(home: Home) -> None:
    """From now on this home has no database."""
    url = database_url(home)
    if url.get_backend_name() == "sqlite":
        for file in home.root.glob(f"{home.database_path.name}*"):
            file.unlink()
        return
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {schema_of(url)} CASCADE"))
    engine.dispose()
