"""Boards and submissions to a folder, swapped in whole: a reader, or a kill, meets the old page or the new one."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import ranker
from ranker.board import Board
from ranker.calibration import Calibration
from ranker.errors import UsageError
from ranker.home import asset
from ranker.site import export, scores, tidy
from ranker.site.method_view import method_view
from ranker.site.navigation import COMPARE, METHOD, RANKING, links
from ranker.site.pages import SubmissionPage, page_path, predictions_path
from ranker.site.submission_view import public_runs, standings, submission_view
from ranker.site.text import team_name
from ranker.site.track_view import OtherView, demonstrations, slug, track_view

_MARKER = ".ranker-site"
_ID = re.compile(r"[0-9a-z]{1,64}")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


def render(
    boards: Sequence[Board],
    submissions: Sequence[SubmissionPage],
    out: Path,
    *,
    calibrations: Sequence[Calibration] = (),
    preview: bool = False,
    has_history: bool = False,
    who: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the page to the folder `out` and return the path of its index.html.

    `preview`: each page says that it is not published. `has_history`: each page leads to history.html, which
    `write_history` puts beside it. `who`: who is who, as shown and in truth, for a page of a preview's own.
    One board per track, and at most one calibration. `out` is replaced as a whole; one that holds anything but an
    earlier page is refused with UsageError. Raises ValueError where two boards share a track, two submissions an id, or
    a time has no zone.
    """
    _check(boards, submissions)
    out = out.absolute()
    templates = environment(preview=preview, has_history=has_history)
    with _replacing(out):
        new = out.parent / f".{out.name}.new"
        shutil.rmtree(new, ignore_errors=True)  # left by a render that was killed
        new.mkdir()
        templates.globals["who_is_who"] = bool(who)
        _write(boards, submissions, calibrations, new, templates)
        if who:
            title = boards[0].benchmark_title if boards else "Leaderboard"
            page = templates.get_template("who.html").render(
                who=who, root="", benchmark=title, demonstrations=demonstrations(boards)
            )
            _put(new / "who.html", page)
            (new / "who.html").chmod(0o600)  # as pseudonyms.json is
        _swap(new, out)
    return out / "index.html"


def put_in_place(new: Path, out: Path) -> None:
    """Let a folder that `render` wrote take the place of the page `out` on the same file system, in one step.

    Raises UsageError where `out` is not a page.
    """
    with _replacing(out.absolute()):
        _swap(new, out.absolute())


@contextmanager
def _replacing(out: Path) -> Iterator[None]:
    """Nobody else replaces a folder beside `out` meanwhile, and `out` is a page or nothing. Raises UsageError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out.parent):
        old = _old(out)
        if old.exists() and not out.exists():  # killed between the two renames of _swap
            old.rename(out)
        _check_replaceable(out)
        yield


def environment(*, preview: bool, has_history: bool) -> Environment:
    """The templates, and what all of them know. The arguments are those of `render`."""
    templates = Environment(
        loader=FileSystemLoader(asset("leaderboard") / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        version=ranker.__version__, preview=preview, has_history=has_history, navigation=links(has_history=has_history)
    )
    return templates


def _check(boards: Sequence[Board], submissions: Sequence[SubmissionPage]) -> None:
    slugs = [slug(board.track) for board in boards]
    if len(set(slugs)) < len(slugs):
        raise ValueError(f"a page shows one board per track, found tracks {[board.track for board in boards]}")
    ids = [page.id for page in submissions]
    if len(set(ids)) < len(ids):
        raise ValueError("two submissions have the same id")
    wrong = [identity for identity in ids if not _ID.fullmatch(identity)]
    if wrong:
        raise ValueError(
            f"a submission's id names its file and consists of digits and small letters; found {wrong[0]!r}"
        )


def _check_replaceable(out: Path) -> None:
    if out.is_dir() and not out.is_symlink() and ((out / _MARKER).is_file() or not any(out.iterdir())):
        return
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"{out}: the page replaces its whole folder, and this is not a page that ranker made; "
            "name a folder that is empty, or that does not exist yet"
        )


def _write(
    boards: Sequence[Board],
    submissions: Sequence[SubmissionPage],
    calibrations: Sequence[Calibration],
    folder: Path,
    templates: Environment,
) -> None:
    """All files of the page into an empty folder."""
    pages = {page.id: page for page in submissions}
    assessed = {calibration.track: calibration for calibration in calibrations}
    tracks = [track_view(board, pages, assessed.get(board.track)) for board in boards]
    on_boards = {row.submission_id for board in boards for row in board.rows}
    others = [
        OtherView(name=team_name(page.team, page.id), href=page_path(page.id), state=page.state.value)
        for page in submissions
        if page.id not in on_boards
    ]
    shutil.copytree(asset("leaderboard") / "static", folder / "static")
    (folder / "submission").mkdir()
    title = boards[0].benchmark_title if boards else "Leaderboard"
    shared = {"benchmark": title, "demonstrations": demonstrations(boards)}
    index = templates.get_template("index.html").render(
        tracks=tracks, others=others, root="", here=RANKING.href, **shared
    )
    _put(folder / "index.html", index)
    compare = templates.get_template("compare.html").render(root="", here=COMPARE.href, **shared)
    _put(folder / "compare.html", compare)
    template = templates.get_template("submission.html")
    prepared = [standings(board) for board in boards]
    method = templates.get_template("method.html").render(
        method=method_view(prepared, submissions), root="", here=METHOD.href, **shared
    )
    _put(folder / METHOD.href, method)
    for page in submissions:
        html = template.render(submission=submission_view(page, prepared), root="../", **shared)
        _put(folder / page_path(page.id), html)
    for page in submissions:
        for run in public_runs(page, boards):
            for task, source in run.predictions.items():
                target = folder / predictions_path(page.id, slug(run.track), task)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    _put(folder / "scores.js", scores.to_script(boards, pages))
    _put(folder / "data.json", export.to_json(boards, submissions, calibrations))
    _put(folder / "data.csv", tidy.to_csv(boards, calibrations))
    for track in tracks:
        _put(folder / f"{track.slug}.csv", export.track_csv(track.board))
    _put(folder / _MARKER, "This folder was made by ranker, which replaces it as a whole.\n")


def _put(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8", newline="\n")


def _swap(new: Path, out: Path) -> None:
    """Put the folder `new` in the place of `out` and delete what was there."""
    if not out.exists():
        new.rename(out)
        return
    if not _exchange(new, out):
        # No system call for it here: the old page waits beside the new one for the moment between two renames.
        old = _old(out)
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        new.rename(out)
        new = old
    shutil.rmtree(new, ignore_errors=True)


def _old(out: Path) -> Path:
    return out.parent / f".{out.name}.old"


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step (Linux renameat2(2)); False where system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One render at a time per parent folder; the kernel lets go when a process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
