"""One home: its configuration, its database, and the submissions in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ranker import config, settings
from ranker.db.place import database_url, described
from ranker.db.session import has_database, open_database, session
from ranker.errors import ConfigError, MissingError, UsageError
from ranker.hidden import merged
from ranker.home import Home, asset
from ranker.types import SandboxName

if TYPE_CHECKING:
    from ranker.overview import SubmissionView

Configured = TypeVar("Configured", bound=config.RankedBenchmark)


class Opened:
    """One home: its configuration, its database, and the submissions in it."""

    def __init__(self, root: Path, hidden: Path | None = None) -> None:
        self.home = Home(root=root.absolute(), hidden=None if hidden is None else hidden.absolute())

    def with_hidden(self, file: Path | None) -> Self:
        """The same home, with the hidden tasks of `file` merged into the benchmark that it names; None: without."""
        return type(self)(self.home.root, file)

    @cached_property
    def service(self) -> settings.Service:
        """configs/service.yaml of the home, or the one that ships with ranker."""
        return config.load(settings.Service, self.home.config_path("service"))

    def sandbox(self, asked: SandboxName | None) -> SandboxName:
        """Which sandbox is meant: what was asked for, or what the configuration says."""
        return asked or self.service.sandbox

    def benchmark(self, name: str | None) -> config.Benchmark:
        """A benchmark's configuration with its hidden tasks; None: the one that counts here. Raises UsageError,
        ConfigError.
        """
        name, path = self._config_of(name)
        if config.is_ranking_only(path):
            raise UsageError(
                f"benchmark {name} only ranks tables that were made elsewhere (its file says `ranking_only: true`), so "
                f"nothing can be evaluated on it; `ranker rank --scores TABLE.csv --benchmark {name}` ranks a table, "
                f"and `ranker import-scores TABLE.csv --benchmark {name}` takes one in"
            )
        return self._with_hidden(_named(config.load(config.Benchmark, path), name, path))

    def ranking_config(self, name: str | None) -> config.RankedBenchmark:
        """What of a benchmark's configuration a table of scores is ranked by. Raises UsageError, ConfigError."""
        name, path = self._config_of(name)
        return self._with_hidden(_named(config.load_ranking(path), name, path))

    def _config_of(self, name: str | None) -> tuple[str, Path]:
        """A benchmark's name, and its file. Raises UsageError where there is none."""
        name = name or self.service.benchmark
        folders = (asset("configs"), self.home.root / "configs")
        known = {file.stem for folder in folders for file in folder.glob("*.yaml")} - {"service"}
        if name not in known:
            raise UsageError(
                f"there is no benchmark {name!r}; there are {', '.join(sorted(known))}, "
                f"and others may be put under {self.home.root / 'configs'}"
            )
        return name, self.home.config_path(name)

    def _with_hidden(self, found: Configured) -> Configured:
        """The configuration with its hidden tasks, if a file of them was given."""
        return found if self.home.hidden is None else merged(found, self.home.hidden)

    @contextmanager
    def open(self) -> Iterator[Engine]:
        """The database, migrated, for this process."""
        engine = open_database(self.home)
        try:
            yield engine
        finally:
            engine.dispose()

    def has_database(self) -> bool:
        """Whether there is a database yet; looking makes none. Raises InfraError if a server does not answer."""
        return has_database(self.home)

    def refuse_without_database(self) -> None:
        """Raises MissingError where there is no database: what only looks makes no files."""
        if self.has_database():
            return
        url = database_url(self.home)
        if url.get_backend_name() == "sqlite":
            raise MissingError(
                f"there is no ranker.db in {self.home.root}; `ranker ingest FILE.zip` begins one there, "
                "and --home DIR or RANKER_HOME names another folder"
            )
        raise MissingError(
            f"ranker has written nothing into {described(url)} yet; `ranker ingest FILE.zip` begins there, "
            "and `ranker db copy` brings another database over"
        )

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One look at the database. Raises MissingError where there is none: looking makes no files."""
        self.refuse_without_database()
        with self.open() as engine, session(engine, read_only=True) as looking:
            yield looking

    def submissions(self) -> list[SubmissionView]:
        """Every submission, in the order of arrival; none where there is no database yet."""
        from ranker import overview

        if not self.has_database():
            return []
        with self.reading() as reading:
            return overview.submissions(reading)

    def find(self, names: Sequence[str]) -> list[SubmissionView]:
        """Submissions by id, beginning of an id, or team. Raises UsageError."""
        from ranker import overview

        with self.reading() as reading:
            return overview.find(reading, names)


def _named(found: Configured, name: str, path: Path) -> Configured:
    """The configuration, provided that it bears the name of its file."""
    if found.name != name:
        raise ConfigError(f"{path}: its name is {found.name!r}; expected {name!r}, as the file is called")
    return found
