"""What a job's machine needs of the organizer's home: which files, and under which digests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ranker.data.recorded import MANIFEST, read_manifest
from ranker.errors import RankerError
from ranker.executors.parcel import CHECKPOINT, Piece, files_below, is_settled, piece_of
from ranker.hidden import load_benchmark
from ranker.home import Home
from ranker.job import job_folder
from ranker.manifest import read_manifest as read_run
from ranker.queue import Claim
from ranker.types import Condition


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What one job needs, each with its place here; `data` is relative to `data/<benchmark>`, `pieces` to the home."""

    pieces: tuple[tuple[Piece, Path], ...]
    data: tuple[tuple[Piece, Path], ...]
    hidden: tuple[Piece, Path] | None

    @property
    def sources(self) -> dict[str, Path]:
        """Where each content lies, by its SHA-256."""
        everything = [*self.pieces, *self.data, *([] if self.hidden is None else [self.hidden])]
        return {piece.sha256: path for piece, path in everything if piece.link is None}


@dataclass(frozen=True, kw_only=True)
class Packer:
    """Lists what jobs need; remembers the digests of files that have not changed since."""

    home: Home
    with_data: bool
    _known: dict[tuple[Path, int, int], Piece] = field(default_factory=dict)

    def pack(self, claim: Claim, submission_digest: str) -> Cargo:
        """What the job of this claim needs. What is missing here is left out: the job itself says so, in its words.

        Raises OSError where something cannot be read.
        """
        root = self.home.root
        found = [
            *files_below(root / "configs"),
            *self._submission(self.home.submissions / submission_digest),
            *self._own_runs(job_folder(self.home, claim.submission_id, claim.key)),
            *self._finished_siblings(claim),
        ]
        hidden = self.home.hidden
        return Cargo(
            pieces=tuple((self._piece(root, path), path) for path in found),
            data=tuple(self._shards(claim)) if self.with_data else (),
            hidden=None if hidden is None else (self._piece(hidden.parent, hidden), hidden),
        )

    def _piece(self, root: Path, path: Path) -> Piece:
        found = path.lstat()
        key = (path, found.st_size, found.st_mtime_ns)
        if key not in self._known:
            self._known[key] = piece_of(root, path)
        return self._known[key]

    def _submission(self, folder: Path) -> Iterator[Path]:
        """What was unpacked, installed and fetched at intake; the bytes that came stay here."""
        for each in sorted(folder.iterdir()) if folder.is_dir() else ():
            if each.is_dir() and not each.name.startswith("."):
                yield from files_below(each)

    def _own_runs(self, folder: Path) -> Iterator[Path]:
        """What earlier attempts of the job left: a successor goes on from it."""
        return (path for path in files_below(folder) if is_settled(path, folder))

    def _finished_siblings(self, claim: Claim) -> Iterator[Path]:
        """Finished runs of the submission whose weights the job may take over (`ranker.weights`)."""
        runs, condition = self.home.runs / claim.submission_id, claim.condition
        for path in sorted(runs.glob("*/attempt-*/manifest.json")) if condition is not None else ():
            folder = path.parent
            try:
                manifest = read_run(folder)
                theirs = Condition.from_json((manifest or {})["condition"])
            except (ValueError, KeyError, TypeError):  # half a file, or one of an earlier ranker
                continue
            assert condition is not None
            same = (theirs.circumstances, theirs.steps) == (condition.circumstances, condition.steps)
            if same and folder.parent.name != claim.key[:12]:
                final = folder / f"{CHECKPOINT}{condition.steps:08d}"
                yield from (each for each in (path, folder / "train.jsonl") if each.is_file())
                yield from files_below(final)

    def _shards(self, claim: Claim) -> Iterator[tuple[Piece, Path]]:
        """The shards that the job's part is trained and tested on, under the digests that their manifest records."""
        from ranker.data.shards import expand_braces

        if claim.condition is None or claim.benchmark is None:
            return
        folder = self.home.data / claim.benchmark
        try:
            part = load_benchmark(self.home, claim.benchmark).part(claim.condition.track, claim.condition.part)
            recorded = read_manifest(folder)["shards"]
        except RankerError:
            return
        patterns = [each for task in part.mixture.tasks if task.train is not None for each in task.train.shards]
        patterns += [each for task in part.tasks for each in task.test.shards]
        yield piece_of(folder, folder / MANIFEST), folder / MANIFEST
        for name in sorted({name for pattern in patterns for name in expand_braces(pattern)} & set(recorded)):
            path = folder / name
            if path.is_file():
                yield piece_of(folder, path, recorded[name]["sha256"]), path
