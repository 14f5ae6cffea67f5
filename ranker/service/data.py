"""What benchmarks are made of, and what this machine can do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ranker.errors import MissingError, UsageError
from ranker.service.opened import Opened
from ranker.types import Buildable

if TYPE_CHECKING:
    from ranker.data.fetch import OnTransfer
    from ranker.inspection import TaskInspection
    from ranker.provision import Provided


class Data(Opened):
    """What benchmarks are made of, and what this machine can do with it."""

    def build_data(
        self, name: Buildable, packages: Path | None, *, again: bool, on_progress: Callable[[int, int], None]
    ) -> str:
        """Build a benchmark's data unless this version of it is there; returns its digest."""
        from ranker.data import store
        from ranker.data.benchmarks import field, mini

        root = self.home.data / name
        if packages is not None and name is not Buildable.FIELD:
            raise UsageError(f"--packages goes with `ranker data build field`; {name} is made from installed packages")
        version = field.VERSION if name is Buildable.FIELD else mini.VERSION
        if again or not store.is_built(root, version):
            if name is Buildable.FIELD:
                field.build(root, on_progress, packages=packages)
            else:
                store.build(root, mini.build, version=mini.VERSION, progress=on_progress)
        return store.digest(root)

    def fetch_data(
        self,
        name: str,
        *,
        lock: Path | None,
        only: Sequence[str],
        jobs: int,
        offline: bool,
        on_step: Callable[[str], None],
        on_transfer: OnTransfer,
    ) -> Provided:
        """Bring a benchmark's shards and models from the hub, as its lock file pins them; see `ranker.provision`."""
        from ranker.provision import provide

        return provide(
            self.home,
            self.benchmark(name),
            lock=lock,
            only=only,
            jobs=jobs,
            offline=offline,
            on_step=on_step,
            on_transfer=on_transfer,
        )

    def verify_data(self, name: str | None) -> dict[str, list[str]]:
        """What differs from its manifest, for each benchmark that is built (or the named one). Raises MissingError."""
        from ranker.data import store

        built = [path.name for path in sorted(self.home.data.glob("*")) if store.is_built(path)]
        if name is None and not built:
            raise MissingError(f"no benchmark is built under {self.home.data}; run `ranker data build mini`")
        if name is not None and name not in built:
            self.benchmark(name)
        return {each: store.verify(self.home.data / each) for each in ([name] if name else built)}

    def inspect_data(
        self, name: str | None, *, task: str | None, on_progress: Callable[[int, int], None]
    ) -> list[TaskInspection]:
        """What the shards of a benchmark's tasks (None: of all that are switched on) hold. Raises MissingError."""
        from ranker.inspection import inspect

        benchmark = self.benchmark(name)
        return inspect(benchmark, self.home.data / benchmark.name, task=task, on_progress=on_progress)
