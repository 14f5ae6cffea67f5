"""The build phase: what a submission's requirements.txt names is installed for it, once, at intake, and frozen.

pip runs in the sandbox, twice: to find out what the base environment lacks, and to install exactly that, by hashes. It
reaches the configured index and nothing else. No code of a package runs, unless configuration allows sources.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from pydantic import BaseModel, ValidationError

from ranker.errors import InfraError, MissingError, ParticipantError
from ranker.intake import requirements
from ranker.intake.frozen import FILES, freeze, known
from ranker.intake.index import PackageIndex, index_of
from ranker.intake.receive import ENVIRONMENT_NAME
from ranker.intake.staging import staging_folder
from ranker.sandbox.faults import Ending, exit_words, plain
from ranker.sandbox.network import Network, network
from ranker.sandbox.proxy import policy, without_password
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits, Service
from ranker.types import Traffic

_MAX_REPORT_BYTES = 50_000_000
_MAX_LOG_BYTES = 2_000_000
_LOG, _REPORT = "pip.log", "report.json"
_PIP = ("-m", "pip", "--isolated", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir")
_QUIET = ("--progress-bar", "off", "--no-color", "--no-compile", "--no-warn-script-location", "--no-warn-conflicts")
_ERROR = re.compile(r"^ERROR: (.+)$", re.MULTILINE)
# What pip says when a server, or the way to it, fails; captured from pip 23.2 (tests/test_build.py).
_SERVER_FAILED = re.compile(
    r"HTTP error (5\d\d|429)|Could not fetch URL .*(5\d\d Server|429 Client) Error|too many (5\d\d|429) error|"
    r"Read timed out|ReadTimeoutError|ConnectionResetError|Connection (aborted|broken|reset)|NewConnectionError|"
    r"ProxyError|Connection timed out|"
    r"SSLError|IncompleteRead|ProtocolError|No space left on device"
)


@dataclass(frozen=True, kw_only=True)
class Built:
    """`packages`: the folder of what was installed, None where the base environment had all of it; `record`: what the
    check says about it.
    """

    packages: Path | None
    record: dict[str, Any]


class _Hashes(BaseModel):
    hashes: dict[str, str] = {}


class _Download(BaseModel):
    url: str = ""
    archive_info: _Hashes = _Hashes()


class _Metadata(BaseModel):
    name: str
    version: str


class _Item(BaseModel):
    metadata: _Metadata
    download_info: _Download = _Download()


class _Report(BaseModel):
    """The parts that matter of pip's installation report, version 1."""

    pip_version: str
    install: list[_Item]


def build(sandbox: ServedSandbox, service: Service, root: Path, folder: Path) -> Built | None:
    """Install what the root folder's requirements.txt names, under the submission's own `folder`; None without one.

    What was frozen there before is used again. Raises ParticipantError (their lines, or what pip says of them),
    InfraError (the index, our machine, or frozen files that were changed), MissingError.
    """
    lines = requirements.read(root)
    if not lines:
        return None
    target = folder / ENVIRONMENT_NAME
    record = known(target)
    if record is None:
        with staging_folder(folder, f".{ENVIRONMENT_NAME}-") as staging:
            record = _install(sandbox, service, lines, staging, target)
    return Built(packages=target / FILES if record["installed"] else None, record=record)


def _install(sandbox: ServedSandbox, service: Service, lines: list[str], staging: Path, target: Path) -> dict[str, Any]:
    asked, index = service.build, index_of(service.build)
    reach = policy(index.hosts, urls=[index.url], private=service.private_hosts, max_bytes=asked.max_download_bytes)
    plan_room, room = staging / "plan", staging / "room"
    with network(reach, _room(plan_room, lines), max_bytes=asked.max_bytes, home=sandbox.hidden) as way:
        plan = _pip(sandbox, service, index, way, "--dry-run")
        done = _Report(pip_version=plan.pip_version, install=[])
        if plan.install:
            # A folder that nobody has written to yet, so that nothing in it leads elsewhere.
            second = replace(way, room=_room(room, _pinned(plan)))
            done = _pip(sandbox, service, index, second, "--no-deps", "--target", "target")
            _must_be_the_same(plan, done)
        else:
            (room / "target").mkdir(parents=True)
    record = {
        "requirements": lines,
        "index": without_password(index.url),
        "sources_allowed": asked.allow_source,
        "pip": plain(plan.pip_version, 40),
        "installed": sorted((_facts(item) for item in done.install), key=lambda each: each["name"]),
        "network": way.journal.to_json(),
    }
    return freeze(room / "target", target, record)


