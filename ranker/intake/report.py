"""The technical report: what it is, as evidence for a rule and for the human who reads it.

A PDF is hostile, and pypdf is made to be lenient, not bounded: it runs in a confined process of its own
(`report_reader.py`). Whatever a PDF does to that process, its end is one sentence about the report. Nothing is refused
here: what a sender can still mend is a rule's matter.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranker.errors import InfraError, UsageError
from ranker.intake.report_reader import OUT_OF_MEMORY, OUT_OF_TIME, READY
from ranker.sandbox.reading import Reading, read_confined
from ranker.settings import ReportLimits

MAX_PAGES_READ = 20
MAX_CHARACTERS = 200_000
MAX_MENTIONS = 30
_MAX_OUTPUT = 16 * MAX_CHARACTERS  # JSON may take 12 bytes for a character
_OPENING = 600
_AROUND = 60
_PROGRAM = Path(__file__).with_name("report_reader.py")

# Words beside which a report says what its encoder was trained on: corpora that audio models are trained on, and the
# ways to speak of them. They point a human to the place; nothing is decided by them.
_TERMS = re.compile(
    r"""\b(
    audioset | vggsound | fsd-?50k | freesound | esc-?50 | urbansound\w* | audiocaps | clotho | wavcaps | laion-audio
    | librispeech | libri-?light | librivox | gigaspeech\w* | wenetspeech\w* | common[ ]?voice | voxceleb\w* | voxpopuli
    | ted-?lium | spgispeech | people's[ ]speech | mls | fleurs | aishell\w* | emilia | yodas\w* | iemocap | meld
    | ravdess | cremad? | musdb\w* | magnatagatune | mtg-jamendo | million[ ]song\w* | maestro | nsynth | fma
    | musiccaps | gtzan
    | (?:pre-?)?train(?:ed|ing)[ ](?:on|data|set|corpus|corpora) | training[ ]data\w* | pre-?train\w*
    | datasets? | corpus | corpora | external[ ]data | in-?house | proprietary | checkpoints?
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A place where the report may speak of training data: the words found, and what stands around them."""

    page: int
    term: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ReportFinding:
    """What a report is. `problems` has one sentence for everything that a sender must mend; empty: it is in order.

    `pages` is None where they could not be counted; `characters` counts the extracted text without white space, of the
    first 20 pages; `opening` is the beginning of that text. `mentions` are hints for the human who looks for the
    disclosure of training data; `remarks` is what else one should know (scripts, files inside, pages without text).
    """

    size_bytes: int
    pages: int | None
    characters: int
    opening: str
    mentions: tuple[Mention, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a job's result and a verdict's evidence."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ReportFinding:
        """The inverse of `to_json`. Raises KeyError or TypeError on anything else."""
        fields = dict(value)
        fields["mentions"] = tuple(Mention(**each) for each in fields["mentions"])
        fields |= {name: tuple(fields[name]) for name in ("remarks", "problems")}
        return cls(**fields)


def examine_report(
    path: Path, limits: ReportLimits, *, hidden: Path | None = None, confine: bool = True
) -> ReportFinding:
    """What the file at `path` is as a report. `hidden`: a folder that its reader must not see (the organizer's home).

    Raises UsageError if it is not there, and InfraError if its reader cannot be started; never for what is in it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; expected the report as a PDF")
    size = path.stat().st_size
    unread = _unreadable(path, size, limits)
    if unread is not None:
        return _finding(size, {}, [unread])
    reading = read_confined(
        _PROGRAM,
        path,
        [str(each) for each in (limits.memory_mb << 20, limits.cpu_s, MAX_PAGES_READ, MAX_CHARACTERS)],
        wall_s=limits.wall_s,
        max_output=_MAX_OUTPUT,
        hidden=hidden,
        confine=confine,
    )
    facts, texts = _facts(reading)
    if READY not in facts:
        raise InfraError(
            f"the reader of {path} did not start (exit {reading.exit_code}):"
            f" {reading.output[-500:].decode(errors='replace').strip()}"
        )
    problems = [*_problems(facts, texts, limits, reading)]
    return _finding(size, facts, problems, texts, _remarks(facts, texts))


def mentions(texts: Mapping[int, str]) -> tuple[Mention, ...]:
    """The first places of each of the words that point to training data, in the order of the pages."""
    found: dict[str, Mention] = {}
    for page, text in sorted(texts.items()):
        for match in _TERMS.finditer(text):
            term = match[0].lower()
            if term not in found and len(found) < MAX_MENTIONS:
                start = max(0, match.start() - _AROUND)
                found[term] = Mention(page=page, term=match[0], text=text[start : match.end() + _AROUND].strip())
    return tuple(found.values())


def _unreadable(path: Path, size: int, limits: ReportLimits) -> str | None:
    """Why it is not worth to start a reader."""
    if size > limits.max_bytes:
        return f"the report has {size:,} bytes; at most {limits.max_bytes:,} are accepted; reduce its images"
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(1024):
            found = "is empty (0 bytes)" if size == 0 else "is not a PDF"
            return f"the report {found}; expected a PDF; export it as PDF and send it again"
    return None


def _facts(reading: Reading) -> tuple[dict[str, Any], dict[int, str]]:
    """What the reader told, by name, and the pages' texts, harmless. What is not as our reader writes it is left out:
    by then it may be the PDF that speaks.
    """
    facts: dict[str, Any] = {}
    texts: dict[int, str] = {}
    kinds = {READY: bool, "encrypted": bool, "pages": int, "actions": list, "page": int, "text": str}
    for line in reading.output.splitlines():
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(told, dict) or not all(type(told[name]) is kinds.get(name) for name in told):
            continue
        if {"page", "text"} == set(told):
            texts[told["page"]] = _harmless(told["text"])
        else:
            facts |= told
    return facts, texts


def _harmless(text: str) -> str:
    """One line without characters that a terminal or a database would stumble over."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def _count(texts: Mapping[int, str]) -> int:
    return sum(len(text) - text.count(" ") for text in texts.values())


def _problems(
    facts: Mapping[str, Any], texts: Mapping[int, str], limits: ReportLimits, reading: Reading
) -> Iterator[str]:
    if facts.get("encrypted"):
        yield "the report is encrypted; expected a PDF without password or restrictions; export it again without them"
        return
    pages = facts.get("pages")
    if pages is None:
        yield (
            f"the report cannot be read as a PDF{_how(reading, limits)}; expected one that opens without errors;"
            " export it again"
        )
        return
    if not 1 <= pages <= limits.max_pages:
        yield f"the report has {pages:,} pages; expected 1 to {limits.max_pages}; shorten it and send it again"
    characters = _count(texts)
    if pages >= 1 and characters < limits.min_characters:
        why = (
            " (its pages look like images)"
            if len(texts) == pages
            else f" (the reading broke off{_how(reading, limits)})"
        )
        yield (
            f"the report has {characters} characters of text that can be extracted{why}; expected at least"
            f" {limits.min_characters}; export it from the program that it was written with, not from a scanner"
        )


def _how(reading: Reading, limits: ReportLimits) -> str:
    if reading.exit_code == OUT_OF_TIME or reading.exit_code is None:
        return f": reading it takes more than {limits.cpu_s} s of processor time, or {limits.wall_s:g} s in all"
    if reading.exit_code == OUT_OF_MEMORY:
        return f": reading it takes more than {limits.memory_mb} MB of memory, or too deep a nesting"
    return ""


def _remarks(facts: Mapping[str, Any], texts: Mapping[int, str]) -> Iterator[str]:
    names = sorted({_harmless(str(name))[:40] for name in facts.get("actions", [])})
    if names:
        yield f"the PDF carries more than pages: {', '.join(names)}; open it in a viewer that runs no scripts"
    pages = facts.get("pages") or 0
    read = min(pages, MAX_PAGES_READ)
    if len(texts) < read:
        yield f"the text of {len(texts)} of its {pages:,} pages could be read; the next one broke the reader off"
    elif pages > MAX_PAGES_READ:
        yield f"of its {pages:,} pages the first {MAX_PAGES_READ} were read"
    elif "actions" not in facts and pages:
        yield "whether the PDF carries scripts or files could not be found out"


def _finding(
    size: int,
    facts: Mapping[str, Any],
    problems: list[str],
    texts: Mapping[int, str] | None = None,
    remarks: Iterable[str] = (),
) -> ReportFinding:
    texts = texts or {}
    return ReportFinding(
        size_bytes=size,
        pages=facts.get("pages"),
        characters=_count(texts),
        opening=" ".join(text for _, text in sorted(texts.items()))[:_OPENING],
        mentions=mentions(texts),
        remarks=tuple(remarks),
        problems=tuple(problems),
    )
