"""What one home must keep to itself, gathered from its database, its configuration and its machine."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import socket
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from ranker.config import RankedBenchmark, Task
from ranker.db.models import Job, JobAttempt, Score, Submission
from ranker.home import Home, asset, model_cache
from ranker.publishing.gate import Forbidden
from ranker.rules import SHOWN, standing
from ranker.settings import Service
from ranker.types import Group, Part, Standing

_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_LEAST_SECRET = 8
_LEAST_CELL = 12
_COLUMNS = ("clip", "reference", "candidate")
_ORDINARY = frozenset({"localhost", "root", "ranker", "runner", "worker", "user", "nobody"})


def forbidden(
    session: Session,
    home: Home,
    benchmark: RankedBenchmark,
    service: Service,
    *,
    including: Collection[Standing] = (),
    names: Collection[str] = (),
) -> Forbidden:
    """What must not be published of this home. `names`: teams that are anonymous."""
    public = {task.name for track in benchmark.tracks.values() for task in track.tasks if task.group is Group.PUBLIC}
    tasks = [task for track in benchmark.tracks.values() for task in track.tasks if task.group is Group.HIDDEN]
    scores = list(session.scalars(select(Score).options(selectinload(Score.job))))
    hidden = [each for each in scores if each.job.part is not Part.PUBLIC or _is_hidden(each, benchmark, public)]
    shown = [each for each in scores if each not in hidden]
    hidden_cells = _cells(home, hidden)
    prompts = {
        part.prompt: task.group
        for track in benchmark.tracks.values()
        for task in sorted(track.tasks, key=lambda task: task.group is Group.PUBLIC)
        if isinstance(task, Task)
        for part in (task.train, task.test)
        if part is not None
    }
    return Forbidden(
        folders=frozenset(_folders(home)),
        machines=frozenset(_machines(session)),
        users=frozenset(_users()),
        secrets=secrets(home, service),
        hidden_tasks=frozenset({task.name for task in tasks} | {each.task for each in hidden}) - public,
        hidden_texts=frozenset(prompt for prompt, group in prompts.items() if group is Group.HIDDEN),
        hidden_cells=hidden_cells - _cells(home, shown) if hidden_cells else hidden_cells,
        unranked=unranked(session, including),
        names=frozenset(names) | _of_teams(session, names),
        shipped=shipped(),
        allowed=frozenset(service.publish.allow),
    )


def _of_teams(session: Session, teams: Collection[str]) -> frozenset[str]:
    """Ids and digests of these teams' submissions, which lead to who knows the ZIP."""
    query = select(Submission.id, Submission.digest).where(Submission.team.in_(teams))
    return frozenset(each for row in session.execute(query) for each in row)


def unranked(session: Session, including: Collection[Standing]) -> Mapping[str, Standing]:
    """Submissions that the rules leave out and nobody asked for, by id."""
    query = select(Submission).options(selectinload(Submission.verdicts))
    found = {submission.id: standing(submission.verdicts) for submission in session.scalars(query)}
    return {key: value for key, value in found.items() if value not in {*SHOWN, *including}}


def shipped() -> Mapping[str, str]:
    """SHA-256 of the static files that come with ranker, by their path in a page's folder."""
    root = asset("leaderboard")
    files = [path for path in (root / "static").rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def secrets(home: Home, service: Service) -> Mapping[str, str]:
    """Passwords and tokens that this process can see, each under what it is."""
    found = {f"the variable {name}": value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    files = [None if each is None else each.secret_file for each in (service.imap, service.smtp, service.database)]
    for file in filter(None, files):
        try:
            found[f"the content of {file.name}"] = file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
    found |= {
        f"the order of clips of run {path.parent.name}": _content(path) for path in home.runs.glob("*/*/order.secret")
    }
    return {name: value for name, value in found.items() if len(value) >= _LEAST_SECRET}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _is_hidden(score: Score, benchmark: RankedBenchmark, public: Collection[str]) -> bool:
    """A score of the benchmark's public model that is of no public task: a hidden one, trained with them."""
    return score.job.benchmark == benchmark.name and score.task not in public


def _cells(home: Home, scores: Iterable[Score]) -> frozenset[str]:
    """Names of clips, references and answers behind these scores, those that are long enough to be told apart."""
    import pandas as pd

    found: set[str] = set()
    for score in scores:
        try:
            items = pd.read_parquet(home.root / score.predictions)
        except (OSError, ValueError):
            continue  # it is gone, or no table: then it cannot be published either
        for column in (name for name in _COLUMNS if name in items):
            values = (" ".join(str(value).split()) for value in items[column].unique())
            found |= {value for value in values if len(value) >= _LEAST_CELL or (column == "clip" and len(value) > 3)}
    return frozenset(found)


def _folders(home: Home) -> Iterator[str]:
    known = [home.root, Path.home(), model_cache(), Path.cwd(), asset("configs").parent, Path(tempfile.gettempdir())]
    for folder in known:
        for each in (folder.absolute(), folder.resolve()):
            if len(each.parts) > 2:  # below /name: others are found by their looks, and could be anything
                yield str(each)


def _machines(session: Session) -> Iterator[str]:
    workers = {*session.scalars(select(JobAttempt.worker)), *filter(None, session.scalars(select(Job.worker)))}
    hosts = {socket.gethostname(), *(worker.partition(":")[0] for worker in workers)}
    yield from (each for each in {*workers, *hosts} if _is_telling(each))


def _users() -> Iterator[str]:
    try:
        yield getpass.getuser()
    except (KeyError, OSError):
        return


def _is_telling(name: str) -> bool:
    """Whether a machine's name is no ordinary word: only then does it tell anything, and is looked for."""
    has_mark = any(not character.isalpha() for character in name)
    return len(name) > 3 and name.casefold() not in _ORDINARY and (has_mark or len(name) > 7)
