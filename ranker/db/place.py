"""Where a home's database is: a SQLite file in the home, or a PostgreSQL server that a URL names."""

from __future__ import annotations

import hashlib
import os
import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ranker import config
from ranker.credentials import secret
from ranker.errors import ConfigError, UsageError
from ranker.home import Home
from ranker.settings import DatabaseSettings, Service

VARIABLE = "RANKER_DATABASE"
SECRET_VARIABLE = "RANKER_DATABASE_SECRET"  # noqa: S105  the name of a variable, no password
EXPECTED = "expected postgresql+psycopg://USER@HOST/DATABASE"
_SECRET_QUERY = {"password", "sslpassword", "passfile"}
_SCHEMA = re.compile(r"-c\s*search_path=(\S+)")


def database_url(home: Home) -> URL:
    """The home's database: what RANKER_DATABASE says, else `database.url` of configs/service.yaml, else its own file.

    Raises ConfigError and UsageError. The URL holds the password, if there is one to give: show `described(url)` only.
    """
    given = os.environ.get(VARIABLE)
    settings = config.load(Service, home.config_path("service")).database
    if given:
        return _with_secret(parsed(given, home, where=f"the variable {VARIABLE}"), settings)
    if settings.url is None:
        return sqlite_url(home)
    where = f"database.url of {home.config_path('service')}"
    return _with_secret(parsed(settings.url, home, where=where, may_hold_password=False), settings)


def target_url(text: str, home: Home) -> URL:
    """The database that a command line names; SQLite's too. Raises UsageError."""
    settings = config.load(Service, home.config_path("service")).database
    return _with_secret(parsed(text, home, where="the address", may_hold_password=False), settings)


def sqlite_url(home: Home) -> URL:
    """The file in the home."""
    return URL.create("sqlite", database=str(home.database_path))


def parsed(text: str, home: Home, *, where: str, may_hold_password: bool = True) -> URL:
    """A URL, with `{home}` replaced by a name that no other home has. Raises UsageError, which repeats no part of it:
    a password may stand anywhere in what is wrong.
    """
    try:
        url = make_url(text.replace("{home}", _own_name(home)))
    except (ArgumentError, ValueError):
        raise UsageError(f"{where} is no URL of a database; {EXPECTED}") from None
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in {"postgresql+psycopg", "sqlite"}:
        raise UsageError(f"{where} names a database of the kind {url.drivername!r}; {EXPECTED}, or sqlite:////FILE")
    if not url.database or url.database == ":memory:":
        raise UsageError(f"{where} names no database; {EXPECTED}, or sqlite:////FILE")
    if not may_hold_password and (url.password is not None or _SECRET_QUERY & set(url.query)):
        raise ConfigError(
            f"{where} holds a password, which others could read there; expected it in the variable {SECRET_VARIABLE}, "
            "in the file that database.secret_file of configs/service.yaml names, or in ~/.pgpass"
        )
    return url


def described(url: URL) -> str:
    """A database as people may see it: no password, and nothing else that a URL may carry."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host") or "this machine"
    port = url.port or url.query.get("port")
    user = f"{url.username}@" if url.username else ""
    schema = schema_of(url)
    at = f"postgresql://{user}{host}{f':{port}' if port else ''}/{url.database}"
    return at if schema is None else f"{at}, schema {schema}"


def schema_of(url: URL) -> str | None:
    """The schema that a URL chooses by `options=-csearch_path=NAME`; None where the server chooses."""
    options = url.query.get("options", "")
    found = _SCHEMA.search(options if isinstance(options, str) else " ".join(options))
    return found.group(1).partition(",")[0] if found else None


def _own_name(home: Home) -> str:
    return f"ranker_{hashlib.sha256(str(home.root.absolute()).encode()).hexdigest()[:20]}"


def _with_secret(url: URL, settings: DatabaseSettings) -> URL:
    """With the password of the variable or the file; without either, libpq looks for one by itself (~/.pgpass)."""
    given = os.environ.get(SECRET_VARIABLE) or settings.secret_file
    if url.get_backend_name() == "sqlite" or url.password is not None or not given:
        return url
    return url.set(password=secret(SECRET_VARIABLE, settings.secret_file))
