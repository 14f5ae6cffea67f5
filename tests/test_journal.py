"""The journal: events that programs can read whatever was logged, and no secret or escape code in what people read."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.journal import EVENTS_NAME, MAX_TEXT, TEXT_NAME, Happening, recording, redacted, tell, visible

BOUND = {"job": 7, "attempt": 2, "submission": "a" * 12, "track": "A"}
log = logging.getLogger("ranker.test")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EVENTS_NAME).read_text(encoding="ascii").splitlines()]


def test_an_event_is_one_line_with_all_that_programs_ask_for(tmp_path: Path) -> None:
    """Attacks the format: time in UTC, level, event, job, attempt, submission, track and fields stand in each line."""
    with recording(tmp_path, BOUND):
        tell(log, Happening.STAGE, "train", total=5, path=tmp_path, loss=float("inf"))
        log.warning("a remark with %s", "words")
    first, second = events(tmp_path)
    assert {name: first[name] for name in BOUND} == BOUND
    assert (first["event"], first["level"], first["message"]) == ("stage", "info", "train")
    assert first["fields"] == {"total": 5, "path": str(tmp_path), "loss": "inf"}
    assert datetime.fromisoformat(first["ts"]).utcoffset() is not None
    assert (second["event"], second["level"], second["message"]) == ("remark", "warning", "a remark with words")
    assert "WARNING ranker.test: a remark with words" in (tmp_path / TEXT_NAME).read_text()


def test_a_traceback_stays_in_its_line(tmp_path: Path) -> None:
    """Attacks line breaks: an exception with newlines in its message is still one line, and whole in the text."""
    with recording(tmp_path, BOUND):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("it failed")
    (event,) = events(tmp_path)
    assert "ValueError: two\nlines" in event["traceback"]
    assert "ValueError: two\nlines" in (tmp_path / TEXT_NAME).read_text()


def test_a_message_without_end_is_bounded(tmp_path: Path) -> None:
    """Attacks the disk: a participant's exception of a megabyte keeps its two ends."""
    with recording(tmp_path, BOUND):
        log.error("begin %s end", "x" * 1_000_000)
    (event,) = events(tmp_path)
    assert len(event["message"]) < MAX_TEXT + 100
    assert (event["message"][:5], event["message"][-3:]) == ("begin", "end")


@pytest.mark.parametrize(
    "text",
    [
        "index https://team:hunter2-pass@pypi.example.org/simple failed",
        "postgresql+psycopg://ranker:hunter2-pass@db/ranker",
        "HF_TOKEN=hunter2-pass was refused",
        "{'password': 'hunter2-pass', 'user': 'x'}",
        "GET /file?X-Amz-Signature=hunter2-pass&n=1",
        "Authorization: Bearer hunter2-pass",
        "the token hf_hunter2passhunter2pass was refused",
        "the variable's own value: of-the-environment",
    ],
)
def test_secrets_are_removed(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks leaks: in addresses, after their names, in headers, by their form, and whatever the environment keeps."""
    monkeypatch.setenv("SOME_SECRET", "of-the-environment")
    with recording(tmp_path, BOUND):
        log.error(text, extra={"fields": {"what": text, "password": "hunter2-pass"}})
    for name in (TEXT_NAME, EVENTS_NAME):
        said = (tmp_path / name).read_text()
        assert "***" in said
        assert "hunter2" not in said
        assert "of-the-environment" not in said


def test_what_is_no_secret_stays() -> None:
    """Attacks zeal: addresses without a password, words such as `tokens`, counts and paths are left alone."""
    for text in ("https://example.org/a@b", "12 tokens per second", "no token was given", "team@example.org wrote"):
        assert redacted(text) == text


@given(st.text())
def test_nothing_visible_can_move_a_cursor(text: str) -> None:
    """Attacks terminals with any text at all: what is left is printable, and turns or hides nothing beside it."""
    shown = visible(text)
    assert all(character in "\n\t" or character.isprintable() for character in shown)
    assert not set("\x1b\x9b\u202e\u2066\u200b\ufeff\r\x07\x00") & set(shown)


def test_escape_codes_are_spelt_out() -> None:
    """Attacks readers: one must see that there was an escape code, and which."""
    assert visible("\x1b]0;owned\x07 \u202eabc \U000e0041 ü ✓") == r"\x1b]0;owned\x07 \u202eabc \U000e0041 ü ✓"


def test_libraries_write_to_the_text_alone(tmp_path: Path) -> None:
    """Attacks the events with raw output: what is printed to descriptors 1 and 2 stays out of them."""
    with recording(tmp_path, BOUND):
        os.write(1, b"from C\n")
        os.write(2, b'{"event": "forged"}\n')
        log.info("ours")
    os.write(1, b"afterwards\n")
    assert [event["message"] for event in events(tmp_path)] == ["ours"]
    assert "from C\n" in (tmp_path / TEXT_NAME).read_text()
    assert "afterwards" not in (tmp_path / TEXT_NAME).read_text()


def test_a_terminal_shows_text(tmp_path: Path) -> None:
    """Attacks a worker that is started by hand: on its terminal are the events as text, and no raw output."""
    code = "import logging, os, sys; from pathlib import Path; from ranker.journal import recording\n"
    code += "with recording(Path(sys.argv[1]), {}): logging.getLogger('ranker').info('told'); os.write(1, b'raw')"
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "INFO ranker: told" in said
    assert "raw" not in said
