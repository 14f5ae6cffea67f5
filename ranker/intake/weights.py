"""The weights phase: an encoder that does not load without a network is constructed once with one, at intake.

It reaches the configured hub, and the hosts that the organizer allowed for this submission. What it fetched is frozen,
and all that any later run sees. Which commits these are is what the hub client's cache says, in a sandbox where the
submission's code ran too: a claim. The digest of the files is not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ranker.errors import InfraError, ParticipantError
from ranker.intake.frozen import FILES, freeze, known, tidy
from ranker.intake.receive import WEIGHTS_NAME
from ranker.intake.staging import staging_folder
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.check import find_encoder
from ranker.sandbox.faults import plain
from ranker.sandbox.network import Network, free_bytes, network
from ranker.sandbox.proxy import policy, without_password
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits, Service
from ranker.types import EncoderSource, RepoKind, Traffic

MAX_REPOSITORIES = 50  # and commits, of all together
ASKING_S = 60.0  # for the dates of all commits
_CACHE = "huggingface/hub"
_REPOSITORY = re.compile(r"(?P<kind>models|datasets)--(?P<name>[\w.-]{1,200})", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What Python says when the room's disk is full, and what clients say when a hub fails that was reached.
_NO_ROOM = re.compile(r"No space left on device|Errno 28\b")
_HUB_FAILED = re.compile(
    r"\b(5\d\d Server|429 Client) Error|(Server error '5\d\d|Client error '429)|HTTP Error (5\d\d|429)\b|"
    r"LocalEntryNotFoundError|We couldn't connect to |Read timed out|\b(Read|Connect)Timeout|IncompleteRead|"
    r"ChunkedEncodingError|RemoteProtocolError|RemoteDisconnected|ConnectionResetError|"
    r"Connection (aborted|broken|reset)"
)
_KINDS = {"models": RepoKind.MODEL, "datasets": RepoKind.DATASET}

Dated = Callable[[RepoKind, str, str], datetime | None]
"""When a commit of a repository was made, as the hub says; None where it does not."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """`weights`: the folder of what was fetched; `record`: what the check says about it."""

    weights: Path
    record: dict[str, Any]


def kept(folder: Path) -> Fetched | None:
    """What an earlier check froze for the submission whose folder this is. Raises InfraError if it was changed."""
    record = known(folder / WEIGHTS_NAME)
    return None if record is None else Fetched(weights=folder / WEIGHTS_NAME / FILES, record=record)


def fetch(
    sandbox: ServedSandbox,
    service: Service,
    tree: Path,
    folder: Path,
    *,
    source: EncoderSource | None,
    override: str | None,
    packages: Path | None,
    hosts: Sequence[str],
    dated: Dated = lambda *_: None,
) -> Fetched | None:
    """Construct the encoder of an unpacked `tree` with a network, and freeze what came; None if it asked for nothing.

    `folder` is the submission's own; `source` is None where no file could be chosen without a network; `hosts` are
    those that are allowed for this submission alone. Raises ParticipantError, InfraError, MissingError.
    """
    asked = service.weights
    limits = service.limits.model_copy(update={"load_timeout_s": asked.timeout_s})
    reach = policy(
        [*asked.hub_hosts, *hosts], urls=[asked.hub_url], private=service.private_hosts, max_bytes=asked.max_bytes
    )
    with staging_folder(folder, f".{WEIGHTS_NAME}-") as staging:
        room = staging / "room"
        room.mkdir()
        room.chmod(0o777)  # the encoder runs as another user; the folders above are for us alone
        with network(reach, room, max_bytes=asked.max_bytes, hub_url=asked.hub_url, home=sandbox.hidden) as way:
            refusal = None
            try:
                if source is None:
                    source = find_encoder(sandbox, tree, limits, override, packages=packages, network=way)
                _construct(sandbox, EncoderSpec(tree=tree, source=source, packages=packages), limits, way)
            except (ParticipantError, InfraError) as error:
                refusal = error
        judge(refusal, way)
        if not way.journal.lines:
            return None
        tidy(room)
        record = {
            "hub": without_password(asked.hub_url),
            "hosts": sorted(hosts),
            "repositories": _repositories(room / _CACHE, dated),
            "network": way.journal.to_json(),
        }
        record = freeze(room, folder / WEIGHTS_NAME, record)
    return Fetched(weights=folder / WEIGHTS_NAME / FILES, record=record)


def _construct(sandbox: ServedSandbox, spec: EncoderSpec, limits: Limits, way: Network) -> None:
    with sandbox.connect(spec, limits, network=way) as client:
        report = client.load(spec.source)
        if report.error is not None:
            raise ParticipantError(report.violations())


def judge(refusal: ParticipantError | InfraError | None, way: Network) -> None:
    """Raise whoever's fault it was that the encoder could not be constructed with a network; nothing if it could.

    An encoder that asked for nothing is let pass: its refusal without a network says all.
    """
    journal = way.journal
    if way.lost:
        raise InfraError(
            f"while the encoder's weights were fetched, {way.overflow}; is another process filling the disk?"
        )
    if way.overflow is not None:
        raise ParticipantError(f"the encoder's constructor was stopped while it fetched weights: {way.overflow}")
    if journal.destinations(Traffic.CUT):
        raise ParticipantError(
            f"the encoder's constructor asks for more than the {way.max_bytes:,} bytes that may be fetched at intake"
        )
    unreachable = journal.destinations(Traffic.UNREACHABLE)
    if refusal is not None and unreachable:
        raise InfraError(f"the model hub cannot be reached ({', '.join(map(plain, unreachable[:3]))}): {refusal}")
    if isinstance(refusal, InfraError):
        raise refusal  # even if nothing was asked: what it did without a network says nothing about this
    if refusal is None or not journal.lines:
        return
    _judge_words(refusal, way)
    refused = [plain(each, 100) for each in journal.destinations(Traffic.REFUSED)]
    reasons = list(refusal.reasons)
    if refused:
        reasons.append(
            f"with a network, its constructor asked for {', '.join(refused[:5])}, which may not be asked; only the hub "
            "and hosts that the organizers allow for this submission may (`ranker allow-host`)"
        )
    raise ParticipantError(reasons)


def _judge_words(refusal: ParticipantError, way: Network) -> None:
    """Raise InfraError where the exception's words are those of a full disk or a failing hub: nobody else sees either,
    since what is said to a hub is encrypted. Who makes them up is tried again a few times, and gains nothing.
    """
    words = " ".join(refusal.reasons)
    free = free_bytes(way.room)
    if _NO_ROOM.search(words) and free < way.max_bytes:
        raise InfraError(
            f"the disk has {free:,} bytes left, where a constructor may fetch {way.max_bytes:,}; make room: {words}"
        )
    carried, refused = (way.journal.destinations(outcome) for outcome in (Traffic.CARRIED, Traffic.REFUSED))
    if carried and not refused and _HUB_FAILED.search(words):
        raise InfraError(f"the model hub, or another host that was allowed, failed: {words}")


def _repositories(cache: Path, dated: Dated) -> list[dict[str, Any]]:
    """What lies in the hub client's cache: each repository, its commits, and which of its names stood for them.

    Names and commits are claims, and we ask the hub about them: so there are few, and the time for all is bounded.
    """
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + ASKING_S
    for place in sorted(cache.iterdir())[:MAX_REPOSITORIES] if cache.is_dir() else []:
        match = _REPOSITORY.fullmatch(place.name)
        if match is None or place.is_symlink():
            continue
        kind, name = _KINDS[match["kind"]], match["name"].replace("--", "/")  # no name on the hub has two dashes
        refs = {_read(path): plain(path.name, 60) for path in _below(place / "refs")}
        for commit in sorted(path.name for path in _below(place / "snapshots") if _COMMIT.fullmatch(path.name)):
            if len(found) >= MAX_REPOSITORIES:
                return found
            when = dated(kind, name, commit) if time.monotonic() < deadline else None
            found.append(
                {
                    "kind": kind,
                    "repository": name,
                    "revision": refs.get(commit),
                    "commit": commit,
                    "committed_at": None if when is None else when.isoformat(),
                }
            )
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())[:MAX_REPOSITORIES] if folder.is_dir() and not folder.is_symlink() else []


def _read(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(64).decode("ascii", "replace").strip()