def _room(folder: Path, lines: list[str]) -> Path:
    """A new folder for pip, with a file of requirements in it."""
    folder.mkdir()
    folder.chmod(0o777)  # pip runs as another user; the folders above are for us alone
    (folder / requirements.NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def _pip(sandbox: ServedSandbox, service: Service, index: PackageIndex, way: Network, *options: str) -> _Report:
    """`pip install` of the requirements in the room; what it reports. Raises as `build`."""
    asked = service.build
    kinds = () if asked.allow_source else ("--only-binary", ":all:")
    where = ("--index-url", index.url, "--retries", "1", "--timeout", "20")
    written = ("--report", _REPORT, "--log", _LOG)
    arguments = [*_PIP, *_QUIET, *where, *kinds, *options, *written, "--requirement", requirements.NAME]
    ending = sandbox.run(arguments, service.limits, network=way, timeout_s=asked.timeout_s)
    judge(ending, way, service, debug=_end_of(way.room / _LOG))
    return _read_report(way.room / _REPORT)


def judge(ending: Ending | None, way: Network, service: Service, *, debug: str = "") -> None:
    """Raise whoever's fault it was that pip did not succeed; nothing if it did.

    `ending`: None after the time limit; `debug`: the end of pip's own log, which alone tells of an index that fails.
    """
    asked, journal = service.build, way.journal
    if way.lost:
        raise InfraError(
            f"while {requirements.NAME} was installed, {way.overflow}; is another process filling the disk?"
        )
    if way.overflow is not None:
        raise ParticipantError(f"{requirements.NAME} cannot be installed: {way.overflow}; name smaller packages")
    if journal.destinations(Traffic.CUT):
        raise ParticipantError(
            f"{requirements.NAME} cannot be installed: it asks for more than the {asked.max_download_bytes:,} bytes "
            "that may be fetched; name smaller packages"
        )
    if ending is None:
        raise ParticipantError(
            f"{requirements.NAME} was not installed within {asked.timeout_s:g} s, which is the limit; pin every "
            "version, so that pip has nothing to search"
        )
    _judge_exit(ending, way, service.limits, debug)


def _judge_exit(ending: Ending, way: Network, limits: Limits, debug: str) -> None:
    journal = way.journal
    if ending.out_of_memory:
        raise ParticipantError(f"installing {requirements.NAME} took more than the {limits.memory_gb:g} GB of memory")
    if ending.exit_code == 0:
        return
    if "No module named pip" in ending.log:
        raise MissingError(
            "there is no pip in the sandbox's Python; `python -m ensurepip` brings it, or use docker/Dockerfile"
        )
    errors = _ERROR.findall(ending.log)
    unreachable = journal.destinations(Traffic.UNREACHABLE)
    if unreachable:
        raise InfraError(
            f"the package index cannot be reached ({', '.join(unreachable[:3])}); is build.index_url right?"
        )
    if not errors or _SERVER_FAILED.search(ending.log + debug) or errors[-1].startswith("Exception"):
        raise InfraError(f"pip failed with {exit_words(ending.exit_code)}; it printed last: {plain(ending.log)}")
    refused = journal.destinations(Traffic.REFUSED)
    asked = f"; it asked for {', '.join(map(plain, refused[:3]))}, which is not the index" if refused else ""
    raise ParticipantError(
        f"{requirements.NAME} cannot be installed{asked}; pip says: {plain(_telling(errors))} (only wheels of the "
        "index are installed)"
    )


def _end_of(path: Path) -> str:
    """The end of a file that a sandbox wrote; empty where there is none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            file.seek(-min(_MAX_LOG_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read(_MAX_LOG_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _telling(errors: list[str]) -> str:
    """The last error that pip printed, but for the one that only repeats what could not be found."""
    return errors[-2] if errors[-1].startswith("No matching distribution found") and len(errors) > 1 else errors[-1]


def _read_report(path: Path) -> _Report:
    """The report, which a sandbox wrote. Raises InfraError."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return _Report.model_validate_json(file.read(_MAX_REPORT_BYTES))
    except (OSError, ValidationError) as error:
        raise InfraError(f"pip's report cannot be read: {plain(str(error))}") from error


def _pinned(plan: _Report) -> list[str]:
    """Exactly the plan, as requirements: each with its hash, if the index told all of them."""
    items = [(item.metadata, item.download_info.archive_info.hashes.get("sha256")) for item in plan.install]
    lines = [f"{each.name}=={each.version}" for each, _ in items]
    if all(digest for _, digest in items):
        lines = [f"{line} --hash=sha256:{digest}" for line, (_, digest) in zip(lines, items, strict=True)]
    return lines


def _must_be_the_same(plan: _Report, done: _Report) -> None:
    wanted, found = (
        {(canonicalize_name(i.metadata.name), i.metadata.version) for i in r.install} for r in (plan, done)
    )
    if wanted != found:
        raise InfraError(f"pip installed other packages than it had planned: {plain(str(sorted(wanted ^ found)))}")


def _facts(item: _Item) -> dict[str, str]:
    return {
        "name": plain(canonicalize_name(item.metadata.name), 100),
        "version": plain(item.metadata.version, 60),
        "sha256": plain(item.download_info.archive_info.hashes.get("sha256", ""), 64),
        "file": plain(item.download_info.url.rpartition("/")[2], 200),
    }
