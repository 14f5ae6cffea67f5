"""What a worker writes down: one JSON line per event for programs, text for people, and secrets in neither.

Own code instead of structlog: the standard library's logging carries structured fields in `extra`, libraries log
through it anyway, and what is left is a formatter and the removal of secrets, which structlog would leave to us too.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
import time
import traceback
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

TEXT_NAME = "worker.log"
EVENTS_NAME = "worker.jsonl"
ENCODER_NAME = "encoder.log"
MAX_TEXT = 16_000
"""Characters of one message, or of one traceback, that are kept in a JSON line."""
REMOVED = "***"

# Each begins with a fixed word and repeats within bounds only, so that hostile text costs no more than its length.
_ADDRESS = re.compile(r"://[^\s/@'\"<>]{1,2000}@")
_WORD = re.compile(
    r"(?i)((?:token|secret|passw(?:or)?d|api[_-]?key|signature|credential)[\w.-]{0,40}['\"]?\s{0,8}[=:]\s{0,8}['\"]?)"
    r"(?!None\b)[^\s&'\",;}\])]+"
)
_BEARER = re.compile(r"(?i)\b(authorization['\"]?\s{0,8}[=:]\s{0,8}['\"]?\w{1,40}|bearer|basic)\s{1,8}[\w.~+/=-]{8,}")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|api_?key|credential")
_SHORTEST_SECRET = 6


class Happening(StrEnum):
    """What an event is of; REMARK is whatever was logged without a word of its own."""

    REMARK = "remark"
    BEGUN = "begun"
    STAGE = "stage"
    BEAT_FAILED = "beat_failed"
    LEASE_LOST = "lease_lost"
    STALLED = "stalled"
    GIVEN_BACK = "given_back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


def tell(log: logging.Logger, event: Happening, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event: `message` for people, `event` and `fields` (plain values) for programs."""
    log.log(level, "%s", message, extra={"event": event, "fields": fields})


def redacted(text: str) -> str:
    """A text without passwords, tokens and signatures: in addresses, after their names, and the environment's own."""
    text = _ADDRESS.sub(f"://{REMOVED}@", text)
    text = _BEARER.sub(rf"\1 {REMOVED}", text)
    text = _WORD.sub(rf"\1{REMOVED}", text)
    text = _HUB_TOKEN.sub(REMOVED, text)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and not value.startswith("/"):
            text = text.replace(value, REMOVED)
    return text


def visible(text: str) -> str:
    r"""Untrusted text made fit for a terminal: all that is not printed as itself is spelt out (`\x1b`, `\u202e`).

    Lines and tabs stay. Nothing that comes out can move the cursor, change a colour or turn the reading direction.
    """
    return "".join(
        character if character in "\n\t" or _is_harmless(character) else _spelt(character) for character in text
    )


def _is_harmless(character: str) -> bool:
    return character.isprintable() and unicodedata.category(character) not in {"Cf", "Co", "Cn"}


def _spelt(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class EventFormatter(logging.Formatter):
    """A record as one line of JSON: time in UTC, level, event, what `bound` says of the job, message, fields."""

    def __init__(self, bound: Mapping[str, Any]) -> None:
        super().__init__()
        self._bound = dict(bound)

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII, whatever was logged."""
        value: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "event": str(getattr(record, "event", Happening.REMARK)),
            **self._bound,
            "logger": record.name,
            "message": _bounded(redacted(record.getMessage())),
            "fields": {name: _plain(name, item) for name, item in getattr(record, "fields", {}).items()},
        }
        if record.exc_info and record.exc_info[0] is not None:
            value["traceback"] = _bounded(redacted("".join(traceback.format_exception(*record.exc_info))))
        return json.dumps(value, allow_nan=False)


class TextFormatter(logging.Formatter):
    """A record as people read it, with its traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Secrets are removed."""
        return redacted(super().format(record))


@contextmanager
def recording(folder: Path, bound: Mapping[str, Any]) -> Iterator[None]:
    """While inside, ranker's log goes to two files of `folder`, and, as text, to the terminal that started us, if any.

    All that libraries print to file descriptors 1 and 2 goes to the text. `bound` stands in every event.
    """
    ranker_log = logging.getLogger("ranker")
    level = ranker_log.level
    with ExitStack() as stack:
        handlers = [
            _to_file(folder / TEXT_NAME, TextFormatter()),
            _to_file(folder / EVENTS_NAME, EventFormatter(bound)),
        ]
        if os.isatty(2):
            handlers.append(_to_terminal(stack))
        for handler in handlers:
            stack.callback(handler.close)
            ranker_log.addHandler(handler)
            stack.callback(ranker_log.removeHandler, handler)
        stack.callback(ranker_log.setLevel, level)
        ranker_log.setLevel(logging.INFO)
        stack.enter_context(_output_to(folder / TEXT_NAME))
        yield


def _to_file(path: Path, formatter: logging.Formatter) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(formatter)
    return handler


def _to_terminal(stack: ExitStack) -> logging.Handler:
    """The terminal as it is now: file descriptor 2 is about to become a file."""
    stream: TextIO = stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    return handler


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    _flush()
    try:
        with path.open("ab") as raw:
            for descriptor, _ in kept:
                os.dup2(raw.fileno(), descriptor)
        yield
    finally:
        _flush()
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _bounded(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _plain(name: str, value: object) -> Any:
    """A field as JSON has it; what JSON lacks (infinities, times, paths) as text."""
    if _SECRET_NAME.search(name) and isinstance(value, str):
        return REMOVED
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain("", item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(str(key), item) for key, item in value.items()}
    return _bounded(redacted(str(value)))
