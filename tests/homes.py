"""New homes for tests, whose database is a copy of one that was migrated once: migrations take time, and have tests of
their own (tests/test_db.py).
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from postgres import restored, saved
from sqlalchemy import Engine

from ranker.db.place import VARIABLE
from ranker.db.session import open_database
from ranker.home import Home


@cache
def _blank(_server: str | None) -> bytes:
    with TemporaryDirectory() as folder:
        home = Home(root=Path(folder))
        open_database(home).dispose()  # the last connection puts the write-ahead log into the file
        return saved(home)


def new_engine(home: Home) -> Engine:
    """The new, empty database of a home that had none."""
    home.root.mkdir(parents=True, exist_ok=True)
    return restored(_blank(os.environ.get(VARIABLE)), home)


def new_home(root: Path) -> Home:
    """A home with an empty database that nobody uses."""
    home = Home(root=root)
    new_engine(home).dispose()
    return home
